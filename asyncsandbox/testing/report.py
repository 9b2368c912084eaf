"""What a failing simulation tells: the timeline, how to see it again, and the same as JSON, picture and test.

>>> from asyncsandbox.testing import Scenario
>>> report = Report(test="test_shop.py::test_once", scenario=Scenario(crashes=(13,)), error="sent twice", runs=14)
>>> print(report.render())
sent twice
1 crash; found in run 14
  scenario: Scenario(crashes=(13,))
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .trace import StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .scenario import Scenario
    from .trace import Step

_LINES = 40
_CONTEXT = 4
_REACH = {None: "", True: "; reachable: timing", False: "; needs a slower loop than stock asyncio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One failing run.

    Attributes:
        test: The test, as ``file.py::function``.
        scenario: What went wrong.
        inputs: The drawn inputs, as Python text.
        fixtures: What else the test got, as Python text; an empty string where it has none.
        error: What failed, in one line.
        unhandled: Other errors that nobody looked at, such as those that ended a task.
        reachable: Whether it fails alike with pauses only where stock asyncio can be slow: at answers of timers,
            executor jobs, databases and actions. None where nothing is paused.
        runs: How many simulated runs it took in this example.
        token: For ``pytest --sim-replay=``, or an empty string where an input has no literal form.
        steps: What happened.
    """

    test: str
    scenario: Scenario
    error: str
    reachable: bool | None = None
    runs: int = 1
    token: str = ""
    unhandled: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    fixtures: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    @property
    def headline(self) -> str:
        """Its size in one line."""
        return f"{self.scenario.describe()}; found in run {self.runs}{_REACH[self.reachable]}"

    @property
    def example(self) -> str:
        """The line that makes Hypothesis try this first, to be pasted above the test."""
        given = ", ".join(f"{name}={value}" for name, value in {"scenario": self.scenario, **self.inputs}.items())
        return f"@example({given})"

    def tells_of(self, scenario: Scenario, error: str, inputs: Mapping[str, str], fixtures: Mapping[str, str]) -> bool:
        """Return whether it says all there is of a failure: the same one, in the same scenario or in an empty one."""
        same = (error, inputs, fixtures) == (self.error, self.inputs, self.fixtures)
        return same and self.scenario in {scenario, type(scenario)()}

    def render(self, lines: int = _LINES) -> str:
        """Return the account for a terminal, with at most ``lines`` lines of timeline."""
        told = [self.error, self.headline, f"  scenario: {self.scenario!r}"]
        told += [f"  {name} = {value}" for name, value in self.inputs.items()]
        told += [f"  nobody looked at {each}" for each in self.unhandled]
        told += _timeline(self.steps, lines)
        if self.token:
            told.append(f"again: pytest '{self.test}' --sim-replay={self.token}")
        if self.steps:
            told.append(f"for good: {self.example}")
        return "\n".join(told)

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(self._as_dict(), indent=1)

    def to_html(self) -> str:
        """Return one self-contained page: a lane per task over time, with marks for what went wrong."""
        from .picture import draw

        return draw(self)

    def export_test(self) -> str:
        """Return the source of a plain test that fails again, without Hypothesis' search."""
        path, _, function = self.test.partition("::")
        module = path.rpartition("/")[2].removesuffix(".py")
        needed = {"Scenario", "replay", *re.findall(r"\b(fault|Jump)\(", repr(self.scenario))}
        # A fixture that has no text becomes a parameter: pytest knows where it comes from.
        asked = [name for name, text in self.fixtures.items() if not text]
        given = {**self.inputs, **{name: text or name for name, text in self.fixtures.items()}}
        arguments = "".join(f", {name}={value}" for name, value in given.items())
        target = ".".join((module, *function.split("::")))
        return (
            f'"""{self.error.splitlines()[0]}"""\n\n'
            f"from asyncsandbox.testing import {', '.join(sorted(needed))}\n\n"
            f"{_imports(self.scenario)}import {module}\n\n\n"
            f"def {function.rpartition('::')[2]}_again({', '.join(asked)}):\n"
            f"    replay({target}, {self.scenario!r}{arguments})\n"
        )

    def _as_dict(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "error": self.error,
            "scenario": repr(self.scenario),
            "inputs": dict(self.inputs),
            "unhandled": list(self.unhandled),
            "reachable": self.reachable,
            "runs": self.runs,
            "token": self.token,
            "steps": [
                {
                    "number": step.number,
                    "point": step.point,
                    "at": step.at,
                    "task": step.task,
                    "where": step.where,
                    "source": step.source,
                    "kind": str(step.kind),
                    "note": step.note,
                }
                for step in self.steps
            ],
        }


def _imports(scenario: Scenario) -> str:
    """Return the lines that import the errors of a scenario's faults."""
    errors = {each.error for each in scenario.faults if getattr(each.error, "__module__", "builtins") != "builtins"}
    return "".join(
        sorted(f"from {error.__module__} import {getattr(error, '__qualname__', '?')}\n" for error in errors)
    )


def _timeline(steps: tuple[Step, ...], lines: int) -> Iterator[str]:
    """Give the marks, where their tasks stood before and went on after, and the last steps of the user's code."""
    wanted = _telling(steps)
    shown = sorted(wanted)[-lines:]
    chosen = [steps[number] for number in shown]
    tasks = max((len(step.task) for step in chosen), default=0)
    places = max((len(step.where) for step in chosen), default=0)
    before = -1
    for number, step in zip(shown, chosen, strict=True):
        if number > before + 1:
            yield f"  {'':9}  ... {number - before - 1} more"
        before = number
        text = step.source
        if step.kind is not StepKind.RUN:
            text = f"{step.kind.upper()} {step.note}"
        yield f"  t={step.at:<7.3f}  {step.task:{tasks}}  {step.where:{places}}  {text}".rstrip()


def _telling(steps: tuple[Step, ...]) -> set[int]:
    wanted: set[int] = set()
    stood: dict[str, int] = {}
    resumed: set[str] = set()
    latest = 0
    for number, step in enumerate(steps):
        if step.kind is not StepKind.RUN:
            wanted |= {number, stood.get(step.task, latest)}
            if step.kind is StepKind.RESUMED:
                resumed.add(step.task)
        elif step.where:
            stood[step.task] = latest = number
            if step.task in resumed:
                resumed.discard(step.task)
                wanted.add(number)
    return wanted | set([number for number, step in enumerate(steps) if step.where][-_CONTEXT:])
