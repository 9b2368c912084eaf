"""Hostile values and clocks are hostile in every way they promise, and Hypothesis itself survives them."""

import asyncio
import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import find, given

from asyncsandbox import Clock, Sandbox, irreversible
from asyncsandbox.testing import clocks, hostile_values
from asyncsandbox.testing.runs import run_in_world
from asyncsandbox.testing.strategies import Unprintable, UnsteadyClock


@irreversible("bell.ring", key=lambda times: f"{times} times")
async def ring(times: int) -> None:
    raise AssertionError("nobody rings in a rehearsal")


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


# ------------------------------------------------------------------ clocks

DAY = timedelta(days=1)


def check_that_only_the_time_of_day_is_set(clock: Clock) -> None:
    async def main() -> None:
        before = clock.monotonic()
        for _ in range(10):
            clock.now()
            await clock.sleep(1)
        assert clock.monotonic() == before + 10

    run_in_world(lambda _loop: main())


@given(clocks())
def test_monotonic_time_goes_on_whatever_is_set(clock: Clock) -> None:
    check_that_only_the_time_of_day_is_set(clock)


def test_the_check_catches_a_clock_without_monotonic_time() -> None:
    class OneTimeForAll(UnsteadyClock):
        def monotonic(self) -> float:
            return self.now().timestamp()

    with pytest.raises(AssertionError):
        check_that_only_the_time_of_day_is_set(OneTimeForAll({3: -60}))


def gap(clock: Clock) -> timedelta:
    async def main() -> timedelta:
        before = clock.now()
        await clock.sleep(1)
        return clock.now() - before

    return run_in_world(lambda _loop: main())


@pytest.mark.parametrize(
    "kind",
    [
        lambda clock: gap(clock) > DAY,
        lambda clock: gap(clock) < -DAY,
        lambda clock: gap(clock) == timedelta(),
        lambda clock: gap(clock) == timedelta(seconds=1),
    ],
    ids=["forward", "back", "still", "steady"],
)
def test_every_promised_kind_of_clock_is_drawn(kind: Callable[[Clock], bool]) -> None:
    assert isinstance(find(clocks(), kind), Clock)


def test_the_simplest_clock_is_one_that_nobody_sets() -> None:
    assert repr(find(clocks(), lambda _clock: True)) == "UnsteadyClock({}, seed=0)"


def test_time_that_stood_still_goes_on_where_the_clock_is_set() -> None:
    async def main() -> list[float]:
        clock = UnsteadyClock({1: None, 3: 100})
        readings = []
        for _ in range(5):
            readings.append(clock.now())
            await asyncio.sleep(10)
        return [(each - readings[0]).total_seconds() for each in readings]

    assert run_in_world(lambda _loop: main()) == [0, 10, 10, 130, 140]


def test_equal_seeds_give_equal_chance() -> None:
    mine, other, third = UnsteadyClock({}, seed=1), UnsteadyClock({}, seed=1), UnsteadyClock({}, seed=2)
    assert (mine.random(), mine.random_hex(4)) == (other.random(), other.random_hex(4))
    assert third.random_hex(4) != mine.random_hex(4)
    assert 0 <= third.random() < 1


@given(clocks())
def test_a_sandbox_rehearses_under_any_clock(clock: Clock) -> None:
    async def main() -> int:
        async with Sandbox(clock=clock) as box:
            await ring(3)
            assert await box.is_ready()
            return len((await box.make_plan()).actions)

    assert run_in_world(lambda _loop: main()) == 1
