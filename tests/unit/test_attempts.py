"""The attempts of one call: another only where it does no harm, a permit for each, and an honest outcome."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import make_runtime, must_catch, running, states
from virtual_time import run_virtual

from asyncsandbox import irreversible
from asyncsandbox._core import attempts
from asyncsandbox._core.context import CallScope
from asyncsandbox._core.planned import FILLED_IN
from asyncsandbox._core.runtime import Run, Runtime
from asyncsandbox.components.retry import RetryBackoffManager, RetrySettings, get_attempts
from asyncsandbox.errors import (
    BreakerOpenError,
    DeadlineExceededError,
    IdempotencyConflictError,
    LimitExceededError,
    NoSandboxError,
    OutcomeUnknownError,
)


class DeclinedError(Exception):
    """The provider says no."""


class UnreachableError(Exception):
    """The provider never got the call."""


# ------------------------------------------------------------------ permits that are counted


@dataclass
class Ticket:
    """A permit of `Office`."""

    office: "Office"
    waited_seconds: float
    ended: bool = False

    def release(self) -> None:
        if not self.ended:
            self.ended = True
            self.office.released += 1

    def give_back(self) -> None:
        if not self.ended:
            self.ended = True
            self.office.given_back += 1


@dataclass
class Office:
    """Gives a permit after a wait, or none."""

    waits: float = 0.0
    refuses_after: int = 1_000
    asked: list[tuple[str, Hashable, float | None]] = field(default_factory=list)
    given: int = 0
    released: int = 0
    given_back: int = 0

    def has_limit(self, resource: str) -> bool:
        return resource == "card"

    async def acquire(
        self, resource: str, *, per: Hashable = None, cost: int = 1, until: float | None = None
    ) -> Ticket:
        self.asked.append((resource, per, until))
        if self.given >= self.refuses_after:
            raise LimitExceededError(resource, "no more")
        if self.waits:
            await asyncio.sleep(self.waits)
        self.given += 1
        return Ticket(self, self.waits)

    def note_wanted(self, resource: str, *, per: Hashable = None, cost: int = 1) -> None:
        raise NotImplementedError

    def get_wanted(self) -> Mapping[tuple[str, Hashable], int]:
        raise NotImplementedError

    def forecast_seconds(self, wanted: Mapping[tuple[str, Hashable], int]) -> float:
        raise NotImplementedError


# ------------------------------------------------------------------ the property

ANSWERS = ["returned", "declined", "unreachable", "lost before", "lost after", "too late", "stubborn"]


@dataclass(frozen=True)
class Case:
    """One call and all that happens to it."""

    answers: tuple[str, ...]
    forwards_key: bool
    max_retries: int
    cancelled_after: float | None
    permit_waits: float
    refuses_after: int


CASES = st.builds(
    Case,
    answers=st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3).map(tuple),
    forwards_key=st.booleans(),
    max_retries=st.sampled_from([2, 1, 4, 0]),
    cancelled_after=st.none() | st.floats(0, 20),
    permit_waits=st.sampled_from([0.0, 0.5]),
    refuses_after=st.sampled_from([1_000, 0, 1, 2]),
)


class Provider:
    """Does what it is asked once per key where it gets one, and answers as the case says."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.effects: Counter[str] = Counter()
        self.known: set[str] = set()
        self.begun: list[float] = []
        self.heard: list[str] = []
        self.active = 0

    async def ask(self, key: str) -> str:
        assert not self.active, "two attempts of one call at the same time"
        answer = self.case.answers[min(len(self.begun), len(self.case.answers) - 1)]
        self.begun.append(asyncio.get_running_loop().time())
        self.active += 1
        try:
            return await self._answer(answer, key)
        except BaseException:
            self.heard.append(answer)
            raise
        finally:
            self.active -= 1

    async def _answer(self, answer: str, key: str) -> str:
        await asyncio.sleep(1)
        if answer == "unreachable":
            raise UnreachableError
        if answer == "lost before":
            raise ValueError("no reply")
        if answer == "declined":
            raise DeclinedError
        if not (self.case.forwards_key and key in self.known):
            self.effects[key] += 1
            self.known.add(key)
        if answer == "lost after":
            raise ValueError("no reply")
        if answer == "too late":
            await asyncio.sleep(60)
        if answer == "stubborn":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)
                raise
        self.heard.append("returned")
        return f"done for {key}"


