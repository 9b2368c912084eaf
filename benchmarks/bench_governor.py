"""An allowed check, a queue that is drained, and doing nothing, beside the peers that are installed.

Checks are given in times a plain ``await f()``; with 10,000 keys each call is for another one. The queue is 4,000 tasks
that want 200 permits per 20 ms; what the tasks cost by themselves is a row of its own.
"""

import asyncio
import contextlib
import gc
import importlib.util
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asyncsandbox.components.governor import GovernorEnforcer

ROUNDS = 15
KEYS = [f"user:{number}" for number in range(10_000)]
MANY = 1_000_000
PEER_CALLS = 500
TASKS = 4_000
IDLE_SECONDS = 0.5

Row = tuple[str, float, str]
Loop = Callable[[list[str]], Coroutine[Any, Any, None]]


# ------------------------------------------------------------------ an allowed check


async def plain(key: str) -> str:
    """Do nothing: the floor."""
    return key


async def loop_plain(keys: list[str]) -> None:
    """Await it once for each key."""
    for key in keys:
        await plain(key)


def ours(*, keyed: bool) -> Loop:
    """Check a limit of the governor."""
    governor = GovernorEnforcer()
    governor.set_limit("api", MANY, 3600, per="user" if keyed else None)

    async def one(keys: list[str]) -> None:
        for _ in keys:
            await governor.check_limit("api")

    async def each(keys: list[str]) -> None:
        for key in keys:
            await governor.check_limit("api", per=key)

    return each if keyed else one


def loop_over(call: Callable[[str], Awaitable[object]], *, keyed: bool) -> Loop:
    """Call a peer for each key, or always for the same."""

    async def loop(keys: list[str]) -> None:
        for key in keys:
            await call(key if keyed else "all")

    return loop


def aiolimiter(*, keyed: bool) -> Loop:
    """Acquire of a leaky bucket, one per key."""
    from aiolimiter import AsyncLimiter

    limiters: dict[str, AsyncLimiter] = {}

    def call(key: str) -> Awaitable[object]:
        limiter = limiters.get(key)
        if limiter is None:
            limiter = limiters[key] = AsyncLimiter(MANY, 3600)
        return limiter.acquire()

    return loop_over(call, keyed=keyed)


def limits(*, keyed: bool) -> Loop:
    """Hit a moving window in memory."""
    from limits import RateLimitItemPerHour
    from limits.aio.storage import MemoryStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    limiter, item = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerHour(MANY)
    return loop_over(lambda key: limiter.hit(item, key), keyed=keyed)


def pyrate_limiter(*, keyed: bool) -> Loop:
    """Try to acquire from an exact log, one per key."""
    from pyrate_limiter import BucketFactory, InMemoryBucket, Limiter, Rate, RateItem

    class Buckets(BucketFactory):
        def __init__(self) -> None:
            self._buckets: dict[str, InMemoryBucket] = {}

        def wrap_item(self, name: str, weight: int = 1) -> RateItem:
            return RateItem(name, int(time.monotonic() * 1000), weight=weight)

        def get(self, item: RateItem) -> InMemoryBucket:
            bucket = self._buckets.get(item.name)
            if bucket is None:
                bucket = self._buckets[item.name] = InMemoryBucket([Rate(MANY, 3_600_000)])
            return bucket

    limiter = Limiter(Buckets())
    return loop_over(lambda key: limiter.try_acquire_async(key, blocking=False), keyed=keyed)


def throttled(*, keyed: bool) -> Loop:
    """Limit by GCRA, with a store that holds all keys."""
    from throttled.asyncio import Throttled, per_hour
    from throttled.asyncio.store import MemoryStore

    store = MemoryStore(options={"MAX_SIZE": 10 * len(KEYS)})
    limiter = Throttled(using="gcra", quota=per_hour(MANY, burst=MANY), store=store)
    return loop_over(limiter.limit, keyed=keyed)


PEERS = {"aiolimiter": aiolimiter, "throttled": throttled, "pyrate_limiter": pyrate_limiter, "limits": limits}


async def time_loop(loop: Loop, count: int) -> float:
    """Return seconds per call."""
    keys = KEYS[:count]
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    await loop(keys)
    took = time.perf_counter() - began
    gc.enable()
    return took / count


