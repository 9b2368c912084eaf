"""One attempt at a job: its function, its time, its cancellation, and what comes of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from ..._core.decorators import as_coroutine_function
from ..._core.tasks import outlast
from ...errors import JobTimeoutError
from .backend import Claim, Outcome
from .job import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio import CapacityLimiter

__all__ = ["Claim", "Run"]


class Run(msgspec.Struct, eq=False):
    """One attempt.

    A function that returns although it was cancelled or out of time has succeeded: its work is done, and doing it
    again would do it twice. The thread of a plain function goes on until it ends, and the attempt with it.

    Attributes:
        claim: What is attempted.
        seconds: How long it may take.
        has_begun: Whether the function was called.
        is_over: Whether the function has ended.
        is_timed_out: Whether it took longer than it may.
        is_unwanted: Whether it was asked to end.
        is_given_up: Whether that was only because the worker ends.
        task: Where it runs.
    """

    claim: Claim
    seconds: float | None
    has_begun: bool = False
    is_over: bool = False
    is_timed_out: bool = False
    is_unwanted: bool = False
    is_given_up: bool = False
    task: asyncio.Task[None] | None = None

    def call(self, threads: CapacityLimiter) -> Awaitable[Any]:
        """Call the function, in a thread where it is a plain one."""
        request = self.claim.request
        function = request.function
        code = getattr(function, "__code__", None)
        is_async = code is not None and code.co_flags & inspect.CO_COROUTINE  # the quick way to the common answer
        if is_async or as_coroutine_function(function) is function:
            awaitable: Awaitable[Any] = function(*request.args, **request.kwargs)
            return awaitable
        return _call_in_thread(functools.partial(function, *request.args, **request.kwargs), threads)

    def cancel(self) -> bool:
        """Ask it to end; there will be no other attempt. Return whether there was still something to end."""
        if self.is_over:
            return False
        self.is_unwanted = True
        self._interrupt()
        return True

    def give_up(self) -> None:
        """Ask it to end with the worker; a job that outlives the worker will be attempted again."""
        self.is_given_up = self.claim.outlives and not self.is_unwanted
        self.cancel()

    def unbegun(self) -> Outcome:
        """Return what comes of an attempt that was ended before it began."""
        return Outcome(JobState.QUEUED, retry_in_seconds=0.0) if self.is_given_up else Outcome(JobState.CANCELLED)

    def time_out(self) -> None:
        """Ask it to end, because it took too long."""
        self.is_timed_out = True
        self._interrupt()

    def _interrupt(self) -> None:
        # A task that is cancelled before its first step would end without an outcome.
        if self.has_begun and self.task is not None:
            self.task.cancel()

    def judge(self, error: Exception | asyncio.CancelledError, draw_wait: Callable[[int], float]) -> Outcome:
        """Return what comes of an attempt that did not return.

        Args:
            error: What it raised.
            draw_wait: Says how long to wait after that many attempts.
        """
        request, attempt = self.claim.request, self.claim.attempt
        if self.is_unwanted or (isinstance(error, asyncio.CancelledError) and not self.is_timed_out):
            said = error if isinstance(error, Exception) else None
            if self.is_given_up and said is None:
                return self.unbegun()
            return Outcome(state=JobState.CANCELLED, error=said, traceback=error.__traceback__)
        if self.is_timed_out and self.seconds is not None:
            late = JobTimeoutError(request.name, attempt, self.seconds)
            late.__cause__ = error
            error = late
        options = request.options
        state, wait = JobState.FAILED, None
        if options.max_retries and isinstance(error, options.retry_on):
            if attempt <= options.max_retries:
                state, wait = JobState.QUEUED, draw_wait(attempt)
            else:
                state = JobState.DEAD
                error.add_note(f"job {request.name!r} ({request.job_id}) is dead after {attempt} attempts")
        return Outcome(state=state, error=error, traceback=error.__traceback__, retry_in_seconds=wait)


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
