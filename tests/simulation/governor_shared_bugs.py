"""Bugs for the simulated test of shared limits to find, and that test, in the form of `mutants.py`."""

from simulation import test_governor_shared_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.governor.shared import Lease, SharedLine

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
    Mutant("swept too early", "shared", SharedLine._lease_more, "window=self._window.seconds", "window=0.0"),
    Mutant("granted too much", "shared", SharedLine._lease_more, "most=units", "most=2 * units"),
    Mutant("waiter forgotten", "shared", SharedLine.acquire, "self._queue[0][0].set_result(None)", "pass"),
    Mutant("waits for ever", "shared", SharedLine._wait, "min(found, _LOOK_AGAIN_SECONDS)", "1e9"),
    Mutant("use told as early", "shared", Lease.take, "self._until - self._seconds + elapsed", "self._until - 100"),
)
