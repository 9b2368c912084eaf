"""The worker: every job it accepts ends once, in order, in time, and is accounted for."""

import asyncio
import dataclasses
import functools
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import must_catch
from simulation.mutants import Mutant
from virtual_time import run_virtual
from worker_model import EvenClock, commands, play

from asyncsandbox import RetryBackoffManager, RetrySettings, Sandbox, Services, irreversible
from asyncsandbox._core.checks import CheckStatus
from asyncsandbox._core.clock import Clock
from asyncsandbox._core.context import (
    CallScope,
    Host,
    current_host,
    get_correlation_id,
    get_deadline,
    get_running_action,
    register_host,
    running_action,
    set_correlation_id,
    unregister_host,
)
from asyncsandbox._core.detached import leave_call
from asyncsandbox._core.journal import Journal, Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.saga import Saga, current_saga
from asyncsandbox.components.worker import (
    JobOptions,
    JobState,
    WhenFull,
    WorkerProcess,
    WorkerSettings,
    job,
)
from asyncsandbox.components.worker.backend import Claim, Outcome
from asyncsandbox.components.worker.job import describe, name_of
from asyncsandbox.components.worker.memory import MemoryBackend
from asyncsandbox.components.worker.ready import ReadyQueue
from asyncsandbox.components.worker.run import Run
from asyncsandbox.components.worker.runner import Runner
from asyncsandbox.components.worker.schedule import Schedule
from asyncsandbox.components.worker.timeouts import Timeouts
from asyncsandbox.components.worker.trigger import Cron, Every
from asyncsandbox.errors import (
    ConfigurationError,
    JobCancelledError,
    JobNotFoundError,
    JobTimeoutError,
    LifecycleError,
    NotStartedError,
    QueueFullError,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class LoopClock(EvenClock):
    """A time of day that goes with the loop."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.monotonic() + self.offset)


def make_worker(*, host: Host | None = None, clock: Clock | None = None, **fields: Any) -> WorkerProcess:
    """Return a worker whose chance is no chance."""
    clock = clock or LoopClock()
    worker = WorkerProcess(settings=WorkerSettings(**fields))
    worker.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock), host=host))
    return worker


def events(worker: WorkerProcess, name: str) -> list[dict[str, object]]:
    return [dict(event.fields) for event in worker.services.journal.get_events(name)]


async def nap(seconds: float, result: object = None) -> object:
    await asyncio.sleep(seconds)
    return result


async def fail(error: Exception) -> None:
    raise error


async def state_of(worker: WorkerProcess, job_id: str) -> JobState:
    return (await worker.get_job_status(job_id)).state


# ---------------------------------------------------------------- the model


@settings(max_examples=300)
@given(commands)
def test_it_does_what_the_model_says(given_commands: list[Any]) -> None:
    play(given_commands)


MODEL_MUTANTS = (
    Mutant("lowest priority first", "", ReadyQueue.push, "(-priority", "(priority"),
    Mutant("last in, first out", "", ReadyQueue.pop, "line.popleft()", "line.pop()"),
    Mutant("the line before the heap", "", ReadyQueue.pop, "not line or heap[0] < line[0]", "not line"),
    Mutant("twins", "", MemoryBackend._find_twin, "self._by_key.get((request.name, key))", "None"),
    Mutant("key never free again", "", MemoryBackend._end, "del self._by_key[job.name, job.unique_key]", "pass"),
    Mutant("queued not cancelled", "", MemoryBackend.cancel, "if state is _QUEUED:", "if False:"),
    Mutant("retried at once", "", MemoryBackend.finish, "self._now(), outcome.retry_in_seconds", "self._now(), 0.0"),
    Mutant("no delay", "", MemoryBackend._enqueue, "if delay_seconds:", "if False:"),
    Mutant("late ones lost", "", MemoryBackend._wait_for_work, "if self._later else None", "if False else None"),
    Mutant("not counted", "", MemoryBackend._end, "self._ended[outcome.state] += 1", "pass"),
    Mutant("running not counted", "", MemoryBackend._end, "self._running -= 1", "pass"),
    Mutant("attempt not counted", "", MemoryBackend.claim, "job.attempt += 1", "pass"),
    Mutant("lost at the stop", "", MemoryBackend.give_up, "self._end(job, Outcome(state=_CANCELLED))", "pass"),
    Mutant("one attempt too many", "", Run.judge, "attempt <= options", "attempt - 1 <= options"),
    Mutant("never dead", "", Run.judge, "state = JobState.DEAD", "pass"),
    Mutant("not told to end", "", Run._interrupt, "self.task.cancel()", "pass"),
    Mutant("time never over", "", Timeouts._look, "run.time_out()", "pass"),
    Mutant("too many at a time", "", Runner.give_out, "most - len(self.runs)", "most"),
    Mutant("room not noticed", "", Runner._attempt, "if self._slots:", "if False:"),
    Mutant("backoff does not grow", "", Runner._draw_wait, "** min(attempt - 1, 60)", "** 0"),
    Mutant("no cap", "", Runner._draw_wait, "min(settings.retry_cap_seconds, ", "max(0, "),
    Mutant("no grace", "", WorkerProcess._wind_down, "self._settings.grace_seconds", "0"),
    Mutant("grace for what is not due", "", WorkerProcess._wind_down, "delayed=False", "delayed=True"),
)


@pytest.mark.parametrize("mutant", MODEL_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_worker_that_differs_from_the_model_is_caught(mutant: Mutant) -> None:
    def check(given_commands: list[Any]) -> None:
        try:
            play(given_commands)
        except (AssertionError, ConfigurationError, LifecycleError, KeyError, IndexError, RuntimeError) as error:
            raise AssertionError from error

    with mutant.applied():
        must_catch(check, commands)


def test_ten_thousand_jobs_are_accounted_for_exactly() -> None:
    async def main() -> None:
        ran: Counter[int] = Counter()

        async def work(number: int) -> int:
            ran[number] += 1
            if number % 5 == 1:
                raise ValueError(number)
            if number % 5 == 2:
                await asyncio.sleep(1000)
            return number

        async with make_worker(keep_finished=10_000, max_queued=500, concurrency=50) as worker:
            submit = worker.with_options(timeout_seconds=3, max_retries=0).submit_job
            retried = worker.with_options(max_retries=2).submit_job
            ids = []
            for number in range(10_000):
                ids.append(await (retried if number % 10 == 1 else submit)("work", work, number))
                if number % 5 == 3:
                    await worker.cancel(ids[-1])
            await worker.drain()
            states = Counter([await state_of(worker, job_id) for job_id in ids])
            counts = dataclasses.asdict(worker.get_status().jobs)
            assert len(set(ids)) == 10_000
            assert counts == {state.value: states[state] for state in JobState}
            assert states == {
                JobState.SUCCEEDED: 4000,
                JobState.FAILED: 3000,
                JobState.DEAD: 1000,
                JobState.CANCELLED: 2000,
            }
            assert ran == {n: 3 if n % 10 == 1 else 1 for n in range(10_000) if n % 5 != 3}

    run_virtual(main())


# ---------------------------------------------------------------- submitting


async def test_the_owners_snippet() -> None:
    worker = WorkerProcess()
    await worker.start()
    job_id = await worker.submit_job("task", lambda a, *, b: a + b, 1, b=2)
    assert await worker.get_result(job_id) == 3
    status = await worker.get_job_status(job_id)
    assert (status.name, status.state, status.attempt, status.error) == ("task", "succeeded", 1, None)
    assert status.submitted_at <= status.started_at <= status.ended_at
    assert json.loads(json.dumps(dataclasses.asdict(status)))["job_id"] == job_id
    await worker.stop()
    assert await worker.get_result(job_id) == 3


async def test_what_a_function_takes_never_collides_with_what_the_worker_takes() -> None:
    def take(**given_arguments: int) -> dict[str, int]:
        return given_arguments

    wanted = {"name": 1, "function": 2, "self": 3, "timeout_seconds": 4, "priority": 5, "args": 6}
    async with WorkerProcess() as worker:
        for submit in (worker.submit_job, worker.with_options(priority=1).submit_job):
            assert await worker.get_result(await submit("take", take, **wanted)) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay_seconds": -1},
        {"delay_seconds": math.nan},
        {"timeout_seconds": 0},
        {"priority": 1.5},
        {"max_retries": -1},
        {"unique_key": ""},
        {"retry_on": (BaseException,)},
        {"retry_on": ValueError},
        {"retry_on": ("ValueError",)},
    ],
)
async def test_wrong_options_are_refused_at_once(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    for call in (JobOptions, WorkerProcess().with_options, lambda **options: job("name", **options)):
        with pytest.raises(ConfigurationError, match=field):
            call(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"max_queued": 0},
        {"when_full": "panic"},
        {"timeout_seconds": 0},
        {"grace_seconds": -1},
        {"keep_finished": -1},
        {"keep_seconds": -1},
        {"retry_base_seconds": 0},
        {"retry_cap_seconds": 0},
    ],
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        WorkerSettings(**wrong)


async def test_what_cannot_be_submitted_is_refused() -> None:
    worker = WorkerProcess()
    with pytest.raises(NotStartedError, match="worker is not running"):
        await worker.submit_job("early", nap, 0)
    with pytest.raises(NotStartedError):
        await worker.drain()
    async with worker:
        for name in ("", 7):
            with pytest.raises(ConfigurationError, match="name"):
                await worker.submit_job(name, nap, 0)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="function"):
            await worker.submit_job("seven", 7)  # type: ignore[arg-type]
        for ask in (worker.get_job_status, worker.get_result, worker.cancel):
            with pytest.raises(JobNotFoundError, match="'nobody'"):
                await ask("nobody")
    with pytest.raises(NotStartedError):
        await worker.submit_job("late", nap, 0)


async def test_a_call_that_does_not_fit_fails_the_job() -> None:
    async with WorkerProcess() as worker:
        for function in (nap, lambda: None):
            job_id = await worker.submit_job("wrong", function, 1, 2, 3)
            with pytest.raises(TypeError):
                await worker.get_result(job_id)


def test_options_are_declared_at_the_function_and_changed_at_the_submission() -> None:
    calls = []

    @job("shop.mail", max_retries=2, timeout_seconds=5)
    async def mail() -> None:
        calls.append(asyncio.get_running_loop().time())
        await nap(8 if len(calls) == 1 else 0)
        raise ValueError("broken")

    async def main() -> None:
        async with make_worker(retry_base_seconds=2) as worker:
            job_id = await worker.with_options(delay_seconds=3).submit_job(name_of(mail), mail)
            await worker.drain()
            assert calls == [3, 9, 11]
            assert (await worker.get_job_status(job_id)).name == "shop.mail"
            once = await worker.with_options(max_retries=0).submit_job("mail", mail)
            with pytest.raises(ValueError, match="broken"):
                await worker.get_result(once)

    run_virtual(main())
    assert name_of(nap) == "nap"
    with pytest.raises(ConfigurationError):
        job("")


# ---------------------------------------------------------------- room


@dataclasses.dataclass(frozen=True)
class Crowd:
    """Submitters who come one a second, and the moments at which some of them give up."""

    most: int
    patience: tuple[int | None, ...]


crowds = st.builds(
    Crowd, st.integers(1, 3), st.lists(st.none() | st.integers(0, 12), min_size=1, max_size=9).map(tuple)
)


def crowd(drawn: Crowd) -> None:
    """Jobs of 4 s, one at a time: who is let in comes in order, within the bound, and nobody else does."""

    async def main() -> None:
        async with make_worker(concurrency=1, max_queued=drawn.most) as worker:
            begun: list[int] = []
            known: dict[int, str] = {}

            async def work(number: int) -> None:
                begun.append(number)
                await asyncio.sleep(4)

            async def submit(number: int) -> None:
                known[number] = await worker.submit_job("work", work, number)
                assert worker.get_status().jobs.queued <= drawn.most

            tasks = []
            loop = asyncio.get_running_loop()
            for number, patience in enumerate(drawn.patience):
                task = loop.create_task(submit(number))
                tasks.append(task)
                if patience is not None:
                    loop.call_later(patience + 0.5, task.cancel)
                await asyncio.sleep(1)
            await asyncio.wait(tasks)
            await worker.drain()
            assert begun == sorted(known), "in order, and only those who know their id"
            assert sum(dataclasses.asdict(worker.get_status().jobs).values()) == len(known)
            assert all(task.cancelled() or not task.exception() for task in tasks)
            assert all(drawn.patience[n] is not None for n in range(len(tasks)) if n not in known)

    run_virtual(main())


@given(crowds)
def test_submitters_wait_for_room_in_order(drawn: Crowd) -> None:
    crowd(drawn)


@pytest.mark.parametrize(
    "mutant",
    [
        Mutant("no bound", "", MemoryBackend._is_full, "self._queued >= self._settings.max_queued", "False"),
        Mutant("one too many", "", MemoryBackend._is_full, ">=", ">"),
        Mutant("nobody admitted", "", MemoryBackend.claim, "if self._submitters:", "if False:"),
        Mutant("the last first", "", MemoryBackend._admit_next, "self._submitters[0]", "self._submitters[-1]"),
    ],
    ids=lambda mutant: mutant.name,
)
def test_a_queue_that_lets_in_the_wrong_ones_is_caught(mutant: Mutant) -> None:
    def check(drawn: Crowd) -> None:
        try:
            crowd(drawn)
        except ValueError as error:
            raise AssertionError from error

    with mutant.applied():
        must_catch(check, crowds)


def test_a_submitter_waits_no_longer_than_its_deadline() -> None:
    async def main() -> None:
        async with make_worker(concurrency=1, max_queued=1) as worker:
            await worker.submit_job("long", nap, 10)
            await asyncio.sleep(0)
            await worker.submit_job("waits", nap, 1)
            clock, loop = worker.services.clock, asyncio.get_running_loop()
            for seconds in (2, 0):
                began = loop.time()
                with CallScope(clock, seconds), pytest.raises(QueueFullError, match="'late' was not accepted"):
                    await worker.submit_job("late", nap, 0)
                assert loop.time() == began + seconds
            with CallScope(clock, 30):
                job_id = await worker.submit_job("in time", nap, 40, "done")
            assert await worker.get_result(job_id) == "done", "a deadline is the submitter's, not the job's"

    run_virtual(main())


def test_a_full_queue_refuses_where_it_is_told_to() -> None:
    async def main() -> None:
        async with make_worker(concurrency=1, max_queued=1, when_full=WhenFull.REFUSE) as worker:
            with_key = worker.with_options(unique_key="k")
            first = await with_key.submit_job("waits", nap, 1)
            with pytest.raises(QueueFullError) as refused:
                await worker.submit_job("too many", nap, 0)
            assert (refused.value.job, refused.value.queued) == ("too many", 1)
            assert await with_key.submit_job("waits", nap, 1) == first, "a twin needs no room"

    run_virtual(main())


def test_a_job_that_submits_never_waits_for_itself() -> None:
    async def main() -> None:
        async with make_worker(concurrency=1, max_queued=1) as worker:

            async def spread(depth: int) -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(2 if depth else 0):
                        group.create_task(worker.submit_job("spread", spread, depth - 1))

            await worker.submit_job("spread", spread, 4)
            await worker.drain()
            assert worker.get_status().jobs.succeeded == 31

    run_virtual(main())


def test_a_twin_of_a_job_that_was_waited_for_is_not_accepted_and_passes_the_room_on() -> None:
    async def main() -> None:
        async with make_worker(concurrency=1, max_queued=1) as worker:
            await worker.submit_job("long", nap, 3)
            await asyncio.sleep(0)
            await worker.submit_job("waits", nap, 3)
            with_key = worker.with_options(unique_key="k")
            ids = [asyncio.create_task(with_key.submit_job("twin", nap, 3)) for _ in range(3)]
            other = asyncio.create_task(worker.submit_job("other", nap, 3))
            assert len({await each for each in ids}) == 1
            await worker.get_result(await other)
            assert worker.get_status().jobs.succeeded == 4

    run_virtual(main())


# ---------------------------------------------------------------- what a job takes along

_tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def look_around() -> dict[str, object]:
    try:
        host: object = current_host("the test")
    except LookupError:
        host = None
    return {
        "tenant": _tenant.get(),
        "correlation": get_correlation_id(),
        "deadline": get_deadline(),
        "action": get_running_action(),
        "saga": current_saga(),
        "host": host,
    }


def call(function: Callable[[], Any]) -> Any:
    return function()


async def test_a_job_takes_its_submitters_context_along_but_not_its_call() -> None:
    async with make_worker() as worker:
        set_correlation_id("req-7")
        _tenant.set("acme")
        saga = Saga(worker.services, "order")  # type: ignore[arg-type]
        with CallScope(worker.services.clock, 0.5), running_action("card.charge[1]"):
            async with saga:
                ids = [
                    await worker.submit_job("look", function)
                    for function in (look_around, functools.partial(call, look_around))
                ]
                assert current_saga() is saga
                assert get_running_action() == "card.charge[1]"
        for job_id in ids:
            seen = await worker.get_result(job_id)
            assert seen == {
                "tenant": "acme", "correlation": "req-7", "deadline": None, "action": None, "saga": None, "host": None,
            }  # fmt: skip
            assert (await worker.get_job_status(job_id)).correlation_id == "req-7"


def test_a_job_that_a_second_attempt_submits_is_no_part_of_what_is_retried() -> None:
    retry = RetryBackoffManager(settings=RetrySettings(max_retries=1))
    attempts: list[str] = []

    @retry.retrying()
    async def ship() -> str:
        attempts.append("ship")
        if attempts.count("ship") == 1:
            raise ConnectionError("ship")
        return "shipped"

    @retry.retrying()
    async def order(worker: WorkerProcess) -> object:
        attempts.append("order")
        if attempts.count("order") == 1:
            raise ConnectionError("order")
        return await worker.get_result(await worker.submit_job("ship", ship))

    async def main() -> None:
        async with make_worker() as worker:
            assert await order(worker) == "shipped"

    run_virtual(main())
    assert attempts == ["order", "order", "ship", "ship"]


async def test_a_job_without_a_request_is_its_own() -> None:
    async with make_worker() as worker:
        job_id = await worker.submit_job("look", look_around)
        assert (await worker.get_result(job_id))["correlation"] == job_id
        assert get_correlation_id() is None


async def test_a_job_belongs_to_the_workers_sandbox_where_its_submitter_belongs_to_none() -> None:
    ours, other = Host(name="ours", dry_run=False), Host(name="other", dry_run=False)
    register_host(ours)
    register_host(other)
    try:
        async with make_worker(host=ours) as worker:
            assert (await worker.get_result(await worker.submit_job("look", look_around)))["host"] is ours
    finally:
        unregister_host(ours)
        unregister_host(other)


def test_an_attempt_does_not_see_what_the_one_before_left_in_the_context() -> None:
    seen = []

    async def work() -> None:
        seen.append(_tenant.get())
        _tenant.set("spoiled")
        raise ValueError

    async def main() -> None:
        async with make_worker() as worker:
            await worker.with_options(max_retries=2).submit_job("work", work)
            await worker.drain()

    run_virtual(main())
    assert seen == ["nobody"] * 3


# ---------------------------------------------------------------- ending


async def test_the_functions_own_exception_comes_out_unchanged() -> None:
    error = ValueError("mine")
    async with WorkerProcess() as worker:
        job_id = await worker.submit_job("fail", fail, error)
        depths = []
        for _ in range(3):
            with pytest.raises(ValueError, match="mine") as caught:
                await worker.get_result(job_id)
            assert caught.value is error
            depths.append(len(caught.traceback))
        assert len(set(depths)) == 1, "asking again makes no traceback longer"
        status = await worker.get_job_status(job_id)
        assert (status.state, status.error) == ("failed", "ValueError: mine")


def test_a_failing_job_harms_nobody_and_is_published() -> None:
    async def main() -> None:
        async with make_worker(retry_base_seconds=2) as worker:
            await worker.submit_job("once", fail, ValueError("no"))
            dead = await worker.with_options(max_retries=1).submit_job("twice", fail, ValueError("no"))
            picky = worker.with_options(max_retries=1, retry_on=(OSError,))
            unwanted = await picky.submit_job("picky", fail, ValueError("no"))
            late = await worker.with_options(timeout_seconds=1).submit_job("late", nap, 9)
            fine = await worker.submit_job("fine", nap, 3, "fine")
            assert await worker.get_result(fine) == "fine"
            assert await state_of(worker, unwanted) == "failed"
            said = [(e["job"], e["attempt"], e["retry_in_seconds"]) for e in events(worker, "job.failed")]
            assert said == [("once", 1, None), ("twice", 1, 1.0), ("picky", 1, None), ("late", 1, None)]
            (tells_dead,) = events(worker, "job.dead")
            assert (tells_dead["job_id"], tells_dead["attempt"], tells_dead["error"]) == (dead, 2, "ValueError: no")
            with pytest.raises(ValueError, match="no") as caught:
                await worker.get_result(dead)
            assert caught.value.__notes__ == [f"job 'twice' ({dead}) is dead after 2 attempts"]
            (tells_late,) = events(worker, "job.timed_out")
            assert (tells_late["job_id"], tells_late["state"]) == (late, "failed")
            with pytest.raises(JobTimeoutError, match="not done within 1 s"):
                await worker.get_result(late)
            levels = [event.level for event in worker.services.journal.get_events("job.failed")]
            assert levels == [Level.ERROR, Level.WARNING, Level.ERROR, Level.ERROR]
            assert {event.correlation_id for event in worker.services.journal.get_events("job.dead")} == {dead}

    run_virtual(main())


def test_an_error_raised_while_it_is_timed_out_is_the_cause() -> None:
    async def clumsy() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            raise OSError("clean-up failed")

    async def main() -> None:
        async with make_worker() as worker:
            job_id = await worker.with_options(timeout_seconds=1).submit_job("clumsy", clumsy)
            with pytest.raises(JobTimeoutError) as caught:
                await worker.get_result(job_id)
            assert isinstance(caught.value.__cause__, OSError)
            running = await worker.submit_job("clumsy", clumsy)
            await asyncio.sleep(0.1)
            assert await worker.cancel(running)
            with pytest.raises(JobCancelledError, match=f"'clumsy' .{running}"):
                await worker.get_result(running)
            assert (await worker.get_job_status(running)).error == "OSError: clean-up failed"

    run_virtual(main())


def test_a_job_that_returns_all_the_same_has_succeeded() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return "done"
        raise AssertionError

    async def main() -> None:
        async with make_worker() as worker:
            late = await worker.with_options(timeout_seconds=1, max_retries=5).submit_job("stubborn", stubborn)
            cancelled = await worker.submit_job("stubborn", stubborn)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert await worker.cancel(cancelled)
            assert await worker.get_result(late) == await worker.get_result(cancelled) == "done"
            assert not await worker.cancel(cancelled), "it had ended"
            assert [event["state"] for event in events(worker, "job.timed_out")] == ["succeeded"]

    run_virtual(main())


def test_a_job_that_cancels_itself_is_cancelled() -> None:
    async def main() -> None:
        async with make_worker() as worker:
            job_id = await worker.with_options(max_retries=3).submit_job("self", raise_cancelled)
            with pytest.raises(JobCancelledError):
                await worker.get_result(job_id)
            status = await worker.get_job_status(job_id)
            assert (status.attempt, status.error) == (1, None)

    run_virtual(main())


async def raise_cancelled() -> None:
    raise asyncio.CancelledError


def test_a_job_cancelled_before_its_first_step_never_runs() -> None:
    async def main() -> None:
        ran = []
        async with make_worker() as worker:
            job_id = await worker.submit_job("never", ran.append, 1)
            await asyncio.sleep(0)  # given out, and its task has not run yet
            assert await state_of(worker, job_id) == "running"
            assert await worker.cancel(job_id)
            assert await worker.cancel(job_id), "twice is once"
            with pytest.raises(JobCancelledError):
                await worker.get_result(job_id)
        assert ran == []

    run_virtual(main())


def test_a_job_cancelled_between_others_is_not_given_out_with_them() -> None:
    async def main() -> None:
        ran: list[int] = []

        async def work(number: int) -> None:
            ran.append(number)

        async with make_worker() as worker:
            ids = [await worker.submit_job("work", work, number) for number in range(3)]
            assert await worker.cancel(ids[1])
            await worker.drain()
            assert ran == [0, 2]
            assert await state_of(worker, ids[1]) == "cancelled"

    run_virtual(main())


def test_whoever_stops_waiting_for_a_result_leaves_the_job_alone() -> None:
    async def main() -> None:
        async with make_worker() as worker:
            job_id = await worker.submit_job("nap", nap, 5, "rested")
            waiters = [asyncio.create_task(worker.get_result(job_id)) for _ in range(3)]
            await asyncio.sleep(1)
            waiters[0].cancel()
            assert await waiters[1] == await waiters[2] == "rested"
            assert waiters[0].cancelled()

    run_virtual(main())


@given(st.integers(0, 3), st.sampled_from([0, 5, 50]), st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_ended_jobs_are_remembered_by_number_and_by_time(most: int, seconds: int, pauses: list[int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with make_worker(keep_finished=most, keep_seconds=seconds) as worker:
            ended: list[tuple[str, float]] = []
            for pause in pauses:
                job_id = await worker.submit_job("nap", nap, 0)
                await worker.drain()
                ended.append((job_id, loop.time()))
                await asyncio.sleep(pause + 0.25)
                for number, (known, at) in enumerate(reversed(ended)):
                    if number < most and loop.time() < at + seconds:
                        assert await state_of(worker, known) == "succeeded"
                    else:
                        with pytest.raises(JobNotFoundError):
                            await worker.get_job_status(known)
            assert len(worker._backends.first._jobs) <= most  # type: ignore[attr-defined]
        await worker.start()
        await worker.stop()

    run_virtual(main())


def test_what_a_job_was_given_is_let_go_of_when_it_ends() -> None:
    import gc
    import weakref

    class Big:
        pass

    async def main() -> None:
        async with make_worker() as worker:
            big = Big()
            gone = weakref.ref(big)
            job_id = await worker.submit_job("big", nap, 0, big)
            await worker.submit_job("cancelled", nap, 0, big)
            del big
            await worker.drain()
            assert await worker.get_result(job_id) is gone()
            worker._backends.first._jobs[job_id].outcome = Outcome(state=JobState.SUCCEEDED)  # type: ignore[attr-defined]
            for each in worker._backends.first._jobs.values():  # type: ignore[attr-defined]
                each.outcome = Outcome(state=JobState.SUCCEEDED)
            await asyncio.sleep(0)
            gc.collect()
            assert gone() is None

    run_virtual(main())


def test_cancelled_jobs_do_not_pile_up_in_the_queue() -> None:
    async def main() -> None:
        async with make_worker(concurrency=1) as worker:
            await worker.submit_job("long", nap, 1e6)
            later, urgent = worker.with_options(delay_seconds=1e5), worker.with_options(priority=1)
            for _ in range(300):
                for submit in (later.submit_job, urgent.submit_job, worker.submit_job):
                    await worker.cancel(await submit("never", nap, 0))
            backend: Any = worker._backends.first
            assert len(backend._ready) + len(backend._later) <= 70
            kept = await worker.submit_job("kept", nap, 0)
            for _ in range(100):
                await worker.cancel(await worker.submit_job("never", nap, 0))
            await worker.drain()
            assert await state_of(worker, kept) == "succeeded"

    run_virtual(main())


def test_an_error_that_cannot_say_what_it_is_harms_nobody() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(MuteError()) == "MuteError"


# ---------------------------------------------------------------- threads


class Gate:
    """A plain function that returns when it is told to."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, result: object) -> object:
        self.begun.set()
        assert self.let_go.wait(10)
        if isinstance(result, Exception):
            raise result
        return result


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread sets what is waited for
        await asyncio.sleep(0.001)


async def test_a_thread_counts_as_running_until_it_ends() -> None:
    async with WorkerProcess(settings=WorkerSettings(concurrency=1)) as worker:
        gates = [Gate() for _ in range(3)]
        quick = worker.with_options(timeout_seconds=0.01, max_retries=1, retry_on=(OSError,))
        late = await quick.submit_job("late", gates[0], "late")
        await until(lambda: late in worker._runner.runs and worker._runner.runs[late].is_timed_out)
        other = await worker.submit_job("other", gates[1], "other")
        assert (await state_of(worker, late), await state_of(worker, other)) == ("running", "queued")
        gates[0].let_go.set()
        assert await worker.get_result(late) == "late"
        await until(gates[1].begun.is_set)
        assert await worker.cancel(other)
        assert await state_of(worker, other) == "running"
        gates[1].let_go.set()
        assert await worker.get_result(other) == "other"
        failing = await worker.with_options(timeout_seconds=0.01).submit_job("failing", gates[2], ValueError("no"))
        await until(lambda: failing in worker._runner.runs and worker._runner.runs[failing].is_timed_out)
        gates[2].let_go.set()
        with pytest.raises(JobTimeoutError):
            await worker.get_result(failing)


async def test_stop_waits_for_threads_also_when_it_is_cancelled() -> None:
    worker = WorkerProcess(settings=WorkerSettings(grace_seconds=60))
    await worker.start()
    gate = Gate()
    job_id = await worker.submit_job("gate", gate, "done")
    await until(gate.begun.is_set)
    stopping = asyncio.create_task(worker.stop())
    for _ in range(3):
        await asyncio.sleep(0.005)
        stopping.cancel()
    await asyncio.sleep(0.005)
    assert not stopping.done()
    gate.let_go.set()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    assert worker.get_status().state == "stopped"
    assert await worker.get_result(job_id) == "done"


async def test_a_plain_function_that_returns_an_awaitable_is_awaited_and_can_be_cancelled() -> None:
    async with WorkerProcess() as worker:
        assert await worker.get_result(await worker.submit_job("nap", lambda: nap(0, "rested"))) == "rested"
        begun = threading.Event()
        job_id = await worker.submit_job("nap", lambda: (begun.set(), nap(60))[1])
        await until(begun.is_set)
        await worker.cancel(job_id)
        with pytest.raises(JobCancelledError):
            await worker.get_result(job_id)


@pytest.mark.parametrize("kind", ["coroutine", "future"])
async def test_a_thread_cancelled_before_it_returned_an_awaitable_does_not_await_it(kind: str) -> None:
    async with WorkerProcess() as worker:
        gate = Gate()
        future = asyncio.get_running_loop().create_future()
        job_id = await worker.submit_job("gate", gate, nap(60) if kind == "coroutine" else future)
        await until(gate.begun.is_set)
        await worker.cancel(job_id)
        gate.let_go.set()
        with pytest.raises(JobCancelledError):
            await worker.get_result(job_id)


async def test_an_object_with_an_async_call_is_a_coroutine_function() -> None:
    class Mailer:
        async def __call__(self, address: str) -> str:
            return f"{address} in {threading.current_thread().name}"

    async with WorkerProcess() as worker:
        said = await worker.get_result(await worker.submit_job("mail", Mailer(), "ann"))
        assert said == f"ann in {threading.main_thread().name}"


# ---------------------------------------------------------------- stop and drain


def test_stop_reports_what_it_cancelled() -> None:
    async def main() -> None:
        worker = make_worker(concurrency=1, grace_seconds=2)
        await worker.start()
        running = await worker.submit_job("long", nap, 60)
        waiting = await worker.submit_job("waits", nap, 1)
        later = await worker.with_options(delay_seconds=90).submit_job("later", nap, 1)
        asking = asyncio.create_task(worker.get_result(waiting))
        await worker.stop()
        assert asyncio.get_running_loop().time() == 2
        assert {await state_of(worker, each) for each in (running, waiting, later)} == {JobState.CANCELLED}
        (said,) = events(worker, "worker.jobs_cancelled")
        assert (said["count"], said["job_ids"]) == (3, (running, waiting, later))
        with pytest.raises(JobCancelledError):
            await asking

    run_virtual(main())


def test_whoever_waits_for_room_when_the_worker_stops_is_refused() -> None:
    async def main() -> None:
        worker = make_worker(concurrency=1, max_queued=1)
        await worker.start()
        await worker.submit_job("long", nap, 5)
        await asyncio.sleep(0)
        await worker.submit_job("waits", nap, 5)
        waiting = [asyncio.create_task(worker.submit_job("waits", nap, 5)) for _ in range(3)]
        await asyncio.sleep(1)
        stopping = asyncio.create_task(worker.stop())
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in refused] == [NotStartedError] * 3
        assert asyncio.get_running_loop().time() == 1
        await stopping
        assert worker.get_status().jobs.succeeded == 2

    run_virtual(main())


