"""The governor: what it promises, beside a brute-force model, and that each promise's test catches what breaks it."""

import asyncio
import json
import math
import pickle
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from runtimes import must_catch
from simulation.mutants import Mutant
from virtual_time import VirtualLoop, run_virtual

from asyncsandbox import Sandbox
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.component import Services
from asyncsandbox._core.context import CallScope, Host
from asyncsandbox._core.journal import Journal, Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.ports import Permit, PermitPort
from asyncsandbox._core.settings import settings_from_environ
from asyncsandbox.components.governor import GovernorEnforcer, GovernorSettings, Limit, LimitDecision
from asyncsandbox.components.governor.forecast import get_least_seconds
from asyncsandbox.components.governor.line import Line
from asyncsandbox.components.governor.rule import Rule
from asyncsandbox.components.governor.window import Log, leaves_at, seconds_until
from asyncsandbox.errors import ConfigurationError, LifecycleError, LimitExceededError

# ------------------------------------------------------------------ a clock by hand, and the model


class HandClock(SystemClock):
    """Stands still until it is set."""

    __slots__ = ("at",)

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def monotonic(self) -> float:
        return self.at


def make(
    *limits: Limit, clock: SystemClock | None = None, dry_run: bool | None = None, **more: Any
) -> GovernorEnforcer:
    """Return a governor with one resource, ``"r"``."""
    governor = GovernorEnforcer(settings=GovernorSettings(limits={"r": limits} if limits else {}, **more))
    clock = clock or SystemClock()
    host = None if dry_run is None else Host(name="test", dry_run=dry_run)
    governor.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock), host=host))
    return governor


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


@dataclass
class Model:
    """Knows every admission for ever and counts them in exact arithmetic."""

    limits: tuple[Limit, ...]
    admitted: list[tuple[Fraction, int]] = field(default_factory=list)

    def used(self, at: float, limit: Limit) -> int:
        now, seconds = Fraction(at), Fraction(limit.window_seconds)
        return sum(cost for stamp, cost in self.admitted if now - stamp < seconds)

    def remaining(self, at: float) -> int:
        return min(limit.max_requests - self.used(at, limit) for limit in self.limits)

    def is_live(self, at: float) -> bool:
        return any(self.used(at, limit) for limit in self.limits)

    def admit(self, at: float, cost: int) -> None:
        self.admitted.append((Fraction(at), cost))

    def earliest(self, at: float, cost: int) -> Fraction | None:
        """Return the least instant, in real numbers, at which so much is admitted; None for never."""
        if cost > min(limit.max_requests for limit in self.limits):
            return None
        leaving = (stamp + Fraction(limit.window_seconds) for stamp, _ in self.admitted for limit in self.limits)
        instants = sorted({Fraction(at), *(instant for instant in leaving if instant > at)})
        return next(instant for instant in instants if self.remaining(instant) >= cost)

    def change(self, at: float, limits: tuple[Limit, ...]) -> None:
        """Count by other limits what counted by the old ones."""
        longest = max(Fraction(limit.window_seconds) for limit in self.limits)
        self.admitted = [each for each in self.admitted if Fraction(at) - each[0] < longest]
        self.limits = limits


def never_more(limits: tuple[Limit, ...], admitted: list[tuple[float, int]]) -> None:
    """G1, in exact arithmetic: the windows that count most begin at an admission."""
    for limit in limits:
        for start, _ in admitted:
            end = Fraction(start) + Fraction(limit.window_seconds)
            units = sum(cost for at, cost in admitted if Fraction(start) <= Fraction(at) < end)
            assert units <= limit.max_requests, f"{units} from {start} on, within {limit}"


SECONDS = st.integers(1, 5) | st.floats(0.01, 5) | st.sampled_from([0.1, 0.3, 1 / 3])
GAPS = st.integers(0, 5) | st.floats(0, 5) | st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3])
LIMITS = st.lists(st.builds(Limit, st.integers(1, 4), SECONDS), min_size=1, max_size=3).map(tuple)
STARTS = st.sampled_from([0.0, 0.1, 1e5 + 0.1, 1e9])


# ------------------------------------------------------------------ G1, G2, G4, G6: checks beside the model


CALLS = st.lists(st.tuples(GAPS, st.integers(1, 4), st.none() | LIMITS), max_size=25)


def decide_like_the_model(case: tuple[tuple[Limit, ...], float, list[Any]]) -> None:
    """Every decision is the model's: what is admitted, what is left, and when to come again, to the last bit."""
    limits, start, calls = case
    clock = HandClock(start)
    governor, model = make(*limits, clock=clock), Model(limits)
    admitted: list[tuple[float, int]] = []
    for gap, cost, change in calls:
        clock.at += gap
        if change is not None:
            governor.set_limits("r", change)
            model.change(clock.at, change)
            admitted = [(at, cost) for at, cost in admitted if (Fraction(at), cost) in model.admitted]
        decision = at_once(governor.check_limit("r", cost=cost))
        earliest = model.earliest(clock.at, cost)
        assert decision.allowed == (earliest == clock.at)
        if decision.allowed:
            model.admit(clock.at, cost)
            admitted.append((clock.at, cost))
        if earliest is None:
            assert decision.retry_after_seconds is None
        else:
            wait, again = decision.retry_after_seconds, clock.at + decision.retry_after_seconds
            assert again >= earliest, "then it is admitted"
            if wait:
                # Not an instant sooner; where no float leads to the very instant, not a float sooner.
                assert min(math.nextafter(again, 0), clock.at + math.nextafter(wait, 0)) < earliest
            assert decision.remaining == max(0, model.remaining(clock.at))
        if not any(change for _, _, change in calls):
            never_more(model.limits, admitted)


CHECKED = st.tuples(LIMITS, STARTS, CALLS)


@given(CHECKED)
@example(((Limit(1, 0.2),), 0.1, [(0.0, 1, None), (0.2, 1, None), (0.2, 1, None), (0.2, 1, None)]))
def test_every_decision_is_that_of_a_model_in_exact_arithmetic(case: Any) -> None:
    decide_like_the_model(case)


# ------------------------------------------------------------------ G3: those who wait, beside an ideal queue


@dataclass(frozen=True)
class Call:
    """One caller. His instants are multiples of 1/2048 that nobody else has, so nothing happens at the same time."""

    at: float
    cost: int
    holds: float
    gives_up: float | None
    patient: bool
    key: str


@st.composite
def callers(draw: st.DrawFn, *, most: int = 10, cost: int = 3, keys: str = "a", gives_up: bool = True) -> list[Call]:
    """Draw callers in the order they come."""
    calls = []
    for number in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, 6)) + 2 * number / 2048
        patience = draw(st.none() | st.integers(0, 6)) if gives_up else None
        calls.append(
            Call(
                at=at,
                cost=draw(st.integers(1, cost)),
                holds=draw(st.integers(0, 3)) + 1 / 64,
                gives_up=None if patience is None else at + patience + 1 / 2048,
                patient=draw(st.integers(0, 3)) > 0,
                key=draw(st.sampled_from(keys)),
            )
        )
    return sorted(calls, key=lambda call: call.at)


