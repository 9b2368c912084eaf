"""The arithmetic of exact windows: what still counts, what there is room for, and from when on.

A unit admitted at ``t`` counts in ``[t, t + seconds)``. Every instant here is the first float that is not before the
real number it stands for, so rounding never admits anything early.

>>> log = Log((Window(2, 10.0),))
>>> for now in (0.0, 4.0):
...     log.refresh(now)
...     log.admit(now, 1)
>>> log.refresh(5.0)
>>> log.spare, log.due(1), log.due(2)
(0, 10.0, 14.0)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from itertools import repeat
from typing import NamedTuple

ALWAYS = math.inf
NEVER = -math.inf
UNLIMITED = 2**63


class Window(NamedTuple):
    """So many units in any ``seconds``."""

    units: int
    seconds: float


def leaves_at(stamp: float, seconds: float) -> float:
    """Return the first instant at which a unit admitted at ``stamp`` no longer counts."""
    at = stamp + seconds
    # What rounding took away: Dekker, "A floating-point technique for extending the available precision", 1971.
    larger, smaller = (stamp, seconds) if abs(stamp) >= seconds else (seconds, stamp)
    return math.nextafter(at, math.inf) if smaller - (at - larger) > 0 else at


def seconds_until(now: float, at: float) -> float:
    """Return the delay that leads from ``now`` to ``at``, and not to before it when it is added to ``now``."""
    seconds = max(at - now, 0.0)
    while now + seconds < at:
        seconds = math.nextafter(seconds, math.inf)
    return seconds


class Log:
    """The units that were admitted for one key, for several windows at once.

    Attributes:
        windows: The windows, the longest first.
        stamps: When each unit was admitted, the oldest first. It reaches as far back as the longest window.
        pending: Units that are promised to callers who have not resumed yet. They will get their stamps then, later
            than now, so they count like units admitted now.
        spare: Units there is room for: at least so many, and exactly after a `refresh`.
        next_leave: When the next unit leaves a window; `ALWAYS` where there is none.
        has_empty: Whether a window counts nothing, so that the next unit admitted may be the next to leave.
        fresh_until: Before this instant a unit may be taken from `spare` and stamped without another look. Whoever
            keeps the log sets it; it stands here beside the others because they are read together.
    """

    __slots__ = ("_gone", "fresh_until", "has_empty", "next_leave", "pending", "spare", "stamps", "windows")

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self.stamps: deque[float] = deque()
        self.pending = 0
        self.set_windows(windows)

    def set_windows(self, windows: tuple[Window, ...]) -> None:
        """Count by other windows from now on; what is known of the past stays known. To be followed by `refresh`."""
        self.windows = windows
        self._gone = [0] * len(windows)  # how many of the oldest units each window no longer counts
        self._reckon()
        self.next_leave = self.fresh_until = NEVER

    def refresh(self, now: float) -> None:
        """Let go of the units that have left."""
        if now < self.next_leave:
            return
        self._forget(now)
        stamps, gone = self.stamps, self._gone
        for number, (_, seconds) in enumerate(self.windows):
            while gone[number] < len(stamps) and leaves_at(stamps[gone[number]], seconds) <= now:
                gone[number] += 1
        self._reckon()

    def admit(self, now: float, cost: int) -> None:
        """Note units as admitted now, for which there is room."""
        if not self.windows:
            return
        if cost == 1:
            self.stamps.append(now)
        else:
            self.stamps.extend(repeat(now, cost))
        self.spare -= cost
        if self.has_empty:
            self._reckon()

    def promise(self, cost: int) -> None:
        """Let so many units more be pending; fewer, where it is negative."""
        self.pending += cost
        self.spare -= cost

    def take_out(self, stamp: float, cost: int) -> None:
        """Make it as if these units had not been admitted; does nothing where they no longer count."""
        stamps = self.stamps
        end = bisect_right(stamps, stamp)
        start = end - cost
        if start < 0 or stamps[start] != stamp:
            return
        behind = len(stamps) - end
        stamps.rotate(behind)
        for _ in range(cost):
            stamps.pop()
        stamps.rotate(-behind)
        # Units of one stamp leave together, so a window has let go of all of them or of none.
        self._gone = [gone - cost if gone >= end else gone for gone in self._gone]
        self._reckon()

    def _forget(self, now: float) -> None:
        stamps = self.stamps
        longest = self.windows[0].seconds if self.windows else 0.0
        before = len(stamps)
        if stamps and leaves_at(stamps[-1], longest) <= now:
            stamps.clear()
        # A difference above the window is no work of rounding; one that equals it may be.
        while stamps and (now - stamps[0] > longest or leaves_at(stamps[0], longest) <= now):
            stamps.popleft()
        forgotten = before - len(stamps)
        self._gone = [max(0, gone - forgotten) for gone in self._gone]

    def _reckon(self) -> None:
        stamps = self.stamps
        spare, next_leave, self.has_empty = UNLIMITED, ALWAYS, not self.windows
        for (units, seconds), gone in zip(self.windows, self._gone, strict=True):
            spare = min(spare, units - len(stamps) + gone)
            if gone < len(stamps):
                next_leave = min(next_leave, leaves_at(stamps[gone], seconds))
            else:
                self.has_empty = True
        self.spare = spare - self.pending
        self.next_leave = next_leave

    def tightest(self) -> tuple[Window, int]:
        """Return the window with the fewest units left, and how many it counts."""
        counts = [len(self.stamps) - gone + self.pending for gone in self._gone]
        pairs = zip(self.windows, counts, strict=True)
        return min(pairs, key=lambda pair: pair[0].units - pair[1])

    def due(self, cost: int) -> float:
        """Return from when on there is room; `ALWAYS`, that is never, while it depends on when others resume."""
        at = NEVER
        for (units, seconds), gone in zip(self.windows, self._gone, strict=True):
            used = len(self.stamps) - gone
            leaving = used + self.pending + cost - units
            if leaving > used:
                return ALWAYS
            if leaving > 0:
                at = max(at, leaves_at(self.stamps[gone + leaving - 1], seconds))
        return at

    def bound(self, now: float, ahead: int, cost: int) -> float:
        """Return the least instant at which a call can be admitted behind ``ahead`` units that wait in front of it.

        It is exact for calls that cost 1 and one window, if everybody in front stays and resumes at once.
        """
        at = now
        for (units, seconds), gone in zip(self.windows, self._gone, strict=True):
            used = len(self.stamps) - gone
            last = used + self.pending + ahead + cost - units - 1  # the last unit that must have left before
            if last < 0:
                continue
            rounds = max(0, -((used - 1 - last) // units))  # how often units that are not admitted yet must leave, too
            first = last - rounds * units
            began = max(now, leaves_at(self.stamps[gone + first], seconds)) if first >= 0 else now
            at = max(at, began + rounds * seconds)
        return at
