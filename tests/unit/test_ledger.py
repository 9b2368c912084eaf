"""The rows of actions: the table of the design, and nothing but the table."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.ledger import TRANSITIONS, ActionEvent, ActionState, Ledger, LedgerSettings, Row
from asyncsandbox._core.planned import ActionKind, PlannedAction
from asyncsandbox.errors import (
    ActionNotFoundError,
    ActionStateError,
    ConfigurationError,
    IdempotencyConflictError,
    LedgerFullError,
)

R = TypeVar("R")

# The table as the design has it, written down independently of the code.
TABLE = {
    ("planned", "approve"): "approved",
    ("approved", "claim"): "claimed",
    ("claimed", "release"): "approved",
    ("claimed", "start"): "started",
    ("started", "retry"): "started",
    ("started", "return"): "done",
    ("started", "not delivered"): "approved",
    ("started", "reject"): "rejected",
    ("started", "lose"): "unknown",
    ("rejected", "claim"): "claimed",
    ("unknown", "retry"): "started",
    ("unknown", "return"): "done",
    ("unknown", "happened"): "done",
    ("unknown", "not happened"): "approved",
    ("done", "undo"): "undoing",
    ("undoing", "undo return"): "undone",
    ("undoing", "undo lose"): "undo_unknown",
    ("undone", "approve"): "approved",
}
KEYS = st.sampled_from("aaaabbcd")
OLD = st.sampled_from([0, 0, 0, 1, 2])
ENDINGS = ["return", "not delivered", "reject", "lose"]
MAX_ROWS, MAX_GENERATIONS = 3, 3


def now(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("the in-memory ledger must not wait")


def call(key: str, *, facts: str = "f", keyed: bool = True, ordinal: int = 0) -> PlannedAction:
    return PlannedAction(
        identity=f"id-{key}/{ordinal}" if ordinal else f"id-{key}",
        action="card.charge",
        kind=ActionKind.IRREVERSIBLE,
        key=key,
        keyed=keyed,
        facts={"total": facts},
        facts_digest=facts,
    )


def new_ledger(**changed: int) -> Ledger:
    return Ledger(SystemClock(), LedgerSettings(**changed))


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of calls, with any fence ever given out, against a model made of the table alone."""

    ledger_class: type[Ledger] = Ledger
    max_rows = MAX_ROWS

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.make_ledger(LedgerSettings(max_rows=self.max_rows, max_generations=MAX_GENERATIONS))
        self.rows: dict[str, Row] = {}
        self.state: dict[str, str] = {}
        self.generation: dict[str, int] = {}
        self.fence: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.result: dict[str, object] = {}
        self.was_done: set[tuple[str, int]] = set()

    def make_ledger(self, given: LedgerSettings) -> Ledger:
        return self.ledger_class(SystemClock(), given)

    def now(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return now(coroutine)

    def row(self, key: str) -> Row | None:
        return self.rows.get(key)

    def expect(self, key: str, event: str) -> bool:
        """Move the model; tell whether the table allows it."""
        following = TABLE.get((self.state[key], event))
        if following is None:
            return False
        self.state[key] = following
        return True

    @rule(key=KEYS)
    def plan(self, key: str) -> None:
        if key in self.rows:
            assert self.now(self.ledger.look_up(call(key))) is self.rows[key]
            with pytest.raises(IdempotencyConflictError):
                self.now(self.ledger.look_up(call(key, facts="other")))
            return
        assert self.now(self.ledger.look_up(call(key))) is None
        if len(self.rows) >= self.max_rows:
            assert self.ledger.is_full
            with pytest.raises(LedgerFullError):
                self.now(self.ledger.plan(call(key), correlation_id=None))
            return
        self.rows[key] = self.now(self.ledger.plan(call(key), correlation_id="c"))
        self.state[key], self.generation[key], self.fence[key], self.attempts[key] = "planned", 1, 0, 0
        self.result[key] = None

    @rule(key=KEYS)
    def claim(self, key: str) -> None:
        row = self.row(key)
        if row is None:
            return
        state = self.state[key]
        renewed = state in ("rejected", "undone")
        may = state in ("planned", "approved", "rejected", "undone")
        if not may or (renewed and self.generation[key] >= MAX_GENERATIONS):
            with pytest.raises(ActionStateError):
                self.now(self.ledger.claim(row))
            return
        fence = self.now(self.ledger.claim(row))
        assert fence > self.fence[key]
        self.fence[key] = fence
        self.generation[key] += renewed
        self.state[key] = "claimed"

    @rule(key=KEYS)
    def claim_unknown(self, key: str) -> None:
        row = self.row(key)
        if row is None:
            return
        if self.state[key] != "unknown":
            with pytest.raises(ActionStateError):
                self.now(self.ledger.claim_unknown(row))
            return
        fence = self.now(self.ledger.claim_unknown(row))
        assert fence > self.fence[key]
        self.fence[key] = fence

    @rule(key=KEYS, old=OLD, forget=st.booleans())
    def release(self, key: str, old: int, forget: bool) -> None:
        row = self.row(key)
        if row is None:
            return
        self.now(self.ledger.release(row, self.fence[key] - old, forget=forget))
        if old == 0 and self.expect(key, "release") and forget and not self.attempts[key]:
            del self.rows[key]

    @rule(key=KEYS, old=OLD)
    def start(self, key: str, old: int) -> None:
        row = self.row(key)
        if row is None:
            return
        if old or not self.expect(key, "start"):
            with pytest.raises(ActionStateError):
                self.now(self.ledger.start(row, self.fence[key] - old))
            return
        assert (key, self.generation[key]) not in self.was_done, "what is DONE never runs again"
        self.now(self.ledger.start(row, self.fence[key]))
        self.attempts[key] += 1

    @rule(key=KEYS, old=OLD)
    def restart(self, key: str, old: int) -> None:
        row = self.row(key)
        if row is None:
            return
        sent_at = row.sent_at
        if old or not self.expect(key, "retry"):
            with pytest.raises(ActionStateError):
                self.now(self.ledger.restart(row, self.fence[key] - old))
            return
        self.now(self.ledger.restart(row, self.fence[key]))
        assert row.sent_at == sent_at is not None, "the provider has had this key since the first attempt"
        self.attempts[key] += 1

    @rule(key=KEYS, old=OLD, ending=st.sampled_from(ENDINGS))
    def finish(self, key: str, old: int, ending: str) -> None:
        row = self.row(key)
        if row is None:
            return
        moved = self.now(self.ledger.finish(row, self.fence[key] - old, ActionEvent(ending), result=ending, error="e"))
        assert moved == (old == 0 and self.expect(key, ending))
        if moved:
            self.result[key] = ending
            if ending == "return":
                self.was_done.add((key, self.generation[key]))

    @rule(key=KEYS, ending=st.sampled_from(["return", "reject", "lose"]))
    def run(self, key: str, ending: str) -> None:
        self.plan(key)
        self.claim(key)
        self.start(key, 0)
        self.finish(key, 0, ending)

    @rule(key=KEYS)
    def give_up(self, key: str) -> None:
        self.plan(key)
        self.claim(key)
        self.release(key, 0, forget=True)

    @rule(key=KEYS)
    def take_back(self, key: str) -> None:
        self.undo(key, "undo")
        self.undo(key, "undo return")

    @rule(key=KEYS, happened=st.booleans())
    def resolve(self, key: str, happened: bool) -> None:
        row = self.row(key)
        if row is None:
            return
        if not self.expect(key, "happened" if happened else "not happened"):
            with pytest.raises(ActionStateError):
                self.now(self.ledger.resolve(row, happened=happened))
            return
        self.now(self.ledger.resolve(row, happened=happened, result="found"))
        self.result[key] = "found"
        if happened:
            self.was_done.add((key, self.generation[key]))

    @rule(key=KEYS, event=st.sampled_from(["undo", "undo return", "undo lose"]))
    def undo(self, key: str, event: str) -> None:
        row = self.row(key)
        if row is None:
            return
        if not self.expect(key, event):
            with pytest.raises(ActionStateError):
                self.now(self.ledger.move_undo(row, ActionEvent(event)))
            return
        self.now(self.ledger.move_undo(row, ActionEvent(event)))

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        assert len(self.ledger) == len(self.rows)
        assert list(self.ledger) == list(self.rows.values())
        for key, row in self.rows.items():
            assert self.now(self.ledger.look_up(call(key))) is row
            assert row.state.value == self.state[key]
            assert row.generation == self.generation[key] <= MAX_GENERATIONS
            assert row.attempts == self.attempts[key]
            assert row.result == self.result[key]


QUICK = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
LedgerMachine.TestCase.settings = QUICK
TestLedgerMachine = LedgerMachine.TestCase


class RunsDoneAgain(Ledger):
    async def claim(self, row: Row, *, waits: bool = True) -> int:
        if row.state is ActionState.DONE:
            row.state = ActionState.APPROVED
        return await super().claim(row)


class IgnoresFences(Ledger):
    async def finish(self, row: Row, fence: int, event: ActionEvent, **outcome: Any) -> bool:
        return await super().finish(row, row.fence, event, **outcome)


class StartsOldClaims(Ledger):
    async def start(self, row: Row, fence: int) -> None:
        await super().start(row, row.fence)


class RestartsOldClaims(Ledger):
    async def restart(self, row: Row, fence: int) -> None:
        await super().restart(row, row.fence)


class SharesUnknown(Ledger):
    async def claim_unknown(self, row: Row, *, waits: bool = True) -> int:
        fence = await super().claim_unknown(row)
        row.fence -= 1
        return fence - 1


class ForgetsWhatRan(Ledger):
    async def release(self, row: Row, fence: int, *, forget: bool = False) -> None:
        attempts, row.attempts = row.attempts, 0
        await super().release(row, fence, forget=forget)
        row.attempts = attempts


class Forgets(Ledger):
    async def plan(self, planned: PlannedAction, **given: Any) -> Row:
        if self.is_full:
            self._rows.pop(next(iter(self._rows)))
        return await super().plan(planned, **given)


class NeverCaps(Ledger):
    def _renew(self, row: Row) -> None:
        row.generation += row.state is not ActionState.PLANNED


class GivesUpUnknown(Ledger):
    async def claim(self, row: Row, *, waits: bool = True) -> int:
        if row.state is ActionState.UNKNOWN:
            row.state = ActionState.APPROVED
        return await super().claim(row)


@pytest.mark.parametrize(
    "broken",
    [
        RunsDoneAgain,
        IgnoresFences,
        StartsOldClaims,
        RestartsOldClaims,
        SharesUnknown,
        ForgetsWhatRan,
        Forgets,
        NeverCaps,
        GivesUpUnknown,
    ],
)
def test_the_model_catches(broken: type[Ledger]) -> None:
    machine = type("Broken", (LedgerMachine,), {"ledger_class": broken})
    thorough = settings(
        QUICK,
        max_examples=400,
        stateful_step_count=60,
        database=None,
        derandomize=True,
        print_blob=False,
        phases=[Phase.generate],
    )
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=thorough)


