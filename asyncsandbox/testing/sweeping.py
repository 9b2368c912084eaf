"""How a sweep goes: nothing goes wrong, every single thing does, then second pauses where the first led elsewhere.

Or crowds: many pauses at once, wherever. Equal sweeps of the same test try the same scenarios in the same order, and
the first failure ends them; that of a crowd is made small first, which takes more runs than the sweep allows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from hypothesis.errors import UnsatisfiedAssumption

from .errors import NothingToRestartError
from .loop import SimLoop
from .moments import MomentLoop
from .scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from .moments import Moment
    from .runs import Run
    from .scenario import Extent, Sweep

    Attempt: TypeAlias = Callable[[Scenario, SimLoop], Run]

__all__ = ["sweep"]


def sweep(what: Sweep, attempt: Attempt, look: Attempt) -> None:
    """Try the scenarios of a sweep.

    Args:
        what: The sweep.
        attempt: Runs the test under a scenario on a loop, and raises what makes it fail.
        look: Does the same, but returns a run that failed. What the loop pauses need not be the scenario's.

    Raises:
        NothingToRestartError: There shall be crashes and the test started no app.
        Exception: What the first attempt that failed raised.
    """
    if what.crowds:
        _try_crowds(what, attempt, look)
        return
    stock = SimLoop(record=False)
    first = attempt(Scenario(), stock)
    if what.crashes and not first.started:
        raise NothingToRestartError
    singles = what.singles(first.extent)
    turned: dict[tuple[int, float], tuple[Scenario, Extent]] = {_length(stock): (Scenario(), first.extent)}
    for single in singles:
        loop = _paused_at(single)
        with suppress(UnsatisfiedAssumption):
            extent = attempt(single, loop).extent
            if single.pauses:
                turned.setdefault(_length(loop), (single, extent))
    del turned[_length(stock)]
    for double in what.seconds(turned.values(), len(singles)) if what.pauses > 1 else ():
        with suppress(UnsatisfiedAssumption):
            attempt(double, _paused_at(double))


def _try_crowds(what: Sweep, attempt: Attempt, look: Attempt) -> None:
    """Pause many steps at once; make a crowd that fails small."""
    stock = MomentLoop()
    attempt(Scenario(), stock)
    for crowd in what.draw_crowds(stock.places.values()):
        with suppress(UnsatisfiedAssumption):
            failed = _fails(crowd, look)
            if failed is not None:
                smallest = _make_small(crowd, failed, look)
                attempt(smallest, _paused_at(smallest))


def _fails(moments: frozenset[Moment], look: Attempt) -> Scenario | None:
    """Return the scenario that pauses at these moments, where it fails."""
    loop = MomentLoop(at=moments)
    run = look(Scenario(pauses=tuple(range(len(moments)))), loop)
    return None if run.error is None else Scenario(pauses=loop.paused)


def _make_small(moments: frozenset[Moment], failed: Scenario, look: Attempt) -> Scenario:
    """Return a scenario that still fails with as few of these pauses as can be."""
    for each in sorted(moments):
        fewer = _fails(moments - {each}, look)
        if fewer is not None:
            return _make_small(moments - {each}, fewer, look)
    return failed


def _paused_at(scenario: Scenario) -> SimLoop:
    return SimLoop(pauses=scenario.pauses, record=False)


def _length(loop: SimLoop) -> tuple[int, float]:
    """Return what differs where a run took another path, most often."""
    return loop.steps, loop.time()
