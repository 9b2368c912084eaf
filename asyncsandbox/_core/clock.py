"""The only file that reads a clock, sleeps, or draws a random number.

Everything else asks the `Clock` it was given, so a test can govern time and chance by handing over another one. The one
exception are threads that watch a loop from outside: they ask `real_seconds`, and stay away where time `is_virtual`.

>>> from asyncsandbox._core.clock import SystemClock
>>> clock = SystemClock()
>>> clock.monotonic() <= clock.monotonic()
True
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable


@runtime_checkable
class Clock(Protocol):
    """Where a sandbox gets time and randomness from."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """Return the time of day, timezone-aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for ``seconds``."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def random_hex(self, size: int) -> str:
        """Return ``size`` random bytes as hexadecimal digits."""
        ...


def real_seconds() -> float:
    """Return seconds on the machine's own clock, for a thread that watches a loop; only differences mean anything.

    A loop that stands still cannot be asked how long it does, and the time of a virtual one is no measure for a thread.
    """
    return time.monotonic()


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop's time is made up, so that no thread beside it can keep its time.

    Such a loop says so itself, by an attribute ``virtual_time`` that is True.
    """
    return getattr(loop, "virtual_time", False) is True


class SystemClock:
    """Real time and real randomness; inside a loop the loop's own clock, so a virtual loop governs it."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Return the running loop's time, or the system's where no loop runs. Unit: seconds."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.fromtimestamp(time.time(), UTC)  # not now(), which no test can govern

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for ``seconds``."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Return a number in [0, 1), not for secrets."""
        return random.random()  # noqa: S311 - for jitter, not for secrets

    def random_hex(self, size: int) -> str:
        """Return ``size`` bytes from the operating system's generator as hexadecimal digits."""
        return os.urandom(size).hex()


class Ticker:
    """Reads the monotonic time of a clock, as quickly as the loop allows.

    `SystemClock` looks up the running loop at each reading, which takes longer than all the rest of a limit's check.
    On a loop with asyncio's own clock this need not be. Whoever calls `now` must know that the loop is still the same.

    Attributes:
        loop: The loop on which `read` was called last.
        now: The quickest function that reads what ``clock.monotonic()`` reads on that loop.

    Args:
        clock: The clock.
    """

    __slots__ = ("_clock", "loop", "now")

    def __init__(self, clock: Clock) -> None:
        self.use(clock)

    def use(self, clock: Clock) -> None:
        """Read another clock from now on."""
        self._clock = clock
        self.loop: asyncio.AbstractEventLoop | None = None
        self.now: Callable[[], float] = self.read

    def read(self) -> float:
        """Return seconds on the clock's monotonic scale, on whatever loop or none."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._clock.monotonic()
        if loop is not self.loop:
            self.loop = loop
            ours = getattr(self._clock.monotonic, "__func__", None) is SystemClock.monotonic
            stock = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
            self.now = time.monotonic if ours and stock else self._clock.monotonic
        return self.now()
