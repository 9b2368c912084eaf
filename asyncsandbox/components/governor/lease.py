"""Units of a shared limit that one process may admit until a moment of the store's time.

Whoever grants a lease counts all of its units at its end. What is told of it later, how many were used and when the
last, is never too few and never too early: it goes by when the lease was asked for, since it was granted after that.

>>> lease = Lease("1", units=2, asked=Reading(100.0, 7000.0), seconds=5.0, until=1000.0)
>>> lease.take(Reading(101.0, 7001.0), 1), lease.take(Reading(105.0, 7005.0), 1)
(True, False)
>>> round(lease.last_at, 2)  # in the store's time, to be on the safe side with clocks that do not go alike
996.02
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ..._core.clock import Clock

_DRIFT: Final = 0.98  # how much of a lease is used: clocks of two machines do not go quite alike


class Reading(NamedTuple):
    """What both clocks of a process say.

    Attributes:
        monotonic: May stand still while the machine sleeps.
        wall: The time of day, which may be set.
    """

    monotonic: float
    wall: float

    @classmethod
    def of(cls, clock: Clock) -> Reading:
        """Read both."""
        return cls(clock.monotonic(), clock.now().timestamp())

    def since(self, other: Reading) -> float:
        """Return how many seconds may have passed since then, by whichever clock says more."""
        return max(self.monotonic - other.monotonic, self.wall - other.wall)


class Lease:
    """Units that may be admitted here until a moment.

    Attributes:
        id: Its name.
        left: Units that were not used yet.
        used: Units that were.
        last_at: When the last was used at the latest, in the store's time; when it was granted, where none was.

    Args:
        name: Its name.
        units: How many.
        asked: When it was asked for. Granted was it later, so by this count it ends too early.
        seconds: How long it lasts.
        until: The end of that in the store's time.
    """

    __slots__ = ("_asked", "_granted_at", "_seconds", "_until", "id", "last_at", "left", "used")

    def __init__(self, name: str, *, units: int, asked: Reading, seconds: float, until: float) -> None:
        self.id = name
        self.left = units
        self.used = 0
        self.last_at = self._granted_at = until - seconds
        self._asked = asked
        self._seconds = seconds
        self._until = until

    def ends_in(self, now: Reading) -> float:
        """Return in how many seconds nothing more may be admitted; 0 or less where that is so."""
        return self._seconds * _DRIFT - now.since(self._asked)

    def take(self, now: Reading, cost: int) -> bool:
        """Admit a call, if it may be."""
        if self.left < cost or self.ends_in(now) <= 0:
            return False
        self.left -= cost
        self.used += cost
        self.last_at = max(self.last_at, min(self._until, self._granted_at + now.since(self._asked) / _DRIFT))
        return True

    def release(self) -> None:
        """Do nothing: units leave with time."""

    def give_back(self, _stamp: float, cost: int) -> None:
        """Take back what was not used after all; of no use any more where the lease is over."""
        self.left += cost
        self.used -= cost
