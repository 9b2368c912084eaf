"""A scenario is a small value: it prints as what makes it, and a sweep holds every scenario of size one."""

from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from asyncsandbox.errors import ConfigurationError
from asyncsandbox.testing import Fault, Jump, Scenario, Sweep, fault, scenarios
from asyncsandbox.testing.scenario import MAX_JUMP_SECONDS, Extent

LOST = fault("card.charge", TimeoutError, after=True)
NAMES: dict[str, Any] = {
    "Jump": Jump,
    "Scenario": Scenario,
    "Sweep": Sweep,
    "TimeoutError": TimeoutError,
    "fault": fault,
    "OSError": OSError,
}
everything = scenarios(pauses=3, crashes=2, faults=[LOST, fault("mail.send", OSError)], duplicates=2, jumps=1)


@given(everything)
def test_the_repr_makes_the_same_value(scenario: Scenario | Sweep) -> None:
    assert eval(repr(scenario), NAMES) == scenario


@given(everything)
def test_drawn_scenarios_are_within_their_limits(scenario: Scenario | Sweep) -> None:
    if isinstance(scenario, Sweep):
        return
    assert scenario.size
    assert len(scenario.pauses) <= 3
    assert len(scenario.crashes) <= 2
    assert len(scenario.duplicates) <= 2
    assert len(scenario.jumps) <= 1
    assert len(scenario.faults) <= 2
    assert all(each.anywhere in (LOST, fault("mail.send", OSError)) for each in scenario.faults)
    assert max((*scenario.pauses, *scenario.crashes), default=0) <= 200


def test_crowds_are_drawn_now_and_then_where_there_may_be_several_pauses() -> None:
    crowds = find(scenarios(), lambda each: isinstance(each, Sweep) and each.crowds)
    assert crowds == Sweep(pauses=3, crowds=1)
    with pytest.raises(NoSuchExample):
        find(scenarios(pauses=1), lambda each: isinstance(each, Sweep) and each.crowds)


def test_the_simplest_draw_is_the_sweep() -> None:
    drawn = []

    @settings(max_examples=1, database=None)
    @given(everything)
    def first(scenario: Scenario | Sweep) -> None:
        drawn.append(scenario)

    first()
    assert drawn == [
        Sweep(
            pauses=3,
            faults=(LOST, fault("mail.send", OSError)),
            crashes=True,
            duplicates=True,
            jumps=True,
        )
    ]


@given(
    st.builds(Sweep, st.booleans(), st.just((LOST,)), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 60)),
    st.builds(
        Extent,
        points=st.integers(0, 40),
        steps=st.integers(0, 40),
        requests=st.integers(0, 5),
        calls=st.fixed_dictionaries({"card.charge": st.integers(0, 5)}),
    ),
)
def test_a_sweep_holds_every_single_thing_once_up_to_its_cap(sweep: Sweep, extent: Extent) -> None:
    singles = sweep.singles(extent)
    assert len(set(singles)) == len(singles) <= sweep.most
    assert all(single.size == 1 for single in singles)
    everything = (
        extent.points * sweep.pauses
        + extent.steps * sweep.crashes
        + extent.requests * sweep.duplicates
        + 2 * sweep.jumps
        + extent.calls["card.charge"]
    )
    assert len(singles) == min(everything, sweep.most)


def test_a_capped_sweep_samples_evenly() -> None:
    singles = Sweep(pauses=1, crashes=True, most=10).singles(Extent(points=100, steps=100))
    assert [each.crashes for each in singles[:5]] == [(0,), (20,), (40,), (60,), (80,)]
    assert [each.pauses for each in singles[5:]] == [(0,), (20,), (40,), (60,), (80,)]


def test_scenarios_say_how_big_they_are() -> None:
    scenario = Scenario(pauses=(1,), faults=(LOST,), crashes=(1, 2), duplicates=(1,), jumps=(Jump(0, 5),))
    assert scenario.describe() == "1 pause, 1 fault, 2 crashes, 1 duplicate, 1 jump"
    assert Scenario().describe() == "nothing goes wrong"
    assert bool(scenario)
    assert not Scenario()


def test_kinds_are_named_as_the_coverage_counters_name_them() -> None:
    assert Sweep(pauses=1, faults=(LOST,), jumps=True).kinds == (
        "pause",
        "jump",
        "fault('card.charge', TimeoutError, after=True)",
    )
    assert fault("a", OSError, nth=3).anywhere == fault("a", OSError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: scenarios(pauses=-1),
        lambda: scenarios(crashes=1.5),
        lambda: scenarios(horizon=0),
        lambda: scenarios(sweep=-1),
        lambda: scenarios(faults=["card.charge"]),
        lambda: fault("", OSError),
        lambda: fault("a", OSError, nth=0),
        lambda: Fault("a", "OSError"),
        lambda: Scenario(pauses=8),
        lambda: Scenario(faults=[LOST]),
    ],
    ids=["pauses", "crashes", "horizon", "sweep", "faults", "action", "nth", "error", "number", "list"],
)
def test_what_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_jumps_of_a_sweep_go_both_ways() -> None:
    assert {each.jumps[0].seconds for each in Sweep(jumps=True).singles(Extent())} == {
        MAX_JUMP_SECONDS,
        -MAX_JUMP_SECONDS,
    }
