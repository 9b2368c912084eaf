"""Idempotency keys in the store of a sandbox, shared by every process that opens it.

A claim belongs to the sandbox that made it. It is in force while that sandbox has its lease and, here, while the task
that holds it runs; after that the record is UNKNOWN, and `owner_died` only where the process has certainly ended.
Claims are made in one statement with the question whether the lease lasts, so that nobody who was taken over begins
anything.

>>> async def main() -> list[str]:
...     async with open_store(":memory:") as store:
...         await store.attach(OWNERS)
...         owner, tasks = Owner(store, SystemClock(), lease_seconds=30.0), []
...         await owner.start(lambda work, name: tasks.append(asyncio.create_task(work)) or tasks[0])
...         records = StoreIdempotencyRecords(store, owner)
...         await records.claim("k", "f#1", "fence-1", holder=asyncio.current_task())
...         await records.finish("k", "fence-1", Outcome(RecordState.DONE, result=b"17", ttl_seconds=60))
...         other = await records.claim("k", "f#1", "fence-2", holder=asyncio.current_task())
...         tasks[0].cancel()
...         return [other.fence, other.state.value]
>>> asyncio.run(main())
['fence-1', 'done']
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..._core.action_rows import plain_text
from ..._core.clock import SystemClock
from ..._core.owners import LEASED, OWNERS, Owner, OwnerState
from ..._core.store import Migration, Operation, Schema, open_store
from ...errors import StoreUnavailableError
from .records import IdempotencyRecord, InMemoryIdempotencyRecords, Outcome, RecordState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.clock import Clock
    from ..._core.component import Services
    from ..._core.store import Row, Store
    from .records import IdempotencyRecords

__all__ = ["IDEMPOTENCY", "OWNERS", "Owner", "StoreIdempotencyRecords", "SystemClock", "asyncio", "open_store"]

_CHANNEL: Final = "idempotency"
_KEPT: Final = "(expires_at IS NULL OR expires_at > :now)"
_MOVABLE: Final = f"ns = :ns AND key = :key AND fence = :fence AND state <> 'done' AND {_KEPT}"
# A claim that only seems abandoned, because its lease was over when it was looked at, may have been renewed since.
_LOST: Final = (
    "r.fence = CAST(:instead_of AS TEXT) AND (r.state = 'unknown' OR (r.state = 'in progress' AND "
    "(CAST(:sure AS BIGINT) = 1 OR NOT EXISTS (SELECT 1 FROM sandbox_owners AS others "
    "WHERE others.ns = r.ns AND others.id = r.owner AND others.lease_until > :now))))"
)

CLAIM: Final = Operation(
    "idempotency.claim",
    "INSERT INTO sandbox_idempotency AS r (ns, key, fingerprint, state, fence, owner) "
    "SELECT CAST(:ns AS TEXT), CAST(:key AS TEXT), CAST(:fingerprint AS TEXT), 'in progress', CAST(:fence AS TEXT), "
    f"CAST(:owner AS TEXT) WHERE {LEASED} "
    "ON CONFLICT (ns, key) DO UPDATE SET fingerprint = excluded.fingerprint, state = excluded.state, "
    "fence = excluded.fence, owner = excluded.owner, result = NULL, reason = NULL, expires_at = NULL "
    f"WHERE r.expires_at <= :now OR ({_LOST})",
)
FINISH: Final = Operation(
    "idempotency.finish",
    "UPDATE sandbox_idempotency SET state = :state, result = :result, reason = :reason, "  # noqa: S608 - our own texts
    f"expires_at = :now + CAST(:ttl AS DOUBLE PRECISION) WHERE {_MOVABLE}",
    notify=_CHANNEL,
)
RELEASE: Final = Operation(
    "idempotency.release",
    f"DELETE FROM sandbox_idempotency WHERE {_MOVABLE}",  # noqa: S608 - our own texts
    notify=_CHANNEL,
)
GET: Final = Operation(
    "idempotency.get",
    "SELECT r.*, r.expires_at - :now AS seconds_left, CASE WHEN leases.lease_until > :now THEN 1 ELSE 0 END AS leased "
    "FROM sandbox_idempotency AS r LEFT JOIN sandbox_owners AS leases ON leases.ns = r.ns AND leases.id = r.owner "
    "WHERE r.ns = :ns AND r.key = :key AND (r.expires_at IS NULL OR r.expires_at > :now)",
)
DELETE_EXPIRED: Final = Operation(
    "idempotency.delete_expired", "DELETE FROM sandbox_idempotency WHERE ns = :ns AND expires_at <= :now"
)
_OLDEST: Final = "DELETE FROM sandbox_idempotency WHERE ns = :ns AND key IN (SELECT key FROM sandbox_idempotency "
SWEEP: Final = Operation(
    "idempotency.sweep",
    f"{_OLDEST}WHERE ns = :ns AND expires_at <= :now ORDER BY expires_at LIMIT :most) AND expires_at <= :now",
)
_PRUNE: Final = Operation(
    "idempotency.prune",
    f"{_OLDEST}WHERE ns = :ns AND expires_at < :before ORDER BY expires_at LIMIT :most) AND expires_at < :before",
)
IDEMPOTENCY: Final = Schema(
    name="idempotency",
    tables=("sandbox_idempotency",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_idempotency (ns TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, "
            "state TEXT NOT NULL, fence TEXT NOT NULL, owner TEXT NOT NULL, result BYTEA, reason TEXT, "
            "expires_at DOUBLE PRECISION, PRIMARY KEY (ns, key))",
            "CREATE INDEX sandbox_idempotency_expiry ON sandbox_idempotency (ns, expires_at)",
        ),
    ),
    operations=(CLAIM, FINISH, RELEASE, GET, DELETE_EXPIRED, SWEEP),
    prune=_PRUNE,
)


def make_records(services: Services, *, max_records: int) -> IdempotencyRecords:
    """Return where a manager remembers keys: in the store of its sandbox if there is one, else in memory."""
    if services.store is None:
        return InMemoryIdempotencyRecords(max_records=max_records, clock=services.clock)
    if services.owner is None:
        return RehearsalIdempotencyRecords(services.store, max_records=max_records, clock=services.clock)
    return StoreIdempotencyRecords(services.store, services.owner)


_LOOK_AGAIN_SECONDS: Final = 0.5
_ATTEMPTS: Final = 3
_PER_SWEEP: Final = 50  # claims, each of which stands for two records that may have expired
_ENDED: Final = (RecordState.DONE, RecordState.FAILED)
_GONE: Final = "whoever began it has gone without saying how it ended"


class StoreIdempotencyRecords:
    """Keeps the records in a store; see `IdempotencyRecords` for what each method promises.

    Concurrency: any number of tasks and processes. Cancellation: a write that was begun is carried out.

    Args:
        store: Where; it must be open when a method is called.
        owner: The sandbox in whose name keys are claimed; it must have started.
    """

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._attached_for: str | None = None
        self._holders: dict[str, asyncio.Task[Any]] = {}
        self._seen = 0
        self._claims = 0

    async def claim(
        self, key: str, fingerprint: str, fence: str, *, holder: asyncio.Task[Any], instead_of: str | None = None
    ) -> IdempotencyRecord:
        """Insert a record in progress; see `IdempotencyRecords.claim`.

        Raises:
            StoreUnavailableError: The lease of this sandbox is over and cannot be renewed; nothing was claimed.
            StoreError: It was not claimed, or that is not known.
        """
        for _ in range(_ATTEMPTS):
            found = await self._find(key) if instead_of is not None else None
            sure = found is not None and found["fence"] == instead_of and self._is_surely_over(found)
            self._holders[fence] = holder  # before it is written, for a cancelled caller's claim is written too
            written = await self._store.write(
                await self._ready(CLAIM), key=key, fingerprint=fingerprint, fence=fence, owner=self._owner.id,
                instead_of=instead_of, sure=int(sure),
            )  # fmt: skip
            if not written.count:
                self._holders.pop(fence, None)
            elif found is not None and found["fence"] != fence:
                self._holders.pop(found["fence"], None)  # replaced
            record = await self.get(key)
            replaceable = record is None or (record.fence == instead_of and record.state is RecordState.UNKNOWN)
            if record is not None and (written.count or not replaceable):
                await self._sweep(written.count)
                return record
            await self._owner.renew()  # it had expired, or the record has gone since
        raise StoreUnavailableError("idempotency.claim", "the lease of this sandbox is over and cannot be renewed")

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        """Record how a call ended; see `IdempotencyRecords.finish`."""
        ttl, reason = outcome.ttl_seconds, outcome.reason
        written = await self._store.write(
            await self._ready(FINISH),
            key=key,
            fence=fence,
            state=outcome.state.value,
            result=outcome.result,
            reason=None if reason is None else plain_text(reason),
            ttl=None if ttl is None else float(ttl),
        )
        return self._let_go(fence, written.count)

    async def release(self, key: str, fence: str) -> bool:
        """Forget a record; see `IdempotencyRecords.release`."""
        written = await self._store.write(await self._ready(RELEASE), key=key, fence=fence)
        return self._let_go(fence, written.count)

    async def wait(self, key: str, fence: str) -> None:
        """Wait until some claim has ended, at most half a second; see `IdempotencyRecords.wait`."""
        seen = self._seen  # from before the look, so that nothing in between is missed
        record = await self.get(key)
        if record is not None and record.fence == fence and record.state is RecordState.IN_PROGRESS:
            # Not without end: a holder that dies wakes nobody.
            self._seen = await self._store.wait_for(_CHANNEL, since=seen, timeout_seconds=_LOOK_AGAIN_SECONDS)

    async def get(self, key: str) -> IdempotencyRecord | None:
        """Return the record of a key; None where there is none or it has expired."""
        row = await self._find(key)
        if row is None:
            return None
        state, verdict = RecordState(row["state"]), self._owner.judge(row["owner"], leased=bool(row["leased"]))
        abandoned = state is RecordState.IN_PROGRESS and (verdict is not OwnerState.ALIVE or self._is_surely_over(row))
        record = _view(row)
        if abandoned:
            record = replace(record, state=RecordState.UNKNOWN, reason=_GONE)
        return replace(record, owner_died=verdict is OwnerState.DEAD)

    async def delete_expired(self) -> int:
        """Forget the records that have expired; return how many."""
        return (await self._store.write(await self._ready(DELETE_EXPIRED))).count

    def count(self) -> Mapping[RecordState, int]:
        """Return how many claims of this sandbox are in progress; what else the store holds takes a look to know."""
        return Counter(RecordState.IN_PROGRESS for task in self._holders.values() if not task.done())

    async def _find(self, key: str) -> Row | None:
        rows = await self._store.read(await self._ready(GET), key=key)
        return rows[0] if rows else None

    async def _sweep(self, claimed: int) -> None:
        """Forget two expired records for each claim, so that what nobody asks for does not pile up."""
        self._claims += claimed
        if self._claims >= _PER_SWEEP:
            self._claims = 0
            await self._store.write(SWEEP, most=2 * _PER_SWEEP)

    def _let_go(self, fence: str, written: int) -> bool:
        if written:
            self._holders.pop(fence, None)
        return bool(written)

    def _is_surely_over(self, row: Row) -> bool:
        """Tell whether a claim will never be finished, whatever becomes of leases."""
        holder = self._holders.get(row["fence"])
        if holder is not None:
            return holder.done() or holder.get_loop().is_closed()
        return self._owner.judge(row["owner"], leased=True) in (OwnerState.DEAD, OwnerState.ENDED)

    async def _ready(self, operation: Operation) -> Operation:
        if self._attached_for != self._owner.id:  # a store in memory begins anew with each life of its sandbox
            await self._store.attach(OWNERS, IDEMPOTENCY)
            self._attached_for = self._owner.id
        return operation


def _view(row: Row) -> IdempotencyRecord:
    return IdempotencyRecord(
        key=row["key"],
        fingerprint=row["fingerprint"],
        state=RecordState(row["state"]),
        fence=row["fence"],
        result=row["result"],
        reason=row["reason"],
        expires_in_seconds=row["seconds_left"],
    )


class RehearsalIdempotencyRecords(InMemoryIdempotencyRecords):
    """Keys of a dry run in memory, and those of the store whose outcome is there: it reads them, and writes nothing.

    Concurrency: for the loop the store was opened on. Cancellation: nothing is left behind.

    Args:
        store: Where the live records are.
        max_records: How many keys it holds (>= 1).
        clock: Time.
    """

    def __init__(self, store: Store, *, max_records: int, clock: Clock) -> None:
        super().__init__(max_records=max_records, clock=clock)
        self._store = store

    async def claim(
        self, key: str, fingerprint: str, fence: str, *, holder: asyncio.Task[Any], instead_of: str | None = None
    ) -> IdempotencyRecord:
        """Insert a record in progress, unless there is one or the call has really ended."""
        return await self._get_live(key) or await super().claim(
            key, fingerprint, fence, holder=holder, instead_of=instead_of
        )

    async def get(self, key: str) -> IdempotencyRecord | None:
        """Return the record of a key, of this rehearsal or of a call that has really ended."""
        return await super().get(key) or await self._get_live(key)

    async def _get_live(self, key: str) -> IdempotencyRecord | None:
        await self._store.attach(OWNERS, IDEMPOTENCY)
        rows = await self._store.read(GET, key=key)
        return _view(rows[0]) if rows and rows[0]["state"] in _ENDED else None