def serve(limits: tuple[Limit, ...], calls: list[Call]) -> dict[Call, float]:
    """Say when an ideal queue for one key admits whom: first come, first served, each as early as possible."""
    cap = min((limit.max_concurrent for limit in limits if limit.max_concurrent), default=math.inf)
    model = Model(tuple(limit for limit in limits if limit.max_requests))
    served: dict[Call, float] = {}
    left = {call: call.gives_up for call in calls if call.gives_up is not None}
    waiting: list[Call] = []
    events = sorted({*(call.at for call in calls), *left.values()})
    now = 0.0
    while events or waiting:
        # Let time go on to whatever comes first: room for the first in line, or an event.
        ends = (min(at + call.holds, left.get(call, math.inf)) for call, at in served.items())
        releases = sorted(end for end in ends if end > now)
        running = len(releases)
        due = math.inf
        if waiting and running < cap:
            due = float(model.earliest(now, waiting[0].cost)) if model.limits else now
        upcoming = min([*events[:1], *releases[:1]], default=math.inf)
        if due <= upcoming and waiting:
            now = due
            call = waiting.pop(0)
            served[call] = now
            model.admit(now, call.cost)
            continue
        now = upcoming
        if events and events[0] == now:
            events.pop(0)
        is_open = not waiting and running < cap
        for call in [call for call in calls if call.at == now]:
            has_room = not model.limits or model.earliest(now, call.cost) == now
            if call.patient or (is_open and has_room):
                waiting.append(call)
        waiting = [call for call in waiting if left.get(call) != now]
    return served


def run_calls(limits: tuple[Limit, ...], calls: list[Call], *, keyed: bool = False) -> dict[Call, float]:
    """Say when the governor admits whom."""
    governor = make(*limits)
    served: dict[Call, float] = {}
    is_capped = any(limit.max_concurrent for limit in limits)

    async def one(call: Call) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(call.at)
        what: Any = {"cost": call.cost, "per": call.key if keyed else None}
        if not call.patient and not is_capped:
            if await governor.check_limit("r", **what):
                served[call] = loop.time()
            return
        async with governor.permit("r", **what, timeout_seconds=None if call.patient else 0):
            served[call] = loop.time()
            await asyncio.sleep(call.holds)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(one(call)) for call in calls]
        for call, task in zip(calls, tasks, strict=True):
            if call.gives_up is not None:
                loop.call_at(call.gives_up, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        status = governor.get_status("r")
        assert (status.running, status.waiting) == (0, 0)

    run_virtual(main())
    return served


WHOLE = st.builds(Limit, st.integers(3, 6), st.integers(1, 4))
CAPPED = st.builds(Limit, st.integers(3, 6), st.integers(1, 4), max_concurrent=st.integers(1, 3))
CAPS = st.builds(Limit, max_concurrent=st.integers(1, 3))
QUEUED = st.tuples(st.lists(WHOLE, min_size=1, max_size=2).map(tuple) | st.tuples(CAPPED) | st.tuples(CAPS), callers())


def serve_like_an_ideal_queue(case: tuple[tuple[Limit, ...], list[Call]]) -> None:
    """Everybody is admitted at the very instant at which the ideal queue admits him, whoever gives up meanwhile."""
    limits, calls = case
    expected = serve(limits, calls)
    assert run_calls(limits, calls) == expected
    windows = tuple(limit for limit in limits if limit.max_requests)
    never_more(windows, [(at, call.cost) for call, at in expected.items()])


@given(QUEUED)
def test_those_who_wait_are_served_as_by_an_ideal_queue(case: Any) -> None:
    serve_like_an_ideal_queue(case)


KEYED = st.tuples(
    st.builds(Limit, st.integers(3, 5), st.integers(1, 4), per=st.just("user"), max_concurrent=st.none() | st.just(2)),
    callers(keys="ab"),
)


def keep_keys_apart(case: tuple[Limit, list[Call]]) -> None:
    """What happens to one key is what would happen if there were no other."""
    limit, calls = case
    together = run_calls((limit,), calls, keyed=True)
    for key in "ab":
        alone = [call for call in calls if call.key == key]
        assert {call: at for call, at in together.items() if call.key == key} == run_calls((limit,), alone, keyed=True)


@given(KEYED)
def test_a_key_is_served_as_if_there_were_no_other(case: Any) -> None:
    keep_keys_apart(case)


# ------------------------------------------------------------------ G1: a busy loop


@dataclass(frozen=True)
class Busy:
    """Callers on a loop that something blocks again and again."""

    limit: Limit
    arrivals: list[tuple[float, float | None]]  # when, and with how much patience
    blocks: list[tuple[float, float]]
    cancelled: set[int]
    cancel_at: float


BUSY = st.builds(
    Busy,
    limit=st.builds(Limit, st.integers(1, 3), st.floats(0.5, 2) | st.integers(1, 2)),
    arrivals=st.lists(st.tuples(st.floats(0, 2), st.none() | st.floats(0, 9)), min_size=4, max_size=9),
    blocks=st.lists(st.tuples(st.floats(0, 8) | st.integers(0, 8), st.floats(0.1, 3)), min_size=1, max_size=6),
    cancelled=st.sets(st.integers(0, 8), max_size=3),
    cancel_at=st.floats(0, 8) | st.integers(0, 8),
)


def count_when_it_resumes(case: Busy) -> None:
    """Never too many in a window by the instants at which callers go on; in the order they came; and all get on."""
    governor = make(case.limit)
    resumed: list[tuple[float, int]] = []
    came: list[int] = []
    order: list[int] = []
    at_once: list[int] = []

    async def one(number: int, at: float, patience: float | None) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at)
        came.append(number)
        step = loop._steps
        until = None if patience is None else at + patience
        permit = await governor.acquire("r", until=until)
        assert until is None or loop.time() <= until
        if step == loop._steps:
            at_once.append(governor.get_status("r").waiting)
        else:
            order.append(number)
        resumed.append((loop.time(), 1))
        if number % 2:
            loop._now += 0.4  # he himself keeps the loop busy, those granted after him go on later
        permit.release()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        tasks = [loop.create_task(one(number, *arrival)) for number, arrival in enumerate(case.arrivals)]
        for at, seconds in case.blocks:
            loop.call_at(at, lambda seconds=seconds: setattr(loop, "_now", loop._now + seconds))
        for number in case.cancelled & set(range(len(tasks))):
            loop.call_at(case.cancel_at, tasks[number].cancel)
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        for error, (number, (_, patience)) in zip(errors, enumerate(case.arrivals), strict=True):
            excused = isinstance(error, asyncio.CancelledError) and number in case.cancelled
            excused |= isinstance(error, LimitExceededError) and patience is not None
            assert error is None or excused, repr(error)
        assert order == [number for number in came if number in order]
        assert not any(at_once), "nobody goes on at once while others wait"

    run_virtual(main())
    never_more((case.limit,), resumed)


@given(BUSY)
def test_on_a_busy_loop_a_call_counts_when_it_goes_on(case: Busy) -> None:
    count_when_it_resumes(case)


# ------------------------------------------------------------------ a cancellation at any step


GRANTS = st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(0, 5))


