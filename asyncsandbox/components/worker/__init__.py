"""Background jobs: submitted in an instant, run a few at a time, and accounted for one by one.

It promises that every job it accepted ends in exactly one final state, that a failing job harms neither its submitter
nor another job, and that jobs begin in order of priority and submission.

>>> async def main() -> tuple[object, str]:
...     async with WorkerProcess() as worker:
...         job_id = await worker.submit_job("sum", sum, (1, 2, 3))
...         result = await worker.get_result(job_id)
...         return result, (await worker.get_job_status(job_id)).state.value
>>> asyncio.run(main())
(6, 'succeeded')
"""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from ..._core.checks import Check, CheckResult, CheckStatus
from ..._core.component import Component, ComponentState
from ..._core.context import get_correlation_id, get_deadline, set_correlation_id
from ..._core.detached import leave_call
from ..._core.journal import Level
from ..._core.settings import require_name
from ...errors import ConfigurationError, JobCancelledError, LifecycleError, NotStartedError
from .backend import JobBackend, JobCounts, Outcome, Request
from .backends import DURABLE, Backends
from .in_session import InSession
from .job import JobKeywords, JobOptions, JobState, JobStatus, JobSubmitter, declared_name, job, options_of
from .runner import Runner
from .schedule import Schedule, ScheduleKeywords
from .settings import WhenFull, WorkerSettings
from .status import WorkerStatus
from .trigger import make_trigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from ..._core.context import Host

__all__ = [
    "JobBackend",
    "JobCounts",
    "JobKeywords",
    "JobOptions",
    "JobState",
    "JobStatus",
    "JobSubmitter",
    "Outcome",
    "ScheduleKeywords",
    "WhenFull",
    "WorkerProcess",
    "WorkerSettings",
    "WorkerStatus",
    "job",
]

P = ParamSpec("P")
F = TypeVar("F", bound="Callable[[], Any]")

_NEARLY_FULL = 0.8

_running_job: ContextVar[str | None] = ContextVar("asyncsandbox_running_job", default=None)


