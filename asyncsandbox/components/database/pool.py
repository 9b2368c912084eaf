"""The SQLAlchemy engine whose connections are seats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .seats import Seat

_READ_ONLY = "asyncsandbox_read_only"
READ_ONLY = {_READ_ONLY: True, "postgresql_readonly": True}
"""Execution options of an engine or connection whose transactions only read."""

# Named like a file: for ":memory:" SQLAlchemy would make all sessions share one connection and transaction.
_SQLITE_URL = "sqlite+aiosqlite:///asyncsandbox"
_POSTGRES_URL = "postgresql+asyncpg://asyncsandbox"
_NEED_TRANSACTIONS = frozenset({"rollback", "schema"})
_IDLE_CONNECTIONS = 5
_POOL_TIMEOUT_SECONDS = 300.0  # a stuck transaction ends sooner, when those who wait for their turn give up


def make_engine(
    take_seat: Callable[[], Awaitable[Any]], *, is_postgres: bool, max_sessions: int, get_isolation: Callable[[], str]
) -> AsyncEngine:
    """Return an engine that opens nothing before its first use.

    Args:
        take_seat: Called for each new connection.
        is_postgres: Whether it is an engine for PostgreSQL, else for SQLite.
        max_sessions: How many connections may be in use at once; who comes later waits.
        get_isolation: Tells the isolation in force.

    Raises:
        ConfigurationError: The driver is not installed.
    """
    if is_postgres:
        from .postgres_link import driver

        driver()
    idle = min(_IDLE_CONNECTIONS, max_sessions)
    engine = create_async_engine(
        _POSTGRES_URL if is_postgres else _SQLITE_URL,
        async_creator=take_seat,
        pool_size=idle,
        max_overflow=max_sessions - idle,
        pool_timeout=_POOL_TIMEOUT_SECONDS,
    )

    def refuse_autocommit(_: object, options: dict[str, object]) -> None:
        if options.get("isolation_level") == "AUTOCOMMIT" and get_isolation() in _NEED_TRANSACTIONS:
            allowed = f"isolation={str(get_isolation())!r} watches over transactions: use isolation='clone'"
            raise ConfigurationError("isolation_level", "AUTOCOMMIT", allowed)

    event.listen(engine.sync_engine, "set_engine_execution_options", refuse_autocommit)
    event.listen(engine.sync_engine, "set_connection_execution_options", refuse_autocommit)
    if not is_postgres:  # asyncpg's dialect has the driver's connection, so the seat, begin by itself
        event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    read_only = bool(options.get(_READ_ONLY))
    proxy = connection.connection
    seat: Seat = proxy.driver_connection  # type: ignore[assignment]
    statement = proxy.dbapi_connection.run_async(lambda _: seat.enter(read_only=read_only))  # type: ignore[union-attr]
    try:
        connection.exec_driver_sql(statement)
    except BaseException:
        seat.leave()
        raise
