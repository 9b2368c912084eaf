"""Errors of the store, the sandbox's durable memory."""

from __future__ import annotations

from .base import SandboxError


class StoreError(SandboxError):
    """Something about the store."""


class StoreOpenError(StoreError):
    """The store cannot be opened, and what is there was left as it is.

    Attributes:
        store: Path or URL, without a password.
        problem: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, store: str, problem: str, remedy: str) -> None:
        super().__init__(store, problem, remedy)
        self.store = store
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.store}: {self.problem}; {self.remedy}"


class StoreVersionError(StoreError):
    """The store holds a schema in a version that this program does not work with; nothing was changed.

    Attributes:
        store: Path or URL, without a password.
        schema: Name of the schema.
        found: Version in the store, 0 for none.
        known: Version this program works with.
    """

    def __init__(self, store: str, schema: str, found: int, known: int) -> None:
        super().__init__(store, schema, found, known)
        self.store = store
        self.schema = schema
        self.found = found
        self.known = known

    def __str__(self) -> str:
        if self.found > self.known:
            remedy = "upgrade the program (a store never goes back)"
        else:
            remedy = "migrate it with `asyncsandbox store migrate`, or set StoreSettings(auto_migrate=True)"
        return (
            f"{self.store} has schema {self.schema!r} in version {self.found}, this program in {self.known}: {remedy}"
        )


class StoreOperationError(StoreError):
    """An operation is wrong in itself: its SQL, a parameter, or the use made of it. Nothing was written.

    Attributes:
        operation: Name of the operation.
        reason: What is wrong, with what to do about it.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return f"operation {self.operation!r} cannot be carried out: {self.reason}"


class StoreConflictError(StoreError):
    """A constraint of a table refuses a write. Nothing of it was written.

    Attributes:
        operation: Name of the operation.
        reason: What the database said.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"operation {self.operation!r} was refused by a constraint ({self.reason}): "
            f"write other values, or let the operation say ON CONFLICT"
        )


class StoreBusyError(StoreError, TimeoutError):
    """Somebody else held a lock for too long. Nothing was written; the operation may be tried again.

    Attributes:
        operation: Name of the operation.
        reason: What the database said.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"operation {self.operation!r} gave up waiting for a lock that another connection holds ({self.reason}): "
            f"try again, end the other's long transaction, or raise StoreSettings(busy_seconds=...)"
        )


class StoreUnavailableError(StoreError):
    """The database cannot work at present: disk full, file damaged, server gone. Nothing was written.

    Attributes:
        operation: Name of the operation.
        reason: What the database said.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"operation {self.operation!r} was not carried out, because the store is out of order ({self.reason}): "
            f"mend that and try again, nothing was written"
        )


class StoreOutcomeUnknownError(StoreError):
    """The connection broke while a write was being committed and stayed broken: it happened, or it did not.

    Attributes:
        operation: Name of the operation.
        reason: What went wrong.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"whether operation {self.operation!r} was written is UNKNOWN ({self.reason}): "
            f"read the row once the store is back, then decide"
        )
