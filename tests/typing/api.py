"""What type checkers see of actions: checked by mypy --strict and pyright strict, never run."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, assert_type

from asyncsandbox import FILLED_IN, DryRunLock, RetrySettings, irreversible, read_only, reversible


@dataclass
class Charge:
    id: str


@irreversible("card.charge", key=lambda invoice: invoice, redact=("card_token",), rejected=(ValueError,))
async def charge(invoice: str, *, card_token: str, idempotency_key: str = FILLED_IN) -> Charge:
    return Charge(invoice)


@irreversible(
    "sms.send",
    key=lambda to: to,
    limit="sms",
    limit_per=lambda to: to,
    retry=RetrySettings(max_retries=5),
    resend_within_seconds=60,
)
async def sms(to: str, *, idempotency_key: str = FILLED_IN) -> int:
    return len(to)


@irreversible("report.write")
def write(name: str, pages: int = 1) -> bytes:
    return name.encode() * pages


@reversible("stock.reserve", undo=lambda item, result: None, key=lambda item: item)
async def reserve(item: int, /, *tags: str, **more: float) -> None: ...


@read_only("fx.rate")
async def rate(currency: str) -> float:
    return 1.0


class Shop:
    @irreversible("shop.close")
    async def close(self, reason: str) -> int:
        return len(reason)


async def right() -> None:
    assert_type(await charge("inv-1", card_token="t"), Charge)
    assert_type(await charge("inv-1", card_token="t", idempotency_key="mine"), Charge)
    assert_type(await sms("+49"), int)
    assert_type(await write("a", pages=2), bytes)
    assert_type(await rate("EUR"), float)
    assert_type(await Shop().close("late"), int)
    await reserve(1, "a", "b", weight=1.5)

    task = asyncio.create_task(charge("inv-1", card_token="t"))
    assert_type(await task, Charge)
    async with asyncio.TaskGroup() as group:
        grouped = group.create_task(write("a"))
    assert_type(grouped.result(), bytes)
    assert_type(await asyncio.wait_for(rate("EUR"), 1), float)

    keeps_parameters: Callable[[str], Coroutine[Any, Any, float]] = rate
    await keeps_parameters("EUR")
    await DryRunLock(dry_run=True).execute("payment", write, "a", pages=1)


async def wrong() -> None:
    await charge("inv-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge(17, card_token="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge("inv-1", card_token="t", total=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge("inv-1", "t")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await write("a", pages="two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await reserve(item=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    charge("inv-1", card_token="t")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    write("a")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    (await rate("EUR")).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]


def declared_wrongly() -> None:
    irreversible("card.charge", "key")  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    irreversible("card.charge", key="invoice")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    irreversible("card.charge", rejected=(KeyboardInterrupt,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    irreversible("card.charge", retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    irreversible("card.charge", undo=print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    reversible("stock.reserve")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    read_only("fx.rate", key=repr)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
