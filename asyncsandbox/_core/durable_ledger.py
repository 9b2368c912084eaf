"""The ledger in a store: the same state machine, each of its steps durable before the next one is taken.

A step is tried on a copy of the row and written under the condition that the row is still as it was, and the caller
goes on once that is on the disk. Whoever was forestalled sees the row as it is now and tries again, if the table still
allows it.

What is about to run is written under one condition more: that our lease is not over. A process that was stalled or
suspended for longer finds out there, and nothing has run.

>>> issubclass(DurableLedger, Ledger), DurableLedger.get_records is Ledger.get_records
(True, True)
"""

from __future__ import annotations

import asyncio
import copy
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import (
    ActionNotFoundError,
    ClaimLostError,
    IdempotencyConflictError,
    OutcomeUnknownError,
    RunningElsewhereError,
    StoreError,
)
from . import action_rows as table
from .action_rows import CHANNEL, IN_FLIGHT, StoredRow, result_of, store_result
from .context import get_deadline
from .ledger import ActionEvent, ActionState, Ledger
from .owners import OwnerState
from .row_book import RowBook, stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .action_rows import Step
    from .clock import Clock
    from .ledger import LedgerSettings, Row
    from .owners import Owner
    from .planned import PlannedAction
    from .store import Operation, Store

_LOOK_AGAIN_SECONDS: Final = 0.25


