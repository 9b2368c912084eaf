"""Errors of idempotency keys and of stored results."""

from __future__ import annotations

from .actions import OutcomeUnknownError
from .base import SandboxError


class IdempotencyUnknownError(OutcomeUnknownError):
    """A call with an idempotency key began and its outcome is not known; the key will not run again by itself.

    Attributes:
        action: Name of the function.
        key: The key it was called with.
        reason: What happened after it began.
    """

    def __str__(self) -> str:
        return (
            f"the outcome of {self.action}[{self.key}] is UNKNOWN ({self.reason}): find out whether it happened, then "
            f"await idempotency.resolve({self.key!r}, happened=True or False); verify= does this for you"
        )


class IdempotencyStateError(SandboxError):
    """A key is not in a state that allows this.

    Attributes:
        key: The idempotency key.
        state: The state it is in, or ``"absent"``.
        wanted: What was asked for.
    """

    def __init__(self, key: str, state: str, wanted: str) -> None:
        super().__init__(key, state, wanted)
        self.key = key
        self.state = state
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"key {self.key!r} is {self.state}, which does not allow {self.wanted!r}: "
            f"only a key that is unknown or failed is settled by hand"
        )


class IdempotencyFullError(SandboxError):
    """The in-memory records are full. They refuse a new key, because forgetting one could repeat its call."""

    def __init__(self, max_records: int) -> None:
        super().__init__(max_records)
        self.max_records = max_records

    def __str__(self) -> str:
        return (
            f"the in-memory records hold {self.max_records} keys, none of them expired, and forget none: "
            f"raise IdempotencySettings(max_records=...) or lower ttl_seconds"
        )


class ResultUnavailableError(SandboxError):
    """A call has run, and what came of it cannot be given again; it will not run a second time.

    Attributes:
        call: Function and key: ``shop.charge[inv-17]``.
        reason: Why it cannot.
    """

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(call, reason)
        self.call = call
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.call} has run and will not run again, but what came of it is not available ({self.reason}): "
            f"look at what it did, and have it return something small that can be stored"
        )


class ResultCodecError(SandboxError, ValueError):
    """A result cannot be stored, or what was stored cannot be read here.

    Attributes:
        path: Where in the result: ``result.items[2]``.
        problem: What is wrong there.
        remedy: What to do about it.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"
