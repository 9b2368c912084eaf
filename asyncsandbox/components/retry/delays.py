"""How long to wait before the next attempt: full jitter, and what the provider asked for.

The wait is a random part of the backoff. Where the provider named a time (Retry-After), the wait begins there: never
earlier, and not at the same moment for all who were told so.

Source of full jitter: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. Source of the forms of
Retry-After: RFC 9110, 10.2.3 and 5.6.7.

>>> from datetime import datetime, timedelta, timezone
>>> full_jitter(2, base=0.5, cap=30, chance=0.75)
1.5
>>> now = datetime(1994, 11, 6, 8, 49, 7, tzinfo=timezone.utc)
>>> [read_seconds(value, now) for value in ("30", timedelta(minutes=2), "Sun, 06 Nov 1994 08:49:37 GMT", "soon")]
[30.0, 120.0, 30.0, None]
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_MOST_SECONDS = 1e300  # an integer may be longer than a float can be


def full_jitter(doublings: int, *, base: float, cap: float, chance: float) -> float:
    """Return a part of ``base`` doubled so often, or of ``cap`` where that is less.

    Args:
        doublings: 0 before the first retry.
        base: Seconds.
        cap: Seconds.
        chance: Which part of it, in [0, 1).
    """
    try:
        backoff = math.ldexp(base, doublings)
    except OverflowError:
        return chance * cap
    return chance * min(cap, backoff)


def find_retry_after(error: BaseException, now: datetime) -> float | None:
    """Return how long the provider asked to wait, in seconds (>= 0), or None where it did not say so in earnest.

    It is looked for in ``error.retry_after``, ``error.retry_after_seconds``, and the header ``Retry-After`` of
    ``error.response.headers`` (as httpx and requests have it) and of ``error.headers`` (as aiohttp and urllib have it).
    """
    for value in _candidates(error):
        seconds = read_seconds(value, now)
        if seconds is not None:
            return seconds
    return None


def read_seconds(value: object, now: datetime) -> float | None:
    """Return the seconds from ``now`` that a number, a timedelta, or the text of a header means; None for none."""
    try:
        match value:
            case bool():
                return None
            case int() | float():
                seconds = max(-1.0, min(value, _MOST_SECONDS))
            case timedelta():
                seconds = value.total_seconds()
            case str() if _NUMBER.fullmatch(value.strip()):
                seconds = float(value)
            case str():
                until = parsedate_to_datetime(value)
                # One of the three forms of a date does not name its zone, which is UTC.
                seconds = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()
            case _:
                return None
    except Exception:  # noqa: BLE001 - whatever was sent, it is no reason to fail
        return None
    return seconds if seconds >= 0 else None


def _candidates(error: BaseException) -> Iterator[object]:
    yield _get(error, "retry_after")
    yield _get(error, "retry_after_seconds")
    yield _get_header(_get(_get(error, "response"), "headers"))
    yield _get_header(_get(error, "headers"))


def _get(owner: object, name: str) -> object:
    with suppress(Exception):  # a property of somebody else's class may raise anything
        return getattr(owner, name, None)
    return None


def _get_header(headers: object) -> object:
    with suppress(Exception):  # not a mapping of text, or none at all
        for name, value in headers.items():  # type: ignore[attr-defined]
            if name.lower() == "retry-after":
                return value
    return None
