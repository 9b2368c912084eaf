"""An event loop whose time jumps to the next timer when nothing else is left to do.

`run_virtual(main())` runs a coroutine on such a loop: an hour of sleeping costs no time, and the clock reads
what was slept. Jobs for an executor (`asyncio.to_thread`) run inline; anyio's threads are waited for; a
program that would wait for ever fails at once, and so does one that leaves a task behind.

>>> async def main() -> float:
...     await asyncio.sleep(3600)
...     return asyncio.get_running_loop().time()
>>> run_virtual(main())
3600.0
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

R = TypeVar("R")

# How much real time anyio's threads get to answer before virtual time moves on without them.
THREAD_PATIENCE_SECONDS = 1.0


class StuckError(AssertionError):
    """Nothing is ready, no timer is set and no thread answers: the program would wait for ever."""


class LeftRunningError(AssertionError):
    """The coroutine ended and tasks it started did not."""


class VirtualSelector(selectors.DefaultSelector):
    """A selector that never sleeps for a timer: it moves the loop's time on instead."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and self.loop.has_busy_thread() and timeout != 0:
            events = super().select(THREAD_PATIENCE_SECONDS)
        if not events and timeout is None:
            raise StuckError(f"waiting for ever: {asyncio.all_tasks(self.loop)}")
        if not events and timeout > 0:
            self.loop.jump()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. ``before_step`` is called before each iteration with its number, to cancel at a given one."""

    virtual_time = True

    def __init__(self) -> None:
        self._now = 0.0
        self._steps = 0
        self.before_step: Callable[[int], object] | None = None
        selector = VirtualSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now

    def jump(self) -> None:
        """Move time on to the next timer."""
        self._now = max(self._now, self._scheduled[0].when())

    def has_busy_thread(self) -> bool:
        """Tell whether one of anyio's threads is working for this loop."""
        mine = [thread for thread in threading.enumerate() if getattr(thread, "loop", None) is self]
        return any(thread not in thread.idle_workers and not thread.stopping for thread in mine)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run the job inline."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it reaches whoever awaits the job
            future.set_exception(error)
        return future

    def _run_once(self) -> None:
        self._steps += 1
        if self.before_step is not None:
            self.before_step(self._steps)
        super()._run_once()


def run_virtual(coroutine: Coroutine[Any, Any, R], *, before_step: Callable[[int], object] | None = None) -> R:
    """Run a coroutine to its end on a virtual loop of its own.

    Raises:
        StuckError: It would wait for ever.
        LeftRunningError: Tasks it started are still running at its end. They are cancelled then.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.before_step = before_step
        try:
            result = runner.run(coroutine)
        finally:
            loop.before_step = None
            left = _end_all(loop)
        if left:
            raise LeftRunningError(f"left running: {left}")
        return result


def _end_all(loop: VirtualLoop) -> str:
    left = asyncio.all_tasks(loop)
    names = ", ".join(map(repr, left))
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    return names
