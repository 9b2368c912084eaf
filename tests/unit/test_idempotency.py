"""Idempotency: what it promises (I1 to I10), and that each promise's test catches a manager that breaks it."""

import asyncio
import functools
import gc
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import must_catch
from virtual_time import LeftRunningError, StuckError, VirtualLoop, run_virtual

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.codec import Canonical, digest
from asyncsandbox._core.component import ComponentState, Services
from asyncsandbox._core.context import correlation, get_correlation_id
from asyncsandbox._core.journal import Journal, Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.results import decode_result
from asyncsandbox._core.tokens import Token
from asyncsandbox.components.idempotency import (
    IdempotencyManager,
    IdempotencyRecord,
    IdempotencySettings,
    InMemoryIdempotencyRecords,
    OnUnknown,
    Outcome,
    RecordState,
    _inside,
)
from asyncsandbox.components.idempotency.calls import Shape, Subject
from asyncsandbox.components.idempotency.flights import Flight, Hit, Returned
from asyncsandbox.errors import (
    ConfigurationError,
    IdempotencyConflictError,
    IdempotencyFullError,
    IdempotencyStateError,
    IdempotencyUnknownError,
    KnownAfterApplyError,
    NotStartedError,
    ResultCodecError,
    ResultUnavailableError,
)

TTL = 100.0
AMPLE = IdempotencySettings(ttl_seconds=TTL)


class NothingHappenedError(Exception):
    pass


class DeclinedError(Exception):
    pass


class PowerError(BaseException):
    pass


class Bank:
    """What is called, and what it has done. A run waits, does it, waits, and ends as it was told."""

    def __init__(self, manager: IdempotencyManager, *, takes: float = 1.0, ends: list[object] | None = None) -> None:
        self.manager = manager
        self.takes = takes
        self.ends = ends or []
        self.began: list[float] = []
        self.done: list[object] = []
        self.active = 0

    async def charge(self, payload: object = None) -> object:
        self.began.append(asyncio.get_running_loop().time())
        self.active += 1
        assert self.active == 1, "one run at a time"
        try:
            await asyncio.sleep(self.takes / 2)
            end = self.ends[len(self.began) - 1] if len(self.began) <= len(self.ends) else "paid"
            if isinstance(end, NothingHappenedError):
                raise end
            self.done.append(payload)
            await asyncio.sleep(self.takes / 2)
            if isinstance(end, BaseException):
                raise end
            return {"paid": payload, "number": len(self.began)} if end == "paid" else end
        finally:
            self.active -= 1

    async def ask(self, key: str = "k", payload: object = None) -> object:
        return await self.manager.process_idempotent(key, self.charge, payload)


def make(kind: type[IdempotencyManager] = IdempotencyManager, **more: Any) -> IdempotencyManager:
    options = {"ttl_seconds": TTL, "release_on": (NothingHappenedError,), **more}
    return kind(settings=IdempotencySettings(**options))


async def outcome(awaitable: Any) -> object:
    """Return what came of it, exceptions included."""
    (got,) = await asyncio.gather(awaitable, return_exceptions=True)
    return got


def events(manager: IdempotencyManager) -> list[tuple[str, Level]]:
    return [(event.name, event.level) for event in manager.services.journal.get_events()]


# ------------------------------------------------------------------ I1, I2, I5: one run, shared, nobody's own


@dataclass(frozen=True)
class Caller:
    """When somebody calls, and after how long he is cancelled, in tenths of a second."""

    at: int
    leaves_after: int | None = None


NO, DECLINED = NothingHappenedError("no"), DeclinedError("declined")
CALLERS = st.lists(st.builds(Caller, st.integers(0, 25), st.none() | st.integers(1, 25)), min_size=1, max_size=5)
ENDS = st.lists(st.sampled_from(["paid", (1, "x"), NO, DECLINED]), min_size=1, max_size=4)
STORIES = st.tuples(CALLERS, ENDS)


def moments(callers: list[Caller]) -> list[tuple[float, float | None]]:
    """Return when each calls and leaves, no two at the same time, also not when a run of a second ends."""
    times = [caller.at / 10 + number / 100 for number, caller in enumerate(callers)]
    leaving = [None if each.leaves_after is None else each.leaves_after / 10 + 0.005 for each in callers]
    return [(at, None if after is None else at + after) for at, after in zip(times, leaving, strict=True)]


def foretell(callers: list[Caller], ends: list[object]) -> tuple[list[object], int]:
    """Say who gets what, and how often it is done, by the letter of the promise."""
    got: list[object] = [None] * len(callers)
    agenda = [(at, "call", number) for number, (at, _) in enumerate(moments(callers))]
    agenda += [(leaves, "leave", number) for number, (_, leaves) in enumerate(moments(callers)) if leaves is not None]
    waiting: set[int] = set()
    record: object = None
    began, runs, done = 0.0, 0, 0
    while agenda:
        agenda.sort(key=lambda each: each[0])
        now, what, number = agenda.pop(0)
        if what == "call" and record is not None:
            got[number] = record
        elif what == "call":
            if not waiting:
                began, runs = now, runs + 1
                end = ends[runs - 1] if runs <= len(ends) else "paid"
                agenda.append((now + (0.5 if end is NO else 1), "end", runs))
            waiting.add(number)
        elif what == "leave" and number in waiting:
            waiting.remove(number)
            got[number] = "cancelled"
            if not waiting:
                record, done = "unknown", done + (now > began + 0.5)
        elif what == "end" and waiting and number == runs:
            end = ends[runs - 1] if runs <= len(ends) else "paid"
            record = None if end is NO else end
            done += end is not NO
            for each in waiting:
                got[each] = end
            waiting.clear()
    return got, done


def name(result: object) -> object:
    if isinstance(result, asyncio.CancelledError):
        return "cancelled"
    if isinstance(result, IdempotencyUnknownError):
        return "unknown"
    kept = next((end for end in (NO, DECLINED) if repr(end) == repr(result)), None)
    return "paid" if isinstance(result, dict) else kept or result


async def play(bank: Bank, callers: list[Caller]) -> list[object]:
    """Let the callers call; return who got what."""
    loop = asyncio.get_running_loop()

    async def call(at: float, leaves: float | None) -> object:
        await asyncio.sleep(at)
        task = loop.create_task(bank.ask())
        if leaves is not None:
            loop.call_at(leaves, task.cancel)
        return await outcome(task)

    got = await asyncio.gather(*(call(*each) for each in moments(callers)))
    status = bank.manager.get_status()
    assert status.in_progress == 0, "never stuck"
    assert len(bank.done) <= status.unknown + status.done + status.failed <= 1, "what happened is on record"
    return [name(result) for result in got]


def check_sharing(
    story: tuple[list[Caller], list[object]], kind: type[IdempotencyManager] = IdempotencyManager
) -> None:
    callers, ends = story
    bank = Bank(make(kind), ends=ends)
    try:
        got = run_virtual(play(bank, callers))
    except (StuckError, LeftRunningError) as error:
        raise AssertionError("stuck") from error
    expected, done = foretell(callers, ends)
    assert (got, len(bank.done)) == (expected, done)


