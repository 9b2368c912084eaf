"""How late a loop is: percentiles over the newest lags.

>>> window = LagWindow(100)
>>> for milliseconds in range(1, 101):
...     window.add(milliseconds / 1000)
>>> window.summarize()
LagSummary(samples=100, p50_seconds=0.05, p95_seconds=0.095, p99_seconds=0.099, max_seconds=0.1)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_NOTHING_YET = (0.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LagSummary:
    """How late the loop was lately. A percentile is a lag that occurred (nearest rank: Hyndman and Fan 1996, type 1).

    Attributes:
        samples: How many lags it is made of; without any, the others are 0.
        p50_seconds: Half of them were no longer than this.
        p95_seconds: 95 of 100 were no longer than this.
        p99_seconds: 99 of 100 were no longer than this.
        max_seconds: The longest.
    """

    samples: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float


class LagWindow:
    """The newest lags.

    Args:
        size: How many are kept (>= 1).
    """

    __slots__ = ("_lags",)

    def __init__(self, size: int) -> None:
        self._lags: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        """Add one lag; the oldest goes where there are too many."""
        self._lags.append(seconds)

    def summarize(self) -> LagSummary:
        """Return the percentiles of what is in the window."""
        ordered = sorted(self._lags) or _NOTHING_YET

        def percentile(percent: int) -> float:
            return ordered[-(-percent * len(ordered) // 100) - 1]

        return LagSummary(
            samples=len(self._lags),
            p50_seconds=percentile(50),
            p95_seconds=percentile(95),
            p99_seconds=percentile(99),
            max_seconds=ordered[-1],
        )
