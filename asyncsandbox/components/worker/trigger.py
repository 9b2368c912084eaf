"""When scheduled jobs are due: at a steady interval, or by a line of cron.

>>> every = Every(60)
>>> every.begin(100.0)
>>> every.get_next(100.0), every.get_next(399.0)
(160.0, 400.0)
>>> Every(0)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: every_seconds=0 is not allowed: give a finite number > 0
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ..._core.settings import require_number
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from ..._core.clock import Clock


class Trigger(Protocol):
    """Says when something is due. Moments are seconds on a scale of its own."""

    def now(self, clock: Clock) -> float:
        """Return the present moment."""
        ...

    def begin(self, now: float) -> None:
        """Note the moment the worker started."""
        ...

    def get_next(self, after: float) -> float | None:
        """Return the first moment after another; None where there will be none."""
        ...

    def describe(self, at: float) -> str | None:
        """Return a moment as text where it is the same for every process; None where each has its own."""
        ...


class Every:
    """A steady interval, counted from the start of the worker; a late firing does not delay those after it."""

    def __init__(self, seconds: float) -> None:
        require_number("every_seconds", seconds, above=0)
        self._seconds = seconds
        self._start = 0.0

    def __repr__(self) -> str:
        return f"every {self._seconds:g} s"

    def now(self, clock: Clock) -> float:
        """Return monotonic seconds."""
        return clock.monotonic()

    def begin(self, now: float) -> None:
        """Count from this moment."""
        self._start = now

    def get_next(self, after: float) -> float:
        """Return the first moment after another."""
        passed = math.floor((after - self._start) / self._seconds)
        at = self._start + (passed + 1) * self._seconds
        # Where the quotient was rounded down across a whole number.
        return at if at > after else self._start + (passed + 2) * self._seconds

    def describe(self, at: float) -> None:
        """Return None: each process counts from its own start."""


class Cron:
    """A line of cron with its five fields, read as Debian's cron reads it, in a time zone."""

    def __init__(self, line: str, timezone: str) -> None:
        from zoneinfo import ZoneInfo

        from cronsim import CronSim, CronSimError

        try:
            self._zone = ZoneInfo(timezone)
        except (KeyError, OSError, TypeError, ValueError):  # what it raises where there is no such zone
            allowed = "give the name of a time zone such as 'Europe/Riga', or install tzdata"
            raise ConfigurationError("timezone", timezone, allowed) from None
        self._line = line
        try:
            following = next(CronSim(line, datetime(2000, 1, 1, tzinfo=self._zone)), None)
        except (CronSimError, AttributeError, TypeError) as error:
            allowed = f"give the five fields of a line of cron, as in '*/5 * * * *' ({error})"
            raise ConfigurationError("cron", line, allowed) from None
        if following is None:
            raise ConfigurationError("cron", line, "give a line that comes true at some time")

    def __repr__(self) -> str:
        return f"cron {self._line!r} in {self._zone}"

    def now(self, clock: Clock) -> float:
        """Return the time of day as seconds since 1970."""
        return clock.now().timestamp()

    def begin(self, now: float) -> None:
        """Do nothing: the calendar does not depend on when the worker started."""

    def get_next(self, after: float) -> float | None:
        """Return the first moment after another; None where there is none in the next 50 years."""
        from cronsim import CronSim

        moment = datetime.fromtimestamp(after, UTC).astimezone(self._zone)
        following = next(CronSim(self._line, moment), None)
        return None if following is None else following.timestamp()

    def describe(self, at: float) -> str:
        """Return the moment in UTC."""
        return datetime.fromtimestamp(at, UTC).isoformat()


def make_trigger(every_seconds: float | None, cron: str | None, timezone: str) -> Trigger:
    """Return the trigger that was asked for.

    Raises:
        ConfigurationError: Neither or both are given, or the one that is cannot be used.
    """
    if every_seconds is not None and cron is None:
        return Every(every_seconds)
    if cron is not None and every_seconds is None:
        return Cron(cron, timezone)
    raise ConfigurationError("every_seconds", every_seconds, "give either every_seconds or cron")
