"""What type checkers see of idempotent calls: checked by mypy --strict and pyright strict, never run."""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from asyncsandbox.components.idempotency import (
    IdempotencyManager,
    IdempotencyRecord,
    IdempotencyRecords,
    IdempotencySettings,
    IdempotencyStatus,
    InMemoryIdempotencyRecords,
    OnUnknown,
)

idempotency = IdempotencyManager(
    settings=IdempotencySettings(ttl_seconds=60, release_on=(ConnectionError,), on_unknown=OnUnknown.RERUN),
    records=InMemoryIdempotencyRecords(max_records=10),
)


async def charge(invoice: str, amount: int = 1, *, currency: str = "EUR") -> float:
    return amount * len(invoice + currency)


def write(name: str, pages: int = 1) -> bytes:
    return name.encode() * pages


@idempotency.idempotent(key=lambda invoice: invoice, release_on=TimeoutError, ttl_seconds=5)
async def charge_once(invoice: str, *, currency: str = "EUR") -> float:
    return len(invoice + currency)


@idempotency.idempotent(key=lambda name: name, facts=lambda pages: pages, verify=lambda name: None)
def write_once(name: str, pages: int = 1) -> bytes:
    return name.encode() * pages


class Shop:
    @idempotency.idempotent(key=lambda order: order, on_unknown="manual")
    async def close(self, order: str) -> int:
        return len(order)


async def right() -> None:
    assert_type(await idempotency.process_idempotent("k", charge, "inv-1"), float)
    assert_type(await idempotency.process_idempotent("k", charge, "inv-1", 2, currency="USD"), float)
    assert_type(await idempotency.process_idempotent("k", write, "a", pages=2), bytes)
    assert_type(await charge_once("inv-1", currency="USD"), float)
    assert_type(await write_once("a", pages=2), bytes)
    assert_type(await Shop().close("o"), int)
    assert_type(await idempotency.is_duplicate("k"), bool)
    assert_type(await idempotency.clear_expired(), int)
    assert_type(idempotency.get_status(), IdempotencyStatus)
    await idempotency.resolve("k", happened=True, result=1.5)
    await idempotency.get_cached_result("k", "nothing")

    keeps_parameters: Callable[[str], Coroutine[Any, Any, float]] = charge_once
    await keeps_parameters("inv-1")

    records: IdempotencyRecords = InMemoryIdempotencyRecords()
    assert_type(await records.get("k"), IdempotencyRecord | None)


async def wrong() -> None:
    await idempotency.process_idempotent("k", charge)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await idempotency.process_idempotent("k", charge, 17)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue,reportArgumentType]
    await idempotency.process_idempotent(17, charge, "a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue,reportArgumentType]
    await charge_once(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge_once("inv-1", total=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    charge_once("inv-1")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    idempotency.idempotent(key="invoice")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    idempotency.idempotent(key=str, ttl=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotency.idempotent(key=str, release_on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await idempotency.resolve("k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    IdempotencySettings(3.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
