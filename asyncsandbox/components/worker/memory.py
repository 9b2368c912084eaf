"""Jobs kept in memory: nothing of them outlives the process.

>>> MemoryBackend(WorkerSettings()).get_counts().queued
0
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from contextvars import Context
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from ..._core.clock import SystemClock
from ...errors import JobNotFoundError, NotStartedError, QueueFullError
from .backend import Claim, JobCounts, Outcome, Request
from .job import DEFAULT_OPTIONS, JobState, JobStatus, describe
from .ready import ReadyQueue
from .settings import WhenFull, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._core.clock import Clock

__all__ = ["MemoryBackend", "WorkerSettings"]

_NONE_YET = Outcome(state=JobState.QUEUED)
_QUEUED, _RUNNING, _CANCELLED = JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED
_SLACK = 64


class MemoryBackend:
    """The backend of a worker without a store.

    It promises that a job it has accepted is given out or cancelled, once per attempt, and that what it keeps is
    bounded by the settings.

    Concurrency: for one event loop. Cancellation: a cancelled submission is not accepted, a cancelled claim takes
    nothing.
    """

    home = None

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._now = self._clock.monotonic
        self._is_open = False
        self._numbers = 0
        self._jobs: dict[str, _Job] = {}
        self._by_key: dict[tuple[str, str], _Job] = {}  # those that have not ended
        self._ready: ReadyQueue[_Job] = ReadyQueue()
        self._later: list[tuple[float, int, _Job]] = []
        self._kept: deque[_Job] = deque()  # ended, the oldest first
        self._queued = 0
        self._running = 0
        self._ended = {state: 0 for state in JobState if state.has_ended}
        self._submitters: deque[asyncio.Future[None]] = deque()
        self._work: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._forgetting: asyncio.TimerHandle | None = None

    def open(self, clock: Clock) -> None:
        """Accept jobs from now on."""
        self._clock = clock
        self._now = clock.monotonic
        self._is_open = True
        if self._forgetting is not None:  # perhaps on a loop that has ended
            self._forgetting.cancel()
        self._forget_old()

    def shut(self) -> None:
        """Accept no more; whoever waits for room is refused."""
        self._is_open = False
        for turn in self._submitters:
            _settle(turn)

    def give_up(self) -> tuple[str, ...]:
        """Cancel every job that has not begun or is between two attempts, and return their ids."""
        waiting = [job for job in self._jobs.values() if job.state is _QUEUED]
        for job in waiting:
            self._end(job, Outcome(state=_CANCELLED))
        self._sweep()
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

    async def wait_ready(self) -> None:
        """Wait until a job may begin."""
        while not self._has_ready():
            await self._wait_for_work()

    async def claim(self, most: int) -> list[Claim]:
        """Give out up to ``most`` of the jobs that may begin, in order."""
        claims: list[Claim] = []
        if not self._has_ready():
            return claims
        now, ready = self._now(), self._ready
        while ready and len(claims) < most:
            job = ready.pop()
            if job.state is _QUEUED:
                job.state = _RUNNING
                job.attempt += 1
                job.started = now
                claims.append(Claim(job.request, job.attempt, now))
        self._queued -= len(claims)
        self._running += len(claims)
        if self._submitters:
            self._admit_next()
        return claims

    async def keep(self, end: Callable[[str], object]) -> None:
        """Do nothing: whoever runs a job is here, and is told at once."""

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Record what came of an attempt."""
        job = self._jobs.get(claim.request.job_id)
        if job is None or job.state is not _RUNNING or job.attempt != claim.attempt:
            return False
        if outcome.retry_in_seconds is None:
            self._end(job, outcome)
        else:
            job.state = _QUEUED
            job.outcome = outcome
            self._running -= 1
            self._queued += 1
            self._enqueue(job, self._now(), outcome.retry_in_seconds)
        if self._idle:
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
        if job.ended == math.inf:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            job.waiters = (*job.waiters, waiter)
            try:
                await waiter
            finally:
                job.waiters = tuple(other for other in job.waiters if other is not waiter)
        return job.name, job.outcome

    async def wait_idle(self, *, delayed: bool) -> None:
        """Wait until no job runs and none may begin; with ``delayed`` also none later."""
        while self._running or (self._queued if delayed else self._has_ready()):
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    def get_counts(self) -> JobCounts:
        """Return how many jobs stand where."""
        ended = {state.value: count for state, count in self._ended.items()}
        return JobCounts(queued=self._queued, running=self._running, **ended)

    # ---- accepting

    def _is_full(self) -> bool:
        return self._queued >= self._settings.max_queued

    def _find_twin(self, request: Request) -> _Job | None:
        key = request.options.unique_key
        return None if key is None else self._by_key.get((request.name, key))

    async def _wait_for_room(self, request: Request) -> None:
        if self._settings.when_full is WhenFull.REFUSE:
            raise QueueFullError(request.name, self._queued)
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
                raise QueueFullError(request.name, self._queued) from None
            raise
        self._submitters.remove(turn)

    def _admit_next(self) -> None:
        if self._submitters and (not self._is_full() or not self._is_open):
            _settle(self._submitters[0])

    def _accept(self, request: Request) -> None:
        self._numbers += 1
        options, now = request.options, self._now()
        job = self._jobs[request.job_id] = _Job(
            request.job_id,
            request.name,
            request.correlation_id,
            options.priority,
            options.unique_key,
            self._numbers,
            now,
            request,
        )
        if options.unique_key is not None:
            self._by_key[request.name, options.unique_key] = job
        self._queued += 1
        self._enqueue(job, now, request.delay_seconds)
        if self._submitters:
            self._admit_next()

    # ---- giving out

    def _enqueue(self, job: _Job, now: float, delay_seconds: float) -> None:
        if delay_seconds:
            heapq.heappush(self._later, (now + delay_seconds, job.number, job))
        else:
            self._ready.push(job.priority, job.number, job)
        if self._work is not None:
            _settle(self._work)

    def _has_ready(self) -> bool:
        later, ready = self._later, self._ready
        if later:
            now = self._now()
            while later and (later[0][0] <= now or later[0][2].state is not _QUEUED):
                job = heapq.heappop(later)[2]
                ready.push(job.priority, job.number, job)
        while ready:
            if ready.peek().state is _QUEUED:
                return True
            ready.pop()
        return False

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
        if len(self._ready) + len(self._later) > 2 * self._queued + _SLACK:
            self._ready.keep(lambda job: job.state is _QUEUED)
            self._later = [entry for entry in self._later if entry[2].state is _QUEUED]
            heapq.heapify(self._later)

    # ---- ending and remembering

    def _end(self, job: _Job, outcome: Outcome) -> None:
        if job.state is _RUNNING:
            self._running -= 1
        else:
            self._queued -= 1
        job.state = outcome.state
        self._ended[outcome.state] += 1
        job.outcome = outcome
        job.ended = now = self._now()
        job.request = _FORGOTTEN
        if job.unique_key is not None:
            del self._by_key[job.name, job.unique_key]
        for waiter in job.waiters:
            _settle(waiter)
        self._kept.append(job)
        if len(self._kept) > self._settings.keep_finished:
            del self._jobs[self._kept.popleft().job_id]
        elif self._forgetting is None:
            self._forget_later(now)

    def _forget_old(self) -> None:
        kept, now = self._kept, self._now()
        while kept and kept[0].ended + self._settings.keep_seconds <= now:
            del self._jobs[kept.popleft().job_id]
        self._forgetting = None
        self._forget_later(now)

    def _forget_later(self, now: float) -> None:
        if self._kept:
            left = self._kept[0].ended + self._settings.keep_seconds - now
            self._forgetting = asyncio.get_running_loop().call_later(left, self._forget_old)

    def _find(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    def _tell_idle(self) -> None:
        if self._idle and not self._running:
            for waiter in self._idle:
                _settle(waiter)
            self._idle.clear()

    def _tell_when(self, moment: float | None) -> str:
        if moment is None or moment == math.inf:
            return ""
        return (self._clock.now() - timedelta(seconds=self._now() - moment)).isoformat()


_FORGOTTEN = Request("", "", print, (), {}, DEFAULT_OPTIONS, 0.0, Context(), "", None, from_job=False)


class _Job(msgspec.Struct, eq=False):
    """One job and what became of it; its request is dropped when it has ended."""

    job_id: str
    name: str
    correlation_id: str
    priority: int
    unique_key: str | None
    number: int
    submitted: float
    request: Request
    state: JobState = _QUEUED
    attempt: int = 0
    outcome: Outcome = _NONE_YET
    started: float | None = None
    ended: float = math.inf
    waiters: tuple[asyncio.Future[None], ...] = ()


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
