"""How a simulated run ends: everything unfinished is cancelled as `asyncio.run` does, then the dead are let go.

>>> from asyncsandbox.testing.loop import SimLoop
>>> async def main() -> None:
...     forgotten = asyncio.create_task(asyncio.sleep(60), name="forgotten")
...     await asyncio.sleep(1)
>>> loop = SimLoop()
>>> loop.run(main())
>>> loop.leaked
('forgotten#2',)
"""

# ruff: noqa: SLF001 - asyncio tells nobody else whether a failure was looked at

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from .errors import DeadlockError, LivelockError
from .lanes import SimTask, name_of, place_of
from .patches import Patches
from .trace import place_name

if TYPE_CHECKING:
    from collections.abc import Generator

    from .incarnation import Graveyard
    from .loop import SimLoop

__all__ = ["wind_down"]


def unfinished_tasks(loop: SimLoop) -> list[asyncio.Task[Any]]:
    """Return the living tasks that a loop made, oldest first."""
    return [task for task in loop.born.living() if not (task.done() or _is_dead(task))]


def all_unfinished_tasks(loop: SimLoop) -> list[asyncio.Task[Any]]:
    """Return the living tasks of a loop, oldest first, also those it was not asked to make; slower."""
    living = [task for task in asyncio.all_tasks(loop) if not _is_dead(task)]
    return sorted(living, key=lambda task: getattr(task, "number", 0))


def places_of_tasks(loop: SimLoop, verb: str) -> tuple[str, ...]:
    """Return where each living task is, for people."""
    tasks = all_unfinished_tasks(loop)
    return tuple(f"{name_of(task)} {verb} {place_name(*place_of(task.get_coro()))}" for task in tasks)


def _is_dead(task: asyncio.Task[Any]) -> bool:
    return isinstance(task, SimTask) and task.is_dead


def wind_down(loop: SimLoop) -> None:
    """Cancel what is left, until nothing is; note what was left, and which failures nobody looked at."""
    left = all_unfinished_tasks(loop)
    loop.leaked = tuple(map(name_of, left))
    try:
        while left:
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            for task in left:
                if not task.cancelled() and task.exception() is not None:
                    _note(loop, f"{name_of(task)} failed while it was being cancelled", task.exception())
            left = all_unfinished_tasks(loop)
        if loop._generators:
            loop.run_until_complete(loop.shutdown_asyncgens())
    except (DeadlockError, LivelockError) as error:
        _note(loop, "a cancelled task did not end", error)
    for task in loop.born.living():
        if task.done() and not _is_dead(task) and task._log_traceback:
            _note(loop, f"{name_of(task)} failed and nobody looked", task.exception())


def let_go(loop: SimLoop, graveyard: Graveyard) -> None:
    """Close what is buried, in a world that has ended."""
    for task in unfinished_tasks(loop):
        if isinstance(task, SimTask):
            graveyard.bury_task(task)
    if not graveyard:
        return
    asyncio._set_running_loop(loop)
    try:
        with warnings.catch_warnings(), _logging_muted():
            warnings.simplefilter("ignore")
            graveyard.close()
            # Coroutines that dying code made and never awaited are found now, not later in somebody else's test. The
            # collector slept during the run, so everything it made is in the youngest generation.
            gc.collect(0)
    finally:
        asyncio._set_running_loop(None)


@contextmanager
def _logging_muted() -> Generator[None]:
    """Let nothing that this thread logs reach a handler: a process without power writes no lines."""
    with Patches() as patches:
        patches.thread = threading.get_ident()
        patches.replace(logging.Logger, "handle", lambda *_: None)
        yield


def note_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what no handler took, except of the dead: whoever would have looked lost power first."""
    whose = context.get("future") or context.get("task")
    if not (isinstance(whose, SimTask) and whose.is_dead):
        cast("SimLoop", loop).unhandled.append(context)


def _note(loop: SimLoop, message: str, error: BaseException | None) -> None:
    loop.unhandled.append({"message": message, "exception": error})
