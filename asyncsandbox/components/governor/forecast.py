"""How long a number of calls takes at least under limits that nobody has used yet.

>>> get_least_seconds((Window(100, 60.0), Window(10, 1.0)), 340)
183.0
"""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING

from .window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Window", "get_least_seconds"]


def get_least_seconds(windows: Sequence[Window], units: int) -> float:
    """Return when the last of so many units is admitted, if each comes as early as the windows allow.

    Unit ``n`` of a window of ``N`` comes at the earliest ``window_seconds`` after unit ``n - N``.
    """
    if len(windows) == 1:
        return max(0.0, (units - 1) // windows[0].units * windows[0].seconds)
    # One queue per window of when its last units leave, so that the next unit finds at its head when it may come.
    leaving = [(deque(repeat(0.0, window.units)), window.seconds) for window in windows if window.units < units]
    at = 0.0
    for _ in repeat(None, units if leaving else 0):
        at = max(queue.popleft() for queue, _ in leaving)
        for queue, seconds in leaving:
            queue.append(at + seconds)
    return at
