"""What a repeated call costs, in plain awaits of the function itself, beside caches and idempotency libraries.

Only ours and Powertools compare what the key is called with; only ours hands out results that nobody else can change.
"""

import asyncio
import math
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from asyncsandbox.components.idempotency import IdempotencyManager

CALLS = 1_000
ROUNDS = 15
Measured = Callable[[int], Awaitable[None]]


async def pay(invoice: str, _amount: float = 1.0) -> str:
    """Do next to nothing, so that a ratio shows the cost of what stands around it."""
    return invoice


async def receive(_order: dict[str, int]) -> dict[str, object]:
    """Return what a caller could change."""
    return {"id": 17, "paid": True, "lines": ["a", "b"]}


async def plain(calls: int) -> None:
    """Call the function itself."""
    for _ in range(calls):
        await pay("inv-17")


class Ours:
    """Loops over calls that hit, by the way they are made, and over calls that miss."""

    def __init__(self) -> None:
        self.manager = IdempotencyManager()
        # Equal to what was given first, and other objects, as in a second request.
        self.invoice, self.amount = f"inv-{CALLS}", float(CALLS)
        self.once = self.manager.idempotent(key=lambda invoice: invoice)(pay)
        self.missed = 0

    async def _one(self, calls: int) -> None:
        process, invoice = self.manager.process_idempotent, self.invoice
        for _ in range(calls):
            await process("one", pay, invoice)

    async def _two(self, calls: int) -> None:
        process, invoice, amount = self.manager.process_idempotent, self.invoice, self.amount
        for _ in range(calls):
            await process("two", pay, invoice, amount)

    async def _keyword(self, calls: int) -> None:
        process, invoice, amount = self.manager.process_idempotent, self.invoice, self.amount
        for _ in range(calls):
            await process("keyword", pay, invoice, _amount=amount)

    async def _decorated(self, calls: int) -> None:
        for _ in range(calls):
            await self.once(self.invoice)

    async def _changeable(self, calls: int) -> None:
        process = self.manager.process_idempotent
        for _ in range(calls):
            await process("changeable", receive, {"order": 17})

    async def _miss(self, calls: int) -> None:
        process, invoice = self.manager.process_idempotent, self.invoice
        for _ in range(calls):
            self.missed += 1
            await process(f"miss {self.missed}", pay, invoice)

    def get_ways(self) -> dict[str, Measured]:
        """Return the loops by name."""
        return {
            "hit, 1 argument": self._one,
            "hit, 2 arguments": self._two,
            "hit, by keyword": self._keyword,
            "hit, decorated": self._decorated,
            "hit, dict in and copied dict out": self._changeable,
            "miss": self._miss,
        }


async def async_lru() -> Measured:
    """Return a loop over hits of `alru_cache`, which knows no keys and compares no payload."""
    from async_lru import alru_cache

    cached = alru_cache(maxsize=1_000, ttl=3600)(pay)

    async def hits(calls: int) -> None:
        for _ in range(calls):
            await cached("inv-17")

    return hits


async def aiocache() -> Measured:
    """Return a loop over hits of `aiocache.cached` in memory."""
    from aiocache import cached

    kept = cached(ttl=3600)(pay)

    async def hits(calls: int) -> None:
        for _ in range(calls):
            await kept("inv-17")

    return hits


async def cashews() -> Measured:
    """Return a loop over hits of `cashews` in memory."""
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", check_interval=0)
    kept = cache(ttl="1h", key="pay:{invoice}")(pay)

    async def hits(calls: int) -> None:
        for _ in range(calls):
            await kept("inv-17")

    return hits


async def powertools() -> Measured:
    """Return a loop over hits of Powertools, which takes no coroutine function and brings no memory of its own."""
    from aws_lambda_powertools.utilities.idempotency import idempotent_function
    from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyItemAlreadyExistsError
    from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer

    class Dictionary(BasePersistenceLayer):
        rows: dict[str, Any]

        def _get_record(self, idempotency_key: str) -> Any:
            return self.rows[idempotency_key]

        def _put_record(self, data_record: Any) -> None:
            known = self.rows.setdefault(data_record.idempotency_key, data_record)
            if known is not data_record:
                raise IdempotencyItemAlreadyExistsError(old_data_record=known)

        def _update_record(self, data_record: Any) -> None:
            self.rows[data_record.idempotency_key] = data_record

        def _delete_record(self, data_record: Any) -> None:
            self.rows.pop(data_record.idempotency_key, None)

    warnings.filterwarnings("ignore", message="Couldn't determine the remaining time left")
    layer = Dictionary()
    layer.rows = {}
    kept = idempotent_function(data_keyword_argument="invoice", persistence_store=layer)(
        lambda invoice: f"{invoice} paid"
    )

    async def hits(calls: int) -> None:
        for _ in range(calls):
            kept(invoice="inv-17")

    return hits


PEERS = (async_lru, aiocache, cashews, powertools)
SLOW = 50  # so many times fewer calls are made of what takes microseconds


async def seconds_per_call(measured: Measured, calls: int) -> float:
    began = time.perf_counter()
    await measured(calls)
    return (time.perf_counter() - began) / calls


async def measure() -> list[tuple[str, float, str]]:
    """Return each way's cost in plain awaits, the best of its rounds, taken in turn."""
    ways: dict[str, tuple[Measured, str, int]] = {"plain": (plain, "", CALLS)}
    for label, measured in Ours().get_ways().items():
        goal = "<= 4" if label == "hit, 1 argument" else "-"
        ways[label] = (measured, goal, CALLS // SLOW if label == "miss" else CALLS)
    absent = []
    for peer in PEERS:
        try:
            ways[peer.__name__] = (await peer(), "peer", CALLS // SLOW)
        except ImportError:
            absent.append((f"{peer.__name__}, not installed", math.nan, "peer"))
    best = dict.fromkeys(ways, math.inf)
    for measured, _, _ in ways.values():
        await measured(2)
    for _ in range(ROUNDS):
        for label, (measured, _, calls) in ways.items():
            best[label] = min(best[label], await seconds_per_call(measured, calls))
    rows = [(f"{label}, x a plain await", best[label] / best["plain"], goal) for label, (_, goal, _) in ways.items()]
    return rows[1:] + absent


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement."""
    return asyncio.run(measure())


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:50} {ratio:8.2f}   goal {goal}")