def hand_on_what_was_granted(case: tuple[int, int, int]) -> None:
    """At whatever step one of them is cancelled, the others are served as if he had not come, or had been served."""
    units, callers_count, victim = case
    victim %= callers_count

    def attempt(cancel_at: int) -> int:
        steps = 0
        tasks: list[asyncio.Task[None]] = []
        served: dict[int, float] = {}
        governor = make(Limit(units, 1.0))

        def before_step(step: int) -> None:
            nonlocal steps
            steps = step
            if step == cancel_at:
                tasks[victim].cancel()

        async def one(number: int) -> None:
            permit = await governor.acquire("r")
            served[number] = asyncio.get_running_loop().time()
            permit.release()

        async def main() -> None:
            tasks.extend(asyncio.ensure_future(one(number)) for number in range(callers_count))
            await asyncio.wait(tasks)

        run_virtual(main(), before_step=before_step)
        left = [number for number in range(callers_count) if number in served]
        assert set(range(callers_count)) - set(left) <= {victim}
        assert [served[number] for number in left] == [float(place // units) for place in range(len(left))]
        assert governor.get_status("r").waiting == 0
        assert [line._timer for line in governor._lines["r"].values()] == [None]
        return steps

    for cancel_at in range(2, attempt(-1)):
        attempt(cancel_at)


@given(GRANTS)
def test_what_was_granted_to_a_cancelled_caller_goes_to_the_next_at_once(case: Any) -> None:
    hand_on_what_was_granted(case)


# ------------------------------------------------------------------ waiting only so long


TIMED = st.tuples(
    st.builds(Limit, st.integers(1, 3), st.integers(1, 4)),
    st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 8)), min_size=1, max_size=10),
)