class DurableLedger(Ledger):
    """All rows of one namespace of a store, as far as this process has seen them.

    It promises what `Ledger` does, among all processes on the store and beyond the end of each: a row is moved by one
    of them at a time, nobody touches what another one that lives is at work on, and what a dead one left behind is
    UNKNOWN if its body may have run and free again if not.

    Concurrency: for the loop the store was opened on. Cancellation: a write is waited for, and then the cancellation
    goes on; waiting for another process ends at once.

    Args:
        clock: Time.
        settings: Of the ledger.
        store: Where rows are kept, in the namespace of the sandbox.
        owner: In whose name rows are claimed.
    """

    def __init__(self, clock: Clock, settings: LedgerSettings | None, store: Store, owner: Owner) -> None:
        super().__init__(clock, settings)
        self._owner = owner
        self._book = RowBook(store, owner, clock, self._rows, max_rows=self._settings.max_rows)

    @property
    def is_durable(self) -> bool:
        """Whether rows survive the process."""
        return self._book.store.is_durable

    @property
    def is_full(self) -> bool:
        """Never: what does not fit into memory is still in the store."""
        return False

    async def take_over(self) -> None:
        """Settle what owners that are gone were at work on: UNKNOWN if a body may have run, free again if not.

        Raises:
            StoreError: The store does not answer.
        """
        await self._book.take_over_all()

    async def close(self) -> None:
        """Write what could not be written before, and let equal calls without a key be made anew by whoever is next."""
        await self.catch_up()
        await self._book.close_own()

    async def catch_up(self) -> None:
        """Write what could not be written before.

        Raises:
            StoreError: The store does not answer.
        """
        for row in map(stored, self):
            if row.pending is not None:
                await self._settle(row, row.pending)

    async def look_up(self, call: PlannedAction) -> Row | None:
        """Return the row of this identity, if there is one, after whoever is at work on it has ended.

        Raises:
            IdempotencyConflictError: The row was made with other facts.
            OutcomeUnknownError: Equal calls without a key were made by a process that died.
            ResultUnavailableError: It is DONE, and what it returned could not be stored.
            RunningElsewhereError: The deadline passed while it was at work elsewhere.
            StoreError: The store does not answer.
        """
        if not call.keyed:
            await self._refuse_spent(call)
            return self._rows.get(call.identity)
        mark = 0
        while True:
            columns = await self._book.read(call.identity)
            row = self._book.unwritten(call.identity) if columns is None else self._book.see(columns)
            if row is None:
                return None
            if row.call.facts_digest != call.facts_digest:
                raise IdempotencyConflictError(call.action, call.key, row.call.show(), call.show())
            if row.pending is not None:
                await self._settle(row, row.pending)
            elif columns is None or row.state not in IN_FLIGHT or row.owner == self._owner.id:
                if row.state is ActionState.DONE:
                    row.result = result_of(row)  # made anew, so that nobody changes what somebody else gets
                return row
            elif not await self._is_left_behind(columns):
                if row.state is ActionState.UNDOING:
                    return row
                mark = await self._wait(call, mark)

    async def plan(self, call: PlannedAction, *, correlation_id: str | None, result: object = None) -> Row:
        """Make the row of a new identity, PLANNED; it is written when it is claimed or started."""
        row = StoredRow(call=call, correlation_id=correlation_id, result=result)
        self._book.remember(row)
        return row

    async def claim(self, row: Row, *, waits: bool = True) -> int:
        """Claim a row; see `Ledger.claim`.

        Raises:
            ActionStateError: The row may not run, or used up its generations.
            StoreError: It is not claimed.
        """
        if waits:
            await self._save(row, super().claim, table.WRITE_LEASED)
            return row.fence
        fence = await super().claim(row)
        stored(row).owner = self._owner.id
        return fence

    async def claim_unknown(self, row: Row, *, waits: bool = True) -> int:
        """Claim an UNKNOWN row; see `Ledger.claim_unknown`.

        Raises:
            ActionStateError: It is not UNKNOWN, or its body, though given up, still runs.
            StoreError: It is not claimed.
        """
        if waits:
            await self._save(row, super().claim_unknown, table.WRITE, again=False)
            return row.fence
        return await super().claim_unknown(row)

    async def release(self, row: Row, fence: int, *, forget: bool = False) -> None:
        """Give a claim back whose body never ran; see `Ledger.release`.

        Raises:
            StoreError: It is given back when it is looked up again.
        """
        row = stored(row)
        if row.pending is not None:
            await self._settle(row, row.pending)
        elif row.fence != fence or row.state is not ActionState.CLAIMED:
            return
        elif not row.version:
            self._book.drop(row.call.identity)
        elif not forget or row.attempts or not await self._book.forget(row):
            await self._record(row, partial(self._unclaim, fence=fence))

    async def start(self, row: Row, fence: int) -> None:
        """Note, before the body runs, that it is about to run; see `Ledger.start`.

        Raises:
            ActionStateError: Somebody else claimed the row meanwhile.
            asyncio.CancelledError: The caller was cancelled; it is not to run.
            StoreError: It is not to run.
        """
        row = stored(row)
        try:
            await self._save(row, partial(super().start, fence=fence), table.WRITE_LEASED)
        except (StoreError, asyncio.CancelledError):
            # Perhaps it was written; the body will not run either way.
            row.pending = partial(self._unclaim, fence=fence)
            raise

    async def restart(self, row: Row, fence: int) -> None:
        """Note that the body is about to run again; see `Ledger.restart`.

        Raises:
            ActionStateError: Somebody else claimed the row, or its outcome was decided, meanwhile.
            StoreError: It is not to run.
        """
        await self._save(row, partial(super().restart, fence=fence), table.WRITE_LEASED)

    async def finish(
        self,
        row: Row,
        fence: int,
        event: ActionEvent,
        *,
        result: object = None,
        error: str | None = None,
        masked: Sequence[str] = (),
    ) -> bool:
        """Record how the body ended; see `Ledger.finish`.

        Raises:
            StoreError: It is recorded when it is looked up again.
        """
        ending = partial(super().finish, fence=fence, event=event, result=result, error=error)
        return await self._record(row, self._keeping(ending, result, masked))

    async def resolve(self, row: Row, *, happened: bool, result: object = None, masked: Sequence[str] = ()) -> None:
        """Settle an UNKNOWN row by what somebody found out; see `Ledger.resolve`.

        Raises:
            ActionStateError: The row is not UNKNOWN; or its body, though given up, still runs and may yet succeed.
            ClaimLostError: Somebody else settled it meanwhile.
            StoreError: It is as it was.
        """
        settling = partial(super().resolve, happened=happened, result=result)
        await self._save(row, self._keeping(settling, result, masked), table.FINISH, again=False)

    async def recover(self, action: str, key: str, *, happened: bool, result: object = None) -> None:
        """Settle an UNKNOWN row, whichever process left it, by what a person found out.

        Of equal calls without a key that a dead process left behind one UNKNOWN row is settled each time; with the last
        one the group is free.

        Raises:
            ActionNotFoundError: There is none of this action and key.
            ActionStateError: It is not UNKNOWN, or its body still runs.
            StoreError: It is as it was.
        """
        row = await self._find(action, key)
        if row.call.keyed:
            return await self.resolve(row, happened=happened, result=result)
        gone = await self._book.count_spent(row.call)
        if row.state is ActionState.UNKNOWN or not gone:
            await self.resolve(row, happened=happened, result=result)
        if (await self._find(action, key)).state is not ActionState.UNKNOWN:
            for owner in gone:
                await self._book.close_group(row.call, owner)
        return None

    async def may_rule_out(self, row: Row) -> bool:
        """Tell whether a call that left no trace at the provider has not happened, and never will.

        Raises:
            StoreError: The store does not answer.
        """
        row = stored(row)
        if self._owner.judge(row.owner, leased=False) is not OwnerState.DEAD:
            return False
        now = await self._book.store.now()
        if row.died_at is None:

            async def note(changed: StoredRow) -> None:
                changed.died_at = now

            await self._save(row, note, table.WRITE)
        return row.died_at is not None and now - row.died_at >= self._settings.settle_seconds

    async def move_undo(self, row: Row, event: ActionEvent, *, error: str | None = None) -> None:
        """Take an undo one step further; see `Ledger.move_undo`.

        Raises:
            ActionStateError: The row is in no state for it.
            StoreError: It is as it was.
        """
        how = table.WRITE_LEASED if event is ActionEvent.UNDO else table.FINISH
        await self._save(row, partial(super().move_undo, event=event, error=error), how)

    # ------------------------------------------------------------ steps

    async def _record(self, row: Row, step: Step) -> bool:
        """Take a step that is to be taken later if it cannot be now.

        Raises:
            StoreError: It cannot be now.
        """
        row = stored(row)
        try:
            return await self._save(row, step, table.FINISH)
        except StoreError as error:
            row.pending = step
            error.add_note(f"the outcome of {row.call.label} could not be written; nobody else can see it")
            raise

    async def _settle(self, row: StoredRow, step: Step) -> None:
        """Take the step that could not be taken before, or keep the row no longer if it never was in the store."""
        row.pending = None
        if not row.version:
            await self._book.refresh(row)
        if not row.version:
            self._book.drop(row.call.identity)
        else:
            await self._record(row, step)

    async def _unclaim(self, row: StoredRow, fence: int) -> bool:
        events = {ActionState.CLAIMED: ActionEvent.RELEASE, ActionState.STARTED: ActionEvent.NOT_DELIVERED}
        if row.fence != fence or row.owner != self._owner.id or row.state not in events:
            return False
        self._step(row, events[row.state])
        return True

    def _keeping(self, step: Step, result: object, masked: Sequence[str]) -> Step:
        """Return a step that also writes a result, or why it is not written."""
        written, lost = store_result(result, masked)

        async def keep(row: StoredRow) -> object:
            row.stored, row.result_lost = written, lost
            return await step(row)

        return keep

    async def _save(self, row: Row, step: Step, how: Operation, *, again: bool = True) -> bool:
        """Take a step, durably.

        Args:
            row: The row.
            step: Moves a copy of it.
            how: How the copy is written; with a lease where the step begins something.
            again: Whether a step that begins nothing may be taken from where somebody else has moved the row.

        Returns:
            False where there is nothing to do.

        Raises:
            ClaimLostError: Somebody else moved the row, and what the step was to begin is not for us to begin.
            ActionStateError: The table does not allow it, or no longer.
        """
        row, begins = stored(row), how is table.WRITE_LEASED
        while True:
            after = copy.copy(row)
            if await step(after) is False:
                return False
            if begins:
                after.owner, after.died_at = self._owner.id, None
            if await self._book.write(row, after, how):
                return True
            version = row.version
            await self._book.refresh(row)
            if row.version != version and (begins or not again):
                raise ClaimLostError(row.call.action, row.call.key, row.state, "start")
            if begins:  # it is as it was, so our lease is over, and nobody has made use of that yet
                await self._owner.renew()

    # ------------------------------------------------------------ others

    async def _is_left_behind(self, columns: Mapping[str, Any]) -> bool:
        owner = columns["owner"]
        return owner != self._owner.id and await self._book.take_over(owner, leased=bool(columns["leased"]))

    async def _wait(self, call: PlannedAction, mark: int) -> int:
        """Wait for news of other processes, as long as our caller can.

        Raises:
            RunningElsewhereError: That was not long enough.
        """
        at, patience = get_deadline(), _LOOK_AGAIN_SECONDS
        if at is not None:
            patience = min(patience, at - self._clock.monotonic())
            if patience <= 0:
                raise RunningElsewhereError(call.action, call.key)
        return await self._book.store.wait_for(CHANNEL, since=mark, timeout_seconds=patience)

    async def _refuse_spent(self, call: PlannedAction) -> None:
        gone = await self._book.count_spent(call)
        if gone:
            reason = f"{sum(gone.values())} equal without a key made by a process that died, maybe this one among them"
            raise OutcomeUnknownError(call.action, call.key, reason)

    async def _find(self, action: str, key: str) -> StoredRow:
        while True:
            columns = await self._book.find(action, key)
            if columns is None:
                raise ActionNotFoundError(action, key)
            row = self._book.see(columns)
            if row.pending is not None:
                await self._settle(row, row.pending)
            elif row.state not in IN_FLIGHT or not await self._is_left_behind(columns):
                return row
