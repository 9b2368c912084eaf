"""Limits that hold in any window, for everybody together, per user, or by how many run at the same time.

$ python 07_governor.py
payments: True True False
denied: limit 'payment' denies the call: 2 of 2 per 3600 s are used; try again in 3600 s, or wait with governor.permit()
per user: Ada True, Ada False, Grace True
at most 2 of 6 at the same time: 2
waited in line: 3 in 2 windows or more
forecast: 340 calls of 20 a minute take at least 960 s
"""

import asyncio

from asyncsandbox import GovernorEnforcer

now_running: set[int] = set()
at_the_same_time: list[int] = []


async def main() -> None:
    governor = GovernorEnforcer()
    governor.set_limit("payment", 2, 3600)
    decisions = [await governor.check_limit("payment") for _ in range(3)]
    print("payments:", *(decision.allowed for decision in decisions))
    _, message = decisions[-1]
    print("denied:", message)

    governor.set_limit("search", 1, 60, per="user")
    asked = [(user, await governor.check_limit("search", per=user)) for user in ("Ada", "Ada", "Grace")]
    print("per user:", ", ".join(f"{user} {decision.allowed}" for user, decision in asked))

    governor.set_limit("database", max_concurrent=2)

    @governor.limited("database")
    async def query(number: int) -> None:
        now_running.add(number)
        at_the_same_time.append(len(now_running))
        await asyncio.sleep(0.005)
        now_running.remove(number)

    await asyncio.gather(*map(query, range(6)))
    print("at most 2 of 6 at the same time:", max(at_the_same_time))

    governor.set_limit("api", 2, 0.04)
    waits = []
    for _ in range(3):
        async with governor.permit("api") as permit:
            waits.append(permit.waited_seconds)
    print(f"waited in line: {len(waits)} in {1 + sum(wait > 0 for wait in waits)} windows or more")

    governor.set_limit("mail", 20, 60)
    seconds = governor.forecast_seconds({("mail", None): 340})
    print(f"forecast: 340 calls of 20 a minute take at least {seconds:.0f} s")


if __name__ == "__main__":
    asyncio.run(main())