class WorkerProcess(Component):
    """Runs jobs in the background of the program: coroutine functions as tasks, plain functions in threads.

    A job that was accepted ends once, as succeeded, failed, cancelled or dead. In a sandbox with a store that holds
    whatever happens to the process, for functions declared with `job`; every other job is kept in memory and dies with
    the process. It runs with the correlation id and the sandbox of its submitter, and without the submitter's deadline,
    action, saga and retries. In a dry run all are kept in memory and begin at once, and schedules do not fire.

    Concurrency: for one event loop; any number of tasks may submit. Cancellation: a cancelled `submit_job` has not
    submitted; cancelling any other call changes nothing about the job.

    Args:
        settings: How jobs are run and kept.
        backend: What keeps them all; None for memory, and for the store of the sandbox.

    Example:
        >>> async def main() -> tuple[str, str]:
        ...     async with WorkerProcess(settings=WorkerSettings(concurrency=2)) as worker:
        ...         slow = worker.with_options(timeout_seconds=0.01)
        ...         first = await slow.submit_job("nap", asyncio.sleep, 60)
        ...         await worker.drain()
        ...         status = await worker.get_job_status(first)
        ...         return status.state.value, status.error
        >>> state, error = asyncio.run(main())
        >>> state, error.split(":")[0]
        ('failed', 'JobTimeoutError')
    """

    name = "worker"

    def __init__(self, *, settings: WorkerSettings | None = None, backend: JobBackend | None = None) -> None:
        super().__init__()
        self._settings = settings or WorkerSettings()
        self._backends = Backends(backend, self._settings)
        self._schedules: dict[str, Schedule] = {}
        self._runner: Runner | None = None
        self._host: Host | None = None  # this and the mode are at hand for every job
        self._is_rehearsal = False
        self._prefix = ""
        self._ids = 0

    async def submit_job(self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Accept a job and return its id, at once or as soon as there is room.

        Args:
            name: What it is called.
            function: A coroutine function, or a plain one, which runs in a thread.
            *args: For the function.
            **kwargs: For the function.

        Returns:
            The id of the job.

        Raises:
            NotStartedError: The worker does not run, or it stopped while this waited for room.
            QueueFullError: There is no room, and the settings do not allow waiting or the deadline passed.
            ConfigurationError: There is no name, or nothing that can be called.

        Concurrency: first come, first served; a running job that submits is let in also where the queue is full.
        Cancellation: the job is not accepted.
        """
        return await self._backends.submit(self._request(name, function, args, kwargs, options_of(function)))

    def with_options(self, **options: Unpack[JobKeywords]) -> JobSubmitter:
        """Return what submits jobs that run as said, where their functions are declared otherwise.

        Args:
            **options: Fields of `JobOptions`.

        Raises:
            ConfigurationError: An option is out of its range.
        """
        return JobSubmitter(self._request, self._backends.submit, options)

    def in_session(self, session: AsyncSession, **options: Unpack[JobKeywords]) -> JobSubmitter:
        """Return what submits jobs in the transaction of a session: they are there once it commits, or never were.

        The store must be the PostgreSQL database that the session is connected to, and functions declared with `job`.
        Submitted like this a job is let in whatever waits, and one of the same unique key is waited for until its
        transaction has ended.

        Args:
            session: The app's.
            **options: Fields of `JobOptions`.

        Raises:
            ConfigurationError: An option is out of its range.
        """
        return JobSubmitter(self._request, InSession(session, self._backends, self.services).submit, options)

    async def get_job_status(self, job_id: str) -> JobStatus:
        """Return where a job stands.

        Raises:
            JobNotFoundError: There is no such job, or it ended too long ago.
        """
        return await self._backends.of(job_id).get(job_id)

    async def get_result(self, job_id: str) -> Any:
        """Wait until a job has ended and return what it returned.

        A job that waits for another one holds its own place meanwhile.

        Raises:
            JobNotFoundError: There is no such job, or it ended too long ago.
            JobCancelledError: It was cancelled.
            JobFailedError: It failed in another process, with an error that cannot be made here.
            ResultUnavailableError: It has succeeded, but what it returned could not be stored.
            Exception: What its last attempt raised, unchanged.

        Concurrency: any number may wait. Cancellation: the job goes on.
        """
        name, outcome = await self._backends.of(job_id).wait(job_id)
        if outcome.state is JobState.CANCELLED:
            raise JobCancelledError(name, job_id)
        if outcome.error is not None:
            raise outcome.error.with_traceback(outcome.traceback)
        return outcome.result

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job: one that waits never begins, a running one is asked to end and not tried again.

        Returns:
            True where it had not ended. A running job that returns all the same has succeeded, as a plain function in
            its thread may.

        Raises:
            JobNotFoundError: There is no such job, or it ended too long ago.
        """
        state = await self._backends.of(job_id).cancel(job_id)
        run = None if self._runner is None else self._runner.runs.get(job_id)
        return state is JobState.QUEUED or (state is JobState.RUNNING and (run is None or run.cancel()))

    async def drain(self) -> None:
        """Wait until every job has ended, those submitted meanwhile included, also those that are delayed.

        Raises:
            NotStartedError: The worker does not run.
            LifecycleError: A job calls it, and would wait for itself.

        Concurrency: any number may wait. Cancellation: the jobs go on.
        """
        self._refuse_inside_job("drain()")
        if self._state is not ComponentState.RUNNING:
            raise NotStartedError(self.name, "drain()")
        submitted = None
        while submitted != self._ids:  # those of one backend may have submitted some to the other
            submitted = self._ids
            await self._backends.wait_idle(delayed=True)

    def scheduled(self, **when: Unpack[ScheduleKeywords]) -> Callable[[F], F]:
        """Return a decorator that has a function submitted again and again while the worker runs.

        Firings that were missed, because the program was busy or asleep, are made up for by one.

        Args:
            **when: Either ``every_seconds`` or ``cron``, and more; see `ScheduleKeywords`.

        Raises:
            ConfigurationError: Something cannot be used, or the name is taken.
            LifecycleError: The worker runs already.
        """
        trigger = make_trigger(when.get("every_seconds"), when.get("cron"), when.get("timezone", "UTC"))

        def decorate(function: F) -> F:
            schedule = Schedule.declare(function, trigger, when)
            if schedule.name in self._schedules:
                allowed = "this name is taken: give each schedule its own"
                raise ConfigurationError("scheduled.name", schedule.name, allowed)
            if self._state is ComponentState.RUNNING:
                raise LifecycleError(f"{schedule.name!r} comes too late: declare schedules before the worker starts")
            self._schedules[schedule.name] = schedule
            return function

        return decorate

    async def stop(self) -> None:
        """Let jobs end, cancel those that take longer than the grace period, and stop; nothing is accepted meanwhile.

        Jobs whose time has not come are cancelled. A thread is waited for until it ends.

        Raises:
            LifecycleError: A job calls it, and would wait for itself.

        Concurrency: callers take turns. Cancellation: ends the grace period, and is delivered once all has ended.
        """
        self._refuse_inside_job("stop()")
        await super().stop()

    def get_status(self) -> WorkerStatus:
        """Return how many jobs stand where."""
        return WorkerStatus(
            name=self.name,
            state=self._state,
            jobs=self._backends.get_counts(),
            schedules=tuple(sorted(self._schedules)),
            runs_durable=self._backends.store is not None and self._settings.run_durable,
        )

    def get_checks(self) -> tuple[Check, ...]:
        """Return the check that warns of a queue that is nearly full."""
        return (Check(name=self.name, fn=self._check, critical=False),)

    async def _check(self) -> CheckResult:
        if self._state is not ComponentState.RUNNING:
            return CheckResult(status=CheckStatus.FAIL, output=f"the worker is {self._state.value}")
        queued, most = self._backends.get_most_queued(), self._settings.max_queued
        if queued >= _NEARLY_FULL * most:
            return CheckResult(status=CheckStatus.WARN, output=f"{queued} jobs are waiting, of {most} that may")
        return CheckResult(status=CheckStatus.PASS)

    # ---- submitting

    def _request(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: JobOptions,
        own_id: str | None = None,
    ) -> Request:
        if type(name) is not str or not name:
            require_name("submit_job.name", name)
        if not callable(function):
            raise ConfigurationError("submit_job.function", function, "give a function, and its arguments after it")
        if self._state is not ComponentState.RUNNING:
            raise NotStartedError(self.name, "submitting a job")
        self._ids += 1
        declared_as = None if self._backends.store is None else declared_name(function)
        job_id = f"{self._prefix}{self._ids:x}"
        if declared_as is not None:
            job_id = f"{DURABLE}{own_id or job_id}"
        context = copy_context()
        return Request(
            job_id,
            name,
            function,
            args,
            kwargs,
            options,
            0.0 if self._is_rehearsal else options.delay_seconds,
            context,
            context.run(self._enter, job_id),
            get_deadline(),
            self._is_inside_job(),
            declared_as,
        )

    def _enter(self, job_id: str) -> str:
        """Make the context of the submitter that of the job, and return its correlation id."""
        leave_call(self._host)
        _running_job.set(job_id)
        correlation_id = get_correlation_id()
        if correlation_id is None:
            set_correlation_id(job_id)
            return job_id
        return correlation_id

    def _is_inside_job(self) -> bool:
        return self._runner is not None and _running_job.get() in self._runner.runs

    def _refuse_inside_job(self, call: str) -> None:
        if self._is_inside_job():
            raise LifecycleError(f"a job that calls {call} would wait for itself: call it outside of jobs")

    # ---- running

    async def _start(self) -> None:
        services = self.services
        self._host = services.host
        self._is_rehearsal = services.host is not None and services.host.dry_run
        self._prefix = self._prefix or f"{services.clock.random_hex(8)}-"
        self._runner = Runner(self._settings, services, hurry=self._is_rehearsal)
        await self._backends.open(services, self._make_context)
        for backend in self._backends:
            _ = self.spawn(backend.keep(self._runner.cancel), name="keep jobs")
            if backend is self._backends.first or self._settings.run_durable:
                _ = self.spawn(self._runner.give_out(backend), name="give out jobs")
        if not self._is_rehearsal:
            for schedule in self._schedules.values():
                kept = schedule.keep(services.clock, self._submit_scheduled, self._tell)
                _ = self._make_context("", None).run(self.spawn, kept, name=f"schedule {schedule.name}")

    def _make_context(self, job_id: str, correlation_id: str | None) -> Context:
        """Return a context that belongs to the worker, and to no call."""
        context = copy_context()
        context.run(leave_call, self._host)
        context.run(set_correlation_id, correlation_id)
        context.run(_running_job.set, job_id)
        return context

    async def _wind_down(self) -> None:
        self._backends.shut()
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                await self._backends.wait_idle(delayed=False)
        except TimeoutError:
            pass
        finally:
            cancellation = await self._end_jobs()
            await super()._wind_down()
            if cancellation is not None:
                raise cancellation

    async def _end_jobs(self) -> asyncio.CancelledError | None:
        """Cancel what has not ended and wait for it; return a cancellation that came meanwhile."""
        runs = () if self._runner is None else tuple(self._runner.runs.values())
        returned = tuple(run.claim.request.job_id for run in runs if run.claim.outlives)
        ended = tuple(run.claim.request.job_id for run in runs if not run.claim.outlives)
        ended += self._backends.give_up()
        if ended:
            self._tell("worker.jobs_cancelled", reason="the worker stopped", count=len(ended), job_ids=ended)
        if returned:
            self._tell("worker.jobs_put_back", reason="the worker stopped", count=len(returned), job_ids=returned)
        return None if self._runner is None else await self._runner.end_all()

    async def _submit_scheduled(
        self, name: str, function: Callable[[], Any], options: JobOptions, moment: str | None, /
    ) -> str:
        own_id = None if moment is None else f"{name}@{moment}"
        return await self._backends.submit(self._request(name, function, (), {}, options, own_id))

    def _tell(self, event: str, /, **fields: object) -> None:
        level = Level.WARNING if "reason" in fields else Level.INFO
        self.services.journal.publish(event, component=self.name, level=level, **fields)
