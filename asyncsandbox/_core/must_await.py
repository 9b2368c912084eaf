"""An awaitable that refuses to be a condition, so that a forgotten ``await`` cannot read as "yes".

>>> async def ready() -> bool:
...     return False
>>> answer = MustAwait(ready(), "is_ready()")
>>> if answer: print("wrong")
Traceback (most recent call last):
    ...
TypeError: is_ready() was not awaited, so it has no truth value yet: write `if await ...is_ready():`
>>> asyncio.run(MustAwait(ready(), "is_ready()"))
False
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

__all__ = ["MustAwait", "asyncio"]

R = TypeVar("R")


class MustAwait(Coroutine[Any, Any, R]):
    """A coroutine in every respect but one: it has no truth value."""

    __slots__ = ("_call", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, R], call: str) -> None:
        self._coroutine = coroutine
        self._call = call

    def __bool__(self) -> bool:
        # Python 3.12 asks so while it prints the task that runs us, which is no mistake of anybody's.
        if sys._getframe(1).f_globals.get("__name__") == "asyncio.base_tasks":  # noqa: SLF001
            return True
        self._coroutine.close()
        raise TypeError(
            f"{self._call} was not awaited, so it has no truth value yet: write `if await ...{self._call}:`"
        )

    def __await__(self) -> Generator[Any, Any, R]:
        return self._coroutine.__await__()

    def send(self, value: object, /) -> Any:
        """Resume the coroutine."""
        return self._coroutine.send(value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """Raise inside the coroutine."""
        if val is None and tb is None:
            return self._coroutine.throw(typ)
        return self._coroutine.throw(typ if val is None else val)

    def close(self) -> None:
        """End the coroutine without running it further."""
        self._coroutine.close()
