"""Who still holds a connection, and where the session was made.

Whatever is in a transaction is held on to here until it ends: nothing is collected behind a task's back with a warning,
and `close_all` can end it properly.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine


class Watch:
    """Keeps account of the connections of one engine that are in use, and of the sessions that use them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._open: dict[int, tuple[Connection, Session | None]] = {}
        event.listen(engine.sync_engine, "engine_connect", self._connected)
        for end in ("checkin", "invalidate", "close"):  # codespell:ignore checkin
            event.listen(engine.sync_engine, end, self._ended)

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """Where the sessions were made that are in a transaction, oldest first."""
        return tuple(session.info[_MADE_AT] for _, session in self._open.values() if session is not None)

    def session(self, engine: AsyncEngine, made_at: str) -> AsyncSession:
        """Return a session that is watched."""
        info = {_WATCH: self, _MADE_AT: made_at}
        return AsyncSession(engine, expire_on_commit=False, sync_session_class=_WatchedSession, info=info)

    async def close_all(self) -> tuple[tuple[str, ...], int]:
        """Close what is open.

        Returns:
            Where the sessions were made that were open, and how many connections were open beside theirs.
        """
        sessions, in_use = self.open_sessions, tuple(self._open.values())
        for connection, session in in_use:
            await _close(connection.close if session is None else session.close)
        self._open.clear()
        return sessions, len(in_use) - len(sessions)

    def began(self, session: Session, connection: Connection) -> None:
        """Take note of the session that uses a connection."""
        self._open[id(connection.connection.dbapi_connection)] = connection, session

    def _connected(self, connection: Connection) -> None:
        self._open[id(connection.connection.dbapi_connection)] = connection, None

    def _ended(self, dbapi_connection: object, *_: object) -> None:
        self._open.pop(id(dbapi_connection), None)


class _WatchedSession(Session):
    """A session that reports to the `Watch` in its ``info``."""


@event.listens_for(_WatchedSession, "after_begin")
def _began(session: Session, _transaction: object, connection: Connection) -> None:
    session.info[_WATCH].began(session, connection)


_WATCH = "asyncsandbox_watch"
_MADE_AT = "asyncsandbox_made_at"


async def _close(close: Callable[[], object]) -> None:
    # Where another task is in the middle of a statement this fails; the connection is closed under it in a moment.
    with suppress(SQLAlchemyError):
        # A session without a connection is the public way into SQLAlchemy's bridge from plain to async.
        await AsyncSession().run_sync(lambda _: close())
