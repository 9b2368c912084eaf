"""What a heartbeat costs a busy loop, beside what else watches loops, and how fast a simulation runs with one."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from asyncsandbox import Sandbox
from asyncsandbox.components.heartbeat import HeartbeatSettings, SchedulerHeartbeat
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.world import world

SWITCHES = 200_000
TASKS = 10
ROUNDS = 7
BEATS = 50_000
HOURS = 20

Row = tuple[str, float, str]
Watch = Callable[[], Any]


async def be_busy() -> float:
    """Switch between tasks that compute a little; return how long that took."""

    async def work() -> None:
        for _ in range(SWITCHES // TASKS):
            sum(range(100))
            await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return time.perf_counter() - began


@contextmanager
def debugging() -> Iterator[None]:
    """Switch on asyncio's own slow-callback report."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    try:
        yield
    finally:
        loop.set_debug(False)


@contextmanager
def aiodebugging() -> Iterator[None]:
    """Have aiodebug time every callback."""
    from aiodebug import log_slow_callbacks  # type: ignore[import-not-found,unused-ignore]

    original = asyncio.events.Handle._run  # noqa: SLF001 - what aiodebug replaces
    log_slow_callbacks.enable(0.1)
    try:
        yield
    finally:
        asyncio.events.Handle._run = original  # type: ignore[method-assign]  # noqa: SLF001 - as above


async def busy_with(watch: Watch) -> float:
    """Return how long the load takes while something watches."""
    watching = watch()
    if hasattr(watching, "__aenter__"):
        async with watching:
            await asyncio.sleep(0.01)
            return await be_busy()
    with watching:
        return await be_busy()


def measure_overhead(watches: dict[str, Watch]) -> dict[str, float]:
    """Return time with each / time without, each the best of rounds taken in turn."""
    best = dict.fromkeys(("", *watches), float("inf"))
    for _ in range(ROUNDS):
        for name, watch in {"": nullcontext, **watches}.items():
            best[name] = min(best[name], asyncio.run(busy_with(watch)))
    return {name: best[name] / best[""] for name in watches}


async def measure_beat() -> float:
    """Return time of a beat, one name of a thousand expected / time of a plain await that suspends."""
    async with SchedulerHeartbeat() as heartbeat:
        for number in range(1000):
            heartbeat.expect(f"n{number}", expect_every_seconds=60)
        ours, theirs = [], []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(BEATS):
                heartbeat.beat("n500")
            between = time.perf_counter()
            for _ in range(BEATS):
                await asyncio.sleep(0)
            ours.append(between - began)
            theirs.append(time.perf_counter() - between)
        return min(ours) / min(theirs)


async def live(settings: HeartbeatSettings | None, *, beating: bool) -> None:
    """Let a whole sandbox live for some hours."""
    async with Sandbox(heartbeat=settings) as sandbox:
        heartbeat = sandbox.heartbeat
        heartbeat.expect("main", expect_every_seconds=1, grace_seconds=1 if beating else 1e6)
        for _ in range(HOURS * 3600 if beating else 1):
            heartbeat.beat("main")
            await asyncio.sleep(1 if beating else HOURS * 3600)


def simulated_hours_per_second(settings: HeartbeatSettings | None, *, beating: bool) -> float:
    """Return how many virtual hours pass in a real second, the best of some rounds."""
    best = float("inf")
    for _ in range(3):
        loop = SimLoop(record=False, max_steps=10**7)
        with world(loop):
            began = time.perf_counter()
            loop.run(live(settings, beating=beating))
            best = min(best, time.perf_counter() - began)
    return HOURS / best


def run() -> list[Row]:
    """Return label, value and goal of each measurement."""
    watches: dict[str, Watch] = {"heartbeat": SchedulerHeartbeat, "asyncio debug mode": debugging}
    if find_spec("aiodebug"):
        watches["aiodebug 0.1 s"] = aiodebugging
    ratios = measure_overhead(watches)
    rows: list[Row] = [
        (f"{name}: a busy loop, x without", ratio, "<= 1.05" if name == "heartbeat" else "peer")
        for name, ratio in ratios.items()
    ]
    rows += [] if "aiodebug 0.1 s" in ratios else [("aiodebug: not installed", float("inf"), "peer")]
    ticking = HeartbeatSettings(watchdog=True, tick_seconds=1)
    return [
        *rows,
        ("a beat, 1,000 names expected, x asyncio.sleep(0)", asyncio.run(measure_beat()), "<= 2"),
        (
            "simulated hours/s, Sandbox, a beat per second",
            simulated_hours_per_second(None, beating=True),
            ">= 20",
        ),
        (
            "simulated hours/s, Sandbox, a tick per second",
            simulated_hours_per_second(ticking, beating=False),
            ">= 20",
        ),
    ]


if __name__ == "__main__":
    for label, value, goal in run():
        print(f"{label:52} {value:8.3f}   goal {goal}")
