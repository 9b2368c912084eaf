"""Errors of limits, retries and circuit breakers."""

from __future__ import annotations

from .base import SandboxError

_WHOLE_SECONDS_FROM = 100


def in_seconds(seconds: float) -> str:
    """Return a duration as people read it: ``"0.0253 s"``, ``"3600 s"``."""
    return f"{seconds:.0f} s" if seconds >= _WHOLE_SECONDS_FROM else f"{seconds:.3g} s"


class LimitExceededError(SandboxError):
    """A limit denies a call: it was not made, and nothing was spent.

    Attributes:
        resource: Name of the limit.
        reason: Why; where waiting does not help, with what to do instead.
        retry_after_seconds: When it would be admitted, from now, if nobody else comes; None where waiting is not known
            to help.
    """

    def __init__(self, resource: str, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(resource, reason, retry_after_seconds)
        self.resource = resource
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        denied = f"limit {self.resource!r} denies the call: {self.reason}"
        if self.retry_after_seconds is None:
            return denied
        return f"{denied}; try again in {in_seconds(self.retry_after_seconds)}, or wait with governor.permit()"


class AttemptTimeoutError(SandboxError, TimeoutError):
    """One attempt took longer than it may and was cancelled. Unlike other errors of ours it may be retried.

    Attributes:
        call: Name of what was called.
        attempt: Number of the attempt, from 1.
        seconds: How long it was given.
    """

    def __init__(self, call: str, attempt: int, seconds: float) -> None:
        super().__init__(call, attempt, seconds)
        self.call = call
        self.attempt = attempt
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"attempt {self.attempt} of {self.call!r} gave no answer within {self.seconds:g} s and was cancelled: "
            f"give it more time with attempt_timeout_seconds or deadline_seconds, or make it faster"
        )


class BreakerOpenError(SandboxError):
    """A circuit breaker is open after too many failures: the call was not made.

    Attributes:
        call: Name of what was to be called.
        retry_after_seconds: When the breaker admits probes again, from now.
    """

    def __init__(self, call: str, retry_after_seconds: float) -> None:
        super().__init__(call, retry_after_seconds)
        self.call = call
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return (
            f"{self.call!r} was not called, because its circuit breaker is open: "
            f"try again in {in_seconds(self.retry_after_seconds)}, and look at why the calls before failed"
        )
