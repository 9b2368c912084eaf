"""Amounts that stand out: the one charge of 4,980.00 among four hundred of 9.90.

The modified z-score of Iglewicz and Hoaglin (1993): the distance from the median in units of the median absolute
deviation. One huge amount does not hide itself in it, as it would in a mean. Where more than half of the amounts are
equal that deviation is 0, and the mean absolute deviation takes its place.

>>> find_outliers([9, 10, 10, 10, 10, 11, 11, 12, 12, 4980])
[9]
>>> find_outliers([9, 10, 4980])
[]
"""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ENOUGH: Final = 10
"""With fewer amounts nothing can be said."""
LIMIT: Final = 3.5
"""The score above which Iglewicz and Hoaglin call a value an outlier."""
_MEDIAN_DEVIATION_OF_NORMAL: Final = 0.6745
_MEAN_DEVIATION_OF_NORMAL: Final = 0.7979


def find_outliers(amounts: Sequence[float]) -> list[int]:
    """Return the positions of the amounts that stand out, the farthest first."""
    if len(amounts) < ENOUGH:
        return []
    middle = median(amounts)
    distances = [abs(amount - middle) for amount in amounts]
    spread = median(distances) / _MEDIAN_DEVIATION_OF_NORMAL or fmean(distances) / _MEAN_DEVIATION_OF_NORMAL
    far = [position for position, distance in enumerate(distances) if distance > LIMIT * spread]
    return sorted(far, key=lambda position: -distances[position])
