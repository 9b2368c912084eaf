"""What a run led to, so that a pause that led somewhere else is known: how each task went on, and what it held.

Where a race only makes a task go on with an old value, every step is the same and the value is all there is to see. It
looks at numbers, texts and truths in local variables of the user's coroutines, nowhere else: it is a hint where to look
further, no proof that nothing happened.

>>> import asyncio
>>> async def deposits() -> None:
...     balance = 0
...     async def deposit(delay: int) -> None:
...         nonlocal balance
...         for _ in range(delay):
...             await asyncio.sleep(0)
...         before = balance
...         await asyncio.sleep(0)
...         balance = before + 1
...     await asyncio.gather(deposit(0), deposit(3))
>>> loops = [SeeingLoop(), *(SeeingLoop(pauses=[point]) for point in range(5))]
>>> for loop in loops:
...     loop.run(deposits())
>>> [point for point in range(5) if loops[point + 1].sight() != loops[0].sight()]
[0, 2]
>>> len({loop.length for loop in loops})
1
"""

from __future__ import annotations

import gc
from types import CoroutineType, NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

from .lanes import SimTask, is_users, label_of, lane_of
from .loop import SimLoop

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from types import CodeType

    from .queues import AnyHandle

__all__ = ["Moment", "SeeingLoop"]

Moment: TypeAlias = tuple[str, int]
"""A step of a lane: its name, and how many steps it had taken before."""

_PLAIN = frozenset({bool, bytes, float, int, NoneType, str})


class SeeingLoop(SimLoop):
    """A `SimLoop` that keeps no trace but an eye on its tasks.

    Concurrency: belongs to the thread that made it. Cancellation: as on any loop.

    Attributes:
        moments: At which decision point each step was taken; those where there was nothing to decide are left out.
    """

    def __init__(self, *, pauses: Iterable[int] = ()) -> None:
        super().__init__(pauses=pauses, record=False)
        self.moments: dict[Moment, int] = {}
        self._steps: dict[str, int] = {}
        self._seen: dict[tuple[str, CodeType | None], int] = {}  # by lane and function, a digest over all its steps

    @property
    def length(self) -> tuple[int, float]:
        """Its steps and virtual seconds."""
        return self.steps, self.time()

    def sight(self, leave_out: Collection[CodeType | None] = ()) -> int:
        """Return what is equal for runs that led to the same; in another process it is another number.

        Args:
            leave_out: Functions not to look at; see `unsteady`.
        """
        seen = {key: digest for key, digest in self._seen.items() if key[1] not in leave_out}
        return hash((self.length, frozenset(seen.items())))

    def unsteady(self, other: SeeingLoop) -> set[CodeType | None]:
        """Return the functions that held other values in an equal run: a real time, a counter that is never reset."""
        return {code for (_, code), _ in self._seen.items() ^ other._seen.items()}

    def _step(self, handle: AnyHandle, point: int | None) -> None:
        lane: Any = lane_of(handle)
        label = lane.label if type(lane) is SimTask else label_of(handle)
        nth = self._steps.get(label, 0)
        self._steps[label] = nth + 1
        if point is not None:
            self.moments[label, nth] = point
        super()._step(handle, point)
        if type(lane) is SimTask:
            self._look(label, lane.get_coro())
            if lane.done():
                self._seen[label, None] = _told(lane)

    def _look(self, label: str, coroutine: Any) -> None:
        seen, plain, get_referents = self._seen, _PLAIN, gc.get_referents
        while type(coroutine) is CoroutineType and (frame := coroutine.cr_frame) is not None:
            code = coroutine.cr_code
            if is_users(code.co_filename):
                key = label, code
                # Not `f_locals`: before Python 3.13 asking for it keeps the variables alive.
                values = [value for value in get_referents(coroutine) if type(value) in plain]
                seen[key] = hash((seen.get(key), frame.f_lasti, *values))
            coroutine = coroutine.cr_await


def _told(task: SimTask) -> int:
    # `result` would raise what the task raised, and take note that somebody looked.
    result = task._result  # type: ignore[attr-defined]  # noqa: SLF001
    return hash(result) if type(result) in _PLAIN else 0
