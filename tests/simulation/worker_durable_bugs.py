"""Bugs seeded into jobs that are in a store, and the simulated tests that must find them; as in `mutants`."""

from simulation import test_worker_durable_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.worker.durable import StoreBackend
from asyncsandbox.components.worker.taking import Taker

WORKER_DURABLE_CHECKS: dict[str, Check] = {
    "crashes": Check(
        test=test_worker_durable_sim.test_what_was_acknowledged_ends_whoever_dies_when,
        what=test_worker_durable_sim.CRASHES,
        inputs=test_worker_durable_sim.JOBS,
    ),
    "replica": Check(
        test=test_worker_durable_sim.test_a_replica_takes_over_from_one_that_dies_and_from_no_other,
        what=test_worker_durable_sim.REPLICAS,
        inputs=test_worker_durable_sim.JOBS,
    ),
    "cancelled": Check(
        test=test_worker_durable_sim.test_what_is_cancelled_ends_wherever_it_runs,
        what=test_worker_durable_sim.PAUSES,
        inputs=test_worker_durable_sim.CANCELS,
    ),
}

_JUDGED = 'self._owner.judge(row["owner"], leased=bool(row["leased"]))'
_WRITTEN = "bool((await self._store.write(SUBMIT, **params)).count)"

WORKER_DURABLE_MUTANTS: tuple[Mutant, ...] = (
    Mutant("told before it is written", "crashes", StoreBackend._write_down, _WRITTEN, "True"),
    Mutant("an id that nobody has", "crashes", StoreBackend.submit, "return twin", "return request.job_id"),
    Mutant(
        "nobody takes over", "crashes", Taker._look, "self._must_recover = any(", "self._must_recover = False and ("
    ),
    Mutant("taken from the living", "replica", Taker._look, _JUDGED, "OwnerState.DEAD"),
    Mutant("not told to end", "cancelled", StoreBackend._end_unwanted, "end(job_id)", "pass"),
    Mutant("asked in vain", "cancelled", StoreBackend._end_unwanted, ' and not row["cancel_asked"]', ""),
    Mutant("ended by mistake", "replica", StoreBackend._end_unwanted, "and not is_wanted", "and is_wanted"),
    Mutant("drained too early", "cancelled", StoreBackend.wait_idle, '["pending"]', '["queued"]'),
)
