"""One attempt at a job: its function, its time, its cancellation, and what comes of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from ..._core.decorators import as_coroutine_function
from ..._core.journal import Journal, Level
from ..._core.tasks import outlast
from ...errors import JobTimeoutError
from .backend import Claim, Outcome
from .job import JobState, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio import CapacityLimiter

    from ..._core.clock import Clock
    from .settings import WorkerSettings

__all__ = ["Claim", "Run"]


class Run:
    """One attempt.

    A function that returns although it was cancelled or out of time has succeeded: its work is done, and doing it
    again would do it twice. The thread of a plain function goes on until it ends, and the attempt with it.

    Args:
        claim: What is attempted.
        settings: The worker's.
        clock: Chance.
        hurry: Whether another attempt follows at once, as in a rehearsal.

    Attributes:
        claim: What is attempted.
        task: Where it runs.
        is_timed_out: Whether it took longer than it may.
    """

    __slots__ = (
        "_clock",
        "_has_begun",
        "_hurry",
        "_is_over",
        "_is_unwanted",
        "_seconds",
        "_settings",
        "claim",
        "is_timed_out",
        "task",
    )

    task: asyncio.Task[None]

    def __init__(self, claim: Claim, settings: WorkerSettings, clock: Clock, *, hurry: bool = False) -> None:
        self.claim = claim
        self._hurry = hurry
        self.is_timed_out = False
        self._settings = settings
        self._clock = clock
        seconds = claim.request.options.timeout_seconds
        self._seconds = settings.timeout_seconds if seconds is None else seconds
        self._has_begun = False
        self._is_over = False
        self._is_unwanted = False

    def cancel(self) -> bool:
        """Ask it to end; there will be no other attempt. Return whether there was still something to end."""
        if self._is_over:
            return False
        self._is_unwanted = True
        self._interrupt()
        return True

    async def get_outcome(self, threads: CapacityLimiter) -> Outcome:
        """Run the function, once, and return what came of it.

        Concurrency: in a task of its own. Cancellation: through `cancel` only, which is an outcome.
        """
        result: Any = None
        error: Exception | asyncio.CancelledError | None = None
        timer = None
        try:
            if self._is_unwanted:  # before its first step, when cancelling the task would lose the outcome
                return Outcome(state=JobState.CANCELLED)
            self._has_begun = True
            if self._seconds is not None:
                timer = asyncio.get_running_loop().call_later(self._seconds, self._time_out)
            result = await self._call(threads)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - it is the outcome
            error = raised
        finally:
            self._is_over = True
            if timer is not None:
                timer.cancel()
        return Outcome(state=JobState.SUCCEEDED, result=result) if error is None else self._judge(error)

    def _call(self, threads: CapacityLimiter) -> Awaitable[Any]:
        request = self.claim.request
        function = request.function
        code = getattr(function, "__code__", None)
        is_async = code is not None and code.co_flags & inspect.CO_COROUTINE  # the quick way to the common answer
        if is_async or as_coroutine_function(function) is function:
            awaitable: Awaitable[Any] = function(*request.args, **request.kwargs)
            return awaitable
        return _call_in_thread(functools.partial(function, *request.args, **request.kwargs), threads)

    def _time_out(self) -> None:
        self.is_timed_out = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._has_begun:
            self.task.cancel()

    def _judge(self, error: Exception | asyncio.CancelledError) -> Outcome:
        request, attempt = self.claim.request, self.claim.attempt
        if self._is_unwanted or (isinstance(error, asyncio.CancelledError) and not self.is_timed_out):
            said = error if isinstance(error, Exception) else None
            return Outcome(state=JobState.CANCELLED, error=said, traceback=error.__traceback__)
        if self.is_timed_out and self._seconds is not None:
            late = JobTimeoutError(request.name, attempt, self._seconds)
            late.__cause__ = error
            error = late
        options = request.options
        state, wait = JobState.FAILED, None
        if options.max_retries and isinstance(error, options.retry_on):
            if attempt <= options.max_retries:
                state, wait = JobState.QUEUED, self._draw_wait(attempt)
            else:
                state = JobState.DEAD
                error.add_note(f"job {request.name!r} ({request.job_id}) is dead after {attempt} attempts")
        return Outcome(state=state, error=error, traceback=error.__traceback__, retry_in_seconds=wait)

    def _draw_wait(self, attempt: int) -> float:
        """Draw how long to wait after a failed attempt: full jitter, so that what failed together comes back apart.

        Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        if self._hurry:
            return 0.0
        settings = self._settings
        # Beyond 2 ** 60 any base is above any cap, and a float would not hold it for ever.
        longest = min(settings.retry_cap_seconds, settings.retry_base_seconds * 2.0 ** min(attempt - 1, 60))
        return self._clock.random() * longest


def report(run: Run, outcome: Outcome, journal: Journal) -> None:
    """Publish that an attempt failed or took too long."""
    request = run.claim.request
    fields = {"job": request.name, "job_id": request.job_id, "attempt": run.claim.attempt}
    if run.is_timed_out:
        state = outcome.state.value
        journal.publish("job.timed_out", component="worker", level=Level.WARNING, state=state, **fields)
    if outcome.error is None or outcome.state is JobState.CANCELLED:
        return
    wait = outcome.retry_in_seconds
    journal.publish(
        "job.dead" if outcome.state is JobState.DEAD else "job.failed",
        component="worker",
        level=Level.ERROR if wait is None else Level.WARNING,
        error=describe(outcome.error),
        retry_in_seconds=wait,
        **fields,
    )


async def _call_in_thread(function: Callable[[], Any], threads: CapacityLimiter) -> Any:
    """Call a plain function in a thread and outlast it, because nothing can end it; await what it returns if needed."""
    from anyio.to_thread import run_sync

    # A bare task: whatever cancels the component's tasks must not let go of a thread that still works.
    thread = asyncio.get_running_loop().create_task(run_sync(function, limiter=threads), name="thread of a job")
    cancellation = await outlast(thread)
    answer = thread.result()
    if not inspect.isawaitable(answer):
        return answer
    if cancellation is not None:
        if inspect.iscoroutine(answer):
            answer.close()
        raise cancellation
    return await answer
