"""How a loop is doing: a tick that should come on time, how late it came, and what kept it.

>>> class Times:
...     tick_seconds, stall_seconds, lag_samples, max_stalls, dump_seconds = 0.05, 0.1, 100, 10, None
>>> async def main() -> int:
...     monitor = Monitor(Times(), lambda stall: print("a stall"))
...     monitor.start(SystemClock(), copy_context(), with_thread=False)
...     await asyncio.sleep(0.2)
...     monitor.stop()
...     return monitor.stall_count
>>> asyncio.run(main())
0
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import copy_context
from datetime import timedelta
from typing import TYPE_CHECKING

from ..._core.clock import SystemClock, real_seconds
from .dump import StackDump
from .lag import LagWindow
from .stalls import Stall
from .watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from ..._core.clock import Clock
    from . import HeartbeatSettings
    from .lag import LagSummary
    from .watchdog import Sample

__all__ = ["Monitor", "SystemClock", "asyncio", "copy_context"]


class Monitor:
    """Ticks on a loop and notes how late each tick is; a tick that is late enough ends a stall.

    Only the tick tells of a stall, so that happens on the loop's thread and after the loop woke up. Whoever asks from
    another thread is told of one that is still going on.

    Args:
        settings: What is a tick, what is a stall, how much is kept.
        on_stall: Called with each stall, on the loop.
    """

    def __init__(self, settings: HeartbeatSettings, on_stall: Callable[[Stall], object]) -> None:
        self._settings = settings
        self._on_stall = on_stall
        self._lags = LagWindow(settings.lag_samples)
        self._stalls: deque[Stall] = deque(maxlen=settings.max_stalls)
        self._stall_count = 0
        self._stalled_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watchdog: Watchdog | None = None
        self._dump: StackDump | None = None

    @property
    def stall_count(self) -> int:
        """How many stalls there were, also those that are no longer kept."""
        return self._stall_count

    @property
    def stalls(self) -> tuple[Stall, ...]:
        """The newest stalls, the newest last."""
        return tuple(self._stalls)

    def start(self, clock: Clock, context: Context, *, with_thread: bool) -> None:
        """Begin to tick on the running loop.

        Args:
            clock: What the loop goes by.
            context: What the ticks run in: not that of whoever happens to start this.
            with_thread: Whether a thread may look where the loop stands.

        Raises:
            ConfigurationError: The timer for C code is taken.
        """
        self._clock = clock
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._stalled_at = None
        settings = self._settings
        self._set_timer(clock.monotonic())
        if with_thread:
            patience = settings.tick_seconds + settings.stall_seconds
            self._watchdog = Watchdog(self._loop, patience_seconds=patience)
            self._watchdog.start()
            if settings.dump_seconds is not None:
                self._dump = StackDump(settings.dump_seconds)
                self._dump.claim()
                self._dump.push_back()

    def stop(self) -> None:
        """End ticks and thread; does nothing where there are none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watchdog is not None:
            self._watchdog.end()
            self._watchdog = None
        if self._dump is not None:
            self._dump.release()
            self._dump = None

    def summarize_lag(self) -> LagSummary:
        """Return the percentiles of the newest lags; from any thread."""
        return self._lags.summarize()

    def get_current_stall(self) -> Stall | None:
        """Return the stall that is going on, as far as it has come; from any thread."""
        watchdog = self._watchdog
        sample = None if watchdog is None else watchdog.get_sample()
        if sample is None or not sample.loop_ran:
            return None
        return self._make_stall(real_seconds() - sample.ticked_at - self._settings.tick_seconds, sample)

    def get_seconds_since_stall(self) -> float | None:
        """Return how long ago the last stall ended, or None."""
        return None if self._stalled_at is None else self._clock.monotonic() - self._stalled_at

    def _set_timer(self, now: float) -> None:
        self._due = now + self._settings.tick_seconds
        self._timer = self._loop.call_later(self._settings.tick_seconds, self._tick, context=self._context)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        lag = max(0.0, now - self._due)
        sample = self._watchdog.tick() if self._watchdog is not None else None
        self._set_timer(now)
        if self._dump is not None:
            self._dump.push_back()
        if sample is not None and not sample.loop_ran:
            return
        self._lags.add(lag)
        if lag >= self._settings.stall_seconds:
            self._note(self._make_stall(lag, sample), now)

    def _note(self, stall: Stall, now: float) -> None:
        self._stalls.append(stall)
        self._stall_count += 1
        self._stalled_at = now
        self._on_stall(stall)

    def _make_stall(self, seconds: float, sample: Sample | None) -> Stall:
        return Stall(
            started_at=(self._clock.now() - timedelta(seconds=seconds)).isoformat(),
            duration_seconds=seconds,
            task=None if sample is None else sample.task,
            stack=() if sample is None else sample.stack,
        )