async def carry_out(case: Case) -> None:
    provider, office = Provider(case), Office(case.permit_waits, case.refuses_after)
    declared: dict[str, Any] = {
        "key": lambda order: order,
        "rejected": (DeclinedError,),
        "not_delivered": (UnreachableError,),
        "limit": "card",
        "retry": RetrySettings(max_retries=case.max_retries, backoff_base_seconds=1, backoff_cap_seconds=4),
        "attempt_timeout_seconds": 5,
    }

    @irreversible("card.charge", **declared)
    async def with_key(order: str, *, idempotency_key: str = FILLED_IN) -> str:
        return await provider.ask(idempotency_key)

    @irreversible("card.charge", **declared)
    async def without_key(order: str) -> str:
        return await provider.ask("-")

    charge = with_key if case.forwards_key else without_key
    left = float("inf")
    async with running(permits=office, retry=RetryBackoffManager()) as runtime:
        caller = asyncio.create_task(charge("o-1"))
        if case.cancelled_after is not None:
            await asyncio.wait((caller,), timeout=case.cancelled_after)
            left = asyncio.get_running_loop().time()
            caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        state = (states(runtime) or ["no row"])[0]
        record = runtime.ledger.get_records()
        await asyncio.sleep(300)  # what was given up may end, and nothing may start any more
        judge(case, provider, office, state)
        assert not [begun for begun in provider.begun if begun > left], "a cancelled call starts no attempt"
        if record:
            assert record[0].attempts == len(provider.begun)
            assert record[0].permit_seconds == pytest.approx(case.permit_waits * office.given)


def judge(case: Case, provider: Provider, office: Office, state: str) -> None:
    heard, begun = provider.heard, len(provider.begun)
    assert begun <= case.max_retries + 1
    assert all(count == 1 for count in provider.effects.values()), "it happened twice"
    for answer in heard[:-1]:
        assert answer == "unreachable" or case.forwards_key, f"repeated after {answer!r}"
        assert answer not in {"declined", "returned", "stubborn"}, f"repeated after {answer!r}"
    assert office.released + office.given_back == office.given, "a permit that nobody gave back"
    assert office.released == begun, "one permit for each attempt"
    assert state == honest(heard, begun)


def honest(heard: list[str], begun: int) -> str:
    if not begun:
        return "no row"
    if "returned" in heard:
        return "done"
    if "declined" in heard:
        return "rejected"
    return "approved" if set(heard) == {"unreachable"} else "unknown"


@given(CASES)
def test_attempts_follow_each_other_only_where_that_does_no_harm(case: Case) -> None:
    run_virtual(carry_out(case))


def always_retry(run: Run, error: Exception) -> bool:
    return True


def without_looking_at_callers(run: Run, error: Exception) -> bool:
    run.flight.abandoned = False
    return right_may_retry(run, error)


right_may_retry = attempts._may_retry


async def outcome_of_the_last(run: Run) -> Any:
    run.outcome = attempts.ActionEvent.NOT_DELIVERED
    return await right_attempt(run)


right_attempt = attempts._attempt


def keep_permit(run: Run) -> None:
    run.permit = None


async def busy_waits(run: Run, seconds: float, error: Exception) -> None:
    await run.runtime.clock.sleep(seconds)
    await attempts._take_permit(run, "card")
    await run.runtime.ledger.restart(run.row, run.fence)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_may_retry", always_retry),
        ("_may_retry", without_looking_at_callers),
        ("_attempt", outcome_of_the_last),
        ("_wait_for_next", busy_waits),
    ],
)
def test_the_property_catches(monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., Any]) -> None:
    monkeypatch.setattr(attempts, name, broken)
    must_catch(lambda case: run_virtual(carry_out(case)), CASES, examples=2_000)


# ------------------------------------------------------------------ one thing at a time


