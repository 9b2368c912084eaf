"""One self-contained page about a failing run: a lane per task, time from left to right, and what went wrong.

Time jumps and most steps take none, so the horizontal axis counts steps; a line marks where virtual time moved on.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from .trace import StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .report import Report
    from .trace import Step

_WIDTH, _LANE, _TOP, _LEFT = 14, 34, 44, 12
_MOST_STEPS = 2_000
_NEVER = -1.0
_LABEL_ROOM = 60

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1d2126; --soft: #646c76; --line: #dfe2e6; --band:
#f1f2f4; --run: #7a8fb5; --pause: #c98a10; --fault: #b4369b; --crash: #cf2f2f; --act: #14805e; --jump:
#5b57c9; } @media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7eb; --soft: #98a1ac;
--line: #2d333b; --band: #1c2026; --run: #6d86b8; --pause: #e0a93a; --fault: #df6ac8; --crash: #ff6161; --act:
#3fc497; --jump: #9b97ff; } } * { box-sizing: border-box } body { margin: 0 auto; max-width: 1180px; padding:
28px 24px 60px; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif } h1 {
font-size: 20px; line-height: 1.35; margin: 0 0 4px; overflow-wrap: anywhere } p { margin: 0; color:
var(--soft) } code, td, .lanes { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace } dl {
display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 18px 0 } dt { color: var(--soft)
} dd { margin: 0; overflow-wrap: anywhere } ul { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0;
margin: 20px 0 8px; list-style: none; color: var(--soft); font-size: 13px } li i { display: inline-block;
width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; vertical-align: -1px } .picture { display:
flex; border: 1px solid var(--line); border-radius: 8px; overflow: hidden } .lanes { flex: none; max-width:
300px; padding: TOPpx 14px 0; border-right: 1px solid var(--line) } .lanes div { height: LANEpx; line-height:
LANEpx; white-space: nowrap; overflow: hidden; text-overflow: ellipsis } .scroll { overflow-x: auto } svg {
display: block } svg text { font: 11px ui-monospace, Menlo, monospace; fill: var(--soft) } .band { fill:
var(--band) } .tick { stroke: var(--line) } .run { fill: var(--run) } .wait { stroke: var(--pause);
stroke-width: 2; stroke-dasharray: 3 3 } .paused, .resumed { fill: var(--pause) } .fault { fill: var(--fault)
} .crash, .violation { fill: var(--crash) } .restart, .action { fill: var(--act) } .jump, .mark { fill:
var(--jump) } .cut { stroke: var(--crash); stroke-width: 1.5 } .born { stroke: var(--act); stroke-width: 1.5;
stroke-dasharray: 4 3 } table { width: 100%; border-collapse: collapse; margin-top: 26px } td { padding: 3px
12px 3px 0; vertical-align: top; border-top: 1px solid var(--line); overflow-wrap: anywhere }
td:nth-child(-n+3) { white-space: nowrap; color: var(--soft) } tr.note td:last-child { font-weight: 600 }
tr.crash td:last-child, tr.violation td:last-child { color: var(--crash) } tr.paused td:last-child, tr.resumed
td:last-child { color: var(--pause) } tr.fault td:last-child { color: var(--fault) } tr.action td:last-child,
tr.restart td:last-child { color: var(--act) } tr.jump td:last-child { color: var(--jump) }
""".replace("TOP", str(_TOP)).replace("LANE", str(_LANE))

_LEGEND = {
    "run": "a step",
    "pause": "held back: this await was slow",
    "act": "an action happened, or the app came up",
    "fault": "an action failed",
    "crash": "power cut, or a broken promise",
    "jump": "the clock jumped, or a note",
}
_COLORS = {
    "paused": "pause",
    "resumed": "pause",
    "action": "act",
    "restart": "act",
    "violation": "crash",
    "mark": "jump",
}
_WHOLE = frozenset({StepKind.CRASH, StepKind.RESTART})


