"""The thread that looks where a loop stands when its ticks stay out.

It only looks. What it saw is picked up by the next tick, on the loop's own thread, which does all the telling.

>>> async def main() -> bool:
...     watchdog = Watchdog(asyncio.get_running_loop(), patience_seconds=0.02)
...     watchdog.start()
...     while watchdog.get_sample() is None:  # a loop that does not tick
...         pass
...     sample = watchdog.tick()
...     watchdog.end()
...     return any(line.function == "main" for line in sample.stack)
>>> asyncio.run(main())
True
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._core.clock import real_seconds
from .stalls import read_stack

if TYPE_CHECKING:
    from .stalls import StackLine

__all__ = ["Sample", "Watchdog", "asyncio"]

THREAD_NAME = "asyncsandbox-watchdog"
_JOIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the thread saw.

    Attributes:
        ticked_at: Which tick was the last one then, in `real_seconds`.
        loop_ran: Whether the loop was running at all; between two runs it is not stalled.
        task: Name of the running task, or None.
        stack: Where the loop's thread was.
    """

    ticked_at: float
    loop_ran: bool
    task: str | None = None
    stack: tuple[StackLine, ...] = ()


class Watchdog:
    """A daemon thread that takes one look whenever no tick came for ``patience_seconds``.

    It promises to look at most once between two ticks, to end soon after `end` or once the loop is closed, and to
    look at nothing while the loop ticks. While C code holds the interpreter it cannot look, nor can anybody in Python.

    Concurrency: made, ticked and ended from the loop's thread. Cancellation: nothing here waits for the loop.

    Args:
        loop: What is watched; it belongs to the calling thread.
        patience_seconds: How long a tick may stay out (> 0).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, patience_seconds: float) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._patience_seconds = patience_seconds
        self._ticked_at = real_seconds()
        self._sample: Sample | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """End the thread, and wait for that: it is asleep, and woken by this."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def tick(self) -> Sample | None:
        """Note that the loop runs.

        Returns:
            What was seen since the tick before, if there was reason to look.
        """
        sample = self.get_sample()
        self._ticked_at = real_seconds()
        return sample

    def get_sample(self) -> Sample | None:
        """Return what was seen since the last tick; from any thread."""
        sample = self._sample
        return sample if sample is not None and sample.ticked_at == self._ticked_at else None

    def _watch(self) -> None:
        wait = self._patience_seconds
        while not self._ending.wait(wait) and not self._loop.is_closed():
            ticked_at = self._ticked_at
            wait = ticked_at + self._patience_seconds - real_seconds()
            if wait <= 0:
                wait = self._patience_seconds
                if self.get_sample() is None:
                    self._sample = self._look(ticked_at)

    def _look(self, ticked_at: float) -> Sample:
        if not self._loop.is_running():
            return Sample(ticked_at=ticked_at, loop_ran=False)
        task = asyncio.current_task(self._loop)
        name = None if task is None else task.get_name()
        return Sample(ticked_at=ticked_at, loop_ran=True, task=name, stack=read_stack(self._loop_thread))