def charging(answers: list[Any], **declared: Any) -> tuple[Callable[..., Any], list[str]]:
    """Return an action that raises or returns one answer after the other, and the provider keys it was given."""
    keys: list[str] = []

    @irreversible("card.charge", key=lambda order: order, **declared)
    async def charge(order: str, *, idempotency_key: str = FILLED_IN) -> Any:
        keys.append(idempotency_key)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return charge, keys


def with_retry(**fields: Any) -> Runtime:
    return make_runtime(retry=RetryBackoffManager(), **fields)


def test_a_retry_sends_the_same_provider_key_and_the_record_tells_of_it() -> None:
    charge, keys = charging([ValueError("one"), ValueError("two"), "paid"], retry=RetrySettings(max_retries=2))

    async def main() -> None:
        async with running(with_retry()) as runtime:
            assert await charge("o-1") == "paid"
            (record,) = runtime.ledger.get_records()
            assert len(set(keys)) == 1
            assert (record.state.value, record.attempts, record.error) == ("done", 3, None)
            assert [attempt.error for attempt in record.history] == ["ValueError: one", "ValueError: two"]
            assert [attempt.number for attempt in record.history] == [1, 2]

    run_virtual(main())


def test_the_error_of_the_last_attempt_comes_out_with_the_history() -> None:
    last = ValueError("three")
    charge, _ = charging([ValueError("one"), ValueError("two"), last], retry=RetrySettings(max_retries=2))

    async def main() -> None:
        async with running(with_retry()) as runtime:
            with pytest.raises(ValueError, match="three") as raised:
                await charge("o-1")
            assert raised.value is last
            assert [attempt.error for attempt in get_attempts(last)] == [
                f"ValueError: {n}" for n in ("one", "two", "three")
            ]
            assert any("UNKNOWN" in note for note in last.__notes__)
            assert states(runtime) == ["unknown"]
            assert len(runtime.ledger.get_records()[0].history) == 3

    run_virtual(main())


def test_an_attempt_that_timed_out_is_followed_by_another_once_it_has_ended() -> None:
    began: list[float] = []

    @irreversible(
        "card.charge",
        key=lambda order: order,
        retry=RetrySettings(max_retries=1, backoff_base_seconds=0.001, attempt_timeout_seconds=5),
    )
    async def charge(order: str, *, idempotency_key: str = FILLED_IN) -> str:
        began.append(asyncio.get_running_loop().time())
        if len(began) == 1:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(2)
        return "paid"

    async def main() -> None:
        async with running(with_retry()):
            assert await charge("o-1") == "paid"
            assert began[1] == pytest.approx(7, abs=0.01)

    run_virtual(main())


def test_an_answer_given_while_being_cancelled_counts() -> None:
    @irreversible("card.charge", key=lambda order: order, retry=RetrySettings(), attempt_timeout_seconds=5)
    async def charge(order: str, *, idempotency_key: str = FILLED_IN) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "paid at the last moment"
        raise AssertionError

    async def main() -> None:
        async with running(with_retry()) as runtime:
            assert await charge("o-1") == "paid at the last moment"
            assert states(runtime) == ["done"]

    run_virtual(main())


def test_a_body_that_cancels_itself_in_time_is_unknown_and_not_taken_for_late() -> None:
    @irreversible("card.charge", key=lambda order: order, retry=RetrySettings(), attempt_timeout_seconds=5)
    async def charge(order: str, *, idempotency_key: str = FILLED_IN) -> str:
        raise asyncio.CancelledError

    async def main() -> None:
        async with running(with_retry()) as runtime:
            with pytest.raises(OutcomeUnknownError, match="cancelled while it ran"):
                await charge("o-1")
            assert (states(runtime), runtime.late) == (["unknown"], set())

    run_virtual(main())


