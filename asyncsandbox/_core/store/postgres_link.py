"""A connection to PostgreSQL that is made anew when it was lost, and PostgreSQL's errors in our words.

>>> backoff(1, 0.5), backoff(99, 0.5)
(0.05, 0.75)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import (
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOpenError,
    StoreOperationError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from ..clock import Clock

_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_FORGOTTEN_AFTER = "60s"  # a transaction whose client fell silent

BUSY = frozenset({"55P03", "40001", "40P01", "57014"})
"""Lock not to be had, serialisation failure, deadlock, cancelled by the server."""
_END_SESSION = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"
_THIS_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_CONSTRAINTS = "23"
_OUT_OF_ORDER = ("25006", "53", "54", "57", "58", "XX")
_LOST = ("08", "57P", "25P03")


def driver() -> Any:
    """Return asyncpg.

    Raises:
        StoreOpenError: It is not installed.
    """
    try:
        return import_module("asyncpg")
    except ImportError:
        raise StoreOpenError(
            "PostgreSQL", "its driver, asyncpg, is not installed", "pip install 'asyncsandbox[postgres]'"
        ) from None


def connection_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what the driver raises when it, the server or the network fails, a broken answer among it, and more."""
    asyncpg = driver()
    return OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, *more


def is_lost(error: BaseException) -> bool:
    """Tell whether an error means that the connection is gone."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(_LOST))
    return isinstance(error, (OSError, driver().InterfaceError, driver().InternalClientError))


def translate(error: Exception, operation: str) -> StoreError:
    """Return PostgreSQL's error in our words."""
    if isinstance(error, StoreError):
        return type(error)(operation, error.args[-1])
    state = getattr(error, "sqlstate", None) or ""
    said = str(error) or type(error).__name__
    made: StoreError
    if state.startswith(_CONSTRAINTS):
        made = StoreConflictError(operation, said)
    elif state in BUSY:
        made = StoreBusyError(operation, said)
    elif state.startswith(_OUT_OF_ORDER) or is_lost(error):
        made = StoreUnavailableError(operation, said)
    else:
        made = StoreOperationError(operation, f"PostgreSQL says {said}; mend its SQL or its parameters")
    made.__cause__ = error
    return made


def backoff(attempt: int, chance: float) -> float:
    """Return how long to wait before a connection is tried again.

    Args:
        attempt: 1 for the first.
        chance: From 0 to 1; half of the wait depends on it.
    """
    longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(attempt - 1, 10))
    return longest if attempt == 1 else longest * (1 + chance) / 2


class Link:
    """One connection.

    Concurrency: one caller at a time. Cancellation: drop the connection afterwards.

    Args:
        url: Where the server is.
        shown: The same without a password.
        clock: For waiting between attempts.
        settings: PostgreSQL's, for the session.
    """

    def __init__(self, url: str, shown: str, clock: Clock, **settings: str) -> None:
        self._url = url
        self._shown = shown
        self._clock = clock
        self._settings = {
            "client_min_messages": "warning",
            "idle_in_transaction_session_timeout": _FORGOTTEN_AFTER,
            "synchronous_commit": "on",
            **settings,
        }
        self._connection: Any = None
        self._session: tuple[Any, ...] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> Any:
        """Connect for the first time, without trying again.

        Raises:
            StoreOpenError: It did not work.
        """
        try:
            return await self._connect()
        except Exception as error:
            problem = f"PostgreSQL cannot be reached ({type(error).__name__}: {error})"
            raise StoreOpenError(self._shown, problem, "check the URL, the server, and its max_connections") from error

    async def get(self, patience_seconds: float) -> Any:
        """Return the connection; one that was lost is made anew.

        Args:
            patience_seconds: How long to go on trying.

        Raises:
            StoreUnavailableError: The server did not come back in time.
        """
        until = self._clock.monotonic() + patience_seconds
        attempt = 0
        while not self.is_up:
            attempt += 1
            try:
                await self._connect()
            except Exception as error:
                wait = backoff(attempt, self._clock.random())
                if self._clock.monotonic() + wait > until:
                    raise StoreUnavailableError("store.connect", f"no connection to the server: {error!r}") from error
                await self._clock.sleep(wait)
        return self._connection

    def drop(self) -> None:
        """Give up the connection, whatever it is doing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Say goodbye."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=_CONNECT_SECONDS)
            except connection_errors(TimeoutError):
                connection.terminate()

    async def _connect(self) -> Any:
        connection = await driver().connect(self._url, timeout=_CONNECT_SECONDS, server_settings=self._settings)
        try:
            if self._session is not None:
                # The server need not have noticed that this session is lost, and its locks would be in our way.
                await connection.execute(_END_SESSION, *self._session)
            self._session = tuple(await connection.fetchrow(_THIS_SESSION))
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return connection
