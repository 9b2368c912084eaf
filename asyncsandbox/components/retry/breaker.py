"""The circuit breaker: after too many failures calls are refused for a while, then a few are let through to try.

>>> from asyncsandbox._core.clock import SystemClock
>>> clock = SystemClock()
>>> breaker = Breaker("api", BreakerSettings(failures=1, of_calls=1))
>>> breaker.leave(breaker.enter(clock), clock, ok=False)
>>> breaker.state
<BreakerState.OPEN: 'open'>
>>> breaker.enter(clock)
Traceback (most recent call last):
    ...
asyncsandbox.errors...BreakerOpenError: 'api' was not called, because its circuit breaker is open: ...
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from ...errors import BreakerOpenError
from .settings import BreakerSettings

if TYPE_CHECKING:
    from ..._core.clock import Clock

__all__ = ["Breaker", "BreakerSettings", "BreakerState"]


class BreakerState(StrEnum):
    """Whether calls are let through: all, none, or a few."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts how calls end and refuses new ones after too many bad ends.

    It promises that a half-open breaker lets exactly ``probes`` calls through, that one which ends without saying
    anything frees its place, and that the end of a call counts only in the state in which the call began. Where probes
    have given no answer for ``open_seconds``, as many again are let through: probes that hang must not keep others out
    for ever.

    Concurrency: for one event loop. Cancellation: nothing here waits.
    """

    __slots__ = ("_ended_badly", "_era", "_free", "_name", "_settings", "_succeeded", "_until", "state")

    def __init__(self, name: str, settings: BreakerSettings) -> None:
        self._name = name
        self._settings = settings
        self._ended_badly: deque[bool] = deque(maxlen=settings.of_calls)
        self._era = 0  # moves with every change of state
        self._until = 0.0
        self._free = 0
        self._succeeded = 0
        self.state = BreakerState.CLOSED

    def enter(self, clock: Clock) -> int:
        """Let a call through.

        Returns:
            A ticket, for `leave`.

        Raises:
            BreakerOpenError: It is open, or half open with all probes under way.
        """
        if self.state is not BreakerState.CLOSED:
            self._take_place(clock.monotonic())
        return self._era

    def is_current(self, ticket: int) -> bool:
        """Tell whether the breaker is still in the state in which it let this call through."""
        return ticket == self._era

    def leave(self, ticket: int, clock: Clock, *, ok: bool | None) -> None:
        """Note how a call ended: well, badly, or (None) without saying anything of the provider."""
        if not self.is_current(ticket):
            return
        if self.state is BreakerState.CLOSED:
            self._count(clock, ok=ok)
        elif ok is None:
            self._free += 1
        elif not ok:
            self._turn(BreakerState.OPEN, clock.monotonic())
        else:
            self._succeeded += 1
            if self._succeeded == self._settings.probes:
                self._turn(BreakerState.CLOSED, 0.0)

    def _take_place(self, now: float) -> None:
        if not self._free:
            if now < self._until:
                raise BreakerOpenError(self._name, self._until - now)
            self._turn(BreakerState.HALF_OPEN, now)
        self._free -= 1
        self._until = now + self._settings.open_seconds

    def _count(self, clock: Clock, *, ok: bool | None) -> None:
        if ok is None:
            return
        self._ended_badly.append(not ok)
        if not ok and sum(self._ended_badly) >= self._settings.failures:
            self._turn(BreakerState.OPEN, clock.monotonic())

    def _turn(self, state: BreakerState, now: float) -> None:
        self.state = state
        self._era += 1
        self._until = now + self._settings.open_seconds
        self._free = self._settings.probes if state is BreakerState.HALF_OPEN else 0
        self._succeeded = 0
        self._ended_badly.clear()
