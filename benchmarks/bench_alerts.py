"""One alert to 10 subscribers: published by the alert system, and called one by one by `asyncio.gather` and pyee.

Publishing is what the publisher pays; the rows with deliveries add what the loop does afterwards, until all ten
callbacks have returned.
"""

import asyncio
import functools
import gc
import importlib.util
import time
from collections.abc import Awaitable, Callable

from asyncsandbox.components.alerts import AlertSettings, AlertSystem

SUBSCRIBERS = 10
CALLS = 200
ROUNDS = 40

Contender = Callable[[], Awaitable[object]]


async def hear(_alert: object) -> None:
    """Take an alert as a subscriber does that has nothing to wait for."""


async def by_gather() -> None:
    await asyncio.gather(*(hear("x") for _ in range(SUBSCRIBERS)))


def make_pyee() -> Contender | None:
    """Return a call that emits to ten coroutine functions and waits for them, where pyee is installed."""
    if importlib.util.find_spec("pyee") is None:
        return None
    from pyee.asyncio import AsyncIOEventEmitter  # type: ignore[import-not-found,unused-ignore]

    emitter = AsyncIOEventEmitter()
    for _ in range(SUBSCRIBERS):
        emitter.add_listener("alert", functools.partial(hear))  # pyee keeps a function once

    async def by_pyee() -> None:
        emitter.emit("alert", "x")
        await emitter.wait_for_complete()

    return by_pyee


async def time_calls(call: Contender) -> float:
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    for _ in range(CALLS):
        await call()
    took = time.perf_counter() - began
    gc.enable()
    return took / CALLS


def make_system(**settings: float) -> AlertSystem:
    system = AlertSystem(settings=AlertSettings(**settings))  # type: ignore[arg-type]
    for _ in range(SUBSCRIBERS):
        system.subscribe("info", hear)
    return system


async def measure() -> dict[str, float]:
    """Return seconds per alert of each contender, each the best of its rounds, taken in turn."""
    told_every_time, told_once = make_system(repeat_seconds=0, max_queued=100_000), make_system()
    numbers = iter(range(10**9))

    async def publish() -> None:
        await told_every_time.alert("payment", "Insufficient funds")

    async def publish_new() -> None:
        await told_every_time.alert("payment", f"Order {next(numbers)}", context={"amount": 100})

    async def repeat() -> None:
        await told_once.alert("payment", "Insufficient funds")

    async def publish_and_deliver() -> None:
        before = told_every_time._audience  # noqa: SLF001 - to know when the last has been told
        await told_every_time.alert("payment", "Insufficient funds")
        while any(subscriber.queued for subscriber in before):  # noqa: ASYNC110 - an event would be timed too
            await asyncio.sleep(0)

    contenders = {
        "gather": by_gather,
        "publish": publish,
        "publish new": publish_new,
        "repeat": repeat,
        "deliver": publish_and_deliver,
    }
    if (by_pyee := make_pyee()) is not None:
        contenders["pyee"] = by_pyee
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            best[name] = min(best[name], await time_calls(call))
            await asyncio.sleep(0)
            await told_every_time._audience.drain(60)  # noqa: SLF001 - outside the time that is taken
    return best


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio to gather and goal of each measurement."""
    took = asyncio.run(measure())
    rows = [
        ("publish to 10 subscribers, x gather", "publish", "<= 0.1"),
        ("the same, a new message with context each time, x gather", "publish new", ""),
        ("raise again what was told already, x gather", "repeat", ""),
        ("publish and deliver one at a time, x gather", "deliver", ""),
        ("pyee, x gather", "pyee", "peer"),
    ]
    found = [(label, took[name] / took["gather"], goal) for label, name, goal in rows if name in took]
    return found if "pyee" in took else [*found, ("pyee is not installed", 0.0, "absent")]


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:60} {ratio:6.3f}   goal {goal}")
