"""Where idempotency keys are remembered: the port, and the adapter that keeps them in memory.

A row is data: key, fingerprint, state, fence, result, reason, expiry. Every method of the port is one statement on one
row, so an adapter for a database needs no more than a table. A *fence* is a token that one claim alone holds: whoever
holds an old one can no longer move the row.

>>> async def main() -> list[str]:
...     records, task = InMemoryIdempotencyRecords(), asyncio.current_task()
...     mine = await records.claim("k", "f#1", "fence-1", holder=task)
...     other = await records.claim("k", "f#1", "fence-2", holder=task)
...     await records.finish("k", "fence-1", Outcome(RecordState.DONE, result=b"17", ttl_seconds=60))
...     return [mine.fence, other.fence, (await records.get("k")).state.value]
>>> asyncio.run(main())
['fence-1', 'fence-1', 'done']
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..._core.clock import SystemClock
from ..._core.settings import require_number
from ...errors import IdempotencyFullError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.clock import Clock

__all__ = ["IdempotencyRecord", "IdempotencyRecords", "InMemoryIdempotencyRecords", "Outcome", "RecordState", "asyncio"]


class RecordState(StrEnum):
    """Where a key is; one that nobody called, or whose outcome has expired, has no record."""

    IN_PROGRESS = "in progress"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """What is known of one key.

    Attributes:
        key: The key.
        fingerprint: Function and digest of what it was called with.
        state: Where it is.
        fence: Token of the claim that holds it.
        result: What the function returned or, where it failed, raised, as `encode_result` writes it; None where that
            could not be stored.
        reason: Why the result is not there, or why nobody knows how the call ended.
        expires_in_seconds: How much longer it is kept, from now; None for ever.
        owner_died: Whether the process that made the call is known to be dead, so that no trace of it is still to come.
    """

    key: str
    fingerprint: str
    state: RecordState
    fence: str
    result: bytes | None = None
    reason: str | None = None
    expires_in_seconds: float | None = None
    owner_died: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, to be recorded. The attributes mean what they mean in `IdempotencyRecord`.

    Attributes:
        state: DONE, FAILED or UNKNOWN.
        result: What came of it, as bytes.
        reason: Why there is none.
        ttl_seconds: How long it is kept, from now; None for ever.
    """

    state: RecordState
    result: bytes | None = None
    reason: str | None = None
    ttl_seconds: float | None = None


class IdempotencyRecords(Protocol):
    """What the manager asks of its memory.

    Concurrency: each method is atomic, among processes too where the memory is shared. Cancellation: a cancelled
    method has happened or has not; the manager waits for all of them.
    """

    async def claim(
        self, key: str, fingerprint: str, fence: str, *, holder: asyncio.Task[Any], instead_of: str | None = None
    ) -> IdempotencyRecord:
        """Insert a record in progress, where there is none or an expired one.

        Args:
            key: The key.
            fingerprint: Function and digest of what it is called with.
            fence: A token nobody else has.
            holder: The task that does the work. The claim is in force as long as it is.
            instead_of: Fence of an UNKNOWN record that the claim replaces as well.

        Returns:
            The record that the key has now: the caller's own if it has the caller's fence.

        Raises:
            IdempotencyFullError: There is no room.
        """
        ...

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        """Record how a call ended.

        Returns:
            False where the record has another fence, is DONE or has expired: it is left as it is.
        """
        ...

    async def release(self, key: str, fence: str) -> bool:
        """Forget a record, so that the key is free again.

        Returns:
            False where the record has another fence, is DONE or has expired: it is left as it is.
        """
        ...

    async def wait(self, key: str, fence: str) -> None:
        """Wait until it is worth asking again about a claim that is in progress elsewhere."""
        ...

    async def get(self, key: str) -> IdempotencyRecord | None:
        """Return the record of a key; None where there is none or it has expired."""
        ...

    async def delete_expired(self) -> int:
        """Forget the records that have expired, and only those; return how many."""
        ...

    def count(self) -> Mapping[RecordState, int]:
        """Return how many records there are by state, as far as that is known without waiting."""
        ...


_LOOK_AGAIN_SECONDS: Final = 1.0
_GONE: Final = "whoever began it has gone without saying how it ended"


