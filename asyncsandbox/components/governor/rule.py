"""The limits of one resource, and a line for every key that counts by them.

A line is let go only when nothing it remembers could refuse a call any more, so that forgetting is never noticed. Those
to go are found in a heap of when each line is to be looked at: no timer, no sweep, a little work per new key.

>>> rule = Rule("payment", (Limit(2, 60.0, per="user"),), max_keys=1, ticker=Ticker(SystemClock()), refuse=print)
>>> rule.open("ada", 0.0).take(0.0, 1)
True
>>> rule.open("grace", 59.0) is None, rule.open("grace", 60.0) is None
(True, False)
"""

from __future__ import annotations

import functools
import reprlib
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from ...errors.calls import in_seconds
from .limits import Limit, LimitStatus
from .line import Line, SystemClock, Ticker
from .window import ALWAYS, NEVER, UNLIMITED, Window, leaves_at, seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Limit", "Rule", "SystemClock", "Ticker"]

_LOOKS_PER_NEW_KEY = 2


class Rule:
    """The limits of one resource and its lines.

    Attributes:
        resource: Its name.
        limits: What was declared.
        per: What is counted separately; None where there is one line for all.
        most: Units that one call can cost at most.
        cap: Permits held at the same time at most, per key; None for any number.
        is_shared: Whether other processes use it, too.
        lines: The lines by key.
        denied: Calls denied so far.
        denials: How many of those that no line knows of were denied since that was last told.
        quiet_until: Until when it need not be told again.

    Args:
        resource: Its name.
        limits: At least one, all with the same ``per``.
        max_keys: How many lines there may be.
        ticker: Reads the clock.
        refuse: Makes what those get who want so much of a line and cannot have it.
    """

    def __init__(
        self,
        resource: str,
        limits: tuple[Limit, ...],
        *,
        max_keys: int,
        ticker: Ticker,
        refuse: Callable[[Rule, Line, int], Exception],
    ) -> None:
        self.resource = resource
        self.lines: dict[Hashable, Line] = {}
        self.denied = 0
        self.denials = 0
        self.quiet_until = NEVER
        self._max_keys = max_keys
        self._ticker = ticker
        self._refuse = functools.partial(refuse, self)
        self._to_look_at: list[tuple[float, int, Line]] = []
        self._filed = 0
        self._set(limits)
        if self.per is None:
            self.lines[None] = self._make_line(None)

    def _set(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.per = limits[0].per
        self.cap = min((limit.max_concurrent for limit in limits if limit.max_concurrent is not None), default=None)
        windows = (
            Window(limit.max_requests, limit.window_seconds)
            for limit in limits
            if limit.max_requests is not None and limit.window_seconds is not None
        )
        self.windows = tuple(sorted(windows, key=lambda window: window.seconds, reverse=True))
        self.most = min((window.units for window in self.windows), default=UNLIMITED)
        self._longest = self.windows[0].seconds if self.windows else 0.0
        self.is_shared = limits[0].shared

    def change(self, limits: tuple[Limit, ...]) -> None:
        """Count by other limits with the same ``per`` from now on. What still counts goes on counting.

        Who waits goes on waiting, unless it is for more than is ever admitted now.
        """
        now = self._ticker.read()
        self._set(limits)
        self._to_look_at.clear()
        for line in tuple(self.lines.values()):
            line.refresh(now)
            line.cap = self.cap
            line.set_windows(self.windows)
            line.dismiss(functools.partial(self._refuse, line), above=self.most)
            line.filed_at = ALWAYS
            if self.per is not None and not line.is_used:
                self._put_away(line, now)

    def is_live(self, now: float) -> bool:
        """Tell whether anything that was admitted or waits still matters."""
        return any(self._is_live(line, now) for line in self.lines.values())

    def open(self, per: Hashable, now: float) -> Line | None:
        """Return the line of a key, a new one if need be; None where there is no room for one more."""
        line = self.lines.get(per)
        if line is None:
            self._make_room(now)
            if len(self.lines) >= self._max_keys:
                return None
            line = self.lines[per] = self._make_line(per)
            self._file(line, leaves_at(now, self._longest))
        return line

    def say_why_not(self, line: Line, cost: int, now: float) -> tuple[str, float | None]:
        """Say why a call is not admitted now, and in how many seconds it would be at the earliest."""
        whose = "" if self.per is None else f" for {self.per} {reprlib.repr(line.per)}"
        at = line.bound_behind(now, cost)
        if at <= now and line.has_slot:
            return "its time was up before its turn came: give it more time", None
        if at <= now:
            return f"all {self.cap} permits are held{whose}: give it more time, or raise max_concurrent", None
        (units, seconds), used = line.tightest()
        if line.waiting:
            reason = f"{line.waiting} in line before it{whose}"
        else:
            dear = f", and it costs {cost}" if cost > 1 else ""
            reason = f"{used} of {units} per {in_seconds(seconds)} are used{whose}{dear}"
        return reason, seconds_until(now, at)

    def get_status(self, per: Hashable = None) -> LimitStatus:
        """Return how far it is used, by one key where it counts by key."""
        lines = tuple(self.lines.values())
        used = remaining = None
        if self.windows and not self.is_shared and (self.per is None) == (per is None):
            line = self.lines.get(per) or self._make_line(per)
            line.refresh(self._ticker.read())
            (units, _), used = line.tightest()
            remaining = max(0, units - used)
        return LimitStatus(
            resource=self.resource,
            limits=self.limits,
            used=used,
            remaining=remaining,
            running=sum(line.running for line in lines),
            waiting=sum(line.waiting for line in lines),
            keys=0 if self.per is None else len(lines),
            denied=self.denied,
        )

    def _make_line(self, per: Hashable) -> Line:
        on_unused = None if self.per is None else self._put_away
        return Line(per, self.windows, self.cap, ticker=self._ticker, refuse=self._refuse, on_unused=on_unused)

    def _is_live(self, line: Line, now: float) -> bool:
        line.refresh(now)
        return line.is_used or bool(line.stamps)

    def _file(self, line: Line, at: float) -> None:
        """Have a line looked at when a new one is made after ``at``; what it was filed under before is void."""
        self._filed += 1
        line.filed_at = at
        heappush(self._to_look_at, (at, self._filed, line))

    def _put_away(self, line: Line, now: float) -> None:
        """Drop a line that nobody uses and that remembers nothing, or file it under when it will not."""
        if not self._is_live(line, now):
            del self.lines[line.per]
            line.filed_at = ALWAYS
        elif (at := leaves_at(line.stamps[-1], self._longest)) < line.filed_at:
            self._file(line, at)

    def _make_room(self, now: float) -> None:
        heap, looks = self._to_look_at, _LOOKS_PER_NEW_KEY
        while heap and heap[0][0] <= now and (looks > 0 or len(self.lines) >= self._max_keys):
            looks -= 1
            at, _, line = heappop(heap)
            if at != line.filed_at:
                continue
            line.filed_at = ALWAYS
            if not line.is_used:  # else it comes here again when it is not
                self._put_away(line, now)
