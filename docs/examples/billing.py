"""Bill every unpaid invoice of a shop: charge the card, note the payment, mail a receipt that names the charge.

$ asyncsandbox plan billing.py:main                   a small shop, made up on the spot
$ asyncsandbox plan billing.py:main -- shop.sqlite    a shop of your own
$ python billing.py                                   for real; the provider below only prints
"""

import asyncio
import atexit
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sqlalchemy import text

from asyncsandbox import Sandbox, irreversible

UNPAID = text("""
    SELECT InvoiceId, FirstName, LastName, Email, Total FROM Invoice JOIN Customer USING (CustomerId)
    WHERE InvoiceId NOT IN (SELECT InvoiceId FROM Payment)
""")
PAYMENT = text("INSERT INTO Payment VALUES (:invoice, :charge)")


@dataclass(frozen=True)
class Invoice:
    number: int
    name: str
    email: str
    total: Decimal


@dataclass(frozen=True)
class Charge:
    id: str


@irreversible(
    "card.charge",
    key=lambda invoice: f"inv-{invoice.number}",
    amount=lambda invoice: invoice.total,
    facts=lambda invoice: {"customer": invoice.name, "total": invoice.total},
)
async def charge(invoice: Invoice) -> Charge:
    print(f"provider: {invoice.name} pays {invoice.total}")
    return Charge(id=f"ch_{invoice.number}")


@irreversible(
    "mail.receipt",
    key=lambda invoice: f"inv-{invoice.number}",
    facts=lambda invoice, paid: {"to": invoice.email, "charge": paid.id},
)
async def receipt(invoice: Invoice, paid: Charge) -> None:
    print(f"mail to {invoice.email}: thank you, your charge is {paid.id}")


async def main(database: Path | None = None, *, sandbox: Sandbox) -> None:
    await sandbox.database.use(database or make_small_shop())
    invoices = await get_unpaid(sandbox)
    ten_at_once = asyncio.Semaphore(10)
    async with asyncio.TaskGroup() as group:
        for invoice in invoices:
            group.create_task(bill(invoice, sandbox, ten_at_once))


async def bill(invoice: Invoice, sandbox: Sandbox, limit: asyncio.Semaphore) -> None:
    async with limit:
        paid = await charge(invoice)
        async with sandbox.database.get_session() as session, session.begin():
            await session.execute(PAYMENT, {"invoice": invoice.number, "charge": paid.id})
        await receipt(invoice, paid)


async def get_unpaid(sandbox: Sandbox) -> list[Invoice]:
    async with sandbox.database.get_session() as session, session.begin():
        await session.execute(text("CREATE TABLE IF NOT EXISTS Payment (InvoiceId INTEGER PRIMARY KEY, ChargeId TEXT)"))
        return [
            Invoice(number, f"{first} {last}", email, Decimal(str(total)).quantize(Decimal("0.01")))
            for number, first, last, email, total in await session.execute(UNPAID)
        ]


def make_small_shop() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="small-shop-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "shop.sqlite"
    names = ["Ada Lovelace", "Alan Turing", "Edsger Dijkstra", "Grace Hopper"]
    people = [(number, *name.split(), f"{name.split()[0].lower()}@example.org") for number, name in enumerate(names)]
    totals = [9.9, 4.95, 19.8, 9.9, 4.95, 9.9, 890.1, 4.95, 9.9, 19.8, 9.9, 4.95]
    invoices = [(number, number % len(names), total) for number, total in enumerate(totals, start=1)]
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.execute("CREATE TABLE Customer (CustomerId INTEGER PRIMARY KEY, FirstName, LastName, Email)")
        shop.execute("CREATE TABLE Invoice (InvoiceId INTEGER PRIMARY KEY, CustomerId INTEGER, Total NUMERIC(10,2))")
        shop.executemany("INSERT INTO Customer VALUES (?, ?, ?, ?)", people)
        shop.executemany("INSERT INTO Invoice VALUES (?, ?, ?)", invoices)
    return path


async def bill_for_real() -> None:
    async with Sandbox(dry_run=False) as sandbox:
        await main(*map(Path, sys.argv[1:]), sandbox=sandbox)


if __name__ == "__main__":
    asyncio.run(bill_for_real())
