"""Whose turn it is: one transaction at a time, first come first served, and nobody waits for himself.

SQLite has one writer. Its own waiting is polling, unfair, and blind to a task that waits for itself; this queue is none
of these.

>>> import asyncio
>>> async def main() -> None:
...     turns = Turns(patience_seconds=5)
...     await turns.take("first")
...     try:
...         await turns.take("second")
...     except SessionInUseError:
...         print("refused at once")
...     turns.give_back("first")
>>> asyncio.run(main())
refused at once
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ...errors import NotStartedError, SandboxError, SessionInUseError

if TYPE_CHECKING:
    from collections.abc import Hashable


class SessionTimeoutError(SandboxError, TimeoutError):
    """One transaction stayed open so long that another session gave up waiting for its turn.

    Attributes:
        holder: Name of the task in which that transaction began.
        waited_seconds: How long it was the same one.
    """

    def __init__(self, holder: str, waited_seconds: float) -> None:
        super().__init__(holder, waited_seconds)
        self.holder = holder
        self.waited_seconds = waited_seconds

    def __str__(self) -> str:
        return (
            f"the transaction that task {self.holder!r} began was open for more than {self.waited_seconds:g} s: "
            f"commit or close a session before awaiting anything slow, or raise "
            f"DatabaseSettings(busy_timeout_seconds=...)"
        )


class Turns:
    """A first-come-first-served lock whose holder is known.

    ``patience_seconds`` counts while *one* holder keeps the turn: a long queue that moves is no reason to give up.

    Concurrency: for many tasks of one loop. Cancellation: a cancelled waiter leaves the queue; a turn that was being
    handed to it goes to the next.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._holder: Hashable = None
        self._task: asyncio.Task[object] | None = None
        self._waiting: deque[tuple[asyncio.Future[None], Hashable, asyncio.Task[object] | None]] = deque()
        self._handed_over = 0
        self._closed = False

    async def take(self, who: Hashable) -> None:
        """Wait for the turn.

        Raises:
            SessionInUseError: The current task holds it already.
            SessionTimeoutError: One holder kept it for longer than the patience lasts.
            NotStartedError: The database was closed meanwhile.
        """
        task = asyncio.current_task()
        if self._closed:
            raise NotStartedError("database", "a session")
        if self._holder is None:
            self._hand_to(who, task)
            return
        if task is not None and task is self._task:
            raise SessionInUseError(task.get_name())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (future, who, task)
        self._waiting.append(entry)
        try:
            await self._wait(future)
        except BaseException:
            if entry in self._waiting:
                self._waiting.remove(entry)
            self.give_back(who)
            raise

    def give_back(self, who: Hashable) -> None:
        """Let the next one have the turn; does nothing where ``who`` does not hold it."""
        if self._holder != who:
            return
        self._holder = self._task = None
        if self._waiting:
            future, following, task = self._waiting.popleft()
            self._hand_to(following, task)
            future.set_result(None)

    def close(self) -> None:
        """Send everybody home who waits now or comes later."""
        self._closed = True
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            future.set_exception(NotStartedError("database", "a session"))

    def _hand_to(self, who: Hashable, task: asyncio.Task[object] | None) -> None:
        self._holder, self._task = who, task
        self._handed_over += 1

    async def _wait(self, future: asyncio.Future[None]) -> None:
        while True:
            seen = self._handed_over
            await asyncio.wait((future,), timeout=self._patience_seconds)
            if future.done():
                future.result()
                return
            if self._handed_over == seen:
                holder = self._task.get_name() if self._task else "?"
                raise SessionTimeoutError(holder, self._patience_seconds)
