"""Pauses by whose step it is, and not by how many decision points there were before: those move with every pause.

Two pauses that each do something by themselves do so together only if the second one still hits the same step of the
same task.

>>> import asyncio
>>> async def main() -> str:
...     order: list[str] = []
...     async def append(name: str) -> None:
...         await asyncio.sleep(0)
...         order.append(name)
...     await asyncio.gather(append("a"), append("b"), append("c"))
...     return "".join(order)
>>> stock = MomentLoop()
>>> stock.run(main())
'abc'
>>> moments = sorted(moment for each in stock.places.values() for moment in each)
>>> moments[:2]
[('append#2', 0), ('append#2', 1)]
>>> paused = MomentLoop(at=[("append#2", 1), ("append#3", 1)])
>>> paused.run(main())
'cab'
>>> SimLoop(pauses=paused.paused).run(main())
'cab'
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias

from .lanes import SimTask, is_users, label_of, lane_of
from .loop import SimLoop

if TYPE_CHECKING:
    from collections.abc import Collection

    from .queues import AnyHandle

__all__ = ["Moment", "MomentLoop"]

Moment: TypeAlias = tuple[str, int]
"""A step of a lane: its name, and how many steps it had taken before."""


class MomentLoop(SimLoop):
    """A `SimLoop` that pauses at moments; it keeps no trace.

    Args:
        at: The moments at which to pause, where there is something to decide.

    Attributes:
        paused: The decision points at which it paused. With these, any other loop runs the same way.
        places: The moments at each place of the program at which a lane waited when there was something to decide.
            Noted only without ``at``.

    Concurrency: belongs to the thread that made it. Cancellation: as on any loop.
    """

    def __init__(self, *, at: Collection[Moment] = ()) -> None:
        super().__init__(record=False)
        self._pauses = _Every()
        self._noting = not at
        self._at = set(at)
        self._taken: dict[str, int] = {}
        self.paused: tuple[int, ...] = ()
        self.places: dict[object, list[Moment]] = {}

    def may_pause(self, handle: AnyHandle) -> bool:
        """Return whether it is the moment to; where there is none to wait for, note where it was asked."""
        if not (self._at or self._noting):
            return False
        lane = lane_of(handle)
        label = lane.label if type(lane) is SimTask else label_of(handle)
        moment = label, self._taken.get(label, 0)
        if self._noting:
            self.places.setdefault(_place_of(lane, label), []).append(moment)
        if moment not in self._at:
            return False
        self._at.remove(moment)  # it goes on at the same one
        self.paused = (*self.paused, self.points - 1)
        return True

    def heal(self) -> None:
        """End the pauses, those that hold something back now and those to come."""
        self._at.clear()
        self._noting = False
        super().heal()

    def _step(self, handle: AnyHandle, point: int | None) -> None:
        if self._at or self._noting:
            lane = lane_of(handle)
            label = lane.label if type(lane) is SimTask else label_of(handle)
            self._taken[label] = self._taken.get(label, 0) + 1
        super()._step(handle, point)


class _Every(set[int]):
    """Every decision point."""

    def __contains__(self, point: object) -> bool:
        return True


def _place_of(lane: object, label: str) -> object:
    """Return something equal for lanes that wait at the same place of the user's code, whoever called it from there."""
    if not isinstance(lane, SimTask):
        return label
    place: list[int] = []
    coroutine: Any = lane.get_coro()
    while type(coroutine) is CoroutineType and (frame := coroutine.cr_frame) is not None:
        if is_users(coroutine.cr_code.co_filename):
            place += (id(coroutine.cr_code), frame.f_lasti)
        coroutine = coroutine.cr_await
    return tuple(place)
