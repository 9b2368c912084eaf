"""When a failed call is made again, and when calls are refused: `RetrySettings` and `BreakerSettings`.

>>> RetrySettings(max_retries=5, retry_on=(ConnectionError, TimeoutError)).max_retries
5
>>> RetrySettings(max_retries=-1)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: RetrySettings.max_retries=-1 is not allowed: give a whole number >= 0
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

from ..._core.settings import require_number
from ...errors import AttemptTimeoutError, ConfigurationError, SandboxError

RetryOn: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When calls of one name are refused without being made.

    Attributes:
        failures: How many failed calls open the breaker (>= 1) ...
        of_calls: ... among how many of the last ones (>= `failures`); as many as `failures` means in a row.
        open_seconds: How long every call is refused then, until probes are let through (> 0).
        probes: How many calls are let through to try, all of which must succeed to close it (>= 1).

    Raises:
        ConfigurationError: A value is out of its range.
    """

    failures: int = 5
    of_calls: int = 10
    open_seconds: float = 30.0
    probes: int = 1

    def __post_init__(self) -> None:
        require_number("BreakerSettings.failures", self.failures, at_least=1, whole=True)
        require_number("BreakerSettings.of_calls", self.of_calls, at_least=self.failures, whole=True)
        require_number("BreakerSettings.open_seconds", self.open_seconds, above=0)
        require_number("BreakerSettings.probes", self.probes, at_least=1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When a failed call is made again, and how long it waits.

    Attributes:
        max_retries: How many attempts may follow the first one (>= 0): n retries are at most n + 1 calls.
        backoff_base_seconds: Before its k-th retry a call waits a random part of base * 2**(k-1) (> 0) ...
        backoff_cap_seconds: ... or of this, where that is less (>= `backoff_base_seconds`).
        attempt_timeout_seconds: Longest time for one attempt (> 0); None for no limit.
        deadline_seconds: Longest time for the whole call, waits included (> 0); None for no limit. An earlier deadline
            around the call still holds.
        retry_on: Which errors are worth another attempt: a class, a tuple of classes, or a function of the error.
        retry_on_result: A function that says which results are worth another attempt. When no attempt is left, the
            last result is returned. None for no such results.
        max_retry_after_seconds: Longest wait that a provider may ask for by Retry-After (> 0); a call that is told to
            wait longer fails at once.
        budget_ratio: How many retries each call of one name allows for, in the long run (> 0); None for no budget.
        budget_burst: How many retries there may be beyond that (>= 1).
        breaker: When calls are refused because too many have failed; None for never.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    max_retries: int = 3
    backoff_base_seconds: float = 0.5
    backoff_cap_seconds: float = 30.0
    attempt_timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    retry_on: RetryOn = Exception
    retry_on_result: Callable[..., object] | None = None
    max_retry_after_seconds: float = 300.0
    budget_ratio: float | None = 0.2
    budget_burst: int = 100
    breaker: BreakerSettings | None = None

    def __post_init__(self) -> None:
        require_number("RetrySettings.max_retries", self.max_retries, at_least=0, whole=True)
        require_number("RetrySettings.backoff_base_seconds", self.backoff_base_seconds, above=0)
        require_number(
            "RetrySettings.backoff_cap_seconds", self.backoff_cap_seconds, at_least=self.backoff_base_seconds
        )
        require_number("RetrySettings.max_retry_after_seconds", self.max_retry_after_seconds, above=0)
        require_number("RetrySettings.budget_burst", self.budget_burst, at_least=1, whole=True)
        for field in ("attempt_timeout_seconds", "deadline_seconds", "budget_ratio"):
            value = getattr(self, field)
            if value is not None:
                require_number(f"RetrySettings.{field}", value, above=0)
        _require_retry_on(self.retry_on)
        if self.retry_on_result is not None and not _is_plain_function(self.retry_on_result):
            raise ConfigurationError(
                "RetrySettings.retry_on_result", self.retry_on_result, "give a plain function of the result, or None"
            )
        if self.breaker is not None and not isinstance(self.breaker, BreakerSettings):
            raise ConfigurationError("RetrySettings.breaker", self.breaker, "give BreakerSettings(...) or None")

    @property
    def is_light(self) -> bool:
        """Whether a call that ends well needs neither clock nor breaker nor a look at its result."""
        watched = (self.attempt_timeout_seconds, self.deadline_seconds, self.retry_on_result, self.breaker)
        return all(each is None for each in watched)


class RetryOptions(TypedDict, total=False):
    """The fields of `RetrySettings`, for `RetryBackoffManager.retrying`."""

    max_retries: int
    backoff_base_seconds: float
    backoff_cap_seconds: float
    attempt_timeout_seconds: float | None
    deadline_seconds: float | None
    retry_on: RetryOn
    retry_on_result: Callable[..., object] | None
    max_retry_after_seconds: float
    budget_ratio: float | None
    budget_burst: int
    breaker: BreakerSettings | None


def _require_retry_on(value: object) -> None:
    if _is_plain_function(value):
        return
    given = value if isinstance(value, tuple) else (value,)
    kinds = [kind for kind in given if isinstance(kind, type) and issubclass(kind, Exception)]
    if not given or len(kinds) < len(given):
        raise ConfigurationError(
            "RetrySettings.retry_on",
            value,
            "give a class derived from Exception, a tuple of such classes, or a plain function of the error; what "
            "ends a task or the program (CancelledError, KeyboardInterrupt) is never retried",
        )
    for kind in kinds:
        if issubclass(kind, SandboxError) and kind is not AttemptTimeoutError:
            raise ConfigurationError(
                "RetrySettings.retry_on", kind, "of the sandbox's own errors only AttemptTimeoutError is ever retried"
            )


def _is_plain_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type) and not inspect.iscoroutinefunction(value)
