"""What happened in a simulated run, step by step: cheap to write, rendered when somebody looks.

It promises that equal runs have equal digests, in another process too, and that runs which differ in order, time
or place do not. It does not promise equal digests on another version of Python, whose coroutines step differently.

>>> trace = Trace()
>>> trace.append(StepKind.MARK, at=1.5, task="main#1", note="card.charge")
>>> trace.steps[0].note, len(trace)
('card.charge', 1)
"""

from __future__ import annotations

import functools
import hashlib
import linecache
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["Step", "StepKind", "Trace"]

# point, time, task, kind, note, code and the offset in it (-1: no code). A plain tuple: one is made for every step.
RawStep = tuple[int | None, float, str, "StepKind", str, "CodeType | None", int]


class StepKind(StrEnum):
    """What a step of the trace is."""

    RUN = "run"
    PAUSED = "paused"
    RESUMED = "resumed"
    FAULT = "fault"
    CRASH = "crash"
    RESTART = "restart"
    ACTION = "action"
    JUMP = "jump"
    MARK = "mark"
    VIOLATION = "violation"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the timeline.

    Attributes:
        number: Its place in the trace, from 0.
        point: The decision point it was taken at, or None where there was nothing to decide.
        at: Virtual seconds since the run began.
        task: Name of the task, or of the callback.
        where: ``file:line`` at which the task goes on, or an empty string.
        source: That line of source, stripped.
        kind: What happened.
        note: More about it, for people.
    """

    number: int
    point: int | None
    at: float
    task: str
    where: str
    source: str
    kind: StepKind
    note: str


class Trace:
    """The steps of one run, in order.

    Concurrency: written by one loop. Cancellation: not concerned.
    """

    __slots__ = ("raw",)

    def __init__(self) -> None:
        self.raw: list[RawStep] = []
        """What the loop writes; everybody else reads `steps`."""

    def __len__(self) -> int:
        return len(self.raw)

    def append(
        self,
        kind: StepKind,
        *,
        at: float,
        task: str,
        note: str = "",
        place: tuple[CodeType | None, int] = (None, -1),
    ) -> None:
        """Add a step that was not taken at a decision point.

        Args:
            kind: What happened.
            at: When, in virtual seconds.
            task: Who did it.
            note: More about it.
            place: Code and offset of the instruction in it.
        """
        self.raw.append((None, at, task, kind, note, *place))

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step, rendered."""
        return tuple(_render(number, raw) for number, raw in enumerate(self.raw))

    def digest(self) -> str:
        """Return what is equal for equal runs: 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for point, at, task, kind, note, code, offset in self.raw:
            name = code.co_qualname if code is not None else ""
            digest.update(f"{point}\x1f{at!r}\x1f{task}\x1f{kind}\x1f{note}\x1f{name}\x1f{offset}\x1e".encode())
        return digest.hexdigest()

    def difference(self, other: Trace) -> str:
        """Return, for people, the first step at which ``other`` differs; an empty string where none does."""
        for number, (mine, theirs) in enumerate(zip(self.raw, other.raw, strict=False)):
            if mine != theirs:
                return f"step {number}: {_say(_render(number, mine))} / {_say(_render(number, theirs))}"
        if len(self) == len(other):
            return ""
        number = min(len(self), len(other))
        longer = self if len(self) > number else other
        return f"step {number}: {_say(_render(number, longer.raw[number]))} / the end"


@functools.lru_cache(maxsize=4_096)
def line_of(code: CodeType, offset: int) -> int:
    """Return the line of the instruction at ``offset``; the first line of the function before it started."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


@functools.lru_cache(maxsize=4_096)
def place_name(code: CodeType | None, offset: int) -> str:
    """Return ``file:line``, or an empty string where there is no code."""
    return "" if code is None else f"{Path(code.co_filename).name}:{line_of(code, offset)}"


def _render(number: int, raw: RawStep) -> Step:
    point, at, task, kind, note, code, offset = raw
    source = "" if code is None else linecache.getline(code.co_filename, line_of(code, offset)).strip()
    return Step(number, point, at, task, place_name(code, offset), source, kind, note)


def _say(step: Step) -> str:
    parts = (f"t={step.at:g}", step.task, step.where, step.kind, step.note)
    return " ".join(part for part in parts if part)
