"""Jobs that were acknowledged: each must be known to the end, after a power cut, too, where its home outlives one.

It looks at the port between a worker and what keeps its jobs. A job is acknowledged when `JobBackend.submit` has
returned, and when everything has settled, `JobBackend.get` is asked for each that has not ended. Whether its home
outlives a life of the app, `JobBackend.home` says.

>>> import asyncio
>>> from asyncsandbox.components.worker.memory import MemoryBackend, WorkerSettings
>>> jobs = AcknowledgedJobs()
>>> jobs.watch(MemoryBackend(WorkerSettings())).get_counts().queued
0
>>> asyncio.run(jobs.find_lost()) is None
True
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..components.worker.job import JobState
from ..errors import JobNotFoundError, NotStartedError
from .errors import PromiseBrokenError
from .incarnation import current_incarnation

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.clock import Clock
    from ..components.worker.backend import Claim, JobBackend, Outcome, Request
    from ..components.worker.backends import Backends

__all__ = ["AcknowledgedJobs", "watched_backend"]


class AcknowledgedJobs:
    """Which jobs were acknowledged and have not ended, by what keeps them.

    Concurrency: for one loop. Cancellation: `find_lost` changes nothing.
    """

    __slots__ = ("_homes", "_watched")

    def __init__(self) -> None:
        self._homes: dict[object, _Home] = {}
        self._watched: dict[JobBackend, _Watched] = {}

    def watch(self, backend: JobBackend) -> JobBackend:
        """Return a backend that does what this one does, and notes which jobs it acknowledges and which end."""
        watched = self._watched.get(backend)
        if watched is None:
            key: object = backend if backend.home is None else backend.home
            home = self._homes.setdefault(key, _Home())
            watched = self._watched[backend] = _Watched(backend, home)
            incarnation = current_incarnation()
            if incarnation is not None:
                incarnation.on_cut(partial(self._lose_power, watched))
        return cast("JobBackend", watched)

    async def find_lost(self) -> PromiseBrokenError | None:
        """Return which job is not known any more, or None."""
        for home in tuple(self._homes.values()):
            for job_id, name in tuple(home.pending.items()):
                if home.keepers and not await _is_known(home.keepers[-1], job_id):
                    happened = f"{name!r} ({job_id}) was accepted, has not ended, and is not known any more"
                    return PromiseBrokenError("no acknowledged job is lost", happened)
        return None

    def _lose_power(self, watched: _Watched) -> None:
        watched.let_go()
        if watched.backend.home is None:
            watched.home.pending.clear()  # nobody promised that they outlive their process


@dataclass(slots=True)
class _Home:
    """The memory of one backend, or something that outlives it.

    Attributes:
        pending: The names of acknowledged jobs that have not ended, by id.
        ended: The ids of those that have.
        keepers: Who can be asked, the newest last.
    """

    pending: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    keepers: list[JobBackend] = field(default_factory=list)


class _Watched:
    """A backend, and a note of what it acknowledges and ends."""

    __slots__ = ("backend", "home")

    def __init__(self, backend: JobBackend, home: _Home) -> None:
        self.backend = backend
        self.home = home

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def let_go(self) -> None:
        """Let nobody ask it any more."""
        if self.backend in self.home.keepers:
            self.home.keepers.remove(self.backend)

    def open(self, clock: Clock) -> None:
        self.backend.open(clock)
        self.let_go()
        self.home.keepers.append(self.backend)

    def shut(self) -> None:
        self.backend.shut()
        if self.backend.home is not None:  # what it is kept in may be closed next
            self.let_go()

    def give_up(self) -> tuple[str, ...]:
        given_up = self.backend.give_up()
        for job_id in given_up:
            self._end(job_id)
        return given_up

    async def submit(self, request: Request) -> str:
        job_id = await self.backend.submit(request)
        if job_id not in self.home.ended:  # it may have ended before its submitter hears of it
            self.home.pending[job_id] = request.name
        return job_id

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        counts = await self.backend.finish(claim, outcome)
        if counts and outcome.retry_in_seconds is None:
            self._end(claim.request.job_id)
        return counts

    async def cancel(self, job_id: str) -> JobState:
        state = await self.backend.cancel(job_id)
        if state is not JobState.RUNNING:
            self._end(job_id)
        return state

    def _end(self, job_id: str) -> None:
        self.home.pending.pop(job_id, None)
        self.home.ended.add(job_id)


def watched_backend(find: Callable[[], AcknowledgedJobs | None], name: str) -> property:
    """Return what `Backends` has a backend in while it is simulated, whenever and by whom that was set.

    Args:
        find: Returns what watches now, or None where nothing does.
        name: Which attribute it is.
    """

    def get(backends: Backends) -> JobBackend | None:
        backend: JobBackend | None = vars(backends)[name]
        jobs = find()
        return backend if jobs is None or backend is None else jobs.watch(backend)

    def put(backends: Backends, backend: JobBackend | None) -> None:
        vars(backends)[name] = backend

    return property(get, put)


async def _is_known(backend: JobBackend, job_id: str) -> bool:
    try:
        await backend.get(job_id)
    except JobNotFoundError:
        return False
    except NotStartedError:  # the test has closed the store: nobody can tell any more
        return True
    return True
