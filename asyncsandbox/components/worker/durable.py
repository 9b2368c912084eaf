"""Jobs kept in the store: they outlive the process, and any process that knows their function may run them.

It promises that a job which was accepted ends once, whichever process runs it; that an attempt whose process is gone is
followed by another, until that has happened too often; and that nobody who was taken over can finish any more. It does
not promise that an attempt is made only once: what a job does must bear being done twice, as `actions` with a key do.
It looks for work once a second at least, so no news need reach it.

>>> from asyncsandbox import Sandbox, job
>>> @job("rates.refresh")
... async def refresh() -> str:
...     return "refreshed"
>>> async def main() -> str:
...     async with Sandbox(dry_run=False, store=":memory:") as sandbox:
...         return await sandbox.worker.get_result(await sandbox.worker.submit_job("refresh", refresh))
>>> asyncio.run(main())
'refreshed'
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from ..._core.owners import OWNERS, Owner
from ..._core.store.patience import Patience
from ..._core.tasks import complete
from ...errors import (
    JobNotFoundError,
    NotStartedError,
    ResultCodecError,
    StoreError,
    StoreOutcomeUnknownError,
)
from .backend import Claim, JobCounts, Outcome, Request
from .job import JobOptions, JobState, JobStatus, get_declared, options_of
from .job_table import CANCEL, COUNT, ENDED, FINISH, GET, JOBS, NEWS, OURS, PUT_BACK, SUBMIT, SWEEP, TWIN
from .room import Room
from .stored import Ending, get_parameters, read_arguments, read_status
from .taking import AT_ONCE, PAUSE_SECONDS, POLL_SECONDS, Taker, known

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextvars import Context

    from ..._core.clock import Clock
    from ..._core.component import Services
    from ..._core.store import Row, Store, Value
    from .settings import WorkerSettings

__all__ = ["Owner", "StoreBackend", "asyncio"]

MakeContext: TypeAlias = "Callable[[str, str], Context]"
"""Makes what a job runs in, from its id and the correlation id of its submitter."""

_COUNT_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 60.0


class StoreBackend:
    """The backend of a worker in a sandbox with a store, for jobs whose function is declared.

    Concurrency: for one event loop. Cancellation: a submission that was begun is carried out; a cancelled claim gives
    back what it was given.

    Args:
        services: Of the worker; store and owner must be there.
        store: Where the jobs are; it must be open.
        owner: The sandbox in whose name they are run.
        settings: Of the worker.
        make_context: Makes what a job runs in.
    """

    def __init__(
        self, services: Services, store: Store, owner: Owner, settings: WorkerSettings, make_context: MakeContext
    ) -> None:
        self._store = store
        self._owner = owner
        self._settings = settings
        self._make_context = make_context
        self._clock: Clock = services.clock
        self._is_open = False
        self._is_given_up = False
        self._may_take = False  # looking costs no write
        self._takes = 0  # begun and ended: odd while one is under way
        self._room = Room(settings, self._count_queued)
        self._patience = Patience("worker", services.journal, services.clock, seconds=POLL_SECONDS)
        self._claimed: dict[str, int] = {}  # attempt by id
        self._idle: list[asyncio.Future[None]] = []
        self._ended: Counter[JobState] = Counter()
        self._waiting: dict[str, list[asyncio.Future[Ending]]] = {}
        self._taker = Taker(
            services,
            store,
            owner,
            self._patience,
            max_recoveries=settings.max_recoveries,
            on_end=lambda state: self._ended.update((state,)),
        )

    @property
    def home(self) -> Hashable:
        """The table and the namespace the jobs are in."""
        return self._store.place

    async def attach(self) -> None:
        """Make the table usable.

        Raises:
            StoreError: It cannot be.
        """
        await self._store.attach(OWNERS, JOBS)
        await self._room.recount()

    def open(self, clock: Clock) -> None:
        """Accept jobs from now on."""
        self._clock = clock
        self._is_open = True

    def shut(self) -> None:
        """Accept no more, and give out no more: what waits, waits for another process or another life."""
        self._is_open = False
        self._room.close()

    def give_up(self) -> tuple[str, ...]:
        """Give up what cannot be recorded; a store that does not answer must not keep the worker from ending."""
        self._is_given_up = True
        return ()

    # ---- submitting

    async def submit(self, request: Request) -> str:
        """Accept a job: it is in the store once this returns.

        Raises:
            JobNotStorableError: An argument would not come back as it is.
            ConfigurationError: It must be tried again for other errors than its function says.
            QueueFullError: There is no room, and waiting is not wanted or took too long.
            NotStartedError: It is shut.
            StoreError: It was not accepted, or that is not known.
        """
        params = get_parameters(request)
        while True:
            if not request.from_job:
                left = None if request.until is None else max(0.0, request.until - self._clock.monotonic())
                await self._room.wait(request.name, left)
            if not self._is_open:
                raise NotStartedError("worker", "submitting a job")
            with self._room.entering() as stay:
                if await self._write_down(params):
                    stay()
                    return request.job_id
            twin = await self._find_twin(request)
            if twin is not None:
                return twin

    async def _write_down(self, params: dict[str, Value]) -> bool:
        try:
            return bool((await self._store.write(SUBMIT, **params)).count)
        except StoreOutcomeUnknownError:
            if await self._store.read(GET, id=params["id"]):
                return True
            raise

    async def _find_twin(self, request: Request) -> str | None:
        if await self._store.read(GET, id=request.job_id):
            return request.job_id  # an id that others make as well
        rows = await self._store.read(TWIN, name=request.name, unique_key=request.options.unique_key)
        return str(rows[0]["id"]) if rows else None  # None where it has ended since

    async def _count_queued(self) -> int:
        (row,) = await self._store.read(COUNT, functions=known())
        return int(row["queued"])

    # ---- giving out

    async def wait_ready(self) -> None:
        """Wait until a job may begin, or was left behind by somebody who is gone."""
        await self._taker.wait()
        self._may_take = True

    async def claim(self, most: int) -> list[Claim]:
        """Give out up to ``most`` of the jobs that may begin, in order."""
        if not self._is_open or not self._may_take:
            return []
        self._takes += 1
        try:
            rows, cancellation = await complete(self._taker.take(most, but=self._claimed))
        finally:
            self._takes += 1
        self._may_take = len(rows) == most
        claims = [self._read_claim(row) for row in rows]
        if cancellation is not None:
            for claim in claims:
                await complete(self.finish(claim, Outcome(JobState.QUEUED, retry_in_seconds=0.0)))
            raise cancellation
        return claims

    def _read_claim(self, row: Row) -> Claim:
        job_id, name = row["id"], row["name"]
        self._claimed[job_id] = row["attempt"]
        self._room.leave()
        function = get_declared(row["function"])
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        try:
            args, kwargs = read_arguments(row["arguments"])
        except ResultCodecError as error:
            function = _raising(error)
        not_failed = row["attempt"] - 1 - row["failed"]  # lost with their process, or ended with a worker
        options = JobOptions(
            timeout_seconds=row["timeout"],
            priority=row["priority"],
            max_retries=row["max_retries"] and row["max_retries"] + not_failed,
            retry_on=options_of(function).retry_on,
        )
        context = self._make_context(job_id, row["correlation_id"])
        request = Request(
            job_id, name, function, args, kwargs, options, 0.0, context, row["correlation_id"], None, from_job=False
        )
        return Claim(request, row["attempt"], self._clock.monotonic(), outlives=True)

    # ---- ending

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Record what came of an attempt, however long that takes, unless the worker gives up."""
        job_id, ending = claim.request.job_id, Ending.of(outcome)
        try:
            state = await self._record(job_id, claim.attempt, ending, outcome.retry_in_seconds)
        finally:
            del self._claimed[job_id]
            if not self._claimed:
                for waiter in self._idle:
                    _settle(waiter, None)
                self._idle.clear()
        if state is None:
            return False
        if state.has_ended:
            self._ended[state] += 1
            self._tell_ended(job_id, ending._replace(state=state))
        else:
            self._room.enter()
        return True

    async def _record(self, job_id: str, attempt: int, ending: Ending, wait: float | None) -> JobState | None:
        """Record what came of an attempt and return the state of the job; None where it is not ours any more."""
        while True:
            try:
                if wait is None:
                    written = await self._store.write(FINISH, id=job_id, attempt=attempt, **ending.to_parameters())
                    return ending.state if written.count else None
                error = ending.error
                written = await self._store.write(PUT_BACK, id=job_id, attempt=attempt, error=error, wait=float(wait))
                return JobState(written.rows[0]["state"]) if written.rows else None
            except StoreError as trouble:
                if self._is_given_up:
                    self._patience.tell(trouble)
                    return None
                await self._patience.wait(trouble)

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job that does not run, ask one that does to end, wherever that is; return the state it was in."""
        rows = (await self._store.write(CANCEL, id=job_id)).rows
        if not rows:
            return JobState((await self._get(job_id))["state"])
        if rows[0]["state"] == JobState.RUNNING:
            return JobState.RUNNING
        self._ended[JobState.CANCELLED] += 1
        self._room.leave()
        self._tell_ended(job_id, Ending(JobState.CANCELLED, None, None, None))
        return JobState.QUEUED

    # ---- asking

    async def get(self, job_id: str) -> JobStatus:
        """Return where a job stands."""
        return read_status(await self._get(job_id))

    async def wait(self, job_id: str) -> tuple[str, Outcome]:
        """Wait until a job has ended, and return its name and what came of it."""
        waiter: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(job_id, [])
        waiters.append(waiter)  # before the look, so that nothing in between is missed
        try:
            row = await self._get(job_id)
            name = str(row["name"])
            ending = Ending.read(row) if row["ended_at"] is not None else await waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(job_id, None)
        return name, ending.to_outcome(name, job_id)

    async def wait_idle(self, *, delayed: bool) -> None:
        """Wait until no job runs here; with ``delayed`` until every job in the store has ended that is known here."""
        if delayed:
            while (await self._store.read(COUNT, functions=known()))[0]["pending"]:
                await self._clock.sleep(PAUSE_SECONDS)
            return
        while self._claimed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    def get_counts(self) -> JobCounts:
        """Return how many jobs wait, about, how many run here, and what became of those that ended here."""
        ended = {state.value: self._ended[state] for state in JobState if state.has_ended}
        return JobCounts(queued=self._room.queued, running=len(self._claimed), **ended)

    async def _get(self, job_id: str) -> Row:
        rows = await self._store.read(GET, id=job_id)
        if not rows:
            raise JobNotFoundError(job_id)
        return rows[0]

    # ---- news from others

    async def keep(self, end: Callable[[str], object]) -> None:
        """Hear of jobs that ended or are to be ended elsewhere, and forget old ones, while the worker runs."""
        seen, swept, counted = 0, self._clock.monotonic(), self._clock.monotonic()
        while True:
            try:
                seen = await self._store.wait_for(NEWS, since=seen, timeout_seconds=POLL_SECONDS)
                await self._hear_endings()
                await self._end_unwanted(end)
                await self._put_back_unheard()
                now = self._clock.monotonic()
                if self._room.queued and now - counted >= _COUNT_SECONDS:
                    counted = now
                    await self._room.recount()
                if now - swept >= _SWEEP_SECONDS:
                    swept = now
                    await self._store.write(SWEEP, seconds=float(self._settings.keep_seconds), most=AT_ONCE)
                    if self._settings.run_durable:
                        await self._taker.tell_undeclared(_SWEEP_SECONDS)
                await self._clock.sleep(PAUSE_SECONDS)
            except StoreError as error:
                await self._patience.wait(error)

    async def _hear_endings(self) -> None:
        ids = [job_id for job_id in self._waiting if job_id not in self._claimed]
        for start in range(0, len(ids), AT_ONCE):
            for row in await self._store.read(ENDED, ids=json.dumps(ids[start : start + AT_ONCE])):
                self._tell_ended(row["id"], Ending.read(row))

    async def _end_unwanted(self, end: Callable[[str], object]) -> None:
        """End the attempts here that somebody has cancelled, or that are not ours any more."""
        held = dict(self._claimed)
        if not held:
            return
        rows = await self._store.read(OURS, owner=self._owner.id)
        ours = {row["id"]: row for row in rows}
        for job_id, attempt in held.items():
            row = ours.get(job_id)
            is_wanted = row is not None and row["attempt"] == attempt and not row["cancel_asked"]
            if self._claimed.get(job_id) == attempt and not is_wanted:
                end(job_id)

    async def _put_back_unheard(self) -> None:
        """Put back the jobs that the store gave us when it could not answer: nobody runs them.

        Raises:
            StoreError: It does not answer; they are put back another time.
        """
        takes = self._takes
        if not self._taker.is_in_doubt or takes % 2:
            return
        rows = await self._store.read(OURS, owner=self._owner.id)
        if self._takes == takes:  # otherwise what was given meanwhile could be mistaken for it
            for row in (row for row in rows if row["id"] not in self._claimed):
                await self._store.write(PUT_BACK, id=row["id"], attempt=row["attempt"], error=None, wait=0.0)
            self._taker.is_in_doubt = self._takes != takes

    def _tell_ended(self, job_id: str, ending: Ending) -> None:
        for waiter in self._waiting.get(job_id, ()):
            _settle(waiter, ending)


def _raising(error: Exception) -> Callable[[], Any]:
    async def fail() -> NoReturn:
        raise error

    return fail


def _settle(waiter: asyncio.Future[Any], value: object) -> None:
    if not waiter.done():
        waiter.set_result(value)
