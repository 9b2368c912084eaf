"""Idempotent calls with a store under every single pause, power cut and duplicate; the store outlives each.

A key happens at most once, whoever dies when. What a caller got is there for good. A call that the power cut short is
UNKNOWN as soon as somebody is there again: it neither runs again by itself nor keeps anybody waiting.
"""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import Sandbox, current_sandbox
from asyncsandbox._core.context import bound_host
from asyncsandbox._core.store import Store, open_store
from asyncsandbox.errors import IdempotencyUnknownError, SandboxError
from asyncsandbox.testing import CrashedError, Simulation, scenarios, simulate

TROUBLE = scenarios(pauses=2, crashes=2, duplicates=1, sweep=250)
RACES = scenarios(pauses=2, crashes=1, sweep=250)
ENDS = {"ends": st.sampled_from([("paid", "paid"), ("refused", "paid"), ("refused", "refused")])}
FIRST = {"first": st.integers(0, 6)}
plain = settings(database=None, deadline=None)
pytestmark = pytest.mark.long


class RefusedError(Exception):
    pass


class World:
    """What has happened, whatever the app forgets."""

    def __init__(self, *ends: str) -> None:
        self.ends = list(ends)
        self.happened: Counter[str] = Counter()
        self.told: set[str] = set()
        self.lives = 0

    def start(self, store: Store) -> Sandbox:
        self.lives += 1
        return live(store)

    async def pay(self, order: str) -> str:
        await asyncio.sleep(0.1)
        if self.ends and self.ends.pop(0) == "refused":
            raise RefusedError(order)
        self.happened[order] += 1
        await asyncio.sleep(0.1)
        return f"paid {order}"

    async def ask(self, order: str) -> object:
        """Pay once, in the sandbox that is there."""
        process = current_sandbox().idempotency_manager.process_idempotent
        try:
            result = await process(order, self.pay, order)
        except (IdempotencyUnknownError, RefusedError) as error:
            return error
        assert result == f"paid {order}"
        self.told.add(order)
        return result

    def promise(self, sim: Simulation) -> None:
        sim.always(lambda: max(self.happened.values(), default=0) <= 1, "a key happens at most once")


def live(store: Store) -> Sandbox:
    return Sandbox(dry_run=False, store=store)


async def call(sim: Simulation, world: World, order: str) -> object:
    try:
        return await sim.call(world.ask, order)
    except (CrashedError, SandboxError) as error:
        return error


@settings(plain, max_examples=50)
@simulate(TROUBLE, **ENDS)
async def test_a_key_happens_at_most_once_and_is_never_stuck(sim: Simulation, ends: tuple[str, ...]) -> None:
    world = World(*ends)
    world.promise(sim)
    async with open_store(":memory:") as store:
        await sim.start(lambda: world.start(store))
        orders = ["o-1", "o-1", "o-2"]
        await asyncio.gather(*(call(sim, world, order) for order in orders))
        told = set(world.told)
        await sim.settle(10)
        await sim.heal()
        for order in sorted(set(orders)):
            asked = asyncio.create_task(call(sim, world, order))
            assert await asyncio.wait((asked,), timeout=5) == ({asked}, set()), "nobody waits for the dead"
            outcome = asked.result()
            if order in told:
                assert outcome == f"paid {order}", "what a caller got is there for good"
            elif isinstance(outcome, IdempotencyUnknownError):
                assert outcome.key == order
            else:
                assert isinstance(outcome, RefusedError) or outcome == f"paid {order}"


@settings(plain, max_examples=50)
@simulate(RACES, **FIRST)
async def test_a_replica_that_lives_is_waited_for_and_nobody_runs_twice(sim: Simulation, first: int) -> None:
    """The app, which may die, and the test itself, which does not, pay the same orders."""
    world = World()
    world.promise(sim)
    async with open_store(":memory:") as store, live(store) as replica:
        await sim.start(lambda: world.start(store))

        async def here(order: str) -> object:
            for _ in range(first):
                await asyncio.sleep(0)
            with bound_host(replica._runtime):
                return await world.ask(order)

        orders = ["o-1", "o-2"]
        outcomes: list[Any] = await asyncio.gather(
            here("mine"), *map(here, orders), *(call(sim, world, order) for order in orders)
        )
        assert outcomes[0] == "paid mine"
        for order, outcome in zip(orders, outcomes[1:3], strict=True):
            assert outcome == f"paid {order}" or (isinstance(outcome, IdempotencyUnknownError) and world.lives > 1)
        await sim.heal()
