"""Whether stock asyncio can get there: a loop that pauses only where the world outside may really be slow.

Those are the answers of timers, executor jobs, databases and actions. A pause anywhere else, such as at a bare
``sleep(0)``, is passed over: on a real loop the task goes on in the next round.

>>> async def main() -> str:
...     order: list[str] = []
...     async def append(name: str) -> None:
...         await asyncio.sleep(0)
...         order.append(name)
...     await asyncio.gather(append("a"), append("b"))
...     return "".join(order)
>>> SimLoop(pauses=[0]).run(main()), LatencyLoop(pauses=[0]).run(main())
('ba', 'ab')
"""

from __future__ import annotations

import asyncio
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVarTuple

from .jobs import Job
from .lanes import lane_of
from .loop import SimLoop
from .queues import SimTimer
from .simulation import Simulation
from .sqlite import StatementQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from .queues import AnyHandle

__all__ = ["LatencyLoop"]

Ts = TypeVarTuple("Ts")

_ON_THE_WAY = Simulation.travel.__code__


class LatencyLoop(SimLoop):
    """A `SimLoop` on which pauses are latency; it keeps no trace.

    Concurrency: belongs to the thread that made it. Cancellation: as on any loop.
    """

    def __init__(self, *, pauses: Iterable[int] = ()) -> None:
        super().__init__(pauses=pauses, record=False)
        self._answering = False
        self._answers: dict[int, asyncio.Handle] = {}  # by id; kept, so that no id comes twice

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Have a callback called in the next round."""
        handle = super().call_soon(callback, *args, context=context)
        if self._answering:
            self._answers[id(handle)] = handle
        return handle

    def may_pause(self, handle: AnyHandle) -> bool:
        """Return whether what ``handle`` goes on with comes from outside the program."""
        return id(handle) in self._answers or _is_outside(handle) or _is_on_the_way(lane_of(handle))

    def _step(self, handle: AnyHandle, point: int | None) -> None:
        self._answering = _is_outside(handle)
        super()._step(handle, point)
        self._answering = False


def _is_outside(handle: AnyHandle) -> bool:
    return isinstance(handle, SimTimer) or isinstance(lane_of(handle), (Job, StatementQueue))


def _is_on_the_way(lane: object) -> bool:
    """Return whether a task waits for an action to reach the world, or for its reply."""
    coroutine: Any = lane.get_coro() if isinstance(lane, asyncio.Task) else None
    while type(coroutine) is CoroutineType:
        if coroutine.cr_code is _ON_THE_WAY:
            return True
        coroutine = coroutine.cr_await
    return False
