"""A job for tests of the store's jobs. It stands here, because a test module may be loaded under two names."""

import asyncio
from collections import Counter

from asyncsandbox import job

begun: Counter[str] = Counter()
ended: Counter[str] = Counter()
active: Counter[str] = Counter()


@job("sim.work", max_retries=1)
async def work(tag: str, seconds: float, fails: int = 0) -> str:
    begun[tag] += 1
    active[tag] += 1
    try:
        await asyncio.sleep(seconds)
        if begun[tag] <= fails:
            raise OSError(tag)
        ended[tag] += 1
    finally:
        active[tag] -= 1
    return f"did {tag}"


def forget() -> None:
    for counter in (begun, ended, active):
        counter.clear()