def test_nothing_follows_a_thread_that_timed_out() -> None:
    ran: list[str] = []

    @irreversible("card.charge", key=lambda order: order, retry=RetrySettings(), attempt_timeout_seconds=0.01)
    def charge(order: str, *, idempotency_key: str = FILLED_IN) -> str:
        ran.append(order)
        release.wait(5)
        return "paid"

    import threading

    release = threading.Event()

    async def main() -> None:
        async with running(with_retry(permits=(office := Office())), drain_seconds=5) as runtime:
            with pytest.raises(OutcomeUnknownError, match=r"no answer within 0.01 s"):
                await charge("o-1")
            assert office.released == 0
            release.set()
            await runtime.drain(5)
            assert states(runtime) == ["done"], "its late result counts"
        assert ran == ["o-1"]

    asyncio.run(main())


def test_a_breaker_that_is_open_leaves_no_row_and_a_denial_frees_its_probe() -> None:
    from asyncsandbox.components.retry import BreakerSettings

    rules = RetrySettings(max_retries=0, breaker=BreakerSettings(failures=1, open_seconds=10, probes=1))
    charge, keys = charging([ValueError("down"), "paid"], retry=rules, limit="card")

    async def main() -> None:
        office = Office()
        async with running(with_retry(permits=office)) as runtime:
            with pytest.raises(ValueError, match="down"):
                await charge("o-1")
            with pytest.raises(BreakerOpenError):
                await charge("o-2")
            assert [record.key for record in runtime.ledger.get_records()] == ["o-1"]
            await asyncio.sleep(10)
            office.refuses_after = 0
            with pytest.raises(LimitExceededError):
                await charge("o-3")
            office.refuses_after = 1_000
            assert await charge("o-4") == "paid", "the probe that was denied a permit is free again"
            assert [record.key for record in runtime.ledger.get_records()] == ["o-1", "o-4"]
        assert len(keys) == 2

    run_virtual(main())


def test_a_rejection_is_an_answer_and_opens_no_breaker() -> None:
    from asyncsandbox.components.retry import BreakerSettings

    rules = RetrySettings(max_retries=3, breaker=BreakerSettings(failures=1, open_seconds=10))
    charge, keys = charging([DeclinedError(), DeclinedError(), "paid"], retry=rules, rejected=(DeclinedError,))

    async def main() -> None:
        async with running(with_retry()):
            for _ in range(2):
                with pytest.raises(DeclinedError):
                    await charge("o-1")
            assert await charge("o-1") == "paid"
        assert len(set(keys)) == 3, "each generation has a key of its own"

    run_virtual(main())


def test_a_limit_without_a_governor_is_refused_with_the_remedy() -> None:
    charge, _ = charging(["paid"], limit="card")

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(LimitExceededError, match="no governor"):
                await charge("o-1")
            assert states(runtime) == []

    run_virtual(main())


def test_whose_permit_it_is_and_until_when_it_is_of_use() -> None:
    charge, _ = charging(["paid"], limit="card", limit_per=lambda order: order[0], deadline_seconds=7)

    async def main() -> None:
        office = Office()
        async with running(permits=office):
            await charge("o-1")
        assert office.asked == [("card", "o", 7.0)]

    run_virtual(main())


def test_a_deadline_that_passes_while_a_permit_is_waited_for_starts_nothing() -> None:
    charge, keys = charging(["paid"], limit="card")

    async def main() -> None:
        office = Office(waits=5)
        async with running(permits=office) as runtime:
            with CallScope(runtime.clock, 3), pytest.raises(DeadlineExceededError):
                await charge("o-1")
            assert (office.given_back, states(runtime), keys) == (1, [], [])

    run_virtual(main())


def test_facts_that_change_between_two_attempts_are_not_sent() -> None:
    @dataclass
    class Order:
        id: str
        total: int

    sent: list[int] = []

    @irreversible("card.charge", key=lambda order: order.id, retry=RetrySettings(backoff_base_seconds=2), limit="card")
    async def charge(order: Order, *, idempotency_key: str = FILLED_IN) -> None:
        sent.append(order.total)
        order.total = 9_000
        raise ValueError("no reply")

    async def main() -> None:
        office = Office()
        async with running(with_retry(permits=office)) as runtime:
            with pytest.raises(IdempotencyConflictError, match=r"total=10.*total=9000"):
                await charge(Order("o-1", 10))
            assert (sent, states(runtime)) == ([10], ["unknown"])
            assert (office.released, office.given_back) == (1, 1)

    run_virtual(main())


