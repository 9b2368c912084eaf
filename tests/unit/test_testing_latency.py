"""A failure is reachable by timing only where a slow timer, job, database or action is enough for it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiosqlite
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox import Sandbox, irreversible
from asyncsandbox.testing import Report, Scenario, Simulation, replay, scenarios, simulate
from asyncsandbox.testing.latency import LatencyLoop
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.simulated import simulated_of


@irreversible("bell.ring", key=lambda name: name)
async def ring(name: str) -> None:
    raise AssertionError("a simulation never comes here")


async def step() -> None:
    await asyncio.sleep(0)


async def timer() -> None:
    await asyncio.sleep(1)


async def job() -> None:
    await asyncio.to_thread(int)


async def statement() -> None:
    async with aiosqlite.connect(":memory:") as db:
        await db.execute("SELECT 1")


async def action() -> None:
    await ring(asyncio.current_task().get_name())  # type: ignore[union-attr]


def lost_update(slow: Callable[[], Awaitable[None]]) -> Any:
    """Return a simulated test in which an update is lost where `slow` takes longer than usual."""

    @simulate(scenarios(pauses=1))
    async def test(sim: Simulation) -> None:
        balance = 0

        async def first() -> None:
            nonlocal balance
            before = balance
            await slow()
            balance = before + 1

        async def second() -> None:
            nonlocal balance
            await slow()
            for _ in range(3):
                await step()
            balance += 1

        async with Sandbox(dry_run=False):
            await asyncio.gather(first(), second())
        assert balance == 2, "an update was lost"

    return test


def find(test: Any) -> list[bool]:
    """Return, for every single pause that makes the test fail, whether it is said to be reachable."""
    simulated = simulated_of(test)
    found = []
    for point in range(60):
        simulated.report = None
        with suppress(AssertionError):
            replay(test, Scenario(pauses=(point,)))
        if simulated.report is not None:
            assert simulated.report.error == "AssertionError: an update was lost"
            found.append(bool(simulated.report.reachable))
    return found


@pytest.mark.parametrize("slow", [timer, job, statement, action])
def test_what_comes_from_outside_can_be_slow(slow: Callable[[], Awaitable[None]]) -> None:
    assert any(find(lost_update(slow)))


def check_that_a_bare_step_is_not_slow() -> None:
    found = find(lost_update(step))
    assert found
    assert not any(found)


def test_a_bare_step_is_not_slow() -> None:
    check_that_a_bare_step_is_not_slow()


def test_the_check_catches_a_loop_on_which_everything_may_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyLoop, "may_pause", lambda *_: True)
    with pytest.raises(AssertionError):
        check_that_a_bare_step_is_not_slow()


@given(st.sets(st.integers(0, 30), max_size=3))
def test_a_loop_without_anything_slow_runs_as_if_nothing_was_paused(pauses: set[int]) -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def append(name: str) -> None:
            for _ in range(3):
                order.append(name)
                await step()

        await asyncio.gather(append("a"), append("b"), append("c"))
        return order

    loop, stock = LatencyLoop(pauses=pauses), SimLoop()
    assert loop.run(main()) == stock.run(main())
    assert (loop.points, loop.steps) == (stock.points, stock.steps)


def test_a_failure_without_pauses_says_nothing_of_it() -> None:
    @simulate(scenarios())
    async def test(sim: Simulation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replay(test, Scenario())
    report = simulated_of(test).report
    assert report is not None
    assert report.reachable is None


@pytest.mark.parametrize(
    ("reachable", "said"),
    [
        (None, "1 pause; found in run 1"),
        (True, "1 pause; found in run 1; reachable: timing"),
        (False, "1 pause; found in run 1; needs a slower loop than stock asyncio"),
    ],
)
def test_the_report_says_so(reachable: bool | None, said: str) -> None:
    report = Report(test="t", scenario=Scenario(pauses=(1,)), error="e", reachable=reachable)
    assert report.headline == said
    assert said in report.render()
    assert json.loads(report.to_json())["reachable"] is reachable
