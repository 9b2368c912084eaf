"""Settings: what is out of range is refused by name, and the environment says the same as keywords do."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox._core.settings import (
    keywords_from_environ,
    require_name,
    require_number,
    settings_from_environ,
)
from asyncsandbox.errors import ConfigurationError

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 10**400])
BOUNDS = st.none() | st.integers(-5, 5) | st.floats(-5, 5)


@given(NUMBERS | st.booleans() | st.text() | st.none(), BOUNDS, BOUNDS, BOUNDS, st.booleans())
def test_a_number_passes_exactly_if_it_is_in_range(
    value: object, above: float | None, at_least: float | None, at_most: float | None, whole: bool
) -> None:
    fits = (
        isinstance(value, int if whole else (int, float))
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
    )
    bounds = {"above": above, "at_least": at_least, "at_most": at_most}
    if fits:
        require_number("X.y", value, **bounds, whole=whole)
        return
    with pytest.raises(ConfigurationError) as caught:
        require_number("X.y", value, **bounds, whole=whole)
    assert caught.value.field == "X.y"
    assert caught.value.value is value
    for sign, bound in zip((">", ">=", "<="), bounds.values(), strict=True):
        assert bound is None or f"{sign} {bound:g}" in caught.value.allowed


@given(st.text() | st.integers() | st.none())
def test_a_name_is_text_with_something_in_it(value: object) -> None:
    fits = isinstance(value, str) and value.strip() != ""
    if fits:
        require_name("X.y", value)
    else:
        with pytest.raises(ConfigurationError, match="not empty"):
            require_name("X.y", value)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class PumpSettings:
    litres: float = 1.0
    strokes: int = 1
    is_on: bool = False
    limit_seconds: float | None = None
    colour: Colour = Colour.RED
    names: tuple[str, ...] = ()
    made_up: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        require_number("PumpSettings.litres", self.litres, above=0)


def write(value: object) -> str:
    """Write a value as a person would into an environment variable."""
    if value is None:
        return "null"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


NAMES = st.text("abc_-é", min_size=1)
PUMPS = st.fixed_dictionaries(
    {},
    optional={
        "litres": st.floats(min_value=1e-9, allow_infinity=False),
        "strokes": st.integers(-(2**63), 2**63 - 1),
        "is_on": st.booleans(),
        "limit_seconds": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "colour": st.sampled_from(Colour),
        "names": st.lists(NAMES).map(tuple),
    },
)


@given(PUMPS)
def test_the_environment_says_the_same_as_keywords(given_: dict[str, object]) -> None:
    environ = {f"SHOP_PUMP__{name.upper()}": write(value) for name, value in given_.items()}
    read = settings_from_environ(PumpSettings, "SHOP_PUMP__", {**environ, "HOME": "/"})
    assert read == (PumpSettings(**given_) if given_ else None)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("Yes", True), ("no", False), (" TRUE ", True)])
def test_yes_has_many_spellings(text: str, value: bool) -> None:
    assert settings_from_environ(PumpSettings, "P_", {"P_IS_ON": text}).is_on is value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("P_LITRES", "-1", "PumpSettings.litres"),
        ("P_LITRES", "much", "P_LITRES='much'"),
        ("P_LITRES", "nan", "PumpSettings.litres"),
        ("P_STROKES", "1.5", "P_STROKES='1.5'"),
        ("P_IS_ON", "maybe", "P_IS_ON='maybe'"),
        ("P_COLOUR", "green", "P_COLOUR='green'"),
        ("P_LITERS", "1", "known: P_colour, P_is_on".upper()),
        ("P_MADE_UP", "1", "known: P_colour"),
    ],
)
def test_what_the_environment_gets_wrong_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings_from_environ(PumpSettings, "P_", {name: text})
    assert said.lower() in str(caught.value).lower()


def read_keywords(environ: dict[str, str]) -> dict[str, object]:
    options = {"dry_run": bool | None, "database_url": str}
    return keywords_from_environ(environ, "SHOP_", options=options, settings={"pump": PumpSettings})


@given(PUMPS, st.none() | st.booleans(), st.none() | st.text())
def test_options_and_settings_are_read_together(pump: dict[str, object], dry_run: bool | None, url: str | None) -> None:
    environ = {f"SHOP_PUMP__{name.upper()}": write(value) for name, value in pump.items()}
    environ |= {"HOME": "/"}
    expected: dict[str, object] = {"pump": PumpSettings(**pump)} if pump else {}
    if dry_run is not None:
        environ["SHOP_DRY_RUN"] = write(dry_run)
        expected["dry_run"] = dry_run
    if url is not None:
        environ["SHOP_DATABASE_URL"] = url
        expected["database_url"] = url
    assert read_keywords(environ) == expected


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="SHOP_DATABASE_URL, SHOP_DRY_RUN, SHOP_PUMP__"):
        read_keywords({"SHOP_DRYRUN": "1"})
