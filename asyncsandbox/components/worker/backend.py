"""The port between the worker and what keeps its jobs.

Every method but `get_counts` is one step that either happens as a whole or not at all, so a backend on a database can
make each of them one named operation: `submit` an insert, `claim` an update of what is due, `finish` an update of the
row whose attempt is still the claimed one. A backend that outlives the process gives its claims a lease, renews it by
itself, and lets `claim` take a job whose lease is over as if it were due; nothing else has to look for those.

>>> Outcome(state=JobState.SUCCEEDED, result=17).retry_in_seconds is None
True
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .job import JobOptions, JobState, JobStatus

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ..._core.clock import Clock

__all__ = ["Claim", "JobBackend", "JobCounts", "JobOptions", "JobState", "JobStatus", "Outcome", "Request"]


class Request(msgspec.Struct, frozen=True, eq=False):
    """A job to be accepted.

    Attributes:
        job_id: Its id, unless an earlier job stands for it.
        name: Its name.
        function: What to call.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: How to run it.
        delay_seconds: How long it waits before it may begin.
        context: What it runs in.
        correlation_id: Of the request it belongs to.
        until: When, on the clock's monotonic scale, waiting for room has no use any more; None for never.
        from_job: Whether a running job submits it, which must not wait for a room that its own end would make.
        declared_as: By which name any process finds the function; None where none does.
    """

    job_id: str
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: JobOptions
    delay_seconds: float
    context: Context
    correlation_id: str
    until: float | None
    from_job: bool
    declared_as: str | None = None


class Claim(msgspec.Struct, frozen=True, eq=False):
    """The right to make one attempt at a job; the number of the attempt is what fences off an earlier one.

    Attributes:
        request: What to run.
        attempt: Number of the attempt, from 1.
        at: When it was given out, on the clock's monotonic scale.
        outlives: Whether the job outlives the worker: an attempt that has to be ended with it is no end of the job.
    """

    request: Request
    attempt: int
    at: float
    outlives: bool = False


class Outcome(msgspec.Struct, frozen=True, eq=False):
    """What came of an attempt.

    Attributes:
        state: The state the job is in now: QUEUED where another attempt follows.
        result: What it returned.
        error: What it raised.
        traceback: Where.
        retry_in_seconds: How long until the next attempt; None where there is none.
    """

    state: JobState
    result: Any = None
    error: BaseException | None = None
    traceback: TracebackType | None = None
    retry_in_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """How many jobs stand where, those that ended counted since the worker was made.

    Attributes:
        queued: Accepted and not begun, or between two attempts.
        running: An attempt has not ended.
        succeeded: Returned.
        failed: Raised, and no further attempt was wanted.
        cancelled: Cancelled before they ended.
        dead: Failed in every attempt they were allowed.
    """

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    dead: int = 0


def sum_counts(counts: Iterable[JobCounts]) -> JobCounts:
    """Return the counts of several backends together."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(asdict(each))
    return JobCounts(**total)


class JobBackend(Protocol):
    """Keeps jobs, gives them out in order, and remembers what came of them."""

    @property
    def home(self) -> Hashable:
        """What keeps the jobs, equal for backends that share it; None where they die with the process."""
        ...

    def open(self, clock: Clock) -> None:
        """Accept jobs from now on, in the time of this clock."""
        ...

    def shut(self) -> None:
        """Accept no more; whoever waits for room is refused. What was accepted is given out all the same."""
        ...

    def give_up(self) -> tuple[str, ...]:
        """Cancel what waits and cannot outlive the process.

        Returns:
            The ids of the jobs that were cancelled.
        """
        ...

    async def submit(self, request: Request) -> str:
        """Accept a job, after waiting for room if there is none.

        Returns:
            Its id, or that of the job that has not ended and has the same name and unique key.

        Raises:
            QueueFullError: There is no room, and waiting is not wanted or took too long.
            NotStartedError: The backend is shut.

        Concurrency: first come, first served. Cancellation: the job is not accepted.
        """
        ...

    async def wait_ready(self) -> None:
        """Wait until a job may begin, as far as can be told without taking it.

        Concurrency: one caller per worker. Cancellation: nothing has happened.
        """
        ...

    async def claim(self, most: int) -> Sequence[Claim]:
        """Give out up to ``most`` of the jobs that may begin, in order.

        Concurrency: one caller per worker. Cancellation: nothing is given out.
        """
        ...

    async def keep(self, end: Callable[[str], object]) -> None:
        """Do what has to be done while the worker runs, until cancelled, or for as long as there is something.

        Args:
            end: Asks the attempt at a job that runs here to end.

        Concurrency: one caller per worker, beside all others. Cancellation: ends it.
        """
        ...

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Record what came of an attempt.

        Returns:
            Whether it counts. It does not where the job has ended or a later attempt has begun.
        """
        ...

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job that has not begun or is between two attempts.

        Returns:
            The state it was in. One that runs goes on: that is for whoever runs it.

        Raises:
            JobNotFoundError: There is no such job.
        """
        ...

    async def get(self, job_id: str) -> JobStatus:
        """Return where a job stands.

        Raises:
            JobNotFoundError: There is no such job.
        """
        ...

    async def wait(self, job_id: str) -> tuple[str, Outcome]:
        """Wait until a job has ended, and return its name and what came of it.

        Raises:
            JobNotFoundError: There is no such job.
        """
        ...

    async def wait_idle(self, *, delayed: bool) -> None:
        """Wait until no job runs and none may begin; with ``delayed`` also none later."""
        ...

    def get_counts(self) -> JobCounts:
        """Return how many jobs stand where, as far as known without asking anybody."""
        ...
