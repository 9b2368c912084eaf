"""What keeps the jobs of one worker: memory, or a backend of the app's, and beside that the store of the sandbox.

A job goes to the store if its function is declared, so that any process finds it; every other one goes to the first.

>>> backends = Backends(None, WorkerSettings())
>>> [backend.home for backend in backends]
[None]
>>> backends.get_counts().queued
0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .backend import JobBackend, JobCounts, sum_counts
from .memory import MemoryBackend, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._core.component import Services
    from .backend import Request
    from .durable import MakeContext

__all__ = ["Backends", "WorkerSettings"]

DURABLE: Final = "durable-"
"""What the ids of jobs in the store begin with."""


class Backends:
    """The backends of a worker; see `JobBackend` for what each does.

    Concurrency: as of each. Cancellation: as of each.

    Args:
        backend: What keeps all jobs; None for memory, and the store.
        settings: Of the worker.

    Attributes:
        first: What keeps the jobs that are not in the store.
        store: What keeps those that are; None where there is none.
    """

    def __init__(self, backend: JobBackend | None, settings: WorkerSettings) -> None:
        self.first: JobBackend = backend or MemoryBackend(settings)
        self.store: JobBackend | None = None
        self._may_store = backend is None
        self._settings = settings

    def __iter__(self) -> Iterator[JobBackend]:
        return iter((self.first,) if self.store is None else (self.first, self.store))

    async def open(self, services: Services, make_context: MakeContext) -> None:
        """Accept jobs from now on, in the store of the sandbox as well if there is one that may be written to.

        Raises:
            StoreError: It cannot be used.
        """
        self.store = None
        if self._may_store and services.store is not None and services.owner is not None:
            from .durable import StoreBackend

            store = StoreBackend(services, services.store, services.owner, self._settings, make_context)
            await store.attach()
            self.store = store
        for backend in self:
            backend.open(services.clock)

    def shut(self) -> None:
        """Accept no more."""
        for backend in self:
            backend.shut()

    def give_up(self) -> tuple[str, ...]:
        """Cancel what waits and cannot outlive the process, and return its ids."""
        return tuple(job_id for backend in self for job_id in backend.give_up())

    def of(self, job_id: str) -> JobBackend:
        """Return what knows of a job."""
        return self.store if self.store is not None and str(job_id).startswith(DURABLE) else self.first

    async def submit(self, request: Request) -> str:
        """Accept a job where it belongs, and return its id."""
        backend = self.first if request.declared_as is None or self.store is None else self.store
        return await backend.submit(request)

    async def wait_idle(self, *, delayed: bool) -> None:
        """Wait until no job runs and none may begin; with ``delayed`` also none later."""
        for backend in self:
            await backend.wait_idle(delayed=delayed)

    def get_counts(self) -> JobCounts:
        """Return how many jobs stand where, in all."""
        return sum_counts(backend.get_counts() for backend in self)

    def get_most_queued(self) -> int:
        """Return how many jobs wait where most do."""
        return max(backend.get_counts().queued for backend in self)
