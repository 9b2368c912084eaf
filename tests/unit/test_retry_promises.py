"""What the retry manager promises, and that each promise's test catches a manager that breaks it."""

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from providers import (
    BACKOFF,
    BASE,
    CAP,
    EPOCH,
    FOREVER,
    WANTED,
    ClientResponseError,
    HttpStatusError,
    Provider,
    RetryAfterError,
    RetryAfterSecondsError,
    Step,
    UnwantedError,
    WantedError,
    make,
    outcome_of,
    swallow_a_cancellation,
)
from runtimes import must_catch
from virtual_time import run_virtual

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.component import Services
from asyncsandbox._core.context import get_deadline
from asyncsandbox._core.ports import Attempt
from asyncsandbox.components.retry import (
    BreakerSettings,
    delays,
    get_attempts,
)
from asyncsandbox.components.retry import call as call_module
from asyncsandbox.components.retry.breaker import Breaker, BreakerState
from asyncsandbox.components.retry.budget import Budget
from asyncsandbox.components.retry.call import Call
from asyncsandbox.components.retry.cancels import Cancels
from asyncsandbox.errors import (
    AttemptTimeoutError,
    BreakerOpenError,
)

SECONDS = st.integers(0, 16).map(lambda number: number / 4)
CHANCES = st.lists(st.integers(0, 7).map(lambda number: number / 8), min_size=1, max_size=4).map(tuple)
STEPS = st.lists(
    st.builds(
        Step,
        outcome=st.sampled_from(["wanted", "wanted", "wanted", "timeout", "unwanted", "ok"]),
        seconds=SECONDS,
        cleanup=st.sampled_from(["passes", "passes", "wanted", "timeout", "result"]),
    ),
    min_size=1,
    max_size=4,
).map(tuple)
# A limit that is never reached takes a call the other way through the code.
WAYS = st.sampled_from(
    [
        {},
        {"deadline_seconds": FOREVER},
        {"attempt_timeout_seconds": FOREVER},
        {"retry_on_result": lambda _result: False},
        {"breaker": BreakerSettings(failures=1000, of_calls=1000)},
    ]
)


# ------------------------------------------------------------------ R1: at most n + 1, and the own exception


R1 = st.tuples(STEPS, st.integers(0, 4), CHANCES, WAYS)


def make_at_most_so_many_calls(case: tuple[tuple[Step, ...], int, tuple[float, ...], dict[str, Any]]) -> None:
    """R1: n retries are at most n + 1 calls; the function's own error or result comes out, with its history."""
    steps, most, chances, way = case
    provider = Provider(steps)
    retry = make(chances=chances, max_retries=most, retry_on=WANTED, **way)
    came = run_virtual(outcome_of(retry.execute_with_retry(provider.call, "api")))

    wanted = [step.outcome in ("wanted", "timeout") for step in (*steps, *[steps[-1]] * most)]
    expected = min([number for number, again in enumerate(wanted, 1) if not again] + [most + 1])
    assert len(provider.began) == expected
    last = steps[min(expected, len(steps)) - 1]
    if last.outcome == "ok":
        assert came == "ok"
        failed = expected - 1
    else:
        assert came is provider.raised[-1]
        failed = expected
        assert get_attempts(came) == retry.get_retry_log("api")
        assert came.__traceback__.tb_next is not None
    check_history(retry.get_retry_log("api"), provider, failed, chances)


def check_history(history: tuple[Attempt, ...], provider: Provider, failed: int, chances: tuple[float, ...]) -> None:
    assert [attempt.number for attempt in history] == list(range(1, failed + 1))
    chance = itertools.cycle(chances)
    for number, attempt in enumerate(history):
        began, ended = provider.began[number], provider.ended[number]
        assert attempt.error == f"{type(provider.raised[number]).__name__}: {provider.raised[number]}"
        if attempt.duration_seconds is None:
            assert attempt.at == EPOCH + timedelta(seconds=ended)
            assert number == 0
        else:
            assert attempt.duration_seconds == ended - began
            assert attempt.at == EPOCH + timedelta(seconds=began)
        if number + 1 < len(provider.began):
            # R4 in passing: the wait is just the drawn part of the backoff.
            assert attempt.retry_in_seconds == next(chance) * min(CAP, BASE * 2**number)
            assert provider.began[number + 1] == ended + attempt.retry_in_seconds
        else:
            assert attempt.retry_in_seconds is None


