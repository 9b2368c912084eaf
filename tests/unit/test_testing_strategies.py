"""Hostile values are hostile in every way they promise, and Hypothesis itself survives them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import find

from asyncsandbox.testing import hostile_values
from asyncsandbox.testing.strategies import Unprintable


def contains_itself(value: Any) -> bool:
    return isinstance(value, list) and any(each is value for each in value)


@pytest.mark.parametrize(
    "kind",
    [
        lambda value: isinstance(value, float) and math.isnan(value),
        lambda value: isinstance(value, int) and abs(value) >= 2**64,
        lambda value: isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value),
        lambda value: isinstance(value, bytes),
        lambda value: isinstance(value, dict) and None in value,
        contains_itself,
        lambda value: isinstance(value, Unprintable),
    ],
    ids=["nan", "huge", "surrogate", "bytes", "keys", "cycle", "unprintable"],
)
def test_every_promised_kind_is_drawn(kind: Callable[[Any], bool]) -> None:
    assert kind(find(hostile_values(), kind))


def test_an_unprintable_object_refuses_text_and_iteration() -> None:
    with pytest.raises(RuntimeError):
        str(Unprintable())
    with pytest.raises(RuntimeError):
        iter(Unprintable())
    with pytest.raises(TypeError):
        json.dumps(Unprintable())
