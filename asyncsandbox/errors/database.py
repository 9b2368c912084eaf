"""Errors of the isolated database."""

from __future__ import annotations

from .base import SandboxError


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
