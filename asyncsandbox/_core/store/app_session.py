"""Writing a store's rows through a session of the app, so that they commit with the app's own, or not at all.

The store must be the very PostgreSQL database that the session is connected to; `AppSessions` makes sure of it.

>>> place = ask_place("bells.place", "sandbox_bells")
>>> place.reads
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from ...errors import ConfigurationError
from .operations import Dialect, Operation, fill_in_now
from .signals import channel_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from . import Store
    from .operations import Value
    from .schema import Schema

__all__ = ["AppSessions", "ask_place"]


def ask_place(name: str, table: str) -> Operation:
    """Return an operation that tells which server, database and table its connection sees; a schema must list it."""
    return Operation(
        name,
        "SELECT '' AS place",
        postgres="SELECT pg_postmaster_start_time()::text || '/' || current_database() || '/' || "
        f"coalesce(to_regclass('{table}')::oid::text, 'no table') AS place",
    )


_REMEDY: Final = "give Sandbox(store=...) the PostgreSQL database that the session is connected to"


class AppSessions:
    """Sessions of the app, and whether they see the store's tables.

    Concurrency: one call per session at a time. Cancellation: nothing is left behind.

    Args:
        schema: What is to be written.
        place: What `ask_place` made for it.
    """

    def __init__(self, schema: Schema, place: Operation) -> None:
        self._schema = schema
        self._place = place
        self._known: WeakKeyDictionary[Any, object] = WeakKeyDictionary()  # the app's engines, and whose place they see

    async def require(self, session: AsyncSession, store: Store | None) -> Store:
        """Return the store, ready to be written through this session.

        Raises:
            ConfigurationError: It is not in the session's database.
        """
        if store is None or store.dialect is not Dialect.POSTGRES:
            problem = "there is no store" if store is None else f"the store is {store.location}"
            raise ConfigurationError("session", problem, _REMEDY)
        engine = session.get_bind().engine
        if self._known.get(engine) == store.place:
            return store
        if engine.dialect.name != "postgresql":
            raise ConfigurationError("session", f"the session's database is {engine.dialect.name}", _REMEDY)
        from sqlalchemy import text

        await store.attach(self._schema)
        (mine,) = await store.read(self._place)
        theirs = (await session.execute(text(self._place.text_for(Dialect.POSTGRES)))).scalar_one()
        if mine["place"] != theirs:
            problem = f"the store is {store.location}, and the session does not see its tables"
            raise ConfigurationError("session", problem, _REMEDY)
        self._known[engine] = store.place
        return store

    async def execute(self, session: AsyncSession, store: Store, operation: Operation, **params: Value) -> list[Any]:
        """Carry out an operation that gives rows in the transaction of a session, and return them.

        Whoever waits for its channel is told when the transaction commits.

        Raises:
            StoreOperationError: A parameter is missing, unknown, or cannot be stored.
            SQLAlchemyError: The database refused it.
        """
        from sqlalchemy import text

        bound = operation(**params)
        given = {**bound.params, "ns": store.namespace}
        rows = list(await session.execute(text(fill_in_now(operation.text_for(Dialect.POSTGRES))), given))
        if operation.notify is not None:
            await session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel_name(operation.notify)})
        return rows
