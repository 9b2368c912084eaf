"""A call that has not ended, those who wait for it, and what they get.

>>> stored = encode_result([1, 2])
>>> outcome = Returned([1, 2], "shop.list[k]", stored)
>>> first, second = outcome.take(), outcome.take()
>>> first == second, first is second
(True, False)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from ..._core.results import StoredResult, decode_result, encode_result
from ..._core.tasks import complete
from ...errors import ResultCodecError, ResultUnavailableError
from .calls import NOTHING, Shape

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .calls import Call
    from .records import IdempotencyRecord

__all__ = ["Flight", "Hit", "Raised", "Returned", "encode_result"]

R = TypeVar("R")


class Ended(Protocol):
    """What came of a call."""

    def take(self) -> Any:
        """Give it to one caller."""
        ...


class Returned:
    """A result. One caller gets the object itself; others get it only where nobody can change it, else a copy.

    Args:
        value: What was returned.
        call: Label of the call.
        stored: The same in bytes, or why there are none.
    """

    __slots__ = ("_call", "_is_taken", "_stored", "_value")

    def __init__(self, value: object, call: str, stored: StoredResult | str) -> None:
        self._value = value
        self._call = call
        self._stored = stored
        self._is_taken = False

    def take(self) -> Any:
        """Return the result.

        Raises:
            ResultUnavailableError: It could not be stored, and somebody else has got it.
        """
        if not self._is_taken:
            self._is_taken = True
            return self._value
        if isinstance(self._stored, str):
            raise ResultUnavailableError(self._call, self._stored)
        return self._value if self._stored.shareable else _read(self._call, self._stored.data)


class Raised:
    """An exception; every caller gets the same one, as every waiter of an asyncio task does."""

    __slots__ = ("_error", "_traceback")

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._traceback = error.__traceback__

    def take(self) -> NoReturn:
        """Raise it.

        Raises:
            BaseException: It.
        """
        raise self._error.with_traceback(self._traceback)


def encode_within(result: object, max_result_bytes: int) -> StoredResult | str:
    """Return a result in bytes, or the reason why that is not possible."""
    try:
        stored = encode_result(result)
    except ResultCodecError as error:
        return str(error)
    size = len(stored.data)
    return stored if size <= max_result_bytes else f"its {size} bytes are more than max_result_bytes={max_result_bytes}"


def read_stored(call: str, record: IdempotencyRecord) -> Any:
    """Return what was stored of an earlier call.

    Raises:
        ResultUnavailableError: It was not stored, or cannot be read here.
    """
    if record.result is None:
        raise ResultUnavailableError(call, record.reason or "it was not stored")
    return _read(call, record.result)


def _read(call: str, data: bytes) -> Any:
    try:
        return decode_result(data)
    except ResultCodecError as error:
        raise ResultUnavailableError(call, str(error)) from error


class Hit(Shape):
    """A result at hand: served until it expires, without asking the records.

    Attributes:
        fingerprint: What a call has to agree in.
        expires_at: On the clock's monotonic scale.
        value: The result, where nobody can change it.
        data: The result in bytes otherwise.
        quick: The function, where the result may be shared and the call had no keywords; else another object.
    """

    __slots__ = ("data", "expires_at", "fingerprint", "quick", "value")

    def __init__(self, call: Call, value: object, stored: StoredResult, expires_at: float) -> None:
        super().__init__(call.func, call.args, call.kwargs)
        self.fingerprint = call.fingerprint
        self.expires_at = expires_at
        self.value = value if stored.shareable else None
        self.data = None if stored.shareable else stored.data
        self.quick = self.func if stored.shareable and not call.kwargs else NOTHING

    def give(self) -> Any:
        """Return the result, a fresh copy where it could be changed.

        Raises:
            ResultUnavailableError: It cannot be read any more.
        """
        return self.value if self.data is None else _read(self.fingerprint, self.data)


class Flight:
    """A call that has not ended.

    Attributes:
        call: What is called.
        task: Does the work. It belongs to nobody who waits, so that nobody's cancellation is another's.
        callers: How many wait for it.
        unwanted: Whether the last of them has gone, so that it is being cancelled.
        owns_key: Set when the key is known to belong to this payload, and when the call has ended.
        ended: Set when the call has ended.
        outcome: What came of it; None where it was ended before it began.
        cancellation: The cancellation of the work that came while something was being recorded.
    """

    __slots__ = ("call", "callers", "cancellation", "ended", "outcome", "owns_key", "task", "unwanted")

    task: asyncio.Task[None]

    def __init__(self, call: Call) -> None:
        self.call = call
        self.callers = 0
        self.unwanted = False
        self.owns_key = asyncio.Event()
        self.ended = asyncio.Event()
        self.outcome: Ended | None = None
        self.cancellation: asyncio.CancelledError | None = None

    def land(self) -> None:
        """Note that the call has ended, and let those who wait go on."""
        self.owns_key.set()
        self.ended.set()

    def give_up(self) -> None:
        """Cancel the work, because nobody waits for it any more."""
        self.unwanted = True
        self.task.cancel()

    async def record(self, writing: Coroutine[Any, Any, R]) -> R:
        """Let a record be written to the end; a cancellation that comes meanwhile waits."""
        result, cancellation = await complete(writing)
        self.cancellation = cancellation or self.cancellation
        return result

    def check_cancelled(self) -> None:
        """Raise the cancellation that waits.

        Raises:
            asyncio.CancelledError: There is one.
        """
        if self.cancellation is not None:
            raise self.cancellation
