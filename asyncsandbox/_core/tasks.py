"""Waiting for what must end before a cancellation goes on.

>>> async def main() -> tuple[str, bool]:
...     vital = asyncio.create_task(asyncio.sleep(0.01, "recorded"))
...     waiter = asyncio.create_task(outlast(vital))
...     await asyncio.sleep(0)
...     waiter.cancel()
...     cancellation = await waiter
...     return vital.result(), cancellation is not None
>>> asyncio.run(main())
('recorded', True)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

R = TypeVar("R")


async def outlast(
    task: asyncio.Future[Any],
    *,
    on_cancel: Callable[[], object] | None = None,
    until: Callable[[], Awaitable[object]] | None = None,
) -> asyncio.CancelledError | None:
    """Wait until ``task`` has ended, also when the waiter is cancelled meanwhile.

    Args:
        task: What must end, a task or a future; it is never cancelled here.
        on_cancel: Called at each cancellation of the waiter.
        until: Gives something to await that ends when the task does; a task that can say so itself is heard sooner.

    Returns:
        The last cancellation that came meanwhile: the caller must raise it once it has done its part. None otherwise.
    """
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await (asyncio.wait((task,)) if until is None else until())
        except asyncio.CancelledError as error:
            cancellation = error
            if on_cancel is not None:
                on_cancel()
    return cancellation


async def complete(coroutine: Coroutine[Any, Any, R]) -> tuple[R, asyncio.CancelledError | None]:
    """Run a coroutine to its end, also when the caller is cancelled meanwhile.

    Returns:
        What it returned, and the last cancellation that came meanwhile, which the caller must raise in the end.

    Raises:
        Exception: Whatever it raised.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    cancellation = await outlast(task)
    return task.result(), cancellation