def test_drain_waits_for_what_jobs_submit_too() -> None:
    async def main() -> None:
        async with make_worker() as worker:

            async def chain(left: int) -> None:
                await asyncio.sleep(1)
                if left:
                    await worker.with_options(delay_seconds=1).submit_job("chain", chain, left - 1)

            await worker.drain()
            await worker.submit_job("chain", chain, 4)
            impatient = asyncio.create_task(worker.drain())
            await asyncio.sleep(0.5)
            impatient.cancel()
            await worker.drain()
            assert asyncio.get_running_loop().time() == 9
            assert worker.get_status().jobs.succeeded == 5

    run_virtual(main())


@pytest.mark.parametrize("call", ["drain", "stop", "cleanup"])
def test_a_job_does_not_wait_for_itself(call: str) -> None:
    async def main() -> None:
        async with make_worker() as worker:
            job_id = await worker.submit_job("self", getattr(worker, call))
            with pytest.raises(LifecycleError, match="would wait for itself"):
                await worker.get_result(job_id)

    run_virtual(main())


# ---------------------------------------------------------------- rehearsals

SENT: list[str] = []


@irreversible("mail.send", key=lambda address: address)
async def send(address: str) -> None:
    SENT.append(address)


async def sign_up(worker: WorkerProcess, address: str) -> None:
    await worker.submit_job("welcome", welcome, worker, address)
    await worker.with_options(delay_seconds=3600).submit_job("remind", remind, address)


