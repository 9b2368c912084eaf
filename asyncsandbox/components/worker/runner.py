"""Runs what the backend gives out, a few at a time, and tells the backend what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..._core.journal import Level
from ..._core.tasks import outlast
from .backend import Outcome
from .job import JobState, describe
from .run import Run
from .timeouts import Timeouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio import CapacityLimiter

    from ..._core.clock import Clock
    from ..._core.component import Services
    from ..._core.journal import Journal
    from .backend import Claim, JobBackend
    from .settings import WorkerSettings

__all__ = ["Level", "Runner"]


class Runner:
    """The attempts that are under way.

    Args:
        settings: The worker's.
        services: Time, chance, and the journal.
        hurry: Whether another attempt follows at once, as in a rehearsal.

    Attributes:
        runs: Those under way, by the id of the job.

    Concurrency: for one event loop. Cancellation: of `give_out` ends nothing that is under way.
    """

    def __init__(self, settings: WorkerSettings, services: Services, *, hurry: bool) -> None:
        from anyio import CapacityLimiter

        self.runs: dict[str, Run] = {}
        self._settings = settings
        self._clock: Clock = services.clock
        self._journal: Journal = services.journal
        self._hurry = hurry
        self._threads: CapacityLimiter = CapacityLimiter(settings.concurrency)
        self._timeouts = Timeouts(services.clock)
        self._slots: list[asyncio.Future[None]] = []
        self._reserved = 0  # places for jobs that are being claimed

    async def give_out(self, backend: JobBackend) -> None:
        """Begin jobs as they come and as there is room for them, for ever.

        Args:
            backend: What gives out jobs; several may, each in a task of its own, and share the room.
        """
        loop, most = asyncio.get_running_loop(), self._settings.concurrency
        while True:
            while (room := most - len(self.runs) - self._reserved) <= 0:
                slot = loop.create_future()
                self._slots.append(slot)
                await slot
            self._reserved += room
            try:
                claims = await backend.claim(room)
            finally:
                self._reserved -= room
            self._begin_all(claims, backend, loop)
            if len(claims) < room:
                del claims  # which would hold on to what has ended by then
                self._free_slots()
                await backend.wait_ready()

    def cancel(self, job_id: str) -> bool:
        """Ask the attempt at a job to end; return whether there was one to end."""
        run = self.runs.get(job_id)
        return run is not None and run.cancel()

    async def end_all(self) -> asyncio.CancelledError | None:
        """Cancel what is under way, wait for it, and return a cancellation that came meanwhile."""
        runs = tuple(self.runs.values())
        for run in runs:
            run.give_up()
        cancellation: asyncio.CancelledError | None = None
        for task in [run.task for run in runs if run.task is not None]:
            cancellation = await outlast(task) or cancellation
        return cancellation

    def _begin_all(self, claims: Sequence[Claim], backend: JobBackend, loop: asyncio.AbstractEventLoop) -> None:
        for claim in claims:  # not in give_out(), which would hold on to the last of them
            self._begin(claim, backend, loop)

    def _begin(self, claim: Claim, backend: JobBackend, loop: asyncio.AbstractEventLoop) -> None:
        request = claim.request
        options = request.options
        seconds = self._settings.timeout_seconds if options.timeout_seconds is None else options.timeout_seconds
        run = self.runs[request.job_id] = Run(claim, seconds)
        # An attempt must not see what the one before left in the context.
        context = request.context.copy() if options.max_retries else request.context
        # Not by spawn(), which costs as much as a small job: `runs` is what ends it, and an outcome all it has.
        run.task = loop.create_task(self._attempt(run, backend), name=request.name, context=context)

    async def _attempt(self, run: Run, backend: JobBackend) -> None:
        try:
            outcome = run.unbegun() if run.is_unwanted else await self._get_outcome(run)
            if await backend.finish(run.claim, outcome) and (outcome.error is not None or run.is_timed_out):
                self._report(run, outcome)
        finally:
            del self.runs[run.claim.request.job_id]
            if self._slots:
                self._free_slots()

    def _free_slots(self) -> None:
        """Have whoever waits for room look again."""
        for slot in self._slots:
            if not slot.done():
                slot.set_result(None)
        self._slots.clear()

    async def _get_outcome(self, run: Run) -> Outcome:
        run.has_begun = True
        if run.seconds is not None:
            self._timeouts.begin(run, run.claim.at, run.seconds)
        try:
            return Outcome(JobState.SUCCEEDED, await run.call(self._threads))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is the outcome
            return run.judge(error, self._draw_wait)
        finally:
            run.is_over = True
            if run.seconds is not None:
                self._timeouts.end(run.seconds)

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

    def _report(self, run: Run, outcome: Outcome) -> None:
        """Publish that an attempt failed or took too long."""
        request = run.claim.request
        fields = {"job": request.name, "job_id": request.job_id, "attempt": run.claim.attempt}
        if run.is_timed_out:
            state = outcome.state.value
            self._journal.publish("job.timed_out", component="worker", level=Level.WARNING, state=state, **fields)
        if outcome.error is None or outcome.state is JobState.CANCELLED:
            return
        wait = outcome.retry_in_seconds
        self._journal.publish(
            "job.dead" if outcome.state is JobState.DEAD else "job.failed",
            component="worker",
            level=Level.ERROR if wait is None else Level.WARNING,
            error=describe(outcome.error),
            retry_in_seconds=wait,
            **fields,
        )
