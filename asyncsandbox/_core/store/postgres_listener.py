"""News from PostgreSQL: LISTEN on a connection of its own, as long as that holds.

Nothing depends on it. When the connection breaks, everybody who waits is woken, to look and to wait again; while there
is none, waiting lasts its full time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ...errors import StoreUnavailableError
from .postgres_link import connection_errors
from .signals import Signals, channel_name

if TYPE_CHECKING:
    from ..clock import Clock
    from .postgres_link import Link


class Listener:
    """Listens to the channels that somebody waits for.

    Concurrency: any number of tasks. Cancellation: harms no other waiter.
    """

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._signals = Signals()
        self._channels: set[str] = set()
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def wait_for(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is not ``since``, or time is up; return the count."""
        until = self._clock.monotonic() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._listen(channel)
        except connection_errors(TimeoutError, StoreUnavailableError):
            pass  # no news, so the caller looks when time is up
        return await self._signals.wait(channel, since=since, timeout_seconds=max(0.0, until - self._clock.monotonic()))

    async def close(self) -> None:
        """Stop listening."""
        self._connection = None
        await self._link.close()

    async def _listen(self, channel: str) -> None:
        async with self._turn:
            if not self._link.is_up or self._connection is None:
                connection = await self._link.get(0)
                connection.add_termination_listener(self._lost)
                for known in self._channels:
                    await connection.add_listener(channel_name(known), self._heard)
                self._connection = connection
            if channel not in self._channels:
                await self._connection.add_listener(channel_name(channel), self._heard)
                self._channels.add(channel)
                self._signals.tell({channel})  # what came before is not known

    def _heard(self, _connection: object, _pid: int, channel: str, _payload: object) -> None:
        self._signals.tell({channel.removeprefix(channel_name(""))})

    def _lost(self, connection: object) -> None:
        if connection is self._connection:
            self._connection = None
            self._signals.tell(self._channels)
