# ruff: noqa: PT012 - a block that fails as a whole is what is looked at
"""The one way of a call: at most once per key, an honest outcome, and nobody harmed by somebody else's cancellation."""

import asyncio
import dataclasses
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import make_runtime, must_catch, running, states
from virtual_time import run_virtual

from asyncsandbox._core import body, pipeline
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import CallScope, correlation, get_correlation_id
from asyncsandbox._core.ledger import ActionState, Ledger, LedgerSettings, Row
from asyncsandbox._core.planned import FILLED_IN, PlannedAction, provider_key
from asyncsandbox._core.runtime import Runtime
from asyncsandbox.actions import irreversible, read_only
from asyncsandbox.errors import (
    ActionStateError,
    DeadlineExceededError,
    IdempotencyConflictError,
    KnownAfterApplyError,
    LedgerFullError,
    NestedActionError,
    NoSandboxError,
    OutcomeUnknownError,
)


class DeclinedError(Exception):
    """The provider says no."""


class UnreachableError(Exception):
    """The provider never got the call."""


# ------------------------------------------------------------------ the property: any interleaving, any cancellation

OUTCOMES = {"return": None, "declined": DeclinedError, "unreachable": UnreachableError, "lost": ValueError}


@dataclasses.dataclass
class Attempt:
    """One run of the body that waits until the schedule ends it."""

    key: str
    provider_key: str
    outcome: asyncio.Future[str]


