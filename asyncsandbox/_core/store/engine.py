"""What a store asks of an engine, and the settings they share.

>>> StoreSettings(busy_seconds=0)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: StoreSettings.busy_seconds=0 is not allowed: give a finite number > 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from ..settings import require_number

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from .operations import Bound, Dialect, Operation, Result
    from .schema import Script

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How patient a store is, and how much it takes.

    Attributes:
        busy_seconds: How long a write waits for a lock that another connection holds (> 0).
        reconnect_seconds: How long a lost PostgreSQL server is waited for (>= 0).
        max_pending: How many writes, and how many reads, are under way before callers have to wait (>= 1).
        create: Whether a store is made where there is none; otherwise that is refused.
        auto_migrate: Whether attaching a schema migrates the tables; otherwise an older version is refused.
    """

    busy_seconds: float = 5.0
    reconnect_seconds: float = 30.0
    max_pending: int = 1_000
    create: bool = True
    auto_migrate: bool = True

    def __post_init__(self) -> None:
        require_number("StoreSettings.busy_seconds", self.busy_seconds, above=0)
        require_number("StoreSettings.reconnect_seconds", self.reconnect_seconds, at_least=0)
        require_number("StoreSettings.max_pending", self.max_pending, at_least=1, whole=True)


class Engine(Protocol):
    """A database that carries out named operations.

    Attributes:
        kind: ``"memory"``, ``"sqlite"`` or ``"postgres"``.
        dialect: Whose SQL it speaks.
        size: Gives one row with the ``version`` of the database and its ``size`` in bytes.
        shown: Path or URL, without a password.
    """

    kind: ClassVar[str]
    dialect: ClassVar[Dialect]
    size: ClassVar[Operation]

    @property
    def shown(self) -> str: ...

    async def open(self) -> None:
        """Open it, and make a store of an empty database."""
        ...

    async def close(self) -> None:
        """Finish what was submitted, and close it."""
        ...

    async def check(self, operations: Iterable[Operation]) -> None:
        """Refuse operations that the database cannot compile."""
        ...

    async def run(self, script: Callable[[], Script[T]]) -> T:
        """Run a script in a transaction that no other script overlaps."""
        ...

    def write(self, bounds: tuple[Bound, ...]) -> Coroutine[Any, Any, tuple[Result, ...]]:
        """Carry out operations together and durably."""
        ...

    def read(self, bounds: tuple[Bound, ...]) -> Coroutine[Any, Any, tuple[Result, ...]]:
        """Carry out a read that sees every acknowledged write."""
        ...

    async def now(self) -> float:
        """Return the time that ``:now`` stands for, in seconds since 1970."""
        ...

    async def wait_for(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is not ``since``, or time is up; return the count."""
        ...
