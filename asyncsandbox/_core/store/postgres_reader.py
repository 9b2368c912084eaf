"""Groups of reads on PostgreSQL: again where a connection breaks, by halves where one of them fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import StoreError, StoreUnavailableError
from .postgres_calls import Caller
from .postgres_link import connection_errors, driver, is_lost, translate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..clock import Clock
    from .lane import Unit
    from .operations import Result
    from .postgres_link import Link


class Reader:
    """One connection that reads groups.

    Concurrency: one group at a time. Cancellation: drops the connection.

    Args:
        link: The connection.
        clock: Time.
        reconnect_seconds: How long a lost server is waited for.
    """

    def __init__(self, link: Link, clock: Clock, reconnect_seconds: float) -> None:
        self._link = link
        self._clock = clock
        self._reconnect_seconds = reconnect_seconds
        self._caller = Caller()

    async def read_group(self, group: Sequence[Unit]) -> None:
        """Read a group and set each unit's outcome."""
        try:
            outcomes = await self._call(group)
        except StoreError as error:
            for unit in group:
                unit.outcome = translate(error, unit.name)
        except driver().PostgresError as error:
            if len(group) == 1:
                group[0].outcome = translate(error, group[0].name)
                return
            middle = len(group) // 2
            await self.read_group(group[:middle])
            await self.read_group(group[middle:])
        except BaseException:
            self._link.drop()
            raise
        else:
            for unit, outcome in zip(group, outcomes, strict=True):
                unit.outcome = outcome

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _call(self, group: Sequence[Unit]) -> list[tuple[Result, ...]]:
        until = self._clock.monotonic() + self._reconnect_seconds
        while True:
            connection = await self._link.get(max(0.0, until - self._clock.monotonic()))
            try:
                return await self._caller.call(connection, [unit.bounds for unit in group])
            except connection_errors() as error:
                if not is_lost(error) and self._link.is_up:
                    raise
                self._link.drop()
                if self._clock.monotonic() >= until:
                    raise StoreUnavailableError(group[0].name, repr(error)) from error
