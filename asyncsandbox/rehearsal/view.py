r"""What a plan shows, before it becomes text, colours or Markdown: sections of lines, made safe for any screen.

Everything that is shown is decided here, once; `render` only sets it. Text that came from outside (keys, facts,
names, paths) is marked as such and holds no character that a terminal would act on.

>>> outside("inv-1\x1b[2J")
'inv-1\\x1b[2J'
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .._core.codec import show_value
from .._core.planned import ActionKind
from .outliers import find_outliers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._core.planned import PlannedAction
    from ..components.database import TableChange
    from . import ActionTotal, Plan

HEADLINE: Final = "DRY RUN, nothing was sent"
_FIRST: Final = 3
"""How many calls of an action, and how many outliers, are shown unless all are asked for."""
_DIGITS: Final = 12
"""How much of a digest is shown."""


class Mark(StrEnum):
    """What a line is about, in one ASCII character."""

    NONE = ""
    SEND = ">"
    UNDOABLE = "~"
    DESTROY = "-"
    LOOK = "!"
    READ = "."


class Fit(StrEnum):
    """What becomes of a line that is too long."""

    CUT = "cut"
    WRAP = "wrap"
    KEEP = "keep"


class Outside(str):
    """Text that came from outside; a renderer quotes it as its format needs."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its cells, and the lines under it.

    Attributes:
        cells: Texts, set in columns; those that are not `Outside` are words of ours.
        mark: What it is about.
        fit: What becomes of it where it is too long.
        under: Lines that belong to it.
    """

    cells: tuple[str, ...]
    mark: Mark = Mark.NONE
    fit: Fit = Fit.CUT
    under: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under a title; the first section of a plan has none."""

    title: str
    lines: tuple[Line, ...]


def outside(text: object) -> Outside:
    """Return text from outside with every character escaped that does not simply stand for itself."""
    plain = str(text)
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)
    return Outside(plain)


def make_view(plan: Plan, *, file: str | None = None, action: str | None = None) -> tuple[Section, ...]:
    """Return what is shown of a plan, section by section; empty ones are left out.

    Args:
        plan: The plan.
        file: Where it is written, for the commands to type next.
        action: Show every call of this action and nothing else.

    Raises:
        LookupError: The plan has no such action.
    """
    totals = plan.get_totals()
    if action is not None:
        totals = tuple(total for total in totals if total.action == action)
        if not totals:
            raise LookupError(action)
    calls: dict[str, list[PlannedAction]] = {total.action: [] for total in totals}
    for call in plan.actions:
        if call.action in calls:
            calls[call.action].append(call)
    sections = [
        Section("", (*_about(plan, file), _count(plan), *_forecast(plan))),
        Section("Look at", tuple(line for total in totals for line in _look_at(total, calls[total.action]))),
        Section(
            "Actions", tuple(_fold(total, calls[total.action], file, whole=action is not None) for total in totals)
        ),
    ]
    if action is None:
        sections += [_rows(plan), _reads(plan)]
    sections.append(Section("Next", tuple(_next(plan, file, action))))
    return tuple(section for section in sections if section.lines)


def number(value: int | Decimal) -> str:
    """Return a number for people, with thousands separators."""
    return f"{value:,}"


def _about(plan: Plan, file: str | None) -> Iterable[Line]:
    if plan.entry is not None:
        keywords = (f"{name}={show_value(value)}" for name, value in plan.entry.keywords.items())
        given = " ".join((*map(show_value, plan.entry.arguments), *keywords))
        yield Line(("ran", outside(f"{plan.entry.target} {given}".rstrip())), fit=Fit.WRAP)
    yield Line(("when", f"{plan.planned_at:%Y-%m-%d %H:%M:%S} UTC"))
    yield Line(("plan", f"{plan.digest[:_DIGITS]}, code {plan.code.digest[:_DIGITS]}"))
    if file is not None:
        yield Line(("file", outside(file)), fit=Fit.KEEP)


def _count(plan: Plan) -> Line:
    kinds = Counter[str]()
    for call in plan.actions:
        kinds["destroy" if call.destroys else call.kind] += call.count
    parts = [f"{number(kinds[kind])} {kind}" for kind in ("destroy", *ActionKind) if kinds[kind]]
    said = [_counted(plan.count, "action") + (f" ({', '.join(parts)})" if parts else "")]
    rows = sum(change.inserted + change.updated + change.deleted for change in plan.rows)
    if rows:
        said.append(f"{_counted(rows, 'row')} changed")
    if plan.reads:
        said.append(f"{_counted(sum(plan.reads.values()), 'read')} ran for real")
    return Line(("count", ", ".join(said)), fit=Fit.WRAP)


def _forecast(plan: Plan) -> Iterable[Line]:
    if plan.forecast_seconds is not None:
        yield Line(("limits", f"all of it takes at least {span(plan.forecast_seconds)}"))


def span(seconds: float) -> str:
    """Return a length of time for people, in its two largest units: ``2 h 5 min``."""
    left, parts = math.ceil(seconds), list[tuple[int, str]]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        whole, left = divmod(left, size)
        if whole or parts:
            parts.append((whole, unit))
    return " ".join(f"{whole} {unit}" for whole, unit in parts[:2] if whole) or "0 s"


