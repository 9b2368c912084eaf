"""Actions with a store under every single pause, fault, duplicate and power cut; the store outlives each.

A key happens at most once per generation, whoever dies when. What a caller got is DONE in the store by then, for good.
What was running when the power went is UNKNOWN as soon as somebody is there again, and nothing is lost. Nobody
touches what another one that lives is at work on.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from simulation.glass import Glass

from asyncsandbox import GovernorSettings, Limit, Sandbox, irreversible
from asyncsandbox._core.context import bound_host
from asyncsandbox._core.store import Store, open_store
from asyncsandbox.errors import ActionError, SandboxError
from asyncsandbox.testing import CrashedError, Simulation, fault, scenarios, simulate


class DeclinedError(Exception):
    pass


class UnreachableError(Exception):
    pass


ERRORS = {"rejected": (DeclinedError,), "not_delivered": (UnreachableError,)}


@irreversible("card.charge", key=lambda invoice: invoice, **ERRORS)
async def charge(invoice: str) -> str:
    raise NotImplementedError


@irreversible("mail.send", key=lambda invoice: invoice, limit="mail", **ERRORS)
async def send(invoice: str) -> str:
    raise NotImplementedError


@irreversible("bell.ring")
async def ring(times: int) -> str:
    raise NotImplementedError


ACTIONS = {"card.charge": charge, "mail.send": send, "bell.ring": ring}
FAULTS = [
    fault("card.charge", TimeoutError, after=True),
    fault("card.charge", TimeoutError),
    fault("card.charge", DeclinedError),
    fault("mail.send", UnreachableError),
]
TROUBLE = scenarios(pauses=2, crashes=2, faults=FAULTS, duplicates=1, sweep=250)
KEYLESS = scenarios(pauses=1, crashes=1, sweep=150)
RACES = scenarios(pauses=2, crashes=1, sweep=250)
plain = settings(database=None, deadline=None)
pytestmark = pytest.mark.long
HAPPENED = {"started", "done", "unknown"}
States = dict[tuple[str, str], str]


def states_in(store: Store) -> Callable[[], States]:
    """Return what tells the states of all actions by name and key."""
    query = "SELECT action, key, state FROM sandbox_actions"
    return Glass(store, query, lambda rows: {(action, key): state for action, key, state in rows}).look


def make_sandbox(store: Store) -> Sandbox:
    return Sandbox(dry_run=False, store=store, governor=GovernorSettings(limits={"mail": Limit(2, 10.0)}))


def stub_all(sim: Simulation) -> None:
    async def slowly(invoice: str) -> str:
        await asyncio.sleep(0.1)
        return f"paid {invoice}"

    sim.stub("card.charge", slowly)
    sim.stub("mail.send", slowly)
    sim.stub("bell.ring", lambda times: "ding")


def promise(sim: Simulation, states: Callable[[], States], told: set[tuple[str, str]]) -> None:
    def happened(place: tuple[str, str]) -> int:
        return sim.actions.count(place[0], key=place[1])

    def places() -> list[tuple[str, str]]:
        return [(call.action, call.key) for call in sim.actions if not call.key.startswith("~")]

    sim.always(lambda: all(happened(p) <= 1 for p in places()), "at most once per key")
    sim.always(lambda: all(states().get(p) in HAPPENED for p in places()), "what happened is on record")
    sim.always(lambda: all(happened(p) for p, s in states().items() if s == "done"), "DONE means it happened")
    sim.always(lambda: all(states().get(p) == "done" for p in told), "what a caller got is there for good")


async def ask(sim: Simulation, action: str, invoice: str, told: set[tuple[str, str]]) -> object:
    try:
        result = await sim.call(ACTIONS[action], invoice)
    except (CrashedError, SandboxError, TimeoutError, DeclinedError, UnreachableError) as error:
        return error
    assert result == f"paid {invoice}"
    told.add((action, invoice))
    return result


@settings(plain, max_examples=60)
@simulate(TROUBLE)
async def test_a_key_happens_at_most_once_and_no_outcome_is_lost(sim: Simulation) -> None:
    async with open_store(":memory:") as store:
        told: set[tuple[str, str]] = set()
        stub_all(sim)
        await sim.start(lambda: make_sandbox(store))
        states = states_in(store)
        promise(sim, states, told)
        calls = [("card.charge", "i-1"), ("card.charge", "i-1"), ("mail.send", "i-2"), ("mail.send", "i-3")]
        await asyncio.gather(*(ask(sim, *each, told) for each in calls))
        await sim.settle(30)  # a duplicate may still wait for a permit
        await sim.heal()
        left = states()
        assert not {"claimed", "started"} & set(left.values()), "nobody is at work, and that is known"
        for action, invoice in sorted(set(calls)):
            state, outcome = left.get((action, invoice)), await ask(sim, action, invoice, told)
            if state == "unknown":
                assert isinstance(outcome, ActionError), "what may have happened does not happen again"
            else:
                assert outcome == f"paid {invoice}", "what did not happen can still happen"


@settings(plain, max_examples=60)
@simulate(RACES, first=st.integers(0, 6))
async def test_a_replica_is_left_alone_by_one_that_dies_and_comes_back(sim: Simulation, first: int) -> None:
    """The app and the test itself, which does not die, charge the same invoices."""
    async with open_store(":memory:") as store:
        told: set[tuple[str, str]] = set()
        stub_all(sim)
        async with make_sandbox(store) as replica:
            states = states_in(store)
            promise(sim, states, told)
            await sim.start(lambda: make_sandbox(store))

            async def here(invoice: str) -> object:
                for _ in range(first):
                    await asyncio.sleep(0)
                with bound_host(replica._runtime):
                    try:
                        result: Any = await charge(invoice)
                    except ActionError as error:
                        return error
                told.add(("card.charge", invoice))
                return result

            invoices = ["i-1", "i-2"]
            outcomes = await asyncio.gather(
                here("mine"), *map(here, invoices), *(ask(sim, "card.charge", each, told) for each in invoices)
            )
            assert outcomes[0] == "paid mine"
            for invoice, outcome in zip(invoices, outcomes[1:3], strict=True):
                if isinstance(outcome, ActionError):
                    assert states()["card.charge", invoice] == "unknown"
        await sim.heal()


@settings(plain, max_examples=30)
@simulate(KEYLESS)
async def test_after_a_power_cut_equal_calls_without_a_key_need_a_person(sim: Simulation) -> None:
    async with open_store(":memory:") as store:
        stub_all(sim)
        await sim.start(lambda: make_sandbox(store))
        for _ in range(2):
            await asyncio.gather(sim.call(ring, 3), return_exceptions=True)
        rung = [call.life for call in sim.actions]
        await sim.heal()
        (again,) = await asyncio.gather(sim.call(ring, 3), return_exceptions=True)
        lives = {call.life for call in sim.actions}
        if isinstance(again, ActionError):
            assert len(sim.actions) == len(rung), "refused is not rung"
        else:
            assert (again, len(lives)) == ("ding", 1), "nobody knows which of the equal calls the dead one had made"
