"""A sweep tries nothing, every single thing, and second pauses behind those that led somewhere else, up to its cap."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from asyncsandbox.testing import Scenario, Simulation, Sweep
from asyncsandbox.testing.scenario import Turn
from asyncsandbox.testing.seeing import SeeingLoop
from asyncsandbox.testing.simulated import Simulated


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Races:
    """Lost updates, a second apart, none of which changes how far the run goes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = 0

    async def race(self, at: float) -> None:
        balance = 0

        async def deposit(delay: int) -> None:
            nonlocal balance
            await asyncio.sleep(at)
            await turns(delay)
            before = balance
            await turns(1)
            balance = before + 1

        await asyncio.gather(deposit(0), deposit(5))
        self.lost += balance != 2

    async def run(self) -> None:
        await asyncio.gather(*map(self.race, range(self.number)), turns(8), turns(8))


def swept(what: Sweep, body: Callable[[Simulation], Any]) -> tuple[list[Scenario], Simulated, BaseException | None]:
    """Return the scenarios of a sweep in the order they are tried, and what came of it."""
    tried: list[Scenario] = []

    async def test(sim: Simulation) -> None:
        tried.append(sim.scenario)
        await body(sim)

    simulated = Simulated(function=test)
    try:
        simulated.check(what, {})
    except AssertionError as error:
        return tried, simulated, error
    return tried, simulated, None


async def two_races(_sim: Simulation) -> None:
    races = Races(2)
    await races.run()
    assert races.lost < 2, "one of them holds"


async def one_race(_sim: Simulation) -> None:
    await Races(1).run()


# ---------------------------------------------------------------- the order


def test_two_races_that_each_leave_no_trace_are_found_together() -> None:
    tried, simulated, error = swept(Sweep(pauses=True, pairs=True), two_races)
    assert str(error).startswith("one of them holds")
    assert simulated.report is not None
    assert len(simulated.report.scenario.pauses) == 2
    singles = [scenario for scenario in tried if scenario.size == 1]
    assert tried[:2] == [Scenario(), Scenario()]
    assert tried[2 : 2 + len(singles)] == singles
    assert simulated.runs < 2 + len(singles) + 20, "two that both lead elsewhere come first"


@contextmanager
def variant(method: str, broken: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeeingLoop, method, broken)
        yield


def test_they_are_not_found_by_one_who_counts_steps_only() -> None:
    with variant("sight", lambda loop, *_: hash(loop.length)):
        assert swept(Sweep(pauses=True, pairs=True), two_races)[2] is None


numbers = count()


async def counted_races(sim: Simulation) -> None:
    number = next(numbers)  # another one in every run
    await two_races(sim)
    assert number >= 0


def test_a_value_that_is_never_the_same_hides_nothing() -> None:
    assert swept(Sweep(pauses=True, pairs=True, most=150), counted_races)[2] is not None
    with variant("unsteady", lambda *_: set()):
        assert swept(Sweep(pauses=True, pairs=True, most=150), counted_races)[2] is None


def test_without_pairs_it_runs_once_more_than_there_are_single_ones() -> None:
    tried, _, error = swept(Sweep(pauses=True), two_races)
    assert error is None
    assert [scenario.size for scenario in tried] == [0] + [1] * (len(tried) - 1)


@given(st.integers(0, 120))
def test_the_cap_holds(most: int) -> None:
    tried, _, error = swept(Sweep(pauses=True, pairs=True, most=most), one_race)
    assert error is None
    assert len(tried) <= most + 2
    assert len(set(tried)) >= len(tried) - 1


def test_no_room_for_second_pauses_is_no_reason_to_look() -> None:
    tried, _, _ = swept(Sweep(pauses=True, pairs=True, most=5), one_race)
    assert [scenario.size for scenario in tried] == [0, 1, 1, 1, 1, 1]


def test_a_discarded_pair_does_not_end_the_sweep() -> None:
    async def body(sim: Simulation) -> None:
        await Races(1).run()
        if len(sim.scenario.pauses) > 1:
            raise UnsatisfiedAssumption

    tried, _, error = swept(Sweep(pauses=True, pairs=True), body)
    assert error is None
    assert sum(scenario.size == 2 for scenario in tried) > 5


# ---------------------------------------------------------------- second pauses


def turn(pause: int, **fields: Any) -> Turn:
    return Turn(**{"pause": pause, "moment": ("a", pause), "points": 4, "moments": {}, **fields})


@pytest.mark.parametrize(("tried", "pairs"), [(0, 3), (398, 2), (400, 0), (500, 0)])
def test_second_pauses_take_the_room_that_single_ones_left(tried: int, pairs: int) -> None:
    doubles = Sweep(pauses=True, pairs=True).seconds([turn(1), turn(2)], tried)
    assert len(set(doubles)) == len(doubles) == pairs
    assert set(doubles) <= {Scenario(pauses=(1, 2)), Scenario(pauses=(1, 3)), Scenario(pauses=(2, 3))}


def test_first_both_that_led_elsewhere_then_those_that_took_other_steps_then_the_rest() -> None:
    found = [turn(0, moments={("a", 2): 3, ("a", 1): 0}), turn(1), turn(2, longer=True)]
    doubles = [double.pauses for double in Sweep(pauses=True, pairs=True).seconds(found, 0)]
    assert doubles == [(0, 3), (2, 3), (0, 1), (0, 2), (1, 2), (1, 3)]
