"""The root of all errors, and the one for settings and declarations."""

from __future__ import annotations


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