async def welcome(worker: WorkerProcess, address: str) -> None:
    await send(f"welcome {address}")
    await worker.with_options(max_retries=1).submit_job("flaky", flaky, address, [])


async def remind(address: str) -> None:
    await send(f"remind {address}")


async def flaky(address: str, calls: list[int]) -> None:
    calls.append(1)
    if len(calls) == 1:
        raise OSError
    await send(f"flaky {address}")


async def test_jobs_of_a_rehearsal_belong_to_it() -> None:
    fired = []
    box = Sandbox(dry_run=True)
    box.worker.scheduled(every_seconds=0.001)(lambda: fired.append(1))
    async with box as sandbox:
        plan = await sandbox.rehearse(sign_up, box.worker, "ann")
        assert sorted(action.key for action in plan.actions) == ["flaky ann", "remind ann", "welcome ann"]
    assert SENT == []
    assert fired == []


async def test_a_job_may_call_actions_while_the_sandbox_stops() -> None:
    sent = []

    @irreversible("mail.goodbye", key=lambda to: to)
    async def goodbye(to: str) -> None:
        sent.append(to)

    async def job() -> None:
        await asyncio.sleep(0.01)
        await goodbye("ann")

    async with Sandbox(dry_run=False) as sandbox:
        await sandbox.worker.submit_job("goodbye", job)
    assert sent == ["ann"]
    assert [record.state.value for record in sandbox.get_actions()] == ["done"]


