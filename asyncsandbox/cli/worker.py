"""`asyncsandbox worker`: a process that runs the jobs of a store, until it is told to end.

>>> make_sandbox("nowhere.py:sandbox")
Traceback (most recent call last):
    ...
asyncsandbox.cli.trouble.Trouble: nowhere.py: no such file; give FILE.py:SANDBOX or MODULE:SANDBOX
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from ..components.worker.job import declared_names
from ..errors import SandboxError
from ..sandbox import Sandbox
from .target import find
from .trouble import ExitCode, Trouble, get_cause, trouble_with_import

if TYPE_CHECKING:
    from collections.abc import Callable

_FORM: Final = "give FILE.py:SANDBOX or MODULE:SANDBOX"
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE_SECONDS: Final = 2.0


def worker(target: str, /) -> int:
    """Run the jobs that are in the store of a sandbox, until SIGTERM or Ctrl-C.

    Then no other job is begun, and those that run may end within WorkerSettings(grace_seconds=...); after that, or at a
    second signal, they are cancelled and put back for another process.

    Args:
        target: FILE.py:SANDBOX or MODULE:SANDBOX, a live Sandbox with a store, or a function that returns one. Its
            module must import every function that is declared with @job.

    Raises:
        Trouble: There is none, or it cannot start.
    """
    try:
        return asyncio.run(_serve(target))
    except SandboxError as error:
        raise Trouble(str(get_cause(error))) from None


def make_sandbox(target: str) -> Sandbox:
    """Return the sandbox that a target names.

    Raises:
        Trouble: There is none, or it would run no jobs.

    Concurrency: call it inside a running loop, as `target.find` says. Cancellation: nothing here waits.
    """
    _, found = find(target, _FORM)
    sandbox = _call(found, target) if callable(found) else found
    if inspect.iscoroutine(sandbox):
        sandbox.close()
    if not isinstance(sandbox, Sandbox):
        what = f"{'returns' if callable(found) else 'is'} {type(sandbox).__name__}"
        raise Trouble(f"{target}: {what}; let it be a Sandbox, or a plain function that returns one")
    if sandbox.dry_run:
        raise Trouble(
            f"{target}: is a dry run, which runs no jobs of a store; make it with Sandbox(dry_run=False, ...)"
        )
    return sandbox


def _call(make: Callable[..., Any], target: str) -> object:
    """Call a function like ``make_sandbox(**overrides)``, and tell it that this is no rehearsal if it wants to know.

    Raises:
        SandboxError: It raised this.
        Trouble: It cannot be called, or raised something else.
    """
    try:
        parameters = inspect.signature(make).parameters.values()
        wants = any(parameter.name == "dry_run" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return make(dry_run=False) if wants else make()
    except SandboxError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        trouble = trouble_with_import(error, target, done="called")
        raise trouble from None


async def _serve(target: str) -> int:
    sandbox = make_sandbox(target)
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for each in _STOPS:
        loop.add_signal_handler(each, told.set)
    async with sandbox:
        status = sandbox.worker.get_status()
        store = sandbox.worker.services.store
        if not status.runs_durable or store is None or not store.is_durable:
            remedy = "give Sandbox(store=...) a path or URL, and leave WorkerSettings(run_durable=True)"
            raise Trouble(f"{target}: has no store that holds jobs for it; {remedy}")
        names = ", ".join(sorted(declared_names())) or "none that was declared with @job"
        print(f"asyncsandbox: running jobs of {store.location}: {names}", flush=True)  # noqa: T201 - the program's work
        await told.wait()
        return await _stop(sandbox)


async def _stop(sandbox: Sandbox) -> int:
    """Let jobs end, or at a second signal cancel them, and end the process soon whatever they do about it."""
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(sandbox.worker.stop())

    def hurry() -> None:
        stopping.cancel()
        loop.call_later(_AT_ONCE_SECONDS, os._exit, ExitCode.INTERRUPTED)

    for each in _STOPS:
        loop.add_signal_handler(each, hurry)
    await asyncio.wait((stopping,))
    if stopping.cancelled():
        return ExitCode.INTERRUPTED
    stopping.result()
    return ExitCode.OK
