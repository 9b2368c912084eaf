"""A plan for people: as plain text, in colours on a terminal, and as Markdown for a pull request.

The three show the same, because `view` decides what is shown and these only set it. Text from outside reaches none of
them as markup: control characters are escaped, Markdown stands in code spans, and colours are never read from text.

>>> from asyncsandbox.rehearsal import UTC, CodeManifest, Plan, datetime
>>> code = CodeManifest(python="3.13", modules={}, distributions={})
>>> plan = Plan(planned_at=datetime(2026, 11, 1, tzinfo=UTC), code=code)
>>> print(render_text(plan).splitlines()[0])
DRY RUN, nothing was sent
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Final

from .view import HEADLINE, Fit, Mark, Outside, make_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from . import Plan
    from .view import Line, Section

WIDTH: Final = 100
"""Columns of plain text where nobody says how wide the screen is."""
_NARROWEST: Final = 40
_WIDEST_COLUMN: Final = 32
_MORE: Final = "..."
_STYLES: Final = {
    Mark.SEND: "cyan",
    Mark.UNDOABLE: "green",
    Mark.DESTROY: "bold red",
    Mark.LOOK: "bold yellow",
    Mark.READ: "dim",
    Mark.NONE: "",
}


def render_text(plan: Plan, *, file: str | None = None, action: str | None = None, width: int = WIDTH) -> str:
    """Return a plan as plain text.

    Args:
        plan: The plan.
        file: Where it is written, for the commands to type next.
        action: Show every call of this action, in full, and nothing else.
        width: Columns; longer lines are cut, or wrapped where all of them matters. Commands are left whole.

    Raises:
        LookupError: The plan has no such action.
    """
    return "".join(f"{line}\n" for line, _ in _set(make_view(plan, file=file, action=action), width))


def print_terminal(plan: Plan, console: Console, *, file: str | None = None, action: str | None = None) -> None:
    """Print a plan in colours: the same lines as `render_text`, as wide as the terminal.

    Args:
        plan: The plan.
        console: Where to.
        file: As for `render_text`.
        action: As for `render_text`.

    Raises:
        LookupError: The plan has no such action.
    """
    from rich.text import Text

    for line, style in _set(make_view(plan, file=file, action=action), console.width):
        console.print(Text(line, style=style), soft_wrap=True)


def render_markdown(plan: Plan, *, file: str | None = None, action: str | None = None) -> str:
    """Return a plan as Markdown; what came from outside stands in code spans, where it can mean nothing.

    Args:
        plan: The plan.
        file: As for `render_text`.
        action: As for `render_text`.

    Raises:
        LookupError: The plan has no such action.
    """
    lines = [f"## {HEADLINE}"]
    for section in make_view(plan, file=file, action=action):
        lines += ["", *([f"### {section.title}", ""] if section.title else [])]
        lines.extend(_list_items(section.lines, ""))
    return "\n".join((*lines, ""))


def code_span(text: str) -> str:
    """Return text as a Markdown code span, fenced by more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _list_items(lines: Iterable[Line], indent: str) -> Iterator[str]:
    for line in lines:
        cells = [_cut(cell, WIDTH) if line.fit is Fit.CUT else cell for cell in line.cells if cell.strip()]
        if line.mark:
            cells.insert(0, Outside(line.mark))
        yield f"{indent}- {' '.join(code_span(cell) if isinstance(cell, Outside) else cell.strip() for cell in cells)}"
        yield from _list_items(line.under, f"{indent}  ")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else type(text)(f"{text[: width - len(_MORE)].rstrip()}{_MORE}")


def _set(view: Iterable[Section], width: int) -> Iterator[tuple[str, str]]:
    """Yield every line of text with the style it has on a terminal."""
    width = max(width, _NARROWEST)
    yield HEADLINE, "bold"
    for section in view:
        yield "", ""
        if section.title:
            yield section.title, "bold"
        yield from _set_lines(section.lines, "  ", width)


def _set_lines(lines: Sequence[Line], indent: str, width: int) -> Iterator[tuple[str, str]]:
    columns = _columns(lines)
    marked = any(line.mark for line in lines)
    for line in lines:
        cells = [cell.ljust(column) for cell, column in zip(line.cells, columns, strict=False)]
        start = f"{indent}{f'{line.mark:1} ' if marked else ''}"
        for text in _fit(start, "  ".join(cells).rstrip(), width, line.fit):
            yield text, _STYLES[line.mark]
        yield from _set_lines(line.under, f"{indent}    ", width)


def _columns(lines: Sequence[Line]) -> list[int]:
    """Return how wide each column is; a line's last cell and very wide ones push nobody aside."""
    widths = [0] * max((len(line.cells) for line in lines), default=0)
    for line in lines:
        for position, cell in enumerate(line.cells[:-1]):
            if len(cell) <= _WIDEST_COLUMN:
                widths[position] = max(widths[position], len(cell))
    return widths


def _fit(start: str, text: str, width: int, fit: Fit) -> list[str]:
    if fit is Fit.KEEP or len(start) + len(text) <= width:
        return [f"{start}{text}"]
    if fit is Fit.CUT:
        return [_cut(f"{start}{text}", width)]
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=f"{' ' * len(start)}    ")
