"""The pipeline of live actions and its ledger under every single pause, fault, duplicate and power cut.

The ledger outlives the power cut, as a durable one will. What must hold: a key happens at most once per generation; a
body runs only while its row says STARTED; a row says DONE only of what happened.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import Phase, settings

from asyncsandbox import Sandbox, irreversible
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.ledger import ActionState, Ledger, Row
from asyncsandbox.errors import ActionError
from asyncsandbox.testing import CrashedError, PromiseBrokenError, Simulation, fault, scenarios, simulate
from asyncsandbox.testing.simulated import simulated_of


class DeclinedError(Exception):
    pass


class UnreachableError(Exception):
    pass


@irreversible("card.charge", key=lambda invoice: invoice, rejected=(DeclinedError,), not_delivered=(UnreachableError,))
async def charge(invoice: str) -> str:
    raise NotImplementedError


TROUBLE = [
    fault("card.charge", TimeoutError, after=True),
    fault("card.charge", TimeoutError),
    fault("card.charge", DeclinedError),
    fault("card.charge", UnreachableError),
]
HAPPENED = {ActionState.STARTED, ActionState.DONE, ActionState.UNKNOWN}


@asynccontextmanager
async def live(ledger: Ledger) -> AsyncIterator[None]:
    sandbox = Sandbox(dry_run=False)
    sandbox._runtime.ledger = ledger
    sandbox._services = dataclasses.replace(sandbox._services, ledger=ledger)
    async with sandbox:
        yield


async def charge_twice(sim: Simulation, kind: type[Ledger]) -> None:
    ledger = kind(SystemClock())

    def happened(row: Row) -> int:
        return sim.actions.count("card.charge", key=row.call.key)

    async def ask(invoice: str) -> None:
        with suppress(TimeoutError, DeclinedError, UnreachableError, ActionError, CrashedError):
            await sim.call(charge, invoice)

    sim.stub("card.charge", lambda invoice: f"paid {invoice}")
    sim.always(lambda: all(happened(row) for row in ledger if row.state is ActionState.DONE), "DONE means it happened")
    sim.always(lambda: all(row.state in HAPPENED for row in ledger if happened(row)), "what happened is on record")
    sim.always(lambda: all(happened(row) <= 1 for row in ledger), "at most once per key")
    await sim.start(lambda: live(ledger))
    await asyncio.gather(ask("inv-1"), ask("inv-1"), ask("inv-2"))
    await sim.settle(1)
    await ask("inv-1")
    await sim.heal()
    states = {record.key: record.state for record in ledger.get_records()}
    await ask("inv-1")
    for row in ledger:
        if states.get(row.call.key) is ActionState.DONE:
            assert row.state is ActionState.DONE
            assert await sim.call(charge, row.call.key) == f"paid {row.call.key}"


EVERYTHING = scenarios(pauses=2, crashes=2, faults=TROUBLE, duplicates=1)
plain = settings(database=None, deadline=None)


@settings(plain, max_examples=150)
@simulate(EVERYTHING, require_coverage=True)
async def test_a_key_is_charged_at_most_once_whatever_happens(sim: Simulation) -> None:
    await charge_twice(sim, Ledger)


# ------------------------------------------------------------------ ledgers that must not pass


class Forgetful(Ledger):
    """Forgets what it has seen."""

    async def look_up(self, call: Any) -> Row | None:
        return None


class Hasty(Ledger):
    """Says DONE when the body has only started."""

    async def start(self, row: Row, fence: int) -> None:
        await super().start(row, fence)
        row.state = ActionState.DONE


class Silent(Ledger):
    """Does not note that the body is about to run."""

    async def start(self, row: Row, fence: int) -> None:
        self._begun = await super().start(row, fence)
        row.state = ActionState.APPROVED

    async def finish(self, row: Row, fence: int, *rest: Any, **more: Any) -> bool:
        row.state = ActionState.STARTED
        return await super().finish(row, fence, *rest, **more)


class Trusting(Ledger):
    """Takes a lost reply for a call that never arrived."""

    async def finish(self, row: Row, fence: int, *rest: Any, **more: Any) -> bool:
        closed = await super().finish(row, fence, *rest, **more)
        if row.state is ActionState.UNKNOWN:
            row.state = ActionState.APPROVED
        return closed


@pytest.mark.parametrize("kind", [Forgetful, Hasty, Silent, Trusting])
def test_a_broken_ledger_is_found_by_one_thing_that_goes_wrong(kind: type[Ledger]) -> None:
    @settings(plain, max_examples=1, phases=[Phase.generate])
    @simulate(EVERYTHING)
    async def test(sim: Simulation) -> None:
        await charge_twice(sim, kind)

    with pytest.raises((PromiseBrokenError, AssertionError)):
        test()
    report = simulated_of(test).report
    assert report is not None
    assert report.scenario.size <= 1
