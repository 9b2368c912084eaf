"""What is known of a moment in which the loop stood still: how long, in which task, on which line.

>>> stack = read_stack(threading.get_ident())
>>> stack[-1].function, stack[-1].source
('read_stack', 'places.append((frame, frame.f_lineno or 0))')
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["StackLine", "Stall", "read_stack", "threading"]

_MOST_LINES = 20
_LOOP_CODE = asyncio.Handle._run.__code__  # noqa: SLF001 - what is further out is the loop, the same every time


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLine:
    """One line of a stack.

    Attributes:
        file: Path of the source file.
        line: Number of the line, from 1; 0 where Python does not know.
        function: Name of the function.
        source: The line itself, without indentation; empty where the file cannot be read.
    """

    file: str
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}" + (f": {self.source}" if self.source else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A time in which the loop ran nothing that was due.

    Attributes:
        started_at: When something was due and did not run, ISO 8601 in UTC.
        duration_seconds: How long from then on; the block itself began at most one tick earlier.
        task: Name of the task that was running; None where it was a callback, or nobody could look.
        stack: Where the loop's thread was, the innermost line last; empty where nobody could look.
    """

    started_at: str
    duration_seconds: float
    task: str | None
    stack: tuple[StackLine, ...]

    @property
    def where(self) -> str:
        """The innermost line as text, or empty."""
        return str(self.stack[-1]) if self.stack else ""


def read_stack(thread: int) -> tuple[StackLine, ...]:
    """Return the innermost lines of a thread's stack, from the loop's callback inwards; none for one that ended.

    Args:
        thread: As `threading.get_ident` says it.
    """
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, in spite of its name
    places: list[tuple[FrameType, int]] = []
    while frame is not None and frame.f_code is not _LOOP_CODE and len(places) < _MOST_LINES:
        places.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    # Files are read only now: reading lets the thread run on.
    return tuple(
        StackLine(
            file=frame.f_code.co_filename,
            line=line,
            function=frame.f_code.co_qualname,
            source=linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip(),
        )
        for frame, line in reversed(places)
    )
