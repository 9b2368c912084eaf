"""A limit shared by the app, which may die, and by a replica that does not, under every single pause and power cut.

Never more than the limit in any window, whoever asks, waits or dies; those who wait are served; and who dies takes no
more with it than was leased to it.
"""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import GovernorSettings, Limit, Sandbox, current_sandbox
from asyncsandbox._core.context import bound_host
from asyncsandbox._core.store import Store, open_store
from asyncsandbox.errors import LimitExceededError, SandboxError
from asyncsandbox.testing import CrashedError, Simulation, scenarios, simulate

UNITS, SECONDS = 4, 10.0
TROUBLE = scenarios(pauses=2, crashes=1, sweep=200)
CALLS = {"calls": st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.3, 4.0])), min_size=2, max_size=8)}
plain = settings(database=None, deadline=None)
pytestmark = pytest.mark.long


class Admitted:
    """When which call was admitted, whoever remembers."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def is_kept(self) -> bool:
        """Return whether the limit holds in every window."""
        stamps = self.stamps
        return all(stamps[n + UNITS] - stamps[n] >= SECONDS - 1e-6 for n in range(len(stamps) - UNITS))

    async def ask(self, *, waits: bool) -> bool:
        """Make a call, now or when it may be made, and say whether it was."""
        governor = current_sandbox().governor
        if waits:
            async with governor.permit("api"):
                self.stamps.append(asyncio.get_running_loop().time())
            return True
        allowed = bool(await governor.check_limit("api"))
        if allowed:
            self.stamps.append(asyncio.get_running_loop().time())
        return allowed


def live(store: Store) -> Sandbox:
    limits = {"api": Limit(UNITS, SECONDS, shared=True)}
    return Sandbox(dry_run=False, store=store, governor=GovernorSettings(limits=limits))


@settings(plain, max_examples=50)
@simulate(TROUBLE, **CALLS)
async def test_a_shared_limit_holds_whoever_asks_and_dies(sim: Simulation, calls: list[tuple[bool, float]]) -> None:
    admitted = Admitted()
    sim.always(admitted.is_kept, "never more than the limit in any window")
    async with open_store(":memory:") as store, live(store) as replica:
        await sim.start(lambda: live(store))

        async def here(waits: bool, pause: float) -> None:
            await asyncio.sleep(pause)
            with bound_host(replica._runtime):
                assert await admitted.ask(waits=waits) or not waits

        async def there(waits: bool, pause: float) -> None:
            await asyncio.sleep(pause)
            with suppress(CrashedError, LimitExceededError, SandboxError):
                await sim.call(admitted.ask, waits=waits)

        tasks = [asyncio.create_task(ask(*call)) for call in calls for ask in (here, there)]
        _, waiting = await asyncio.wait(tasks, timeout=300)
        assert not waiting, "those who wait are served"
        await asyncio.gather(*tasks)
        await sim.heal()
        await asyncio.sleep(2 * SECONDS)
        before = len(admitted.stamps)
        with bound_host(replica._runtime):
            for _ in range(UNITS + 1):
                await admitted.ask(waits=False)
        assert len(admitted.stamps) - before == UNITS, "what the dead had leased has come back"