def draw(report: Report) -> str:
    """Return the page."""
    steps = report.steps[-_MOST_STEPS:]
    told = {step.task for step in steps if step.where or step.kind is not StepKind.RUN}
    lanes = [task for task in dict.fromkeys(step.task for step in steps) if task in told]
    steps = tuple(step for step in steps if step.task in lanes)
    left = len(report.steps) - len(steps)
    facts = {"test": report.test, "scenario": repr(report.scenario), **report.inputs}
    if report.token:
        facts["again"] = f"pytest '{report.test}' --sim-replay={report.token}"
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in facts.items())
    kinds = {_color(step.kind) for step in steps}
    legend = "".join(
        f'<li><i style="background: var(--{color})"></i>{text}</li>'
        for color, text in _LEGEND.items()
        if color in kinds
    )
    names = "".join(f'<div title="{escape(lane)}">{escape(lane or "the simulation")}</div>' for lane in lanes)
    note = f"{left} steps of the loop itself, or before these, are left out." if left else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.error)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(report.error)}</h1><p>{escape(report.headline)}</p><dl>{rows}</dl><ul>{legend}</ul>"
        f'<div class="picture"><div class="lanes">{names}</div>'
        f'<div class="scroll">{"".join(_picture(steps, lanes))}</div></div>'
        f"<p>{note}</p>"
        f"<table>{''.join(map(_row, _told(steps)))}</table></html>\n"
    )


def _color(kind: str) -> str:
    return _COLORS.get(kind, kind)


def _picture(steps: tuple[Step, ...], lanes: list[str]) -> Iterator[str]:
    width, height = _LEFT * 2 + _WIDTH * len(steps) + 60, _TOP + _LANE * len(lanes)
    yield f'<svg width="{width}" height="{height}" role="img" aria-label="Steps of each task">'
    for number in range(0, len(lanes), 2):
        yield f'<rect class="band" x="0" y="{_TOP + _LANE * number}" width="{width}" height="{_LANE}"/>'
    yield from _times(steps, height)
    yield from _holds(steps, lanes)
    for column, step in enumerate(steps):
        x, y = _LEFT + _WIDTH * column, _TOP + _LANE * lanes.index(step.task)
        yield from _mark(step, x, y, height)
    yield "</svg>"


def _times(steps: tuple[Step, ...], height: int) -> Iterator[str]:
    shown = -100
    for at, group in groupby(enumerate(steps), key=lambda each: each[1].at):
        x = _LEFT + _WIDTH * next(group)[0] - 1
        yield f'<line class="tick" x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{height}"/>'
        if x - shown > _LABEL_ROOM:
            yield f'<text x="{x}" y="{_TOP - 14}">{at:.3f} s</text>'
            shown = x


def _holds(steps: tuple[Step, ...], lanes: list[str]) -> Iterator[str]:
    since: dict[str, int] = {}
    for column, step in enumerate(steps):
        if step.kind is StepKind.PAUSED:
            since[step.task] = column
        elif step.kind is StepKind.RESUMED and step.task in since:
            y = _TOP + _LANE * lanes.index(step.task) + _LANE // 2
            x1, x2 = _LEFT + _WIDTH * since.pop(step.task) + _WIDTH, _LEFT + _WIDTH * column
            yield f'<line class="wait" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>'


def _mark(step: Step, x: int, y: int, height: int) -> Iterator[str]:
    title = f"<title>{escape(_say(step))}</title>"
    middle, center = x + _WIDTH // 2 - 1, y + _LANE // 2
    if step.kind is StepKind.RUN:
        yield f'<rect class="run" x="{x}" y="{y + 9}" width="{_WIDTH - 2}" height="{_LANE - 18}" rx="2">{title}</rect>'
        return
    if step.kind in _WHOLE:
        name = "cut" if step.kind is StepKind.CRASH else "born"
        yield f'<line class="{name}" x1="{middle}" x2="{middle}" y1="{_TOP - 8}" y2="{height}"/>'
    if step.kind in (StepKind.CRASH, StepKind.VIOLATION):
        points = f"{middle},{center - 9} {middle + 9},{center} {middle},{center + 9} {middle - 9},{center}"
        yield f'<polygon class="{step.kind}" points="{points}">{title}</polygon>'
    else:
        yield f'<circle class="{step.kind}" cx="{middle}" cy="{center}" r="7">{title}</circle>'


def _told(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Leave out what repeats: consecutive steps of one task at one line."""
    before = ("", "", _NEVER)
    for step in steps:
        place = (step.task, step.where, step.at)
        if step.kind is not StepKind.RUN or (step.where and place != before):
            yield step
        before = place


def _row(step: Step) -> str:
    note = "" if step.kind is StepKind.RUN else " note"
    text = step.source if step.kind is StepKind.RUN else f"{step.kind} {step.note}"
    cells = (f"{step.at:.3f} s", step.task, step.where, text)
    return f'<tr class="{step.kind}{note}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _say(step: Step) -> str:
    parts = (f"{step.at:.3f} s", step.task, "" if step.kind is StepKind.RUN else f"{step.kind}: {step.note}")
    return "\n".join(part for part in (*parts, step.where, step.source) if part)
