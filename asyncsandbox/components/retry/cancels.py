"""Whether the running task was cancelled since a call began, whatever was made of the CancelledError.

>>> async def main() -> bool:
...     cancels = Cancels()
...     asyncio.current_task().cancel()
...     try:
...         await asyncio.sleep(0)
...     except asyncio.CancelledError:
...         return cancels.came
>>> asyncio.run(main())
True
"""

from __future__ import annotations

import asyncio
import sys
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS_LEAVE_REQUESTS = sys.version_info < (3, 13)
"""Whether a task group that failed while it waited for its tasks leaves its task as if cancelled, gh-116720."""

_LEAVES = asyncio.TaskGroup.__aexit__.__code__ if GROUPS_LEAVE_REQUESTS else None


class Cancels:
    """Counts the requests to cancel the task in which it is made.

    Not what is raised counts, for a cleanup may make something else of a CancelledError. And not that there are
    requests, for a task that swallowed one has it for ever.

    Args:
        before: How many there were when the call began; None for as many as now.

    Concurrency: for one task. Cancellation: nothing here waits.
    """

    __slots__ = ("_before", "_task")

    def __init__(self, before: int | None = None) -> None:
        self._task = asyncio.current_task()
        self._before = self._count() if before is None else before

    @property
    def came(self) -> bool:
        """Whether the task was cancelled since the call began."""
        return self._count() > self._before

    def forgive(self, error: BaseException) -> None:
        """Do not count what only task groups left behind when they failed with this error."""
        if self.came:
            self._before += len({id(group) for group in _find_groups(error) if group._parent_task is self._task})  # noqa: SLF001

    def _count(self) -> int:
        return 0 if self._task is None else self._task.cancelling()


def _find_groups(error: BaseException) -> Iterator[Any]:
    """Find the groups that this error left, if they cancelled their task while they waited and never took it back."""
    for each in _chain(error):
        for frame, _line in walk_tb(each.__traceback__):
            # A body that raised (`et`) was cancelled before the wait, and that is taken back.
            if frame.f_code is _LEAVES and frame.f_locals["et"] is None:
                group = frame.f_locals["self"]
                yield from [group] * group._parent_cancel_requested  # noqa: SLF001


def _chain(error: BaseException) -> Iterator[BaseException]:
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [cause for cause in (each.__cause__, each.__context__) if cause is not None]
