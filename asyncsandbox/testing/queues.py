"""What waits to be called: handles, timers in their order, and the lanes a pause holds back.

>>> timers = Timers()
>>> timers.next_at is None
True
"""

# ruff: noqa: SLF001 - a loop is where asyncio's handles keep no secrets

from __future__ import annotations

import asyncio
import heapq
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

from .lanes import lane_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from .loop import SimLoop

__all__ = ["Holds", "SimHandle", "SimTimer", "Timers"]

_RESOLUTION_SECONDS = 1e-9  # timers this close together fire together, as on a real loop
_MIN_CANCELLED = 100  # so many cancelled timers are kept; more than half of all are not
_MAX_HOLD_STEPS = 1_000  # a pause ends then even if others are still busy: they may be polling for the paused one


class SimHandle(asyncio.Handle):
    """A handle that is quicker to make: nobody debugs where it came from."""

    __slots__ = ()

    _callback: Any
    _args: Any
    _context: Context

    def __init__(self, callback: Callable[..., object], args: Any, loop: SimLoop, context: Context | None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class SimTimer(asyncio.TimerHandle):
    """A timer that is quicker to make and to cancel."""

    __slots__ = ()

    _callback: Any
    _args: Any
    _context: Context
    _loop: SimLoop

    def __init__(
        self, when: float, callback: Callable[..., object], args: Any, loop: SimLoop, context: Context | None
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        """Have the callback not called."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop.timers.cancelled += 1
            self._callback = self._args = None


AnyHandle: TypeAlias = "SimHandle | SimTimer"


class Timers:
    """The timers that are set, in the order they fire; equal times keep the order in which they were set.

    Attributes:
        cancelled: How many of them were cancelled.
    """

    __slots__ = ("_heap", "_made", "cancelled")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SimTimer]] = []
        self._made = 0
        self.cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float | None:
        """When the next one fires, or None."""
        if self.cancelled:
            self._drop_cancelled()
        return self._heap[0][0] if self._heap else None

    def push(self, timer: SimTimer) -> None:
        """Set one."""
        self._made += 1
        heapq.heappush(self._heap, (timer._when, self._made, timer))

    def pop_due(self, now: float) -> Iterator[SimTimer]:
        """Take out those that are due."""
        limit = now + _RESOLUTION_SECONDS
        while self._heap and self._heap[0][0] <= limit:
            timer = heapq.heappop(self._heap)[2]
            timer._scheduled = False
            if timer._cancelled:
                self.cancelled -= 1
            yield timer

    def drop(self, is_dead: Callable[[SimTimer], bool]) -> None:
        """Forget the timers of the dead."""
        self._heap = [entry for entry in self._heap if not is_dead(entry[2])]
        heapq.heapify(self._heap)
        self.cancelled = sum(timer._cancelled for _, _, timer in self._heap)

    def _drop_cancelled(self) -> None:
        if self.cancelled > _MIN_CANCELLED and self.cancelled * 2 > len(self._heap):
            self.drop(lambda timer: timer._cancelled)
        while self._heap and self._heap[0][2]._cancelled:
            heapq.heappop(self._heap)
            self.cancelled -= 1


class Holds:
    """The lanes that are being held back, longest first.

    Attributes:
        lanes: By lane, the step at which it goes on at the latest, and what it would have run.
    """

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        self.lanes: dict[int, tuple[int, list[AnyHandle]]] = {}

    def hold(self, handle: AnyHandle, step: int) -> None:
        """Hold back the lane of ``handle``, from ``step`` on."""
        self.lanes[id(lane_of(handle))] = (step + _MAX_HOLD_STEPS, [handle])

    def take(self, handle: AnyHandle) -> bool:
        """Take ``handle`` in where its lane is held back, and say so."""
        found = self.lanes.get(id(lane_of(handle)))
        if found is None:
            return False
        found[1].append(handle)
        return True

    def release(self, step: int, *, idle: bool) -> list[AnyHandle]:
        """Return what the lane held back longest would have run, where its pause is over; else nothing."""
        lane, (until, handles) = next(iter(self.lanes.items()))
        if not idle and step < until:
            return []
        del self.lanes[lane]
        return handles

    def empty(self) -> list[AnyHandle]:
        """Return everything, and hold nothing back any more."""
        handles = [handle for _, held in self.lanes.values() for handle in held]
        self.lanes.clear()
        return handles

    def drop(self, is_dead: Callable[[AnyHandle], bool]) -> None:
        """Forget the callbacks of the dead."""
        for lane, (_, handles) in tuple(self.lanes.items()):
            handles[:] = [handle for handle in handles if not is_dead(handle)]
            if not handles:
                del self.lanes[lane]