@settings(max_examples=300)
@given(STORIES)
def test_concurrent_calls_share_one_run_that_no_cancellation_but_the_last_ends(story: Any) -> None:
    check_sharing(story)


class Alone(IdempotencyManager):
    """Broken: nobody joins."""

    async def _join(self, flight: Flight) -> Any:
        return await flight.call.func(*flight.call.args, **flight.call.kwargs)


class Selfish(IdempotencyManager):
    """Broken: the first caller's cancellation is everybody's."""

    async def _join(self, flight: Flight) -> Any:
        first = not flight.callers
        try:
            return await super()._join(flight)
        except asyncio.CancelledError:
            if first:
                flight.task.cancel()
            raise


class Immortal(IdempotencyManager):
    """Broken: the run goes on when nobody waits, and later callers join it."""

    async def _join(self, flight: Flight) -> Any:
        flight.callers += 1
        return await super()._join(flight)


class Forgetting(IdempotencyManager):
    """Broken: what was interrupted may run again."""

    async def _fly(self, flight: Flight) -> None:
        try:
            await super()._fly(flight)
        except asyncio.CancelledError:
            self._records._rows.clear()  # type: ignore[attr-defined]
            raise


def test_an_interrupted_run_leaves_nobody_hanging() -> None:
    """Cancel everybody while the function runs: the key is UNKNOWN at once, and says so."""

    async def main(before: float) -> tuple[object, int]:
        bank = Bank(make())
        callers = [asyncio.ensure_future(bank.ask()) for _ in range(3)]
        await asyncio.sleep(before)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert bank.active == 0, "the last one waits until the function has cleaned up"
        assert all(caller.cancelled() for caller in callers)
        return await outcome(bank.ask()), len(bank.done)

    result, done = run_virtual(main(0.25))
    assert isinstance(result, IdempotencyUnknownError)
    assert "cancelled while it ran" in str(result)
    assert done == 0
    result, done = run_virtual(main(0.75))
    assert isinstance(result, IdempotencyUnknownError)
    assert done == 1


def test_a_run_that_had_not_begun_is_as_if_nobody_had_called() -> None:
    async def main() -> object:
        bank = Bank(make())
        caller = asyncio.ensure_future(bank.ask())
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait((caller,))
        assert await bank.manager.is_duplicate("k") is False
        return await bank.ask()

    assert run_virtual(main()) == {"paid": None, "number": 1}


@pytest.mark.parametrize("broken", [Alone, Selfish, Immortal, Forgetting])
def test_a_manager_that_shares_wrongly_is_caught(broken: type[IdempotencyManager]) -> None:
    must_catch(lambda story: check_sharing(story, broken), STORIES, examples=1000)


# ------------------------------------------------------------------ I3: another payload is refused

ran: list[object] = []


async def take(*args: object, **kwargs: object) -> object:
    ran.append((args, kwargs))
    return "taken"


ATOMS = st.sampled_from(
    [1, True, 1.0, 0, False, 0.0, -0.0, "1", "", b"1", None, float("nan"), 2**70, date(2026, 1, 1), UUID(int=1)]
)
PAYLOADS = st.recursive(
    ATOMS | st.sampled_from([Decimal(1), Decimal("1.0")]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple) | st.dictionaries(st.just("a"), inner)
    ),
    max_leaves=3,
)
ARGUMENTS = st.tuples(st.lists(PAYLOADS, max_size=3).map(tuple), st.dictionaries(st.sampled_from("xy"), PAYLOADS))
PAIRS = st.one_of(
    st.tuples(ARGUMENTS, ARGUMENTS),
    ARGUMENTS.map(lambda each: (each, each)),
    st.tuples(ATOMS, ATOMS).map(lambda pair: (((pair[0],), {}), ((pair[1],), {}))),
    st.tuples(ATOMS, ATOMS).map(lambda pair: ((((pair[0],),), {}), (((pair[1],),), {}))),
    st.tuples(ATOMS, ATOMS).map(lambda pair: (((), {"x": pair[0]}), ((), {"x": pair[1]}))),
    ATOMS.map(lambda atom: (((), {"x": atom}), ((), {"y": atom}))),
    ATOMS.map(lambda atom: (((atom,), {}), ((), {"x": atom}))),
    st.tuples(ATOMS, ATOMS, ATOMS).map(lambda three: ((three[:2], {}), (three[::2], {}))),
)


def check_payloads(pair: Any, kind: type[IdempotencyManager] = IdempotencyManager) -> None:
    (args, kwargs), (others, other_kwargs) = pair
    facts = Canonical("take").encode({"args": args, "kwargs": kwargs})
    other_facts = Canonical("take").encode({"args": others, "kwargs": other_kwargs})
    expected = "taken" if digest(facts) == digest(other_facts) else IdempotencyConflictError
    ran.clear()

    async def main() -> list[object]:
        records = InMemoryIdempotencyRecords()
        first, again = kind(records=records), kind(records=records)
        assert await first.process_idempotent("k", take, *args, **kwargs) == "taken"
        asked = [manager.process_idempotent("k", take, *others, **other_kwargs) for manager in (first, again, again)]
        return [got if isinstance(got := await outcome(each), str) else type(got) for each in asked]

    assert run_virtual(main()) == [expected] * 3
    assert len(ran) == 1


@settings(max_examples=400)
@given(PAIRS)
def test_a_key_belongs_to_one_payload_also_without_its_fingerprint(pair: Any) -> None:
    check_payloads(pair)


