"""The rows of actions and the one state machine they obey, in memory.

A row is three things at once: what was planned, the proof that a call ran, and the record a crash leaves behind.
Each step of a row is listed in `TRANSITIONS`; anything else is refused. A row is never forgotten: a full ledger
refuses new ones.

The methods the pipeline calls are coroutines, so that a durable ledger can take this one's place.

>>> TRANSITIONS[ActionState.STARTED, ActionEvent.RETURN]
<ActionState.DONE: 'done'>
>>> (ActionState.DONE, ActionEvent.CLAIM) in TRANSITIONS
False
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ActionNotFoundError, ActionStateError, IdempotencyConflictError, LedgerFullError
from .action_states import TRANSITIONS, ActionEvent, ActionRecord, ActionState
from .settings import require_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from .clock import Clock
    from .planned import PlannedAction
    from .ports import Attempt

__all__ = [
    "TRANSITIONS",
    "ActionEvent",
    "ActionRecord",
    "ActionState",
    "Ledger",
    "LedgerSettings",
    "Row",
]

_S, _E = ActionState, ActionEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """How much a ledger takes, and how patient it is.

    Attributes:
        max_rows: Rows held in memory (>= 1): without a store it refuses new ones then, with a store old ones make room.
        max_generations: How often one key may run again after `rejected` errors or an undo (>= 1).
        lease_seconds: With a store: how long whatever a process was at work on waits for it to come back, where nobody
            can prove that it has died (>= 1).
        settle_seconds: With a store: how long after a process has died a call of it may still arrive, so that `verify`
            cannot rule it out before (>= 0).
    """

    max_rows: int = 100_000
    max_generations: int = 10
    lease_seconds: float = 30.0
    settle_seconds: float = 60.0

    def __post_init__(self) -> None:
        require_number("LedgerSettings.max_rows", self.max_rows, at_least=1, whole=True)
        require_number("LedgerSettings.max_generations", self.max_generations, at_least=1, whole=True)
        require_number("LedgerSettings.lease_seconds", self.lease_seconds, at_least=1)
        require_number("LedgerSettings.settle_seconds", self.settle_seconds, at_least=0)


@dataclass(slots=True, kw_only=True)
class Row:
    """A row as the pipeline holds it; nobody outside the lower layers sees one."""

    call: PlannedAction
    correlation_id: str | None
    state: ActionState = ActionState.PLANNED
    generation: int = 1
    fence: int = 0
    attempts: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    began: float = 0.0
    duration_seconds: float | None = None
    error: str | None = None
    permit_seconds: float = 0.0
    history: tuple[Attempt, ...] = ()
    result: object = None
    sent_at: datetime | None = None  # when the provider may first have got the key of this generation
    left_running: bool = False

    def get_result(self) -> object:
        """Return what the call returned."""
        return self.result

    def record(self) -> ActionRecord:
        """Return the frozen view of this row."""
        return ActionRecord(
            identity=self.call.identity,
            action=self.call.action,
            key=self.call.key,
            state=self.state,
            generation=self.generation,
            attempts=self.attempts,
            correlation_id=self.correlation_id,
            started_at=self.started_at,
            finished_at=self.finished_at,
            duration_seconds=self.duration_seconds,
            error=self.error,
            permit_seconds=self.permit_seconds,
            history=self.history,
        )


class Ledger:
    """All rows of one sandbox.

    It promises one row per identity, only the steps of `TRANSITIONS`, and that whoever holds an old fence can no longer
    move a row. It does not promise to survive the process.

    Concurrency: for one event loop. Cancellation: no method waits, so none can be interrupted half-way.
    """

    def __init__(self, clock: Clock, settings: LedgerSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or LedgerSettings()
        self._rows: dict[str, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(tuple(self._rows.values()))

    @property
    def is_durable(self) -> bool:
        """Whether rows survive the process."""
        return False

    @property
    def is_full(self) -> bool:
        """Whether the next new action will be refused."""
        return len(self._rows) >= self._settings.max_rows

    def get_records(
        self, *, name: str | None = None, key: str | None = None, state: ActionState | str | None = None
    ) -> tuple[ActionRecord, ...]:
        """Return the records that match, in the order the calls came."""
        return tuple(
            row.record()
            for row in self._rows.values()
            if (name is None or row.call.action == name)
            and (key is None or row.call.key == key)
            and (state is None or row.state == state)
        )

    async def look_up(self, call: PlannedAction) -> Row | None:
        """Return the row of this identity, if there is one.

        Raises:
            IdempotencyConflictError: The row was made with other facts.
        """
        row = self._rows.get(call.identity)
        if row is not None and row.call.facts_digest != call.facts_digest:
            raise IdempotencyConflictError(call.action, call.key, row.call.show(), call.show())
        return row

    async def plan(self, call: PlannedAction, *, correlation_id: str | None, result: object = None) -> Row:
        """Make the row of a new identity, PLANNED.

        Raises:
            LedgerFullError: There is no room; nothing was forgotten and nothing written.
        """
        if len(self._rows) >= self._settings.max_rows:
            raise LedgerFullError(self._settings.max_rows)
        row = Row(call=call, correlation_id=correlation_id, result=result)
        self._rows[call.identity] = row
        return row

    async def claim(self, row: Row, *, waits: bool = True) -> int:  # noqa: ARG002 - a durable ledger looks at it
        """Approve where that is still needed, then claim the row for one run.

        Args:
            row: What to claim.
            waits: Whether something is waited for before the run starts; if not, the start may stand for the claim.

        Returns:
            The fence: a number that this claim alone holds.

        Raises:
            ActionStateError: The row may not run, or used up its generations.
        """
        if row.state in (_S.PLANNED, _S.UNDONE):
            self._renew(row)
            self._step(row, _E.APPROVE)
        elif row.state is _S.REJECTED:
            self._renew(row)
        self._step(row, _E.CLAIM)
        row.fence += 1
        return row.fence

    async def claim_unknown(self, row: Row, *, waits: bool = True) -> int:  # noqa: ARG002 - as above
        """Claim a row that is UNKNOWN, and stays so until its body runs again with the key the provider knows.

        Args:
            row: What to claim.
            waits: As for `claim`.

        Returns:
            The fence.

        Raises:
            ActionStateError: It is not UNKNOWN, or its body, though given up, still runs.
        """
        if row.state is not _S.UNKNOWN or row.left_running:
            raise ActionStateError(row.call.action, row.call.key, row.state, _E.RETRY)
        row.fence += 1
        return row.fence

    async def release(self, row: Row, fence: int, *, forget: bool = False) -> None:
        """Give a claim back unused; does nothing where it was lost meanwhile.

        Args:
            row: What was claimed.
            fence: The claim's.
            forget: Whether a row whose body never ran is taken out, as if the call had not been made.
        """
        if row.fence == fence and row.state is _S.CLAIMED:
            self._step(row, _E.RELEASE)
            if forget and not row.attempts:
                del self._rows[row.call.identity]

    async def start(self, row: Row, fence: int) -> None:
        """Note, before the body runs, that it is about to run.

        Raises:
            ActionStateError: Somebody else claimed the row meanwhile.
        """
        self._begin(row, fence, _E.START)

    async def restart(self, row: Row, fence: int) -> None:
        """Note that the body is about to run again, with the key it ran with before.

        Raises:
            ActionStateError: Somebody else claimed the row, or its outcome was decided, meanwhile.
        """
        self._begin(row, fence, _E.RETRY)

    async def finish(
        self,
        row: Row,
        fence: int,
        event: ActionEvent,
        *,
        result: object = None,
        error: str | None = None,
        masked: Sequence[str] = (),  # noqa: ARG002 - a durable ledger looks at it
    ) -> bool:
        """Record how the body ended.

        Args:
            row: Whose.
            fence: The claim's.
            event: How.
            result: What it returned.
            error: What it raised, as text in which nothing masked is left.
            masked: Texts that must be written nowhere.

        Returns:
            False where the fence is old or the outcome was decided meanwhile: the row is left as it is.
        """
        if row.fence != fence or (row.state, event) not in TRANSITIONS:
            return False
        self._step(row, event)
        row.result = result
        self._close(row, error)
        return True

    async def resolve(
        self,
        row: Row,
        *,
        happened: bool,
        result: object = None,
        masked: Sequence[str] = (),  # noqa: ARG002 - a durable ledger looks at it
    ) -> None:
        """Settle an UNKNOWN row by what somebody found out.

        Args:
            row: Which.
            happened: Whether the call happened; if not, it may run again.
            result: What later calls get, if it happened.
            masked: Texts that must be written nowhere.

        Raises:
            ActionStateError: The row is not UNKNOWN; or its body, though given up, still runs and may yet succeed.
        """
        if row.left_running and not happened:
            raise ActionStateError(row.call.action, row.call.key, row.state, "not happened, while its body runs")
        self._step(row, _E.HAPPENED if happened else _E.NOT_HAPPENED)
        row.result = result
        row.finished_at = self._clock.now()

    async def recover(self, action: str, key: str, *, happened: bool, result: object = None) -> None:
        """Settle an UNKNOWN row by what a person found out; see `resolve`.

        Raises:
            ActionNotFoundError: There is none of this action and key.
            ActionStateError: It is not UNKNOWN, or its body still runs.
        """
        await self.resolve(self.get_row(action, key), happened=happened, result=result)

    async def may_rule_out(self, row: Row) -> bool:  # noqa: ARG002 - a durable ledger looks at it
        """Tell whether a call that left no trace at the provider has not happened, and never will.

        That takes a dead owner. The owner of what is in memory is this very process.
        """
        return False

    async def move_undo(self, row: Row, event: ActionEvent, *, error: str | None = None) -> None:
        """Take an undo one step further.

        Raises:
            ActionStateError: The row is in no state for it.
        """
        self._step(row, event)
        row.finished_at = self._clock.now()
        row.error = error

    def get_row(self, action: str, key: str) -> Row:
        """Return the row of an action and key; of several equal calls without a key, one that is UNKNOWN first.

        Raises:
            ActionNotFoundError: There is none.
        """
        rows = [row for row in self._rows.values() if row.call.action == action and row.call.key == key]
        if not rows:
            raise ActionNotFoundError(action, key)
        return next((row for row in rows if row.state is _S.UNKNOWN), rows[0])

    def _renew(self, row: Row) -> None:
        if row.state is _S.PLANNED:
            return
        if row.generation >= self._settings.max_generations:
            raise ActionStateError(row.call.action, row.call.key, row.state, f"generation {row.generation + 1}")
        row.generation += 1

    def _step(self, row: Row, event: ActionEvent) -> None:
        following = TRANSITIONS.get((row.state, event))
        if following is None:
            raise ActionStateError(row.call.action, row.call.key, row.state, event)
        row.state = following

    def _begin(self, row: Row, fence: int, event: ActionEvent) -> None:
        if row.fence != fence:
            raise ActionStateError(row.call.action, row.call.key, row.state, event)
        self._step(row, event)
        row.attempts += 1
        row.started_at = self._clock.now()
        if event is _E.START:
            row.sent_at = row.started_at
        row.began = self._clock.monotonic()
        row.finished_at = row.duration_seconds = row.error = None

    def _close(self, row: Row, error: str | None) -> None:
        row.finished_at = self._clock.now()
        row.duration_seconds = self._clock.monotonic() - row.began
        row.error = error