@dataclass(slots=True)
class _Row:
    fingerprint: str
    fence: str
    holder: asyncio.Task[Any]
    state: RecordState = RecordState.IN_PROGRESS
    result: bytes | None = None
    reason: str | None = None
    expires_at: float | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_abandoned(self) -> bool:
        """Whether its holder will never say how it ended."""
        over = self.holder.done() or self.holder.get_loop().is_closed() or _has_died(self.holder)
        return self.state is RecordState.IN_PROGRESS and over

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class InMemoryIdempotencyRecords:
    """Keeps the records in a dictionary.

    A claim is as alive as the task that holds it: where that has ended without a word, or never will run again, the
    record is UNKNOWN. A record leaves only when it has expired or is released; where there is no room it refuses.

    Concurrency: for one event loop; several managers may share it. Cancellation: only `wait` waits.

    Args:
        max_records: How many keys it holds (>= 1).
        clock: Time; the system's by default.
    """

    def __init__(self, *, max_records: int = 100_000, clock: Clock | None = None) -> None:
        require_number("InMemoryIdempotencyRecords.max_records", max_records, at_least=1, whole=True)
        self._max_records = max_records
        self._clock = clock or SystemClock()
        self._rows: dict[str, _Row] = {}
        self._expiries: list[tuple[float, str, str]] = []  # a heap: when, key, fence

    async def claim(
        self, key: str, fingerprint: str, fence: str, *, holder: asyncio.Task[Any], instead_of: str | None = None
    ) -> IdempotencyRecord:
        """Insert a record in progress; see `IdempotencyRecords.claim`.

        Raises:
            IdempotencyFullError: There is no room, and nothing has expired.
        """
        record = await self.get(key)
        if record is not None and not (record.state is RecordState.UNKNOWN and record.fence == instead_of):
            return record
        self._drop_expired(2)  # two for one, so that what nobody asks for does not pile up
        if len(self._rows) >= self._max_records and key not in self._rows:
            raise IdempotencyFullError(self._max_records)
        self._rows[key] = row = _Row(fingerprint, fence, holder)
        return self._view(key, row)

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        """Record how a call ended; see `IdempotencyRecords.finish`."""
        row = self._movable(key, fence)
        if row is None:
            return False
        row.state, row.result, row.reason = outcome.state, outcome.result, outcome.reason
        row.expires_at = None
        if outcome.ttl_seconds is not None:
            row.expires_at = self._clock.monotonic() + outcome.ttl_seconds
            heapq.heappush(self._expiries, (row.expires_at, key, fence))
        row.wake()
        return True

    async def release(self, key: str, fence: str) -> bool:
        """Forget a record; see `IdempotencyRecords.release`."""
        row = self._movable(key, fence)
        if row is None:
            return False
        del self._rows[key]
        row.wake()
        return True

    async def wait(self, key: str, fence: str) -> None:
        """Wait until a claim has ended, at most a second; see `IdempotencyRecords.wait`."""
        row = self._rows.get(key)
        if row is None or row.fence != fence or row.state is not RecordState.IN_PROGRESS:
            return
        ended = asyncio.get_running_loop().create_future()
        row.waiters.append(ended)
        try:
            # Not without end: a holder that dies wakes nobody.
            await asyncio.wait((ended,), timeout=_LOOK_AGAIN_SECONDS)
        finally:
            row.waiters.remove(ended)

    async def get(self, key: str) -> IdempotencyRecord | None:
        """Return the record of a key; None where there is none or it has expired."""
        row = self._rows.get(key)
        return None if row is None or self._is_expired(row) else self._view(key, row)

    async def delete_expired(self) -> int:
        """Forget the records that have expired; return how many."""
        return self._drop_expired(len(self._rows))

    def count(self) -> Mapping[RecordState, int]:
        """Return how many records there are by state, those that have expired left out."""
        rows = self._rows.values()
        return Counter(
            RecordState.UNKNOWN if row.is_abandoned else row.state for row in rows if not self._is_expired(row)
        )

    def _movable(self, key: str, fence: str) -> _Row | None:
        row = self._rows.get(key)
        movable = row is not None and row.fence == fence and row.state is not RecordState.DONE
        return row if row is not None and movable and not self._is_expired(row) else None

    def _is_expired(self, row: _Row) -> bool:
        return row.expires_at is not None and row.expires_at <= self._clock.monotonic()

    def _drop_expired(self, at_most: int) -> int:
        dropped, now = 0, self._clock.monotonic()
        while dropped < at_most and self._expiries and self._expiries[0][0] <= now:
            when, key, fence = heapq.heappop(self._expiries)
            row = self._rows.get(key)
            # The key may have been called again since, or its outcome been settled anew.
            if row is not None and row.fence == fence and row.expires_at == when:
                del self._rows[key]
                dropped += 1
        return dropped

    def _view(self, key: str, row: _Row) -> IdempotencyRecord:
        abandoned = row.is_abandoned
        return IdempotencyRecord(
            key=key,
            fingerprint=row.fingerprint,
            state=RecordState.UNKNOWN if abandoned else row.state,
            fence=row.fence,
            result=row.result,
            reason=_GONE if abandoned else row.reason,
            expires_in_seconds=None if row.expires_at is None else row.expires_at - self._clock.monotonic(),
            owner_died=_has_died(row.holder),
        )


def _has_died(task: asyncio.Task[Any]) -> bool:
    """Tell whether a simulated power cut has ended the life that a task belongs to."""
    return bool(getattr(task, "is_dead", False))