# ---------------------------------------------------------------- status and check


async def test_status_and_check_tell_of_a_queue_that_fills() -> None:
    worker = WorkerProcess(settings=WorkerSettings(concurrency=1, max_queued=5))
    worker.scheduled(every_seconds=60, name="tick")(lambda: None)
    (check,) = worker.get_checks()
    assert (check.name, check.critical) == ("worker", False)
    assert (await check.fn()).status is CheckStatus.FAIL  # type: ignore[misc,union-attr]
    async with worker:
        assert (await check.fn()).status is CheckStatus.PASS  # type: ignore[misc,union-attr]
        for _ in range(4):
            await worker.submit_job("nap", nap, 0)
        answer = await check.fn()  # type: ignore[misc]
        assert answer.status is CheckStatus.WARN  # type: ignore[union-attr]
        assert "4 jobs are waiting, of 5" in answer.output  # type: ignore[union-attr]
        assert worker.get_status().jobs.queued == 4
        assert worker.get_status().schedules == ("tick",)


# ---------------------------------------------------------------- schedules


def test_an_interval_counts_from_the_start_and_does_not_drift() -> None:
    async def main() -> None:
        at = []
        worker = make_worker()

        @worker.scheduled(every_seconds=10)
        async def tick() -> None:
            at.append(asyncio.get_running_loop().time())
            await asyncio.sleep(4)

        await asyncio.sleep(3)
        async with worker:
            await asyncio.sleep(45)
        assert at == [13, 23, 33, 43]
        (started,) = events(worker, "schedule.started")
        assert started["next_in_seconds"] == 10
        fired = events(worker, "schedule.fired")
        assert [event["next_in_seconds"] for event in fired] == [10] * 4
        assert {event["schedule"] for event in fired} == {name_of(tick)}

    run_virtual(main())


