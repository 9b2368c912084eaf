"""Errors of actions and plans."""

from __future__ import annotations

from .base import SandboxError


class ActionError(SandboxError):
    """Something about one action call."""


class NestedActionError(ActionError):
    """An action was called inside the body of another action, where no plan could show it."""

    def __init__(self, action: str, outer: str) -> None:
        super().__init__(action, outer)
        self.action = action
        self.outer = outer

    def __str__(self) -> str:
        return (
            f"action {self.action!r} was called inside action {self.outer!r}, where a dry run cannot see it: "
            f"call both from your program, or make the inner one a plain function"
        )


class IdempotencyConflictError(ActionError):
    """The same key was used again with other facts; the second call was not run.

    Attributes:
        action: Name of the action.
        key: The key both calls gave.
        first: Facts of the first call, as shown in a plan.
        second: Facts of the refused call.
    """

    def __init__(self, action: str, key: str, first: str, second: str) -> None:
        super().__init__(action, key, first, second)
        self.action = action
        self.key = key
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"{self.action}[{self.key}] was called before with other facts: first {self.first}, now {self.second}; "
            f"give each distinct call its own key (recurring work puts the period into it)"
        )


class KnownAfterApplyError(ActionError):
    """The program looked at a value that a held-back action will only have after apply.

    Attributes:
        value: Which value, as ``action[key].field``.
        use: What was done with it.
        line: ``file:line`` of the use, or an empty string.
    """

    def __init__(self, value: str, use: str, line: str = "") -> None:
        super().__init__(value, use, line)
        self.value = value
        self.use = use
        self.line = line

    def __str__(self) -> str:
        where = f" at {self.line}" if self.line else ""
        action = self.value.partition("[")[0]
        return (
            f"{self.value} is known only after apply, and {self.use}{where} needs it now: "
            f"give {action!r} a dry_result= that makes up this value for dry runs"
        )


class DeadlineExceededError(ActionError, TimeoutError):
    """The deadline passed before the action started. It was not run and may be called again.

    Attributes:
        action: Name of the action.
        key: Its key, or the label of a call without one.
    """

    def __init__(self, action: str, key: str) -> None:
        super().__init__(action, key)
        self.action = action
        self.key = key

    def __str__(self) -> str:
        return (
            f"the deadline passed before {self.action}[{self.key}] started; it was not run: "
            f"call it again with more time, or raise deadline_seconds"
        )


class RunningElsewhereError(DeadlineExceededError):
    """The deadline passed while another process was at work on the action. This call did not run it.

    Attributes:
        action: Name of the action.
        key: Its key.
    """

    def __str__(self) -> str:
        return (
            f"the deadline passed while another process was at work on {self.action}[{self.key}]: "
            f"call it again to learn the outcome, or raise deadline_seconds"
        )


class OutcomeUnknownError(ActionError):
    """The action started and its outcome is not known; it will not run again by itself.

    Attributes:
        action: Name of the action.
        key: Its key, or the label of a call without one.
        reason: What happened after it started.
    """

    def __init__(self, action: str, key: str, reason: str) -> None:
        super().__init__(action, key, reason)
        self.action = action
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the outcome of {self.action}[{self.key}] is UNKNOWN ({self.reason}): look it up at the provider, then "
            f"await sandbox.recover({self.action!r}, {self.key!r}, happened=True or False); verify= does this for you"
        )


class ActionNotFoundError(ActionError, LookupError):
    """The ledger has no such action."""

    def __init__(self, action: str, key: str) -> None:
        super().__init__(action, key)
        self.action = action
        self.key = key

    def __str__(self) -> str:
        return f"no call {self.action}[{self.key}] is known here: sandbox.get_actions() lists those that are"


class ActionStateError(ActionError):
    """The action is not in a state that allows this.

    Attributes:
        action: Name of the action.
        key: Its key, or the label of a call without one.
        state: The state it is in.
        wanted: What was asked for.
    """

    def __init__(self, action: str, key: str, state: str, wanted: str) -> None:
        super().__init__(action, key, state, wanted)
        self.action = action
        self.key = key
        self.state = state
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"{self.action}[{self.key}] is {self.state}, which does not allow {self.wanted!r}: "
            f"sandbox.get_actions(name={self.action!r}) shows how it came there"
        )


class ClaimLostError(ActionStateError):
    """Somebody else moved the action between our look at it and our next step; that step was not taken.

    Attributes:
        action: Name of the action.
        key: Its key, or the label of a call without one.
        state: The state it is in now.
        wanted: What was to be done.
    """

    def __str__(self) -> str:
        return (
            f"{self.action}[{self.key}] was moved by somebody else and is {self.state} now, so {self.wanted!r} was not "
            f"done: call it again, which looks first"
        )


class LedgerFullError(ActionError):
    """The in-memory ledger is full. It refuses, because forgetting a row could repeat an action."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows)
        self.max_rows = max_rows

    def __str__(self) -> str:
        return (
            f"the in-memory ledger holds {self.max_rows} actions and forgets none: "
            f"raise LedgerSettings(max_rows=...) or use one sandbox per batch"
        )


class PlanFileError(SandboxError):
    """A plan file cannot be used.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"
