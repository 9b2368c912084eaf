"""Nothing irreversible happens while the dry-run lock is on; what would have happened is a plan.

$ python 02_dry_run_locks.py
held back: payment planned
one by one: paid 100
plan: card.charge[inv-17] 49.90, mail.receipt[inv-17]
sent: nothing
for real: ch_inv-17, 1 mail
"""

import asyncio
from decimal import Decimal

from asyncsandbox import DryRunLock, Sandbox, irreversible

outbox: list[str] = []


def pay(amount: int) -> str:
    return f"paid {amount}"


@irreversible("card.charge", key=lambda invoice: invoice, amount=lambda total: total)
async def charge(invoice: str, total: Decimal) -> str:
    return f"ch_{invoice}"


@irreversible("mail.receipt", key=lambda invoice: invoice)
async def send_receipt(invoice: str, charge_id: str) -> None:
    outbox.append(f"{invoice}: thank you, your charge is {charge_id}")


async def bill(invoice: str) -> str:
    charge_id = await charge(invoice, Decimal("49.90"))
    await send_receipt(invoice, charge_id)  # in a dry run the id is a token, known only after apply
    return charge_id


async def main() -> None:
    # Any callable, without a decorator:
    lock = DryRunLock(dry_run=True)
    await lock.execute("payment", pay, 100)
    print("held back:", *(f"{record.action} {record.state}" for record in lock.get_execution_log("payment")))
    print("one by one:", await DryRunLock(dry_run=False).execute("payment", pay, 100))

    # A whole program:
    async with Sandbox(dry_run=True) as rehearsal:
        plan = await rehearsal.rehearse(bill, "inv-17")
    shown = (f"{action.action}[{action.key}] {action.amount or ''}".strip() for action in plan.actions)
    print("plan:", ", ".join(shown))
    print("sent:", ", ".join(outbox) or "nothing")

    async with Sandbox(dry_run=False):
        print(f"for real: {await bill('inv-17')}, {len(outbox)} mail")


if __name__ == "__main__":
    asyncio.run(main())