def _counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def _look_at(total: ActionTotal, calls: Sequence[PlannedAction]) -> Iterable[Line]:
    def line(words: str, *texts: Outside) -> Line:
        return Line((outside(total.action), words, *texts), mark=Mark.LOOK, fit=Fit.WRAP)

    if total.destroys:
        yield line(f"destroys, {_counted(total.count, 'call')}:", _list([call.key for call in calls]))
    with_amount = [(call, call.amount) for call in calls if call.amount is not None for _ in range(call.count)]
    found = [with_amount[position] for position in find_outliers([float(amount) for _, amount in with_amount])]
    if found:
        stand = "amounts stands out:" if len(found) == 1 else "amounts stand out:"
        shown = [f"{call.key} {number(amount)}" for call, amount in found]
        yield line(f"{number(len(found))} of {number(len(with_amount))} {stand}", _list(shown))
    blind = sum(call.count for call in calls if not call.compared)
    if blind:
        yield line(f"masked values of {_counted(blind, 'call')} are not compared: give a masking_key")
    keyless = sum(call.count for call in calls if not call.keyed)
    if keyless:
        yield line(f"{_counted(keyless, 'call')} without a key: after a crash somebody must look what was sent")


def _list(texts: Sequence[str]) -> Outside:
    more = f" and {number(len(texts) - _FIRST)} more" if len(texts) > _FIRST else ""
    return outside(", ".join(texts[:_FIRST]) + more)


def _fold(total: ActionTotal, calls: Sequence[PlannedAction], file: str | None, *, whole: bool) -> Line:
    mark = Mark.UNDOABLE if total.kind is ActionKind.REVERSIBLE else Mark.SEND
    cells = (outside(total.action), f"x {number(total.count)}", *_amounts(total), _sites(calls))
    shown = calls if whole or len(calls) <= _FIRST + 1 else _few(calls)
    amounts = [_amount(call) for call in shown]
    width = max(map(len, amounts), default=0)
    largest = None if total.lowest == total.highest or total.count <= _FIRST else total.highest
    under = [
        _call(call, amount.rjust(width), largest=largest, fit=Fit.WRAP if whole else Fit.CUT)
        for call, amount in zip(shown, amounts, strict=True)
    ]
    hidden = sum(call.count for call in calls) - sum(call.count for call in shown)
    if hidden:
        command = "" if file is None else f" ({_command(file, '--action', total.action)})"
        under.append(Line((outside(f"... {number(hidden)} more{command}"),), fit=Fit.KEEP))
    return Line(cells, mark=Mark.DESTROY if total.destroys else mark, fit=Fit.WRAP, under=tuple(under))


def _few(calls: Sequence[PlannedAction]) -> list[PlannedAction]:
    few = list(calls[:_FIRST])
    amounts = [Decimal("-Infinity") if call.amount is None else call.amount for call in calls]
    largest = calls[amounts.index(max(amounts))]
    return few if largest.amount is None or largest in few else [*few, largest]


def _amounts(total: ActionTotal) -> tuple[str, ...]:
    if total.amount is None or total.lowest is None or total.highest is None:
        return ()
    span = dict.fromkeys((number(total.lowest), number(total.highest)))
    return (" .. ".join(span), f"total {number(total.amount)}")


def _amount(call: PlannedAction) -> str:
    return "" if call.amount is None else number(call.amount)


def _call(call: PlannedAction, amount: str, *, largest: Decimal | None, fit: Fit) -> Line:
    remarks = [f"x {number(call.count)}"] if call.count > 1 else []
    if largest is not None and call.amount is not None and call.amount == largest:
        remarks.append("largest")
    cells = (outside(call.key), amount, ", ".join(remarks), outside(call.show()))
    return Line(tuple(cell for cell in cells if cell), fit=fit)


def _sites(calls: Iterable[PlannedAction]) -> Outside:
    sites = list(dict.fromkeys(call.site for call in calls if call.site))
    more = f" and {_counted(len(sites) - 1, 'other place')}" if len(sites) > 1 else ""
    return outside("".join((*sites[:1], more)))


def _rows(plan: Plan) -> Section:
    def line(change: TableChange) -> Line:
        signed = f"+{number(change.inserted)} ~{number(change.updated)} -{number(change.deleted)}"
        return Line((outside(change.table), outside(signed)))

    return Section("Rows (isolated copy, dropped)", tuple(map(line, plan.rows)))


def _reads(plan: Plan) -> Section:
    lines = (Line((outside(name), f"x {number(count)}"), mark=Mark.READ) for name, count in plan.reads.items())
    return Section("Reads that ran for real", tuple(lines))


def _next(plan: Plan, file: str | None, action: str | None) -> Iterable[Line]:
    if not plan.actions:
        yield Line(("Nothing would be sent. Calls show up here once they are declared irreversible or reversible.",))
    elif file is not None and action is not None:
        yield Line((_command(file), "the whole plan"), fit=Fit.KEEP)
    elif file is not None:
        name = plan.get_totals()[0].action
        yield Line((_command(file, "--action", name), "every call of one action"), fit=Fit.KEEP)
        yield Line((_command(file, "--markdown"), "for a pull request"), fit=Fit.KEEP)


def _command(file: str, *options: str) -> Outside:
    return outside(shlex.join(("asyncsandbox", "show", file, *options)))
