"""What an action costs with a store: against the bare writes it makes on the same disk, and against memory."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from asyncsandbox import Migration, Operation, Sandbox, Schema, irreversible, open_store

CALLERS = 256
CALLS = 4
ROUNDS = 5

PUT = Operation("bench.put", "INSERT INTO sandbox_bench (ns, key, value) VALUES (:ns, :key, :value)")
SET = Operation("bench.set", "UPDATE sandbox_bench SET value = :value WHERE ns = :ns AND key = :key")
GET = Operation("bench.get", "SELECT value FROM sandbox_bench WHERE ns = :ns AND key = :key")
BENCH = Schema(
    name="bench",
    tables=("sandbox_bench",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_bench (ns TEXT NOT NULL, key TEXT NOT NULL, value TEXT, PRIMARY KEY (ns, key))"
        ),
    ),
    operations=(PUT, SET, GET),
)


@irreversible("card.charge", key=lambda key: key)
async def charge(key: str) -> str:
    """Suspend once, as a call of a provider does at least."""
    await asyncio.sleep(0)
    return key


async def calls_per_second(call: Callable[[str], Awaitable[Any]], callers: int) -> float:
    async def caller(number: int) -> None:
        for each in range(CALLS):
            await call(f"{number}-{each}")

    began = time.perf_counter()
    await asyncio.gather(*map(caller, range(callers)))
    return callers * CALLS / (time.perf_counter() - began)


async def bare(folder: Path, callers: int) -> float:
    """Return how often a second one read and two writes can be made, of rows as large as a call's."""
    async with open_store(folder / "bare.sqlite") as store:
        await store.attach(BENCH)

        async def call(key: str) -> None:
            await store.read(GET, key=key)
            await store.write(PUT, key=key, value="x" * 600)
            await store.write(SET, key=key, value="y" * 600)

        return await calls_per_second(call, callers)


async def durable(store: Any, callers: int, *, again: bool = False) -> float:
    async with Sandbox(dry_run=False, store=store):
        first = await calls_per_second(charge, callers)
        return await calls_per_second(charge, callers) if again else first


def best(measure: Callable[[Path], Awaitable[float]]) -> float:
    async def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return await measure(Path(folder))

    return asyncio.run(once())


def run() -> list[tuple[str, float, str]]:
    """Return label, value and goal of each measurement."""
    found: dict[str, list[float]] = {name: [] for name in ("bare", "durable", "again", "lone bare", "lone", "memory")}
    for _ in range(ROUNDS):
        found["bare"].append(best(lambda folder: bare(folder, CALLERS)))
        found["durable"].append(best(lambda folder: durable(folder / "store.sqlite", CALLERS)))
        found["again"].append(best(lambda folder: durable(folder / "store.sqlite", CALLERS, again=True)))
        found["lone bare"].append(best(lambda folder: bare(folder, 1)))
        found["lone"].append(best(lambda folder: durable(folder / "store.sqlite", 1)))
        found["memory"].append(best(lambda _folder: durable(None, CALLERS)))
    top = {name: max(values) for name, values in found.items()}
    return [
        (f"durable actions, {CALLERS} callers, of bare writes", top["durable"] / top["bare"], ">= 0.15"),
        ("one durable action at a time, of bare writes", top["lone"] / top["lone bare"], ">= 0.3"),
        ("durable actions a second", top["durable"], "told"),
        ("actions that are DONE already, a second", top["again"], "told"),
        ("actions in memory, a second", top["memory"], "told"),
    ]


if __name__ == "__main__":
    for label, value, goal in run():
        print(f"{label:50} {value:10.2f}   goal {goal}")
