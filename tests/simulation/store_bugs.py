"""Bugs for the simulated tests of the store to find, and those tests, in the form of `mutants.py`."""

from simulation import test_store_sim
from simulation.mutants import Check, Mutant

from asyncsandbox._core.store import Store
from asyncsandbox._core.store.inline import InlineEngine
from asyncsandbox._core.store.lane import Lane, Unit
from asyncsandbox._core.store.signals import Signals, channels_of
from asyncsandbox._core.store.sqlite_connection import SqliteConnection

STORE_CHECKS: dict[str, Check] = {
    "memory": Check(
        test=test_store_sim.test_a_store_in_memory_outlasts_the_app_and_keeps_what_it_acknowledged,
        what=test_store_sim.TROUBLE,
        inputs=test_store_sim.TRANSFERS,
    ),
    "file": Check(
        test=test_store_sim.test_a_store_in_a_file_keeps_what_it_acknowledged_across_a_power_cut,
        what=test_store_sim.TROUBLE,
        inputs=test_store_sim.TRANSFERS,
    ),
    "jobs": Check(test=test_store_sim.test_a_job_is_finished_once_whoever_dies, what=test_store_sim.TROUBLE),
    "news": Check(test=test_store_sim.test_news_reaches_who_waits_whatever_comes_first, what=test_store_sim.PAUSES),
    "time": Check(test=test_store_sim.test_time_in_a_store_is_the_simulated_one, what=test_store_sim.PAUSES),
}

STORE_MUTANTS: tuple[Mutant, ...] = (
    Mutant("told at once", "memory", Unit.wait, "if not patient:", "if True:"),
    Mutant("cancellation swallowed", "memory", Unit.wait, "raise cancellation", "pass"),
    Mutant("error swallowed", "memory", Unit.wait, "raise self.outcome", "pass"),
    Mutant("unit without savepoint", "file", SqliteConnection._attempt, "len(unit.bounds) > 1", "False"),
    Mutant(
        "written before it is asked for",
        "memory",
        InlineEngine._soon,
        "asyncio.get_running_loop().call_soon(step, unit)",
        "unit.tell(); asyncio.get_running_loop().call_soon(step, unit)",
    ),
    Mutant(
        "acknowledged and never committed",
        "file",
        SqliteConnection.write_group,
        'self._connection.execute("COMMIT")',
        'self._connection.execute("ROLLBACK")',
    ),
    Mutant(
        "told before the commit",
        "file",
        Lane._next,
        "self._group = group\n",
        "self._group = group\n    for unit in group:\n        unit.tell()\n",
    ),
    Mutant("lane stands still", "file", Lane._ended, "self._schedule()", "pass"),
    Mutant("leases in the past", "jobs", Store._fill_in, "self._clock.now().timestamp()", "0.0"),
    Mutant("news of nothing", "news", channels_of, "not isinstance(unit.outcome, Exception)", "False"),
    Mutant("news to nobody", "news", Signals.tell, "future.set_result(None)", "pass"),
    Mutant("news not counted", "news", Signals.tell, "+= 1", "+= 0"),
    Mutant("a clock of its own", "time", InlineEngine.now, "self._clock.now().timestamp()", "0.0"),
)
