"""Groups of writes on PostgreSQL, each in one transaction that also notes the group's number.

When the connection breaks during a commit, that number tells on the next connection whether the commit came through: so
nothing acknowledged is lost, and nothing is done twice. An error inside a group undoes it; it is then tried by halves,
until only whoever is to blame has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import StoreError, StoreOutcomeUnknownError, StoreUnavailableError
from .operations import Operation
from .postgres_calls import Caller
from .postgres_link import BUSY, Link, connection_errors, driver, is_lost, translate
from .signals import channel_name, channels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..clock import Clock
    from .lane import Unit
    from .operations import Result

CREATE_WRITERS = Operation(
    "store.create_writers",
    "CREATE TABLE IF NOT EXISTS sandbox_writers (id TEXT PRIMARY KEY, number BIGINT NOT NULL, "
    "seen_at TIMESTAMPTZ NOT NULL DEFAULT now())",
)
FORGET_WRITERS = Operation(
    "store.forget_writers", "DELETE FROM sandbox_writers WHERE seen_at < now() - interval '7 days'"
)
_BEGIN = (
    "BEGIN; INSERT INTO sandbox_writers (id, number) VALUES ('{id}', {number}) "
    "ON CONFLICT (id) DO UPDATE SET number = excluded.number, seen_at = excluded.seen_at"
)
# Waits for a transaction that has not ended yet: a plain SELECT would not see it.
_ASK = (
    "INSERT INTO sandbox_writers (id, number) VALUES ($1, -1) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at RETURNING number"
)
_TRIES = 5  # of a single unit that others' locks keep from being written


class Writer:
    """One connection that writes groups.

    Concurrency: one group at a time. Cancellation: drops the connection; what was being committed is unknown.

    Args:
        link: The connection.
        clock: Time, and the writer's name.
        busy_seconds: How long to wait for the end of a transaction of our own.
        reconnect_seconds: How long a lost server is waited for.
        aside: Takes a single unit that a lock holds up; None where there is no better place than here.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        busy_seconds: float,
        reconnect_seconds: float,
        aside: Callable[[Unit], object] | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._reconnect_seconds = reconnect_seconds
        self._aside = aside
        self._caller = Caller()
        self._id = clock.random_hex(16)
        self._number = 0

    async def write_group(self, group: list[Unit]) -> None:
        """Write a group and set each unit's outcome; units that were put aside are taken out of the list."""
        moved: set[Unit] = set()
        try:
            await self._write(group, moved)
        except BaseException:
            self._link.drop()
            raise
        group[:] = [unit for unit in group if unit not in moved]

    async def close(self) -> None:
        """Forget the number of the last group, and close the connection."""
        if self._link.is_up:
            try:
                connection = await self._link.get(0)
                await connection.execute("DELETE FROM sandbox_writers WHERE id = $1", self._id)
            except connection_errors():
                pass  # it will be forgotten in a week
        await self._link.close()

    async def _write(self, group: Sequence[Unit], moved: set[Unit]) -> None:
        tries = 1
        while True:
            try:
                outcomes = await self._commit(group)
            except StoreError as error:  # the server is gone, which no halving mends
                for unit in group:
                    unit.outcome = translate(error, unit.name)
                return
            except driver().PostgresError as error:
                if len(group) == 1 and error.sqlstate in _AGAIN and tries < _TRIES:
                    tries += 1
                    continue
                await self._undone(group, moved, error)
                return
            for unit, outcome in zip(group, outcomes, strict=True):
                unit.outcome = outcome
            return

    async def _undone(self, group: Sequence[Unit], moved: set[Unit], error: Any) -> None:
        """Find out whose fault it was that a group was undone, by halves, so that nobody else suffers."""
        if len(group) > 1:
            middle = len(group) // 2
            await self._write(group[:middle], moved)
            await self._write(group[middle:], moved)
        elif error.sqlstate == _LOCKED and self._aside is not None:
            moved.add(group[0])
            self._aside(group[0])
        else:
            group[0].outcome = translate(error, group[0].name)

    async def _commit(self, group: Sequence[Unit]) -> list[tuple[Result, ...]]:
        """Write a group in one transaction, again on a new connection where the old one breaks.

        Raises:
            StoreUnavailableError: The server is gone; nothing was written.
            StoreOutcomeUnknownError: It went during the commit.
            PostgresError: An operation failed; nothing was written.
            OSError: Never: that means that the connection broke.
        """
        until = self._clock.monotonic() + self._reconnect_seconds
        while True:
            connection = await self._link.get(max(0.0, until - self._clock.monotonic()))
            self._number += 1
            outcomes: list[tuple[Result, ...]] | None = None
            try:
                await connection.execute(_BEGIN.format(id=self._id, number=self._number))
                outcomes = await self._caller.call(connection, [unit.bounds for unit in group])
                await connection.execute(_ending(group))
            except connection_errors() as error:
                if not is_lost(error) and self._link.is_up:
                    await self._roll_back(connection)
                    raise
                self._link.drop()
                if outcomes is None:
                    if self._clock.monotonic() >= until:
                        raise StoreUnavailableError(group[0].name, repr(error)) from error
                    continue
                if not await self._has_come_through(until, error):
                    continue
            return outcomes

    async def _roll_back(self, connection: Any) -> None:
        try:
            await connection.execute("ROLLBACK")
        except connection_errors():
            self._link.drop()  # a new connection begins without a transaction

    async def _has_come_through(self, until: float, cause: Exception) -> bool:
        """Tell on a new connection whether the group whose commit was cut off is there.

        Raises:
            StoreOutcomeUnknownError: The server did not come back in time.
        """
        while True:
            try:
                connection = await self._link.get(max(0.0, until - self._clock.monotonic()))
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL lock_timeout = {milliseconds(self._busy_seconds)}")
                    return bool(await connection.fetchval(_ASK, self._id) == self._number)
            except connection_errors(StoreUnavailableError) as error:
                self._link.drop()
                if isinstance(error, StoreUnavailableError) or self._clock.monotonic() >= until:
                    raise StoreOutcomeUnknownError("store.commit", repr(cause)) from error


_LOCKED = "55P03"
_AGAIN = (BUSY - {_LOCKED, "57014"}) | {"0A000"}  # deadlocks end by being tried again; so do plans that are too old


def _ending(group: Sequence[Unit]) -> str:
    return "".join(f"NOTIFY {channel_name(channel)}; " for channel in sorted(channels_of(group))) + "COMMIT"


def milliseconds(seconds: float) -> int:
    """Return a time as PostgreSQL's settings take it."""
    return max(1, round(seconds * 1000))
