"""A loop that looks at each callback it is to pause, and may pass over it.

>>> import asyncio
>>> class Deaf(ChoosyLoop):
...     def may_pause(self, handle: AnyHandle) -> bool:
...         return False
>>> async def main() -> str:
...     order: list[str] = []
...     async def append(name: str) -> None:
...         order.append(name)
...     await asyncio.gather(append("a"), append("b"))
...     return "".join(order)
>>> SimLoop(pauses=[0]).run(main()), Deaf(pauses=[0]).run(main())
('ba', 'ab')
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from .loop import SimLoop
from .queues import AnyHandle, Holds

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ChoosyLoop"]


class ChoosyLoop(SimLoop):
    """A `SimLoop` that asks before it pauses; it keeps no trace.

    Concurrency: belongs to the thread that made it. Cancellation: as on any loop.
    """

    def __init__(self, *, pauses: Iterable[int] = ()) -> None:
        super().__init__(pauses=pauses, record=False)
        self._holds = _Choosy(self)

    @abstractmethod
    def may_pause(self, handle: AnyHandle) -> bool:
        """Return whether to hold back the lane of ``handle``, at the latest decision point."""

    def pass_over(self, handle: AnyHandle) -> None:
        """Take back that the latest decision point was a pause."""
        self.points -= 1
        self._pauses.discard(self.points)
        self._ready.appendleft(handle)


class _Choosy(Holds):
    """Holds back only what its loop chose."""

    __slots__ = ("_loop",)

    def __init__(self, loop: ChoosyLoop) -> None:
        super().__init__()
        self._loop = loop

    def hold(self, handle: AnyHandle, step: int) -> None:
        if self._loop.may_pause(handle):
            super().hold(handle, step)
        else:
            self._loop.pass_over(handle)
