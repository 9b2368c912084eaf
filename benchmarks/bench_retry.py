"""What a retried call that ends well costs, against a decorator that only passes it on; and what peers cost."""

import asyncio
import functools
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from asyncsandbox.components.retry import BreakerSettings, RetryBackoffManager

CALLS = 1_000
ROUNDS = 25

Call = Callable[[int], Awaitable[int]]


async def at_once(number: int) -> int:
    """Return without suspending, so that nothing hides what the decorator costs."""
    return number


async def suspending(number: int) -> int:
    """Suspend once, as a call of a provider does at least."""
    await asyncio.sleep(0)
    return number


def pass_on(function: Call) -> Call:
    @functools.wraps(function)
    async def passed(*args: Any, **kwargs: Any) -> int:
        return await function(*args, **kwargs)

    return passed


def ours(**options: Any) -> Callable[[Call], Call]:
    return RetryBackoffManager().retrying("api", **options)


def tenacity(function: Call) -> Call:
    peer = import_module("tenacity")
    return peer.retry(stop=peer.stop_after_attempt(4), wait=peer.wait_random_exponential(max=30))(function)


def stamina(function: Call) -> Call:
    return import_module("stamina").retry(on=Exception, attempts=4)(function)


def backoff(function: Call) -> Call:
    peer = import_module("backoff")
    return peer.on_exception(peer.expo, Exception, max_tries=4)(function)


def redress(function: Call) -> Call:
    return import_module("redress").retry(strategy=lambda _context: 0.0, max_attempts=4)(function)


def hyx(function: Call) -> Call:
    return import_module("hyx.retry").retry(on=Exception, attempts=4)(function)


PEERS = (hyx, backoff, redress, stamina, tenacity)


def installed_peers() -> tuple[dict[str, Call], list[str]]:
    """Return the peers that are installed, around `at_once`, and the names of the others."""
    found, absent = {}, []
    for decorate in PEERS:
        try:
            found[decorate.__name__] = decorate(at_once)
        except ImportError:
            absent.append(decorate.__name__)
    return found, absent


async def best_of(contenders: dict[str, Call]) -> dict[str, float]:
    """Return seconds per call, each the best of its rounds, taken in turn."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            gc.collect()
            gc.disable()
            began = time.perf_counter()
            for number in range(CALLS):
                await call(number)
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS)
            gc.enable()
    return best


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement; a peer that is not installed has no ratio."""
    logging.disable()
    retry = RetryBackoffManager()
    peers, absent = installed_peers()
    limits = {"attempt_timeout_seconds": 60.0, "deadline_seconds": 60.0, "breaker": BreakerSettings()}
    took = asyncio.run(
        best_of(
            {
                "passed on": pass_on(at_once),
                "passed on, suspending": pass_on(suspending),
                "ours": ours()(at_once),
                "ours, suspending": ours()(suspending),
                "ours, without a budget": ours(budget_ratio=None)(at_once),
                "ours, with every limit, suspending": ours(**limits)(suspending),
                "execute_with_retry": lambda number: retry.execute_with_retry(at_once, "api", number),
                **peers,
            }
        )
    )
    goals = {"ours": "<= 1.3", "ours, suspending": "<= 1.3"}
    rows = []
    for name, seconds in took.items():
        if not name.startswith("passed on"):
            floor = took["passed on, suspending" if name.endswith("suspending") else "passed on"]
            rows.append((f"{name}, x passed on", seconds / floor, "peer" if name in peers else goals.get(name, "none")))
    return rows + [(f"{name}: not installed", float("nan"), "peer") for name in absent]


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:48} {ratio:8.2f}   goal {goal}")
