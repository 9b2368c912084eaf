"""Actions under every single pause: a dry run applies nothing; a live call happens once, for all who wait for it."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import Sandbox, irreversible, read_only, reversible
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.ledger import ActionEvent, ActionState, Ledger, LedgerSettings, Row
from asyncsandbox._core.planned import ActionKind, PlannedAction
from asyncsandbox.errors import (
    ActionStateError,
    IdempotencyConflictError,
    LedgerFullError,
    NestedActionError,
    OutcomeUnknownError,
)
from asyncsandbox.testing import Simulation, fault, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=120)
FAULTS = scenarios(pauses=1, faults=[fault("card.charge", ConnectionError)], sweep=120)
FOLLOWED = {"followed": st.sampled_from(["before", "after", "not"])}
FOUND = {"found": st.sampled_from([None, "receipt"]), "settled_by_hand": st.booleans()}
LOST = scenarios(pauses=1, faults=[fault("ship.book", TimeoutError, after=True)], sweep=120)
plain = settings(database=None, deadline=None)


class DeclinedError(Exception):
    pass


REFUSALS = scenarios(
    pauses=1, faults=[fault("card.charge", DeclinedError), fault("card.charge", ConnectionError)], sweep=120
)


@irreversible("card.charge", key=lambda order: order, rejected=(DeclinedError,), not_delivered=(ConnectionError,))
async def charge(order: str, items: list[int]) -> str:
    raise NotImplementedError


@reversible("seat.reserve", key=lambda seat: seat, undo=lambda seat: None)
async def reserve(seat: str) -> str:
    raise NotImplementedError


@irreversible("mail.send")
async def mail(to: str) -> None:
    raise NotImplementedError


@read_only("stock.count")
async def count(item: str) -> int:
    await asyncio.sleep(0)
    return 7


async def ask(action: Any, *args: Any) -> Any:
    """Return what a call gave its caller, an exception included."""
    return (await asyncio.gather(action(*args), return_exceptions=True))[0]


# ------------------------------------------------------------------ dry run


@settings(plain, max_examples=60)
@simulate(PAUSES, orders=st.integers(1, 3))
async def test_a_dry_run_applies_nothing_and_plans_each_call_once_in_any_order(sim: Simulation, orders: int) -> None:
    async def ran() -> None:
        raise AssertionError("a dry run came here")

    async def program(sandbox: Sandbox) -> tuple[Any, Any]:
        first, again, *_ = await asyncio.gather(
            charge("order-0", [1]),
            charge("order-0", [1]),
            *(charge(f"order-{number}", [number]) for number in range(1, orders)),
            reserve("12a"),
            mail("ada"),
            mail("ada"),
            sandbox.dry_run_lock.execute("door.open", ran),
            count("bolt"),
        )
        return first, again

    async with Sandbox() as sandbox:
        first, again = await program(sandbox)
        assert first is again, "one key, one stand-in"
        assert isinstance(await ask(charge, "order-0", [2]), IdempotencyConflictError)
        assert {record.state for record in sandbox.get_actions()} == {ActionState.PLANNED}
        assert len(sandbox.get_actions(name="mail.send")) == 2, "without a key, equal calls are two"
        planned = {(row.call.identity, row.call.facts_digest) for row in sandbox._services.ledger}
        assert len(planned) == len(sandbox.get_actions()) == orders + 4
        assert sandbox._runtime.reads == {"stock.count": 1}
    async with Sandbox() as other:
        await program(other)
        again = {(row.call.identity, row.call.facts_digest) for row in other._services.ledger}
        assert again == planned, "what is planned does not depend on the order"
    assert not [call for call in sim.actions if call.action != "stock.count"]


# ------------------------------------------------------------------ live


@settings(plain, max_examples=60)
@simulate(FAULTS)
async def test_a_live_call_happens_once_and_everybody_gets_its_outcome(sim: Simulation) -> None:
    async def slowly(order: str) -> str:
        await asyncio.sleep(1)
        return f"paid {order}"

    sim.stub("card.charge", slowly)
    sim.always(lambda: sim.actions.count("card.charge", key="k") <= 1, "at most once per key")
    async with Sandbox(dry_run=False) as sandbox:
        leader = asyncio.create_task(charge("k", [1]))
        await asyncio.sleep(0.01)
        followers = [asyncio.create_task(ask(charge, "k", [1])) for _ in range(2)]
        other = asyncio.create_task(ask(charge, "k", [2]))
        stop = asyncio.get_running_loop().call_later(0.5, leader.cancel)
        with suppress(asyncio.CancelledError, ConnectionError):
            await leader
        stop.cancel()
        assert sandbox._runtime.flights == {} or not leader.cancelled(), "cancelled before the outcome was known"
        said = await asyncio.gather(*followers)
        assert isinstance(await other, IdempotencyConflictError)
        if ConnectionError not in map(type, said):
            assert said == ["paid k"] * 2, "a follower does not share its leader's cancellation"
        with suppress(ConnectionError):
            assert await charge("k", [1]) == "paid k"
        assert sandbox.get_status().in_flight == 0
        for record in sandbox.get_actions():
            assert record.state is ActionState.DONE or sim.scenario.faults
            assert record.attempts == 1 + sum(sim.get_fired().values()) - sim.get_fired()["pause"]


@settings(plain, max_examples=60)
@simulate(PAUSES)
async def test_what_was_shown_is_what_runs(sim: Simulation) -> None:
    seen: list[tuple[int, ...]] = []
    sim.stub("card.charge", lambda items: seen.append(tuple(items)))
    async with Sandbox(dry_run=False) as sandbox:
        items = [1]

        async def change() -> bool:
            await asyncio.sleep(0)
            items.append(1000)
            return not sandbox.get_actions(state=ActionState.STARTED)

        call = asyncio.create_task(charge("k", items))
        before = await change() and bool(sandbox._runtime.flights)
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if before:
            assert isinstance(outcome, IdempotencyConflictError)
            assert seen == []
            assert await charge("k", [1]) is None, "a refused call gives its claim back"


@settings(plain, max_examples=60)
@simulate(PAUSES)
async def test_a_cancelled_caller_is_told_after_the_outcome_is_recorded(sim: Simulation) -> None:
    settled = {ActionState.APPROVED, ActionState.DONE}
    async with Sandbox(dry_run=False) as sandbox:
        call = asyncio.create_task(charge("k", [1]))
        await asyncio.sleep(0)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        assert {record.state for record in sandbox.get_actions()} <= settled
        assert sandbox.get_status().in_flight == 0
        await charge("k", [1])
        assert sim.actions.count("card.charge") == 1


class SlowLedger(Ledger):
    """Answers after a second, as one on a disk may."""

    async def look_up(self, call: PlannedAction) -> Row | None:
        await asyncio.sleep(1)
        return await super().look_up(call)


@settings(plain, max_examples=40)
@simulate(PAUSES, **FOLLOWED)
async def test_a_call_that_has_not_started_goes_on_only_for_those_who_still_want_it(
    sim: Simulation, followed: str
) -> None:
    sandbox = Sandbox(dry_run=False)
    sandbox._runtime.ledger = SlowLedger(SystemClock())
    async with sandbox:
        leader = asyncio.create_task(charge("k", [1]))
        await asyncio.sleep(0.2)
        follower = asyncio.create_task(charge("k", [1])) if followed == "before" else None
        await asyncio.sleep(0.2)
        leader.cancel()
        if followed == "after":
            await asyncio.sleep(0)
            said = await ask(charge, "k", [1])
            assert not isinstance(said, asyncio.CancelledError), "nobody cancelled this one"
        with suppress(asyncio.CancelledError):
            await leader
        assert leader.cancelled()
        if follower is not None:
            await follower
            assert asyncio.get_running_loop().time() < 1.3, "it went on, and did not begin again"
        await sim.settle(5)
        assert sim.actions.count("card.charge") == (followed != "not")


# ------------------------------------------------------------------ unknown outcomes


class Carrier:
    """The provider, as far as it can be asked."""

    def __init__(self) -> None:
        self.found: str | None = None
        self.asked = 0

    async def look_up(self) -> str | None:
        self.asked += 1
        await asyncio.sleep(1)
        return self.found


carrier = Carrier()


@irreversible("ship.book", key=lambda parcel: parcel, verify=lambda: carrier.look_up())  # noqa: PLW0108 - asked late
async def book(parcel: str) -> str:
    raise NotImplementedError


@settings(plain, max_examples=60)
@simulate(LOST, **FOUND)
async def test_an_unknown_outcome_stays_unknown_until_somebody_finds_out(
    sim: Simulation, found: str | None, settled_by_hand: bool
) -> None:
    carrier.__init__()
    carrier.found = found
    sim.stub("ship.book", lambda: "booked")
    async with Sandbox(dry_run=False) as sandbox:
        first = await ask(book, "p")
        asking = [asyncio.create_task(ask(book, "p")) for _ in range(2)]
        await asyncio.sleep(0.5)
        (record,) = sandbox.get_actions()
        if settled_by_hand and record.state is ActionState.UNKNOWN:
            await sandbox.recover("ship.book", "p", happened=True, result="by hand")
        said = await asyncio.gather(*asking)
        assert sim.actions.count("ship.book") == 1
        assert carrier.asked == (first != "booked"), "those who wait share the question"
        if first == "booked":
            assert said == ["booked"] * 2
        elif settled_by_hand:
            assert said == ["by hand"] * 2
        elif found:
            assert said == [found] * 2
        else:
            assert {type(each) for each in said} == {OutcomeUnknownError}


# ------------------------------------------------------------------ ledger


def make_call(key: str) -> PlannedAction:
    return PlannedAction(
        identity=key, action="a", kind=ActionKind.IRREVERSIBLE, key=key, keyed=True, facts={}, facts_digest=""
    )


@settings(plain, max_examples=40)
@simulate(PAUSES)
async def test_an_old_fence_moves_no_row(sim: Simulation) -> None:
    ledger = Ledger(SystemClock())
    row = await ledger.plan(make_call("k"), correlation_id=None)

    async def zombie() -> None:
        fence = await ledger.claim(row)
        await ledger.release(row, fence)
        await asyncio.sleep(2)
        await ledger.release(row, fence)
        assert row.state is ActionState.CLAIMED
        with pytest.raises(ActionStateError):
            await ledger.start(row, fence)
        await asyncio.sleep(2)
        assert not await ledger.finish(row, fence, ActionEvent.RETURN, result="wrong")

    async def owner() -> None:
        await asyncio.sleep(1)
        fence = await ledger.claim(row)
        await asyncio.sleep(2)
        await ledger.start(row, fence)
        await asyncio.sleep(2)
        assert await ledger.finish(row, fence, ActionEvent.RETURN, result="right")

    await asyncio.gather(zombie(), owner())
    assert (row.state, row.result, row.attempts) == (ActionState.DONE, "right", 1)


@settings(plain, max_examples=10)
@simulate(PAUSES, most=st.integers(1, 4))
async def test_a_ledger_keeps_its_limits(sim: Simulation, most: int) -> None:
    ledger = Ledger(SystemClock(), LedgerSettings(max_rows=most, max_generations=most))

    async def reject() -> None:
        while True:
            await ledger.start(row, fence := await ledger.claim(row))
            await asyncio.sleep(0)
            await ledger.finish(row, fence, ActionEvent.REJECT)

    row = await ledger.plan(make_call("0"), correlation_id=None)
    with pytest.raises(ActionStateError):
        await reject()
    assert row.attempts == most
    for number in range(1, most):
        await ledger.plan(make_call(str(number)), correlation_id=None)
    with pytest.raises(LedgerFullError):
        await ledger.plan(make_call("one too many"), correlation_id=None)


# ------------------------------------------------------------------ time limits


@irreversible("lab.run", key=lambda sample: sample, attempt_timeout_seconds=2)
async def analyse(sample: str) -> str:
    raise NotImplementedError


@settings(plain, max_examples=40)
@simulate(PAUSES, takes=st.integers(1, 4))
async def test_an_answer_after_the_timeout_still_counts(sim: Simulation, takes: int) -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(takes)
            return "in time"
        await asyncio.sleep(5)
        return "late"

    sim.stub("lab.run", stubborn)
    async with Sandbox(dry_run=False) as sandbox:
        outcome = await ask(analyse, "blood")
        if takes < 2:
            assert outcome == "in time"
            return
        if takes > 2:
            assert isinstance(outcome, OutcomeUnknownError)
            with pytest.raises(ActionStateError):
                await sandbox.recover("lab.run", "blood", happened=False)
        assert isinstance(await ask(analyse, "blood"), OutcomeUnknownError) or takes == 2
        assert sandbox.get_status().in_flight == 1 or takes == 2
        await sim.settle(6)
        assert await analyse("blood") == "late" or takes == 2
        assert sim.actions.count("lab.run") == 1


@settings(plain, max_examples=40)
@simulate(REFUSALS)
async def test_a_refused_call_may_be_made_again_and_an_action_inside_an_action_may_not(
    sim: Simulation,
) -> None:
    async def inside(order: str) -> str:
        assert isinstance(await ask(mail, order), NestedActionError)
        await asyncio.sleep(1)
        return "paid"

    async def ask_later() -> Any:
        await asyncio.sleep(0.5)
        return await ask(charge, "k", [1])

    sim.stub("card.charge", inside)
    async with Sandbox(dry_run=False) as sandbox:
        joining = asyncio.create_task(ask_later())
        outcome, declined = None, 0
        while outcome != "paid":
            outcome = await ask(charge, "k", [1])
            declined += isinstance(outcome, DeclinedError)
            (record,) = sandbox.get_actions(name="card.charge")
            expected = {DeclinedError: ActionState.REJECTED, ConnectionError: ActionState.APPROVED}
            assert record.state is expected.get(type(outcome), ActionState.DONE)
        assert record.generation == 1 + declined
        assert isinstance(await joining, (str, DeclinedError, ConnectionError)), "it joins the repeated call"
        assert await charge("k", [1]) == "paid"
        assert sim.actions.count("card.charge") == 1
