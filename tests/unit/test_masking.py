"""What is masked stays masked in whatever text it turns up."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncsandbox._core.masking import cover, find_masked, holds
from asyncsandbox._core.results import encode_result

SECRETS = st.text(st.characters(codec="utf-8"), min_size=6, max_size=20)
Pair = namedtuple("Pair", "card total")  # noqa: PYI024 - untyped, as users write them


@dataclass
class Payment:
    card: object
    total: int = 12


class Plain:
    def __init__(self, card: object) -> None:
        self.card = card


def wrap(secret: object, how: str) -> dict[str, Any]:
    return {
        "argument": {"card": secret},
        "field": {"payment": Payment(secret)},
        "named": {"payment": Pair(secret, 12)},
        "list": {"payments": [{"card": [secret]}, None, True]},
        "object": {"payment": Plain({"inner": (secret,)})},
    }[how]


WRAPPINGS = st.sampled_from(["argument", "field", "named", "list", "object"])


@given(secret=SECRETS, how=WRAPPINGS, before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_masked_text_is_found_and_covered_wherever_it_stands(secret: str, how: str, before: str, after: str) -> None:
    assume("*" not in secret)
    masked = find_masked(wrap(secret, how), {"card"})
    assert secret in masked
    assert secret not in cover(f"{before}{secret}{after}", masked).replace("******", "")
    assert holds(encode_result({"said": f"{before}{secret}{after}"}).data, masked)
    assert holds(encode_result([secret.encode()]).data, masked)


@given(secret=SECRETS, how=WRAPPINGS)
def test_nothing_is_found_where_nothing_is_named(secret: str, how: str) -> None:
    assert find_masked(wrap(secret, how), frozenset()) == ()
    assert find_masked(wrap(secret, how), {"other"}) == ()


def test_numbers_count_where_they_stand_alone() -> None:
    masked = find_masked({"cvc": 123, "flag": True, "none": None, "empty": ""}, {"cvc", "flag", "none", "empty"})
    assert masked == ("123",)
    assert cover("123, 1234 and a123", masked) == "******, 1234 and a123"
    assert holds(b'{"cvc":123}', masked)
    assert not holds(b'{"total":1234}', masked)


def test_what_a_repr_escapes_is_covered_too() -> None:
    masked = find_masked({"card": "a'b\"c\nd\\e"}, {"card"})
    assert cover(repr(ValueError("a'b\"c\nd\\e")), masked) == "ValueError('******')"


def test_what_is_nested_without_end_ends() -> None:
    loop: list[Any] = ["secret text"]
    loop.append(loop)
    assert find_masked({"card": loop}, {"card"}) == ("secret text",)


def test_bytes_that_are_no_text_and_half_a_character() -> None:
    (masked,) = find_masked({"card": b"\xff\xfe secret"}, {"card"})
    assert cover(masked, [masked]) == "******"
    (masked,) = find_masked({"card": "half \ud800"}, {"card"})
    assert holds(encode_result("half \ud800").data, [masked])


@pytest.mark.parametrize("value", [print, len])
def test_a_function_is_one_thing(value: object) -> None:
    assert find_masked({"card": value}, {"card"}) == (str(value),)
