"""Timeouts of many runs with one timer for each length: a timer per job would cost more than the job.

Runs with a timeout of the same length are due in the order they began, so only the first of them needs a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..._core.clock import Clock

_SLACK = 64
_MOST_LANES = 64


class Timed(Protocol):
    """What can take too long."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        ...

    def time_out(self) -> None:
        """Hear that it took too long."""
        ...


class Timeouts:
    """Tells each run when its time is over, unless it ended before.

    Concurrency: for one event loop. Cancellation: nothing here waits.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[float, _Lane] = {}

    def __len__(self) -> int:
        """Return how many entries are kept, those of ended runs included."""
        return sum(len(lane.runs) for lane in self._lanes.values())

    def begin(self, run: Timed, at: float, seconds: float) -> None:
        """Note that a run has begun at a moment on the clock's monotonic scale."""
        lane = self._lanes.get(seconds)
        if lane is None:
            lane = self._lanes[seconds] = _Lane(seconds)
        lane.runs.append((at + seconds, run))
        lane.alive += 1
        if lane.timer is None:
            lane.arm(self._clock.monotonic(), self._look)
        elif len(lane.runs) > 2 * lane.alive + _SLACK:
            lane.runs = deque(entry for entry in lane.runs if not entry[1].is_over)

    def end(self, seconds: float) -> None:
        """Note that a run with this timeout has ended."""
        lane = self._lanes[seconds]
        lane.alive -= 1
        if not lane.alive:
            # Its timer stays for the next one of this length, unless there are too many lengths.
            lane.runs.clear()
            if lane.timer is None or len(self._lanes) > _MOST_LANES:
                self._drop(lane)

    def _look(self, lane: _Lane) -> None:
        now, runs = self._clock.monotonic(), lane.runs
        while runs and (runs[0][1].is_over or runs[0][0] <= now):
            run = runs.popleft()[1]
            if not run.is_over:
                run.time_out()
        lane.timer = None
        if runs:
            lane.arm(now, self._look)
        elif not lane.alive:
            self._drop(lane)

    def _drop(self, lane: _Lane) -> None:
        lane.disarm()
        del self._lanes[lane.seconds]


class _Lane:
    """Runs with the same timeout, in the order they began."""

    __slots__ = ("alive", "runs", "seconds", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs: deque[tuple[float, Timed]] = deque()
        self.alive = 0
        self.timer: asyncio.TimerHandle | None = None

    def arm(self, now: float, look: Look) -> None:
        """Have the first of them looked after in time."""
        self.timer = asyncio.get_running_loop().call_later(self.runs[0][0] - now, look, self)

    def disarm(self) -> None:
        """Look after nothing any more."""
        if self.timer is not None:
            self.timer.cancel()


class Look(Protocol):
    """Looks after a lane."""

    def __call__(self, lane: _Lane, /) -> object:
        """Look."""
        ...
