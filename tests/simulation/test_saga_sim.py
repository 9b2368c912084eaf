"""Sagas under every single pause and fault, and cancelled at any moment: what was done is undone, the last first."""

import asyncio
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import Sandbox, reversible
from asyncsandbox._core.ledger import ActionState
from asyncsandbox._core.saga import current_saga
from asyncsandbox.testing import Simulation, fault, scenarios, simulate

FAULTS = [fault("seat.reserve", TimeoutError, after=True), fault("seat.reserve", ConnectionError)]
TROUBLE = scenarios(pauses=2, faults=FAULTS, sweep=150)
PAUSES = scenarios(pauses=1)
INPUTS = {"cancel_after": st.integers(0, 60), "bad_undo": st.sampled_from([None, "b"])}


class BrokenBlockError(Exception):
    pass


class Theatre:
    """Notes what was reserved and released, in the order it happened."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.released: list[str] = []
        self.bad_undo: str | None = None

    async def release(self, seat: str, result: str) -> None:
        assert result == f"ticket {seat}"
        self.released.append(seat)
        await asyncio.sleep(0.2)
        if seat == self.bad_undo:
            raise OSError(seat)


theatre = Theatre()


@reversible(
    "seat.reserve",
    key=lambda seat: seat,
    undo=lambda seat, result: theatre.release(seat, result),  # noqa: PLW0108 - each run has another theatre
    not_delivered=(ConnectionError,),
)
async def reserve(seat: str) -> str:
    raise NotImplementedError


async def book(sandbox: Sandbox) -> None:
    async with sandbox.saga("trip"):
        await reserve("a")
        async with sandbox.saga("inner"):
            await reserve("b")
        await asyncio.gather(reserve("c"), reserve("d"), return_exceptions=True)
        raise BrokenBlockError


@settings(database=None, deadline=None, max_examples=60)
@simulate(TROUBLE, **INPUTS)
async def test_what_was_done_is_undone_in_reverse(sim: Simulation, cancel_after: int, bad_undo: str | None) -> None:
    theatre.__init__()
    theatre.bad_undo = bad_undo

    async def stub(seat: str) -> str:
        await asyncio.sleep(1)
        theatre.taken.append(seat)
        return f"ticket {seat}"

    sim.stub("seat.reserve", stub)
    async with Sandbox(dry_run=False) as sandbox:
        task = asyncio.create_task(book(sandbox))
        # A tenth of a second apart, so that it hits between the actions, inside them, and inside the undos.
        timer = asyncio.get_running_loop().call_later(cancel_after / 10, task.cancel) if cancel_after else None
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if timer is not None:
            timer.cancel()
        assert isinstance(outcome, (BrokenBlockError, asyncio.CancelledError, TimeoutError, ConnectionError)), (
            f"the block ended with {outcome!r}"
        )
        assert isinstance(outcome, asyncio.CancelledError) == task.cancelled()
        undone_when_told = tuple(theatre.released)
        await sim.settle(20)
        assert tuple(theatre.released) == undone_when_told, "undos end before the block does"
        finished = [str(event.fields["key"]) for event in sandbox._services.journal.get_events("action.done")]
        assert sorted(finished) == sorted(set(theatre.taken) - lost(sandbox))
        assert theatre.released == finished[::-1]
        for record in sandbox.get_actions():
            if record.key in finished:
                bad = record.key == bad_undo
                assert record.state is (ActionState.UNDO_UNKNOWN if bad else ActionState.UNDONE), record


@settings(database=None, deadline=None, max_examples=20)
@simulate(PAUSES)
async def test_a_block_that_ends_well_undoes_nothing(sim: Simulation) -> None:
    theatre.__init__()
    sim.stub("seat.reserve", lambda seat: f"ticket {seat}")
    async with Sandbox(dry_run=False) as sandbox:
        async with sandbox.saga("trip"):
            await asyncio.gather(reserve("a"), reserve("b"))
        assert current_saga() is None
        with suppress(BrokenBlockError):
            async with sandbox.saga("next"):
                await reserve("a")
                await reserve("c")
                raise BrokenBlockError
        assert theatre.released == ["c"], "a stored result is not this block's doing"
        assert await reserve("c") == "ticket c"
        assert [record.generation for record in sandbox.get_actions(key="c")] == [2]


def lost(sandbox: Sandbox) -> set[str]:
    return {record.key for record in sandbox.get_actions() if record.state is ActionState.UNKNOWN}
