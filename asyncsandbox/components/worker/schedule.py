"""Submitting a job again and again, without overlap, and what becomes of firings that were missed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict

from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError, NotStartedError, QueueFullError
from .job import JobOptions, name_of, options_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._core.clock import Clock
    from .trigger import Trigger

__all__ = ["JobOptions", "Schedule"]

_LOOK_AGAIN_SECONDS = 60.0


class Submit(Protocol):
    """Accepts a job and returns its id."""

    async def __call__(self, name: str, function: Callable[[], Any], options: JobOptions, moment: str | None, /) -> str:
        """Accept it, where the moment is given only once in all processes."""
        ...


class Tell(Protocol):
    """Publishes what became of a schedule."""

    def __call__(self, event: str, /, **fields: object) -> object:
        """Publish it."""
        ...


class ScheduleKeywords(TypedDict, total=False):
    """When a job is submitted again and again.

    Attributes:
        every_seconds: At this interval (> 0), the first one interval after the start.
        cron: Or by this line of cron, as in ``"0 3 * * *"``.
        timezone: In which the line is read; UTC where nothing is said.
        name: What the schedule and its jobs are called; otherwise the name of the function.
        overlap: Whether a firing counts while the job of the one before has not ended; otherwise it is skipped.
        max_late_seconds: A firing that comes later than this is skipped (>= 0); None for never.
    """

    every_seconds: float | None
    cron: str | None
    timezone: str
    name: str | None
    overlap: bool
    max_late_seconds: float | None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Schedule:
    """What is submitted again and again.

    Attributes:
        name: Its name, and that of its jobs.
        function: What to call, without arguments.
        trigger: When.
        overlap: Whether a firing counts while the job of the one before has not ended.
        max_late_seconds: A firing that comes later than this is skipped; None for never.
    """

    name: str
    function: Callable[[], Any]
    trigger: Trigger
    overlap: bool
    max_late_seconds: float | None

    @classmethod
    def declare(cls, function: Callable[[], Any], trigger: Trigger, when: ScheduleKeywords) -> Self:
        """Return a schedule as its keywords say.

        Raises:
            ConfigurationError: Something cannot be used.
        """
        return cls(
            name=when.get("name") or name_of(function),
            function=function,
            trigger=trigger,
            overlap=when.get("overlap", False),
            max_late_seconds=when.get("max_late_seconds"),
        )

    def __post_init__(self) -> None:
        require_name("scheduled.name", self.name)
        if not callable(self.function):
            raise ConfigurationError("function", self.function, "give a function that takes no arguments")
        if self.max_late_seconds is not None:
            require_number("max_late_seconds", self.max_late_seconds, at_least=0)

    async def keep(self, clock: Clock, submit: Submit, tell: Tell) -> None:
        """Submit its jobs when they are due, until the worker stops.

        It says what it does, and when the next firing is due, so that somebody else can tell when one stays out.

        Raises:
            asyncio.CancelledError: The worker stops.

        Concurrency: in a task of its own. Cancellation: ends it.
        """
        try:
            await self._fire_on_time(clock, submit, tell)
        except asyncio.CancelledError:
            tell("schedule.stopped", schedule=self.name)
            raise
        tell("schedule.stopped", schedule=self.name)

    async def _fire_on_time(self, clock: Clock, submit: Submit, tell: Tell) -> None:
        now = self.trigger.now(clock)
        self.trigger.begin(now)
        at = self.trigger.get_next(now)
        tell("schedule.started", schedule=self.name, next_in_seconds=None if at is None else at - now)
        last_job = ""
        while at is not None:
            moment, late = self.trigger.describe(at), await self._wait_until(at, clock)
            now = self.trigger.now(clock)
            at = self.trigger.get_next(max(at, now))
            try:
                fields = await self._fire(submit, late, last_job, moment)
            except NotStartedError:
                return
            last_job = fields.get("job_id", last_job)
            event = "schedule.fired" if "job_id" in fields else "schedule.skipped"
            tell(event, schedule=self.name, next_in_seconds=None if at is None else at - now, **fields)

    async def _fire(self, submit: Submit, late: float, last_job: str, moment: str | None) -> dict[str, str]:
        """Submit a job and return its id, or the reason why there is none."""
        if self.max_late_seconds is not None and late > self.max_late_seconds:
            return {"reason": f"{late:g} s late"}
        options = options_of(self.function)
        if not self.overlap:
            options = replace(options, unique_key=self.name)
        try:
            job_id = await submit(self.name, self.function, options, moment)
        except QueueFullError:
            return {"reason": "the queue is full"}
        return {"reason": f"job {job_id} has not ended"} if job_id == last_job else {"job_id": job_id}

    async def _wait_until(self, at: float, clock: Clock) -> float:
        """Wait until a moment has come, and return how many seconds too late it is."""
        while (left := at - self.trigger.now(clock)) > 0:
            # Not all at once: the time of day may be set meanwhile.
            await clock.sleep(min(left, _LOOK_AGAIN_SECONDS))
        return -left
