"""Bugs for the simulated tests of idempotency in a store to find, and those tests, in the form of `mutants.py`."""

from simulation import test_idempotency_store_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.idempotency.runs import Run
from asyncsandbox.components.idempotency.store_records import StoreIdempotencyRecords

IDEMPOTENCY_STORE_CHECKS: dict[str, Check] = {
    "crashes": Check(
        test=test_idempotency_store_sim.test_a_key_happens_at_most_once_and_is_never_stuck,
        what=test_idempotency_store_sim.TROUBLE,
        inputs=test_idempotency_store_sim.ENDS,
    ),
    "replica": Check(
        test=test_idempotency_store_sim.test_a_replica_that_lives_is_waited_for_and_nobody_runs_twice,
        what=test_idempotency_store_sim.RACES,
        inputs=test_idempotency_store_sim.FIRST,
    ),
}

_S = StoreIdempotencyRecords

IDEMPOTENCY_STORE_MUTANTS: tuple[Mutant, ...] = (
    Mutant("outcomes not written", "crashes", _S.finish, "state=outcome.state.value", 'state="in progress"'),
    Mutant("unknown runs again", "crashes", Run._may_run_again, "if policy.on_unknown is OnUnknown.RERUN:", "if True:"),
    Mutant("dead ones wait for ever", "crashes", _S.get, "abandoned = state", "abandoned = False and state"),
    Mutant("alive is gone", "replica", _S.get, "verdict is not OwnerState.ALIVE or", "verdict is OwnerState.ALIVE or"),
    Mutant("claims are not shared", "replica", _S.claim, "return record\n", "return replace(record, fence=fence)\n"),
)
