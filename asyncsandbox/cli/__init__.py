"""The command line: `asyncsandbox plan`, `show`, `worker`, `store` and `demo`.

It promises that bad input ends in one clear line on standard error and writes nothing, and these exit codes:

>>> [(code.value, code.name) for code in ExitCode]
[(0, 'OK'), (1, 'ERROR'), (2, 'USAGE'), (3, 'NO_GO'), (6, 'ACTIONS'), (130, 'INTERRUPTED')]
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from .trouble import ExitCode, Trouble, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ExitCode", "main", "run"]


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What stands behind the program's name.

    Raises:
        ModuleNotFoundError: An installed package is broken.

    Concurrency: starts an event loop of its own. Cancellation: Ctrl-C ends the rehearsal and writes nothing.
    """
    try:
        from .commands import make_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return complain("the command line needs an extra: pip install 'asyncsandbox[cli]'")
    from cyclopts import CycloptsError

    for stream in (sys.stdout, sys.stderr):
        _print_what_can_be(stream)
    try:
        code = make_app()(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        return complain(f"{error} See asyncsandbox --help", ExitCode.USAGE)
    except Trouble as trouble:
        return complain(str(trouble), trouble.code)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    return code or ExitCode.OK


_EXTRA = frozenset({"cyclopts", "rich"})


def _print_what_can_be(stream: TextIO) -> None:
    """Escape what the terminal's encoding lacks, so that a name with an accent never ends the program."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
