"""What every way to isolate offers, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .rows import TableChange
    from .turns import Turns


class Way(Protocol):
    """Hands out connections, compares rows, and leaves nothing behind when it is closed."""

    turns: Turns
    """Who may begin a transaction now, where they take turns."""

    async def seat(self) -> Any:
        """Return what SQLAlchemy takes for a new connection of the driver."""
        ...

    async def ping(self) -> None:
        """Ask whether the database answers; never waits for a turn."""
        ...

    async def changes(self) -> tuple[TableChange, ...]:
        """Compare what is committed with what was there before."""
        ...

    async def close(self) -> None:
        """Close every connection that is still open, and delete what was made."""
        ...
