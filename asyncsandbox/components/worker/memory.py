"""Jobs kept in memory: nothing of them outlives the process.

>>> MemoryBackend(WorkerSettings()).get_counts().queued
0
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from ..._core.clock import SystemClock
from ...errors import JobNotFoundError, NotStartedError, QueueFullError
from .backend import Claim, JobCounts, Outcome
from .job import JobState, JobStatus, describe
from .settings import WhenFull, WorkerSettings

if TYPE_CHECKING:
    from ..._core.clock import Clock
    from .backend import Request

__all__ = ["MemoryBackend", "WorkerSettings"]

_QUEUED, _RUNNING, _CANCELLED = JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED


class MemoryBackend:
    """The backend of a worker without a store.

    It promises that a job it has accepted is given out or cancelled, once per attempt, and that what it keeps is
    bounded by the settings.

    Concurrency: for one event loop. Cancellation: a cancelled submission is not accepted, a cancelled claim takes
    nothing.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._is_open = False
        self._numbers = 0
        self._jobs: dict[str, _Job] = {}
        self._by_key: dict[tuple[str, str], _Job] = {}  # those that have not ended
        self._ready: list[_Entry] = []
        self._later: list[_Entry] = []
        self._kept: deque[_Job] = deque()  # ended, the oldest first
        self._counts = dict.fromkeys(JobState, 0)
        self._submitters: deque[asyncio.Future[None]] = deque()
        self._work: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []

    def open(self, clock: Clock) -> None:
        """Accept jobs from now on."""
        self._clock = clock
        self._is_open = True

    def shut(self) -> None:
        """Accept no more; whoever waits for room is refused."""
        self._is_open = False
        for turn in self._submitters:
            _settle(turn)

    def give_up(self) -> tuple[str, ...]:
        """Cancel every job that has not begun or is between two attempts, and return their ids."""
        entries = sorted((*self._ready, *self._later), key=lambda entry: entry[1])
        waiting = [job for _, _, job in entries if job.state is _QUEUED]
        for job in waiting:
            self._end(job, Outcome(state=_CANCELLED))
        self._ready.clear()
        self._later.clear()
        self._tell_idle()
        return tuple(job.job_id for job in waiting)

    async def submit(self, request: Request) -> str:
        """Accept a job, after waiting for room if there is none.

        Raises:
            QueueFullError: There is no room, and waiting is not wanted or took too long.
            NotStartedError: It is shut.
        """
        twin = self._find_twin(request)
        if twin is None and (self._is_full() or self._submitters) and not request.from_job:
            await self._wait_for_room(request)
            twin = self._find_twin(request)
        if twin is not None:
            self._admit_next()
            return twin.job_id
        if not self._is_open:
            raise NotStartedError("worker", "submitting a job")
        self._accept(request)
        return request.job_id

    async def claim(self, most: int) -> list[Claim]:
        """Wait until a job may begin, and give out up to ``most`` in order."""
        while not self._has_ready():
            await self._wait_for_work()
        claims: list[Claim] = []
        now = self._now()
        while len(claims) < most and self._has_ready():
            job = heapq.heappop(self._ready)[2]
            self._move(job, _RUNNING)
            job.attempt += 1
            job.started = now
            if job.request is not None:  # as in every job that has not ended
                claims.append(Claim(job.request, job.attempt))
        self._admit_next()
        return claims

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Record what came of an attempt."""
        job = self._jobs.get(claim.request.job_id)
        if job is None or job.state is not _RUNNING or job.attempt != claim.attempt:
            return False
        if outcome.retry_in_seconds is None:
            self._end(job, outcome)
        else:
            self._move(job, _QUEUED)
            job.outcome = outcome
            self._enqueue(job, outcome.retry_in_seconds)
        self._tell_idle()
        return True

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job that has not begun or is between two attempts; return the state it was in."""
        job = self._find(job_id)
        state = job.state
        if state is _QUEUED:
            self._end(job, Outcome(state=_CANCELLED))
            self._sweep()
            self._admit_next()
            self._tell_idle()
        return state

    async def get(self, job_id: str) -> JobStatus:
        """Return where a job stands."""
        job = self._find(job_id)
        error = job.outcome.error
        return JobStatus(
            job_id=job_id,
            name=job.name,
            state=job.state,
            attempt=job.attempt,
            submitted_at=self._tell_when(job.submitted),
            started_at=self._tell_when(job.started),
            ended_at=self._tell_when(job.ended),
            error=None if error is None else describe(error),
            correlation_id=job.correlation_id,
        )

    async def wait(self, job_id: str) -> tuple[str, Outcome]:
        """Wait until a job has ended, and return its name and what came of it."""
        job = self._find(job_id)
        if not job.state.has_ended:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            job.waiters = (*job.waiters, waiter)
            try:
                await waiter
            finally:
                job.waiters = tuple(other for other in job.waiters if other is not waiter)
        return job.name, job.outcome

    async def wait_idle(self, *, delayed: bool) -> None:
        """Wait until no job runs and none may begin; with ``delayed`` also none later."""
        while self._counts[_RUNNING] or (self._counts[_QUEUED] if delayed else self._has_ready()):
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    def get_counts(self) -> JobCounts:
        """Return how many jobs stand where."""
        return JobCounts(**{state.value: count for state, count in self._counts.items()})

    # ---- accepting

    def _is_full(self) -> bool:
        return self._counts[_QUEUED] >= self._settings.max_queued

    def _find_twin(self, request: Request) -> _Job | None:
        key = request.options.unique_key
        return None if key is None else self._by_key.get((request.name, key))

    async def _wait_for_room(self, request: Request) -> None:
        if self._settings.when_full is WhenFull.REFUSE:
            raise QueueFullError(request.name, self._counts[_QUEUED])
        left = None if request.until is None else max(0.0, request.until - self._now())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submitters.append(turn)
        try:
            async with asyncio.timeout(left):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            self._submitters.remove(turn)
            self._admit_next()  # it may have been this one's turn
            if isinstance(error, TimeoutError):
                raise QueueFullError(request.name, self._counts[_QUEUED]) from None
            raise
        self._submitters.remove(turn)

    def _admit_next(self) -> None:
        if self._submitters and (not self._is_full() or not self._is_open):
            _settle(self._submitters[0])

    def _accept(self, request: Request) -> None:
        self._numbers += 1
        job = _Job(request, self._numbers, self._now())
        self._jobs[request.job_id] = job
        key = request.options.unique_key
        if key is not None:
            self._by_key[request.name, key] = job
        self._counts[_QUEUED] += 1
        self._enqueue(job, request.delay_seconds)
        self._admit_next()

    # ---- giving out

    def _enqueue(self, job: _Job, delay_seconds: float) -> None:
        if delay_seconds:
            heapq.heappush(self._later, (self._now() + delay_seconds, job.number, job))
        else:
            heapq.heappush(self._ready, (-job.priority, job.number, job))
        if self._work is not None:
            _settle(self._work)

    def _has_ready(self) -> bool:
        later, ready = self._later, self._ready
        if later:
            now = self._now()
            while later and (later[0][0] <= now or later[0][2].state is not _QUEUED):
                job = heapq.heappop(later)[2]
                heapq.heappush(ready, (-job.priority, job.number, job))
        while ready and ready[0][2].state is not _QUEUED:
            heapq.heappop(ready)
        return bool(ready)

    async def _wait_for_work(self) -> None:
        loop = asyncio.get_running_loop()
        work = self._work = loop.create_future()
        timer = loop.call_later(self._later[0][0] - self._now(), _settle, work) if self._later else None
        try:
            await work
        finally:
            self._work = None
            if timer is not None:
                timer.cancel()

    def _sweep(self) -> None:
        """Forget cancelled jobs that still stand in a queue, now and then, so that they cannot pile up."""
        if len(self._ready) + len(self._later) > 2 * self._counts[_QUEUED] + 64:
            for queue in (self._ready, self._later):
                queue[:] = [entry for entry in queue if entry[2].state is _QUEUED]
                heapq.heapify(queue)

    # ---- ending and remembering

    def _move(self, job: _Job, state: JobState) -> None:
        self._counts[job.state] -= 1
        self._counts[state] += 1
        job.state = state

    def _end(self, job: _Job, outcome: Outcome) -> None:
        self._move(job, outcome.state)
        job.outcome = outcome
        job.ended = now = self._now()
        job.request = None
        if job.unique_key is not None:
            del self._by_key[job.name, job.unique_key]
        for waiter in job.waiters:
            _settle(waiter)
        self._kept.append(job)
        self._forget_old(now)

    def _forget_old(self, now: float) -> None:
        kept, most, seconds = self._kept, self._settings.keep_finished, self._settings.keep_seconds
        while kept and (len(kept) > most or kept[0].age(now) >= seconds):
            del self._jobs[kept.popleft().job_id]

    def _find(self, job_id: str) -> _Job:
        self._forget_old(self._now())
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    def _tell_idle(self) -> None:
        if self._idle and not self._counts[_RUNNING]:
            for waiter in self._idle:
                _settle(waiter)
            self._idle.clear()

    def _now(self) -> float:
        return self._clock.monotonic()

    def _tell_when(self, moment: float | None) -> str:
        if moment is None:
            return ""
        return (self._clock.now() - timedelta(seconds=self._now() - moment)).isoformat()


class _Job:
    """One job and what became of it; its request is dropped when it has ended."""

    __slots__ = (
        "attempt",
        "correlation_id",
        "ended",
        "job_id",
        "name",
        "number",
        "outcome",
        "priority",
        "request",
        "started",
        "state",
        "submitted",
        "unique_key",
        "waiters",
    )

    def __init__(self, request: Request, number: int, now: float) -> None:
        self.job_id = request.job_id
        self.name = request.name
        self.correlation_id = request.correlation_id
        self.priority = request.options.priority
        self.unique_key = request.options.unique_key
        self.request: Request | None = request
        self.number = number
        self.attempt = 0
        self.state = _QUEUED
        self.outcome = _NONE_YET
        self.submitted = now
        self.started: float | None = None
        self.ended: float | None = None
        self.waiters: tuple[asyncio.Future[None], ...] = ()

    def age(self, now: float) -> float:
        """Return how long ago it ended."""
        return 0.0 if self.ended is None else now - self.ended


_Entry: TypeAlias = tuple[float, int, _Job]
"""In order of priority or of when they may begin, and then of submission."""

_NONE_YET = Outcome(state=_QUEUED)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
