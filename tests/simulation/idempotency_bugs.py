"""Bugs for the simulated tests of idempotency to find, each one place of its code made wrong."""

from hypothesis import strategies as st
from simulation import test_idempotency_sim as sim
from simulation.mutants import Check, Mutant

from asyncsandbox._core.tasks import complete
from asyncsandbox.components.idempotency import IdempotencyManager as Manager
from asyncsandbox.components.idempotency import InMemoryIdempotencyRecords as Records
from asyncsandbox.components.idempotency.calls import Subject
from asyncsandbox.components.idempotency.flights import Flight, Returned
from asyncsandbox.components.idempotency.records import _Row
from asyncsandbox.components.idempotency.runs import Run

IDEMPOTENCY_CHECKS: dict[str, Check] = {
    "once": Check(test=sim.test_a_key_happens_at_most_once_whatever_happens, what=sim.EVERYTHING, inputs=sim.ENDS),
    "leaving": Check(
        test=sim.test_who_stays_gets_the_outcome_and_who_leaves_leaves_alone,
        what=sim.PAUSES,
        inputs={**sim.LEAVERS, "leavers": st.sets(st.integers(0, 2), min_size=1)},
    ),
    "two managers": Check(
        test=sim.test_of_two_managers_one_runs_and_the_other_waits_also_for_one_that_stops,
        what=sim.PAUSES,
        inputs=sim.STOPS,
    ),
    "power cut": Check(
        test=sim.test_who_waits_for_a_manager_whose_power_is_cut_is_told, what=sim.CRASHES, inputs=sim.DISTANT
    ),
    "verify": Check(test=sim.test_with_verify_it_happens_once_across_power_cuts, what=sim.CRASHES, inputs=sim.VERIFIED),
    "rerun": Check(
        test=sim.test_with_rerun_it_happens_at_least_once_across_power_cuts, what=sim.CRASHES, inputs=sim.DISTANT
    ),
}

IDEMPOTENCY_MUTANTS: tuple[Mutant, ...] = (
    # who waits
    Mutant("nobody joins", "once", Manager._get_flight, "flight = self._flights.get(key)", "flight = None"),
    Mutant("joined with another payload", "once", Subject.fingerprint, "[:32]", "[:0]"),
    Mutant("conflict with what was no claim", "once", Manager._process, "flight.owns_key.is_set()", "True"),
    Mutant("joined while being cancelled", "leaving", Manager._process, "if flight.unwanted:", "if False:"),
    Mutant("first who leaves ends it", "leaving", Manager._join, "flight.callers or ", ""),
    Mutant("nobody gives up", "leaving", Manager._join, "flight.give_up()", "raise"),
    Mutant("who leaves is counted on", "leaving", Manager._join, "flight.callers -= 1", "pass"),
    Mutant(
        "last one does not wait",
        "leaving",
        Manager._join,
        "await outlast(flight.task, on_cancel=flight.task.cancel) or ",
        "",
    ),
    Mutant("task never cancelled", "leaving", Flight.give_up, "self.task.cancel()", "pass"),
    Mutant("waiters not woken", "once", Flight.land, "self.ended.set()", "pass"),
    Mutant("flight kept", "once", Manager._land, "del self._flights[flight.call.key]", "pass"),
    Mutant("outcome not given", "once", Returned.take, "return self._value\n", "return None\n"),
    # what is recorded
    Mutant("claim not looked at", "once", Run.bring_about, "if record.fence == self._fence:", "if True:"),
    Mutant("unknown runs again", "once", Run._may_run_again, "if policy.on_unknown is OnUnknown.RERUN:", "if True:"),
    Mutant(
        "unknown never runs again", "rerun", Run._may_run_again, "if policy.on_unknown is OnUnknown.RERUN:", "if False:"
    ),
    Mutant(
        "verified as failed", "verify", Run._may_run_again, "RecordState.DONE, stored", "RecordState.FAILED, stored"
    ),
    Mutant("dead owner not believed", "verify", Run._may_run_again, "if record.owner_died:", "if False:"),
    Mutant("verify answers no", "verify", Run._may_run_again, "found is None or found is False", "True"),
    Mutant("result not recorded", "once", Run._succeed, "await self._finish(RecordState.DONE, stored)", "True"),
    Mutant("result recorded as failure", "once", Run._succeed, "RecordState.DONE", "RecordState.FAILED"),
    Mutant("declined is released", "once", Run._fail, "isinstance(error, call.policy.release_on)", "True"),
    Mutant("refused is kept", "once", Run._fail, "isinstance(error, call.policy.release_on)", "False"),
    Mutant(
        "interrupted is released",
        "leaving",
        Run._lose,
        "await self._finish(RecordState.UNKNOWN, reason)",
        "await self._free()",
    ),
    Mutant("cancellation handed on", "two managers", Run._lose, "unknown if not_for_others else error", "error"),
    Mutant("claim kept after cancellation", "leaving", Run._claim, "await self._free()", "pass"),
    Mutant("claim given to the cancelled", "leaving", Run._claim, "        flight.check_cancelled()\n", ""),
    Mutant("writing interrupted", "leaving", complete, "await outlast(task)", "await task and None"),
    # records
    Mutant("claim not written", "once", Records.claim, "self._rows[key] = row = ", "row = "),
    Mutant("living taken for dead", "two managers", _Row.is_abandoned, "self.holder.done() or ", "True or "),
    Mutant("waits for ever", "power cut", Records.wait, "timeout=_LOOK_AGAIN_SECONDS", "timeout=None"),
    Mutant("those who wait not woken", "two managers", Records.finish, "row.wake()", "pass"),
    Mutant("any unknown replaced", "once", Records.claim, " and record.fence == instead_of", ""),
    Mutant(
        "done overwritten",
        "once",
        Records.claim,
        "record is not None and not (record.state is RecordState.UNKNOWN and record.fence == instead_of)",
        "False",
    ),
    Mutant("released but kept", "once", Records.release, "del self._rows[key]", "pass"),
)
