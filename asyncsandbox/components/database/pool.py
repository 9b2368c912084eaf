"""The SQLAlchemy engine whose connections are seats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .seats import Seat

READ_ONLY = "asyncsandbox_read_only"
"""Execution option of an engine or connection whose transactions only read."""

_IDLE_CONNECTIONS = 5
_POOL_TIMEOUT_SECONDS = 300.0  # a stuck transaction ends sooner, when those who wait for their turn give up


def make_engine(
    take_seat: Callable[[], Awaitable[Seat]], *, max_sessions: int, allows_autocommit: Callable[[], bool]
) -> AsyncEngine:
    """Return an engine that opens nothing before its first use.

    Args:
        take_seat: Called for each new connection.
        max_sessions: How many connections may be in use at once; who comes later waits.
        allows_autocommit: Whether a connection may do without a transaction.
    """
    idle = min(_IDLE_CONNECTIONS, max_sessions)
    engine = create_async_engine(
        # Named like a file: for ":memory:" SQLAlchemy would make all sessions share one connection and transaction.
        "sqlite+aiosqlite:///asyncsandbox",
        async_creator=take_seat,
        pool_size=idle,
        max_overflow=max_sessions - idle,
        pool_timeout=_POOL_TIMEOUT_SECONDS,
    )

    def refuse_autocommit(_: object, options: dict[str, object]) -> None:
        if options.get("isolation_level") == "AUTOCOMMIT" and not allows_autocommit():
            allowed = "isolation='rollback' has one transaction for all: use isolation='clone'"
            raise ConfigurationError("isolation_level", "AUTOCOMMIT", allowed)

    event.listen(engine.sync_engine, "set_engine_execution_options", refuse_autocommit)
    event.listen(engine.sync_engine, "set_connection_execution_options", refuse_autocommit)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    read_only = bool(options.get(READ_ONLY))
    proxy = connection.connection
    seat: Seat = proxy.driver_connection  # type: ignore[assignment]
    statement = proxy.dbapi_connection.run_async(lambda _: seat.enter(read_only=read_only))  # type: ignore[union-attr]
    try:
        connection.exec_driver_sql(statement)
    except BaseException:
        seat.leave()
        raise
