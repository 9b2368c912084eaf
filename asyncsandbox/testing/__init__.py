"""The harness: your app under drawn schedules, faults and crashes, shrunk to one cause.

Needs the extra ``testing``: ``pip install asyncsandbox[testing]``. Names are imported when they are first used, because
pytest imports this package for its plugin in every run.

>>> import asyncio
>>> from asyncsandbox.testing import Simulation, scenarios, simulate
>>> @simulate(scenarios(pauses=2))
... async def test_two_sleepers(sim: Simulation) -> None:
...     await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
...     assert sim.clock.monotonic() == 7200
>>> test_two_sleepers()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asgi import AsgiClient, Response
    from .calls import ActionCall, Actions
    from .errors import (
        CrashedError,
        DeadlockError,
        EscapedError,
        LivelockError,
        NestedWorldError,
        NondeterminismError,
        NothingToRestartError,
        PlanSnapshotError,
        PromiseBrokenError,
        ReplayTokenError,
        SimulationError,
        UncoveredError,
    )
    from .plan_snapshot import PlanSnapshot
    from .report import Report
    from .scenario import Fault, Jump, Scenario, Sweep, fault, scenarios
    from .settling import SettlingSandbox
    from .simulated import replay, simulate
    from .simulation import Simulation
    from .stateful import AsyncRuleBasedStateMachine, invariant, rule
    from .strategies import clocks, hostile_values
    from .trace import Step, StepKind

__all__ = [
    "ActionCall",
    "Actions",
    "AsgiClient",
    "AsyncRuleBasedStateMachine",
    "CrashedError",
    "DeadlockError",
    "EscapedError",
    "Fault",
    "Jump",
    "LivelockError",
    "NestedWorldError",
    "NondeterminismError",
    "NothingToRestartError",
    "PlanSnapshot",
    "PlanSnapshotError",
    "PromiseBrokenError",
    "ReplayTokenError",
    "Report",
    "Response",
    "Scenario",
    "SettlingSandbox",
    "Simulation",
    "SimulationError",
    "Step",
    "StepKind",
    "Sweep",
    "UncoveredError",
    "clocks",
    "fault",
    "hostile_values",
    "invariant",
    "replay",
    "rule",
    "scenarios",
    "simulate",
]

_HOMES = {
    "asgi": ("AsgiClient", "Response"),
    "calls": ("ActionCall", "Actions"),
    "errors": (
        "CrashedError",
        "DeadlockError",
        "EscapedError",
        "LivelockError",
        "NestedWorldError",
        "NondeterminismError",
        "NothingToRestartError",
        "PlanSnapshotError",
        "PromiseBrokenError",
        "ReplayTokenError",
        "SimulationError",
        "UncoveredError",
    ),
    "plan_snapshot": ("PlanSnapshot",),
    "report": ("Report",),
    "scenario": (
        "Fault",
        "Jump",
        "Scenario",
        "Sweep",
        "fault",
        "scenarios",
    ),
    "settling": ("SettlingSandbox",),
    "simulated": (
        "replay",
        "simulate",
    ),
    "simulation": ("Simulation",),
    "stateful": (
        "AsyncRuleBasedStateMachine",
        "invariant",
        "rule",
    ),
    "strategies": (
        "clocks",
        "hostile_values",
    ),
    "trace": (
        "Step",
        "StepKind",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
