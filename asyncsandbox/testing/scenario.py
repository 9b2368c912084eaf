"""What goes wrong in one simulated run, as one small value: a `Scenario`.

An empty scenario is the stock FIFO order with nothing going wrong. Everything in it is drawn before the run, so
Hypothesis shrinks it like any other value, and its repr can be pasted into ``@example(scenario=...)``.

>>> Scenario()
Scenario()
>>> Scenario(crashes=(13,), faults=(fault("card.charge", TimeoutError, after=True, nth=2),))
Scenario(faults=(fault('card.charge', TimeoutError, after=True, nth=2),), crashes=(13,))
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from .._core.settings import require_name, require_number
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

MAX_JUMP_SECONDS = 86_400
_NEAR = 40
_CROWDS = 10  # in one example
_SELDOM = 5  # so many other examples to one of crowds
_CALLS = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """The nth call of an action fails; make one with `fault`.

    Attributes:
        action: Name of the action.
        error: Makes the exception, usually its class.
        after: Whether the call happened and only the reply was lost.
        nth: Which call of the action fails, counted from 1.
    """

    action: str
    error: Callable[[], Exception]
    after: bool = False
    nth: int = 1

    def __post_init__(self) -> None:
        require_name("fault: action", self.action)
        require_number("fault: nth", self.nth, at_least=1, whole=True)
        if not callable(self.error):
            raise ConfigurationError(
                "fault: error", self.error, "give an exception class, or a function that makes one"
            )

    @property
    def anywhere(self) -> Fault:
        """The same fault at the first call: the kind of fault it is."""
        return replace(self, nth=1)

    def __repr__(self) -> str:
        name = getattr(self.error, "__qualname__", repr(self.error))
        after = ", after=True" if self.after else ""
        nth = f", nth={self.nth}" if self.nth > 1 else ""
        return f"fault({self.action!r}, {name}{after}{nth})"


def fault(action: str, error: Callable[[], Exception], *, after: bool = False, nth: int = 1) -> Fault:
    """Say that a call of an action raises.

    Args:
        action: Name of the action.
        error: An exception class that needs no arguments, or a function that makes the exception.
        after: False: it raises before the body does anything. True: the body happens and the reply is lost.
        nth: Which call of the action, counted from 1; `scenarios` draws it.

    Returns:
        The fault, for `scenarios` or a `Scenario`.

    Raises:
        ConfigurationError: Something above is not usable.

    Example:
        >>> fault("card.charge", TimeoutError, after=True)
        fault('card.charge', TimeoutError, after=True)
    """
    return Fault(action, error, after, nth)


@dataclass(frozen=True, slots=True)
class Jump:
    """The wall clock jumps; monotonic time and timers do not notice.

    Attributes:
        step: Steps after the app's first start.
        seconds: How far, forward or back.
    """

    step: int
    seconds: int


@dataclass(frozen=True, slots=True, repr=False)
class Scenario:
    """Everything that goes wrong in one run; empty means nothing.

    Attributes:
        pauses: Decision points (moments where two tasks or more could run) at which the task whose turn it is waits
            until everything else is idle: "this await was slow".
        faults: Calls of actions that raise.
        crashes: Power cuts: the nth life of the app ends after the nth number of steps, and the app is started again.
        duplicates: Which calls from the test to the app, counted from 1, arrive twice: a double click, a resend.
        jumps: Jumps of the wall clock.

    Raises:
        ConfigurationError: One of them is not a tuple.
    """

    pauses: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()
    crashes: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    jumps: tuple[Jump, ...] = ()

    def __post_init__(self) -> None:
        for name in _SINGULAR:
            value = getattr(self, name)
            if type(value) is not tuple:
                raise ConfigurationError(f"scenario: {name}", value, "give a tuple: `(8,)` for a single one")

    def __repr__(self) -> str:
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        return f"Scenario({', '.join(f'{name}={value!r}' for name, value in named if value)})"

    def __bool__(self) -> bool:
        return self.size > 0

    @property
    def size(self) -> int:
        """How many things go wrong."""
        return sum(len(getattr(self, each.name)) for each in fields(self))

    def describe(self) -> str:
        """Return the scenario's size in words: ``1 pause, 2 crashes``.

        Example:
            >>> Scenario(pauses=(8,), crashes=(1, 4)).describe()
            '1 pause, 2 crashes'
        """
        counts = ((each.name, len(getattr(self, each.name))) for each in fields(self))
        parts = [f"{count} {name if count > 1 else _SINGULAR[name]}" for name, count in counts if count]
        return ", ".join(parts) or "nothing goes wrong"


_SINGULAR = {"pauses": "pause", "faults": "fault", "crashes": "crash", "duplicates": "duplicate", "jumps": "jump"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far a run went, and so what can go wrong in it.

    Attributes:
        points: Decision points.
        steps: Steps after the app's first start.
        requests: Calls from the test to the app.
        calls: Calls of each action.
    """

    points: int = 0
    steps: int = 0
    requests: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Sweep:
    """Every scenario in which at most one thing goes wrong. `scenarios` draws it first; shrinking comes back to it.

    With more than one pause at a time a second one follows behind each that made the run longer or shorter, as far as
    there is room. A sweep with ``crowds`` tries other things: as many pauses at once as there may be, wherever.

    Attributes:
        pauses: How many pauses there may be at once; 1 for every single one and no more.
        faults: The faults to try, each at every call of its action.
        crashes: Whether to try a power cut before every step.
        duplicates: Whether to let every call from the test to the app arrive twice.
        jumps: Whether to let the clock jump by a day, forward and back.
        most: How many scenarios at most; crashes and pauses beyond it are sampled evenly.
        crowds: Which crowds of pauses to try, and nothing else; 0 for none.
    """

    pauses: int = 0
    faults: tuple[Fault, ...] = ()
    crashes: bool = False
    duplicates: bool = False
    jumps: bool = False
    most: int = 400
    crowds: int = 0

    def __repr__(self) -> str:
        named = ((each.name, getattr(self, each.name), each.default) for each in fields(self))
        return f"Sweep({', '.join(f'{name}={value!r}' for name, value, default in named if value != default)})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind of thing that may go wrong, as the coverage counters name it."""
        switches = [_SINGULAR[name] for name in ("pauses", "crashes", "duplicates", "jumps") if getattr(self, name)]
        return (*switches, *map(repr, self.faults))

    def singles(self, extent: Extent) -> tuple[Scenario, ...]:
        """Return every scenario in which one thing goes wrong, for runs of this extent.

        Faults, duplicates and jumps come first: they are few and hit where it matters.

        Example:
            >>> Sweep(pauses=1).singles(Extent(points=2))
            (Scenario(pauses=(0,)), Scenario(pauses=(1,)))
        """
        few = [
            Scenario(faults=(replace(each, nth=nth),))
            for each in self.faults
            for nth in range(1, extent.calls.get(each.action, 0) + 1)
        ]
        if self.duplicates:
            few += [Scenario(duplicates=(number,)) for number in range(1, extent.requests + 1)]
        if self.jumps:
            few += [Scenario(jumps=(Jump(0, seconds),)) for seconds in (-MAX_JUMP_SECONDS, MAX_JUMP_SECONDS)]
        crashes = [Scenario(crashes=(step,)) for step in range(extent.steps if self.crashes else 0)]
        pauses = [Scenario(pauses=(point,)) for point in range(extent.points if self.pauses else 0)]
        room = max(self.most - len(few), 0)
        crashes = _sample(crashes, max(room - len(pauses), room // 2))
        return (*few, *crashes, *_sample(pauses, room - len(crashes)))[: self.most]

    def seconds(self, turned: Iterable[tuple[Scenario, Extent]], tried: int) -> tuple[Scenario, ...]:
        """Return the scenarios with a second pause, as many as ``tried`` ones leave room for.

        Args:
            turned: The single pauses that led somewhere else, each with how far the run went.
            tried: How many scenarios were tried before.

        Example:
            >>> Sweep(pauses=2).seconds([(Scenario(pauses=(1,)), Extent(points=4))], 5)
            (Scenario(pauses=(1, 2)), Scenario(pauses=(1, 3)))
        """
        pairs = [
            Scenario(pauses=(*single.pauses, point))
            for single, extent in turned
            for point in range(single.pauses[-1] + 1, extent.points)
        ]
        return tuple(_sample(pairs, self.most - tried))

    def draw_crowds(self, places: Iterable[Sequence[T]]) -> Iterator[frozenset[T]]:
        """Give moments to pause at, as many at once as there may be.

        A place that is passed often is as likely as one that is passed once: it is seldom the loop that is wrong.

        Args:
            places: The moments at each place of the program.

        Example:
            >>> sorted(next(Sweep(pauses=2, crowds=1).draw_crowds([[0, 1, 2, 3], [4], [5]])))
            [0, 4]
        """
        chance = random.Random(self.crowds)  # noqa: S311 - it keeps no secrets
        groups = list(places)
        for _ in range(min(self.most, _CROWDS) if groups else 0):
            yield frozenset(chance.choice(chance.choice(groups)) for _ in range(self.pauses))


def scenarios(  # noqa: PLR0913 - one keyword per kind of trouble
    *,
    pauses: int = 3,
    crashes: int = 0,
    faults: Iterable[Fault] = (),
    duplicates: int = 0,
    jumps: int = 0,
    horizon: int = 200,
    sweep: int = 400,
) -> SearchStrategy[Scenario | Sweep]:
    """Draw what goes wrong: a small value, made before the run.

    What it draws first, and shrinks to where it can, is a `Sweep`: nothing goes wrong, then every single thing does.

    Args:
        pauses: How many awaits may be slow, at most.
        crashes: How many power cuts there may be, at most; needs ``sim.start``.
        faults: Which calls of actions may fail, made by `fault`.
        duplicates: How many calls from the test to the app may arrive twice, at most.
        jumps: How many times the wall clock may jump, at most, by up to a day.
        horizon: Latest decision point or step at which a drawn pause or crash can hit.
        sweep: How many scenarios a sweep tries, at most.

    Returns:
        A Hypothesis strategy.

    Raises:
        ConfigurationError: Something above is not usable.

    Example:
        >>> strategy = scenarios(pauses=2, crashes=1, faults=[fault("card.charge", TimeoutError, after=True)])
    """
    limits = {"pauses": pauses, "crashes": crashes, "duplicates": duplicates, "jumps": jumps, "sweep": sweep}
    for name, value in limits.items():
        require_number(f"scenarios: {name}", value, at_least=0, whole=True)
    require_number("scenarios: horizon", horizon, at_least=1, whole=True)
    known = tuple(faults)
    for each in known:
        if not isinstance(each, Fault):
            raise ConfigurationError("scenarios: faults", each, 'make each by fault("card.charge", TimeoutError)')
    everything = Sweep(pauses, known, crashes > 0, duplicates > 0, jumps > 0, sweep)
    # Two scales, for a step of a short program and of a long one are equally likely to matter.
    moments = st.integers(0, min(_NEAR, horizon)) | st.integers(0, horizon)
    calls = st.integers(1, _CALLS)
    faults_at = st.sampled_from(known) if known else st.nothing()
    drawn = st.builds(
        Scenario,
        pauses=_few(moments, pauses).map(_ordered),
        faults=_few(st.builds(lambda each, nth: replace(each, nth=nth), faults_at, calls), len(known)),
        crashes=_few(moments, crashes),
        duplicates=_few(calls, duplicates).map(_ordered),
        jumps=_few(st.builds(Jump, moments, st.integers(-MAX_JUMP_SECONDS, MAX_JUMP_SECONDS)), jumps),
    )
    swept = drawn.map(lambda scenario: scenario or everything)
    crowds = st.integers(1, 2**16).map(lambda seed: Sweep(pauses, most=sweep, crowds=seed))
    return st.one_of(*[swept] * _SELDOM, crowds) if pauses > 1 else swept


def _few(element: SearchStrategy[T], most: int) -> SearchStrategy[tuple[T, ...]]:
    return st.lists(element, max_size=most).map(tuple) if most else st.just(())


def _ordered(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(numbers)))


def _sample(items: list[Scenario], most: int) -> list[Scenario]:
    if len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]
