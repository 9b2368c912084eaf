"""`simulate`: a test becomes a Hypothesis test over scenarios, each run in a simulated world.

>>> import asyncio
>>> from asyncsandbox.testing import Simulation, scenarios
>>> balance = {"ada": 0}
>>> async def deposit(amount: int) -> None:
...     before = balance["ada"]
...     await asyncio.sleep(0)
...     balance["ada"] = before + amount
>>> @simulate(scenarios())
... async def test_deposits(sim: Simulation) -> None:
...     balance["ada"] = 0
...     await asyncio.gather(deposit(1), deposit(1))
...     assert balance["ada"] == 2, "an update was lost"
>>> test_deposits()
Traceback (most recent call last):
    ...
AssertionError: an update was lost
...
"""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from ..errors import ConfigurationError
from .errors import NestedTestExit, NondeterminismError, UncoveredError
from .latency import LatencyLoop
from .loop import SimLoop
from .replay_token import literal, make_token
from .report import Report
from .runs import FAILURES, run_once
from .scenario import Scenario, Sweep
from .sweeping import sweep
from .world import World, is_governed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .runs import Run, Runner, Test

_ATTRIBUTE = "asyncsandbox_simulated"


@dataclass(slots=True, kw_only=True)
class Simulated:
    """A simulated test and what is known of it; every `simulate` makes one.

    Attributes:
        function: What the user wrote.
        drawn: Names of the drawn inputs.
        fixtures: Names of the other parameters.
        require_coverage: Whether everything that may go wrong must do so at least once.
        fired: How often each kind of thing went wrong.
        kinds: What may go wrong.
        runs: How many simulated runs there were.
        report: The latest failure.
    """

    function: Test
    drawn: frozenset[str] = frozenset()
    fixtures: frozenset[str] = frozenset()
    require_coverage: bool = False
    fired: Counter[str] = field(default_factory=Counter)
    kinds: set[str] = field(default_factory=set)
    runs: int = 0
    report: Report | None = None
    _note: str = field(default="", init=False)

    @property
    def name(self) -> str:
        """The test, as pytest wants to be told it."""
        name = self.function.__qualname__.rpartition("<locals>.")[2]
        return f"{os.path.relpath(self._file)}::{name.replace('.', '::')}"

    @property
    def _file(self) -> str:
        function: Any = inspect.unwrap(self.function)
        return str(function.__code__.co_filename)

    def check(self, scenario: Scenario | Sweep, inputs: Mapping[str, Any], owner: tuple[Any, ...] = ()) -> None:
        """Run one example: a scenario, or a sweep of all in which at most one thing goes wrong.

        Args:
            scenario: What goes wrong.
            inputs: Drawn inputs and fixtures, by name.
            owner: The instance of the test's class, where it has one.

        Raises:
            NondeterminismError: It failed, and the second time went differently.
            NothingToRestartError: There shall be crashes and the test started no app.
            Exception: What the test raised, with the report attached.
        """
        with World() as world:
            function = functools.partial(self.function, *owner)
            run: Runner = functools.partial(run_once, function, inputs=inputs, world=world)
            look = functools.partial(self._look, run)
            attempt = functools.partial(self._try, run, inputs, self.runs)
            if isinstance(scenario, Scenario):
                attempt(scenario, SimLoop(pauses=scenario.pauses, record=False))
                return
            self.kinds.update(scenario.kinds)
            sweep(scenario, attempt, look)

    def require_covered(self) -> None:
        """Check the coverage counters, where the test asked for it.

        Raises:
            UncoveredError: Something that may go wrong never did.
        """
        missing = tuple(sorted(self.kinds - set(self.fired)))
        if self.require_coverage and missing:
            raise UncoveredError(missing)

    def _text(self, value: Any) -> str:
        """Return how a test beside this one writes a fixture's value; an empty string where it cannot."""
        if getattr(value, "__module__", None) == self.function.__module__ and hasattr(value, "__qualname__"):
            return f"{Path(self._file).stem}.{value.__qualname__}"
        try:
            return literal(value)
        except ValueError:
            return ""

    def _look(self, once: Runner, scenario: Scenario, loop: SimLoop) -> Run:
        """Run once, and raise what is no failure: a skip, an assumption that does not hold."""
        run = once(scenario, loop=loop)
        self.runs += 1
        self.fired.update(run.fired)
        if run.error is not None and (
            not isinstance(run.error, FAILURES) or isinstance(run.error, UnsatisfiedAssumption)
        ):
            raise run.error
        return run

    def _try(self, once: Runner, inputs: Mapping[str, Any], before: int, scenario: Scenario, loop: SimLoop) -> Run:
        run = self._look(once, scenario, loop)
        if run.error is None:
            return run
        texts = {name: repr(value) for name, value in inputs.items() if name in self.drawn}
        fixtures = {name: self._text(value) for name, value in inputs.items() if name in self.fixtures}
        error: BaseException = run.error
        known = self.report
        if known is None or not known.tells_of(scenario, _headline(error), texts, fixtures):
            recorded = _repeat(once, scenario, error)
            error = recorded.error or error
            self.report = Report(
                test=self.name,
                scenario=scenario,
                error=_headline(error),
                unhandled=tuple(repr(each) for each in recorded.unhandled if each is not error),
                reachable=_is_reachable(once, scenario, error),
                runs=self.runs - before,
                inputs=texts,
                fixtures=fixtures,
                token=make_token(self.name, scenario, {name: inputs[name] for name in texts}),
                steps=recorded.steps,
            )
            self._note = self.report.render()
        error.add_note(self._note)
        raise error  # in one place: Hypothesis tells failures apart by where they come from