class Untyped(IdempotencyManager):
    """Broken: 1 == True."""

    async def process_idempotent(self, key: str, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        hit = self._hits.get(key)
        if hit is not None and hit.quick is func and hit.args == args and not kwargs:
            return hit.value
        return await super().process_idempotent(key, func, *args, **kwargs)


class Blind(IdempotencyManager):
    """Broken: arguments by keyword do not count."""

    async def process_idempotent(self, key: str, func: Any, /, *args: Any, **_kwargs: Any) -> Any:
        return await super().process_idempotent(key, func, *args)


@pytest.mark.parametrize("broken", [Untyped, Blind])
def test_a_manager_that_compares_wrongly_is_caught(broken: type[IdempotencyManager]) -> None:
    must_catch(lambda pair: check_payloads(pair, broken), PAIRS, examples=1500)


def _fits_untyped(self: Shape, func: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    return func is self.func and tuple(kwargs) == self.names and (*args, *kwargs.values()) == self.args


def _fits_unnamed(self: Shape, func: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    values = (*args, *kwargs.values())
    return func is self.func and tuple(map(type, values)) == self.kinds and values == self.args


@pytest.mark.parametrize("broken", [_fits_untyped, _fits_unnamed])
def test_a_shape_that_fits_wrongly_is_caught(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "fits", broken)
    must_catch(check_payloads, PAIRS, examples=1500)


async def pay(invoice: str, amount: int = 1, *, currency: str = "EUR") -> str:
    return f"{invoice} {amount} {currency}"


async def other_pay(invoice: str, amount: int = 1, *, currency: str = "EUR") -> str:
    raise NotImplementedError


async def test_the_way_of_writing_does_not_matter_and_the_function_does() -> None:
    manager = make()
    for _ in range(2):
        assert await manager.process_idempotent("k", pay, "a") == "a 1 EUR"
        assert await manager.process_idempotent("k", pay, invoice="a", amount=1) == "a 1 EUR"
        assert await manager.process_idempotent("k", pay, "a", currency="EUR") == "a 1 EUR"
        assert await manager.process_idempotent("k", functools.partial(pay, "a"), 1) == "a 1 EUR"
        with pytest.raises(IdempotencyConflictError) as caught:
            await manager.process_idempotent("k", other_pay, "a")
    error = caught.value
    assert error.key == "k"
    assert error.action.endswith("other_pay")
    assert error.first.startswith(f"{pay.__module__}.pay#")
    assert events(manager) == [("idempotency.conflict", Level.ERROR)] * 2
    with pytest.raises(TypeError, match="missing"):
        await manager.process_idempotent("k", pay)


async def test_a_partial_is_compared_by_what_it_holds_now() -> None:
    manager, cart = make(), ["apple"]
    buy = functools.partial(take, cart)
    await manager.process_idempotent("k", buy)
    cart.append("pear")
    with pytest.raises(IdempotencyConflictError):
        await manager.process_idempotent("k", buy)


async def test_another_payload_meets_a_conflict_while_the_first_runs() -> None:
    bank = Bank(make(), takes=0.01)
    first = asyncio.ensure_future(bank.ask("k", "one"))
    await asyncio.sleep(0)
    with pytest.raises(IdempotencyConflictError):
        await bank.ask("k", "two")
    assert (await first)["paid"] == "one"  # type: ignore[index]
    assert bank.done == ["one"]


class Till:
    def __init__(self, number: int) -> None:
        self.number = number

    async def ring(self, amount: int) -> tuple[int, int]:
        return (self.number, amount)

    async def __call__(self, amount: int) -> int:
        return amount


async def test_the_object_of_a_method_is_no_part_of_the_payload() -> None:
    manager = make()
    for number in (1, 2):
        assert await manager.process_idempotent("ring", Till(number).ring, 5) == (1, 5)
        assert await manager.process_idempotent("call", Till(number), 5) == 5
    with pytest.raises(IdempotencyConflictError):
        await manager.process_idempotent("call", Till(1), 6)


async def test_what_says_nothing_of_its_own_has_to_be_explained() -> None:
    manager = make()
    with pytest.raises(ConfigurationError, match=r"take: argument args\[0\].*facts=lambda args"):
        await manager.process_idempotent("k", take, object())
    with pytest.raises(KnownAfterApplyError):
        await manager.process_idempotent(Token("charge[1].id"), take)
    assert not await manager.is_duplicate("k")


# ------------------------------------------------------------------ I4: how long an outcome is kept

TIMES = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=6, unique=True), st.integers(1, 30), st.integers(1, 20)
)


def check_expiry(drawn: tuple[list[int], int, int], kind: type[IdempotencyManager] = IdempotencyManager) -> None:
    times, takes, ttl = drawn
    arrivals = sorted(time + number / 100 for number, time in enumerate(times))
    began: list[float] = []

    async def work() -> int:
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(takes)
        return len(began)

    async def main() -> list[int]:
        manager = make(kind, ttl_seconds=ttl)

        async def call(at: float) -> int:
            await asyncio.sleep(at)
            return await manager.process_idempotent("k", work)

        return list(await asyncio.gather(*map(call, arrivals)))

    runs: list[float] = []
    expected: list[int] = []
    for at in arrivals:
        if not runs or at >= runs[-1] + takes + ttl:
            runs.append(at)
        expected.append(len(runs))
    assert (run_virtual(main()), began) == (expected, pytest.approx(runs))


@given(TIMES)
def test_an_outcome_is_kept_from_its_end_on_and_a_run_never_expires(drawn: Any) -> None:
    check_expiry(drawn)


class Eternal(IdempotencyManager):
    def _remember(self, key: str, hit: Hit) -> None:
        hit.expires_at = float("inf")
        super()._remember(key, hit)


class FromTheBeginning(IdempotencyManager):
    async def _fly(self, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await super()._fly(flight)
        for row in self._records._rows.values():  # type: ignore[attr-defined]
            row.expires_at -= loop.time() - began
        self._hits.clear()


class Impatient(IdempotencyManager):
    """Broken: a run that takes longer than an outcome is kept is taken for lost."""

    async def _join(self, flight: Flight) -> Any:
        ttl = self._settings.ttl_seconds
        asyncio.get_running_loop().call_later(ttl, self._flights.pop, flight.call.key, None)
        asyncio.get_running_loop().call_later(ttl, self._records._rows.pop, flight.call.key, None)  # type: ignore[attr-defined]
        return await super()._join(flight)

    def _land(self, flight: Flight) -> None:
        self._flights.pop(flight.call.key, None)
        flight.land()


@pytest.mark.parametrize("broken", [Eternal, FromTheBeginning, Impatient])
def test_a_manager_that_keeps_time_wrongly_is_caught(broken: type[IdempotencyManager]) -> None:
    must_catch(lambda drawn: check_expiry(drawn, broken), TIMES)


def test_the_clock_that_was_given_decides() -> None:
    class ByHand(SystemClock):
        at = 0.0

        def monotonic(self) -> float:
            return self.at

    clock, numbers = ByHand(), iter(range(9))
    manager = make()
    manager.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock)))

    async def work() -> int:
        return next(numbers)

    async def main() -> list[int]:
        got = []
        for clock.at in (0.0, TTL - 1, TTL, TTL + 1, 2 * TTL):
            got.append(await manager.process_idempotent("k", work))
        return got

    assert asyncio.run(main()) == [0, 0, 1, 1, 2]


def test_records_in_use_survive_another_binding() -> None:
    manager, numbers = make(), iter(range(9))

    async def work() -> int:
        return next(numbers)

    async def main() -> list[int]:
        return [await manager.process_idempotent("k", work)]

    assert asyncio.run(main()) == [0]
    manager.bind(Services.alone())
    assert asyncio.run(main()) == [0]


# ------------------------------------------------------------------ I7: what comes back, and what cannot be stored

RESULTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just(Decimal("1.0")) | st.just(UUID(int=1)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(st.text(max_size=1), inner, max_size=2),
        st.lists(inner, max_size=2).map(lambda items: Basket(items)),  # noqa: PLW0108 - defined below
    ),
    max_leaves=4,
)


@dataclass
class Basket:
    items: list[object] = field(default_factory=list)