@pytest.mark.parametrize("overlap", [False, True])
def test_a_firing_waits_for_no_job_and_overlaps_only_where_it_may(overlap: bool) -> None:
    async def main() -> None:
        at = []
        worker = make_worker()

        @worker.scheduled(every_seconds=10, overlap=overlap, name="slow")
        async def slow() -> None:
            at.append(asyncio.get_running_loop().time())
            await asyncio.sleep(15)

        async with worker:
            await asyncio.sleep(55)
        assert at == ([10, 20, 30, 40, 50] if overlap else [10, 30, 50])
        skipped = events(worker, "schedule.skipped")
        assert len(skipped) == (0 if overlap else 2)
        assert all("has not ended" in str(event["reason"]) for event in skipped)

    run_virtual(main())


@pytest.mark.parametrize("max_late", [None, 5.0])
def test_missed_firings_are_made_up_for_by_one_or_skipped(max_late: float | None) -> None:
    async def main() -> None:
        at: list[float] = []
        clock = LoopClock()
        worker = make_worker(clock=clock)

        @worker.scheduled(cron="0 * * * *", max_late_seconds=max_late)
        async def hourly() -> None:
            at.append(clock.now().timestamp())

        async with worker:
            await asyncio.sleep(100)
            clock.offset += 5 * 3600 + 1800  # the machine slept: 13, 14, 15, 16 and 17 o'clock are past
            await asyncio.sleep(4000)
        hours = [round((moment - NOON.timestamp()) / 3600, 2) for moment in at]
        assert hours == ([6.0] if max_late else [5.53, 6.0])
        assert len(events(worker, "schedule.skipped")) == (1 if max_late else 0)

    run_virtual(main())


