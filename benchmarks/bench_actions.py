"""What an action costs: against its bare body, held back, and recorded ten thousand times."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import bound_host, register_host, unregister_host
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.runtime import Runtime
from asyncsandbox.actions import irreversible
from asyncsandbox.components.dry_run import DryRunLock

CALLS = 2_000
ROUNDS = 9
RECORDED = 10_000


async def body(key: int) -> int:
    """Suspend once, as a call of a provider does at least."""
    await asyncio.sleep(0)
    return key


charge = irreversible("card.charge", key=lambda key: key)(body)


async def seconds_per_call(call: Callable[[int], Awaitable[Any]], calls: int = CALLS) -> float:
    began = time.perf_counter()
    for key in range(calls):
        await call(key)
    return (time.perf_counter() - began) / calls


async def in_sandbox(*, dry_run: bool, calls: int = CALLS) -> float:
    """Return seconds per call of the action in a fresh runtime, with no log sink."""
    clock = SystemClock()
    runtime = Runtime(
        gate=DryRunLock(dry_run), ledger=Ledger(clock), journal=Journal(clock), clock=clock, dry_run=dry_run
    )
    register_host(runtime)
    try:
        with bound_host(runtime):
            return await seconds_per_call(charge, calls)
    finally:
        unregister_host(runtime)


async def measure() -> tuple[float, float, float]:
    """Return live / bare, microseconds held back, and milliseconds for recording; each the best of its rounds."""
    bare, live, held = [], [], []
    for _ in range(ROUNDS):
        bare.append(await seconds_per_call(body))
        live.append(await in_sandbox(dry_run=False))
        held.append(await in_sandbox(dry_run=True))
    recorded = min([await in_sandbox(dry_run=True, calls=RECORDED) for _ in range(3)])
    return min(live) / min(bare), min(held) * 1e6, recorded * RECORDED * 1e3


def run() -> list[tuple[str, float, str]]:
    """Return label, value and goal of each measurement."""
    ratio, microseconds, milliseconds = asyncio.run(measure())
    return [
        ("live action in memory, x its bare body", ratio, "<= 13"),
        ("held-back action, us", microseconds, "<= 10"),
        (f"recording {RECORDED:,} actions, ms", milliseconds, "<= 200"),
    ]


if __name__ == "__main__":
    for label, value, goal in run():
        print(f"{label:40} {value:8.2f}   goal {goal}")
