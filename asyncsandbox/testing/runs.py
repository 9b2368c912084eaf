"""One run of a test in a world of its own, from nothing to what came of it."""

from __future__ import annotations

import gc
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest
from hypothesis.errors import FailedHealthCheck

from .errors import NestedTestExit, NestedWorldError, PromiseBrokenError
from .lanes import is_users
from .loop import SimLoop
from .simulation import Simulation
from .trace import StepKind
from .world import World, world

if TYPE_CHECKING:
    import asyncio
    from collections import Counter
    from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping

    from .scenario import Extent, Scenario
    from .trace import Step, Trace

Test: TypeAlias = "Callable[..., Coroutine[Any, Any, object]]"
Runner: TypeAlias = "Callable[..., Run]"  # takes a scenario, and a loop by keyword
T = TypeVar("T")

FAILURES = (Exception, pytest.fail.Exception)

# A test that is busy for longer while no time passes is so for ever: it must not take minutes to find that out.
_PATIENCE = 20_000

# What stands at a line of the user's code; the simulation makes the other marks.
_PLACED = frozenset({StepKind.RUN, StepKind.PAUSED, StepKind.RESUMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        extent: How far it went.
        trace: What happened; empty unless recorded.
        told: How many steps of it came before the end of the test.
        error: What it raised.
        unhandled: What failed and nobody looked at.
        fired: What went wrong, by kind.
        started: Whether the test started an app.
    """

    extent: Extent
    trace: Trace
    told: int
    error: BaseException | None
    unhandled: tuple[Exception, ...]
    fired: Counter[str]
    started: bool

    @property
    def steps(self) -> tuple[Step, ...]:
        """What happened until the end of the test; places outside the user's code are left out."""
        raw, steps = self.trace.raw[: self.told], self.trace.steps[: self.told]
        return tuple(
            step if code is not None and is_users(code.co_filename) and step.kind in _PLACED else _unplaced(step)
            for step, (*_, code, _offset) in zip(steps, raw, strict=True)
        )


def _unplaced(step: Step) -> Step:
    return replace(step, where="", source="")


def run_once(
    test: Test,
    scenario: Scenario,
    inputs: Mapping[str, Any],
    *,
    loop: SimLoop | None = None,
    world: World | None = None,
) -> Run:
    """Run a test once.

    Args:
        test: What to run.
        scenario: What goes wrong.
        inputs: What the test gets besides the simulation.
        loop: What to run it on, with the scenario's pauses; None for one that keeps the trace.
        world: Where; None for a world of its own.

    Raises:
        KeyboardInterrupt: Somebody pressed a key.
        SystemExit: The test ended the process.
    """
    loop = SimLoop(pauses=scenario.pauses) if loop is None else loop
    loop.patience = _PATIENCE
    error: BaseException | None = None
    entered = World() if world is None else nullcontext(world)
    with _collector_asleep(), closing(loop), entered as around, around.turn(loop):
        simulation = Simulation(loop, scenario)
        try:
            loop.run(simulation.test(test, inputs))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:  # noqa: BLE001 - skips and failures of pytest are no Exceptions
            error = _nested(raised) or raised
    unhandled = _unhandled(loop, simulation.unfinished or ())
    simulation.unfinished = None  # the tasks' contexts hold the simulation: let both go now, without the collector
    return Run(
        extent=simulation.extent,
        trace=loop.trace,
        told=simulation.told,
        error=error or next(iter(unhandled), None) or _leak(loop),
        unhandled=unhandled,
        fired=simulation.get_fired(),
        started=simulation.started,
    )


def _nested(error: BaseException) -> NestedWorldError | None:
    """Say it in our words where a simulated test was called in this one, also where Hypothesis noticed it first."""
    noticed = isinstance(error, FailedHealthCheck) and "nested_given" in str(error)
    if not (noticed or isinstance(error, NestedTestExit)):
        return None
    nested = NestedWorldError()
    nested.__cause__ = error
    return nested


def run_in_world(begin: Callable[[SimLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a world in which nothing goes wrong.

    Raises:
        PromiseBrokenError: It left a task behind.
        Exception: What it raised, or what failed in a task that nobody looked at.
    """
    loop = SimLoop(record=False)
    with _collector_asleep(), closing(loop), world(loop):
        result = loop.run(begin(loop))
    error = aftermath(loop)
    if error is not None:
        raise error
    return result


@contextmanager
def _collector_asleep() -> Generator[None]:
    """Keep what a run makes in the collector's youngest generation, where the end of the run finds it."""
    awake = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if awake:
            gc.enable()


def aftermath(loop: SimLoop, *, leaks: bool = True) -> Exception | None:
    """Return what is wrong after a run that raised nothing."""
    return next(iter(_unhandled(loop)), None) or (_leak(loop) if leaks else None)


def _leak(loop: SimLoop) -> Exception | None:
    return PromiseBrokenError("the test leaves no task behind", ", ".join(loop.leaked)) if loop.leaked else None


def _unhandled(loop: SimLoop, cancelled: Iterable[asyncio.Task[Any]] = ()) -> tuple[Exception, ...]:
    """Return what failed and nobody looked at.

    Left out are tasks that lost power, and so whoever would have looked, and those in ``cancelled``, which failed
    because the run was over.
    """
    late = [task.exception() for task in cancelled if task.done() and not task.cancelled()]
    found = [each for each in loop.unhandled if not getattr(each.get("future"), "is_dead", False)]
    errors = [error for each in found if isinstance(error := each.get("exception"), Exception)]
    return tuple(error for error in errors if not any(error is each for each in late))