def test_the_steps_are_those_of_the_design() -> None:
    assert {(old.value, event.value): new.value for (old, event), new in TRANSITIONS.items()} == TABLE


def test_every_state_can_be_reached_and_every_event_is_used() -> None:
    reached, grown = {"planned"}, True
    while grown:
        following = {new for (old, _), new in TABLE.items() if old in reached}
        grown = not following <= reached
        reached |= following
    assert reached == {state.value for state in ActionState}
    assert {event for _, event in TABLE} == {event.value for event in ActionEvent}


def test_records_are_found_by_name_key_and_state() -> None:
    ledger = new_ledger()
    first, second = (now(ledger.plan(call(key), correlation_id="c")) for key in "ab")
    now(ledger.claim(second))
    assert [r.key for r in ledger.get_records(name="card.charge")] == ["a", "b"]
    assert ledger.get_records(name="mail.send") == ()
    assert ledger.get_records(key="a") == (first.record(),)
    assert [r.key for r in ledger.get_records(state="claimed")] == ["b"]
    assert [r.key for r in ledger.get_records(state=ActionState.PLANNED)] == ["a"]


def test_a_record_tells_when_and_how_long() -> None:
    ledger = new_ledger()
    row = now(ledger.plan(call("a"), correlation_id="c"))
    fence = now(ledger.claim(row))
    assert row.record().started_at is None
    now(ledger.start(row, fence))
    now(ledger.finish(row, fence, ActionEvent.LOSE, error="TimeoutError: late"))
    record = row.record()
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.duration_seconds is not None
    assert record.duration_seconds >= 0
    assert (record.error, record.correlation_id, record.attempts) == ("TimeoutError: late", "c", 1)


