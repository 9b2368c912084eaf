"""Group commit in lock-step: what is submitted while a group is being written goes into the next one.

No timer decides how long to collect: under load the groups grow by themselves, and a lone write waits for nobody.

>>> groups = []
>>> def write(group: list[Unit]) -> asyncio.Future[None]:
...     groups.append(len(group))
...     for unit in group:
...         unit.outcome = ()
...     done = asyncio.get_running_loop().create_future()
...     asyncio.get_running_loop().call_later(0.01, done.set_result, None)
...     return done
>>> async def main() -> None:
...     lane = Lane(write, limit=100)
...     first = asyncio.create_task(lane.submit(()))
...     await asyncio.sleep(0.001)
...     await asyncio.gather(first, *(lane.submit(()) for _ in range(3)))
>>> asyncio.run(main())
>>> groups
[1, 3]
"""

from __future__ import annotations

import asyncio
import os
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ...errors import LifecycleError, NotStartedError, StoreOutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .operations import Bound, Result

__all__ = ["Lane", "Unit", "asyncio"]


class Home:
    """The process and the loop in which something was opened."""

    __slots__ = ("_loop", "_pid")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()

    def is_here(self) -> bool:
        """Tell whether this is still the same process."""
        return os.getpid() == self._pid

    def check(self, used_for: str) -> None:
        """Refuse what would wait for ever.

        Raises:
            LifecycleError: This is another process, or another loop.
        """
        if os.getpid() != self._pid:
            raise LifecycleError(
                f"the store was opened before this process was forked, so {used_for} is not possible: "
                f"open a store of its own in each process"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise LifecycleError(
                f"the store was opened on another event loop, so {used_for} is not possible: "
                f"open a store of its own on each loop"
            )


class Unit:
    """What one caller submitted: operations that happen together or not at all.

    Attributes:
        bounds: The operations.
        outcome: What came of them, an exception where they failed; None until it is known.
    """

    __slots__ = ("_future", "_told", "bounds", "outcome")

    def __init__(self, bounds: tuple[Bound, ...]) -> None:
        self.bounds = bounds
        self.outcome: tuple[Result, ...] | Exception | None = None
        self._told = False
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def name(self) -> str:
        """The operations, for messages."""
        return " + ".join(bound.operation.name for bound in self.bounds)

    def tell(self) -> None:
        """Let the caller go on with the outcome."""
        self._told = True
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, *, patient: bool) -> tuple[Result, ...]:
        """Wait for the outcome.

        Args:
            patient: Whether a cancellation has to wait for it, too.

        Raises:
            asyncio.CancelledError: The caller was cancelled.
            Exception: What the outcome is.
        """
        cancellation: asyncio.CancelledError | None = None
        while not self._told:
            try:
                await self._future
            except asyncio.CancelledError as error:
                if not patient:
                    raise
                cancellation = error
                self._future = self._future.get_loop().create_future()
        if cancellation is not None:
            raise cancellation
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or ()


class Lane:
    """Takes units one by one, and has them written group by group, one group at a time.

    Concurrency: any number of tasks of one loop. Cancellation: a caller cancelled before its unit was taken leaves
    nothing; after that the unit is carried out, and a patient caller hears of its cancellation only then.

    Args:
        start: Begins to carry out a group and returns what ends with it. It sets each unit's outcome, and takes out of
            the list what somebody else will tell.
        limit: How many units are taken before callers have to wait for room.
        after: Called with each group before its callers go on.
        patient: Whether cancelled callers wait for the outcome.
    """

    def __init__(
        self,
        start: Callable[[list[Unit]], asyncio.Future[Any]],
        *,
        limit: int,
        after: Callable[[list[Unit]], object] | None = None,
        patient: bool = True,
    ) -> None:
        self._start = start
        self._after = after
        self._patient = patient
        self._room = asyncio.Semaphore(limit)
        self._waiting: list[Unit] = []
        self._scheduled = False
        self._group: list[Unit] | None = None
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        # Not the callers': what they carry must not live on in here, and a caller's end must not end the lane.
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()

    async def submit(self, bounds: tuple[Bound, ...]) -> tuple[Result, ...]:
        """Have operations carried out together.

        Returns:
            The outcome.

        Raises:
            NotStartedError: The lane is closed.
            asyncio.CancelledError: The caller was cancelled.
            Exception: What the outcome is.
        """
        async with self._room:
            if self._closed:
                raise NotStartedError("the store", f"operation {bounds[0].operation.name!r}")
            unit = Unit(bounds)
            self.add(unit)
            return await unit.wait(patient=self._patient)

    def add(self, unit: Unit) -> None:
        """Put a unit into the next group."""
        self._waiting.append(unit)
        if self._group is None:
            self._schedule()

    async def close(self) -> None:
        """Take nothing more, and wait until what was taken is done."""
        self._closed = True
        while self._group is not None or self._waiting:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            # One round later, so that everybody who is about to submit gets into the group.
            self._loop.call_soon(self._next, context=self._context)

    def _next(self) -> None:
        self._scheduled = False
        group, self._waiting = self._waiting, []
        self._group = group
        try:
            future = self._start(group)
        except RuntimeError as error:  # no thread is started any more, for the interpreter is ending
            future = self._loop.create_future()
            future.set_exception(error)
        future.add_done_callback(self._ended, context=self._context)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        group, self._group = self._group or [], None
        cause = asyncio.CancelledError("the event loop ends") if future.cancelled() else future.exception()
        for unit in group:
            if unit.outcome is None:
                unit.outcome = StoreOutcomeUnknownError(unit.name, repr(cause))
                unit.outcome.__cause__ = cause
        if self._after is not None:
            self._after(group)
        for unit in group:
            unit.tell()
        if self._waiting:
            self._schedule()
        elif self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
