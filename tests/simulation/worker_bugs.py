"""Bugs seeded into the worker, and the simulated tests that must find them; to stand beside those in `mutants`."""

from simulation import test_worker_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.worker import WorkerProcess
from asyncsandbox.components.worker.memory import MemoryBackend
from asyncsandbox.components.worker.run import Run
from asyncsandbox.components.worker.runner import Runner
from asyncsandbox.components.worker.schedule import Schedule

WORKER_CHECKS: dict[str, Check] = {
    "job lost": Check(
        test=test_worker_sim.test_no_acknowledged_job_is_lost_and_no_other_runs,
        what=test_worker_sim.PAUSES,
        inputs=test_worker_sim.LOSSES,
    ),
    "job key": Check(
        test=test_worker_sim.test_one_key_runs_once_at_a_time_and_everybody_gets_its_result,
        what=test_worker_sim.PAUSES,
        inputs=test_worker_sim.KEYS,
    ),
    "job room": Check(
        test=test_worker_sim.test_submitters_are_let_in_in_the_order_they_came,
        what=test_worker_sim.PAUSES,
        inputs=test_worker_sim.ROOM,
    ),
    "job time": Check(
        test=test_worker_sim.test_a_job_out_of_time_is_tried_again_and_then_dead,
        what=test_worker_sim.PAUSES,
        inputs=test_worker_sim.TIMES,
    ),
    "job cancelled": Check(
        test=test_worker_sim.test_a_cancelled_job_is_over_for_whoever_waits, what=test_worker_sim.PAUSES
    ),
    "job drain": Check(test=test_worker_sim.test_drain_ends_when_nothing_is_left, what=test_worker_sim.PAUSES),
    "job schedule": Check(test=test_worker_sim.test_a_schedule_never_overlaps_itself, what=test_worker_sim.PAUSES),
    "job restart": Check(test=test_worker_sim.test_a_worker_starts_again, what=test_worker_sim.PAUSES),
}

WORKER_MUTANTS: tuple[Mutant, ...] = (
    Mutant("room taken twice", "job room", MemoryBackend._admit_next, "not self._is_full() or", "True or"),
    Mutant("barging", "job room", MemoryBackend.submit, "(self._is_full() or self._submitters)", "self._is_full()"),
    Mutant("turn not passed on", "job room", MemoryBackend._wait_for_room, "self._admit_next()", "pass"),
    Mutant("left standing", "job room", MemoryBackend._wait_for_room, "            raise\n", "            return\n"),
    Mutant("no bound", "job lost", MemoryBackend._is_full, "self._queued >= self._settings.max_queued", "False"),
    Mutant("too many at a time", "job lost", Runner.give_out, "most - len(self.runs)", "most"),
    Mutant("place lost", "job lost", Runner._attempt, "if self._slots:", "if False:"),
    Mutant("outcome lost before the first step", "job cancelled", Run._interrupt, "self.has_begun and ", ""),
    Mutant("accepted while stopping", "job lost", MemoryBackend.submit, "if not self._is_open:", "if False:"),
    Mutant("not told of the stop", "job lost", MemoryBackend.shut, "_settle(turn)", "pass"),
    Mutant("no grace", "job lost", WorkerProcess._wind_down, "self._settings.grace_seconds", "0"),
    Mutant("lost at the stop", "job lost", MemoryBackend.give_up, "self._end(job, Outcome(state=_CANCELLED))", "pass"),
    Mutant(
        "given out twice",
        "job lost",
        MemoryBackend.claim,
        "claims.append(Claim(job.request, job.attempt, now))",
        "claims += [Claim(job.request, job.attempt, now)] * 2",
    ),
    Mutant("twins", "job key", MemoryBackend._find_twin, "self._by_key.get((request.name, key))", "None"),
    Mutant("key never free again", "job key", MemoryBackend._end, "del self._by_key[job.name, job.unique_key]", "pass"),
    Mutant("waiter forgotten", "job key", MemoryBackend._end, "_settle(waiter)", "pass"),
    Mutant("one waiter only", "job key", MemoryBackend.wait, "(*job.waiters, waiter)", "(waiter,)"),
    Mutant("time never over", "job time", Run.time_out, "self._interrupt()", "pass"),
    Mutant("one attempt too many", "job time", Run.judge, "attempt <= options", "attempt - 1 <= options"),
    Mutant("retry lost", "job time", MemoryBackend._wait_for_work, "if self._later else None", "if False else None"),
    Mutant("old claim", "job time", MemoryBackend.finish, "job.state = _QUEUED", "pass"),
    Mutant("running not cancelled", "job cancelled", Runner.cancel, "run.cancel()", "True"),
    Mutant("drain too early", "job drain", MemoryBackend.wait_idle, "self._queued if delayed", "0 if delayed"),
    Mutant("drain never told", "job drain", MemoryBackend.finish, "self._tell_idle()", "pass"),
    Mutant("drain told once", "job drain", MemoryBackend.wait_idle, "while self._running", "if self._running"),
    Mutant("overlap", "job schedule", Schedule._fire, "if not self.overlap:", "if False:"),
)