def test_a_body_that_still_runs_is_not_claimed_for_another_attempt() -> None:
    ledger = new_ledger()
    row = now(ledger.plan(call("a"), correlation_id="c"))
    now(ledger.start(row, now(ledger.claim(row))))
    now(ledger.finish(row, row.fence, ActionEvent.LOSE))
    row.left_running = True
    with pytest.raises(ActionStateError, match="unknown"):
        now(ledger.claim_unknown(row))
    row.left_running = False
    assert now(ledger.claim_unknown(row)) == row.fence == 2


def test_of_equal_calls_without_a_key_the_unknown_one_is_found() -> None:
    ledger = new_ledger()
    rows = [now(ledger.plan(call("~1", keyed=False, ordinal=n), correlation_id=None)) for n in (1, 2)]
    fence = now(ledger.claim(rows[1]))
    now(ledger.start(rows[1], fence))
    assert ledger.get_row("card.charge", "~1") is rows[0]
    now(ledger.finish(rows[1], fence, ActionEvent.LOSE))
    assert ledger.get_row("card.charge", "~1") is rows[1]
    with pytest.raises(ActionNotFoundError):
        ledger.get_row("card.charge", "b")
    with pytest.raises(ActionNotFoundError):
        ledger.get_row("mail.send", "~1")


@pytest.mark.parametrize("field", ["max_rows", "max_generations"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_settings_refuse_what_makes_no_sense(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        LedgerSettings(**{field: value})