async def measure_checks(name: str, make: Callable[..., Loop]) -> list[Row]:
    """Return what an allowed check costs, with one key and with 10,000 in turn."""
    loops = {"plain": loop_plain, "1 key": make(keyed=False), "10,000 keys": make(keyed=True)}
    took: dict[str, list[float]] = {which: [] for which in loops}
    for loop in loops.values():
        await time_loop(loop, len(KEYS))  # makes the keys
    for _ in range(ROUNDS):
        for which, loop in loops.items():
            count = len(KEYS) if name == "ours" or which == "plain" else PEER_CALLS
            took[which].append(await time_loop(loop, count))
    best = {which: min(seconds) for which, seconds in took.items()}
    goal = "<= 4" if name == "ours" else "peer"
    rows = [
        (f"allowed, {which}, {name}, x plain await", best[which] / best["plain"], goal)
        for which in ("1 key", "10,000 keys")
    ]
    if name == "ours":
        rows.append(("allowed, 10,000 keys, ours, x 1 key", best["10,000 keys"] / best["1 key"], "<= 1.5"))
    return rows


# ------------------------------------------------------------------ a queue that is drained


async def drain(wait: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Let all tasks wait for a permit."""
    await asyncio.gather(*(wait() for _ in range(TASKS)))


async def drain_nothing() -> None:
    """Make as many tasks, which only let others run once."""
    await drain(lambda: asyncio.sleep(0))


async def drain_ours() -> None:
    """Acquire permits."""
    governor = GovernorEnforcer()
    governor.set_limit("api", 200, 0.02)
    await drain(lambda: governor.acquire("api"))


async def drain_blocks() -> None:
    """Enter blocks that hold a permit."""
    governor = GovernorEnforcer()
    governor.set_limit("api", 200, 0.02)
    block = governor.permit("api")
    await drain(lambda: enter(block))


async def drain_aiolimiter() -> None:
    """Acquire from a leaky bucket, which admits up to twice as many in a window."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(200, 0.02)
    await drain(limiter.acquire)


async def drain_aiolimiter_blocks() -> None:
    """Enter its blocks."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(200, 0.02)
    await drain(lambda: enter(limiter))


async def enter(block: contextlib.AbstractAsyncContextManager[object]) -> None:
    """Enter a block and leave it."""
    async with block:
        pass


def measure_drains() -> list[Row]:
    """Return CPU times of draining the queue."""
    programs: list[Callable[[], Coroutine[Any, Any, None]]] = [drain_nothing, drain_ours, drain_blocks]
    if is_installed("aiolimiter"):
        programs += [drain_aiolimiter, drain_aiolimiter_blocks]
    took: dict[Any, list[float]] = {program: [] for program in programs}
    for _ in range(ROUNDS):
        for program in programs:
            gc.collect()
            began = time.process_time()
            asyncio.run(program())
            took[program].append(time.process_time() - began)
    cpu = {program: statistics.median(seconds) for program, seconds in took.items()}
    tasks = cpu[drain_nothing]
    rows: list[Row] = [
        ("4,000 tasks by themselves, ms of CPU", 1000 * tasks, ""),
        ("4,000 waiters, ours, x the tasks", cpu[drain_ours] / tasks, ""),
    ]
    if drain_aiolimiter in cpu:
        rows += [
            ("4,000 waiters, aiolimiter, x the tasks", cpu[drain_aiolimiter] / tasks, "peer"),
            ("4,000 waiters acquire, x aiolimiter", cpu[drain_ours] / cpu[drain_aiolimiter], "<= 0.33"),
            ("4,000 waiters in blocks, x aiolimiter", cpu[drain_blocks] / cpu[drain_aiolimiter_blocks], "<= 0.33"),
            (
                "the same without the tasks' own cost",
                (cpu[drain_ours] - tasks) / (cpu[drain_aiolimiter] - tasks),
                "<= 0.33",
            ),
        ]
    return rows


# ------------------------------------------------------------------ doing nothing


async def measure_idle(name: str, make: Callable[..., Loop]) -> list[Row]:
    """Return the share of a core that 10,000 idle keys cost."""
    await make(keyed=True)(KEYS)
    gc.collect()
    began = time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    share = (time.process_time() - began) / IDLE_SECONDS
    return [(f"10,000 idle keys, {name}, % of a core", 100 * share, "<= 0.1" if name == "ours" else "peer")]


def contenders() -> dict[str, Callable[..., Loop]]:
    """Return ours and the peers that are installed."""
    return {"ours": ours, **{name: make for name, make in PEERS.items() if is_installed(name)}}


def is_installed(name: str) -> bool:
    """Tell whether a peer can be measured."""
    return importlib.util.find_spec(name) is not None


def run() -> list[Row]:
    """Return label, figure and goal of each measurement."""
    absent = [(f"{name} is not installed", float("nan"), "peer") for name in PEERS if not is_installed(name)]
    rows = measure_drains()
    for name, make in contenders().items():  # each in a loop of its own, and last what keeps a thread busy for ever
        rows += asyncio.run(measure_checks(name, make)) + asyncio.run(measure_idle(name, make))
    return rows + absent


if __name__ == "__main__":
    for label, figure, goal in run():
        print(f"{label:50} {figure:8.2f}" + (f"   goal {goal}" if goal else ""))
