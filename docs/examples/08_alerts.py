"""Tell people what they should know, once, without letting them get in the way.

$ python 08_alerts.py
on call: [critical] payment: the provider is down
everyone: 3 alerts, payment and stock
history: warning Insufficient funds, critical the provider is down
40 times: 1 alert, count 40
a subscriber that fails: dropped 1, the others unharmed: True
"""

import asyncio

from asyncsandbox import Alert, AlertSystem

told: list[Alert] = []


async def call_somebody(alert: Alert) -> None:
    print(f"on call: [{alert.severity}] {alert.task_name}: {alert.message}")


async def note(alert: Alert) -> None:
    told.append(alert)


def fail(alert: Alert) -> None:  # a plain function runs in a thread
    raise OSError("no network")


async def main() -> None:
    async with AlertSystem() as alerts:
        alerts.subscribe("critical", call_somebody)
        alerts.subscribe("*", note)
        alerts.subscribe("stock", fail)
        await alerts.alert("payment", "Insufficient funds", severity="warning", context={"amount": 100})
        await alerts.alert("payment", "the provider is down", severity="critical")
        for order in range(40):
            await alerts.alert("stock", f"order {order} cannot be served", fingerprint="empty shelf")

    print(f"everyone: {len(told)} alerts,", " and ".join(sorted({alert.task_name for alert in told})))
    payment = alerts.get_alerts(task_name="payment")
    print("history:", ", ".join(f"{alert.severity} {alert.message}" for alert in payment))
    (stock,) = alerts.get_alerts(task_name="stock")
    print(f"40 times: 1 alert, count {stock.count}")
    *_, failing = alerts.get_status().subscribers
    print(f"a subscriber that fails: dropped {failing.dropped}, the others unharmed: {len(told) == 3}")


if __name__ == "__main__":
    asyncio.run(main())
