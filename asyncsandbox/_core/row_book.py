"""The rows of a store as one process sees them: read, written under a condition, and taken over from who is gone.

What it has seen it keeps, one object per row, so that whoever holds a row sees it change. A row is written only if the
store still has the version it is based on.

>>> RowBook.write.__doc__.splitlines()[0]
'Write a row if the store still has it as it was here; then that is what it is here, too.'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from . import action_rows as table
from .action_rows import IN_FLIGHT, StoredRow
from .ledger import ActionState
from .owners import OwnerState
from .tasks import complete

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .clock import Clock
    from .ledger import Row
    from .owners import Owner
    from .planned import PlannedAction
    from .store import Operation, Store

_MANY_VERSIONS: Final = 2**20
_KEPT: Final = (ActionState.PLANNED, *IN_FLIGHT)
_CLEAN_SECONDS: Final = 0.5
_MANY_GROUPS: Final = 10_000
_DIED: Final = "its process died before it was recorded how the call ended"
_GONE: Final = "whoever made the call has not been heard of for longer than a lease"


class RowBook:
    """Rows of one namespace of a store.

    Concurrency: for the loop the store was opened on. Cancellation: reads end at once, writes first become known.

    Args:
        store: Where the rows are.
        owner: In whose name they are written.
        clock: Time.
        rows: Where those that were seen are kept, by identity.
        max_rows: How many are kept, not counting those somebody here is at work on.
    """

    def __init__(self, store: Store, owner: Owner, clock: Clock, rows: dict[str, Row], *, max_rows: int) -> None:
        self.store = store
        self.owner = owner
        self._clock = clock
        self._rows = rows
        self._max_rows = max_rows
        self._clean: dict[tuple[str, str], float] = {}  # groups nobody has left behind, and when that was so

    # ------------------------------------------------------------ reading

    async def read(self, identity: str) -> Mapping[str, Any] | None:
        """Return the columns of a row, and whether its owner has a lease; None where there is no such row."""
        rows = await self.store.read(table.READ, identity=identity)
        return rows[0] if rows else None

    async def find(self, action: str, key: str) -> Mapping[str, Any] | None:
        """Return the columns of a row of this action and key, one that is UNKNOWN first."""
        rows = await self.store.read(table.FIND, action=action, key=table.plain_text(key))
        return rows[0] if rows else None

    def see(self, columns: Mapping[str, Any]) -> StoredRow:
        """Return the row that was read; the object that stands for it here, if there is one."""
        known = self._rows.get(columns["identity"])
        if known is None:
            row = table.row_of(columns)
            self.remember(row)
            return row
        row = stored(known)
        if not 0 <= row.version - columns["version"] < _MANY_VERSIONS:  # else it was read before our last write
            row.load(columns)
        return row

    async def refresh(self, row: StoredRow) -> None:
        """Let a row be what the store has; nothing, version 0, if it has none."""
        columns = await self.read(row.call.identity)
        if columns is None:
            row.version, row.fence, row.attempts, row.state = 0, 0, 0, ActionState.PLANNED
        elif columns["version"] != row.version:
            row.load(columns, keep_history=columns["owner"] == row.owner)

    def remember(self, row: StoredRow) -> None:
        """Keep a row, in place of the oldest one that nobody is at work on where there are many."""
        if len(self._rows) >= self._max_rows:
            ended = (
                identity
                for identity, old in self._rows.items()
                if old.state not in _KEPT and not old.left_running and stored(old).pending is None
            )
            oldest = next(ended, None)
            if oldest is not None:
                del self._rows[oldest]
        self._rows[row.call.identity] = row

    def unwritten(self, identity: str) -> StoredRow | None:
        """Return a row that is not in the store yet, where it is but planned; nothing else is without the store."""
        row = self._rows.get(identity)
        if row is not None and row.state is ActionState.PLANNED and not stored(row).version:
            return stored(row)
        self.drop(identity)
        return None

    def drop(self, identity: str) -> None:
        """Keep a row no longer, where it is kept."""
        self._rows.pop(identity, None)

    # ------------------------------------------------------------ writing

    async def write(self, row: StoredRow, after: StoredRow, how: Operation) -> bool:
        """Write a row if the store still has it as it was here; then that is what it is here, too.

        Args:
            row: The row as it is here; with version 0 it is not in the store yet.
            after: The same, moved on.
            how: Which of the operations that write; a new row is inserted, and always under our lease.

        Returns:
            Whether it was written.
        """
        if row.version:
            after.version = row.version + 1
            count = await self._carry_out(
                how,
                {"identity": row.call.identity, "was": row.version, **table.changes_of(after)},
                row,
                after,
            )
        else:
            after.owner = self.owner.id
            after.version = 1 + int(self._clock.random_hex(5), 16)  # that no earlier row of this identity had
            columns = {**table.origin_of(after), **table.changes_of(after)}
            count = await self._carry_out(table.INSERT, columns, row, after)
        return bool(count)

    async def forget(self, row: StoredRow) -> bool:
        """Delete a row if the store still has it as it is here; tell whether it had."""
        gone = await self._carry_out(table.FORGET, {"identity": row.call.identity, "was": row.version})
        if gone:
            self.drop(row.call.identity)
        return bool(gone)

    async def _carry_out(
        self,
        operation: Operation,
        params: Mapping[str, Any],
        row: StoredRow | None = None,
        after: StoredRow | None = None,
    ) -> int:
        """Carry an operation out, take note of it, and only then pass on a cancellation that came meanwhile."""
        result, cancellation = await complete(self.store.write(operation, **params))
        # Another task here may have read by now what came of it later.
        if result.count and row and after and not 0 < row.version - after.version < _MANY_VERSIONS:
            row.become(after)
        if cancellation is not None:
            raise cancellation
        return result.count

    # ------------------------------------------------------------ what others left behind

    async def take_over_all(self) -> None:
        """Settle what owners that are gone were at work on."""
        for each in await self.store.read(table.LIST_AT_WORK, owner=self.owner.id):
            await self.take_over(each["owner"], leased=bool(each["leased"]))

    async def take_over(self, owner: str, *, leased: bool) -> bool:
        """Settle what an owner was at work on if it is gone: UNKNOWN if a body may have run, free again if not.

        Returns:
            Whether it is gone.
        """
        state = self.owner.judge(owner, leased=leased)
        if state is OwnerState.ALIVE:
            return False
        params = {
            "owner": owner,
            "dead": state is OwnerState.DEAD,
            "sure": state is not OwnerState.EXPIRED,
            "reason": _GONE if state is OwnerState.EXPIRED else _DIED,
        }
        await self._carry_out(table.TAKE_OVER, params)
        return True

    async def count_spent(self, call: PlannedAction) -> dict[str, int]:
        """Return how many equal calls without a key were made by owners that are gone, by owner.

        A group that had none half a second ago is taken to have none.
        """
        group = call.action, call.facts_digest
        now = self._clock.monotonic()
        if now - self._clean.get(group, -1.0) < _CLEAN_SECONDS:
            return {}
        found = await self.store.read(table.COUNT_SPENT, **_group_of(call), owner=self.owner.id)
        gone = {
            each["owner"]: int(each["spent"])
            for each in found
            if self.owner.judge(each["owner"], leased=bool(each["leased"])) is not OwnerState.ALIVE
        }
        if not gone:
            if len(self._clean) >= _MANY_GROUPS:
                self._clean.clear()
            self._clean[group] = now
        return gone

    async def close_group(self, call: PlannedAction, owner: str) -> None:
        """Let equal calls without a key be made again, whatever became of those of an owner that is gone."""
        await self._carry_out(table.CLOSE_GROUP, {**_group_of(call), "owner": owner})

    async def close_own(self) -> None:
        """Let equal calls without a key be made by whoever comes next: we stop in good order."""
        await self._carry_out(table.CLOSE_OWN, {"owner": self.owner.id})


def stored(row: Row) -> StoredRow:
    """Return a row of a book as what it is."""
    return cast("StoredRow", row)


def _group_of(call: PlannedAction) -> dict[str, str]:
    return {"action": call.action, "facts_digest": call.facts_digest}
