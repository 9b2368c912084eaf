"""What the worker says of itself.

>>> WorkerStatus(name="worker", state=ComponentState.NEW, jobs=JobCounts(queued=2), schedules=()).jobs.queued
2
"""

from __future__ import annotations

from dataclasses import dataclass

from ..._core.component import ComponentState, ComponentStatus
from .backend import JobCounts

__all__ = ["ComponentState", "JobCounts", "WorkerStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus(ComponentStatus):
    """What the worker says of itself.

    Attributes:
        jobs: How many jobs stand where.
        schedules: Names of the schedules.
        runs_durable: Whether jobs that are in the store run here.
    """

    jobs: JobCounts
    schedules: tuple[str, ...]
    runs_durable: bool = False
