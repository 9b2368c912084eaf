"""The settings of the worker.

>>> WorkerSettings(when_full="refuse").when_full
<WhenFull.REFUSE: 'refuse'>
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..._core.settings import require_number
from ...errors import ConfigurationError


class WhenFull(StrEnum):
    """What becomes of a job that is submitted to a full queue."""

    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How jobs are run and kept.

    Attributes:
        concurrency: How many jobs run at the same time (>= 1).
        max_queued: How many jobs may wait (>= 1).
        when_full: Whether a submitter waits for room or is refused where that many wait.
        timeout_seconds: How long one attempt may take where the job does not say itself (> 0); None for no limit.
        grace_seconds: How long jobs may go on when the worker stops (>= 0).
        keep_finished: How many jobs that have ended are remembered (>= 0).
        keep_seconds: How long each of them is (>= 0).
        run_durable: Whether jobs that are in the store run here; otherwise another process has to.
        max_recoveries: How often a job is begun again because its process died; after that it is dead (>= 0).
        retry_base_seconds: Longest wait before the second attempt (> 0); it doubles with each further one.
        retry_cap_seconds: Longest wait before any attempt (> 0).
    """

    concurrency: int = 16
    max_queued: int = 10_000
    when_full: WhenFull = WhenFull.WAIT
    timeout_seconds: float | None = None
    grace_seconds: float = 30.0
    keep_finished: int = 10_000
    keep_seconds: float = 3600.0
    run_durable: bool = True
    max_recoveries: int = 3
    retry_base_seconds: float = 1.0
    retry_cap_seconds: float = 300.0

    def __post_init__(self) -> None:
        require_number("WorkerSettings.concurrency", self.concurrency, at_least=1, whole=True)
        require_number("WorkerSettings.max_queued", self.max_queued, at_least=1, whole=True)
        if self.timeout_seconds is not None:
            require_number("WorkerSettings.timeout_seconds", self.timeout_seconds, above=0)
        require_number("WorkerSettings.grace_seconds", self.grace_seconds, at_least=0)
        require_number("WorkerSettings.keep_finished", self.keep_finished, at_least=0, whole=True)
        require_number("WorkerSettings.keep_seconds", self.keep_seconds, at_least=0)
        require_number("WorkerSettings.max_recoveries", self.max_recoveries, at_least=0, whole=True)
        require_number("WorkerSettings.retry_base_seconds", self.retry_base_seconds, above=0)
        require_number("WorkerSettings.retry_cap_seconds", self.retry_cap_seconds, above=0)
        try:
            object.__setattr__(self, "when_full", WhenFull(self.when_full))
        except ValueError:
            allowed = f"give one of {', '.join(WhenFull)}"
            raise ConfigurationError("WorkerSettings.when_full", self.when_full, allowed) from None