def test_a_permit_that_is_kept_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_give_permit_back", keep_permit)
    for test in (
        test_facts_that_change_between_two_attempts_are_not_sent,
        test_a_deadline_that_passes_while_a_permit_is_waited_for_starts_nothing,
    ):
        with pytest.raises(AssertionError):
            test()


@pytest.mark.parametrize(("error", "state"), [(UnreachableError("down"), "approved"), (ValueError("lost"), "unknown")])
def test_a_stop_between_two_attempts_tells_the_caller_the_last_error(error: Exception, state: str) -> None:
    charge, keys = charging(
        [error, "paid"],
        not_delivered=(UnreachableError,),
        retry=RetrySettings(backoff_base_seconds=1_000, backoff_cap_seconds=1_000),
    )

    async def main() -> None:
        runtime = with_retry()
        async with running(runtime):
            caller = asyncio.create_task(charge("o-1"))
            await asyncio.sleep(0.01)
            await runtime.drain(0.01)
            with pytest.raises(type(error), match=str(error)):
                await caller
            assert states(runtime) == [state]
        assert len(keys) == 1

    run_virtual(main())


def test_a_stop_while_a_permit_is_waited_for_says_that_the_call_was_not_made() -> None:
    charge, keys = charging(["paid"], limit="card")

    async def main() -> None:
        runtime = make_runtime(permits=Office(waits=100))
        async with running(runtime):
            callers = [asyncio.create_task(charge("o-1")) for _ in range(3)]
            await asyncio.sleep(0)
            await runtime.drain(1)
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NoSandboxError] * 3
            assert (states(runtime), keys) == ([], [])

    run_virtual(main())


# ------------------------------------------------------------------ an UNKNOWN call is sent again


def test_an_unknown_call_is_sent_again_with_the_same_key_while_the_provider_remembers() -> None:
    charge, keys = charging([ValueError("lost"), "paid"], resend_within_seconds=60)

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(ValueError, match="lost"):
                await charge("o-1")
            assert await charge("o-1") == "paid"
            assert (len(set(keys)), states(runtime)) == (1, ["done"])

    run_virtual(main())


@pytest.mark.parametrize(("moved", "sent"), [(59, 2), (61, 1), (-1, 1)])
def test_after_that_and_where_the_clock_was_set_back_it_stays_unknown(moved: float, sent: int) -> None:
    charge, keys = charging([ValueError("lost"), "paid"], resend_within_seconds=60)

    async def main() -> None:
        async with running() as runtime:
            with pytest.raises(ValueError, match="lost"):
                await charge("o-1")
            (row,) = runtime.ledger
            from datetime import timedelta

            row.sent_at -= timedelta(seconds=moved)
            outcome = (await asyncio.gather(charge("o-1"), return_exceptions=True))[0]
            assert (len(keys), isinstance(outcome, OutcomeUnknownError)) == (sent, sent == 1)

    run_virtual(main())


def test_a_refused_resend_leaves_the_row_unknown() -> None:
    charge, keys = charging([ValueError("lost"), "paid"], resend_within_seconds=60, limit="card")

    async def main() -> None:
        office = Office(refuses_after=1)
        async with running(permits=office) as runtime:
            with pytest.raises(ValueError, match="lost"):
                await charge("o-1")
            with pytest.raises(LimitExceededError):
                await charge("o-1")
            assert (states(runtime), len(keys)) == (["unknown"], 1)

    run_virtual(main())


def test_verify_is_asked_first_and_settles_it_where_it_finds_the_call() -> None:
    found: list[Any] = [None, "receipt"]
    charge, keys = charging(
        [ValueError("lost"), ValueError("lost again"), "never"],
        resend_within_seconds=60,
        verify=lambda order: found.pop(0),
    )

    async def main() -> None:
        async with running():
            for said in ("lost", "lost again"):
                with pytest.raises(ValueError, match=said):
                    await charge("o-1")
            assert await charge("o-1") == "receipt"
        assert len(keys) == 2

    run_virtual(main())
