"""Hypothesis strategies for inputs that break things.

>>> from hypothesis import given
>>> from asyncsandbox import LogSettings, MemorySink, StructuredLogger
>>> @given(hostile_values())
... def test_a_log_line_survives(value: object) -> None:
...     sink = MemorySink()
...     StructuredLogger(settings=LogSettings(sinks=(sink,))).log_action("paid", amount=value)
...     assert len(sink.get_lines()) == 1
>>> test_a_log_line_survives()
"""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from .._core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from hypothesis.strategies import SearchStrategy

    from .._core.clock import Clock

_MAX_JUMP_SECONDS = 10 * 365 * 86_400
_READINGS = 100


class Unprintable:
    """An object of which no text can be made; its repr is for Hypothesis' own reports."""

    def __repr__(self) -> str:
        return "Unprintable()"

    def __str__(self) -> str:
        raise RuntimeError("it cannot be printed")

    def __iter__(self) -> Any:
        raise RuntimeError("it cannot be iterated over")


class UnsteadyClock(SystemClock):
    """A clock whose time of day is set while it is being used; see `clocks`.

    Args:
        moves: By reading of the time of day, from 0: seconds by which it is set forward or back just before, or None
            to have it stand still until the next of them.
        seed: Where its random numbers come from.

    Concurrency: for one thread. Cancellation: of `sleep`, as of `asyncio.sleep`.
    """

    __slots__ = ("_chance", "_moves", "_offset", "_readings", "_seed", "_stands_at")

    def __init__(self, moves: Mapping[int, float | None], *, seed: int = 0) -> None:
        self._moves = moves
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - a test keeps no secrets
        self._offset = timedelta()
        self._readings = 0
        self._stands_at: datetime | None = None

    def __repr__(self) -> str:
        return f"UnsteadyClock({self._moves!r}, seed={self._seed})"

    def now(self) -> datetime:
        """Return the time of day as it is set, in UTC."""
        reading, self._readings = self._readings, self._readings + 1
        if reading in self._moves:
            seconds = self._moves[reading]
            self._stands_at = super().now() + self._offset if seconds is None else None
            self._offset += timedelta(seconds=seconds or 0)
        return self._stands_at or super().now() + self._offset

    def random(self) -> float:
        """Return a number in [0, 1) that the seed decides."""
        return self._chance.random()

    def random_hex(self, size: int) -> str:
        """Return ``size`` bytes that the seed decides, as hexadecimal digits."""
        return self._chance.randbytes(size).hex()


def clocks() -> SearchStrategy[Clock]:
    """Draw clocks whose time of day jumps, stands still or goes back by up to ten years, as clocks of machines do.

    Monotonic time and sleep are those of the running loop, so they never go back. Random numbers come from a drawn
    seed. For `Sandbox(clock=...)` and for whatever else takes a `Clock`. It shrinks to a clock that nobody sets.

    Returns:
        A Hypothesis strategy. What it draws belongs to one example: the readings are counted.

    Example:
        >>> from hypothesis import given
        >>> @given(clocks())
        ... def test_a_duration_is_never_negative(clock: Clock) -> None:
        ...     began = clock.monotonic()
        ...     assert clock.monotonic() >= began
        >>> test_a_duration_is_never_negative()
    """
    seconds = st.floats(-_MAX_JUMP_SECONDS, _MAX_JUMP_SECONDS) | st.integers(-_MAX_JUMP_SECONDS, _MAX_JUMP_SECONDS)
    moves = st.dictionaries(st.integers(0, 5) | st.integers(0, _READINGS), st.none() | seconds, max_size=4)
    return st.builds(UnsteadyClock, moves, seed=st.integers(0, 2**32))


def hostile_values() -> SearchStrategy[Any]:
    """Draw values that break naive serialisation and logging.

    Not a number, numbers beyond every range, lone surrogates, control characters, bytes, sets, keys that are no text,
    containers inside themselves, and objects of which no text can be made.

    Returns:
        A Hypothesis strategy.

    Example:
        >>> from hypothesis import find
        >>> find(hostile_values(), lambda value: isinstance(value, Unprintable))
        Unprintable()
    """
    text = st.text(st.characters(exclude_categories=())) | st.sampled_from(["\ud800", "\x00", "\x1b[2J", "\u2028"])
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers() | st.sampled_from([2**64, -(10**400)]),
        st.floats() | st.sampled_from([math.nan, math.inf]),
        st.decimals(),
        text,
        st.binary(),
        st.datetimes(),
        st.uuids(),
        st.builds(Unprintable),
        st.sampled_from([object, len, ValueError("a\nb")]),
    )
    keys = text | st.integers() | st.none()
    nested = st.recursive(
        plain,
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner) | st.sets(st.integers()),
        max_leaves=8,
    )
    # Plain ones stand beside nested ones, or nearly everything drawn would be a container.
    return plain | nested | st.lists(plain).map(_inside_itself)


def _inside_itself(items: list[Any]) -> list[Any]:
    items.append(items)
    return items
