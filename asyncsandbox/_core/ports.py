"""What the pipeline of actions asks of the governor and of the retry manager, without knowing either.

>>> Attempt(call="card.charge", number=1, at=datetime(2026, 11, 1, tzinfo=UTC), duration_seconds=0.2).error is None
True
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine, Hashable, Mapping, Sequence

__all__ = ["UTC", "Attempt", "Permit", "PermitPort", "RetryCall", "RetryPort", "RetryRules", "datetime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call of a body, and what came of it.

    Attributes:
        call: Name of what was called.
        number: 1 for the first.
        at: When it began, in UTC; when it ended, where ``duration_seconds`` is None.
        duration_seconds: How long it took; None where nothing was measured before it failed.
        error: What it raised, as text; None where it returned.
        retry_in_seconds: How long the next attempt was put off; None where there was none.
        permit_seconds: How long it waited for permits before it began.
        correlation_id: Of the request or run it belongs to.
    """

    call: str
    number: int
    at: datetime
    duration_seconds: float | None = None
    error: str | None = None
    retry_in_seconds: float | None = None
    permit_seconds: float = 0.0
    correlation_id: str | None = None


class Permit(Protocol):
    """The right to make one call."""

    @property
    def waited_seconds(self) -> float:
        """How long it was waited for."""
        ...

    def release(self) -> None:
        """Say that the call has ended: slots of a concurrency cap are free again. Calling it again does nothing."""
        ...

    def give_back(self) -> None:
        """Say that the call was never made: everything counts as if the permit had not been asked for."""
        ...


class PermitPort(Protocol):
    """Where permits come from."""

    def has_limit(self, resource: str) -> bool:
        """Tell whether a limit of this name is declared."""
        ...

    def acquire(
        self, resource: str, *, per: Hashable = None, cost: int = 1, until: float | None = None
    ) -> Coroutine[Any, Any, Permit]:
        """Wait for a permit, first come first served.

        Args:
            resource: Name of the limit.
            per: Whose permit, for a limit that counts by key.
            cost: How many units it takes.
            until: Moment, on the clock's monotonic scale, after which it is of no use; None for never.

        Raises:
            LimitExceededError: No such limit, more than it ever admits, or not to be had by ``until``.

        Concurrency: first in, first out per key. Cancellation: costs nothing.
        """
        ...

    def note_wanted(self, resource: str, *, per: Hashable = None, cost: int = 1) -> None:
        """Count a permit that a dry run would need and does not take."""
        ...

    def get_wanted(self) -> Mapping[tuple[str, Hashable], int]:
        """Return how many units were wanted, by name of the limit and whose they are."""
        ...

    def forecast_seconds(self, wanted: Mapping[tuple[str, Hashable], int]) -> float:
        """Return how long it takes at least to admit so many calls, from limits nobody has used yet.

        Args:
            wanted: How many permits by name of the limit and whose they are.
        """
        ...


class RetryRules(Protocol):
    """What the pipeline itself reads in ``RetrySettings``."""

    @property
    def max_retries(self) -> int:
        """How many further attempts there may be."""
        ...

    @property
    def attempt_timeout_seconds(self) -> float | None:
        """Longest time for one attempt."""
        ...

    @property
    def deadline_seconds(self) -> float | None:
        """Longest time for the whole call."""
        ...


class RetryCall(Protocol):
    """Decides for one call whether it may be made and whether a failed attempt is followed by another.

    From the first retry until `leave`, retried calls inside this one do not retry: attempts must not multiply.
    """

    @property
    def history(self) -> Sequence[Attempt]:
        """The failed attempts so far."""
        ...

    def enter(self) -> None:
        """Pass the circuit breaker; once, before the first attempt.

        Raises:
            BreakerOpenError: It is open, or half open with all its probes under way.
        """
        ...

    def time_left(self) -> float | None:
        """Return how long an attempt that begins now may take, in seconds (<= 0: not at all); None for no limit."""
        ...

    def matches(self, error: Exception) -> bool:
        """Tell whether the settings want an attempt that raised this to be repeated. Spends nothing."""
        ...

    def fail(
        self, error: Exception, *, began: float | None = None, permit_seconds: float = 0.0, may_retry: bool = True
    ) -> float | None:
        """Note a failed attempt.

        Args:
            error: What it raised.
            began: When it began, on the clock's monotonic scale; None where that was not measured.
            permit_seconds: How long it had waited for permits.
            may_retry: False where another attempt is out of the question whatever the settings say.

        Returns:
            How long to wait before the next attempt; None where there must not be one, with the history noted on
            the error.
        """
        ...

    def leave(self, *, ok: bool | None) -> None:
        """End the call, whatever came of it; calling it again does nothing.

        Args:
            ok: What the breaker should hear: True where it ended well, False where its last attempt raised what
                `matches`, None where the end says nothing of the provider (a cancellation, a denial of ours).
        """
        ...


class RetryPort(Protocol):
    """Where decisions on retries come from."""

    def begin(self, call: str, settings: RetryRules) -> RetryCall:
        """Return what decides for one call under these settings, in the task that makes its attempts.

        Args:
            call: Name of what is called; calls of one name share a budget and a breaker.
            settings: ``RetrySettings``.
        """
        ...