def spoil(value: object) -> None:
    """Change whatever can be changed in a result."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        spoil(inner)
    if isinstance(value, dict):
        value["spoilt"] = True
    if isinstance(value, list):
        value.append("spoilt")
    if isinstance(value, Basket):
        spoil(value.items)


def check_results(result: object, kind: type[IdempotencyManager] = IdempotencyManager) -> None:
    original = repr(result)

    async def work() -> object:
        await asyncio.sleep(1)
        return result

    async def main() -> None:
        records = InMemoryIdempotencyRecords()
        first, second = kind(records=records), kind(records=records)
        joined = await asyncio.gather(*(first.process_idempotent("k", work) for _ in range(3)))
        later = [await manager.process_idempotent("k", work) for manager in (first, first, second, second)]
        later += [await first.get_cached_result("k"), await second.get_cached_result("k")]
        for got in (*joined, *later):
            assert repr(got) == original
            spoil(got)
        again = [await manager.process_idempotent("k", work) for manager in (first, second)]
        assert [repr(got) for got in again] == [original] * 2

    run_virtual(main())


@given(RESULTS)
def test_everybody_gets_a_result_of_his_own(result: object) -> None:
    check_results(result)


def test_a_manager_that_hands_out_one_object_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Returned, "take", lambda self: self._value)
        must_catch(check_results, RESULTS)
    with monkeypatch.context() as patched:
        patched.setattr(Hit, "give", _first)
        must_catch(check_results, RESULTS)


_given: dict[int, object] = {}


def _first(hit: Hit) -> object:
    if hit.data is None:
        return hit.value
    return _given.setdefault(id(hit), decode_result(hit.data))


def unstorable() -> object:
    return lambda: "live"


@pytest.mark.parametrize(
    ("result", "settings", "why"),
    [
        (unstorable(), {}, "a function cannot be stored"),
        ([object()], {}, r"result\[0\]: a object cannot be stored"),
        ("x" * 99, {"max_result_bytes": 100}, "its 101 bytes are more than max_result_bytes=100"),
    ],
)
async def test_what_cannot_be_stored_reaches_one_caller_and_runs_once(
    result: object, settings: dict[str, Any], why: str
) -> None:
    runs = []

    async def work() -> object:
        await asyncio.sleep(0)
        runs.append(1)
        return result

    manager = make(**settings)
    joined = await asyncio.gather(*(manager.process_idempotent("k", work) for _ in range(3)), return_exceptions=True)
    assert joined[0] is result
    again = await outcome(manager.process_idempotent("k", work))
    cached = await outcome(manager.get_cached_result("k"))
    for error in (*joined[1:], again, cached):
        assert isinstance(error, ResultUnavailableError)
        with pytest.raises(ResultUnavailableError, match=why):
            raise error
    assert len(runs) == 1
    assert manager.get_status().done == 1


async def test_the_original_goes_to_the_first_who_is_still_there() -> None:
    async def work() -> object:
        await asyncio.sleep(0.01)
        return result

    result, manager = unstorable(), make()
    callers = [asyncio.ensure_future(manager.process_idempotent("k", work)) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    got = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(got[0], asyncio.CancelledError)
    assert got[1] is result
    assert isinstance(got[2], ResultUnavailableError)


async def test_a_stored_result_that_cannot_be_read_here_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> Basket:
        return Basket([1])

    records = InMemoryIdempotencyRecords()
    assert await IdempotencyManager(records=records).process_idempotent("k", work) == Basket([1])
    here, elsewhere = (IdempotencyManager(records=records) for _ in range(2))
    assert await here.process_idempotent("k", work) == Basket([1])
    monkeypatch.setitem(globals(), "Basket", None)
    for call in (
        here.process_idempotent("k", work),
        elsewhere.process_idempotent("k", work),
        elsewhere.get_cached_result("k"),
    ):
        with pytest.raises(ResultUnavailableError, match="there is no such class here"):
            await call


async def test_a_stored_none_is_not_nothing() -> None:
    async def work() -> None:
        runs.append(1)

    runs: list[int] = []
    manager, nothing = make(), object()
    assert await manager.get_cached_result("k") is None
    assert await manager.get_cached_result("k", nothing) is nothing
    for _ in range(3):
        assert await manager.process_idempotent("k", work) is None
    assert await manager.get_cached_result("k", nothing) is None
    assert len(runs) == 1


# ------------------------------------------------------------------ I8, I9: exceptions


def check_exceptions(kind: type[IdempotencyManager] = IdempotencyManager) -> None:
    async def main() -> None:
        bank = Bank(make(kind), ends=[NO, NothingHappenedError("again"), DECLINED])
        for expected in ("no", "again"):
            with pytest.raises(NothingHappenedError, match=expected):
                await bank.ask()
            assert not await bank.manager.is_duplicate("k")
        error = await outcome(bank.ask())
        assert error is DECLINED, "the function's own exception"
        assert any("release_on" in note for note in error.__notes__)
        fresh = kind(records=bank.manager._records)
        for manager in (bank.manager, fresh):
            again = await outcome(manager.process_idempotent("k", bank.charge, None))
            assert type(again) is DeclinedError
            assert again.args == ("declined",)
            assert again is not DECLINED
            assert any("was not run again" in note for note in again.__notes__)
            assert await manager.get_cached_result("k", "nothing") == "nothing"
        assert len(bank.began) == 3
        assert len(bank.done) == 1
        await asyncio.sleep(TTL)
        assert await bank.ask() == {"paid": None, "number": 4}

    run_virtual(main())
    del DECLINED.__notes__


def test_an_exception_is_kept_unless_it_proves_that_nothing_happened() -> None:
    check_exceptions()


class Lenient(IdempotencyManager):
    async def _fly(self, flight: Flight) -> None:
        await super()._fly(flight)
        for key, row in tuple(self._records._rows.items()):  # type: ignore[attr-defined]
            if row.state is RecordState.FAILED:
                await self._records.release(key, row.fence)


class Severe(IdempotencyManager):
    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "settings": IdempotencySettings(ttl_seconds=TTL)})


@pytest.mark.parametrize("broken", [Lenient, Severe])
def test_a_manager_that_keeps_the_wrong_exceptions_is_caught(broken: type[IdempotencyManager]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_exceptions(broken)


class LiveError(Exception):
    def __init__(self, live: object) -> None:
        super().__init__(live)


async def test_an_exception_that_cannot_be_stored_is_not_run_again_either() -> None:
    async def work() -> None:
        runs.append(1)
        raise LiveError(object())

    runs: list[int] = []
    manager = make()
    with pytest.raises(LiveError):
        await manager.process_idempotent("k", work)
    with pytest.raises(
        ResultUnavailableError, match=r"it raised LiveError, which could not be stored: result.args\[0\]"
    ):
        await manager.process_idempotent("k", work)
    assert len(runs) == 1


def test_who_waits_for_a_run_that_fails_gets_its_exception() -> None:
    async def main() -> None:
        for end in (NO, DECLINED):
            bank = Bank(make(), ends=[end])
            got = await asyncio.gather(*(bank.ask() for _ in range(3)), return_exceptions=True)
            assert got == [end] * 3
            assert len(bank.began) == 1

    run_virtual(main())
    del DECLINED.__notes__


def test_what_is_no_ordinary_exception_leaves_the_key_unknown() -> None:
    async def main() -> None:
        bank = Bank(make(), ends=[PowerError("off")])
        got = await asyncio.gather(*(bank.ask() for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in got] == [PowerError] * 2
        with pytest.raises(IdempotencyUnknownError, match="PowerError ended it"):
            await bank.ask()
        assert len(bank.done) == 1
        assert bank.manager.get_status().unknown == 1

    run_virtual(main())


def test_a_function_that_cancels_itself_hands_no_cancellation_to_others() -> None:
    async def main() -> None:
        bank = Bank(make(), ends=[asyncio.CancelledError()])
        got = await asyncio.gather(*(bank.ask() for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in got] == [IdempotencyUnknownError] * 2
        assert bank.manager.get_status().unknown == 1

    run_virtual(main())


INTERRUPTED = """
import asyncio
from asyncsandbox.components.idempotency import IdempotencyManager