def one_more(right: Callable[..., Any]) -> Callable[..., Any]:
    def _find_refusal(self: Call, retry_after: float) -> object:
        spare = self._history.pop() if len(self._history) == self._settings.max_retries > 0 else None
        refusal = right(self, retry_after)
        self._history += [spare] if spare else []
        return refusal

    return _find_refusal


def wraps_the_error(right: Callable[..., Any]) -> Callable[..., Any]:
    def fail(self: Call, error: Exception, **more: Any) -> float | None:
        wait = right(self, error, **more)
        if wait is None:
            raise RuntimeError("it failed") from error
        return wait

    return fail


def forgets(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_args: None


# ------------------------------------------------------------------ R2: a cancelled task starts nothing


CLINGING = st.lists(
    st.builds(
        Step,
        outcome=st.just("wanted"),
        seconds=st.sampled_from([0.0, 0.5]),
        cleanup=st.sampled_from(["wanted", "wanted", "result", "passes"]),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
# Since Python 3.13 a group that fails delivers an old cancellation once more, so the two do not go together.
R2 = st.one_of(
    st.tuples(CLINGING, st.integers(0, 2), WAYS, st.none()),
    st.tuples(CLINGING, st.just(0), WAYS, st.sampled_from([0.0, 0.25, 0.75])),
)


async def in_a_group(call: Callable[[], Coroutine[Any, Any, object]], seconds: float) -> None:
    """Call it in a task group, beside a task that takes its time to end, while the body waits so long."""

    async def cling() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.125)

    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        group.create_task(cling())
        if seconds:
            await asyncio.sleep(seconds)


def start_nothing_once_cancelled(case: tuple[tuple[Step, ...], int, dict[str, Any], float | None]) -> None:
    """R2: whenever the task is cancelled, no further attempt; neither an old cancellation nor a group is a reason."""
    steps, swallowed, way, group = case

    def attempt(cancel_at: int) -> int:
        retry = make(max_retries=2, retry_on=(*WANTED, ExceptionGroup), **way)
        provider = Provider(steps)
        task: asyncio.Task[object] | None = None
        steps_since = calls = 0
        calls_then: int | None = None

        async def fn() -> object:
            nonlocal calls
            calls += 1
            return await (provider.call() if group is None else in_a_group(provider.call, group))

        async def work() -> object:
            nonlocal task
            for _ in range(swallowed):
                await swallow_a_cancellation()
            task = asyncio.current_task()
            return await retry.execute_with_retry(fn, "api")

        def before_step(_step: int) -> None:
            nonlocal steps_since, calls_then
            if task is not None and not task.done():
                steps_since += 1
                if steps_since == cancel_at:
                    task.cancel()
                    calls_then = calls

        async def main() -> None:
            (done,) = (await asyncio.wait([asyncio.ensure_future(work())]))[0]
            assert done.cancelled() or not isinstance(done.exception(), asyncio.CancelledError)

        run_virtual(main(), before_step=before_step)
        assert calls == (3 if calls_then is None else calls_then)
        return steps_since

    for cancel_at in range(1, attempt(-1) + 1):
        attempt(cancel_at)


def never_cancelled(_right: Any) -> Any:
    return property(lambda _self: False)


def ever_cancelled(_right: Any) -> Any:
    return property(lambda self: self._count() > 0)


def forgives_everything(_right: Any) -> Any:
    def forgive(self: Cancels, _error: BaseException) -> None:
        self._before = self._count()

    return forgive


# ------------------------------------------------------------------ R3: one deadline


@dataclass(frozen=True)
class Limits:
    """The limits of a call and of a retried call around it."""

    own: float | None
    outer: float | None
    attempt: float | None

    @property
    def deadline(self) -> float:
        return min(FOREVER if each is None else each for each in (self.own, self.outer))


POSITIVE = st.none() | st.integers(1, 24).map(lambda number: number / 4)
R3 = st.tuples(STEPS, st.builds(Limits, own=POSITIVE, outer=POSITIVE, attempt=POSITIVE), CHANCES)


def end_by_the_deadline(case: tuple[tuple[Step, ...], Limits, tuple[float, ...]]) -> None:
    """R3: nothing outlasts the deadline, no wait is begun that does not fit, only our own timeouts are called so."""
    steps, limits, chances = case
    provider = Provider(steps)
    inner = make(
        chances=chances,
        max_retries=5,
        retry_on=(*WANTED, AttemptTimeoutError),
        deadline_seconds=limits.own,
        attempt_timeout_seconds=limits.attempt,
    )
    outer = make(max_retries=0, deadline_seconds=limits.outer)

    async def main() -> tuple[object, float]:
        call = functools.partial(inner.execute_with_retry, provider.call, "api")
        came = await outcome_of(outer.execute_with_retry(call, "outer"))
        assert get_deadline() is None
        return came, asyncio.get_running_loop().time()

    came, ended = run_virtual(main())
    assert ended <= limits.deadline
    longest = FOREVER if limits.attempt is None else limits.attempt
    for began, end in zip(provider.began, provider.ended, strict=True):
        assert began < limits.deadline
        assert end - began <= longest
    assert ended == provider.ended[-1], "no wait that leads to no attempt"
    own = [error for error in provider.raised if isinstance(error, (WantedError, UnwantedError, TimeoutError))]
    if isinstance(came, AttemptTimeoutError):
        assert isinstance(provider.raised[-1], asyncio.CancelledError)
        assert ended == min(provider.began[-1] + longest, limits.deadline)
        assert came.__cause__ is not None
    elif isinstance(came, Exception):
        assert came is own[-1], "the last real error"
    else:
        assert came in ("ok", "late")
    if isinstance(came, WANTED) and not isinstance(came, AttemptTimeoutError) and len(provider.began) < 6:
        waits = itertools.islice(itertools.cycle(chances), len(provider.began) - 1, None)
        wait = next(waits) * min(CAP, BASE * 2 ** (len(provider.began) - 1))
        assert ended + wait >= limits.deadline, "it gave up although there was time"


def ignores_limits(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _self: None


def waits_in_vain(right: Callable[..., Any]) -> Callable[..., Any]:
    async def run(self: Call, *args: Any, **more: Any) -> Any:
        try:
            return await right(self, *args, **more)
        except Exception:
            await asyncio.sleep(max(0.0, min(BASE, (self.time_left() or 0.0))))
            raise

    return run


def never_gives_up(right: Callable[..., Any]) -> Callable[..., Any]:
    def _judge(self: Call, retry_after: float) -> object:
        at, self._deadline = self._deadline, None
        verdict = right(self, retry_after)
        self._deadline = at
        return verdict

    return _judge


def knows_its_own_deadline_only(right: Callable[..., Any]) -> Callable[..., Any]:
    def begin(self: Call, shared: Any, services: Services, cancels: int | None = None) -> None:
        right(self, shared, services, cancels)
        if shared.settings.deadline_seconds is not None:
            self._deadline = services.clock.monotonic() + shared.settings.deadline_seconds

    return begin


def takes_any_timeout_for_its_own(_right: Callable[..., Any]) -> Callable[..., Any]:
    async def give_up_after(
        seconds: float, attempt: Coroutine[Any, Any, Any], too_late: Callable[[], Exception]
    ) -> Any:
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                return await attempt
        except TimeoutError as error:
            if timeout.expired():
                raise too_late() from error
            raise

    return give_up_after


# ------------------------------------------------------------------ R4 and R5: how long it waits


R4 = st.tuples(
    st.integers(0, 10**6),
    st.floats(1e-300, 1e300),
    st.floats(1e-300, 1e300),
    st.lists(st.floats(0, 1, exclude_max=True)),
)


def wait_a_random_part(case: tuple[int, float, float, list[float]]) -> None:
    """R4: U(0, min(cap, base * 2**k)) for every k, and still random where the cap holds."""
    doublings, base, cap, drawn = case
    exact = min(Fraction(cap), Fraction(base) * 2 ** min(doublings, 3000))
    for chance in drawn:
        wait = delays.full_jitter(doublings, base=base, cap=cap, chance=chance)
        assert wait == pytest.approx(chance * float(exact), rel=1e-9)
    if drawn:
        waits = {delays.full_jitter(60, base=base, cap=base * 8, chance=number / 100) for number in range(100)}
        assert len(waits) == 100


def is_constant_at_the_cap(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda doublings, *, base, cap, chance: min(cap, base * 2.0 ** min(doublings, 1000) * (1 + chance))


def overflows(_right: Callable[..., Any]) -> Callable[..., Any]:
    def full_jitter(doublings: int, *, base: float, cap: float, chance: float) -> float:
        try:
            return chance * min(cap, base * 2.0**doublings)
        except OverflowError:
            return 0.0

    return full_jitter


def as_date(seconds: float, style: str) -> str:
    at = EPOCH + timedelta(seconds=seconds)
    if style == "rfc850":
        return at.strftime("%A, %d-%b-%y %H:%M:%S GMT")
    return at.strftime("%a %b %e %H:%M:%S %Y") if style == "asctime" else format_datetime(at, usegmt=True)


ASKED = st.integers(0, 300)
FORMS = st.sampled_from(
    [
        RetryAfterError,
        lambda seconds: RetryAfterError(float(seconds)),
        lambda seconds: RetryAfterError(timedelta(seconds=seconds)),
        RetryAfterSecondsError,
        lambda seconds: RetryAfterError(str(seconds)),
        lambda seconds: HttpStatusError(str(seconds)),
        lambda seconds: HttpStatusError(f" {seconds}.0 ", "RETRY-AFTER"),
        lambda seconds: HttpStatusError(as_date(seconds, "imf")),
        lambda seconds: HttpStatusError(as_date(seconds, "rfc850")),
        lambda seconds: ClientResponseError(as_date(seconds, "asctime")),
        lambda seconds: ClientResponseError(str(seconds), "Retry-after"),
    ]
)
R5 = st.tuples(ASKED, FORMS, st.none() | st.integers(1, 300), CHANCES)


def wait_as_long_as_asked(case: tuple[int, Callable[[int], Exception], int | None, tuple[float, ...]]) -> None:
    """R5: Retry-After is a floor, in whatever form it comes, and the deadline is above it."""
    asked, form, deadline, chances = case
    began: list[float] = []

    async def fn() -> float:
        now = asyncio.get_running_loop().time()
        began.append(now)
        if len(began) == 1:
            raise form(asked)
        return now

    retry = make(chances=chances, max_retries=1, deadline_seconds=deadline)
    came = run_virtual(outcome_of(retry.execute_with_retry(fn, "api")))
    wait = asked + chances[0] * BASE
    if deadline is None or wait < deadline:
        assert came == wait
    else:
        assert isinstance(came, WantedError)
        assert began == [0.0]


def hears_nothing(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _error, _now: None


def comes_earlier(right: Callable[..., Any]) -> Callable[..., Any]:
    def find_retry_after(error: Exception, now: datetime) -> float | None:
        seconds = right(error, now)
        return None if seconds is None else min(seconds, CAP)

    return find_retry_after


def knows_numbers_only(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, now: right(value, now) if isinstance(value, (int, float)) else None


# ------------------------------------------------------------------ R6: retries are a share


R6 = st.tuples(
    st.lists(st.integers(0, 4), max_size=30),
    st.sampled_from([0.125, 0.25, 0.5, 1.0]),
    st.integers(1, 4),
    st.sampled_from([{}, {"deadline_seconds": FOREVER}]),
)


def keep_within_the_budget(case: tuple[list[int], float, int, dict[str, Any]]) -> None:
    """R6: in any run of calls of one name, retries <= ratio * calls + burst; a name has its own budget."""
    failures, ratio, burst, way = case
    retry = make(max_retries=4, **{"budget_ratio": ratio, "budget_burst": burst, **way})
    happened: list[str] = []

    async def fn(fails: Iterator[int]) -> None:
        if happened[-1] != "call":
            happened.append("retry")
        else:
            happened.append("first")
        if next(fails, 0):
            raise WantedError

    async def main() -> None:
        for count in failures:
            happened.append("call")
            await outcome_of(retry.execute_with_retry(fn, "api", iter([1] * count)))
        other = iter([1])
        happened.append("call")
        assert await outcome_of(retry.execute_with_retry(fn, "other", other)) is None, "another name, another budget"

    run_virtual(main())
    events = happened[: len(happened) - happened[::-1].index("call") - 1]
    for begin in range(len(events)):
        retries, calls = 0, 0
        for event in events[begin:]:
            retries += event == "retry"
            calls += event == "call"
            assert retries <= ratio * calls + burst
    wanted = sum(failures)
    if wanted <= burst:
        assert events.count("retry") == wanted, "what the burst allows for is not refused"


def costs_nothing(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _self: True


def saves_for_ever(_right: Callable[..., Any]) -> Callable[..., Any]:
    def earn(self: Budget) -> None:
        self.tokens += self.ratio

    return earn


def earns_twice(right: Callable[..., Any]) -> Callable[..., Any]:
    def earn(self: Budget) -> None:
        right(self)
        right(self)

    return earn


NESTED = st.tuples(st.integers(0, 3), st.integers(0, 3), WAYS, WAYS, st.booleans())


def not_multiply(case: tuple[int, int, dict[str, Any], dict[str, Any], bool]) -> None:
    """R6: a retried call inside a retried attempt does not retry; beside it, and after it, it does."""
    outer_most, inner_most, outer_way, inner_way, in_task = case
    inner = make(max_retries=inner_most, **inner_way)
    outer = make(max_retries=outer_most, **outer_way)
    provider = Provider((Step("wanted"),))
    left: list[asyncio.Task[object]] = []

    async def keep_alive() -> int:
        await asyncio.sleep(1000)
        other = Provider((Step("wanted"),))
        await outcome_of(inner.execute_with_retry(other.call, "background"))
        return len(other.began)

    async def fn() -> object:
        if not left:
            left.append(asyncio.ensure_future(keep_alive()))
        call = inner.execute_with_retry(provider.call, "inner")
        return await (asyncio.ensure_future(call) if in_task else call)

    async def second() -> object:
        left.append(asyncio.ensure_future(keep_alive()))
        raise WantedError

    async def main() -> None:
        await outcome_of(outer.execute_with_retry(fn, "outer"))
        assert len(provider.began) == inner_most + 1 + outer_most
        await outcome_of(outer.execute_with_retry(second, "second"))
        beside = Provider((Step("wanted"),))
        await outcome_of(inner.execute_with_retry(beside.call, "beside"))
        assert len(beside.began) == inner_most + 1
        # Tasks that retried attempts left behind are in no retried attempt any more.
        assert set(await asyncio.gather(*left)) == {inner_most + 1}

    run_virtual(main())


def multiplies(right: Callable[..., Any]) -> Callable[..., Any]:
    def begin(self: Call, *args: Any) -> None:
        right(self, *args)
        self._is_nested = False

    return begin


def is_retried_for_ever(right: Callable[..., Any]) -> Callable[..., Any]:
    def leave(self: Call, *, ok: bool | None) -> None:
        was = self.is_retrying
        right(self, ok=ok)
        self.is_retrying = was

    return leave


# ------------------------------------------------------------------ R7: calls share nothing


CALLERS = st.lists(st.tuples(STEPS, SECONDS, st.none() | SECONDS), min_size=2, max_size=5)
R7 = st.tuples(CALLERS, st.sampled_from([0.0, 0.5, 0.875]), WAYS, st.booleans())
Account = tuple[str, list[float], list[Attempt]]


def come_out_as_if_alone(case: tuple[list[Any], float, dict[str, Any], bool]) -> None:
    """R7: calls at the same time come out as each would alone, whichever of them are cancelled."""
    callers, chance, way, decorated = case

    async def account(retry: Callable[[Provider], Coroutine[Any, Any, Any]], caller: Any) -> Account:
        steps, delay, cancelled_after = caller
        provider = Provider(steps)
        await asyncio.sleep(delay)
        task = asyncio.ensure_future(retry(provider))
        if cancelled_after is not None:
            asyncio.get_running_loop().call_later(cancelled_after + 1 / 64, task.cancel)
        await asyncio.wait([task])
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        came = repr(task.result() if error is None else error)
        return came, provider.began, [replace(each, correlation_id=None) for each in get_attempts(error or Exception())]

    def make_call() -> Callable[[Provider], Coroutine[Any, Any, Any]]:
        retry = make(chances=(chance,), max_retries=2, retry_on=WANTED, **way)
        options = {**BACKOFF, "max_retries": 2, "retry_on": WANTED, **way}

        @retry.retrying("api", **options)
        async def call(provider: Provider) -> object:
            return await provider.call()

        return call if decorated else lambda provider: retry.execute_with_retry(provider.call, "api")

    async def together() -> list[Account]:
        call = make_call()
        return await asyncio.gather(*(account(call, caller) for caller in callers))

    alone = [run_virtual(account(make_call(), caller)) for caller in callers]
    assert run_virtual(together()) == alone


def has_one_history(right: Callable[..., Any]) -> Callable[..., Any]:
    histories: dict[int, list[Attempt]] = {}

    def begin(self: Call, shared: Any, *args: Any) -> None:
        right(self, shared, *args)
        self._history = histories.setdefault(id(shared.budget), [])

    return begin


# ------------------------------------------------------------------ the breaker


@dataclass
class Reference:
    """The breaker again, written as its page tells it: one list of ends, and who may try."""

    settings: BreakerSettings
    ends: list[bool] = field(default_factory=list)
    state: str = "closed"
    since: float = 0.0
    probes: list[object] = field(default_factory=list)
    era: int = 0

    def enter(self, now: float) -> object | None:
        if self.state == "closed":
            return (self.era, object())
        over = now - self.since >= self.settings.open_seconds
        if over and (self.state == "open" or len(self.probes) >= self.settings.probes):
            self.move("half_open", now)
        if self.state == "open" or len(self.probes) >= self.settings.probes:
            return None
        ticket = (self.era, object())
        self.probes.append(ticket)
        self.since = now
        return ticket

    def leave(self, ticket: Any, now: float, *, ok: bool | None) -> None:
        if ticket[0] != self.era:
            return
        if self.state == "closed":
            self.ends += [] if ok is None else [ok]
            last = self.ends[-self.settings.of_calls :]
            if ok is False and last.count(False) >= self.settings.failures:
                self.move("open", now)
        elif ok is None:
            self.probes.remove(ticket)
        elif not ok:
            self.move("open", now)
        else:
            self.ends.append(True)
            if len(self.ends) == self.settings.probes:
                self.move("closed", now)

    def move(self, state: str, now: float) -> None:
        self.state, self.since, self.ends, self.probes = state, now, [], []
        self.era += 1


OPS = st.lists(
    st.one_of(
        st.just(("enter", None)),
        st.tuples(st.just("leave"), st.tuples(st.integers(0, 9), st.sampled_from([True, False, False, None]))),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 4.0, 8.0])),
    ),
    max_size=40,
)
BREAKERS = st.builds(
    lambda failures, more, probes: BreakerSettings(
        failures=failures, of_calls=failures + more, open_seconds=8, probes=probes
    ),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 3),
)


class HandClock(SystemClock):
    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


def enter(breaker: Breaker, clock: HandClock) -> tuple[BreakerOpenError | None, int]:
    try:
        return None, breaker.enter(clock)
    except BreakerOpenError as error:
        return error, 0


def follow_the_reference(case: tuple[BreakerSettings, list[tuple[str, Any]]]) -> None:
    """A breaker lets through, refuses and changes just as its description says, for any run of calls."""
    settings, ops = case
    clock = HandClock()
    breaker, reference = Breaker("api", settings), Reference(settings)
    under_way: list[tuple[int, object]] = []
    for op, what in ops:
        if op == "wait":
            clock.time += what
        elif op == "enter":
            expected = reference.enter(clock.time)
            refused, ticket = enter(breaker, clock)
            assert (refused is None) == (expected is not None)
            if refused is None:
                under_way.append((ticket, expected))
            else:
                assert refused.retry_after_seconds == reference.since + settings.open_seconds - clock.time > 0
        elif under_way:
            number, ok = what
            ticket, expected = under_way.pop(number % len(under_way))
            assert breaker.is_current(ticket) == (expected[0] == reference.era)
            breaker.leave(ticket, clock, ok=ok)
            reference.leave(expected, clock.time, ok=ok)
        assert breaker.state == reference.state


PROBES = st.tuples(
    st.integers(1, 3), st.lists(st.sampled_from(["ok", "wanted", "unwanted", "cancel"]), min_size=4, max_size=12)
)


def let_exactly_the_probes_through(case: tuple[int, list[str]]) -> None:
    """Half open, exactly so many calls go through; one that is cancelled frees its place and says nothing."""
    probes, kinds = case
    breaker = BreakerSettings(failures=2, of_calls=2, open_seconds=10, probes=probes)
    retry = make(max_retries=0, retry_on=WantedError, breaker=breaker)

    async def main() -> None:
        for _ in range(2):
            await outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api"))
        assert retry.get_status().open_breakers == ("api",)
        await asyncio.sleep(10)
        free, good = probes, 0
        for kind in kinds:
            if retry.get_status().open_breakers == () or good == probes:
                break
            # All at once, and only the first of them is answered; the others are cancelled and free their places.
            providers = [Provider((Step("ok" if kind == "cancel" else kind, 1.0),)) for _ in range(6)]
            calls = [outcome_of(retry.execute_with_retry(each.call, "api")) for each in providers]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0.5)
            let_through = [number for number, provider in enumerate(providers) if provider.began]
            assert let_through == list(range(free)), "exactly as many as there are places"
            for number, task in enumerate(tasks):
                if number or kind == "cancel":
                    task.cancel()
            came = await asyncio.gather(*tasks)
            assert [isinstance(each, BreakerOpenError) for each in came] == [number >= free for number in range(6)]
            if kind == "wanted":
                assert retry.get_status().open_breakers == ("api",)
                with pytest.raises(BreakerOpenError):
                    await retry.execute_with_retry(Provider((Step(),)).call, "api")
                return
            good += kind == "ok"
            free -= kind == "ok"
            assert (retry.get_status().open_breakers == ()) == (good == probes)

    run_virtual(main())


def stampedes(_right: Callable[..., Any]) -> Callable[..., Any]:
    def enter(self: Breaker, clock: SystemClock) -> int:
        now = clock.monotonic()
        if self.state is BreakerState.OPEN and now < self._until:
            raise BreakerOpenError("api", self._until - now)
        if self.state is BreakerState.OPEN:
            self._turn(BreakerState.HALF_OPEN, now)
        return self._era

    return enter


def keeps_the_place(right: Callable[..., Any]) -> Callable[..., Any]:
    def leave(self: Breaker, ticket: int, clock: SystemClock, *, ok: bool | None) -> None:
        if ok is not None:
            right(self, ticket, clock, ok=ok)

    return leave


def takes_a_cancellation_for_a_failure(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, ticket, clock, *, ok: right(self, ticket, clock, ok=bool(ok))


def remembers_for_ever(_right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _self, _ticket: True


# ------------------------------------------------------------------ every promise, and what breaks it


PROMISES = {
    make_at_most_so_many_calls: R1,
    start_nothing_once_cancelled: R2,
    end_by_the_deadline: R3,
    wait_a_random_part: R4,
    wait_as_long_as_asked: R5,
    keep_within_the_budget: R6,
    not_multiply: NESTED,
    come_out_as_if_alone: R7,
    follow_the_reference: st.tuples(BREAKERS, OPS),
    let_exactly_the_probes_through: PROBES,
}
BROKEN = [
    (make_at_most_so_many_calls, Call, "_find_refusal", one_more),
    (make_at_most_so_many_calls, Call, "fail", wraps_the_error),
    (make_at_most_so_many_calls, call_module, "note_attempts", forgets),
    (start_nothing_once_cancelled, Cancels, "came", never_cancelled),
    (start_nothing_once_cancelled, Cancels, "came", ever_cancelled),
    (start_nothing_once_cancelled, Cancels, "forgive", forgives_everything),
    (end_by_the_deadline, Call, "time_left", ignores_limits),
    (end_by_the_deadline, Call, "run", waits_in_vain),
    (end_by_the_deadline, Call, "_judge", never_gives_up),
    (end_by_the_deadline, Call, "__init__", knows_its_own_deadline_only),
    (end_by_the_deadline, call_module, "give_up_after", takes_any_timeout_for_its_own),
    (wait_a_random_part, delays, "full_jitter", is_constant_at_the_cap),
    (wait_a_random_part, delays, "full_jitter", overflows),
    (wait_as_long_as_asked, call_module, "find_retry_after", hears_nothing),
    (wait_as_long_as_asked, call_module, "find_retry_after", comes_earlier),
    (wait_as_long_as_asked, delays, "read_seconds", knows_numbers_only),
    (wait_as_long_as_asked, Call, "_judge", never_gives_up),
    (keep_within_the_budget, Budget, "spend", costs_nothing),
    (keep_within_the_budget, Budget, "earn", saves_for_ever),
    (keep_within_the_budget, Budget, "earn", earns_twice),
    (not_multiply, Call, "__init__", multiplies),
    (not_multiply, Call, "leave", is_retried_for_ever),
    (come_out_as_if_alone, Call, "__init__", has_one_history),
    (follow_the_reference, Breaker, "enter", stampedes),
    (follow_the_reference, Breaker, "is_current", remembers_for_ever),
    (let_exactly_the_probes_through, Breaker, "enter", stampedes),
    (let_exactly_the_probes_through, Breaker, "leave", keeps_the_place),
    (let_exactly_the_probes_through, Breaker, "leave", takes_a_cancellation_for_a_failure),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(promise: Callable[[Any], None]) -> None:
    given(PROMISES[promise])(promise)()


@pytest.mark.parametrize(
    ("promise", "owner", "name", "broken"),
    BROKEN,
    ids=[f"{promise.__name__}-{broken.__name__}" for promise, _, _, broken in BROKEN],
)
def test_promise_catches(
    promise: Callable[[Any], None], owner: Any, name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    must_catch(promise, PROMISES[promise])