def test_a_schedule_meets_a_full_queue() -> None:
    async def main() -> None:
        worker = make_worker(concurrency=1, max_queued=1, when_full="refuse")
        worker.scheduled(every_seconds=10, name="tick")(lambda: None)
        async with worker:
            await worker.submit_job("long", nap, 25)
            await asyncio.sleep(0)
            await worker.submit_job("waits", nap, 1)
            await asyncio.sleep(35)
        assert [event["reason"] for event in events(worker, "schedule.skipped")] == ["the queue is full"] * 2
        assert len(events(worker, "schedule.fired")) == 1

    run_virtual(main())


def test_every_scheduled_job_is_a_request_of_its_own_with_the_options_of_its_function() -> None:
    async def main() -> None:
        seen = []
        worker = make_worker()

        @worker.scheduled(every_seconds=10)
        @job("tick", max_retries=1)
        async def tick() -> None:
            seen.append((get_correlation_id(), get_deadline()))
            raise OSError

        with CallScope(worker.services.clock, 5):
            await worker.start()
        await asyncio.sleep(25)
        await worker.stop()
        ids = [correlation for correlation, _ in seen]
        assert len(ids) == 4
        assert len(set(ids)) == 2
        assert {deadline for _, deadline in seen} == {None}
        assert len(events(worker, "job.dead")) == 2

    run_virtual(main())