def _repeat(once: Runner, scenario: Scenario, error: BaseException) -> Run:
    """Run a failing scenario twice more, and return the first with its trace.

    Raises:
        NondeterminismError: One of them went differently.
    """
    recorded, again = once(scenario), once(scenario)
    if type(recorded.error) is not type(error) or recorded.trace.digest() != again.trace.digest():
        difference = recorded.trace.difference(again.trace) or f"the outcome: {error!r}, then {recorded.error!r}"
        raise NondeterminismError(difference) from error
    return recorded


def simulate(
    what: SearchStrategy[Scenario | Sweep], /, *, require_coverage: bool = False, **strategies: SearchStrategy[Any]
) -> Callable[[Test], Callable[..., None]]:
    """Make a coroutine function a Hypothesis test over scenarios and inputs.

    Hypothesis' own settings, examples, profiles, phases and database apply. The first example is the simplest: a run in
    which nothing goes wrong, then every single thing does. Where several things must go wrong together, Hypothesis
    draws them; it shrinks towards a single one, at the simplest inputs. A failing run is repeated, to show that it
    can be. It proves nothing about scenarios that it did not run.

    The test gets a `Simulation` as its first argument, drawn inputs by keyword, and pytest's fixtures by name.

    Args:
        what: What may go wrong, made by `scenarios`.
        require_coverage: Fail the test if something that may go wrong never did, though every run passed. Pytest only.
        **strategies: A strategy for each drawn input.

    Returns:
        A decorator. The test it gives is a plain function.

    Raises:
        ConfigurationError: What shall be drawn is no strategy, or the function is no coroutine function, takes no
            simulation, takes something else than is drawn, or uses the name "scenario".
    """
    if not isinstance(what, SearchStrategy):
        raise ConfigurationError("simulate", what, "say what may go wrong: `@simulate(scenarios())`")
    for name, strategy in strategies.items():
        if not isinstance(strategy, SearchStrategy):
            raise ConfigurationError(f"simulate: {name}", strategy, "give a strategy of Hypothesis: `st.integers()`")

    def decorate(function: Test) -> Callable[..., None]:
        instance, others = _parameters(function)
        names = {each.name for each in others}
        if unknown := strategies.keys() - names:
            raise ConfigurationError("simulate", min(unknown), "draw only what the test has a parameter for")
        simulated = Simulated(
            function=function,
            drawn=frozenset(strategies),
            fixtures=frozenset(names - set(strategies)),
            require_coverage=require_coverage,
        )

        def test(*owner: Any, scenario: Scenario | Sweep, **inputs: Any) -> None:
            if is_governed():
                raise NestedTestExit
            simulated.check(scenario, inputs, owner)

        functools.update_wrapper(test, function)
        del test.__wrapped__  # type: ignore[attr-defined]
        added = inspect.Parameter("scenario", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = inspect.Signature([*instance, added, *others])  # type: ignore[attr-defined]
        wrapped: Callable[..., None] = given(scenario=what, **strategies)(test)
        setattr(wrapped, _ATTRIBUTE, simulated)
        return wrapped

    return decorate


def replay(test: Callable[..., object], scenario: Scenario, **inputs: Any) -> None:
    """Run one scenario of a simulated test, without Hypothesis.

    Args:
        test: A function made by `simulate`.
        scenario: What goes wrong.
        **inputs: The drawn inputs, and fixtures where the test has some.

    Raises:
        ConfigurationError: The function was not made by `simulate`, or something it takes is missing or unknown.
        Exception: What the test raised, with the report attached.
    """
    simulated = simulated_of(test)
    if not isinstance(scenario, Scenario):
        raise ConfigurationError("replay: scenario", scenario, "give a Scenario, as the report shows it")
    if wrong := inputs.keys() ^ (simulated.drawn | simulated.fixtures):
        allowed = "give by keyword each input that is drawn and each fixture, and nothing else"
        raise ConfigurationError("replay: inputs", min(wrong), allowed)
    simulated.check(scenario, inputs)


def simulated_of(test: Callable[..., object]) -> Simulated:
    """Return what is known of a simulated test.

    Raises:
        ConfigurationError: The function was not made by `simulate`.
    """
    found = getattr(test, _ATTRIBUTE, None)
    if not isinstance(found, Simulated):
        raise ConfigurationError("replay: test", test, "give a test that is decorated with @simulate")
    return found


def _is_reachable(once: Runner, scenario: Scenario, error: BaseException) -> bool | None:
    """Return whether it fails alike where only the world outside is slow; None where nothing is paused."""
    if not scenario.pauses:
        return None
    found = once(scenario, loop=LatencyLoop(pauses=scenario.pauses)).error
    return found is not None and (type(found), _headline(found)) == (type(error), _headline(error))


def _headline(error: BaseException) -> str:
    """Return error and message in one line; of a bare ``assert``, its source."""
    text = str(error) or (traceback.extract_tb(error.__traceback__)[-1].line or "")
    return f"{type(error).__name__}: {text}".splitlines()[0]


def _parameters(function: Any) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """Return the parameter for a test class's instance, where there is one, and those after the simulation.

    Raises:
        ConfigurationError: The function is no test for a simulation.
    """
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError("simulate", function, "decorate a coroutine function: `async def test_...(sim)`")
    parameters = list(inspect.signature(function).parameters.values())
    owner = parameters[:1] if parameters and parameters[0].name == "self" else []
    others = parameters[len(owner) + 1 :]
    if len(parameters) == len(owner):
        raise ConfigurationError("simulate", function, "give the test a first parameter for the simulation: `sim`")
    for each in others:
        if each.name == "scenario":
            raise ConfigurationError("simulate", "scenario", "call the parameter something else; sim.scenario has it")
        if each.default is not each.empty:
            allowed = "leave the default out: the value is drawn, or comes from a fixture"
            raise ConfigurationError(f"simulate: {each.name}", each.default, allowed)
    return owner, [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in others]