class World:
    """The outside world: what ran, what is running, and what came of it."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.active: Counter[str] = Counter()
        self.over: set[str] = set()
        self.lost: set[str] = set()
        self.runs: Counter[str] = Counter()
        self.not_delivered: Counter[str] = Counter()

        @irreversible("card.charge", key=lambda key: key, rejected=[DeclinedError], not_delivered=[UnreachableError])
        async def charge(key: str, amount: int, *, idempotency_key: str = FILLED_IN) -> str:
            return await self.run(key, idempotency_key)

        self.charge = charge

    async def run(self, key: str, provider: str) -> str:
        assert key not in self.over, "a call whose outcome is DONE or UNKNOWN never runs again"
        assert not self.active[key], "never two at once"
        assert self.runs[provider] <= self.not_delivered[provider], "once per generation, unless not delivered"
        self.active[key] += 1
        self.runs[provider] += 1
        attempt = Attempt(key, provider, asyncio.get_running_loop().create_future())
        self.attempts.append(attempt)
        try:
            outcome = await attempt.outcome
        finally:
            self.active[key] -= 1
        if outcome == "unreachable":
            self.not_delivered[provider] += 1
        elif outcome != "declined":
            self.over.add(key)
        if outcome == "lost":
            self.lost.add(key)
        if (error := OUTCOMES[outcome]) is not None:
            raise error(outcome)
        return f"{key} by {provider}"

    def end(self, number: int, outcome: str) -> None:
        waiting = [attempt for attempt in self.attempts if not attempt.outcome.done()]
        if waiting:
            waiting[number % len(waiting)].outcome.set_result(outcome)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from("aab"), st.sampled_from([1, 1, 1, 2])),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.none()),
        st.tuples(st.just("end"), st.integers(0, 3), st.sampled_from(sorted(OUTCOMES))),
        st.tuples(st.just("wait"), st.integers(1, 4), st.none()),
    ),
    max_size=25,
)


async def carry_out(steps: list[tuple[str, Any, Any]], runtime: Runtime) -> None:
    world = World()
    callers: list[asyncio.Task[str]] = []
    cancelled: set[asyncio.Task[str]] = set()
    async with running(runtime):
        for step, which, how in steps:
            if step == "call":
                callers.append(asyncio.create_task(world.charge(which, how)))
            elif step == "cancel" and callers:
                caller = callers[which % len(callers)]
                if caller.cancel():
                    cancelled.add(caller)
            elif step == "end":
                world.end(which, how)
            elif step == "wait":
                for _ in range(which):
                    await asyncio.sleep(0)
        await settle(world, callers)
        callers.extend([asyncio.create_task(world.charge(key, 1)) for key in "ab"])
        await settle(world, callers)
    judge(world, runtime, callers, cancelled)


async def settle(world: World, callers: list[asyncio.Task[str]]) -> None:
    while not all(caller.done() for caller in callers):
        world.end(0, "return")
        await asyncio.sleep(0)


def judge(world: World, runtime: Runtime, callers: list[asyncio.Task[str]], cancelled: set[asyncio.Task[str]]) -> None:
    assert set(states(runtime)) <= {"done", "rejected", "unknown", "approved"}
    values: dict[str, set[str]] = defaultdict(set)
    for caller in callers:
        if caller.cancelled():
            assert caller in cancelled, "nobody is cancelled by somebody else's cancellation"
            continue
        error = caller.exception()
        assert isinstance(
            error, DeclinedError | UnreachableError | ValueError | IdempotencyConflictError | OutcomeUnknownError | None
        )
        if isinstance(error, OutcomeUnknownError):
            assert error.key in world.lost, "nothing but a lost reply leaves an outcome unknown"
        if error is None:
            values[caller.result()[0]].add(caller.result())
    for key, results in values.items():
        assert len(results) == 1, "all callers of a key get one result"
        assert runtime.ledger.get_row("card.charge", key).state is ActionState.DONE
    assert not any(world.active.values())


@settings(max_examples=300)
@given(STEPS)
def test_every_key_runs_at_most_once_under_any_schedule_and_any_cancellation(steps: list[Any]) -> None:
    run_virtual(carry_out(steps, make_runtime()))


class ForgetsDone(Ledger):
    async def look_up(self, call: PlannedAction) -> Row | None:
        row = await super().look_up(call)
        return None if row is not None and row.state is ActionState.DONE else row


class RetriesUnknown(Ledger):
    async def look_up(self, call: PlannedAction) -> Row | None:
        row = await super().look_up(call)
        if row is not None and row.state is ActionState.UNKNOWN:
            row.state = ActionState.APPROVED
        return row


class SameProviderKey(Ledger):
    def _renew(self, row: Row) -> None:
        pass


class LosesOutcomes(Ledger):
    async def finish(self, row: Row, *args: Any, **kwargs: Any) -> bool:
        return row.attempts > 1 and await super().finish(row, *args, **kwargs)


class NoFlights(dict[str, Any]):
    def get(self, identity: str, default: Any = None) -> Any:
        return None

    def pop(self, identity: str, default: Any = None) -> Any:
        return super().pop(identity, default)


@pytest.mark.parametrize("broken", [ForgetsDone, RetriesUnknown, SameProviderKey, LosesOutcomes])
def test_the_property_catches_a_broken_ledger(broken: type[Ledger]) -> None:
    must_catch(lambda steps: run_virtual(carry_out(steps, make_runtime(ledger=broken(SystemClock())))), STEPS)


def test_the_property_catches_calls_that_do_not_join() -> None:
    def check(steps: list[Any]) -> None:
        # Both run, or the second finds the row of the first claimed.
        run_virtual(carry_out(steps, make_runtime(flights=NoFlights())))

    must_catch(check, STEPS)


def test_the_property_catches_a_cancellation_that_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async def passes_on(
        task: asyncio.Task[Any], *, on_cancel: Any = None, until: Any = None
    ) -> asyncio.CancelledError | None:
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise
        return None

    monkeypatch.setattr(pipeline, "outlast", passes_on)
    must_catch(lambda steps: run_virtual(carry_out(steps, make_runtime())), STEPS)


# ------------------------------------------------------------------ cancellation

CallFactory = Callable[..., Any]


def held_charge(**declared: Any) -> tuple[CallFactory, asyncio.Event, list[str]]:
    """Return an action whose body waits for an event, the event, and the list of keys that ran."""
    go, ran = asyncio.Event(), []

    @irreversible("card.charge", key=lambda key: key, **declared)
    async def charge(key: str) -> str:
        ran.append(key)
        await go.wait()
        return f"charged {key}"

    return charge, go, ran


async def steps(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_cancelled_caller_hears_of_it_after_the_outcome_is_recorded() -> None:
    async with running() as runtime:
        charge, go, _ = held_charge()
        caller = asyncio.create_task(charge("a"))
        await steps()
        caller.cancel()
        await steps()
        assert not caller.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert states(runtime) == ["done"]
        assert await charge("a") == "charged a"


async def test_a_call_that_has_not_started_is_given_up_once_nobody_waits_for_it() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def find(key: str) -> bool:
        asked.set()
        await answer.wait()
        return True

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> None:
        raise ValueError(key)

    async with running() as runtime:
        with pytest.raises(ValueError, match="a"):
            await charge("a")
        callers = [asyncio.create_task(charge("a")) for _ in range(2)]
        await asked.wait()
        callers[0].cancel()
        await steps()
        assert runtime.in_flight == 1
        callers[1].cancel()
        await asyncio.wait(callers)
        assert all(caller.cancelled() for caller in callers)
        assert runtime.in_flight == 0
        assert states(runtime) == ["unknown"]


async def test_who_joins_a_call_that_is_being_given_up_leads_the_next() -> None:
    asked: list[str] = []
    answer = asyncio.Event()

    async def find(key: str) -> bool:
        asked.append(key)
        await answer.wait()
        return True

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> None:
        raise ValueError(key)

    async with running() as runtime:
        with pytest.raises(ValueError, match="a"):
            await charge("a")
        leader = asyncio.create_task(charge("a"))
        await steps()
        leader.cancel()
        joiner = asyncio.create_task(charge("a"))
        await steps()
        assert leader.cancelled()
        answer.set()
        assert await joiner is None
        assert asked == ["a", "a"]
        assert states(runtime) == ["done"]


async def test_a_simulation_may_stand_in_for_the_body() -> None:
    async def stage(_runtime: Any, _spec: Any, label: str, body: Any, bound: Any) -> str:
        return f"{label} {bound['key']} {await body()}"

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> str:
        return "real"

    async with running():
        token = body.body_stage.set(stage)
        assert await charge("a") == "card.charge[a] a real"
        body.body_stage.reset(token)
        assert await charge("b") == "real"


async def test_a_cancelled_leader_leaves_its_followers_the_outcome() -> None:
    async with running():
        charge, go, ran = held_charge()
        leader, *followers = [asyncio.create_task(charge("a")) for _ in range(4)]
        await steps()
        leader.cancel()
        followers[0].cancel()
        await steps()
        assert followers[0].cancelled()
        go.set()
        assert await asyncio.gather(*followers[1:]) == ["charged a"] * 2
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert ran == ["a"]


async def test_followers_of_a_leader_cancelled_before_the_start_are_served() -> None:
    async with running():
        charge, go, ran = held_charge()
        go.set()
        callers = [asyncio.create_task(charge("a")) for _ in range(3)]
        await asyncio.sleep(0)
        callers[0].cancel()
        assert await asyncio.gather(*callers[1:]) == ["charged a"] * 2
        assert ran == ["a"]
        await asyncio.wait(callers)


async def test_one_declined_card_in_a_group_of_fifty_leaves_one_rejected_and_49_done() -> None:
    @irreversible("card.charge", key=lambda number: number, rejected=[DeclinedError])
    async def charge(number: int) -> int:
        await steps(1 + number % 7)
        if number == 13:
            raise DeclinedError
        await steps(10)
        return number

    async with running() as runtime:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(charge(number))
        assert caught.group_contains(DeclinedError)
        assert Counter(states(runtime)) == {"done": 49, "rejected": 1}


def test_asyncio_timeout_around_a_call_raises_timeout_after_the_outcome() -> None:
    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> str:
        await asyncio.sleep(10)
        return key

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await charge("a")
            assert asyncio.get_running_loop().time() == 10
            assert states(runtime) == ["done"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(charge("b"), 1)
            assert states(runtime) == ["done", "done"]

    run_virtual(main())


async def test_a_body_that_cancels_itself_is_unknown_and_cancels_nobody() -> None:
    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> None:
        raise asyncio.CancelledError

    async with running() as runtime:
        with pytest.raises(OutcomeUnknownError, match="cancelled while it ran"):
            await charge("a")
        assert states(runtime) == ["unknown"]


async def test_a_closed_caller_does_not_wait() -> None:
    async with running() as runtime:
        charge, go, _ = held_charge()
        caller = charge("a")
        caller.send(None)
        caller.close()
        go.set()
        await steps(10)
        assert states(runtime) == ["done"]


# ------------------------------------------------------------------ outcomes


async def test_the_error_of_the_body_comes_out_unchanged() -> None:
    mistake, cause, context = ValueError("no"), KeyError("cause"), TypeError("context")

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> None:
        try:
            raise context
        except TypeError:
            if key == "cause":
                raise mistake from cause
            raise mistake  # noqa: B904 - the implicit chain is what is looked at

    async with running() as runtime:
        with pytest.raises(ValueError, match="no") as caught:
            await charge("context")
        assert caught.value is mistake
        assert caught.value.__context__ is context
        assert not caught.value.__suppress_context__
        assert any("UNKNOWN" in note for note in caught.value.__notes__)
        with pytest.raises(ValueError, match="no") as caught:
            await charge("cause")
        assert caught.value.__cause__ is cause
        with pytest.raises(OutcomeUnknownError, match="ValueError: no"):
            await charge("context")
        assert states(runtime) == ["unknown", "unknown"]


async def test_an_error_that_cannot_say_what_it_is_leaves_an_outcome_too() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> None:
        raise MuteError

    async with running() as runtime:
        with pytest.raises(MuteError):
            await charge("a")
        assert states(runtime) == ["unknown"]
        assert runtime.ledger.get_records()[0].error == "MuteError"


async def test_not_delivered_keeps_the_provider_key_and_rejected_changes_it() -> None:
    keys: list[str] = []
    failures: list[Exception] = [UnreachableError(), UnreachableError(), DeclinedError(), UnreachableError()]

    @irreversible("card.charge", key=lambda key: key, rejected=DeclinedError, not_delivered=UnreachableError)
    async def charge(key: str, *, idempotency_key: str = FILLED_IN) -> str:
        keys.append(idempotency_key)
        if failures:
            raise failures.pop(0)
        return "paid"

    async with running() as runtime:
        for kind in (UnreachableError, UnreachableError, DeclinedError, UnreachableError):
            with pytest.raises(kind):
                await charge("a")
        assert await charge("a") == "paid"
        assert await charge("a") == "paid"
        record = runtime.ledger.get_records()[0]
    assert keys == [keys[0]] * 3 + [keys[3]] * 2
    assert keys[0] != keys[3]
    assert (record.generation, record.attempts, record.state) == (2, 5, ActionState.DONE)
    assert keys[0] == provider_key(record.identity, 1)


async def test_rejections_are_capped() -> None:
    @irreversible("card.charge", key=lambda key: key, rejected=[DeclinedError])
    async def charge(key: str) -> None:
        raise DeclinedError

    async with running(ledger_settings=LedgerSettings(max_generations=2)) as runtime:
        for _ in range(2):
            with pytest.raises(DeclinedError):
                await charge("a")
        with pytest.raises(ActionStateError, match="generation 3"):
            await charge("a")
        assert states(runtime) == ["rejected"]


async def test_a_full_ledger_refuses_and_runs_nothing() -> None:
    async with running(ledger_settings=LedgerSettings(max_rows=1)) as runtime:
        charge, go, ran = held_charge()
        go.set()
        await charge("a")
        with pytest.raises(LedgerFullError):
            await charge("b")
        assert await charge("a") == "charged a"
        assert ran == ["a"]
        assert states(runtime) == ["done"]


async def test_the_same_key_with_other_facts_is_refused_in_flight_and_afterwards() -> None:
    go = asyncio.Event()

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str, amount: int) -> int:
        await go.wait()
        return amount

    async with running():
        first = asyncio.create_task(charge("a", 10))
        await steps()
        with pytest.raises(IdempotencyConflictError, match=r"amount=10.*amount=90"):
            await charge("a", 90)
        go.set()
        assert await first == 10
        with pytest.raises(IdempotencyConflictError):
            await charge("a", 90)
        assert await charge("a", 10) == 10


async def test_calls_without_a_key_all_run() -> None:
    ran: list[str] = []

    @irreversible("mail.send")
    async def send(to: str) -> None:
        ran.append(to)

    async with running() as runtime:
        await asyncio.gather(*(send("ada") for _ in range(3)))
        assert len({record.identity for record in runtime.ledger.get_records()}) == 3
    assert ran == ["ada"] * 3


async def test_facts_that_changed_while_the_call_waited_are_refused() -> None:
    @dataclasses.dataclass
    class Invoice:
        id: str
        total: int

    ran: list[int] = []

    @irreversible("card.charge", key=lambda invoice: invoice.id)
    async def charge(invoice: Invoice) -> None:
        ran.append(invoice.total)

    async with running() as runtime:
        invoice = Invoice("inv-1", 10)
        caller = asyncio.create_task(charge(invoice))
        await asyncio.sleep(0)
        invoice.total = 9000
        with pytest.raises(IdempotencyConflictError, match=r"total=10.*total=9000"):
            await caller
        assert ran == []
        assert states(runtime) == [], "a call that did not start leaves no row"
        invoice.total = 10
        await charge(invoice)
        assert ran == [10]


async def test_every_outcome_is_one_event() -> None:
    @irreversible("card.charge", key=lambda key: key, rejected=[DeclinedError], not_delivered=[UnreachableError])
    async def charge(key: str, error: str) -> None:
        if (kind := OUTCOMES[error]) is not None:
            raise kind

    async with running() as runtime:
        for key, error in enumerate(OUTCOMES):
            with pytest.raises(OUTCOMES[error] or ZeroDivisionError):
                await charge(str(key), error)
                raise ZeroDivisionError
        events = [(e.name, e.level.value, e.fields["key"]) for e in runtime.journal.get_events()]
    assert events == [
        ("action.done", "info", "0"),
        ("action.rejected", "warning", "1"),
        ("action.not_delivered", "warning", "2"),
        ("action.unknown", "error", "3"),
    ]


async def test_one_correlation_id_per_call_unless_the_caller_has_one() -> None:
    seen: list[str | None] = []

    @irreversible("mail.send")
    async def send() -> None:
        seen.append(get_correlation_id())

    async with running() as runtime:
        await send()
        await send()
        assert get_correlation_id() is None
        with correlation("req-1"):
            await send()
        assert [record.correlation_id for record in runtime.ledger.get_records()] == seen
    assert seen[2] == "req-1"
    assert len({*seen, None}) == 4


# ------------------------------------------------------------------ the provider's key


async def test_a_key_given_by_the_caller_reaches_body_and_verify() -> None:
    seen: list[str] = []

    @irreversible(
        "card.charge",
        key=lambda key: key,
        verify=lambda idempotency_key: seen.append(f"verify {idempotency_key}") or True,
    )
    async def charge(key: str, idempotency_key: str | None = None) -> None:
        seen.append(f"body {idempotency_key}")
        raise ValueError("lost")

    async with running() as runtime:
        for given_key in ("mine", None):
            with pytest.raises(ValueError, match="lost"):
                await charge(str(given_key), idempotency_key=given_key)
            await charge(str(given_key), idempotency_key=given_key)
        ours = provider_key(runtime.ledger.get_row("card.charge", "None").call.identity, 1)
    assert seen == ["body mine", "verify mine", f"body {ours}", f"verify {ours}"]


# ------------------------------------------------------------------ unknown outcomes


@pytest.mark.parametrize(("found", "result"), [(True, None), ("ch_1", "ch_1")])
async def test_verify_that_finds_the_call_settles_it(found: object, result: object) -> None:
    ran = 0

    async def find(key: str) -> object:
        return found

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> str:
        nonlocal ran
        ran += 1
        raise TimeoutError("reply lost")

    async with running() as runtime:
        with pytest.raises(TimeoutError, match="reply lost"):
            await charge("a")
        assert await charge("a") == result
        assert await charge("a") == result
        assert states(runtime) == ["done"]
        assert [e.name for e in runtime.journal.get_events()] == ["action.unknown", "action.verified"]
    assert ran == 1


@pytest.mark.parametrize("found", [None, False])
async def test_verify_that_finds_nothing_proves_nothing_while_the_process_lives(found: object) -> None:
    @irreversible("card.charge", key=lambda key: key, verify=lambda key: found)
    async def charge(key: str) -> str:
        raise TimeoutError("reply lost")

    async with running() as runtime:
        with pytest.raises(TimeoutError, match="reply lost"):
            await charge("a")
        with pytest.raises(OutcomeUnknownError, match="may still arrive"):
            await charge("a")
        assert states(runtime) == ["unknown"]


async def test_verify_that_raises_leaves_the_outcome_unknown() -> None:
    async def find() -> bool:
        raise ConnectionError("provider away")

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> str:
        raise TimeoutError("reply lost")

    async with running() as runtime:
        with pytest.raises(TimeoutError, match="reply lost"):
            await charge("a")
        with pytest.raises(ConnectionError):
            await charge("a")
        assert states(runtime) == ["unknown"]


@pytest.mark.parametrize("happened", [True, False])
async def test_a_person_settles_an_unknown_outcome(happened: bool) -> None:
    keys: list[str] = []

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str, *, idempotency_key: str = FILLED_IN) -> str:
        keys.append(idempotency_key)
        if len(keys) == 1:
            raise TimeoutError("reply lost")
        return "second"

    async with running() as runtime:
        with pytest.raises(TimeoutError, match="reply lost"):
            await charge("a")
        await runtime.ledger.resolve(runtime.ledger.get_row("card.charge", "a"), happened=happened, result="by hand")
        assert await charge("a") == ("by hand" if happened else "second")
    assert len(keys) == (1 if happened else 2)
    assert len(set(keys)) == 1


async def test_a_person_who_answers_while_verify_asks_is_heard() -> None:
    answer = asyncio.Event()

    async def find(key: str) -> None:
        await answer.wait()

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> str:
        raise TimeoutError("reply lost")

    async with running() as runtime:
        with pytest.raises(TimeoutError, match="reply lost"):
            await charge("a")
        caller = asyncio.create_task(charge("a"))
        await steps()
        await runtime.ledger.resolve(runtime.ledger.get_row("card.charge", "a"), happened=True, result="by hand")
        answer.set()
        assert await caller == "by hand"


# ------------------------------------------------------------------ time


def test_an_attempt_that_takes_too_long_is_unknown_and_cancelled() -> None:
    ended: list[str] = []

    @irreversible("card.charge", key=lambda key: key, attempt_timeout_seconds=5)
    async def charge(key: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(key)
            raise

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(OutcomeUnknownError, match="no answer within 5 s"):
                await charge("a")
            assert asyncio.get_running_loop().time() == 5
            await steps()
            assert ended == ["a"]
            assert states(runtime) == ["unknown"]
            assert runtime.in_flight == 0

    run_virtual(main())


def test_a_quick_attempt_is_not_touched_by_its_timeout() -> None:
    @irreversible("card.charge", key=lambda key: key, attempt_timeout_seconds=5, rejected=[DeclinedError])
    async def charge(key: str) -> str:
        await asyncio.sleep(1)
        if key == "b":
            raise DeclinedError
        return key

    async def main() -> None:
        async with running() as runtime:
            assert await charge("a") == "a"
            with pytest.raises(DeclinedError):
                await charge("b")
            assert states(runtime) == ["done", "rejected"]

    run_virtual(main())


def test_a_late_result_settles_an_unknown_outcome() -> None:
    @irreversible("card.charge", key=lambda key: key, attempt_timeout_seconds=5)
    async def charge(key: str) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(3)
        if key == "b":
            raise ValueError(key)
        return "late"

    async def main() -> None:
        async with running() as runtime:
            outcomes = await asyncio.gather(charge("a"), charge("b"), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 2
            assert runtime.in_flight == 2
            with pytest.raises(OutcomeUnknownError, match="no answer"):
                await charge("a")
            await asyncio.sleep(10)
            assert await charge("a") == "late"
            assert states(runtime) == ["done", "unknown"]
            assert runtime.journal.get_events("action.done_late")[0].fields["key"] == "a"

    run_virtual(main())


async def test_a_thread_that_was_given_up_counts_as_running_and_its_result_counts() -> None:
    go, ran = threading.Event(), []

    @irreversible("card.charge", key=lambda key: key, attempt_timeout_seconds=0.02)
    def charge(key: str) -> str:
        ran.append(key)
        go.wait(5)
        return "from the thread"

    async with running() as runtime:
        with pytest.raises(OutcomeUnknownError, match=r"no answer within 0\.02 s"):
            await charge("a")
        assert runtime.in_flight == 1
        with pytest.raises(OutcomeUnknownError):
            await charge("a")
        with pytest.raises(ActionStateError, match="while its body runs"):
            await runtime.ledger.resolve(runtime.ledger.get_row("card.charge", "a"), happened=False)
        go.set()
        await runtime.drain(5)
        assert await charge("a") == "from the thread"
        assert ran == ["a"]
        assert states(runtime) == ["done"]


def test_a_call_that_lost_its_deadline_while_waiting_does_not_start() -> None:
    ran: list[str] = []

    async def find(key: str) -> bool:
        await asyncio.sleep(10)
        return False

    @irreversible("card.charge", key=lambda key: key, deadline_seconds=5)
    async def charge(key: str) -> None:
        ran.append(key)

    async def main() -> None:
        async with running() as runtime:
            with CallScope(runtime.clock, 0), pytest.raises(DeadlineExceededError, match="it was not run"):
                await charge("a")
            assert ran == []
            assert states(runtime) == []
            await charge("a")
            assert ran == ["a"]

    run_virtual(main())


@pytest.mark.parametrize(("own", "outer", "expected"), [(5, 60, 5), (60, 5, 5), (None, 7, 7), (9, None, 9)])
def test_the_nearest_of_nested_deadlines_ends_the_attempt(
    own: float | None, outer: float | None, expected: float
) -> None:
    @irreversible("card.charge", key=lambda key: key, deadline_seconds=own, attempt_timeout_seconds=50)
    async def charge(key: str) -> None:
        await asyncio.sleep(100)

    async def main() -> None:
        async with running() as runtime:
            with CallScope(runtime.clock, outer), pytest.raises(OutcomeUnknownError):
                await charge("a")
            assert asyncio.get_running_loop().time() == expected

    run_virtual(main())


# ------------------------------------------------------------------ nesting and reads


async def test_an_action_inside_an_action_is_refused_and_a_read_is_not() -> None:
    @irreversible("mail.send")
    async def send() -> None:
        raise AssertionError("not to be run")

    @read_only("fx.rate")
    async def rate() -> int:
        return 2

    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> int:
        if key == "nested":
            await asyncio.create_task(send())
        return await rate()

    async with running() as runtime:
        assert await charge("plain") == 2
        with pytest.raises(NestedActionError, match=r"'mail.send'.*card.charge\[nested\]"):
            await charge("nested")
        assert states(runtime) == ["done", "unknown"]
        assert runtime.reads == {"fx.rate": 1}


async def test_an_action_inside_a_read_is_refused() -> None:
    @irreversible("mail.send")
    async def send() -> None:
        raise AssertionError("not to be run")

    @read_only("fx.rate")
    async def rate() -> None:
        await send()

    async with running(), running(make_runtime(name="other")) as other:
        with pytest.raises(NestedActionError):
            await rate()
        assert other.reads == {"fx.rate": 1}


async def test_a_read_is_cancelled_at_once_and_its_calls_are_independent() -> None:
    started = 0

    @read_only("fx.rate")
    async def rate() -> None:
        nonlocal started
        started += 1
        await asyncio.Event().wait()

    async with running() as runtime:
        readers = [asyncio.create_task(rate()) for _ in range(2)]
        await steps(2)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        assert all(reader.cancelled() for reader in readers)
        assert started == 2
        assert len(runtime.ledger) == 0


async def test_a_read_refuses_what_is_known_only_after_apply() -> None:
    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> str:
        raise AssertionError("a dry run")

    @read_only("card.status")
    async def status(charge_id: str, *, options: object = None) -> str:
        return "ok"

    async with running(dry_run=True):
        charge_id = await charge("a")
        assert await status("ch_1") == "ok"
        for bad in (charge_id, f"/charges/{charge_id}"):
            with pytest.raises(KnownAfterApplyError, match=r"card.charge\[a\].*card.status.*test_pipeline.py"):
                await status(bad)
        with pytest.raises(KnownAfterApplyError):
            await status("x", options={"deep": [("er", charge_id)]})


# ------------------------------------------------------------------ shutdown


def test_drain_lets_calls_end_and_ends_those_that_take_too_long() -> None:
    @irreversible("card.charge", key=lambda seconds: seconds)
    async def charge(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    async def main() -> None:
        runtime = make_runtime()
        async with running(runtime):
            callers = [asyncio.create_task(charge(seconds)) for seconds in (5, 500, 5, 500)]
            await steps()
            await runtime.drain(30)
            assert asyncio.get_running_loop().time() == 30
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [outcomes[0], outcomes[2]] == [5, 5]
            assert isinstance(outcomes[1], OutcomeUnknownError)
            assert isinstance(outcomes[3], OutcomeUnknownError)
            assert states(runtime) == ["done", "unknown"]

    run_virtual(main())


@pytest.mark.parametrize("declared", [{}, {"attempt_timeout_seconds": 1000}])
def test_drain_without_time_records_what_it_ends(declared: dict[str, Any]) -> None:
    @irreversible("card.charge", key=lambda key: key, **declared)
    async def charge(key: str) -> None:
        await asyncio.sleep(500)

    async def main() -> None:
        async with running() as runtime:
            caller = asyncio.create_task(charge("a"))
            await steps()
            await runtime.drain(0)
            assert states(runtime) == ["unknown"]
            await steps()
            assert runtime.in_flight == 0
            with pytest.raises(OutcomeUnknownError):
                await caller

    run_virtual(main())


def test_drain_starts_nothing_new_for_those_who_wait() -> None:
    ran: list[str] = []

    async def find(key: str) -> bool:
        await asyncio.sleep(500)
        return False

    @irreversible("card.charge", key=lambda key: key, verify=find)
    async def charge(key: str) -> None:
        ran.append(key)
        raise ValueError(key)

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(ValueError, match="a"):
                await charge("a")
            callers = [asyncio.create_task(charge("a")) for _ in range(3)]
            await steps()
            await runtime.drain(1)
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NoSandboxError] * 3
            assert ran == ["a"]
            assert states(runtime) == ["unknown"]

    run_virtual(main())


def test_a_late_result_counts_even_after_the_drain() -> None:
    @irreversible("card.charge", key=lambda key: key, attempt_timeout_seconds=1)
    async def charge(key: str) -> str:
        try:
            await asyncio.sleep(500)
        except asyncio.CancelledError:
            await asyncio.sleep(50)
        return "at last"

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(OutcomeUnknownError):
                await charge("a")
            await runtime.drain(1)
            assert states(runtime) == ["unknown"]
            await asyncio.sleep(100)
            assert states(runtime) == ["done"]
            assert runtime.in_flight == 0

    run_virtual(main())


def test_drain_gives_up_on_a_body_that_will_not_end() -> None:
    async def main() -> None:
        go = asyncio.Event()

        @irreversible("card.charge", key=lambda key: key)
        async def charge(key: str) -> str:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            return "at last"

        async with running() as runtime:
            caller = asyncio.create_task(charge("a"))
            await steps()
            await runtime.drain(2)
            assert asyncio.get_running_loop().time() == 4
            assert runtime.in_flight == 1
            go.set()
            assert await caller == "at last"

    run_virtual(main())


# ------------------------------------------------------------------ cost


async def count_callbacks(make: Callable[[], Awaitable[Any]]) -> int:
    """Return how many callbacks the loop was given until an awaitable ended."""
    loop = asyncio.get_running_loop()
    count, original = 0, loop.call_soon

    def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    loop.call_soon = counting  # type: ignore[method-assign]
    try:
        await make()
    finally:
        del loop.call_soon
    return count


async def test_a_live_call_costs_few_steps_of_the_loop_and_a_held_back_one_none() -> None:
    @irreversible("card.charge", key=lambda key: key)
    async def charge(key: str) -> None: ...

    # Counted at call_soon in pure Python: task starts and wake-ups made in C are not seen, in either direction.
    async with running():
        assert await count_callbacks(lambda: charge("a")) <= 4
        assert await count_callbacks(lambda: charge("a")) <= 4
    async with running(dry_run=True):
        assert await count_callbacks(lambda: charge("a")) == 0
