"""Results that commit in the app's own transaction, together with the rows it writes, or not at all.

The record is a row in a table of the store, written through the app's session. So the store must be the PostgreSQL
database that the session is connected to. A key is held by the row that is inserted first: another transaction with the
same key waits in the server until this one has ended. There is nothing UNKNOWN about a key: what was not committed did
not happen.

>>> IN_SESSION.tables
('sandbox_idempotency_rows',)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, overload

from ..._core.store import Migration, Operation, Schema
from ..._core.store.app_session import AppSessions, ask_place
from ...errors import ConfigurationError
from .calls import Call, Subjects, require_key
from .flights import encode_within, read_stored
from .options import Policy
from .records import IdempotencyRecord, RecordState
from .runs import conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

    from ..._core.component import Services
    from .options import IdempotencySettings

__all__ = ["IN_SESSION", "InSession", "Transactions"]

P = ParamSpec("P")
R = TypeVar("R")

_PLACE: Final = ask_place("idempotency.place", "sandbox_idempotency_rows")
_NOW: Final = "extract(epoch FROM clock_timestamp())::double precision"
_CLAIM: Final = (
    "INSERT INTO sandbox_idempotency_rows AS r (ns, key, fingerprint) "  # noqa: S608 - our own texts
    "VALUES (:ns, :key, :fingerprint) "
    "ON CONFLICT (ns, key) DO UPDATE SET fingerprint = excluded.fingerprint, result = NULL, reason = NULL, "
    f"expires_at = NULL WHERE r.expires_at <= {_NOW} RETURNING key"
)
_GET: Final = (
    f"SELECT fingerprint, result, reason, expires_at - {_NOW} AS seconds_left "  # noqa: S608 - our own texts
    "FROM sandbox_idempotency_rows "
    "WHERE ns = :ns AND key = :key"
)
_FINISH: Final = (
    "UPDATE sandbox_idempotency_rows SET result = :result, "  # noqa: S608 - our own texts
    f"reason = :reason, expires_at = {_NOW} + :ttl "
    "WHERE ns = :ns AND key = :key"
)
_OLDEST: Final = (
    "DELETE FROM sandbox_idempotency_rows WHERE ns = :ns AND key IN (SELECT key FROM sandbox_idempotency_rows "
)
IN_SESSION: Final = Schema(
    name="idempotency_rows",
    tables=("sandbox_idempotency_rows",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_idempotency_rows (ns TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, "
            "result BYTEA, reason TEXT, expires_at DOUBLE PRECISION, PRIMARY KEY (ns, key))",
            "CREATE INDEX sandbox_idempotency_rows_expiry ON sandbox_idempotency_rows (ns, expires_at)",
        ),
    ),
    operations=(_PLACE,),
    prune=Operation(
        "idempotency_rows.prune",
        f"{_OLDEST}WHERE ns = :ns AND expires_at < :before ORDER BY expires_at LIMIT :most) AND expires_at < :before",
    ),
)


class Process(Protocol):
    """Carries out a call outside of sessions."""

    async def __call__(
        self,
        key: object,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        policy: Policy,
        /,
    ) -> Any:
        """Return its result."""
        ...


class InSession:
    """Idempotent calls in the transactions of one session; see `IdempotencyManager.in_session`.

    Concurrency: as of the session: one call at a time. Cancellation: the call's savepoint is rolled back.
    """

    def __init__(self, session: AsyncSession, transactions: Transactions) -> None:
        self._session = session
        self._transactions = transactions

    @overload
    async def process_idempotent(
        self, key: str, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def process_idempotent(self, key: str, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def process_idempotent(self, key: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, or give the result that an earlier call of the same key committed.

        Args:
            key: What makes it the same call; it is another one than the same key outside of sessions.
            func: A function or coroutine function that writes by this session.
            *args: For the function; the session itself may be among them, and counts for nothing.
            **kwargs: For the function.

        Returns:
            What the function returned, now or then.

        Raises:
            ConfigurationError: The store is not in the session's database, or the key or an argument is unusable.
            IdempotencyConflictError: The key was used with another function or other arguments; nothing was run.
            ResultUnavailableError: The call has run, but its result could not be stored.
            Exception: What the function or the database raised; what the call wrote is rolled back.
        """
        return await self._transactions.process(self._session, key, func, args, kwargs)


class Transactions:
    """Runs calls inside transactions of the app.

    Args:
        services: Of the manager.
        settings: Of the manager.
        rehearse: Carries out a call in a dry run, which writes nothing.
    """

    def __init__(self, services: Services, settings: IdempotencySettings, rehearse: Process) -> None:
        self._services = services
        self._max_result_bytes = settings.max_result_bytes
        self._policy = Policy.of(settings, {})
        self._rehearse = rehearse
        self._subjects = Subjects()
        self._sessions = AppSessions(IN_SESSION, _PLACE)

    async def process(
        self, session: AsyncSession, key: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the function or give an earlier result; see `InSession.process_idempotent`."""

        def facts(bound: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in bound.items() if value is not session}

        policy, host = replace(self._policy, facts=facts), self._services.host
        if host is not None and host.dry_run:
            return await self._rehearse(key, func, args, kwargs, policy)
        call = Call.of(require_key(key), func, args, kwargs, policy=policy, subjects=self._subjects)
        return await self._run(session, call)

    async def _run(self, session: AsyncSession, call: Call) -> Any:
        from sqlalchemy import text

        store = await self._sessions.require(session, self._services.store)
        place = {"ns": store.namespace, "key": call.key}
        async with session.begin_nested():
            claiming = {**place, "fingerprint": call.fingerprint}
            if (await session.execute(text(_CLAIM), claiming)).first() is None:
                row = (await session.execute(text(_GET), place)).one()
                return self._replay(call, row)
            result, cancellation = await call.run()
            if cancellation is not None:
                raise cancellation
            stored = encode_within(result, self._max_result_bytes)
            data, reason = (None, stored) if isinstance(stored, str) else (stored.data, None)
            outcome = {"result": data, "reason": reason, "ttl": float(call.policy.ttl_seconds)}
            await session.execute(text(_FINISH), {**place, **outcome})
        return result

    def _replay(self, call: Call, row: Any) -> Any:
        if row.fingerprint != call.fingerprint:
            raise conflict(self._services, call, row.fingerprint)
        if row.seconds_left is None:  # only the transaction that made it sees a row without an end
            raise ConfigurationError(
                "key", call.key, "the function under this key would wait for itself: give the inner call its own"
            )
        return read_stored(
            call.label,
            IdempotencyRecord(
                key=call.key,
                fingerprint=call.fingerprint,
                state=RecordState.DONE,
                fence="",
                result=row.result,
                reason=row.reason,
            ),
        )
