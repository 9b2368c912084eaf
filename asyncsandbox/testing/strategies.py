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

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Unprintable:
    """An object of which no text can be made; its repr is for Hypothesis' own reports."""

    def __repr__(self) -> str:
        return "Unprintable()"

    def __str__(self) -> str:
        raise RuntimeError("it cannot be printed")

    def __iter__(self) -> Any:
        raise RuntimeError("it cannot be iterated over")


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
        st.floats(),
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
