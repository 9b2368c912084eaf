"""The ledger of a dry run beside a store: it reads what has really happened, and writes nothing.

What is DONE already stays out of the plan, since apply will not do it again: the call returns the stored result. A key
that was used with other facts is refused in the rehearsal, and not first when it is real.

>>> issubclass(RehearsalLedger, Ledger), RehearsalLedger.plan is Ledger.plan
(True, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import IdempotencyConflictError
from . import action_rows as table
from .action_rows import result_of, row_of
from .ledger import ActionState, Ledger

if TYPE_CHECKING:
    from .clock import Clock
    from .ledger import LedgerSettings, Row
    from .planned import PlannedAction
    from .store import Store


class RehearsalLedger(Ledger):
    """Rows of a dry run in memory, and those of the store that are DONE.

    Concurrency: for the loop the store was opened on. Cancellation: nothing is left behind.

    Args:
        clock: Time.
        settings: Of the ledger.
        store: Where the live rows are.
    """

    def __init__(self, clock: Clock, settings: LedgerSettings | None, store: Store) -> None:
        super().__init__(clock, settings)
        self._store = store

    async def look_up(self, call: PlannedAction) -> Row | None:
        """Return the row of this identity, the rehearsal's or a live one that is DONE.

        Raises:
            IdempotencyConflictError: The row was made with other facts.
            ResultUnavailableError: It is DONE, and what it returned could not be stored.
            LedgerFullError: There is no room for one row more.
            StoreError: The store does not answer.
        """
        row = await super().look_up(call)
        if row is not None or not call.keyed:
            return row
        found = await self._store.read(table.READ, identity=call.identity)
        if not found:
            return None
        live = row_of(found[0])
        if live.call.facts_digest != call.facts_digest:
            raise IdempotencyConflictError(call.action, call.key, live.call.show(), call.show())
        if live.state is not ActionState.DONE:
            return None
        row = await self.plan(call, correlation_id=live.correlation_id, result=result_of(live))
        row.state, row.generation = live.state, live.generation
        row.finished_at, row.duration_seconds = live.finished_at, live.duration_seconds
        return row
