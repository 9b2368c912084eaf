"""What of a job is stored: its arguments, and what came of it.

>>> read_arguments(write_arguments("mail", (1, "a"), {"to": None}))
((1, 'a'), {'to': None})
>>> write_arguments("mail", (print,), {})
Traceback (most recent call last):
    ...
asyncsandbox.errors.jobs.JobNotStorableError: job 'mail' was not accepted, because args[0] cannot be stored (a ...
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..._core.action_rows import plain_text
from ..._core.results import decode_result, encode_result
from ...errors import ConfigurationError, JobFailedError, JobNotStorableError, ResultCodecError, ResultUnavailableError
from .backend import Outcome, Request
from .job import JobState, JobStatus, describe, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.store import Row, Value

_NONE: Final = b""  # no arguments, as most jobs have that matter for speed


def write_arguments(job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return the arguments of a job in bytes.

    Raises:
        JobNotStorableError: One of them would not come back as it is.
    """
    if not args and not kwargs:
        return _NONE
    try:
        return encode_result({"args": list(args), "kwargs": dict(kwargs)}).data
    except ResultCodecError as error:
        raise JobNotStorableError(job, error.path.removeprefix("result."), error.problem) from error


def read_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a job from its bytes.

    Raises:
        ResultCodecError: They cannot be read here.
    """
    if data == _NONE:
        return (), {}
    stored = decode_result(data)
    return tuple(stored["args"]), stored["kwargs"]


def get_parameters(request: Request) -> dict[str, Value]:
    """Return what `job_table.SUBMIT` takes.

    Raises:
        JobNotStorableError: An argument would not come back as it is.
        ConfigurationError: No other process would find the function, or know what to try it again for.
    """
    options, declared_as = request.options, request.declared_as
    if declared_as is None:
        allowed = 'declare it with @job("...") at the top level of its module, so that any process finds it'
        raise ConfigurationError("submit_job.function", request.function, allowed)
    if options.retry_on != options_of(request.function).retry_on:
        allowed = "declare it at the function, in @job, since another process may run the job"
        raise ConfigurationError("with_options.retry_on", options.retry_on, allowed)
    return {
        "id": request.job_id,
        "name": request.name,
        "function": declared_as,
        "arguments": write_arguments(request.name, request.args, request.kwargs),
        "correlation_id": request.correlation_id,
        "priority": options.priority,
        "delay": float(request.delay_seconds),
        "timeout": None if options.timeout_seconds is None else float(options.timeout_seconds),
        "max_retries": options.max_retries,
        "unique_key": options.unique_key,
    }


class Ending(NamedTuple):
    """What came of a job, as it is stored.

    Attributes:
        state: Where it stands.
        result: What it returned or raised, in bytes.
        reason: Why there are none.
        error: What the newest attempt raised, as text.
    """

    state: JobState
    result: bytes | None
    reason: str | None
    error: str | None

    @classmethod
    def of(cls, outcome: Outcome) -> Ending:
        """Return what is to be stored."""
        value, error = outcome.result, None
        if outcome.error is not None:
            value, error = outcome.error, plain_text(describe(outcome.error))
        elif outcome.state is not JobState.SUCCEEDED:
            return cls(outcome.state, None, None, None)
        try:
            return cls(outcome.state, encode_result(value).data, None, error)
        except ResultCodecError as problem:
            return cls(outcome.state, None, plain_text(str(problem)), error)

    def to_parameters(self) -> dict[str, Value]:
        """Return what `job_table.FINISH` takes."""
        return {"state": self.state.value, "result": self.result, "reason": self.reason, "error": self.error}

    @classmethod
    def read(cls, row: Row) -> Ending:
        """Return what a row of the table says."""
        return cls(JobState(row["state"]), row["result"], row["reason"], row["error"])

    def to_outcome(self, name: str, job_id: str) -> Outcome:
        """Return what came of the job, an error also where the result cannot be given."""
        if self.state is JobState.CANCELLED:
            return Outcome(self.state)
        value, problem = None, self.reason
        if self.result is not None:
            try:
                value = decode_result(self.result)
            except ResultCodecError as error:
                problem = str(error)
        if self.state is JobState.SUCCEEDED:
            if problem is None:
                return Outcome(self.state, value)
            return Outcome(self.state, error=ResultUnavailableError(f"job {name!r} ({job_id})", problem))
        if isinstance(value, Exception):
            return Outcome(self.state, error=value)
        return Outcome(self.state, error=JobFailedError(name, job_id, self.error or ""))


def read_status(row: Row) -> JobStatus:
    """Return where the job of a row stands."""
    return JobStatus(
        job_id=row["id"],
        name=row["name"],
        state=JobState(row["state"]),
        attempt=row["attempt"],
        submitted_at=_tell(row["submitted_at"]),
        started_at=_tell(row["started_at"]),
        ended_at=_tell(row["ended_at"]),
        error=row["error"],
        correlation_id=row["correlation_id"],
    )


def _tell(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
