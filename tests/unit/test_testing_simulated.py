"""`simulate`: first nothing goes wrong, then every single thing, then what Hypothesis draws; all under its settings."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck

from asyncsandbox.errors import ConfigurationError
from asyncsandbox.testing import (
    CrashedError,
    LivelockError,
    NestedWorldError,
    NondeterminismError,
    NothingToRestartError,
    PromiseBrokenError,
    Scenario,
    Simulation,
    Sweep,
    UncoveredError,
    fault,
    replay,
    scenarios,
    simulate,
)
from asyncsandbox.testing.simulated import simulated_of

quiet = settings(database=None, derandomize=True, max_examples=100, phases=set(Phase) - {Phase.explain})


class Account:
    def __init__(self) -> None:
        self.value = 0

    async def add(self, after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        before = self.value
        await asyncio.sleep(0)
        self.value = before + 1


def lost_update(what: Any) -> Any:
    """Two tasks that never meet in stock order."""

    @quiet
    @simulate(what)
    async def test(sim: Simulation) -> None:
        account = Account()
        await asyncio.gather(account.add(0), account.add(4), *(asyncio.sleep(0) for _ in range(3)))
        assert account.value == 2, "an update was lost"

    return test


def error_of(test: Any) -> BaseException:
    try:
        test()
    except BaseException as error:  # noqa: BLE001 - skips and failures of pytest are no Exceptions
        return error
    raise AssertionError("it passed")


# ------------------------------------------------------------------ the order of exploration


def test_the_sweep_finds_a_single_pause_without_luck() -> None:
    test = lost_update(scenarios())
    error = error_of(test)
    report = simulated_of(test).report
    assert isinstance(error, AssertionError)
    assert report is not None
    assert report.scenario.size == len(report.scenario.pauses) == 1
    assert report.runs <= 20
    assert "1 pause; found in run" in "\n".join(error.__notes__)
    assert repr(report.scenario) in "\n".join(error.__notes__)


def test_shrinking_comes_back_to_the_sweep_at_the_simplest_inputs() -> None:
    seen: list[int] = []

    @quiet
    @simulate(scenarios(), after=st.integers(0, 9))
    async def test(sim: Simulation, after: int) -> None:
        account = Account()
        seen.append(after)
        noise = (asyncio.sleep(0) for _ in range(3))
        await asyncio.gather(account.add(0), account.add(4), *noise)
        assert after < 5 or account.value == 2

    error_of(test)
    report = simulated_of(test).report
    assert report is not None
    assert report.inputs == {"after": "5"}
    assert report.scenario.size == 1


def test_two_things_at_once_are_drawn_and_shrunk() -> None:
    """Only two faults together break it, so the sweep passes."""
    both = [fault("a", OSError), fault("b", OSError)]

    @settings(quiet, max_examples=500)
    @simulate(scenarios(pauses=2, faults=both))
    async def test(sim: Simulation) -> None:
        assert len({each.action for each in sim.scenario.faults}) < 2

    error_of(test)
    report = simulated_of(test).report
    assert report is not None
    assert report.scenario == Scenario(faults=(both[0], both[1])) or report.scenario.size == 2


def test_many_schedules_run_inside_one_example() -> None:
    test = settings(quiet, max_examples=1)(simulate(scenarios())(_passes))
    test()
    assert simulated_of(test).runs > 3


async def _passes(sim: Simulation) -> None:
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(4)))


def test_an_example_runs_as_given() -> None:
    ran: list[tuple[Scenario, int]] = []

    @settings(quiet, phases=[Phase.explicit])
    @example(scenario=Scenario(pauses=(3,)), amount=7)
    @example(scenario=Scenario(), amount=8)
    @simulate(scenarios(), amount=st.integers())
    async def test(sim: Simulation, amount: int) -> None:
        ran.append((sim.scenario, amount))

    test()
    assert sorted(ran, key=lambda each: each[1]) == [(Scenario(pauses=(3,)), 7), (Scenario(), 8)]


def test_a_discarded_scenario_does_not_discard_the_sweep() -> None:
    ran: list[Scenario] = []

    @settings(quiet, max_examples=1)
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        ran.append(sim.scenario)
        assume(sim.scenario.pauses != (0,))

    test()
    assert len(ran) >= 3


def test_a_discarded_input_is_discarded() -> None:
    @quiet
    @simulate(scenarios(), amount=st.integers(0, 3))
    async def test(sim: Simulation, amount: int) -> None:
        assume(amount > 1)
        assert amount > 1

    test()


# ------------------------------------------------------------------ determinism


def test_a_run_that_cannot_be_repeated_is_named() -> None:
    shared: list[int] = []

    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        shared.append(1)
        for _ in shared:
            await asyncio.sleep(0)
        assert len(shared) < 2

    error = error_of(test)
    assert isinstance(error, NondeterminismError)
    assert "the same scenario ran differently" in str(error)


def test_an_outcome_that_changes_is_named() -> None:
    outcomes = [AssertionError("first"), ValueError("second"), ValueError("third")]

    @settings(quiet, phases=[Phase.explicit])
    @example(scenario=Scenario())
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        raise outcomes.pop(0)

    assert isinstance(error_of(test), NondeterminismError)


chances: list[tuple[float, Any]] = []


@simulate(scenarios())
async def draws(sim: Simulation) -> None:
    chances.append((random.random(), sim.clock.now()))


@quiet
@given(st.integers(0, 10**6))
def test_chance_and_time_are_the_same_in_every_run(seed: int) -> None:
    random.seed(seed)
    replay(draws, Scenario())
    assert chances[-1] == chances[0]


# ------------------------------------------------------------------ pytest's side


@pytest.fixture(scope="module")
def tariff() -> int:
    return 3


@quiet
@simulate(scenarios(pauses=1), amount=st.integers(0, 3))
async def test_fixtures_and_drawn_inputs_come_together(sim: Simulation, amount: int, tariff: int) -> None:
    assert amount <= tariff


class TestMethods:
    @quiet
    @simulate(scenarios(pauses=1), amount=st.integers(0, 3))
    async def test_a_method_is_a_test_too(self, sim: Simulation, amount: int) -> None:
        assert isinstance(self, TestMethods)
        assert isinstance(sim, Simulation)


@pytest.mark.parametrize("amount", [1, 2])
@settings(quiet, suppress_health_check=[HealthCheck.differing_executors])
@simulate(scenarios(pauses=1))
async def test_parameters_come_by_name(sim: Simulation, amount: int) -> None:
    assert amount in (1, 2)


def test_a_skip_is_a_skip() -> None:
    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        pytest.skip("not here")

    assert isinstance(error_of(test), pytest.skip.Exception)


def test_a_failure_by_pytest_is_a_failure() -> None:
    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        pytest.fail("no")

    assert isinstance(error_of(test), pytest.fail.Exception)
    assert simulated_of(test).report is not None


# ------------------------------------------------------------------ replay and coverage


def test_replay_runs_one_scenario() -> None:
    test = lost_update(scenarios())
    error_of(test)
    report = simulated_of(test).report
    assert report is not None
    replay(test, Scenario())
    with pytest.raises(AssertionError, match="an update was lost"):
        replay(test, report.scenario)


def test_replay_needs_a_simulated_test() -> None:
    with pytest.raises(ConfigurationError):
        replay(error_of, Scenario())


def test_what_never_went_wrong_is_named() -> None:
    never = fault("card.charge", TimeoutError)

    @settings(quiet, max_examples=1)
    @simulate(scenarios(faults=[never]), require_coverage=True)
    async def test(sim: Simulation) -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    test()
    with pytest.raises(UncoveredError, match="never happened in any run") as caught:
        simulated_of(test).require_covered()
    assert caught.value.kinds == (repr(never),)


# ------------------------------------------------------------------ bad input


def test_crashes_need_an_app() -> None:
    @quiet
    @simulate(scenarios(crashes=1))
    async def test(sim: Simulation) -> None:
        pass

    assert isinstance(error_of(test), NothingToRestartError)


def test_a_simulated_test_called_inside_another_is_refused_in_our_words() -> None:
    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        @simulate(scenarios())
        async def inner(sim: Simulation) -> None:
            raise AssertionError

        inner()

    assert isinstance(error_of(test), NestedWorldError)


def test_another_failed_health_check_stays_what_it_is() -> None:
    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        raise FailedHealthCheck("too slow")

    assert isinstance(error_of(test), FailedHealthCheck)


def test_a_simulation_holds_no_other() -> None:
    inner = lost_update(scenarios())

    @quiet
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        simulated_of(inner).check(Scenario(), {})

    assert isinstance(error_of(test), NestedWorldError)


def test_a_simulated_test_called_inside_another_is_refused_at_once() -> None:
    """Hypothesis would try the inner one a hundred times, each time the outer one is tried."""
    tried = 0

    @settings(database=None, max_examples=5)
    @simulate(scenarios())
    async def inner(sim: Simulation) -> None:
        raise AssertionError

    @settings(database=None, max_examples=5, phases=set(Phase) - {Phase.explain})
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        nonlocal tried
        tried += 1
        inner()

    error = error_of(test)
    assert isinstance(error, NestedWorldError)
    assert "no other simulated test" in str(error)
    assert simulated_of(inner).runs == 0
    assert tried < 50


def test_a_failure_that_is_known_is_not_repeated() -> None:
    ran = 0

    @settings(database=None, derandomize=True)  # with Hypothesis' explanations
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        nonlocal ran
        ran += 1
        raise PromiseBrokenError("it holds", "it does not")

    error = error_of(test)
    assert isinstance(error, PromiseBrokenError)
    assert "nothing goes wrong; found in run 1" in "\n".join(error.__notes__)
    assert ran == simulated_of(test).runs + 2, "twice more, once"


def test_a_test_that_is_busy_for_ever_is_told_soon() -> None:
    @settings(quiet, max_examples=1)
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        await asyncio.sleep(1)
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    error = error_of(test)
    assert isinstance(error, LivelockError)
    assert 20_000 <= error.steps < 20_100
    report = simulated_of(test).report
    assert report is not None
    assert report.unhandled == ()


async def _takes_nothing() -> None:
    pass


async def _has_a_default(sim: Simulation, amount: int = 3) -> None:
    pass


async def _takes_a_scenario(sim: Simulation, scenario: int) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (error_of, "async def"),
        (_takes_nothing, "sim"),
        (_takes_a_scenario, "something else"),
        (_has_a_default, "leave the default out"),
    ],
    ids=["plain", "nothing", "scenario", "default"],
)
def test_what_cannot_be_simulated_is_refused(function: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        simulate(scenarios())(function)


@pytest.mark.parametrize(
    ("what", "drawn", "remedy"),
    [
        (_takes_nothing, {}, r"@simulate\(scenarios\(\)\)"),
        (Scenario(), {}, r"@simulate\(scenarios\(\)\)"),
        (scenarios(), {"amount": 3}, "st.integers"),
        (scenarios(), {"amuont": st.integers()}, "draw only what the test has a parameter for"),
    ],
    ids=["function", "scenario", "value", "unknown"],
)
def test_what_cannot_be_drawn_is_refused(what: Any, drawn: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        simulate(what, **drawn)(_passes)


@pytest.mark.parametrize(
    ("scenario", "inputs", "field"),
    [
        (3, {"amount": 1}, "scenario=3"),
        (Scenario(), {}, "inputs='amount'"),
        (Scenario(), {"amount": 1, "amuont": 1}, "inputs='amuont'"),
    ],
)
def test_what_cannot_be_replayed_is_refused(scenario: Any, inputs: dict[str, Any], field: str) -> None:
    @simulate(scenarios(), amount=st.integers())
    async def test(sim: Simulation, amount: int) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match=field):
        replay(test, scenario, **inputs)


def test_a_sweep_can_be_given_by_hand() -> None:
    with pytest.raises(AssertionError, match="lost"):
        simulated_of(lost_update(scenarios())).check(Sweep(pauses=1), {})


def test_errors_say_what_to_do() -> None:
    assert str(CrashedError("add")).endswith("what must hold whatever happens")
    assert "start it in the test by `app = await sim.start(factory)`" in str(NothingToRestartError())
