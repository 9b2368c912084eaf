"""What a component does while the store does not answer: it tells of it once, and asks again later.

>>> async def main() -> list[str]:
...     patience = Patience("shop", Journal(clock := SystemClock()), clock, seconds=0.001)
...     for _ in range(2):
...         await patience.wait(StoreUnavailableError("shop.read", "it is gone"))
...     return [event.name for event in patience.journal.get_events()]
>>> asyncio.run(main())
['shop.store_silent']
"""

from __future__ import annotations

import asyncio

from ...errors import StoreError, StoreOperationError, StoreUnavailableError
from ..clock import Clock, SystemClock
from ..journal import Journal, Level

__all__ = ["Patience", "StoreUnavailableError", "SystemClock", "asyncio"]


class Patience:
    """Waits for a store that does not answer.

    Concurrency: for one event loop. Cancellation: ends a wait.

    Args:
        component: Whose it is; the event is called ``"<component>.store_silent"``.
        journal: Is told.
        clock: Time.
        seconds: How long to wait before asking again (> 0).

    Attributes:
        journal: Is told.
    """

    def __init__(self, component: str, journal: Journal, clock: Clock, *, seconds: float) -> None:
        self.journal = journal
        self._component = component
        self._clock = clock
        self._seconds = seconds
        self._is_silent = False

    def has_answered(self) -> None:
        """Note that the store answers."""
        self._is_silent = False

    def tell(self, error: StoreError) -> None:
        """Tell that it does not, unless that was told already."""
        if not self._is_silent:
            self._is_silent = True
            event = f"{self._component}.store_silent"
            self.journal.publish(event, component=self._component, level=Level.WARNING, error=str(error))

    async def wait(self, error: StoreError) -> None:
        """Tell that it does not, and wait a while.

        Raises:
            StoreOperationError: The statement is wrong, which no waiting mends.
        """
        if isinstance(error, StoreOperationError):
            raise error
        self.tell(error)
        await self._clock.sleep(self._seconds)
