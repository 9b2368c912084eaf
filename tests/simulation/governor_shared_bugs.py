"""Bugs for the simulated test of shared limits to find, and that test, in the form of `mutants.py`."""

from simulation import test_governor_shared_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.governor.lease import Lease
from asyncsandbox.components.governor.shared import SharedLine

GOVERNOR_SHARED_CHECKS: dict[str, Check] = {
    "shared": Check(
        test=test_governor_shared_sim.test_a_shared_limit_holds_whoever_asks_and_dies,
        what=test_governor_shared_sim.TROUBLE,
        inputs=test_governor_shared_sim.CALLS,
    ),
}

GOVERNOR_SHARED_MUTANTS: tuple[Mutant, ...] = (
    Mutant("units not counted", "shared", Lease.take, "self.left -= cost", "pass"),
    Mutant("use not told", "shared", Lease.take, "self.used += cost", "pass"),
    Mutant(
        "window forgotten",
        "shared",
        SharedLine._lease_more,
        "seconds=seconds, window=window",
        "seconds=seconds, window=0.0",
    ),
    Mutant("granted too much", "shared", SharedLine._lease_more, "most=units", "most=2 * units"),
    Mutant("waiter forgotten", "shared", SharedLine.acquire, "_call(self._queue[0][0])", "pass"),
    Mutant("waits for ever", "shared", SharedLine._wait, "min(found, _LOOK_AGAIN_SECONDS)", "1e9"),
    Mutant("use told as early", "shared", Lease.take, "max(self.last_at, ", "min(self.last_at - 100, "),
    Mutant("full for ever", "shared", SharedLine._get, "await self._look(cost)) > 0", "1.0)"),
)
