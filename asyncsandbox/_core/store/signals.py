"""Waiting for news on a channel without missing any: each channel counts what it was told.

>>> async def main() -> tuple[int, int]:
...     signals = Signals()
...     signals.tell({"jobs"})  # before anybody waits: not lost
...     seen = await signals.wait("jobs", since=0, timeout_seconds=60)
...     return seen, await signals.wait("jobs", since=seen, timeout_seconds=0.01)
>>> asyncio.run(main())
(1, 1)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .lane import Unit

__all__ = ["Signals", "asyncio", "channels_of"]


class Signals:
    """Counts per channel, and those who wait for the next.

    Concurrency: any number may wait on a channel; all are woken. Cancellation: a cancelled waiter harms no other.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def tell(self, channels: Iterable[str]) -> None:
        """Count one for each channel, and wake who waits for it."""
        for channel in channels:
            self._counts[channel] += 1
            future = self._waiting.pop(channel, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def wait(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is no longer ``since``, or time is up.

        Returns:
            The count.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._counts[channel] == since:
                    await asyncio.wait((self._future(channel),))
        except TimeoutError:
            pass
        return self._counts[channel]

    def _future(self, channel: str) -> asyncio.Future[None]:
        future = self._waiting.get(channel)
        if future is None or future.done() or future.get_loop() is not asyncio.get_running_loop():
            future = self._waiting[channel] = asyncio.get_running_loop().create_future()
        return future


def channels_of(group: Iterable[Unit]) -> set[str]:
    """Return the channels that a group's successful writes have news for."""
    return {
        bound.operation.notify
        for unit in group
        if not isinstance(unit.outcome, Exception)
        for bound in unit.bounds
        if bound.operation.notify
    }


def channel_name(channel: str) -> str:
    """Return the name of a channel in a database, which others use as well."""
    return f"sandbox_{channel}"
