"""Types that users of the harness meet."""

from pathlib import Path
from typing import assert_type

from asyncsandbox import Plan
from asyncsandbox.testing import PlanSnapshot, Scenario, Simulation, replay, scenarios, simulate


@simulate(scenarios(pauses=2))
async def test_something(sim: Simulation) -> None:
    assert_type(sim.scenario, Scenario)


assert_type(test_something(), None)
assert_type(replay(test_something, Scenario(pauses=(3,))), None)


def check(plan: Plan, plan_snapshot: PlanSnapshot) -> None:
    assert_type(plan_snapshot.check(plan), None)
    assert_type(plan_snapshot.check(plan, "after the refund"), None)
    assert_type(plan_snapshot.written, list[Path])
