"""Errors of background jobs."""

from __future__ import annotations

from .base import SandboxError


class JobError(SandboxError):
    """Something about one background job."""


class JobNotFoundError(JobError, LookupError):
    """The worker knows no job of this id: it never existed, or it ended too long ago."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"no job {self.job_id!r} is known here: ask with the id that submit_job() returned, and soon enough, "
            f"or raise WorkerSettings(keep_seconds=..., keep_finished=...)"
        )


class JobCancelledError(JobError):
    """The job was cancelled, so there is no result.

    Attributes:
        job: Name of the job.
        job_id: Its id.
    """

    def __init__(self, job: str, job_id: str) -> None:
        super().__init__(job, job_id)
        self.job = job
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job!r} ({self.job_id}) was cancelled and has no result: submit it again if it is still wanted"
        )


class JobTimeoutError(JobError, TimeoutError):
    """One attempt at a job took longer than it may.

    Attributes:
        job: Name of the job.
        attempt: Number of the attempt, from 1.
        seconds: How long it was given.
    """

    def __init__(self, job: str, attempt: int, seconds: float) -> None:
        super().__init__(job, attempt, seconds)
        self.job = job
        self.attempt = attempt
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"attempt {self.attempt} at job {self.job!r} was not done within {self.seconds:g} s: "
            f"give it more with timeout_seconds, or make it faster"
        )


class JobFailedError(JobError):
    """A job failed in another process, with an error that cannot be made here.

    Attributes:
        job: Name of the job.
        job_id: Its id.
        error: What it raised, as text.
    """

    def __init__(self, job: str, job_id: str, error: str) -> None:
        super().__init__(job, job_id, error)
        self.job = job
        self.job_id = job_id
        self.error = error

    def __str__(self) -> str:
        return (
            f"job {self.job!r} ({self.job_id}) failed: {self.error}; the error itself is in the log of the process "
            f"that ran the job"
        )


class JobNotStorableError(JobError, ValueError):
    """A job that is to outlive the process has an argument that cannot: it was not accepted.

    Attributes:
        job: Name of the job.
        argument: Which: ``args[0]``, ``kwargs.to``.
        problem: What is wrong with it.
    """

    def __init__(self, job: str, argument: str, problem: str) -> None:
        super().__init__(job, argument, problem)
        self.job = job
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"job {self.job!r} was not accepted, because {self.argument} cannot be stored ({self.problem}): give plain "
            f"values and value classes, such as the id of a row instead of the row"
        )


class QueueFullError(JobError):
    """The queue was full: the job was not accepted.

    Attributes:
        job: Name of the job.
        queued: How many jobs were waiting.
    """

    def __init__(self, job: str, queued: int) -> None:
        super().__init__(job, queued)
        self.job = job
        self.queued = queued

    def __str__(self) -> str:
        return (
            f"job {self.job!r} was not accepted, because {self.queued} others are waiting and none began in time: "
            f"submit it later, raise WorkerSettings(concurrency=...), or allow more with max_queued"
        )
