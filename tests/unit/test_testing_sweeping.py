"""A sweep tries nothing, every single thing, second pauses behind those that led elsewhere, and crowds, as it may."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from asyncsandbox.testing import Scenario, Simulation, Sweep
from asyncsandbox.testing.moments import MomentLoop
from asyncsandbox.testing.scenario import Extent
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

        await asyncio.gather(deposit(0), deposit(2))
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


async def try_again(_sim: Simulation) -> None:
    """Lose an update only if the second try is disturbed, too."""
    balance = version = 0

    async def deposit(delay: int) -> None:
        nonlocal balance, version
        await turns(delay)
        for is_last in (False, True):
            before, seen = balance, version
            await turns(1)
            if is_last or version == seen:
                balance, version = before + 1, version + 1
                return
            await asyncio.sleep(1)

    async def late() -> None:
        await asyncio.sleep(1)
        await deposit(3)

    await asyncio.gather(deposit(0), deposit(4), late(), turns(6))
    assert balance == 3, "no deposit is lost"


# ---------------------------------------------------------------- the order


def test_first_every_single_thing_then_second_pauses_behind_those_that_led_elsewhere() -> None:
    tried, simulated, error = swept(Sweep(pauses=2), try_again)
    assert str(error).startswith("no deposit is lost")
    assert simulated.report is not None
    assert len(simulated.report.scenario.pauses) == 2
    singles = [scenario for scenario in tried if scenario.size == 1]
    assert tried[: 1 + len(singles)] == [Scenario(), *singles]
    behind = {scenario.pauses[0] for scenario in tried if scenario.size == 2}
    assert len(behind) < len(singles) / 2


def test_what_else_may_go_wrong_comes_first() -> None:
    tried, _, error = swept(Sweep(pauses=2, jumps=True), one_race)
    assert error is None
    assert [len(scenario.jumps) for scenario in tried[:4]] == [0, 1, 1, 0]


def test_with_one_pause_at_a_time_it_runs_once_more_than_there_are_single_ones() -> None:
    tried, _, error = swept(Sweep(pauses=1), two_races)
    assert error is None
    assert [scenario.size for scenario in tried] == [0] + [1] * (len(tried) - 1)
    assert swept(Sweep(pauses=1), try_again)[2] is None


@given(st.integers(0, 200), st.integers(0, 1))
def test_the_cap_holds(most: int, crowds: int) -> None:
    tried, _, error = swept(Sweep(pauses=3, most=most, crowds=crowds), one_race)
    assert error is None
    assert len(tried) <= most + 1


@pytest.mark.parametrize("crowds", [0, 1])
def test_a_discarded_scenario_does_not_end_the_sweep(crowds: int) -> None:
    async def body(sim: Simulation) -> None:
        await Races(1).run()
        if sim.scenario:
            raise UnsatisfiedAssumption

    tried, _, error = swept(Sweep(pauses=3, crowds=crowds), body)
    assert error is None
    assert len(tried) > 10


@pytest.mark.parametrize(("tried", "pairs"), [(0, 3), (398, 2), (400, 0), (500, 0)])
def test_second_pauses_take_the_room_that_single_ones_left(tried: int, pairs: int) -> None:
    turned = [(Scenario(pauses=(1,)), Extent(points=4)), (Scenario(pauses=(2,)), Extent(points=4))]
    doubles = Sweep(pauses=2).seconds(turned, tried)
    assert len(set(doubles)) == len(doubles) == pairs
    assert set(doubles) <= {Scenario(pauses=(1, 2)), Scenario(pauses=(1, 3)), Scenario(pauses=(2, 3))}


# ---------------------------------------------------------------- crowds

SEED = 30  # of crowds of which one hits both races


def test_two_races_of_which_neither_shows_are_found_by_a_crowd_that_is_made_small() -> None:
    tried, simulated, error = swept(Sweep(pauses=3, crowds=SEED), two_races)
    assert str(error).startswith("one of them holds")
    assert simulated.report is not None
    assert len(simulated.report.scenario.pauses) == 2
    assert any(len(scenario.pauses) == 3 for scenario in tried)
    assert error is not None
    assert repr(simulated.report.scenario) in "\n".join(error.__notes__)
    assert error.__context__ is None


def test_they_are_not_found_by_second_pauses_nor_by_crowds_that_move() -> None:
    """A pause moves the decision points behind it: the same two numbers are not the same two steps."""
    assert swept(Sweep(pauses=3), two_races)[2] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MomentLoop, "may_pause", by_number)
        assert all(swept(Sweep(pauses=3, crowds=seed), two_races)[2] is None for seed in (SEED, 33, 40, 45, 48))


def by_number(loop: MomentLoop, _handle: Any) -> bool:
    moment = ("point", loop.points - 1)
    if moment in loop._at:
        loop.paused = (*loop.paused, loop.points - 1)
        return True
    loop.places.setdefault(moment, []).append(moment)
    return False


def late(*wanted: str) -> Callable[[Simulation], Any]:
    """Return a test that fails where all of these come after the last one."""

    async def body(_sim: Simulation) -> None:
        seen: list[str] = []

        async def work(name: str, steps: int) -> None:
            await turns(steps)
            seen.append(name)

        await asyncio.gather(*(work(name, 2) for name in "abc"), work("last", 6))
        assert not set(wanted) <= set(seen[seen.index("last") :]), "all of them were late"

    return body


@pytest.mark.parametrize("wanted", ["ab", "abc"])
def test_a_crowd_is_made_as_small_as_it_can_be(wanted: str) -> None:
    _, simulated, error = swept(Sweep(pauses=5, crowds=1), late(*wanted))
    assert error is not None
    assert simulated.report is not None
    assert simulated.report.scenario.size == len(wanted)


def test_a_crowd_that_fails_only_while_it_is_looked_at_is_no_failure() -> None:
    calls = 0

    async def body(sim: Simulation) -> None:
        nonlocal calls
        calls += 1
        await Races(1).run()
        assert sim.scenario.pauses != (0, 1, 2), "only a crowd is called so"

    assert swept(Sweep(pauses=3, crowds=1), body)[2] is None
    assert calls > 10


PLACES = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), max_size=9)


@given(PLACES, st.integers(2, 4), st.integers(0, 50))
def test_crowds_are_the_same_every_time_and_within_the_room(places: list[list[int]], pauses: int, most: int) -> None:
    sweep = Sweep(pauses=pauses, most=most, crowds=1)
    crowds = list(sweep.draw_crowds(places))
    assert crowds == list(sweep.draw_crowds(places))
    assert len(crowds) == min(most, 10 if places else 0)
    assert all(1 <= len(crowd) <= pauses for crowd in crowds)
    assert all(any(each in place for place in places) for crowd in crowds for each in crowd)


def test_a_place_that_is_passed_often_is_as_likely_as_any_other() -> None:
    places = [list(range(100)), [100], [101]]
    crowds = [crowd for seed in range(1, 21) for crowd in Sweep(pauses=2, crowds=seed).draw_crowds(places)]
    assert 0.4 < sum(100 in crowd for crowd in crowds) / len(crowds) < 0.7
