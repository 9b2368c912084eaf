"""Attempts of actions under every single pause, fault and lost reply: one effect per key, limits kept, honest ends."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import FILLED_IN, GovernorSettings, Limit, RetrySettings, Sandbox, irreversible
from asyncsandbox.testing import Simulation, fault, scenarios, simulate

LOST = scenarios(
    pauses=2,
    faults=[
        fault("card.charge", ConnectionError),
        fault("card.charge", TimeoutError, after=True),
        fault("mail.send", ConnectionError),
        fault("mail.send", TimeoutError, after=True),
    ],
    sweep=150,
)
PAUSES = scenarios(pauses=2, sweep=60)
INPUTS = {"calls": st.integers(3, 6), "cancelled": st.sets(st.integers(0, 5), max_size=2)}
plain = settings(database=None, deadline=None)
QUICK = RetrySettings(max_retries=3, backoff_base_seconds=1.0, backoff_cap_seconds=4.0)


@irreversible("card.charge", key=lambda order: order, retry=QUICK, limit="card")
async def charge(order: str, *, idempotency_key: str = FILLED_IN) -> str:
    raise NotImplementedError


@irreversible("mail.send", key=lambda order: order, retry=QUICK, not_delivered=(ConnectionError,))
async def send(order: str) -> str:
    raise NotImplementedError


def make_sandbox() -> Sandbox:
    return Sandbox(dry_run=False, governor=GovernorSettings(limits={"card": Limit(2, 10.0)}))


@plain
@simulate(LOST)
async def test_a_fault_is_retried_where_that_does_no_harm_and_nowhere_else(sim: Simulation) -> None:
    sandbox = await sim.start(make_sandbox)

    async def order(name: str) -> tuple[Any, ...]:
        return tuple(await asyncio.gather(charge(name), send(name), return_exceptions=True))

    outcomes = await asyncio.gather(*(sim.call(order, name) for name in ("o-1", "o-2")))
    for name, (charged, sent) in zip(("o-1", "o-2"), outcomes, strict=True):
        assert isinstance(charged, str), "the key makes every charge repeatable"
        assert sim.actions.count("card.charge", key=name) == 1
        (mail,) = sandbox.get_actions(name="mail.send", key=name)
        lost = isinstance(sent, TimeoutError)
        assert mail.state.value == ("unknown" if lost else "done")
        assert sim.actions.count("mail.send", key=name) == 1
        assert mail.attempts == 1 + sum(attempt.retry_in_seconds is not None for attempt in mail.history)


@settings(plain, max_examples=30)
@simulate(PAUSES, **INPUTS)
async def test_limits_hold_for_those_who_wait_and_those_who_leave(
    sim: Simulation, calls: int, cancelled: set[int]
) -> None:
    sandbox = await sim.start(make_sandbox)

    async def all_of_them() -> list[Any]:
        callers = [asyncio.create_task(charge(f"o-{number}")) for number in range(calls)]
        await asyncio.sleep(1)
        for number in cancelled:
            callers[number % calls].cancel()
        return await asyncio.gather(*callers, return_exceptions=True)

    outcomes = await sim.call(all_of_them)
    served = sum(isinstance(outcome, str) for outcome in outcomes)
    assert served >= max(2, calls - len(cancelled))
    assert len(sim.actions) == len(sandbox.get_actions()) == served, "who left the queue cost nothing"
