"""How many jobs wait in the store, about, and whether there is room for another.

Every process that submits knows of its own jobs at once and of others' when it counts, so several of them may let in a
few too many.

>>> async def main() -> int:
...     async def count() -> int:
...         return 3
...     room = Room(WorkerSettings(max_queued=4), count)
...     await room.recount()
...     with room.entering() as stay:
...         stay()
...     return room.queued
>>> asyncio.run(main())
4
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ...errors import QueueFullError
from .settings import WhenFull, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

__all__ = ["Room", "WorkerSettings", "asyncio"]

_LOOK_AGAIN_SECONDS: Final = 1.0


class Room:
    """The room for jobs that wait.

    Concurrency: for one event loop; first come, first served. Cancellation: a cancelled waiter harms no other.

    Args:
        settings: Of the worker.
        count: Counts the jobs that wait.

    Attributes:
        queued: How many there are, as far as known.
    """

    def __init__(self, settings: WorkerSettings, count: Callable[[], Awaitable[int]]) -> None:
        self.queued = 0
        self._entering = 0  # now
        self._entered = 0  # in all
        self._most = settings.max_queued
        self._when_full = settings.when_full
        self._count = count
        self._line = asyncio.Lock()
        self._news = asyncio.Event()
        self._is_open = True

    def enter(self) -> None:
        """Count one more."""
        self.queued += 1
        self._entered += 1

    @contextmanager
    def entering(self) -> Generator[Callable[[], None]]:
        """Count one more while it is written down, and for good once what this gives is called."""
        stays = False

        def stay() -> None:
            nonlocal stays
            stays = True

        self.queued += 1
        self._entering += 1
        self._entered += 1
        try:
            yield stay
        finally:
            self._entering -= 1
            if not stays:
                self.leave()

    def leave(self) -> None:
        """Count one less."""
        self.queued = max(0, self.queued - 1)
        self._news.set()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._is_open = False
        self._news.set()

    async def recount(self) -> None:
        """Count anew; what is being written down meanwhile may be counted twice, but is never left out."""
        entering, entered = self._entering, self._entered
        self.queued = await self._count() + entering + self._entered - entered

    async def wait(self, job: str, left: float | None) -> None:
        """Wait until there is room, or nobody is let in any more.

        Args:
            job: Name of the job.
            left: For how many seconds at most; None for no limit.

        Raises:
            QueueFullError: There is none, and waiting is not wanted or took too long.
        """
        if self.queued < self._most and not self._line.locked():
            return
        if self._when_full is WhenFull.REFUSE:
            if await self._is_full():
                raise QueueFullError(job, self.queued)
            return
        try:
            async with asyncio.timeout(left), self._line:
                while self._is_open and await self._is_full():
                    self._news.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                            await self._news.wait()
        except TimeoutError:
            raise QueueFullError(job, self.queued) from None

    async def _is_full(self) -> bool:
        if self.queued >= self._most:
            await self.recount()
        return self.queued >= self._most
