"""Errors of starting, stopping and finding a sandbox."""

from __future__ import annotations

from .base import SandboxError


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
