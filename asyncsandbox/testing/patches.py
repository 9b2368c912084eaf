"""Replacing names for one thread, and putting every one of them back.

>>> import math, threading
>>> with Patches(threading.get_ident()) as patches:
...     patches.replace(math, "sqrt", lambda number: "two")
...     math.sqrt(4)
'two'
>>> math.sqrt(4)
2.0
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patches"]


class Patches:
    """Replacements that end with a block.

    Args:
        thread: The thread that sees what `replace` puts in place; the others see the original.
    """

    __slots__ = ("_thread", "_undo")

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._undo:
            owner, name, original = self._undo.pop()
            setattr(owner, name, original)

    def set(self, owner: Any, name: str, value: object) -> None:
        """Replace an attribute for everybody, where there is one."""
        if name in vars(owner):
            self._undo.append((owner, name, vars(owner)[name]))
            setattr(owner, name, value)

    def replace(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a function or a method, for the one thread."""
        original = getattr(owner, name)
        mine, get_ident = self._thread, threading.get_ident

        def dispatch(*args: Any, **kwargs: Any) -> Any:
            return (replacement if get_ident() == mine else original)(*args, **kwargs)

        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, dispatch)