manager, loop = IdempotencyManager(), asyncio.new_event_loop()

async def work():
    raise KeyboardInterrupt

for _ in range(3):
    try:
        loop.run_until_complete(manager.process_idempotent("k", work))
    except BaseException as error:
        print(type(error).__name__, error)
"""


def test_an_interrupted_interpreter_leaves_the_key_unknown() -> None:
    # In a process of its own: what is interrupted on its way through a loop upsets the parser of Python 3.11.
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    first, second, third = ended.stdout.splitlines()
    assert first.startswith("KeyboardInterrupt")
    assert "KeyboardInterrupt ended it" in second
    assert second == third


def test_a_run_that_was_closed_half_way_reads_unknown() -> None:
    manager, loop = make(), asyncio.new_event_loop()

    async def work() -> None:
        await asyncio.Event().wait()

    caller = loop.create_task(manager.process_idempotent("k", work))
    for _ in range(9):
        loop.run_until_complete(asyncio.sleep(0))
    (flight,) = manager._flights.values()
    for task in (flight.task, caller):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]
    loop.close()
    with pytest.raises(IdempotencyUnknownError, match="has gone without saying"):
        asyncio.run(manager.process_idempotent("k", work))


def test_a_run_on_a_loop_that_was_closed_is_not_joined() -> None:
    manager, loop = make(), asyncio.new_event_loop()

    async def work() -> None:
        await asyncio.Event().wait()

    caller = loop.create_task(manager.process_idempotent("k", work))
    for _ in range(9):
        loop.run_until_complete(asyncio.sleep(0))
    (flight,) = manager._flights.values()
    for task in (flight.task, caller):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    with pytest.raises(IdempotencyUnknownError, match="has gone without saying"):
        asyncio.run(manager.process_idempotent("k", work))


# ------------------------------------------------------------------ I6: what a call does that meets UNKNOWN


def interrupt(bank: Bank, call: Callable[[], Coroutine[Any, Any, object]]) -> Coroutine[Any, Any, None]:
    """Cancel a call after it was done."""

    async def main() -> None:
        caller = asyncio.ensure_future(call())
        await asyncio.sleep(0.75)
        caller.cancel()
        await asyncio.wait((caller,))
        assert bank.manager.get_status().unknown == 1

    return main()


def test_manual_waits_for_a_persons_word() -> None:
    async def main() -> None:
        bank = Bank(make())
        manager = bank.manager
        for happened, result in ((False, None), (True, "by hand"), (True, None)):
            await interrupt(bank, bank.ask)
            with pytest.raises(IdempotencyUnknownError, match=r"resolve\('k', happened=True or False\)"):
                await bank.ask()
            with pytest.raises(ResultCodecError):
                await manager.resolve("k", happened=True, result=object())
            assert await manager.is_duplicate("k")
            assert await manager.get_cached_result("k", "none yet") == "none yet"
            await manager.resolve("k", happened=happened, result=result)
            if happened:
                assert await bank.ask() == result
                await asyncio.sleep(TTL)
            assert not await manager.is_duplicate("k")
            with pytest.raises(IdempotencyStateError, match="absent"):
                await manager.resolve("k", happened=True)
        assert len(bank.done) == 3
        names = [each for each, _ in events(manager)]
        assert names == ["idempotency.unknown", "idempotency.unknown", "idempotency.resolved"] * 3

    run_virtual(main())


def test_a_person_settles_what_failed_and_nothing_else() -> None:
    async def main() -> None:
        bank = Bank(make(), ends=[DECLINED, DECLINED])
        for happened in (False, True):
            with pytest.raises(DeclinedError):
                await bank.ask()
            await bank.manager.resolve("k", happened=happened, result="after all")
        assert await bank.ask() == "after all"
        with pytest.raises(IdempotencyStateError, match="key 'k' is done, which does not allow 'did not happen'"):
            await bank.manager.resolve("k", happened=False)
        running = asyncio.ensure_future(bank.ask("other"))
        await asyncio.sleep(0.1)
        with pytest.raises(IdempotencyStateError, match="in progress"):
            await bank.manager.resolve("other", happened=False)
        await running

    run_virtual(main())
    del DECLINED.__notes__


async def test_of_two_who_settle_at_once_one_is_told() -> None:
    class Slow(InMemoryIdempotencyRecords):
        async def get(self, key: str) -> IdempotencyRecord | None:
            found = await super().get(key)
            await asyncio.sleep(0)
            return found

    bank = Bank(make(), takes=0.01, ends=[DECLINED])
    bank.manager._records = Slow()
    with pytest.raises(DeclinedError):
        await bank.ask()
    del DECLINED.__notes__
    got = await asyncio.gather(
        *(bank.manager.resolve("k", happened=happened) for happened in (True, False)), return_exceptions=True
    )
    assert got[0] is None
    assert isinstance(got[1], IdempotencyStateError)
    assert await bank.manager.is_duplicate("k")


def test_a_rerun_in_which_nothing_happens_leaves_the_key_unknown() -> None:
    async def main() -> None:
        bank = Bank(make(on_unknown="rerun"), ends=["paid", NO])
        await interrupt(bank, bank.ask)
        with pytest.raises(NothingHappenedError):
            await bank.ask()
        assert bank.manager.get_status().unknown == 1
        with pytest.raises(IdempotencyUnknownError, match="it was cancelled while it ran"):
            await IdempotencyManager(records=bank.manager._records).process_idempotent("k", bank.charge, None)
        assert await bank.ask()

    run_virtual(main())


def test_rerun_runs_again() -> None:
    async def main() -> None:
        bank = Bank(make(on_unknown="rerun"))
        await interrupt(bank, bank.ask)
        assert await bank.ask() == {"paid": None, "number": 2}
        assert len(bank.done) == 2
        assert bank.manager.get_status().done == 1

    run_virtual(main())


@pytest.mark.parametrize(
    ("found", "expected"),
    [("receipt", "receipt"), (True, None), (None, "verify found no trace"), (False, "verify found no trace")],
)
@pytest.mark.parametrize("threaded", [False, True])
def test_verify_confirms_but_does_not_rule_out_while_the_caller_lives(
    found: object, expected: object, threaded: bool
) -> None:
    asked: list[object] = []

    def look(payload: object, idempotency_key: str) -> object:
        asked.append((payload, idempotency_key))
        return found

    async def look_later(payload: object, idempotency_key: str) -> object:
        await asyncio.sleep(1)
        return look(payload, idempotency_key)

    async def main() -> None:
        bank = Bank(make())
        charge = bank.manager.idempotent(key=lambda payload: f"k-{payload}", verify=look if threaded else look_later)(
            bank.charge
        )
        await interrupt(bank, lambda: charge(7))
        got = await asyncio.gather(*(charge(7) for _ in range(3)), return_exceptions=True)
        if found:
            assert got == [expected] * 3
            assert await charge(7) == expected
        else:
            assert all(isinstance(each, IdempotencyUnknownError) and str(expected) in str(each) for each in got)
        assert asked == [(7, "k-7")], "asked once for all of them"
        assert len(bank.done) == 1

    run_virtual(main())


def test_what_verify_finds_after_somebody_else_settled_it_does_not_count() -> None:
    async def main() -> None:
        bank = Bank(make())

        async def look() -> str:
            await bank.manager.resolve("k", happened=True, result="by hand")
            return "found"

        charge = bank.manager.idempotent(key=lambda: "k", verify=look)(bank.charge)
        await interrupt(bank, charge)
        assert await charge() == "by hand"

    run_virtual(main())


def test_a_verify_that_fails_or_is_cancelled_decides_nothing() -> None:
    async def main() -> None:
        bank, answers = Bank(make()), [OSError("down"), None]

        async def look() -> object:
            answer = answers.pop(0)
            if answer is not None:
                raise answer
            await asyncio.sleep(60)
            raise NotImplementedError

        charge = bank.manager.idempotent(key=lambda: "k", verify=look)(bank.charge)
        await interrupt(bank, charge)
        with pytest.raises(OSError, match="down"):
            await charge()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(charge(), 1)
        assert bank.manager.get_status().unknown == 1

    run_virtual(main())


def test_an_unknown_key_belongs_to_its_payload_too() -> None:
    async def main() -> None:
        bank = Bank(make(on_unknown="rerun"))
        await interrupt(bank, bank.ask)
        with pytest.raises(IdempotencyConflictError):
            await bank.ask("k", "other")

    run_virtual(main())


# ------------------------------------------------------------------ fences, and records that fail


class Stubborn(InMemoryIdempotencyRecords):
    """Records that cannot be written once a call has run."""

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        raise OSError("disk full")

    async def release(self, key: str, fence: str) -> bool:
        raise OSError("disk full")


class Unreachable(InMemoryIdempotencyRecords):
    async def claim(self, *args: Any, **kwargs: Any) -> IdempotencyRecord:
        raise ConnectionError("no database")


@pytest.mark.parametrize("end", ["paid", NO, DECLINED])
def test_an_outcome_that_cannot_be_recorded_is_given_to_who_waits_and_is_unknown_to_others(end: object) -> None:
    async def main() -> None:
        bank = Bank(make(), ends=[end])
        bank.manager._records = Stubborn()
        got = await outcome(bank.ask())
        assert got is end or got == {"paid": None, "number": 1}
        assert events(bank.manager) == [("idempotency.not_recorded", Level.ERROR)]
        with pytest.raises(IdempotencyUnknownError):
            await bank.ask()

    run_virtual(main())
    for each in (NO, DECLINED):
        vars(each).clear()


class Slow(InMemoryIdempotencyRecords):
    """Records that take their time, as a database does."""

    async def claim(self, *args: Any, **kwargs: Any) -> IdempotencyRecord:
        await asyncio.sleep(0.25)
        found = await super().claim(*args, **kwargs)
        await asyncio.sleep(0.25)
        return found


def test_a_claim_that_nobody_waits_for_is_given_back() -> None:
    async def main(cancelled_after: float, on_unknown: str) -> int:
        bank = Bank(make(on_unknown=on_unknown))
        if on_unknown == "rerun":
            await interrupt(bank, bank.ask)
        rows = bank.manager._records._rows  # type: ignore[attr-defined]
        bank.manager._records = Slow()
        bank.manager._records._rows = rows
        caller = asyncio.ensure_future(bank.ask())
        await asyncio.sleep(cancelled_after)
        caller.cancel()
        await asyncio.wait((caller,))
        assert caller.cancelled()
        assert len(bank.began) == (on_unknown == "rerun")
        return bank.manager.get_status().unknown

    for cancelled_after in (0.1, 0.4):
        assert run_virtual(main(cancelled_after, "manual")) == 0
        assert run_virtual(main(cancelled_after + 0.5, "rerun")) == 1


def test_who_calls_rightly_is_not_refused_for_one_who_does_not_and_is_faster() -> None:
    async def main() -> None:
        bank = Bank(make())
        assert await bank.ask("k", "right")
        rows = bank.manager._records._rows  # type: ignore[attr-defined]
        bank.manager._hits.clear()
        bank.manager._records = Slow()
        bank.manager._records._rows = rows
        wrong, right = (asyncio.ensure_future(bank.ask("k", payload)) for payload in ("wrong", "right"))
        assert isinstance(await outcome(wrong), IdempotencyConflictError)
        assert (await right)["paid"] == "right"

    run_virtual(main())


def test_who_comes_while_a_run_is_being_cancelled_waits_for_its_end() -> None:
    async def main() -> None:
        manager, runs = make(), []

        async def work() -> str:
            runs.append(1)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
            return "in spite of all"

        first = asyncio.ensure_future(manager.process_idempotent("k", work))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(0.5)
        assert await manager.process_idempotent("k", work) == "in spite of all"
        assert asyncio.get_running_loop().time() == 2
        assert runs == [1]

    run_virtual(main())


async def test_without_records_nothing_is_run() -> None:
    bank = Bank(make())
    bank.manager._records = Unreachable()
    with pytest.raises(ConnectionError):
        await bank.ask()
    assert bank.began == []
    assert bank.manager._flights == {}


def test_who_comes_too_late_overwrites_nothing() -> None:
    async def main() -> None:
        bank = Bank(make())
        running = asyncio.ensure_future(bank.ask())
        await asyncio.sleep(0.1)
        # Somebody takes the key over, as after a lease that ran out.
        row = bank.manager._records._rows["k"]  # type: ignore[attr-defined]
        row.fence = "another"
        assert await running == {"paid": None, "number": 1}, "it is what came of it"
        assert row.state is RecordState.IN_PROGRESS
        assert ("idempotency.not_recorded", Level.ERROR) in events(bank.manager)
        assert bank.manager._hits == {}

    run_virtual(main())


async def test_a_full_memory_refuses_before_anything_runs() -> None:
    bank = Bank(make(max_records=2), takes=0)
    for key in "ab":
        await bank.ask(key)
    with pytest.raises(IdempotencyFullError):
        await bank.ask("c")
    assert len(bank.began) == 2
    assert await bank.ask("a")


# ------------------------------------------------------------------ several managers, one memory


def test_managers_that_share_records_share_runs() -> None:
    async def main() -> None:
        records = InMemoryIdempotencyRecords()
        banks = [Bank(IdempotencyManager(settings=AMPLE, records=records)) for _ in range(2)]
        one = asyncio.ensure_future(banks[0].ask())
        await asyncio.sleep(0.1)
        two = [asyncio.ensure_future(banks[1].ask()) for _ in range(2)]
        await asyncio.sleep(0.1)
        two[0].cancel()
        assert await one == await two[1] == {"paid": None, "number": 1}
        assert asyncio.get_running_loop().time() == 1
        assert len(banks[0].done) + len(banks[1].done) == 1

    run_virtual(main())


def test_who_waits_for_another_manager_goes_on_when_that_one_gives_up() -> None:
    async def main() -> None:
        records = InMemoryIdempotencyRecords()
        bank = Bank(IdempotencyManager(settings=AMPLE, records=records), ends=[NO])
        other = Bank(IdempotencyManager(settings=AMPLE, records=records))
        lenient = bank.manager.idempotent(key=lambda: "k", release_on=NothingHappenedError)(bank.charge)
        one = asyncio.ensure_future(lenient())
        await asyncio.sleep(0.1)
        two = asyncio.ensure_future(other.ask())
        assert await outcome(one) is NO
        assert await two == {"paid": None, "number": 1}

    run_virtual(main())


# ------------------------------------------------------------------ plain functions


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context() -> None:
    def work(number: int) -> tuple[str | None, int, bool]:
        return (get_correlation_id(), number, threading.current_thread() is threading.main_thread())

    manager = make()
    with correlation("req-7"):
        assert await manager.process_idempotent("k", work, 3) == ("req-7", 3, False)
    assert await manager.process_idempotent("k", work, 3) == ("req-7", 3, False)


async def test_a_thread_ends_before_a_cancellation_is_delivered_and_its_outcome_counts() -> None:
    began, go_on = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        go_on.wait(10)
        return "done"

    manager = make()
    caller = asyncio.ensure_future(manager.process_idempotent("k", work))
    await asyncio.to_thread(began.wait, 10)
    caller.cancel()
    _, pending = await asyncio.wait((caller,), timeout=0.01)
    assert pending
    go_on.set()
    await asyncio.wait((caller,))
    assert caller.cancelled()
    assert await manager.get_cached_result("k") == "done"
    assert await manager.process_idempotent("k", work) == "done"


# ------------------------------------------------------------------ the decorator


async def test_the_decorator_keeps_the_function_and_takes_the_key_by_name() -> None:
    manager, paid = make(), []

    @manager.idempotent(key=lambda order: f"pay-{order}", facts=lambda amount: amount)
    async def pay(client: object, order: int, amount: int = 5) -> int:
        """Pay."""
        paid.append(order)
        return amount

    assert (pay.__name__, pay.__doc__) == ("pay", "Pay.")
    assert [await pay(object(), order=1), await pay(object(), 1), await pay(None, 2, 6)] == [5, 5, 6]
    assert paid == [1, 2]
    assert await manager.get_cached_result("pay-2") == 6
    with pytest.raises(IdempotencyConflictError):
        await pay(object(), 1, 6)


async def test_the_decorator_sits_on_methods_and_plain_functions() -> None:
    manager, rung = make(ttl_seconds=1), []

    class Till:
        @manager.idempotent(key=lambda amount: f"ring-{amount}", ttl_seconds=TTL)
        async def ring(self, amount: int) -> int:
            rung.append(amount)
            return amount

    @manager.idempotent(key=lambda amount: f"{amount}")
    def plain(amount: int) -> int:
        rung.append(amount)
        return amount

    assert [await Till().ring(3), await Till().ring(3), await Till().ring(4)] == [3, 3, 4]
    assert rung == [3, 4]
    assert manager._hits["ring-3"].expires_at > asyncio.get_running_loop().time() + 10
    assert [await plain(5), await plain(5)] == [5, 5]


def decorate(function: Any = pay, **options: Any) -> object:
    return make().idempotent(**{"key": lambda invoice: invoice, **options})(function)


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: make(ttl_seconds=0), "ttl_seconds"),
    (lambda: make(ttl_seconds=float("nan")), "ttl_seconds"),
    (lambda: make(max_records=0), "max_records"),
    (lambda: make(max_result_bytes=1.5), "max_result_bytes"),
    (lambda: make(on_unknown="guess"), "give one of verify, rerun, manual"),
    (lambda: make(on_unknown=OnUnknown.VERIFY), "verify="),
    (lambda: make(release_on=(KeyboardInterrupt,)), "release_on"),
    (lambda: make(release_on=["x"]), "release_on"),
    (lambda: make(release_on=("x",)), "release_on"),
    (lambda: decorate(key=lambda cart: cart), "key='cart'"),
    (lambda: decorate(key=None), "idempotent: key"),
    (lambda: decorate(key=take), "give a plain function"),
    (lambda: InMemoryIdempotencyRecords(max_records=0), "max_records"),
    (lambda: decorate(verify=lambda cart: cart), "verify='cart'"),
    (lambda: decorate(verify=3), "idempotent: verify"),
    (lambda: decorate(facts=lambda cart: cart), "facts='cart'"),
    (lambda: decorate(facts=take), "give a plain function"),
    (lambda: decorate(ttl_seconds=-1), "ttl_seconds"),
    (lambda: decorate(on_unknown="verify"), "say how with verify="),
    (lambda: decorate(on_unknown="rerun", verify=lambda: None), "leave verify= out"),
    (lambda: decorate(release_on=BaseException), "release_on"),
    (lambda: decorate(ttl=3), "no such option; known: facts, ttl_seconds"),
    (lambda: decorate(3), "func=3"),
    (lambda: decorate(lambda invoice: (yield)), "not one that yields"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_wrong_is_refused_at_once(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong()
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["", None, 17, 1.0, b"k", ["k"], "\ud800"], ids=repr)
async def test_a_key_is_text(key: Any) -> None:
    manager = make()
    for call in (
        lambda: manager.process_idempotent(key, pay, "a"),
        lambda: manager.is_duplicate(key),
        lambda: manager.get_cached_result(key),
        lambda: manager.resolve(key, happened=True),
        manager.idempotent(key=lambda: key)(take),
    ):
        with pytest.raises(ConfigurationError, match="give a string that is not empty"):
            await call()


async def test_what_is_no_function_is_refused_also_for_a_key_that_is_known() -> None:
    manager = make()
    await manager.process_idempotent("k", take, [])
    for wrong in (None, 3, "take"):
        with pytest.raises(ConfigurationError, match="give a function"):
            await manager.process_idempotent("k", wrong, [])  # type: ignore[call-overload]


def test_verify_given_means_verify_and_a_single_exception_is_enough() -> None:
    decorate(verify=lambda: None)
    decorate(verify=lambda: None, on_unknown="verify")
    assert make(release_on=OSError)._settings.release_on == (OSError,)
    assert make(on_unknown="rerun")._settings.on_unknown is OnUnknown.RERUN


# ------------------------------------------------------------------ questions, life, events


async def test_a_duplicate_is_known_while_it_runs_and_after() -> None:
    bank = Bank(make(), takes=0.01)
    assert await bank.manager.is_duplicate("k") is False
    running = asyncio.ensure_future(bank.ask())
    await asyncio.sleep(0)
    assert await bank.manager.is_duplicate("k") is True
    assert await bank.manager.get_cached_result("k", "not yet") == "not yet"
    await running
    assert await bank.manager.is_duplicate("k") is True


def test_forgetting_to_await_is_an_error_not_a_yes() -> None:
    with pytest.raises(TypeError, match=r"is_duplicate\(\)"):
        bool(make().is_duplicate("k"))


def check_clearing(kind: type[IdempotencyManager] = IdempotencyManager) -> None:
    async def main() -> None:
        bank = Bank(make(kind), ends=["paid", DECLINED])
        await bank.ask("done")
        await outcome(bank.ask("failed"))
        await interrupt(bank, lambda: bank.ask("unknown"))
        assert await bank.manager.clear_expired() == 0
        bank.takes = 3 * TTL
        running = asyncio.ensure_future(bank.ask("running"))
        await asyncio.sleep(TTL)
        assert bank.manager.get_status().done == 0, "what has expired is not counted"
        assert await bank.manager.clear_expired() == 2
        assert bank.manager._hits == {}
        assert [await bank.manager.is_duplicate(key) for key in ("done", "failed", "unknown", "running")] == [
            *(False, False),
            *(True, True),
        ]
        assert json.loads(json.dumps(asdict(bank.manager.get_status()))) == {
            "name": "idempotency_manager",
            "state": "new",
            "in_progress": 1,
            "done": 0,
            "failed": 0,
            "unknown": 1,
        }
        assert await running

    run_virtual(main())
    vars(DECLINED).clear()


def test_clearing_forgets_what_has_expired_and_nothing_else() -> None:
    check_clearing()


class Sweeping(IdempotencyManager):
    async def clear_expired(self) -> int:
        found = await super().clear_expired()
        self._records._rows.pop("unknown", None)  # type: ignore[attr-defined]
        return found


class Growing(IdempotencyManager):
    async def clear_expired(self) -> int:
        return await self._records.delete_expired()


@pytest.mark.parametrize("broken", [Sweeping, Growing])
def test_a_manager_that_clears_wrongly_is_caught(broken: type[IdempotencyManager]) -> None:
    with pytest.raises(AssertionError):
        check_clearing(broken)
    vars(DECLINED).clear()


def test_results_at_hand_are_few_and_leave_when_they_expire() -> None:
    async def main() -> None:
        manager = make(max_records=3, ttl_seconds=10)
        manager._records = InMemoryIdempotencyRecords()
        for number in range(5):
            await manager.process_idempotent(str(number), take, number)
        assert list(manager._hits) == ["2", "3", "4"]
        await asyncio.sleep(10)
        await manager.process_idempotent("5", take, 5)
        assert list(manager._hits) == ["5"]
        await manager.process_idempotent("2", take, 2)
        assert list(manager._hits) == ["5", "2"]

    run_virtual(main())


def test_stopping_ends_what_runs_and_says_so() -> None:
    async def main() -> None:
        manager = make()
        bank = Bank(manager)
        async with manager:
            await manager.process_idempotent("kept", take)
            running = asyncio.ensure_future(bank.ask())
            await asyncio.sleep(0.1)
            not_begun = asyncio.ensure_future(bank.ask("later"))
            await asyncio.sleep(0)
        assert isinstance(await outcome(running), IdempotencyUnknownError)
        error = await outcome(not_begun)
        assert isinstance(error, NotStartedError)
        assert "later" in str(error)
        assert manager.get_status().unknown == 1
        with pytest.raises(NotStartedError):
            await bank.ask("new")
        assert await manager.process_idempotent("kept", take) == "taken"
        async with manager:
            assert await bank.ask("new")
        assert manager.get_status().state is ComponentState.STOPPED

    run_virtual(main())


async def test_a_function_that_asks_for_its_own_key_is_told() -> None:
    manager = make()

    async def outer() -> object:
        return await asyncio.create_task(manager.process_idempotent("k", outer))

    with pytest.raises(ConfigurationError, match="would wait for itself"):
        await asyncio.wait_for(manager.process_idempotent("k", outer), 1)

    async def around() -> object:
        return await manager.process_idempotent("inner", take)

    assert await manager.process_idempotent("outer", around) == "taken"
    assert _inside.get() == ()


# ------------------------------------------------------------------ what a hit costs


def test_a_hit_takes_no_step_of_the_loop() -> None:
    async def main() -> list[int]:
        manager, loop = make(), asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        decorated = manager.idempotent(key=lambda invoice: invoice)(pay)
        counts = []
        for call in (
            lambda: manager.process_idempotent("a", pay, "a"),
            lambda: manager.process_idempotent("b", pay, "a", amount=2),
            lambda: manager.process_idempotent("c", take, {"list": [1]}),
            lambda: decorated("d"),
        ):
            await call()
            before = loop._steps
            for _ in range(10):
                await call()
            counts.append(loop._steps - before)
        return counts

    assert run_virtual(main()) == [0, 0, 0, 0]


async def test_a_hit_allocates_next_to_nothing() -> None:
    manager = make()
    await manager.process_idempotent("k", pay, "a", 2)

    async def ask(times: int) -> None:
        for _ in range(times):
            await manager.process_idempotent("k", pay, "a", 2)

    await ask(10)
    gc.collect()
    tracemalloc.start()
    try:
        await ask(10)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await ask(1000)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200, "nothing is left behind"
    assert peak - before < 2000, "one call's coroutine and arguments"


@given(PAIRS)
def test_a_shape_fits_only_what_has_the_same_fingerprint(pair: Any) -> None:
    (args, kwargs), (others, other_kwargs) = pair
    subject = Subject(take)

    def fingerprint(args: Any, kwargs: Any) -> str:
        return subject.fingerprint(subject.arguments.bind(args, kwargs))

    if Shape(take, args, kwargs).fits(take, others, other_kwargs):
        assert fingerprint(args, kwargs) == fingerprint(others, other_kwargs)


def test_a_closure_and_a_methods_object_are_not_kept_alive() -> None:
    captured = object()
    for func in (lambda: captured, Till(1).ring, Till(1), functools.partial(take, 1)):
        assert Shape(func, (), {}).func is not func
    assert Shape(take, (), {}).func is take
    assert not Shape(take, ([],), {}).fits(take, ([],), {})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start at once since Python 3.12")
@pytest.mark.parametrize("takes", [0.0, 0.01])
async def test_tasks_may_start_at_once(takes: float) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    bank = Bank(make(), takes=takes)
    callers = [asyncio.ensure_future(bank.ask()) for _ in range(3)]
    assert await asyncio.gather(*callers) == [{"paid": None, "number": 1}] * 3
    with pytest.raises(IdempotencyConflictError):
        await bank.ask("k", "other")
    caller = asyncio.ensure_future(bank.ask("left"))
    caller.cancel()
    await asyncio.wait((caller,))
    assert await bank.manager.is_duplicate("left"), "it had begun"
