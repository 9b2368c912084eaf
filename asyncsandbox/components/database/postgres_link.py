"""Connections to PostgreSQL, and what goes wrong with them in our words."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, DatabaseSourceError

if TYPE_CHECKING:
    from collections.abc import Generator

    from .source import Source

CONNECT_SECONDS = 10.0

_IN_USE = "55006"
_NO_SUCH_DATABASE = "3D000"
_NOT_ALLOWED = "42501"
_TOO_MANY = "53300"
_UNKNOWN_USER = ("28000", "28P01")


def driver() -> Any:
    """Return asyncpg.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module("asyncpg")
    except ImportError:
        allowed = "install its driver: pip install 'asyncsandbox[postgres]'"
        raise ConfigurationError("db_url", "postgresql://...", allowed) from None


async def connect(source: Source, *, database: str | None = None, **settings: str) -> Any:
    """Connect as the URL says.

    Args:
        source: Whose URL.
        database: Another database of the same server.
        settings: PostgreSQL's, for the session; they go before those in the URL.

    Concurrency: any number. Cancellation: nothing stays open.
    """
    return await driver().connect(source.url, database=database, timeout=CONNECT_SECONDS, server_settings=settings)


async def hang_up(connection: Any) -> None:
    """Close a connection, whatever it is doing."""
    try:
        await connection.close(timeout=CONNECT_SECONDS)
    except errors():
        connection.terminate()


async def ping(source: Source, database: str | None = None) -> None:
    """Ask a database something, by a connection of its own."""
    connection = await connect(source, database=database)
    try:
        await connection.fetchval("SELECT 1")
    finally:
        await hang_up(connection)


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def errors() -> tuple[type[Exception], ...]:
    """Return what connecting and asking raise where the server, the network or the URL is to blame."""
    asyncpg = driver()
    return OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError


@contextmanager
def explaining(source: Source) -> Generator[None]:
    """Say in our words what goes wrong with the server.

    Raises:
        DatabaseSourceError: Something did.
    """
    try:
        yield
    except errors() as error:
        raise DatabaseSourceError(source.shown, *_explain(error)) from error


def _explain(error: Exception) -> tuple[str, str]:
    said = " ".join((str(error) or type(error).__name__).split())
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, (OSError, TimeoutError)):
        problem, remedy = f"the server cannot be reached ({said})", "start it, or check host and port"
    elif state in _UNKNOWN_USER:
        problem, remedy = f"the server lets nobody in like this ({said})", "check user and password, and pg_hba.conf"
    elif state == _NO_SUCH_DATABASE:
        problem, remedy = f"there is no such database ({said})", "check its name"
    elif state == _TOO_MANY:
        problem = f"all connections of the server are taken ({said})"
        remedy = "close some, raise max_connections, or lower DatabaseSettings(max_sessions=...)"
    elif state == _IN_USE:
        problem = f"it cannot be cloned while others are connected to it ({getattr(error, 'detail', None) or said})"
        remedy = (
            "close those connections, name a template database that nobody uses, or use isolation='rollback' or "
            "'schema', which do without"
        )
    elif state == _NOT_ALLOWED:
        problem = f"this user may not do what the isolation needs ({said})"
        remedy = (
            "'clone' needs CREATEDB and the source's owner, 'schema' needs CREATE on the database; 'rollback' needs "
            "neither"
        )
    else:
        problem, remedy = f"PostgreSQL says: {said}", "check the URL and the server"
    return problem, remedy
