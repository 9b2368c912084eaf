"""The trace: equal for equal runs, different for different ones, and readable."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox.testing.trace import StepKind, Trace, line_of

appended = st.lists(
    st.tuples(
        st.sampled_from(StepKind), st.floats(0, 1e6), st.text(max_size=5), st.text(max_size=5), st.integers(-1, 9)
    ),
    max_size=6,
)


def make(rows, kind=Trace) -> Trace:
    trace = kind()
    for which, at, task, note, offset in rows:
        place = (None, -1) if offset < 0 else (make.__code__, offset * 2)
        trace.append(which, at=at, task=task, note=note, place=place)
    return trace


def check_digest(first, second, kind) -> None:
    assert (make(first, kind).digest() == make(second, kind).digest()) == (first == second)


@given(appended, appended)
def test_digests_are_equal_exactly_for_equal_traces(first, second):
    check_digest(first, first, Trace)
    check_digest(first, second, Trace)


class Forgetful(Trace):
    def digest(self) -> str:
        return "|".join(step.task for step in self.steps)


def test_the_digest_property_catches_a_digest_that_forgets():
    with pytest.raises(AssertionError):
        check_digest([(StepKind.RUN, 0.0, "a", "", -1)], [(StepKind.RUN, 1.0, "a", "", -1)], Forgetful)


@given(appended, appended)
def test_the_difference_is_empty_exactly_for_equal_traces(first, second):
    assert make(first).difference(make(first)) == ""
    assert (make(first).difference(make(second)) == "") == (first == second)


def test_the_difference_names_the_first_step_that_differs():
    begin = (StepKind.RUN, 0.0, "main#1", "", -1)
    one = make([begin, (StepKind.RUN, 1.5, "a#2", "x", -1)])
    other = make([begin, (StepKind.RUN, 1.5, "b#3", "", -1)])
    assert one.difference(other) == "step 1: t=1.5 a#2 run x / t=1.5 b#3 run"
    assert make([begin]).difference(one) == one.difference(make([begin])) == "step 1: t=1.5 a#2 run x / the end"


def test_steps_show_file_line_and_source():
    async def wait() -> None:
        await asyncio.sleep(0)

    coroutine = wait()
    coroutine.send(None)
    trace = Trace()
    frame = coroutine.cr_frame
    trace.append(StepKind.RUN, at=2.0, task="wait#1", place=(frame.f_code, frame.f_lasti))
    coroutine.close()
    (step,) = trace.steps
    assert (step.number, step.point, step.at, step.task) == (0, None, 2.0, "wait#1")
    assert step.where == f"test_testing_trace.py:{wait.__code__.co_firstlineno + 1}"
    assert step.source == "await asyncio.sleep(0)"
    assert len(trace) == 1


def test_a_coroutine_that_has_not_begun_is_at_its_first_line():
    assert line_of(make.__code__, -1) == make.__code__.co_firstlineno
