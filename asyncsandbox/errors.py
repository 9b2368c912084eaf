"""Every exception that more than one file raises, under one root.

    SandboxError
    ├── ConfigurationError(ValueError)        a setting or a declaration is wrong; nothing was started
    ├── LifecycleError
    │   ├── NotStartedError                   used before start() or after stop()
    │   ├── ComponentStartError               a component did not start; what had started was stopped
    │   └── ComponentStopError                a component did not stop cleanly; the others were stopped
    ├── NoSandboxError(LookupError)           an action was called and no single running sandbox could be found
    ├── ActionError
    │   ├── NestedActionError                 an action was called inside the body of another action
    │   ├── IdempotencyConflictError          one key, two different sets of facts
    │   ├── KnownAfterApplyError              the program looked at a value that exists only after apply
    │   ├── DeadlineExceededError(TimeoutError)  the deadline passed before the action started; it was not run
    │   ├── OutcomeUnknownError               the action started and nobody knows whether it happened
    │   ├── ActionNotFoundError(LookupError)  the ledger has no such action
    │   ├── ActionStateError                  the action is not in a state that allows this
    │   └── LedgerFullError                   the in-memory ledger has no room; it never forgets silently
    ├── DatabaseSourceError                   the database to isolate cannot be opened
    ├── SessionInUseError                     a second session where sessions take turns
    ├── PlanFileError                         a plan file is truncated, newer, or was changed
    └── NotReadyError                         require_ready() met a NO-GO

Attributes are typed, the message is composed in ``__str__`` and ends with what to do next, and each exception
survives pickling.
"""

from __future__ import annotations

__all__ = [
    "ActionError",
    "ActionNotFoundError",
    "ActionStateError",
    "ComponentStartError",
    "ComponentStopError",
    "ConfigurationError",
    "DatabaseSourceError",
    "DeadlineExceededError",
    "IdempotencyConflictError",
    "KnownAfterApplyError",
    "LedgerFullError",
    "LifecycleError",
    "NestedActionError",
    "NoSandboxError",
    "NotReadyError",
    "NotStartedError",
    "OutcomeUnknownError",
    "PlanFileError",
    "SandboxError",
    "SessionInUseError",
]


class SandboxError(Exception):
    """Root of every exception this library raises on purpose."""


class ConfigurationError(SandboxError, ValueError):
    """A setting or a declaration is wrong. Raised at once, before anything starts.

    Attributes:
        field: What was set, as the caller wrote it.
        value: What it was set to.
        allowed: What would be right.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field = field
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.field}={self.value!r} is not allowed: {self.allowed}"


class LifecycleError(SandboxError):
    """Something was started, stopped or used in the wrong order."""


class NotStartedError(LifecycleError):
    """A component was used before it started or after it stopped."""

    def __init__(self, component: str, used_for: str) -> None:
        super().__init__(component, used_for)
        self.component = component
        self.used_for = used_for

    def __str__(self) -> str:
        return (
            f"{self.component} is not running, so {self.used_for} is not possible: "
            f"enter it with `async with`, or await its start() first"
        )


class ComponentStartError(LifecycleError):
    """A component did not start; whatever had started before it was stopped again.

    Attributes:
        component: Name of the component.
        phase: ``"start"`` or ``"bind"``.
    """

    def __init__(self, component: str, phase: str) -> None:
        super().__init__(component, phase)
        self.component = component
        self.phase = phase

    def __str__(self) -> str:
        cause = f" ({_say(self.__cause__)})" if self.__cause__ else ""
        return (
            f"component {self.component!r} failed in phase {self.phase!r}{cause}; "
            f"what had started was stopped again: mend the cause and start anew"
        )


class ComponentStopError(LifecycleError):
    """A component did not stop cleanly; every other component was stopped all the same."""

    def __init__(self, component: str) -> None:
        super().__init__(component)
        self.component = component

    def __str__(self) -> str:
        cause = f" ({_say(self.__cause__)})" if self.__cause__ else ""
        return f"component {self.component!r} did not stop cleanly{cause}; look at the cause, the others were stopped"


class NoSandboxError(SandboxError, LookupError):
    """An action was called and no single running sandbox could be found: it was not run.

    Attributes:
        wanted_by: The action, or ``"current_sandbox()"``.
        reason: Why none could be chosen, with the names of the candidates.
    """

    def __init__(self, wanted_by: str, reason: str) -> None:
        super().__init__(wanted_by, reason)
        self.wanted_by = wanted_by
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.wanted_by} was not run: {self.reason}; call it inside `async with Sandbox(...)`"


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


class DatabaseSourceError(SandboxError):
    """The database to isolate cannot be used: missing, locked, or not of the expected kind.

    Attributes:
        source: The file or URL, without a password.
        problem: What is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, source: str, problem: str, remedy: str) -> None:
        super().__init__(source, problem, remedy)
        self.source = source
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}; {self.remedy}"


class SessionInUseError(SandboxError):
    """A task began a second transaction where they take turns; waiting for itself would hang for ever."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return (
            f"task {self.task!r} is in a transaction already and would wait for itself: commit or close the first "
            f"session before the second one begins (get_session(read_only=True) takes no turn)"
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


class NotReadyError(SandboxError):
    """``require_ready()`` met a NO-GO.

    Attributes:
        failed: Names of the checks that forbid going on, in order.
    """

    def __init__(self, failed: tuple[str, ...]) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        return (
            f"NO-GO: {', '.join(self.failed)} failed; "
            f"see (await sandbox.readiness.run_all_checks()) for the reasons, mend them and try again"
        )


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
