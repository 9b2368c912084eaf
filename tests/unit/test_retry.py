"""The retry manager by example: settings, what is retried, when, and what is told; see also test_retry_promises.py."""

import asyncio
import functools
import inspect
import json
import pickle
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from providers import (
    BACKOFF,
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
from virtual_time import run_virtual

from asyncsandbox._core.checks import CheckStatus
from asyncsandbox._core.component import Services
from asyncsandbox._core.context import correlation, get_correlation_id
from asyncsandbox._core.journal import Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.ports import Attempt, RetryCall, RetryPort
from asyncsandbox._core.settings import settings_from_environ
from asyncsandbox.components.readiness import SandboxReadinessChecker
from asyncsandbox.components.retry import (
    BreakerSettings,
    RetryBackoffManager,
    RetryOptions,
    RetrySettings,
    delays,
    get_attempts,
)
from asyncsandbox.errors import (
    AttemptTimeoutError,
    BreakerOpenError,
    ConfigurationError,
    LimitExceededError,
)
from asyncsandbox.testing import hostile_values

# ------------------------------------------------------------------ what a call that ends well costs


def pass_through(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def passed(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return passed


async def count_blocks(decorate: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
    """Return how many blocks of memory a call holds while its body runs."""
    held: list[int] = [0] * 50

    async def body(number: int) -> None:
        held[number] = sys.getallocatedblocks() - before

    call = decorate(body)
    for number in range(len(held)):
        before = sys.getallocatedblocks()
        await call(number)
    return min(held[10:])


async def test_a_call_that_ends_well_allocates_what_a_pass_through_does() -> None:
    assert await count_blocks(RetryBackoffManager().retrying("api")) == await count_blocks(pass_through)


def test_a_call_that_ends_well_takes_no_step_of_the_loop() -> None:
    def count_steps(decorate: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
        steps = 0

        def before_step(step: int) -> None:
            nonlocal steps
            steps = step

        async def body() -> None:
            await asyncio.sleep(0)

        run_virtual(decorate(body)(), before_step=before_step)
        return steps

    retry = RetryBackoffManager()
    breaker = BreakerSettings()
    limited = retry.retrying("api", attempt_timeout_seconds=1, deadline_seconds=1, breaker=breaker)
    assert count_steps(retry.retrying("api")) == count_steps(limited) == count_steps(pass_through)


# ------------------------------------------------------------------ examples


async def test_the_first_lines_work_without_start() -> None:
    answers = iter([ConnectionError("refused"), "paid"])

    async def api_call(amount: int, *, name: str, func: str) -> tuple[object, ...]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return amount, name, func, answer

    retry = RetryBackoffManager(3, settings=RetrySettings(backoff_base_seconds=0.001))
    assert await retry.execute_with_retry(api_call, "api", 100, name="n", func="f") == (100, "n", "f", "paid")
    (attempt,) = retry.get_retry_log("api")
    assert (attempt.call, attempt.number, attempt.error) == ("api", 1, "ConnectionError: refused")
    assert retry.get_retry_log("another") == ()
    assert retry.get_retry_log() == (attempt,)


def test_max_retries_beats_the_settings() -> None:
    assert RetryBackoffManager(1, settings=RetrySettings(max_retries=5))._settings.max_retries == 1
    assert RetryBackoffManager(settings=RetrySettings(max_retries=5))._settings.max_retries == 5


async def test_plain_functions_run_in_threads_and_see_the_context() -> None:
    tried: list[str | None] = []

    def fetch(path: str) -> str:
        tried.append(get_correlation_id())
        if len(tried) == 1:
            raise OSError("gone")
        return path

    retry = make(backoff_base_seconds=0.001, backoff_cap_seconds=0.001)
    decorated = retry.retrying("fetch", backoff_base_seconds=0.001)(fetch)
    with correlation("req-1"):
        assert await retry.execute_with_retry(fetch, "fetch", "/") == "/"
        assert await decorated(path="/x") == "/x"
    assert tried == ["req-1"] * 3
    assert [attempt.correlation_id for attempt in retry.get_retry_log()] == ["req-1"]
    assert inspect.iscoroutinefunction(decorated)
    assert decorated.__name__ == "fetch"


async def test_a_function_that_returns_a_coroutine_will_do() -> None:
    provider = Provider((Step("wanted"), Step()))
    retry = make(backoff_base_seconds=0.001, backoff_cap_seconds=0.001)
    assert await retry.execute_with_retry(lambda: provider.call(), "api") == "ok"  # noqa: PLW0108


def test_options_of_a_decorator_replace_the_settings_and_none_keep_them() -> None:
    retry = make(max_retries=1)
    counts: dict[str, int] = {}

    async def fail(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1
        raise WantedError

    async def main() -> None:
        await outcome_of(retry.retrying("a")(fail)("a"))
        await outcome_of(retry.retrying("b", backoff_base_seconds=0.5)(fail)("b"))
        await outcome_of(retry.retrying("c", max_retries=0)(fail)("c"))

    run_virtual(main())
    assert counts == {"a": 2, "b": 4, "c": 1}


def test_a_function_lends_its_name() -> None:
    retry = make(max_retries=0)

    class Api:
        @retry.retrying()
        async def fetch(self) -> None:
            raise WantedError

    run_virtual(outcome_of(Api().fetch()))
    (attempt,) = retry.get_retry_log()
    assert attempt.call.endswith("<locals>.Api.fetch")
    assert attempt.call.startswith(__name__)
    with pytest.raises(ConfigurationError, match="retry: name"):
        retry.retrying()(functools.partial(asyncio.sleep, 1))


@pytest.mark.parametrize("function", [5, (number for number in ()), None], ids=["number", "generator", "none"])
def test_what_cannot_be_called_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="api: function"):
        make().retrying("api")(function)


def test_what_yields_is_refused_and_so_are_missing_parentheses() -> None:
    retry = make()

    def numbers() -> Iterator[int]:
        yield 1

    async def letters() -> Any:
        yield "a"

    for function in (numbers, letters):
        with pytest.raises(ConfigurationError, match="not one that yields"):
            retry.retrying("api")(function)
    with pytest.raises(ConfigurationError, match=r"@retry.retrying\(\)"):
        retry.retrying(numbers)
    with pytest.raises(ConfigurationError, match="retry: name"):
        retry.retrying("")(swallow_a_cancellation)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        *({"backoff_base_seconds": value} for value in (0, -1, float("nan"), float("inf"))),
        {"backoff_cap_seconds": 0.1},
        {"backoff_cap_seconds": float("inf")},
        *({"attempt_timeout_seconds": value} for value in (0, -1, float("nan"), float("inf"))),
        *({"deadline_seconds": value} for value in (0, -1, float("nan"), float("inf"), "5")),
        {"max_retry_after_seconds": 0},
        {"budget_ratio": 0},
        {"budget_ratio": float("nan")},
        {"budget_burst": 0},
        {"breaker": 5},
        *(
            {"retry_on": value}
            for value in (
                asyncio.CancelledError,
                BaseException,
                KeyboardInterrupt,
                GeneratorExit,
                (OSError, asyncio.CancelledError),
                (OSError, "OSError"),
                (),
                [OSError],
                int,
                "OSError",
                None,
                OSError(),
                LimitExceededError,
                (OSError, BreakerOpenError),
                swallow_a_cancellation,
            )
        ),
        {"retry_on_result": 5},
        {"retry_on_result": bool},
        {"retry_on_result": swallow_a_cancellation},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=rf"RetrySettings\.{name}=") as caught:
        RetrySettings(**wrong)
    assert caught.value.allowed
    with pytest.raises(ConfigurationError):
        RetryBackoffManager().retrying("api", **wrong)


@pytest.mark.parametrize(
    "wrong", [{"failures": 0}, {"failures": 11}, {"of_calls": 4}, {"open_seconds": 0}, {"probes": 0}, {"probes": 1.5}]
)
def test_wrong_breaker_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="BreakerSettings"):
        BreakerSettings(**wrong)


def test_options_are_the_fields_of_the_settings() -> None:
    hints = {name: kind for name, kind in get_type_hints(RetrySettings).items() if not name.startswith("_")}
    assert get_type_hints(RetryOptions) == hints
    assert list(hints) == [each.name for each in fields(RetrySettings)]
    assert RetryOptions.__total__ is False


def test_settings_are_frozen_pickle_and_document_every_field() -> None:
    for settings in (RetrySettings(breaker=BreakerSettings()), BreakerSettings()):
        assert pickle.loads(pickle.dumps(settings)) == settings
        assert hash(settings) == hash(replace(settings))
        for each in fields(settings):
            assert f"{each.name}:" in type(settings).__doc__


def test_what_the_environment_cannot_say_is_refused_in_our_words() -> None:
    assert settings_from_environ(RetrySettings, "R__", {"R__MAX_RETRIES": "5"}) == RetrySettings(max_retries=5)
    with pytest.raises(ConfigurationError, match="set it in the program"):
        settings_from_environ(RetrySettings, "R__", {"R__RETRY_ON": "OSError"})


# ------------------------------------------------------------------ what is retried


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (LimitExceededError("api", "no permit", 1.0), 1),
        (BreakerOpenError("api", 1.0), 1),
        (ConfigurationError("a", 1, "b"), 1),
        (AttemptTimeoutError("inner", 1, 2.0), 3),
        (ExceptionGroup("both", [OSError(), ValueError()]), 3),
        (OSError(), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_ours_are_not_retried_but_for_timeouts(error: Exception, attempts: int) -> None:
    retry = make(max_retries=2)
    began: list[int] = []

    async def fn() -> None:
        began.append(1)
        raise error

    assert run_virtual(outcome_of(retry.execute_with_retry(fn, "api"))) is error
    assert len(began) == attempts


def test_a_function_may_say_which_errors_are_worth_it() -> None:
    provider = Provider((Step("wanted"), Step("timeout"), Step("unwanted"), Step()))
    retry = make(retry_on=lambda error: isinstance(error, WANTED))
    came = run_virtual(outcome_of(retry.execute_with_retry(provider.call, "api")))
    assert isinstance(came, UnwantedError)
    assert len(provider.began) == 3
    assert came.__notes__ == ["'api' failed 3 times, not tried again: the settings do not ask for it"]


def test_a_function_that_cannot_say_it_ends_the_call_and_is_named() -> None:
    provider = Provider((Step("wanted"),))
    retry = make(retry_on=lambda error: error.status == 503)
    came = run_virtual(outcome_of(retry.execute_with_retry(provider.call, "api")))
    assert came is provider.raised[0]
    (note,) = came.__notes__
    assert note.startswith("'api' failed once, not tried again: retry_on itself raised AttributeError: ")


def test_results_may_be_worth_another_attempt_and_the_last_one_is_returned() -> None:
    async def poll(answers: Iterator[int]) -> int:
        return next(answers)

    retry = make(max_retries=2, retry_on_result=lambda answer: answer == 202)

    async def main() -> list[object]:
        runs = [[202, 200], [202, 202, 202, 200], [200]]
        return [await outcome_of(retry.execute_with_retry(poll, "poll", iter(run))) for run in runs]

    assert run_virtual(main()) == [200, 202, 200]
    assert {attempt.error for attempt in retry.get_retry_log()} == {"retry_on_result refused the int it returned"}
    (event,) = retry.services.journal.get_events("retry.exhausted")
    assert dict(event.fields)["reason"] == "max_retries"


def test_a_result_nobody_can_judge_is_the_error_of_whoever_judged() -> None:
    retry = make(retry_on_result=lambda answer: answer.status == 503)
    came = run_virtual(outcome_of(retry.execute_with_retry(Provider((Step(),)).call, "api")))
    assert isinstance(came, AttributeError)


# ------------------------------------------------------------------ time


@given(
    st.sampled_from([RetryAfterError, RetryAfterSecondsError, HttpStatusError, ClientResponseError])
    | st.just(lambda value: type("E", (WantedError,), {"headers": value})())
    | st.just(lambda value: type("E", (WantedError,), {"response": value})()),
    hostile_values() | st.text("0123456789.-+eE ", max_size=12) | st.integers() | st.timedeltas(),
)
@example(RetryAfterError, 10**400)
@example(RetryAfterError, -(10**400))
@example(RetryAfterError, float("nan"))
@example(RetryAfterError, True)
@example(HttpStatusError, "9" * 5000)
@example(HttpStatusError, "1_000")
@example(HttpStatusError, "Sun, 06 Nov 1994 08:49:37 +9999999999")
@example(HttpStatusError, "Sun, 06 Nov 99999999999999999999 08:49:37 GMT")
@example(HttpStatusError, "Sun, 06 Nov 1994 08:49:37 GMT")
@example(RetryAfterError, timedelta.max)
def test_whatever_a_provider_asks_for_nothing_breaks(make_error: Callable[[Any], Exception], value: object) -> None:
    error = make_error(value)
    seconds = delays.find_retry_after(error, EPOCH)
    assert seconds is None or seconds >= 0

    async def main() -> float | None:
        return make().begin("api", RetrySettings(backoff_base_seconds=1)).fail(error)

    wait = run_virtual(main())
    assert wait == (None if (seconds or 0) > 300 else 0.5 + (seconds or 0))


def test_an_error_whose_attributes_raise_asks_for_nothing() -> None:
    class SpitefulError(Exception):
        @property
        def retry_after(self) -> int:
            raise RuntimeError("no")

        headers = property(lambda _self: {5: "7", "Retry-After": "7"})

    assert delays.find_retry_after(SpitefulError(), EPOCH) is None
    assert delays.find_retry_after(HttpStatusError("7", "Age"), EPOCH) is None


def test_a_call_that_is_told_to_wait_too_long_fails_at_once() -> None:
    retry = make(max_retry_after_seconds=60)
    error = RetryAfterError(61)

    async def fn() -> None:
        raise error

    async def main() -> tuple[object, float]:
        return await outcome_of(retry.execute_with_retry(fn, "api")), asyncio.get_running_loop().time()

    assert run_virtual(main()) == (error, 0.0)
    assert "longer than max_retry_after_seconds" in error.__notes__[0]


def test_a_cancelled_wait_ends_at_once() -> None:
    retry = make(backoff_base_seconds=1000, backoff_cap_seconds=1000)
    provider = Provider((Step("wanted"),))

    async def main() -> float:
        task = asyncio.ensure_future(retry.execute_with_retry(provider.call, "api"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 1.0
    assert len(provider.began) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_cancellation_outweighs_the_time_being_up(first: bool) -> None:
    retry = make(attempt_timeout_seconds=1)

    async def main() -> bool:
        task = asyncio.ensure_future(retry.execute_with_retry(asyncio.sleep, "api", 5))
        if not first:
            await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_at(1.0, task.cancel)
        await asyncio.wait([task])
        return task.cancelled()

    assert run_virtual(main())


async def fail_in_a_group(*, inside: bool = False) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(Provider((Step("wanted", 0.25),)).call())
        group.create_task(asyncio.sleep(1000))
        await asyncio.sleep(1 if inside else 0)


async def fail_in_two_groups() -> None:
    try:
        await fail_in_a_group()
    except* WantedError as group:
        await outcome_of(fail_in_a_group())
        raise ExceptionGroup("both", group.exceptions) from group


async def fail_after_a_group() -> None:
    try:
        await fail_in_a_group()
    except* WantedError as group:
        raise WantedError("the group failed") from group


@pytest.mark.parametrize(
    "fail", [fail_in_a_group, functools.partial(fail_in_a_group, inside=True), fail_after_a_group], ids=range(3)
)
@pytest.mark.parametrize("limited", [{}, {"deadline_seconds": FOREVER}], ids=["light", "limited"])
def test_a_task_group_that_fails_is_no_cancellation(
    fail: Callable[[], Coroutine[Any, Any, None]], limited: dict[str, Any]
) -> None:
    retry = make(max_retries=3, **limited)
    came = run_virtual(outcome_of(retry.execute_with_retry(fail, "api")))
    assert isinstance(came, (ExceptionGroup, WantedError))
    assert len(get_attempts(came)) == 4


def test_a_task_group_that_fails_hides_no_cancellation() -> None:
    retry = make(max_retries=3)
    ended: list[object] = []

    async def cling() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)

    async def fail() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(cling())
            group.create_task(Provider((Step("wanted", 0.25),)).call())

    async def main() -> None:
        for at in (0.125, 0.5):  # before it fails, and while it ends the others
            task = asyncio.ensure_future(retry.execute_with_retry(fail, "api"))
            await asyncio.sleep(at)
            task.cancel()
            await asyncio.wait([task])
            ended.append(None if task.cancelled() else len(get_attempts(task.exception())))

    run_virtual(main())
    assert ended == [None, 1]


def test_an_attempt_that_hangs_after_a_group_failed_in_it_is_only_too_late() -> None:
    retry = make(max_retries=1, attempt_timeout_seconds=5)

    async def fall_back() -> None:
        await outcome_of(fail_in_a_group())
        await asyncio.sleep(1000)

    came = run_virtual(outcome_of(retry.execute_with_retry(fall_back, "api")))
    assert isinstance(came, AttemptTimeoutError)


async def test_an_abandoned_call_awaits_nothing() -> None:
    for options in ({}, {"attempt_timeout_seconds": FOREVER, "breaker": BreakerSettings()}):
        retry = make(**options)
        for step in (Step("wanted"), Step("ok", 1.0)):
            coroutine = retry.execute_with_retry(Provider((step,)).call, "api")
            coroutine.send(None)
            coroutine.close()


def test_no_attempt_begins_after_the_deadline_around_it() -> None:
    provider = Provider((Step(),))
    inner = make(attempt_timeout_seconds=5)

    async def blocks_the_loop() -> object:
        asyncio.get_running_loop()._now += 2
        return await outcome_of(inner.execute_with_retry(provider.call, "inner"))

    outer = make(deadline_seconds=1)
    came = run_virtual(outcome_of(outer.execute_with_retry(blocks_the_loop, "outer")))
    assert isinstance(came, AttemptTimeoutError)
    assert came.seconds == 0
    assert provider.began == []


def test_a_thread_that_was_given_up_keeps_its_call_from_being_made_again() -> None:
    retry = make(max_retries=2, attempt_timeout_seconds=5)
    go, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        go.wait(10)

    async def main() -> object:
        came = await outcome_of(retry.execute_with_retry(hang, "api"))
        go.set()
        await asyncio.sleep(1)  # the loop waits for the thread
        return came

    came = run_virtual(main())
    assert isinstance(came, AttemptTimeoutError)
    assert came.__notes__ == ["'api' failed once, not tried again: its thread may still be running"]
    (event,) = retry.services.journal.get_events("retry.exhausted")
    assert event.fields["reason"] == "still_runs"
    assert calls == [1]


def test_what_was_given_up_on_the_loop_is_tried_again() -> None:
    calls: list[int] = []

    def start() -> Coroutine[Any, Any, None]:
        calls.append(1)
        return asyncio.sleep(1000)

    def fail() -> None:
        calls.append(2)
        raise WantedError

    retry = make(max_retries=2, attempt_timeout_seconds=5)
    assert isinstance(run_virtual(outcome_of(retry.execute_with_retry(start, "api"))), AttemptTimeoutError)
    assert isinstance(run_virtual(outcome_of(retry.execute_with_retry(fail, "api"))), WantedError)
    assert calls == [1, 1, 1, 2, 2, 2]


# ------------------------------------------------------------------ what is told


def test_retries_and_their_end_are_events() -> None:
    retry = make(max_retries=1)

    async def main() -> None:
        with correlation("req-1"):
            await outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api"))

    run_virtual(main())
    scheduled, exhausted = retry.services.journal.get_events()
    assert (scheduled.name, scheduled.level, scheduled.correlation_id) == ("retry.scheduled", Level.WARNING, "req-1")
    assert scheduled.fields == {"call": "api", "attempt": 1, "error": "WantedError: attempt 1", "wait_seconds": 0.125}
    assert (exhausted.name, exhausted.level, exhausted.component) == ("retry.exhausted", Level.ERROR, "retry")
    assert exhausted.fields == {
        "call": "api",
        "attempts": 2,
        "error": "WantedError: attempt 2",
        "reason": "max_retries",
    }
    status = retry.get_status()
    assert (status.retries, status.exhausted) == (1, 1)


@pytest.mark.parametrize("options", [{"max_retries": 0}, {"retry_on": UnwantedError}])
def test_a_failure_that_nobody_wanted_retried_is_no_event_and_no_note(options: dict[str, Any]) -> None:
    retry = make(**options)
    came = run_virtual(outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api")))
    assert retry.services.journal.get_events() == ()
    assert not hasattr(came, "__notes__")
    assert len(get_attempts(came)) == 1
    assert retry.get_status().exhausted == 0


def test_a_budget_that_is_used_up_is_told() -> None:
    retry = make(budget_ratio=0.01, budget_burst=1)
    came = run_virtual(outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api")))
    assert "the retry budget is used up" in came.__notes__[0]


class SlottedError(Exception):
    __slots__ = ("code",)


class SealedError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


class LoudError(Exception):
    def __str__(self) -> str:
        return "x" * 10_000


@pytest.mark.parametrize("kind", [ValueError, SlottedError, SealedError, UnprintableError, LoudError])
def test_any_error_takes_its_history_along(kind: type[Exception]) -> None:
    retry = make(max_retries=1)

    async def fn() -> None:
        raise kind

    came = run_virtual(outcome_of(retry.execute_with_retry(fn, "api")))
    assert type(came) is kind
    assert [attempt.number for attempt in get_attempts(came)] == [1, 2]
    assert all(len(attempt.error) < 600 for attempt in get_attempts(came))
    assert came.__notes__ == ["'api' failed 2 times, not tried again: its max_retries are used up"]


def test_a_history_pickles_with_its_error() -> None:
    retry = make(max_retries=1)
    came = run_virtual(outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api")))
    assert get_attempts(pickle.loads(pickle.dumps(came))) == get_attempts(came)


def test_an_error_from_elsewhere_has_no_attempts_and_one_that_takes_no_notes_keeps_its_own() -> None:
    assert get_attempts(ValueError()) == ()
    error = WantedError()
    error.__notes__ = ("mine",)

    async def fn() -> None:
        raise error

    retry = make(max_retries=1)
    assert run_virtual(outcome_of(retry.execute_with_retry(fn, "api"))) is error
    assert error.__notes__ == ("mine",)


def test_one_error_raised_by_many_calls_gathers_no_notes() -> None:
    error = WantedError("the same every time")

    async def fn() -> None:
        raise error

    inner, outer = make(max_retries=1), make(max_retries=2)

    async def main() -> None:
        for _ in range(3):
            await outcome_of(outer.execute_with_retry(inner.execute_with_retry, "outer", fn, "inner"))

    run_virtual(main())
    assert error.__notes__ == ["'outer' failed 3 times, not tried again: its max_retries are used up"]
    assert {attempt.call for attempt in get_attempts(error)} == {"outer"}


def test_the_log_is_bounded_and_tells_of_actions_too() -> None:
    def at(seconds: float, call: str, error: str | None = "OSError: no") -> Attempt:
        return Attempt(call=call, number=1, at=EPOCH + timedelta(seconds=seconds), error=error)

    @dataclass
    class Record:
        history: tuple[Attempt, ...]

    class LedgerOfTomorrow(Ledger):
        def get_records(self, *, name: str | None = None, **_which: object) -> tuple[Any, ...]:
            mine = Record((at(-1, "card.charge"), at(1, "card.charge", None)))
            return (mine, object()) if name in (None, "card.charge") else ()

    retry = make(max_retries=0)
    clock = retry.services.clock
    retry.bind(Services(clock=clock, journal=retry.services.journal, ledger=LedgerOfTomorrow(clock)))

    async def main() -> None:
        for _ in range(1100):
            await outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api"))

    run_virtual(main())
    assert [attempt.call for attempt in retry.get_retry_log()] == ["card.charge", *["api"] * 1000]
    assert len(retry.get_retry_log("card.charge")) == 1


async def test_status_is_json() -> None:
    retry = make()
    assert json.loads(json.dumps(asdict(retry.get_status()))) == {
        "name": "retry",
        "state": "new",
        "retries": 0,
        "exhausted": 0,
        "open_breakers": [],
    }


# ------------------------------------------------------------------ the breaker in its place


def test_an_open_breaker_warns_and_is_an_event() -> None:
    retry = make(max_retries=0, breaker=BreakerSettings(failures=1, of_calls=1, open_seconds=5))
    checker = SandboxReadinessChecker()
    for check in retry.get_checks():
        checker.register(check)

    async def look() -> tuple[CheckStatus, str]:
        (check,) = (await checker.run_all_checks()).checks
        return check.status, check.output

    async def main() -> None:
        assert await look() == (CheckStatus.PASS, "")
        await outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api"))
        assert await look() == (CheckStatus.WARN, "circuit breaker open: api")
        refused = await outcome_of(retry.execute_with_retry(Provider((Step(),)).call, "api"))
        assert isinstance(refused, BreakerOpenError)
        assert refused.retry_after_seconds == 5
        assert await retry.execute_with_retry(Provider((Step(),)).call, "other") == "ok"
        await asyncio.sleep(5)
        assert await retry.execute_with_retry(Provider((Step(),)).call, "api") == "ok"
        assert await look() == (CheckStatus.PASS, "")

    run_virtual(main())
    events = retry.services.journal.get_events()
    assert [(event.name, event.level, event.fields["call"]) for event in events] == [
        ("retry.breaker_open", Level.WARNING, "api"),
        ("retry.breaker_closed", Level.INFO, "api"),
    ]


def test_calls_under_way_are_not_retried_once_the_breaker_opens() -> None:
    retry = make(max_retries=3, breaker=BreakerSettings(failures=1, of_calls=1, open_seconds=100))
    slow, fast = Provider((Step("wanted", 3.0),)), Provider((Step("wanted"),))

    async def main() -> object:
        slowly = asyncio.ensure_future(outcome_of(retry.execute_with_retry(slow.call, "api")))
        await outcome_of(retry.execute_with_retry(fast.call, "api"))
        return await slowly

    came = run_virtual(main())
    assert (len(slow.began), len(fast.began)) == (1, 4)
    assert "breaker has opened meanwhile" in came.__notes__[0]


def test_a_probe_that_hangs_does_not_refuse_calls_for_ever() -> None:
    retry = make(max_retries=0, breaker=BreakerSettings(failures=1, of_calls=1, open_seconds=5))

    async def main() -> None:
        await outcome_of(retry.execute_with_retry(Provider((Step("wanted"),)).call, "api"))
        await asyncio.sleep(5)
        hanging = asyncio.ensure_future(retry.execute_with_retry(Provider((Step("ok", 1000.0),)).call, "api"))
        await asyncio.sleep(4)
        with pytest.raises(BreakerOpenError):
            await retry.execute_with_retry(Provider((Step(),)).call, "api")
        await asyncio.sleep(1)
        assert await retry.execute_with_retry(Provider((Step(),)).call, "api") == "ok"
        assert retry.get_status().open_breakers == ()
        assert await hanging == "ok"

    run_virtual(main())


def test_a_cancelled_call_says_nothing_to_the_breaker_whatever_its_cleanup_raises() -> None:
    breaker = BreakerSettings(failures=1, of_calls=1)

    async def main() -> None:
        for cleanup in ("passes", "wanted", "result"):
            retry = make(breaker=breaker, retry_on_result=lambda result: result == "late")
            provider = Provider((Step("ok", 5.0, cleanup),))
            task = asyncio.ensure_future(outcome_of(retry.execute_with_retry(provider.call, "api")))
            await asyncio.sleep(1)
            task.cancel()
            await task
            assert len(provider.began) == 1
            assert retry.get_status().open_breakers == ()

    run_virtual(main())


def test_an_error_that_is_not_retried_says_nothing_to_the_breaker() -> None:
    retry = make(retry_on=WantedError, breaker=BreakerSettings(failures=1, of_calls=1))
    run_virtual(outcome_of(retry.execute_with_retry(Provider((Step("unwanted"),)).call, "api")))
    assert retry.get_status().open_breakers == ()


# ------------------------------------------------------------------ as the pipeline of actions uses it


def test_it_is_the_port_that_the_pipeline_asks() -> None:
    retry = make(max_retries=2, breaker=BreakerSettings(failures=1, of_calls=1))
    port: RetryPort = retry

    async def main() -> None:
        call: RetryCall = port.begin("card.charge", RetrySettings(**BACKOFF, max_retries=2, deadline_seconds=10))
        call.enter()
        assert call.time_left() == 10
        await asyncio.sleep(1)
        assert call.matches(OSError())
        assert call.fail(OSError(), began=0.0, permit_seconds=0.5) == 0.125
        assert call.time_left() == 9
        assert call.fail(error := OSError(), began=1.0, may_retry=False) is None
        assert [each.permit_seconds for each in call.history] == [0.5, 0.0]
        assert get_attempts(error) == tuple(call.history)
        assert "does not allow another attempt" in error.__notes__[0]
        call.leave(ok=False)
        call.leave(ok=False)

    run_virtual(main())
    assert retry.get_retry_log() == (), "attempts of actions are in their rows"
    assert retry.get_status().open_breakers == ()
    with pytest.raises(ConfigurationError, match="RetrySettings"):
        retry.begin("card.charge", {"max_retries": 3})


def test_a_refusal_of_the_pipeline_is_no_event_before_a_retry_was_made() -> None:
    async def main() -> None:
        call = make().begin("card.charge", RetrySettings())
        assert call.fail(error := OSError(), may_retry=False) is None
        assert not hasattr(error, "__notes__")

    run_virtual(main())


def test_a_call_may_be_left_in_another_context_and_begun_outside_a_task() -> None:
    async def main() -> None:
        retry = make()
        call = retry.begin("api", RetrySettings(**BACKOFF))
        assert call.fail(OSError()) is not None
        await asyncio.get_running_loop().create_task(leave(call))
        began = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: began.set_result(retry.begin("api", RetrySettings(**BACKOFF))))
        assert (await began).fail(OSError()) is not None

    async def leave(call: RetryCall) -> None:
        call.leave(ok=None)

    run_virtual(main())
