"""A job as its submitter sees it: how it is to be run, and where it stands.

>>> @job("mail.welcome", max_retries=2, timeout_seconds=10)
... async def send(address: str) -> None: ...
>>> options_of(send).max_retries
2
>>> JobOptions(delay_seconds=-1)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: JobOptions.delay_seconds=-1 is not allowed: give a finite number >= 0
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .backend import Request

P = ParamSpec("P")
F = TypeVar("F", bound="Callable[..., Any]")

_DECLARED = "asyncsandbox_job"


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    @property
    def has_ended(self) -> bool:
        """Whether it will never run again."""
        return self is not JobState.QUEUED and self is not JobState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How one job is to be run.

    Attributes:
        timeout_seconds: How long one attempt may take (> 0); None for the worker's default.
        delay_seconds: How long it waits before it may begin (>= 0). A dry run does not wait.
        priority: Of the jobs that may begin, a higher one begins first; equal ones in the order they were submitted.
        unique_key: While a job of the same name and key has not ended, another is not accepted: its submitter gets the
            id of the first.
        max_retries: How many further attempts follow a failed one (>= 0).
        retry_on: Only these errors are followed by another attempt.
    """

    timeout_seconds: float | None = None
    delay_seconds: float = 0.0
    priority: int = 0
    unique_key: str | None = None
    max_retries: int = 0
    retry_on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.timeout_seconds is not None:
            require_number("JobOptions.timeout_seconds", self.timeout_seconds, above=0)
        require_number("JobOptions.delay_seconds", self.delay_seconds, at_least=0)
        require_number("JobOptions.priority", self.priority, whole=True)
        require_number("JobOptions.max_retries", self.max_retries, at_least=0, whole=True)
        if self.unique_key is not None:
            require_name("JobOptions.unique_key", self.unique_key)
        kinds: object = self.retry_on
        if not isinstance(kinds, tuple) or not all(isinstance(k, type) and issubclass(k, Exception) for k in kinds):
            raise ConfigurationError("JobOptions.retry_on", kinds, "give a tuple of classes derived from Exception")


class JobKeywords(TypedDict, total=False):
    """The fields of `JobOptions` as keywords."""

    timeout_seconds: float | None
    delay_seconds: float
    priority: int
    unique_key: str | None
    max_retries: int
    retry_on: tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """Where one job stands: frozen, and JSON-able by `dataclasses.asdict`.

    Attributes:
        job_id: Its id.
        name: Its name.
        state: Where it stands.
        attempt: Number of the newest attempt; 0 before the first.
        submitted_at: When it was accepted, ISO 8601 in UTC.
        started_at: When the newest attempt began; empty before the first.
        ended_at: When it ended; empty before.
        error: What the newest attempt that did not return raised; None where there was none.
        correlation_id: Of the request it was submitted in, or else its own id.
    """

    job_id: str
    name: str
    state: JobState
    attempt: int
    submitted_at: str
    started_at: str
    ended_at: str
    error: str | None
    correlation_id: str


def job(name: str, **options: Unpack[JobKeywords]) -> Callable[[F], F]:
    """Declare at a function under which name and how it runs as a job, and leave it as it is.

    In a sandbox with a store its jobs outlive the process: another one that has imported the function finds it by this
    name. So give it at the top level of a module, and keep the name while jobs of it may wait.

    Args:
        name: Unique in the program.
        **options: Fields of `JobOptions`, the defaults for every submission.

    Raises:
        ConfigurationError: An option is out of its range, or the name is another function's.
    """
    require_name("job.name", name)
    declared = (name, JobOptions(**options))

    def decorate(function: F) -> F:
        place = _place_of(function)
        known = _declared_jobs.setdefault(name, (place, function))
        if known[0] != place:
            raise ConfigurationError("job.name", name, f"it is the name of {known[0]}: give each function its own")
        _declared_jobs[name] = (place, function)  # a module that is loaded anew declares its functions anew
        setattr(function, _DECLARED, declared)
        return function

    return decorate


# Process-wide, as what is imported is: whoever takes a job of another process knows nothing of it but its name.
_declared_jobs: dict[str, tuple[str, Callable[..., Any]]] = {}


def declared_names() -> tuple[str, ...]:
    """Return the names of the functions that `job` has declared."""
    return tuple(_declared_jobs)


def get_declared(name: str) -> Callable[..., Any]:
    """Return the function that `job` has declared by this name."""
    return _declared_jobs[name][1]


def declared_name(function: object) -> str | None:
    """Return the name by which any process finds this function; None where none does."""
    declared = getattr(function, _DECLARED, None)
    if declared is None:
        return None
    place, known = _declared_jobs[declared[0]]
    # A module may be loaded twice, as the program and by its name; what is made anew by each call of a function is
    # another one each time.
    is_known = known is function or ("<locals>" not in place and place == _place_of(function))
    return declared[0] if is_known else None


def _place_of(function: object) -> str:
    """Return where a function is written, the same for each time that its module is loaded."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    file = getattr(function, "__module__", "") if code is None else code.co_filename
    return f"{getattr(function, '__qualname__', repr(function))} in {file}"


DEFAULT_OPTIONS = JobOptions()


def options_of(function: object) -> JobOptions:
    """Return what is declared at a function, or the defaults."""
    declared = getattr(function, _DECLARED, None)
    return DEFAULT_OPTIONS if declared is None else declared[1]


def name_of(function: object) -> str:
    """Return the name that is declared at a function, or else the one it has."""
    declared = getattr(function, _DECLARED, None)
    return str(getattr(function, "__qualname__", type(function).__qualname__)) if declared is None else declared[0]


def describe(error: BaseException) -> str:
    """Return an error as text, also where it cannot say what it is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - one that cannot be printed must not escape
        return type(error).__name__


class MakeRequest(Protocol):
    """Makes a request of what a submitter says."""

    def __call__(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: JobOptions,
        /,
    ) -> Request:
        """Return it."""
        ...


class JobSubmitter:
    """Submits jobs with options; see `WorkerProcess.with_options`. It may be used any number of times.

    Concurrency: as of the worker. Cancellation: as of the worker.
    """

    def __init__(
        self, make_request: MakeRequest, accept: Callable[[Request], Awaitable[str]], options: JobKeywords
    ) -> None:
        self._make_request = make_request
        self._accept = accept
        self._changes = options
        self._options = JobOptions(**options)

    async def submit_job(self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Do what `WorkerProcess.submit_job` does, with these options.

        Raises:
            SandboxError: Whatever that raises.
        """
        declared = options_of(function)
        options = self._options if declared is DEFAULT_OPTIONS else replace(declared, **self._changes)
        return await self._accept(self._make_request(name, function, args, kwargs, options))
