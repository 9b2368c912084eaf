"""What ends a command early: one clear line on standard error, and an exit code.

>>> complain("no.plan.json: No such file or directory", ExitCode.ERROR, stream=sys.stdout)
asyncsandbox: no.plan.json: No such file or directory
<ExitCode.ERROR: 1>
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from ..errors import LifecycleError, NotReadyError, SandboxError
from ..rehearsal.view import outside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ExitCode(IntEnum):
    """How a command ended. 4 and 5 are kept for the outcomes of a live run."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NO_GO = 3
    ACTIONS = 6
    INTERRUPTED = 130


class Trouble(Exception):  # noqa: N818 - it never leaves the command line
    """Ends a command with some lines and an exit code."""

    def __init__(self, text: str, code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(text)
        self.code = code


def complain(text: str, code: ExitCode = ExitCode.ERROR, *, stream: TextIO | None = None) -> ExitCode:
    """Print each line of a message, made safe, and return the exit code."""
    for line in text.splitlines():
        print(f"asyncsandbox: {outside(line)}", file=stream or sys.stderr)
    return code


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return a remedy for a mistyped name: those that come near it, or else all there are."""
    names = sorted(known)
    near = get_close_matches(wrong, names) or names
    return f"did you mean {' or '.join(near)}?" if near else "there is none"


def trouble_with_program(error: BaseException) -> Trouble:
    """Say what the program under rehearsal raised: the messages alone where they are ours, else also where it was."""
    leaves = list(_leaves(error))
    if all(isinstance(leaf, SandboxError) for leaf in leaves):
        code = ExitCode.NO_GO if all(isinstance(leaf, NotReadyError) for leaf in leaves) else ExitCode.ERROR
        alike = f" (and {len(leaves) - 1:,} more like it)" if len(leaves) > 1 else ""
        return Trouble(f"{get_cause(leaves[0])}{alike}", code)
    if isinstance(error, SystemExit):
        return Trouble(f"the program ended itself with sys.exit({error.code!r}); {_NOTHING}")
    for line in "".join(_trimmed(error)).splitlines():
        sys.stderr.write(f"{outside(line)}\n")
    return Trouble(f"the program raised {type(error).__name__} under rehearsal; {_NOTHING}")


def trouble_with_import(error: BaseException, what: str, *, done: str = "imported") -> Trouble:
    """Say why a file or module could not be imported, or what else was not done, and on which line of the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        where, said = f"{error.filename}:{error.lineno}: ", error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
        where, said = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else "", str(error)
    return Trouble(f"{what} cannot be {done}: {where}{type(error).__name__}: {said}; mend it and try again")


_NOTHING: Final = "nothing was sent and no plan was written"


def get_cause(error: BaseException) -> BaseException:
    """Return the error below "component ... failed" that says what to do."""
    cause = error.__cause__
    return cause if isinstance(error, LifecycleError) and isinstance(cause, SandboxError) else error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _trimmed(error: BaseException) -> Iterator[str]:
    """Yield the traceback with the user's frames alone."""
    told = traceback.TracebackException.from_exception(error)
    waiting = [told]
    while waiting:
        one = waiting.pop()
        kept = [frame for frame in one.stack if _is_users(frame.filename)]
        one.stack = traceback.StackSummary.from_list(kept or list(one.stack)[-1:])
        waiting += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))
    return told.format()


def _is_users(filename: str) -> bool:
    path = os.path.realpath(filename)
    return not filename.startswith("<") and not path.startswith(_NOT_THE_USERS)


_NOT_THE_USERS: Final = (
    *(
        f"{os.path.realpath(sysconfig.get_path(name))}{os.sep}"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    f"{Path(__file__).resolve().parent.parent}{os.sep}",
)
