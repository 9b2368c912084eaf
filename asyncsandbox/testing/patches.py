"""Replacing names for one thread at a time, and putting every one of them back.

>>> import math, threading
>>> with Patches() as patches:
...     patches.replace(math, "sqrt", lambda number: "two")
...     patches.thread = threading.get_ident()
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

_NOTHING = object()


class Patches:
    """Replacements that end with a block.

    Attributes:
        thread: The thread that sees what `replace` puts in place, or None; the others see the original.
    """

    __slots__ = ("_undo", "thread")

    def __init__(self) -> None:
        self.thread: int | None = None
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._undo:
            owner, name, original = self._undo.pop()
            if original is _NOTHING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def set(self, owner: Any, name: str, value: object) -> None:
        """Replace an attribute for everybody, where there is one."""
        if name in vars(owner):
            self._undo.append((owner, name, vars(owner)[name]))
            setattr(owner, name, value)

    def add(self, owner: Any, name: str, value: object) -> None:
        """Give an attribute to what has none of its own of that name, for everybody."""
        self._undo.append((owner, name, _NOTHING))
        setattr(owner, name, value)

    def replace(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a function or a method, for the one thread."""
        original, get_ident = getattr(owner, name), threading.get_ident

        def dispatch(*args: Any, **kwargs: Any) -> Any:
            return (replacement if get_ident() == self.thread else original)(*args, **kwargs)

        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, dispatch)
