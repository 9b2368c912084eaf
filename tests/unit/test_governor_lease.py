"""Leases of a shared limit: used no longer than they last, and counted no earlier than they were used."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox._core.clock import SystemClock
from asyncsandbox.components.governor import lease
from asyncsandbox.components.governor.lease import Lease, Reading


def counts_no_earlier_than_used(drawn: tuple[int, float, float, float, list[tuple[float, float]]]) -> None:
    units, delay, rate, jump, steps = drawn
    seconds, granted_at = 5.0, 1000.0
    asked = Reading(100.0, 7000.0)
    lease = Lease("a", units=units, asked=asked, seconds=seconds, until=granted_at + seconds)
    passed, slept, used, last = 0.0, 0.0, 0, granted_at
    for awake, asleep in steps:
        passed, slept = passed + awake + asleep, slept + asleep
        # While the machine sleeps, one of the clocks stands still; or else somebody has set the time of day.
        now = Reading(asked.monotonic + passed - slept, asked.wall + passed + (0.0 if slept else jump))
        if lease.take(now, 1):
            used += 1
            # The store granted it some time after it was asked, and its clock goes a little slower or faster.
            true = granted_at + (passed - delay) * rate
            last = max(last, true)
            assert true < granted_at + seconds, "nothing is used when it is over"
        assert last <= lease.last_at + 1e-6, "it is counted no earlier than it was used"
        assert lease.last_at <= granted_at + seconds, "nor later than it can be"
    assert (lease.used, lease.left) == (used, units - used)
    assert used <= units


PAUSES = st.lists(st.tuples(st.floats(0, 2), st.just(0.0) | st.floats(0, 3)), max_size=8)
LEASES = st.tuples(st.integers(1, 4), st.floats(0, 3), st.floats(0.985, 1.015), st.floats(-9, 9), PAUSES)


@given(LEASES)
def test_a_lease_is_used_up_to_its_end_and_counted_no_earlier_than_it_was_used(drawn: Any) -> None:
    counts_no_earlier_than_used(drawn)


@pytest.mark.parametrize("factor", [1.0, 1.1], ids=["clocks alike", "longer than it is"])
def test_a_lease_that_trusts_clocks_is_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_DRIFT", factor)
    must_catch(counts_no_earlier_than_used, LEASES, examples=2000)


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
def test_a_lease_that_goes_by_one_clock_is_caught(clock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def since(now: Reading, other: Reading) -> float:
        return float(getattr(now, clock) - getattr(other, clock))

    monkeypatch.setattr(Reading, "since", since)
    must_catch(counts_no_earlier_than_used, LEASES, examples=2000)


def test_what_is_given_back_can_be_used_again_but_counts_as_late() -> None:
    mine = Lease("a", units=1, asked=Reading(0.0, 0.0), seconds=5.0, until=1000.0)
    assert mine.take(Reading(4.0, 4.0), 1)
    mine.give_back(0.0, 1)
    mine.release()
    told = mine.last_at
    assert mine.take(Reading(4.0, 1.0), 1), "somebody has set the time of day back meanwhile"
    assert (mine.left, mine.used, mine.last_at) == (0, 1, told)
    assert Reading.of(SystemClock()).since(Reading(0.0, 0.0)) > 1e9
