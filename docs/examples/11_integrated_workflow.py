"""A shop takes orders: every component at work, first as a rehearsal, then for real.

$ python 11_integrated_workflow.py
rehearsal: card.charge[order-1] 49.90, card.charge[order-2] 12.00, mail.receipt[order-1], mail.receipt[order-2]
sent so far: 0
GO
order-1 paid with ch_order-1 at attempt 2
alert: [warning] order: order-2 was refused
order-2 refused: card declined
the second click: ch_order-1, charged once: True
mails: receipt for order-1
rows: order-1
one request: request, retry.scheduled, action.done, order_paid, action.done
ledger: card.charge done, card.charge rejected, mail.receipt done
"""

import asyncio
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from asyncsandbox import (
    FILLED_IN,
    Alert,
    AlertSettings,
    GovernorSettings,
    Limit,
    LogSettings,
    MemorySink,
    RetrySettings,
    Sandbox,
    current_sandbox,
    irreversible,
    job,
)

ORDERS = [("order-1", Decimal("49.90"), "visa"), ("order-2", Decimal("12.00"), "expired")]
charges: list[str] = []
mails: list[str] = []


class CardDeclinedError(Exception):
    pass


@irreversible(
    "card.charge",
    key=lambda order: order,
    amount=lambda total: total,
    limit="card.charge",
    retry=RetrySettings(max_retries=2, backoff_base_seconds=0.005),
    rejected=(CardDeclinedError,),
    not_delivered=(ConnectionError,),
    redact=("card",),
)
async def charge(order: str, total: Decimal, card: str, *, idempotency_key: str = FILLED_IN) -> str:
    if card == "expired":
        raise CardDeclinedError("card declined")
    charges.append(idempotency_key)
    if len(charges) == 1:
        raise ConnectionError("the first connection is refused")
    return f"ch_{order}"


@job("mail.receipt", max_retries=3)
@irreversible("mail.receipt", key=lambda order: order)
async def send_receipt(order: str, charge_id: str) -> None:
    mails.append(f"receipt for {order}")


async def take_order(order: str, total: Decimal, card: str) -> str:
    sandbox = current_sandbox()
    sandbox.logger.log_request("/orders", "POST", order=order)
    try:
        charge_id = await charge(order, total, card)
    except CardDeclinedError:
        await sandbox.alerts.alert("order", f"{order} was refused")
        raise
    async with sandbox.database.get_session() as session, session.begin():
        await session.execute(text("INSERT INTO paid VALUES (:order, :charge)"), {"order": order, "charge": charge_id})
    await sandbox.worker.submit_job("mail.receipt", send_receipt, order, charge_id)
    sandbox.logger.log_action("order_paid", order=order)
    return charge_id


async def click(order: str, total: Decimal, card: str) -> str:
    """Take an order once, however often somebody clicks."""
    return await current_sandbox().idempotency_manager.process_idempotent(order, take_order, order, total, card)


async def take_all(sandbox: Sandbox) -> None:
    async with sandbox.database.get_session() as session, session.begin():
        await session.execute(text("CREATE TABLE paid (name TEXT PRIMARY KEY, charge TEXT)"))
    for order, total, card in ORDERS:
        try:
            charge_id = await click(order, total, card)
        except CardDeclinedError as error:
            print(f"{order} refused: {error}")
        else:
            if not sandbox.dry_run:
                (record,) = sandbox.get_actions(name="card.charge", key=order)
                print(f"{order} paid with {charge_id} at attempt {record.attempts}")


def make_sandbox(*, dry_run: bool, log: MemorySink, store: Path | None = None) -> Sandbox:
    return Sandbox(
        dry_run=dry_run,
        store=store,
        use_memory_db=True,
        actions=(charge, send_receipt),
        alerts=AlertSettings(rules=()),
        governor=GovernorSettings(limits={"card.charge": Limit(100, 60)}),
        logger=LogSettings(sinks=(log,)),
    )


async def show(alert: Alert) -> None:
    print(f"alert: [{alert.severity}] {alert.task_name}: {alert.message}")


async def main() -> None:
    async with make_sandbox(dry_run=True, log=MemorySink()) as sandbox:
        plan = await sandbox.rehearse(take_all)
    planned = sorted(f"{action.action}[{action.key}] {action.amount or ''}".strip() for action in plan.actions)
    print("rehearsal:", ", ".join(planned))
    print("sent so far:", len(charges) + len(mails))

    log = MemorySink()
    with TemporaryDirectory() as folder:
        await run_live(log, Path(folder) / "store.sqlite")


async def run_live(log: MemorySink, store: Path) -> None:
    async with make_sandbox(dry_run=False, log=log, store=store) as sandbox:
        sandbox.alerts.subscribe("*", show)
        print((await sandbox.readiness.run_all_checks()).verdict)
        await take_all(sandbox)
        again = await click(*ORDERS[0])
        print(f"the second click: {again}, charged once: {len(set(charges)) == 1}")
        await sandbox.worker.drain()
        print("mails:", *mails)
        async with sandbox.database.get_session() as session:
            print("rows:", *await session.scalars(text("SELECT name FROM paid")))
        request = next(line for line in log.get_lines() if line["event"] == "request")
        of_request = log.get_lines(correlation_id=request["correlation_id"])
        print("one request:", ", ".join(line["event"] for line in of_request))
        print("ledger:", ", ".join(sorted(f"{record.action} {record.state}" for record in sandbox.get_actions())))


if __name__ == "__main__":
    asyncio.run(main())
