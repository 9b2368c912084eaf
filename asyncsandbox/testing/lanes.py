"""Who runs: tasks that hash and are named the same in every run, and where in the user's code they are.

A *lane* is what a pause holds back: a task, a database connection, an executor job, or else a single callback.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
from functools import partial
from pathlib import Path
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from .incarnation import incarnation_of

if TYPE_CHECKING:
    from contextvars import Context
    from types import CodeType, FrameType

    from .incarnation import Incarnation

__all__ = ["SimTask"]

Place: TypeAlias = "tuple[CodeType | None, int]"
NOWHERE: Place = (None, -1)


class SimTask(asyncio.Task[Any]):
    """A task whose hash is its number on the loop, so sets of tasks iterate the same way in every run.

    Attributes:
        number: How many tasks the loop had made before it, plus 1.
        label: Its name for people: ``name#number``.
        context: The context it runs in.
        incarnation: The life of a simulated process it belongs to, or None.
    """

    __slots__ = ("context", "incarnation", "label", "number")

    number: int
    label: str
    context: Context
    incarnation: Incarnation | None

    def __hash__(self) -> int:
        return self.number

    def set_name(self, value: object) -> None:
        """Rename the task."""
        super().set_name(value)
        self.label = f"{value}#{self.number}"

    @property
    def is_dead(self) -> bool:
        """Whether the power of its life was cut."""
        return self.incarnation is not None and not self.incarnation.alive


def make_task(coroutine: Any, number: int, name: object, *, context: Context, **options: Any) -> SimTask:
    """Make a task.

    Args:
        coroutine: What it runs.
        number: How many tasks its loop has made, this one included.
        name: What it shall be called, or None for its coroutine's name and its number.
        context: The context it runs in.
        **options: As for `asyncio.Task`.
    """
    task = SimTask.__new__(SimTask)
    task.number = number
    task.context = context
    task.incarnation = incarnation_of(context)
    given = getattr(coroutine, "__name__", "task") if name is None else str(name)
    task.label = f"{given}#{number}"
    # Everything above comes first: the initialiser already puts the task into a set, by its hash.
    SimTask.__init__(task, coroutine, name=task.label if name is None else given, context=context, **options)
    return task


def lane_of(handle: Any) -> object:
    """Return what ``handle`` is held back together with."""
    owner = getattr(handle._callback, "__self__", None)  # noqa: SLF001 - asyncio shows it nowhere else
    return handle if owner is None else owner


def label_of(handle: Any) -> str:
    """Return the name people know the lane of a callback by."""
    callback = handle._callback  # noqa: SLF001 - as above
    while isinstance(callback, partial):
        callback = callback.func
    if type(callback) is FunctionType:
        return callback.__qualname__
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return name_of(owner)
    label = getattr(owner, "label", None)
    return label if isinstance(label, str) else str(getattr(callback, "__qualname__", type(callback).__qualname__))


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name people know a task by."""
    return task.label if isinstance(task, SimTask) else task.get_name()


def life_of(task: asyncio.Task[Any]) -> Incarnation | None:
    """Return the life of a simulated process that a task belongs to, or None outside every one."""
    return task.incarnation if isinstance(task, SimTask) else None


def place_of(coroutine: Any) -> Place:
    """Return code and offset at which a suspended coroutine goes on, in the user's code where there is any."""
    place = NOWHERE
    while type(coroutine) is CoroutineType:
        frame = coroutine.cr_frame
        if frame is None:
            break
        code = frame.f_code
        if place[0] is None or is_users(code.co_filename):
            place = (code, frame.f_lasti)
        coroutine = coroutine.cr_await
    return place


def place_here(frame: FrameType | None) -> Place:
    """Return code and offset of the innermost frame of the user's code."""
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return NOWHERE if frame is None else (frame.f_code, frame.f_lasti)


_LIBRARIES = (
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).resolve().parents[1]) + os.sep,
    "<frozen ",
)
_users: dict[str, bool] = {}  # asked at every step


def is_users(filename: str) -> bool:
    found = _users.get(filename)
    if found is None:
        found = _users[filename] = not filename.startswith(_LIBRARIES)
    return found