def test_a_schedule_that_meets_the_stop_ends_quietly() -> None:
    async def main() -> None:
        worker = make_worker(grace_seconds=20)
        worker.scheduled(every_seconds=10, name="tick")(lambda: None)
        await worker.start()
        await worker.submit_job("long", nap, 15)
        await asyncio.sleep(5)
        await worker.stop()
        assert asyncio.get_running_loop().time() == 15
        assert events(worker, "component.task_failed") == []
        assert events(worker, "schedule.fired") == []

    run_virtual(main())


@given(st.floats(0.01, 1e5), st.floats(0, 1e7), st.floats(0, 1e7))
def test_the_next_firing_is_the_first_after_a_moment(seconds: float, start: float, passed: float) -> None:
    every = Every(seconds)
    every.begin(start)
    after = start + passed
    at = every.get_next(after)
    assert after < at
    assert at - after <= seconds * 1.001 + 1e-6
    number = (at - start) / seconds
    assert number == pytest.approx(round(number), abs=1e-3)


@given(st.integers(0, 5 * 365 * 86_400), st.sampled_from(["UTC", "Europe/Berlin"]))
def test_cron_fires_at_the_local_time(seconds: int, zone: str) -> None:
    after = NOON + timedelta(seconds=seconds)
    at = Cron("30 6 * * MON-FRI", zone).get_next(after.timestamp())
    local = datetime.fromtimestamp(at, ZoneInfo(zone))  # type: ignore[arg-type]
    assert (local.hour, local.minute, local.second) == (6, 30, 0)
    assert local.weekday() < 5
    assert 0 < at - after.timestamp() <= 3 * 86_400 + 3600  # type: ignore[operator]


def test_a_schedule_that_comes_to_its_end_ends() -> None:
    class Once(Every):
        def get_next(self, after: float) -> float | None:  # type: ignore[override]
            return 10.0 if after < 10 else None

    async def main() -> None:
        worker = make_worker()
        ran = []
        worker._schedules["once"] = Schedule(
            name="once", function=lambda: ran.append(1), trigger=Once(1), overlap=False, max_late_seconds=None
        )
        never = Once(1)
        never.get_next = lambda after: None  # type: ignore[method-assign,assignment]
        worker._schedules["never"] = dataclasses.replace(worker._schedules["once"], name="never", trigger=never)
        async with worker:
            await asyncio.sleep(100)
        assert ran == [1]
        assert [event["next_in_seconds"] for event in events(worker, "schedule.fired")] == [None]

    run_virtual(main())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "every_seconds"),
        ({"every_seconds": 1, "cron": "* * * * *"}, "every_seconds"),
        ({"every_seconds": 0}, "every_seconds"),
        ({"every_seconds": "1"}, "every_seconds"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "often"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"cron": 5}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "* * */20 * 1L"}, "cron"),
        ({"cron": "* * * * *", "timezone": "Atlantis/Capital"}, "timezone"),
        ({"cron": "* * * * *", "timezone": "../etc"}, "timezone"),
        ({"cron": "* * * * *", "timezone": "Europe"}, "timezone"),
        ({"cron": "* * * * *", "timezone": None}, "timezone"),
        ({"every_seconds": 1, "max_late_seconds": -1}, "max_late_seconds"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_at_once(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        WorkerProcess().scheduled(**wrong)(lambda: None)


async def test_schedules_have_names_of_their_own_and_come_before_the_start() -> None:
    worker = WorkerProcess()
    worker.scheduled(every_seconds=1, name="tick")(lambda: None)
    with pytest.raises(ConfigurationError, match="this name is taken"):
        worker.scheduled(every_seconds=1, name="tick")(lambda: None)
    with pytest.raises(ConfigurationError, match="function"):
        worker.scheduled(every_seconds=1, name="seven")(7)  # type: ignore[type-var]
    async with worker:
        with pytest.raises(LifecycleError, match="before the worker starts"):
            worker.scheduled(every_seconds=1, name="tock")(lambda: None)
    assert repr(Every(60)) == "every 60 s"
    assert repr(Cron("0 3 * * *", "UTC")) == "cron '0 3 * * *' in UTC"


# ---------------------------------------------------------------- parts


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 9)), max_size=30), st.data())
def test_the_ready_queue_is_a_sorted_list(pushes: list[tuple[int, int]], data: st.DataObject) -> None:
    queue: ReadyQueue[tuple[int, int]] = ReadyQueue()
    model: list[tuple[int, int]] = []
    for priority, number in pushes:
        entry = (-priority, number)
        if entry not in model and number not in [n for _, n in model]:
            queue.push(priority, number, entry)
            model.append(entry)
        model.sort()
        if model and data.draw(st.booleans()):
            assert queue.peek() == model[0]
            assert queue.pop() == model.pop(0)
        if data.draw(st.sampled_from([False, False, True])):
            queue.keep(lambda item: item[1] % 3 != 0)
            model = [item for item in model if item[1] % 3 != 0]
        assert len(queue) == len(model)


async def test_an_old_claim_changes_nothing() -> None:
    settings_ = WorkerSettings(retry_base_seconds=0.001)
    backend = MemoryBackend(settings_)
    worker = WorkerProcess(settings=settings_, backend=backend)
    claims: list[Claim] = []
    release = asyncio.Event()

    async def work() -> str:
        claims.append(worker._runner.runs[get_correlation_id() or ""].claim)
        if len(claims) == 1:
            raise OSError
        await release.wait()
        return "second"

    async with worker:
        job_id = await worker.with_options(max_retries=1).submit_job("work", work)
        await until(lambda: len(claims) == 2)
        stolen = Outcome(state=JobState.SUCCEEDED, result="first")
        assert not await backend.finish(claims[0], stolen)
        release.set()
        assert await worker.get_result(job_id) == "second"
        assert not await backend.finish(claims[1], stolen)
        assert await worker.get_result(job_id) == "second"


def test_a_function_that_has_ended_is_not_cancelled_while_its_outcome_is_recorded() -> None:
    class Slow(MemoryBackend):
        async def finish(self, claim: Claim, outcome: Outcome) -> bool:
            await asyncio.sleep(5)
            return await super().finish(claim, outcome)

    async def main() -> None:
        worker = WorkerProcess(backend=Slow(WorkerSettings()))
        async with worker:
            job_id = await worker.with_options(timeout_seconds=2).submit_job("nap", nap, 1, "rested")
            await asyncio.sleep(3)
            assert not await worker.cancel(job_id)
            stopping = asyncio.create_task(worker.stop())
            assert await worker.get_result(job_id) == "rested"
            await stopping
        assert events(worker, "job.timed_out") == []

    run_virtual(main())


