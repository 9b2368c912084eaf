"""How a sweep goes: nothing goes wrong, every single thing does, then a second pause behind those that led elsewhere.

It promises that equal sweeps of the same test try the same scenarios in the same order, and that the first failure ends
it. It tries at most one scenario more than the sweep says: the one in which nothing goes wrong.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from hypothesis.errors import UnsatisfiedAssumption

from .errors import NothingToRestartError
from .loop import SimLoop
from .scenario import Scenario, Turn
from .seeing import SeeingLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from .runs import Run
    from .scenario import Sweep

    Attempt: TypeAlias = Callable[[Scenario, SimLoop], Run]

__all__ = ["sweep"]


def sweep(what: Sweep, attempt: Attempt) -> None:
    """Try the scenarios of a sweep.

    Args:
        what: The sweep.
        attempt: Runs the test under a scenario on a loop, and raises what makes it fail.

    Raises:
        NothingToRestartError: There shall be crashes and the test started no app.
        Exception: What the first attempt that failed raised.
    """
    loop = SeeingLoop() if what.pairs else SimLoop(record=False)
    first = attempt(Scenario(), loop)
    if what.crashes and not first.started:
        raise NothingToRestartError
    singles = what.singles(first.extent)
    turns = None
    if isinstance(loop, SeeingLoop) and len(singles) < what.most:
        again = SeeingLoop()
        attempt(Scenario(), again)
        turns = _Turns(loop, again)
    for single in singles:
        with suppress(UnsatisfiedAssumption):
            if turns is None or not single.pauses:
                attempt(single, SimLoop(pauses=single.pauses, record=False))
            else:
                turns.add(single, attempt)
    for double in what.seconds(turns.found, len(singles)) if turns else ():
        with suppress(UnsatisfiedAssumption):
            attempt(double, SimLoop(pauses=double.pauses, record=False))


class _Turns:
    """The pauses that led somewhere else, each to another place.

    Args:
        stock: What came where nothing went wrong.
        again: What came of it another time: what is not the same says nothing.
    """

    def __init__(self, stock: SeeingLoop, again: SeeingLoop) -> None:
        self.found: list[Turn] = []
        self._leave_out = stock.unsteady(again)
        self._sights = {stock.sight(self._leave_out)}
        self._lengths = {stock.length}
        self._moments = {point: moment for moment, point in stock.moments.items()}

    def add(self, single: Scenario, attempt: Attempt) -> None:
        """Try a pause; keep it if it led somewhere else."""
        (pause,) = single.pauses
        loop = SeeingLoop(pauses=single.pauses)
        run = attempt(single, loop)
        sight = loop.sight(self._leave_out)
        if sight in self._sights:
            return
        self.found.append(
            Turn(
                pause=pause,
                moment=self._moments[pause],
                points=run.extent.points,
                moments=loop.moments,
                longer=loop.length not in self._lengths,
            )
        )
        self._sights.add(sight)
        self._lengths.add(loop.length)
