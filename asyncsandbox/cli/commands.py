"""The commands, and what they print.

A command returns its exit code, or raises `Trouble`. Standard output holds nothing but the plan when ``--json`` or
``--markdown`` is given: what the program itself prints goes to standard error then.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from .._core.checks import CheckGroup, Verdict
from ..errors import PlanFileError
from ..rehearsal import EntryPoint, Plan
from ..rehearsal.render import WIDTH, print_terminal, render_markdown, render_text
from .store import make_store_app
from .target import load
from .trouble import ExitCode, Trouble, suggest, trouble_with_program
from .worker import worker

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .._core.journal import Event
    from ..sandbox import Sandbox

_HERE: Final = Path(__file__).resolve().parent
_DEMO_PLACES: Final = (_HERE / "demo" / "billing.py", _HERE.parents[1] / "docs" / "examples" / "billing.py")
"""The demonstration is one of the examples: a wheel holds a copy of it, a source tree the file itself."""
_PROGRESS_SECONDS: Final = 0.2


def make_app() -> App:
    """Return the parser of the command line."""
    app = App(
        name="asyncsandbox",
        help="A dress rehearsal for async Python: see what a program would do before it does it.",
        version=__version__,
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for command in (plan, show, worker, demo):
        app.command(command)
    app.command(make_store_app())
    return app


def plan(
    target: str,
    /,
    *arguments: str,
    out: Path | None = None,
    json: bool = False,
    markdown: bool = False,
    detailed_exitcode: bool = False,
) -> int:
    """Rehearse a program, show the plan and write it to a file. Its irreversible calls are held back.

    Args:
        target: FILE.py:FUNC or MODULE:FUNC, an async function; it gets the sandbox if it has a parameter of that name.
        arguments: For FUNC, after --, converted by its annotations.
        out: File to write the plan to, by default FUNC.plan.json in the current folder.
        json: Print the plan as JSON.
        markdown: Print the plan as Markdown.
        detailed_exitcode: Exit with 6 if the plan holds actions.

    Raises:
        Trouble: There is no plan, or it could not be written.
    """
    _require_one_format(json=json, markdown=markdown)
    file = out or Path(f"{target.rpartition(':')[2]}.plan.json")
    _require_place(file)
    quiet: AbstractContextManager[object] = redirect_stdout(sys.stderr) if json or markdown else nullcontext()
    with quiet:
        made = _rehearse(target, arguments)
    try:
        made.write(file)
    except OSError as error:
        raise Trouble(_unwritable(file, error.strerror or str(error))) from None
    _print(made, str(file), json=json, markdown=markdown)
    if json or markdown:
        print(f"asyncsandbox: wrote {file}", file=sys.stderr)  # noqa: T201 - the command line's job
    return ExitCode.ACTIONS if detailed_exitcode and made.actions else ExitCode.OK


def show(file: str, /, *, action: str | None = None, json: bool = False, markdown: bool = False) -> int:
    """Show a plan that was written to a file.

    Args:
        file: The plan.
        action: Show every call of this action, in full, and nothing else.
        json: Print it as JSON.
        markdown: Print it as Markdown.

    Raises:
        Trouble: It cannot be read, or holds no such action.
    """
    _require_one_format(json=json, markdown=markdown)
    if json and action is not None:
        raise Trouble("--json always shows the whole plan; leave out --action", ExitCode.USAGE)
    try:
        read = Plan.read(file)
    except PlanFileError as error:
        raise Trouble(str(error)) from None
    known = {total.action for total in read.get_totals()}
    if action is not None and action not in known:
        raise Trouble(f"{file}: has no action {action!r}; {suggest(action, known)}")
    _print(read, file, action=action, json=json, markdown=markdown)
    return ExitCode.OK


def demo() -> int:
    """Rehearse a billing run on a small shop, made up on the spot."""
    path = next(place for place in _DEMO_PLACES if place.exists())
    _print(replace(_rehearse(f"{path}:main", ()), entry=EntryPoint(target=f"{path.name}:main")), None)
    print(f"\nThe program: {path}\nRehearse it yourself: asyncsandbox plan {path}:main")  # noqa: T201 - as above
    return ExitCode.OK


def _rehearse(text: str, arguments: Sequence[str]) -> Plan:
    async def rehearse() -> Plan:
        target = load(text)
        bound = target.convert(arguments)
        async with target.make_sandbox() as sandbox:
            await _require_go(sandbox)
            with _progress(sandbox):
                made = await sandbox.rehearse(target.function, *bound.args, **bound.kwargs)
        return replace(made, entry=EntryPoint(target=text, arguments=tuple(arguments)))

    try:
        return asyncio.run(rehearse())
    except (Trouble, CycloptsError):
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - the program may raise anything
        raise trouble_with_program(error) from None


async def _require_go(sandbox: Sandbox) -> None:
    report = await sandbox.readiness.run_all_checks(CheckGroup.READINESS)
    if report.verdict is Verdict.NO_GO:
        failed = (f"NO-GO: {check.name}: {check.output or check.status}" for check in report.checks if check.forbids)
        raise Trouble("\n".join((*failed, "NO-GO: nothing was rehearsed; mend it and try again")), ExitCode.NO_GO)


@contextmanager
def _progress(sandbox: Sandbox) -> Generator[None]:
    """Tell on a terminal, now and then, how many actions were held back."""
    if not sys.stderr.isatty():
        yield
        return
    services = sandbox.dry_run_lock.services
    count, told, width = 0, services.clock.monotonic(), 0

    def listen(event: Event) -> None:
        nonlocal count, told, width
        if event.name == "action.held_back":
            count += 1
            now = services.clock.monotonic()
            if now - told >= _PROGRESS_SECONDS:
                told = now
                width = sys.stderr.write(f"\rrehearsing ... {count:,} actions held back") - 1
                sys.stderr.flush()

    unsubscribe = services.journal.subscribe(listen)
    try:
        yield
    finally:
        unsubscribe()
        if width:
            sys.stderr.write(f"\r{' ' * width}\r")


def _print(
    plan: Plan, file: str | None, *, action: str | None = None, json: bool = False, markdown: bool = False
) -> None:
    terminal = sys.stdout.isatty()
    if json:
        sys.stdout.buffer.write(plan.to_json())
    elif markdown:
        sys.stdout.write(render_markdown(plan, file=file, action=action))
    elif terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        print_terminal(plan, Console(), file=file, action=action)
    else:
        width = shutil.get_terminal_size().columns if terminal else WIDTH
        sys.stdout.write(render_text(plan, file=file, action=action, width=width))


def _require_one_format(*, json: bool, markdown: bool) -> None:
    if json and markdown:
        raise Trouble("--json and --markdown exclude each other; give one", ExitCode.USAGE)


def _require_place(file: Path) -> None:
    """Find out before a long rehearsal that its plan would have nowhere to go.

    Raises:
        Trouble: It has nowhere.
    """
    parent = next(folder for folder in file.absolute().parents if folder.exists())
    if file.is_dir():
        problem = "it is a folder"
    elif not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = f"{parent} is no folder that can be written to"
    else:
        return
    raise Trouble(_unwritable(file, problem))


def _unwritable(file: Path, problem: str) -> str:
    return f"{file}: the plan cannot be written there ({problem}); give another place with --out"