class Timed:
    """What can take too long."""

    def __init__(self) -> None:
        self.is_over = False
        self.at: float | None = None

    def time_out(self) -> None:
        self.at = asyncio.get_running_loop().time()


timed_runs = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 5]), st.integers(0, 7)), max_size=20)


def time_out(runs: list[tuple[int, int, int]]) -> None:
    """Runs that begin so long after each other, may take so long, and last so long."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeouts = Timeouts(EvenClock())
        seen = []
        for pause, seconds, lasts in runs:
            await asyncio.sleep(pause)
            run, began = Timed(), loop.time()
            timeouts.begin(run, began, seconds)

            def end(run: Timed = run, seconds: int = seconds) -> None:
                run.is_over = True
                timeouts.end(seconds)

            loop.call_later(lasts + 0.5, end)
            seen.append((run, began + seconds if seconds < lasts + 0.5 else None))
        await asyncio.sleep(10)
        assert [run.at for run, _ in seen] == [at for _, at in seen]
        await asyncio.sleep(10)
        assert not timeouts._lanes

    run_virtual(main())


@given(timed_runs)
def test_timeouts_come_in_time_and_only_to_what_runs(runs: list[tuple[int, int, int]]) -> None:
    time_out(runs)


@pytest.mark.parametrize(
    "mutant",
    [
        Mutant("one timer only", "", Timeouts._look, "if runs:", "if False:"),
        Mutant("too early", "", Timeouts._look, "runs[0][0] <= now", "True"),
        Mutant("what has ended", "", Timeouts._look, "if not run.is_over:", "if True:"),
        Mutant("lanes stay", "", Timeouts._drop, "del self._lanes[lane.seconds]", "pass"),
        Mutant("ended twice", "", Timeouts.end, "lane.alive -= 1", "lane.alive = 0"),
    ],
    ids=lambda mutant: mutant.name,
)
def test_wrong_timeouts_are_caught(mutant: Mutant) -> None:
    def check(runs: list[tuple[int, int, int]]) -> None:
        try:
            time_out(runs)
        except KeyError as error:
            raise AssertionError from error

    with mutant.applied():
        must_catch(check, timed_runs)


async def test_timeouts_keep_little() -> None:
    timeouts = Timeouts(EvenClock())
    long = Timed()
    timeouts.begin(long, 0.0, 1e6)
    for _ in range(1000):
        run = Timed()
        timeouts.begin(run, 0.0, 1e6)
        run.is_over = True
        timeouts.end(1e6)
    assert len(timeouts) <= 70
    timeouts.end(1e6)
    for number in range(1000):
        timeouts.begin(long, 0.0, 1e6 + number)
        timeouts.end(1e6 + number)
    assert len(timeouts._lanes) <= 65


# ---------------------------------------------------------------- broken variants of what the examples hold

EXAMPLES = (
    (
        Mutant("cancelled when over", "", Run.cancel, "if self.is_over:", "if False:"),
        test_a_function_that_has_ended_is_not_cancelled_while_its_outcome_is_recorded,
    ),
    (
        Mutant("cancelled runs", "", MemoryBackend.claim, "if job.state is _QUEUED:", "if True:"),
        test_a_job_cancelled_between_others_is_not_given_out_with_them,
    ),
    (
        Mutant("cancelled and tried again", "", Run.cancel, "self.is_unwanted = True", "pass"),
        test_an_error_raised_while_it_is_timed_out_is_the_cause,
    ),
    (
        Mutant("runs though cancelled", "", Runner._attempt, "if run.is_unwanted", "if False"),
        test_a_job_cancelled_before_its_first_step_never_runs,
    ),
    (
        Mutant("cancelled before its first step", "", Run._interrupt, "self.has_begun and ", ""),
        test_a_job_cancelled_before_its_first_step_never_runs,
    ),
    (
        Mutant("context shared by attempts", "", Runner._begin, "if options.max_retries else", "if False else"),
        test_an_attempt_does_not_see_what_the_one_before_left_in_the_context,
    ),
    (
        Mutant("job waits for itself", "", WorkerProcess._request, "self._is_inside_job(),", "False,"),
        test_a_job_that_submits_never_waits_for_itself,
    ),
    (
        Mutant("part of what is retried", "", leave_call, "_retried.get() is not None", "False"),
        test_a_job_that_a_second_attempt_submits_is_no_part_of_what_is_retried,
    ),
    (
        Mutant("deadline ignored", "", WorkerProcess._request, "get_deadline(),", "None,"),
        test_a_submitter_waits_no_longer_than_its_deadline,
    ),
    (
        Mutant("request kept", "", MemoryBackend._end, "job.request = _FORGOTTEN", "pass"),
        test_what_a_job_was_given_is_let_go_of_when_it_ends,
    ),
    (
        Mutant("queue not swept", "", MemoryBackend.cancel, "self._sweep()", "pass"),
        test_cancelled_jobs_do_not_pile_up_in_the_queue,
    ),
    (
        Mutant("not told of the stop", "", MemoryBackend.shut, "_settle(turn)", "pass"),
        test_whoever_waits_for_room_when_the_worker_stops_is_refused,
    ),
    (
        Mutant("drain without the delayed", "", WorkerProcess.drain, "delayed=True", "delayed=False"),
        test_drain_waits_for_what_jobs_submit_too,
    ),
    (
        Mutant("jobs outlive the worker", "", Runner.end_all, "run.give_up()", "pass"),
        test_stop_reports_what_it_cancelled,
    ),
    (
        Mutant("not reported", "", WorkerProcess._end_jobs, "if ended:", "if False:"),
        test_stop_reports_what_it_cancelled,
    ),
    (
        Mutant("drift", "", Every.get_next, "self._start + (passed + 1) * self._seconds", "after + self._seconds + 1"),
        test_an_interval_counts_from_the_start_and_does_not_drift,
    ),
    (
        Mutant(
            "the starter's request",
            "",
            WorkerProcess._make_context,
            "context.run(set_correlation_id, correlation_id)",
            "pass",
        ),
        test_every_scheduled_job_is_a_request_of_its_own_with_the_options_of_its_function,
    ),
)


@pytest.mark.parametrize(("mutant", "example"), EXAMPLES, ids=[mutant.name for mutant, _ in EXAMPLES])
def test_a_broken_variant_fails_its_example(mutant: Mutant, example: Callable[[], None]) -> None:
    with (
        mutant.applied(),
        pytest.raises((AssertionError, pytest.fail.Exception, LookupError, OSError, QueueFullError, ValueError)),
    ):
        example()
