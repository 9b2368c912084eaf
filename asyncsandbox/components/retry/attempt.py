"""One attempt: a call of a function that may take only so long, and may leave a thread running.

>>> async def main() -> int:
...     return await give_up_after(5, asyncio.sleep(0.01, 42), TimeoutError)
>>> asyncio.run(main())
42
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..._core.decorators import as_coroutine_function
from .cancels import GROUPS_LEAVE_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

R = TypeVar("R")


class Body:
    """A function as attempts call it.

    Attributes:
        call: The same as a coroutine function; a plain function runs in a thread.
    """

    __slots__ = ("_function", "call")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.call = as_coroutine_function(function)

    def watch(self) -> tuple[Callable[..., Coroutine[Any, Any, Any]], Callable[[], bool]]:
        """Return what does the same as `call`, for one attempt, and what tells whether its thread still runs."""
        if self.call is self._function:
            return self.call, lambda: False
        # Until it has returned it may run: one that waits for a free thread may get it at any moment.
        returned = False

        @functools.wraps(self._function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal returned
            try:
                return self._function(*args, **kwargs)
            finally:
                returned = True

        return as_coroutine_function(watched), lambda: not returned


async def give_up_after(seconds: float, attempt: Coroutine[Any, Any, R], too_late: Callable[[], Exception]) -> R:
    """Await an attempt and cancel it after so many seconds.

    Unlike `asyncio.timeout` it never takes a TimeoutError of the attempt's own for its own.

    Raises:
        asyncio.CancelledError: The task was cancelled.
        Exception: What ``too_late`` makes, where the attempt ended by being cancelled; or what the attempt raised.

    Concurrency: calls are independent. Cancellation: delivered to the attempt; it outweighs the time being up.
    """
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
    cancels = task.cancelling()
    is_up = False
    timer: asyncio.Handle

    def be_up() -> None:
        nonlocal timer
        if task.cancelling() == cancels:
            give_up()
        else:  # somebody was first, and the attempt may be about to end
            timer = loop.call_soon(give_up)

    def give_up() -> None:
        nonlocal is_up, cancels
        is_up = True
        # What a failed group left behind must not make our own request look like somebody else's.
        cancels = task.cancelling() if GROUPS_LEAVE_REQUESTS else cancels
        task.cancel()

    timer = loop.call_later(seconds, be_up)
    try:
        return await attempt
    except asyncio.CancelledError as cancelled:
        if is_up and task.cancelling() == cancels + 1:  # nobody else cancelled it as well
            raise too_late() from cancelled
        raise
    finally:
        timer.cancel()
        if is_up:
            task.uncancel()
