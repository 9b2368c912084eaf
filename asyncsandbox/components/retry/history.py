"""The attempts behind an error, kept on the error itself, so that nothing has to be wrapped.

>>> error = ValueError("no")
>>> note_attempts(error, (), "'api' failed 4 times")
>>> get_attempts(error), error.__notes__
((), ["'api' failed 4 times"])
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._core.ports import Attempt

_ATTRIBUTE = "_asyncsandbox_attempts"
_LONGEST_TEXT = 500


def get_attempts(error: BaseException) -> tuple[Attempt, ...]:
    """Return the failed attempts of the retried call that raised this error; of nested ones, those of the outermost.

    Args:
        error: Any exception; one that comes from no retried call has no attempts.

    Concurrency: from anywhere. Cancellation: nothing here waits.
    """
    attempts, _ = vars(error).get(_ATTRIBUTE, ((), None))
    return tuple(attempts)


def note_attempts(error: BaseException, attempts: Iterable[Attempt], note: str | None = None) -> None:
    """Keep the attempts on the error, and add a line to what Python prints of it; another one of ours goes.

    One error object may be raised by many calls, so it must not gather lines. An error that takes no attributes is
    left as it is.
    """
    with suppress(Exception):
        kept = vars(error)  # past a __setattr__ that refuses
        _, old = kept.get(_ATTRIBUTE, ((), None))
        kept[_ATTRIBUTE] = (tuple(attempts), note or old)
        if note is not None:
            notes: list[str] = kept.setdefault("__notes__", [])
            if old in notes:
                notes.remove(old)
            notes.append(note)


def say(error: BaseException) -> str:
    """Return type and message of an error, shortened, whatever its message does."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a failed attempt must be noted even if the error cannot say what it is
        return type(error).__name__
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