def fail_at_once(case: tuple[Limit, list[tuple[int, int | None]]]) -> None:
    """With calls that cost 1 and one window: who cannot be served in time is told so when he comes, nobody else is."""
    limit, calls = case
    calls = sorted(calls, key=lambda call: call[0])
    governor = make(limit)
    outcome: dict[int, tuple[str, float]] = {}
    denied: list[tuple[int, LimitExceededError]] = []

    async def one(number: int, at: int, patience: int | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with governor.permit("r", timeout_seconds=patience) as permit:
                outcome[number] = ("served", loop.time())
                assert permit.waited_seconds == loop.time() - at
        except LimitExceededError as error:
            outcome[number] = ("refused", loop.time())
            denied.append((patience, error))

    async def main() -> None:
        loop, tasks = asyncio.get_running_loop(), []
        for number, (at, patience) in enumerate(calls):
            await asyncio.sleep(at - loop.time())
            tasks.append(loop.create_task(one(number, at, patience)))
        await asyncio.gather(*tasks)

    run_virtual(main())
    assert all(error.retry_after_seconds > patience for patience, error in denied)
    model, last = Model((limit,)), 0.0
    for number, (at, patience) in enumerate(calls):
        due = float(model.earliest(max(at, last), 1))
        if patience is not None and due > at + patience:
            assert outcome[number] == ("refused", at)
        else:
            assert outcome[number] == ("served", due)
            model.admit(due, 1)
            last = due


@given(TIMED)
def test_who_cannot_be_served_in_time_is_told_when_he_comes(case: Any) -> None:
    fail_at_once(case)


DEADLINES = st.tuples(
    st.tuples(CAPPED) | st.tuples(CAPS) | st.lists(WHOLE, min_size=1, max_size=2).map(tuple),
    callers(gives_up=False),
    st.lists(st.none() | st.integers(0, 8), min_size=10, max_size=10),
)


def hold_deadlines(case: tuple[tuple[Limit, ...], list[Call], list[int | None]]) -> None:
    """Whatever the limits and costs: nobody is kept beyond his time or admitted after it, and all come to an end."""
    limits, calls, patience = case
    governor = make(*limits)
    admitted: list[tuple[float, int]] = []
    ended: list[int] = []

    async def one(number: int, call: Call) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(call.at)
        until = None if patience[number] is None else call.at + patience[number]
        try:
            permit = await governor.acquire("r", cost=call.cost, until=until)
        except LimitExceededError:
            assert loop.time() in (call.at, until)
        else:
            assert until is None or loop.time() <= until
            admitted.append((loop.time(), call.cost))
            await asyncio.sleep(call.holds)
            permit.release()
        ended.append(number)

    async def main() -> None:
        await asyncio.gather(*(one(number, call) for number, call in enumerate(calls)))
        assert asyncio.get_running_loop()._scheduled == [] or all(
            handle.cancelled() for handle in asyncio.get_running_loop()._scheduled
        )

    run_virtual(main())
    assert len(ended) == len(calls)
    never_more(tuple(limit for limit in limits if limit.max_requests), admitted)


@given(DEADLINES)
def test_nobody_is_kept_beyond_his_time(case: Any) -> None:
    hold_deadlines(case)


# ------------------------------------------------------------------ give_back


GIVEN_BACK = st.tuples(
    LIMITS, STARTS, st.lists(st.tuples(GAPS, st.integers(1, 3), st.sampled_from("armgg")), min_size=3, max_size=20)
)


def forget_what_was_given_back(case: tuple[tuple[Limit, ...], float, list[Any]]) -> None:
    """After a permit was given back everything is decided as by a model that has never heard of it."""
    limits, start, calls = case
    clock = HandClock(start)
    governor, model = make(*limits, clock=clock), Model(limits)
    held: list[tuple[Permit, tuple[Fraction, int]]] = []
    for gap, number, what in calls:
        clock.at += gap
        if what == "g" and held:
            permit, admission = held.pop(number % len(held))
            permit.give_back()
            permit.release()
            model.admitted.remove(admission)
        elif what == "m" and held:
            permit, _ = held.pop(number % len(held))
            permit.release()
            permit.give_back()  # too late: the call was made
        try:
            permit = at_once(governor.acquire("r", cost=number, until=clock.at))
        except LimitExceededError:
            assert model.earliest(clock.at, number) != clock.at
        else:
            assert model.earliest(clock.at, number) == clock.at
            model.admit(clock.at, number)
            held.append((permit, model.admitted[-1]))


@given(GIVEN_BACK)
def test_a_permit_that_is_given_back_was_never_there(case: Any) -> None:
    forget_what_was_given_back(case)


# ------------------------------------------------------------------ G5: keys


KEYS = st.tuples(
    st.integers(1, 4),
    st.lists(st.builds(Limit, st.integers(1, 2), SECONDS, per=st.just("user")), min_size=1, max_size=2).map(tuple),
    st.lists(st.tuples(GAPS, st.integers(0, 6), st.sampled_from("chrg")), max_size=30),
)


def forget_only_what_is_over(case: tuple[int, tuple[Limit, ...], list[tuple[float, int, str]]]) -> None:
    """A key is refused for want of room just when as many others still count; and never is a unit forgotten."""
    max_keys, limits, calls = case
    clock = HandClock()
    governor = make(*limits, clock=clock, max_keys=max_keys)
    models: dict[int, Model] = {}
    held: dict[int, list[tuple[Permit, float]]] = {}

    def is_live(key: int) -> bool:
        return bool(held.get(key)) or models[key].is_live(clock.at)

    for gap, key, what in calls:
        clock.at += gap
        if what in "rg" and held.get(key):
            permit, stamp = held[key].pop()
            if what == "r":
                permit.release()
            else:
                permit.give_back()
                models[key].admitted.remove((Fraction(stamp), 1))
            continue
        model = models.setdefault(key, Model(limits))
        live = {other for other in models if is_live(other)}
        has_room = key in live or len(live) < max_keys
        expected = has_room and model.earliest(clock.at, 1) == clock.at
        reason = ""
        try:
            if what == "h":
                permit = at_once(governor.acquire("r", per=key, until=clock.at))
                held.setdefault(key, []).append((permit, clock.at))
            else:
                at_once(governor.require_limit("r", per=key))
            model.admit(clock.at, 1)
        except LimitExceededError as error:
            reason = error.reason
        assert (reason == "") == expected, reason
        assert ("keys are in use" in reason) == (not has_room)
        assert governor.get_status("r").keys <= max_keys
        assert all(key in governor._lines["r"] for key in models if is_live(key))


@given(KEYS)
def test_a_key_is_forgotten_only_when_nothing_of_it_counts(case: Any) -> None:
    forget_only_what_is_over(case)


# ------------------------------------------------------------------ the forecast


FORECASTS = st.tuples(
    st.lists(st.builds(Limit, st.integers(1, 5), st.integers(1, 6) | st.just(0.5)), min_size=1, max_size=3).map(tuple),
    st.integers(0, 25),
    st.integers(0, 25),
)


def forecast_what_it_takes(case: tuple[tuple[Limit, ...], int, int]) -> None:
    """The forecast is, to the second, what a live run in virtual time takes."""
    limits, here, there = case
    governor = make(*limits)
    governor.set_limit("other", 2, 3, per="user")
    wanted = {("r", None): here, ("other", "ada"): there}

    async def main() -> float:
        ports: PermitPort = governor
        await asyncio.gather(
            *(ports.acquire(resource, per=per) for (resource, per), count in wanted.items() for _ in range(count))
        )
        return asyncio.get_running_loop().time()

    assert governor.forecast_seconds(wanted) == run_virtual(main())


@given(FORECASTS)
def test_the_forecast_is_what_a_run_takes(case: Any) -> None:
    forecast_what_it_takes(case)


# ------------------------------------------------------------------ what each promise's test catches


Place = tuple[Any, str, str]
TAKE_IN_ORDER = """\
        if self._queue and now < self._timer_at:
            return False
        self.advance(now)
        if self._queue or self.spare"""
STAMP_ON_RESUMING = """\
        self.promise(-cost)
        if until is not None and resumed > until:
            self._let_go(resumed)
            raise self.refuse(cost)
        self.admit(resumed, cost)
"""
THREE_KEYS = [(0, 0, "c"), (0, 1, "c"), (0, 2, "c"), (3, 0, "c"), (0, 1, "c"), (1, 3, "c")]
TAKES_THE_NEWEST = "self._remove(caller)\n        if self.stamps:\n            self.take_out(self.stamps[-1], 1)\n"
BROKEN: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any], tuple[Place, ...]]] = {
    "rounds down": (
        decide_like_the_model,
        CHECKED,
        ((leaves_at, "math.nextafter(at, math.inf) if smaller - (at - larger) > 0 else at", "at"),),
    ),
    "counts the end of the window": (
        decide_like_the_model,
        CHECKED,
        ((leaves_at, "at = stamp + seconds", "at = math.nextafter(stamp + seconds, math.inf)"),),
    ),
    "admits one too many": (
        decide_like_the_model,
        CHECKED,
        ((GovernorEnforcer.check_limit, "line.spare - 1) >= 0", "line.spare - 1) >= -1"),),
    ),
    "trusts what is stale": (decide_like_the_model, CHECKED, ((Line._open, "self.has_empty", "False"),)),
    "a refused call spends": (
        decide_like_the_model,
        CHECKED,
        ((Line.take, "self.has_slot:\n", "self.has_slot:\n            self.stamps.append(now)\n"),),
    ),
    "spends of one limit when another refuses": (
        decide_like_the_model,
        CHECKED,
        ((Log._reckon, "spare = min(spare, ", "spare = min(UNLIMITED, "),),
    ),
    "starts anew when a limit changes": (
        decide_like_the_model,
        CHECKED,
        ((Log.set_windows, "self.windows = windows", "self.windows = windows; self.stamps.clear()"),),
    ),
    "says when by and by": (
        decide_like_the_model,
        CHECKED,
        ((seconds_until, "at - now, 0.0", "at - now + 1e-9, 0.0"),),
    ),
    "barges": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line.take, TAKE_IN_ORDER, "        self.advance(now)\n        if self.spare"),),
    ),
    "barges by the quick way": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line._enter, "self.fresh_until = NEVER", "pass"),),
    ),
    "serves the small ones first": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line.advance, "next(iter(self._queue))", "min(self._queue, key=lambda each: each.cost)"),),
    ),
    "does not see who leaves the line": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line._withdraw, "        self.advance(now)\n", ""),),
    ),
    "does not see a slot come free": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line._let_go, "        self.advance(now)\n", ""),),
    ),
    "counts a slot by cost": (
        serve_like_an_ideal_queue,
        QUEUED,
        ((Line.advance, "running += 1", "running += caller.cost"),),
    ),
    "has one line for all": (
        keep_keys_apart,
        KEYED,
        ((Rule.open, "self.lines.get(per)", "next(iter(self.lines.values()), None)"),),
    ),
    "stamps when it grants": (
        count_when_it_resumes,
        BUSY,
        (
            (Line.advance, "self.promise(caller.cost)", "self.admit(now, caller.cost)"),
            (Line.wait, STAMP_ON_RESUMING, ""),
            (Line._withdraw, "self.promise(-caller.cost)", "pass"),
        ),
    ),
    "admits after his time": (count_when_it_resumes, BUSY, ((Line.wait, "resumed > until", "False"),)),
    "admits who comes too late": (
        count_when_it_resumes,
        BUSY,
        ((GovernorEnforcer.acquire, "(until is None or asked <= until)", "True"),),
    ),
    "grants after his time": (
        count_when_it_resumes,
        BUSY,
        ((Line.advance, "now > caller.until", "False"), (Line.wait, "resumed > until", "False")),
    ),
    "takes back the newest stamp, on a busy loop": (
        count_when_it_resumes,
        BUSY,
        ((Line._withdraw, "self._remove(caller)\n", TAKES_THE_NEWEST),),
    ),
    "takes back the newest stamp": (
        hand_on_what_was_granted,
        GRANTS,
        ((Line._withdraw, "self._remove(caller)\n", TAKES_THE_NEWEST),),
    ),
    "keeps what was granted": (hand_on_what_was_granted, GRANTS, ((Line._withdraw, "if caller.granted", "if False"),)),
    "leaves its timer": (
        hand_on_what_was_granted,
        GRANTS,
        ((Line._set_timer, "self._timer.cancel()\n", "return\n"),),
    ),
    "does not see who waits ahead": (fail_at_once, TIMED, ((Line.bound_behind, "self._asked", "0"),)),
    "sees one too many ahead": (fail_at_once, TIMED, ((Line.bound_behind, "self._asked", "self._asked + 1"),)),
    "refuses at the last moment": (fail_at_once, TIMED, ((Line._time_is_up, "self.advance(now)  #", "pass  #"),)),
    "waits beyond its time": (hold_deadlines, DEADLINES, ((Line._time_is_up, "if now < until:", "if True:"),)),
    "gives nothing back": (
        forget_what_was_given_back,
        GIVEN_BACK,
        ((Line.give_back, "self.take_out(stamp, cost)", "pass"),),
    ),
    "gives back another's": (
        forget_what_was_given_back,
        GIVEN_BACK,
        ((Log.take_out, "end = bisect_right(stamps, stamp)", "end = cost"),),
    ),
    "gives back of one window only": (
        forget_what_was_given_back,
        st.just(((Limit(1, 1), Limit(3, 5)), 0.0, [(0, 1, "a"), (2, 1, "a"), (0, 2, "g"), (0, 1, "a")])),
        ((Log.take_out, "gone - cost if gone >= end else gone", "gone"),),
    ),
    "drops the least recent key": (
        forget_only_what_is_over,
        KEYS,
        (
            (
                Rule._make_room,
                "        heap, looks",
                "        self.lines.pop(next(iter(self.lines), None), None)\n        heap, looks",
            ),
        ),
    ),
    "drops no key": (forget_only_what_is_over, KEYS, ((Rule._make_room, "<= now and", "<= -1 and"),)),
    "drops a key that holds": (
        forget_only_what_is_over,
        KEYS,
        ((Rule._make_room, "if not line.is_used:", "if True:"), (Rule._is_live, "line.is_used or ", "")),
    ),
    "looks at two keys only": (
        forget_only_what_is_over,
        st.just((3, (Limit(2, 4, per="user"),), THREE_KEYS)),
        ((Rule._make_room, "looks > 0 or len(self.lines) >= self._max_keys", "looks > 0"),),
    ),
    "files a key once": (forget_only_what_is_over, KEYS, ((Rule._put_away, "< line.filed_at", "< 0"),)),
    "forecasts an average": (
        forecast_what_it_takes,
        FORECASTS,
        ((get_least_seconds, "(units - 1) // windows[0].units", "units / windows[0].units"),),
    ),
    "forecasts one limit of several": (
        forecast_what_it_takes,
        FORECASTS,
        ((get_least_seconds, "max(queue.popleft()", "min(queue.popleft()"),),
    ),
    "forecasts one after the other": (
        forecast_what_it_takes,
        FORECASTS,
        ((GovernorEnforcer.forecast_seconds, "return max(", "return (lambda each, default: sum(each))("),),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_promise_is_caught(name: str) -> None:
    promise, cases, places = BROKEN[name]
    with ExitStack() as stack:
        for function, old, new in places:
            stack.enter_context(Mutant(name, "", function, old, new).applied())
        must_catch(promise, cases)


# ------------------------------------------------------------------ the first lines


async def test_the_first_lines_work_without_start() -> None:
    governor = GovernorEnforcer()
    governor.set_limit("payment", 2, 3600)
    allowed, msg = await governor.check_limit("payment")
    assert (allowed, msg) == (True, "")
    assert governor.get_status("payment").used == 1
    assert await governor.check_limit("payment")
    decision = await governor.check_limit("payment")
    assert not decision
    allowed, msg = decision
    assert allowed is False
    assert msg.startswith("limit 'payment' denies the call: 2 of 2 per 3600 s are used; try again in 3600 s")
    assert 3590 < decision.retry_after_seconds <= 3600
    assert decision.remaining == 0


def test_a_decision_is_frozen_and_equal_to_its_like() -> None:
    decision = LimitDecision(allowed=True, message="", retry_after_seconds=0.0, remaining=3)
    with pytest.raises(AttributeError):
        decision.allowed = False
    assert decision == pickle.loads(pickle.dumps(decision))


async def test_a_forgotten_await_does_not_unpack() -> None:
    governor = make(Limit(1, 1))
    forgotten = governor.check_limit("r")
    with pytest.raises(TypeError):
        _allowed, _message = forgotten
    forgotten.close()
    assert await governor.check_limit("r")


async def test_require_limit_raises_and_says_when() -> None:
    governor = make(Limit(1, 60, per="user"))
    await governor.require_limit("r", per="ada")
    with pytest.raises(
        LimitExceededError, match="1 of 1 per 60 s are used for user 'ada'; try again in 60 s"
    ) as caught:
        await governor.require_limit("r", per="ada")
    assert caught.value.resource == "r"
    assert 59 < caught.value.retry_after_seconds <= 60
    await governor.require_limit("r", per="grace")


async def test_a_name_that_is_not_declared_is_denied_and_told_how_to_declare_it() -> None:
    governor = make(Limit(1, 1))
    allowed, message = await governor.check_limit("paymnt")
    assert not allowed
    assert "no such limit is declared, declared are 'r': call governor.set_limit('paymnt'" in message
    assert (await governor.check_limit("paymnt")).retry_after_seconds is None
    for denied in (
        governor.require_limit("paymnt"),
        governor.acquire("paymnt"),
        governor.permit("paymnt").__aenter__(),
    ):
        with pytest.raises(LimitExceededError, match="no such limit"):
            await denied
    assert governor.has_limit("r")
    assert not governor.has_limit("paymnt")
    for ask in (governor.get_status, lambda name: governor.forecast_seconds({(name, None): 1})):
        with pytest.raises(ConfigurationError, match="set_limit"):
            ask("paymnt")


async def test_more_than_is_ever_admitted_is_denied_for_ever() -> None:
    governor = make(Limit(5, 1), Limit(100, 60))
    decision = await governor.check_limit("r", cost=6)
    assert (decision.allowed, decision.retry_after_seconds) == (False, None)
    assert decision.message.endswith(
        "it costs 6, more than the 5 ever admitted at once: split it, or raise max_requests"
    )
    with pytest.raises(LimitExceededError, match="split it"):
        await governor.acquire("r", cost=6)
    assert (await governor.check_limit("r", cost=5)).remaining == 0
    denied = await governor.check_limit("r", cost=2)
    assert "5 of 5 per 1 s are used, and it costs 2" in denied.message


# ------------------------------------------------------------------ what is refused at once


def limit(**values: Any) -> Callable[[], object]:
    return lambda: Limit(**values)


NAN, INFINITE = float("nan"), float("inf")
BAD = [
    *(limit(max_requests=bad, window_seconds=1) for bad in (0, -1, 1.5, True, "10", NAN)),
    *(limit(max_requests=1, window_seconds=bad) for bad in (0, -1, NAN, INFINITE, True, "1", 1e10)),
    *(limit(max_concurrent=bad) for bad in (0, -1, 1.5, True)),
    limit(),
    limit(max_requests=1),
    limit(window_seconds=1),
    limit(max_requests=1, window_seconds=1, per=""),
    limit(max_requests=1, window_seconds=1, per=3),
    lambda: GovernorSettings(max_keys=0),
    lambda: GovernorSettings(limits=[Limit(1, 1)]),
    lambda: GovernorSettings(limits={"r": ()}),
    lambda: GovernorSettings(limits={"r": (1, 1)}),
    lambda: GovernorSettings(limits={"": Limit(1, 1)}),
    lambda: make().set_limit("r", 0, 1),
    lambda: make().set_limits("r", []),
    lambda: make().set_limits("r", [Limit(1, 1), Limit(1, 1, per="user")]),
    lambda: make().permit("r", timeout_seconds=-1),
    lambda: make().permit("r", timeout_seconds=NAN),
    lambda: make().limited("r", timeout_seconds=True),
    lambda: make().limited("r", cost=0),
    lambda: make().limited("r", per=lambda usr: usr)(lambda user: user),
    lambda: make().limited("r", per="user")(lambda user: user),
    *(
        lambda cost=cost: at_once(make(Limit(9, 1)).check_limit("r", cost=cost))
        for cost in (0, -1, True, 1.0, "1", None)
    ),
    lambda: at_once(make(Limit(9, 1)).check_limit("")),
    lambda: at_once(make(Limit(9, 1)).check_limit(["r"])),
    lambda: at_once(make(Limit(9, 1)).check_limit("r", per="ada")),
    lambda: at_once(make(Limit(9, 1)).check_limit("r", per=["ada"])),
    lambda: at_once(make(Limit(9, 1, per="user")).check_limit("r")),
    lambda: at_once(make(Limit(9, 1, per="user")).check_limit("r", per=["ada"])),
    lambda: at_once(make(Limit(9, 1, max_concurrent=1)).check_limit("r")),
    lambda: at_once(make(Limit(9, 1, per="user")).acquire("r")),
]


@pytest.mark.parametrize("call", BAD, ids=range(len(BAD)))
def test_what_cannot_be_meant_is_refused_at_once(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=": "):
        call()


async def test_a_refusal_says_what_to_pass() -> None:
    with pytest.raises(ConfigurationError, match="'r' counts per user: pass per=<the user>"):
        await make(Limit(1, 1, per="user")).check_limit("r")
    with pytest.raises(ConfigurationError, match="leave it out, or declare the limit with per="):
        await make(Limit(1, 1)).check_limit("r", per="ada")
    with pytest.raises(ConfigurationError, match="use `async with permit"):
        await make(Limit(max_concurrent=1)).check_limit("r")


# ------------------------------------------------------------------ settings


def test_settings_take_one_limit_or_several_and_travel() -> None:
    given_limits = {"a": Limit(1, 1), "b": (Limit(1, 1), Limit(9, 60))}
    settings = GovernorSettings(limits=given_limits)
    given_limits.clear()
    copy = pickle.loads(pickle.dumps(settings))
    for each in (settings, copy):
        assert dict(each.limits) == {"a": (Limit(1, 1),), "b": (Limit(1, 1), Limit(9, 60))}
        assert len(each.limits) == 2
        with pytest.raises(TypeError):
            each.limits["c"] = Limit(1, 1)
    assert repr(settings) == repr(copy)
    assert [status.resource for status in GovernorEnforcer(settings=settings).get_status().limits] == ["a", "b"]


def test_settings_come_from_the_environment_too() -> None:
    assert settings_from_environ(GovernorSettings, "G_", {"G_MAX_KEYS": "7"}) == GovernorSettings(max_keys=7)
    with pytest.raises(ConfigurationError):
        settings_from_environ(GovernorSettings, "G_", {"G_LIMITS": "many"})


# ------------------------------------------------------------------ limits that change


async def test_a_limit_that_is_raised_lets_go_of_those_who_wait_and_one_that_is_lowered_refuses_them() -> None:
    governor = make(Limit(2, 3600))
    await governor.require_limit("r", cost=2)
    small, large = (asyncio.ensure_future(governor.acquire("r", cost=cost)) for cost in (1, 2))
    await asyncio.sleep(0)
    governor.set_limit("r", 3, 3600)
    await small
    governor.set_limit("r", 1, 3600)
    with pytest.raises(LimitExceededError, match="it costs 2, more than the 1 ever admitted"):
        await large
    decision = await governor.check_limit("r")
    assert (decision.allowed, decision.remaining) == (False, 0)
    assert "3 of 1 per 3600 s are used" in decision.message


def test_what_left_the_old_window_does_not_come_back_with_a_longer_one() -> None:
    clock = HandClock()
    governor = make(Limit(9, 1), clock=clock)
    at_once(governor.require_limit("r", cost=2))
    clock.at = 2.0
    governor.set_limit("r", 9, 3600)
    assert governor.get_status("r").used == 0


def test_what_is_counted_separately_changes_only_while_nothing_counts() -> None:
    clock = HandClock()
    governor = make(Limit(1, 1), clock=clock)
    governor.set_limit("r", 1, 1, per="user")
    at_once(governor.require_limit("r", per="ada"))
    with pytest.raises(ConfigurationError, match="declare another resource"):
        governor.set_limit("r", 1, 1)
    clock.at = 1.0
    governor.set_limit("r", 1, 1)
    at_once(governor.require_limit("r"))


def test_keys_are_forgotten_by_the_new_window() -> None:
    clock = HandClock()
    governor = make(Limit(1, 3600, per="user"), clock=clock, max_keys=1)
    at_once(governor.require_limit("r", per="ada"))
    governor.set_limit("r", 1, 1, per="user")
    assert not at_once(governor.check_limit("r", per="grace"))
    clock.at = 1.0
    assert at_once(governor.check_limit("r", per="grace"))
    clock.at = 9.0
    governor.set_limit("r", 2, 1, per="user")
    assert governor.get_status("r").keys == 0


async def test_where_there_is_no_room_for_a_key_it_is_refused_loudly() -> None:
    governor = make(Limit(1, 3600, per="user"), max_keys=2)
    for user in ("ada", "grace"):
        assert await governor.check_limit("r", per=user)
    decision = await governor.check_limit("r", per="joan")
    assert not decision
    assert decision.message.endswith("2 keys are in use already: raise GovernorSettings(max_keys=...)")
    assert decision.retry_after_seconds is None
    assert not await governor.check_limit("r", per="ada"), "and nobody is forgotten for it"


# ------------------------------------------------------------------ permits


async def test_a_permit_holds_its_slot_for_the_block_whatever_comes_of_it() -> None:
    governor = make(Limit(max_concurrent=1))

    async def fail() -> None:
        async with governor.permit("r") as permit:
            assert permit.waited_seconds == 0
            assert governor.get_status("r").running == 1
            await governor.permit("r", timeout_seconds=0).__aenter__()

    with pytest.raises(LimitExceededError, match="all 1 permits are held: give it more time") as caught:
        await fail()
    assert caught.value.retry_after_seconds is None
    assert governor.get_status("r").running == 0
    assert governor.get_status("r").used is None
    async with governor.permit("r", timeout_seconds=0):
        pass


async def test_a_permit_that_is_given_back_goes_to_the_next() -> None:
    governor = make(Limit(1, 3600, per="user"))
    async with governor.permit("r", per="ada") as permit:
        waiting = asyncio.ensure_future(governor.acquire("r", per="ada"))
        await asyncio.sleep(0)
        permit.give_back()
        following = await waiting
    following.give_back()
    assert governor.get_status("r").keys == 0


def test_a_block_that_is_kept_is_a_semaphore() -> None:
    async def main() -> None:
        governor = make(Limit(max_concurrent=2))
        slots, most = governor.permit("r"), []

        async def work() -> None:
            async with slots:
                most.append(governor.get_status("r").running)
                await asyncio.sleep(1)

        await asyncio.gather(*(work() for _ in range(6)))
        assert (max(most), len(most), asyncio.get_running_loop().time()) == (2, 6, 3)
        assert governor.get_status("r").running == 0

    run_virtual(main())


def test_a_call_that_would_wait_beyond_the_deadline_of_its_action_fails_at_once() -> None:
    async def main() -> None:
        governor = make(Limit(1, 10))
        loop = asyncio.get_running_loop()
        await governor.require_limit("r")
        with CallScope(SystemClock(), 5), pytest.raises(LimitExceededError, match="try again in 10 s"):
            async with governor.permit("r", timeout_seconds=60):
                pass
        assert loop.time() == 0
        with CallScope(SystemClock(), 60), pytest.raises(LimitExceededError):
            async with governor.permit("r", timeout_seconds=5):
                pass
        with CallScope(SystemClock(), 10):
            async with governor.permit("r"):
                assert loop.time() == 10
        with pytest.raises(LimitExceededError, match="its time was up"):
            await make(Limit(1, 1)).acquire("r", until=9.0)

    run_virtual(main())


def test_who_goes_on_too_late_because_the_loop_was_busy_is_refused_and_spends_nothing() -> None:
    async def main() -> None:
        governor = make(Limit(2, 10))
        loop = asyncio.get_running_loop()

        async def block() -> None:
            await governor.acquire("r")
            loop._now = 15.0

        await governor.require_limit("r", cost=2)
        first, second = loop.create_task(block()), loop.create_task(governor.acquire("r", until=12.0))
        third = loop.create_task(governor.acquire("r"))
        with pytest.raises(LimitExceededError):
            await second
        assert (await third).waited_seconds == 15
        await first

    run_virtual(main())


def test_a_caller_whose_time_was_up_while_the_loop_was_busy_is_passed_over() -> None:
    async def main() -> None:
        governor = make(Limit(1, 10))
        loop = asyncio.get_running_loop()
        await governor.require_limit("r")
        first, second = (loop.create_task(governor.acquire("r", until=until)) for until in (12.0, None))
        loop.call_at(9, lambda: setattr(loop, "_now", 15.0))
        with pytest.raises(LimitExceededError):
            await first
        assert (await second).waited_seconds == 15

    run_virtual(main())


def test_a_caller_who_is_closed_after_his_loop_has_ended_leaves_quietly() -> None:
    governor = make(Limit(1, 3600))

    async def main() -> Coroutine[Any, Any, Any]:
        await governor.require_limit("r")
        waiting = governor.acquire("r", until=asyncio.get_running_loop().time() + 4000)
        waiting.send(None)
        return waiting

    waiting = asyncio.run(main())
    assert governor.get_status("r").waiting == 1
    waiting.close()
    assert governor.get_status("r").waiting == 0


# ------------------------------------------------------------------ the decorator


def test_a_limited_function_waits_for_its_permits() -> None:
    governor = make(Limit(1, 10, per="user"))
    seen: list[tuple[str, float]] = []

    @governor.limited("r", per=lambda user: user)
    async def greet(text: str, user: str = "ada") -> str:
        """Greet."""
        seen.append((user, asyncio.get_running_loop().time()))
        return text

    async def main() -> None:
        assert await asyncio.gather(greet("a"), greet("b", user="grace"), greet("c")) == ["a", "b", "c"]

    run_virtual(main())
    assert sorted(seen) == [("ada", 0), ("ada", 10), ("grace", 0)]
    assert (greet.__name__, greet.__doc__) == ("greet", "Greet.")


async def test_a_limited_call_costs_what_its_callback_says_and_frees_its_slot_when_it_fails() -> None:
    governor = make(Limit(10, 3600, max_concurrent=1))

    @governor.limited("r", cost=lambda tokens: 1 + len(tokens), timeout_seconds=0)
    def complete(tokens: list[str]) -> str:
        return tokens[0]

    assert await complete(["a", "b", "c"]) == "a"
    with pytest.raises(IndexError):
        await governor.limited("r")(complete.__wrapped__)([])
    assert (governor.get_status("r").used, governor.get_status("r").running) == (5, 0)
    with pytest.raises(LimitExceededError, match="it costs 8"):
        await complete(list("seventh"))
    with pytest.raises(TypeError):
        await complete()


# ------------------------------------------------------------------ a dry run


async def test_in_a_dry_run_nobody_waits_and_all_is_counted() -> None:
    governor = make(Limit(1, 3600, per="user"), dry_run=True)
    governor.set_limit("slots", max_concurrent=1)

    @governor.limited("r", per=lambda: "ada")
    async def act() -> None: ...

    async with governor:
        for _ in range(3):
            await act()
        async with governor.permit("slots") as permit, governor.permit("slots"):
            assert permit.waited_seconds == 0
            assert governor.get_wanted() == {("r", "ada"): 3, ("slots", None): 2}
            permit.give_back()
        assert governor.get_wanted() == {("r", "ada"): 3, ("slots", None): 1}
        assert governor.forecast_seconds(governor.get_wanted()) == 7200
        assert governor.get_status("r").keys == 0
        with pytest.raises(LimitExceededError, match="no such limit"):
            await governor.permit("unheard-of").__aenter__()
        with pytest.raises(ConfigurationError):
            await governor.permit("r").__aenter__()
        assert await governor.check_limit("r", per="ada"), "checks are live"
        assert not await governor.check_limit("r", per="ada")
        with pytest.raises(LimitExceededError):
            await governor.acquire("r", per="ada", until=0.0)
    async with governor:
        assert governor.get_wanted() == {}


async def test_a_sandbox_says_whether_it_is_a_dry_run() -> None:
    for dry_run in (True, False):
        sandbox = Sandbox(dry_run=dry_run, governor=GovernorSettings(limits={"r": Limit(1, 3600)}))
        governor = sandbox.governor
        async with sandbox, governor.permit("r"):
            assert governor.get_wanted() == ({("r", None): 1} if dry_run else {})
            assert governor.get_status("r").used == (0 if dry_run else 1)


# ------------------------------------------------------------------ stopping


@pytest.mark.parametrize("started", [True, False])
async def test_who_waits_when_the_governor_stops_is_told_so_and_it_can_be_used_again(started: bool) -> None:
    governor = make(Limit(1, 3600, per="user"))
    if started:
        await governor.start()
    for user in ("ada", "grace"):
        await governor.require_limit("r", per=user)
    waiting = [asyncio.ensure_future(governor.acquire("r", per=user, until=9e9)) for user in ("ada", "ada", "grace")]
    cancelled = waiting[1]
    await asyncio.sleep(0)
    cancelled.cancel()
    await governor.stop()
    for task in (waiting[0], waiting[2]):
        with pytest.raises(LifecycleError, match="stopped while a call waited for a permit of 'r'"):
            await task
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert governor.get_status("r").waiting == 0
    assert not [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]
    async with governor:
        assert not await governor.check_limit("r", per="ada"), "what counts stays counted"
        assert await governor.check_limit("r", per="joan")


# ------------------------------------------------------------------ status and journal


async def test_status_is_json_and_spends_nothing() -> None:
    governor = make(Limit(3, 60, per="user"))
    governor.set_limits("both", [Limit(5, 1), Limit(6, 60, max_concurrent=4)])
    await governor.require_limit("r", per="ada")
    async with governor.permit("both", cost=2):
        both = governor.get_status("both")
        assert (both.used, both.remaining, both.running, both.keys) == (2, 3, 1, 0)
        assert both.limits == (Limit(5, 1), Limit(6, 60, max_concurrent=4))
    assert governor.get_status("r") == replace(governor.get_status("r", per="ada"), used=None, remaining=None)
    assert governor.get_status("r", per="ada").used == 1
    assert governor.get_status("r", per="grace").remaining == 3
    assert governor.get_status("r").keys == 1
    for resource, per in (("both", "ada"), ("r", ["ada"])):
        with pytest.raises(ConfigurationError):
            governor.get_status(resource, per=per)
    whole = json.loads(json.dumps(asdict(governor.get_status())))
    assert [status["resource"] for status in whole["limits"]] == ["both", "r"]
    assert whole["limits"][1]["limits"] == [
        {"max_requests": 3, "window_seconds": 60, "per": "user", "max_concurrent": None, "shared": False}
    ]


def test_denials_are_told_at_once_and_then_once_a_minute_with_their_number() -> None:
    clock = HandClock()
    governor = make(Limit(1, 3600, per="user"), clock=clock, max_keys=1)
    for second in range(100):
        clock.at = float(second)
        at_once(governor.check_limit("r", per="ada"))
    at_once(governor.check_limit("r", per="ada", cost=2))
    at_once(governor.check_limit("r", per="grace"))
    at_once(governor.check_limit("unheard-of"))
    events = governor.services.journal.get_events("governor.denied")
    assert {event.level for event in events} == {Level.WARNING}
    told = [
        tuple(event.fields[name] for name in ("resource", "per", "retry_after_seconds", "denials")) for event in events
    ]
    assert told == [
        ("r", "ada", 3599.0, 1),
        ("r", "ada", 3539.0, 60),
        ("r", "ada", None, 1),
        ("unheard-of", None, None, 1),
    ]
    assert governor.get_status("r").denied == 101


def test_a_key_that_cannot_be_printed_does_not_keep_a_refusal_from_being_said() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    governor, user = make(Limit(1, 60, per="user")), Hostile()
    at_once(governor.require_limit("r", per=user))
    assert "for user <Hostile instance" in at_once(governor.check_limit("r", per=user)).message


# ------------------------------------------------------------------ clocks


def test_a_clock_that_is_not_the_loops_decides_and_one_that_stands_still_costs_little() -> None:
    async def main() -> None:
        clock = HandClock(100.0)
        governor = make(Limit(1, 10), clock=clock)
        governor.set_limit("slots", max_concurrent=1)
        loop = asyncio.get_running_loop()
        await asyncio.gather(governor.acquire("r"), governor.acquire("slots"))
        waiting = loop.create_task(governor.acquire("r"))
        timed = loop.create_task(governor.acquire("slots", until=110.0))
        await asyncio.sleep(0)
        clock.at = math.nextafter(110.0, 0)  # by the loop's clock the time will have come, by this one it will not
        began = loop._steps
        await asyncio.sleep(11)
        assert not waiting.done()
        assert not timed.done()
        assert loop._steps - began < 2200, "neither looks again more often than once in a millisecond"
        clock.at = 110.0
        assert (await waiting).waited_seconds == 10.0
        with pytest.raises(LimitExceededError, match="all 1 permits are held"):
            await timed

    run_virtual(main())


def test_it_may_go_on_on_another_loop() -> None:
    governor = make(Limit(2, 3600))
    assert [bool(asyncio.run(governor.check_limit("r"))) for _ in range(3)] == [True, True, False]


# ------------------------------------------------------------------ what it costs, counted


def test_an_allowed_call_takes_no_step_of_the_loop() -> None:
    async def main() -> int:
        governor = make(Limit(100, 60), Limit(100, 3600), max_keys=5)
        loop = asyncio.get_running_loop()
        began = loop._steps
        for _ in range(10):
            assert await governor.check_limit("r")
            await governor.require_limit("r", cost=2)
            async with governor.permit("r", timeout_seconds=1):
                pass
        return loop._steps - began

    assert run_virtual(main()) == 0


def test_idle_keys_set_no_timer_and_waiting_ones_one_each() -> None:
    async def main() -> None:
        governor = make(Limit(1, 60, per="user"))
        loop = asyncio.get_running_loop()
        for user in range(1000):
            await governor.require_limit("r", per=user)
        assert loop._scheduled == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        waiting = [loop.create_task(governor.acquire("r", per=user)) for user in range(20) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(loop._scheduled) == 20
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert not [handle for handle in loop._scheduled if not handle.cancelled()]

    run_virtual(main())


async def test_a_key_is_forgotten_too_when_the_last_who_waited_for_it_was_sent_home() -> None:
    clock = HandClock()
    governor = make(Limit(2, 10, per="user"), clock=clock)
    await governor.require_limit("r", per="ada")
    clock.at = 9.0
    await governor.require_limit("r", per="ada")
    waiting = asyncio.ensure_future(governor.acquire("r", per="ada", cost=2))
    await asyncio.sleep(0)
    clock.at = 12.0
    await governor.require_limit("r", per="grace")  # finds ada's key in use, and will not look again
    await governor.stop()
    with pytest.raises(LifecycleError):
        await waiting
    clock.at = 30.0
    await governor.require_limit("r", per="joan")
    assert set(governor._lines["r"]) == {"joan"}


def test_what_left_is_let_go_of() -> None:
    clock = HandClock()
    governor = make(Limit(1000, 1, per="user"), clock=clock)
    for user in range(50):
        clock.at += 0.5
        for _ in range(100):
            at_once(governor.require_limit("r", per=user))
    lines = governor._lines["r"].values()
    assert len(lines) <= 3, "two looks per new key are enough"
    assert sum(len(line.stamps) for line in lines) <= 300
    governor.set_limit("slots", max_concurrent=5, per="user")
    for user in range(50):
        permit = at_once(governor.acquire("slots", per=user))
        assert governor.get_status("slots").keys == 1
        permit.release()
    assert governor.get_status("slots").keys == 0


@pytest.mark.parametrize(
    ("now", "at"),
    [
        (0.9916502684751451, 9.821579264325665),
        (3.320066830713273, 332.3173871660504),
        (37.52425787050143, 300.08494442869295),
        (1.0, 1.0),
        (2.0, 1.0),
    ],
)
def test_a_delay_that_rounding_makes_too_short_is_made_long_enough(now: float, at: float) -> None:
    delay = seconds_until(now, at)
    assert now + delay >= at
    assert delay == pytest.approx(max(0.0, at - now))
