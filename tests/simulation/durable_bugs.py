"""Bugs for the simulated tests of the durable ledger to find, and those tests, in the form of `mutants.py`."""

from hypothesis import strategies as st
from simulation import test_durable_sim
from simulation.mutants import Check, Mutant

from asyncsandbox._core import owners, pipeline
from asyncsandbox._core.durable_ledger import DurableLedger
from asyncsandbox._core.owners import Owner
from asyncsandbox._core.row_book import RowBook
from asyncsandbox._core.store_keeper import StoreKeeper

DURABLE_CHECKS: dict[str, Check] = {
    "crashes": Check(
        test=test_durable_sim.test_a_key_happens_at_most_once_and_no_outcome_is_lost,
        what=test_durable_sim.TROUBLE,
    ),
    "replica": Check(
        test=test_durable_sim.test_a_replica_is_left_alone_by_one_that_dies_and_comes_back,
        what=test_durable_sim.RACES,
        inputs={"first": st.integers(0, 6)},
    ),
    "equal calls": Check(
        test=test_durable_sim.test_after_a_power_cut_equal_calls_without_a_key_need_a_person,
        what=test_durable_sim.KEYLESS,
    ),
}

_SAVED = "await self._save(row, partial(super().start, fence=fence), table.WRITE_LEASED)"
_RECORDED = "return await self._record(row, self._keeping(ending, result, masked))"

DURABLE_MUTANTS: tuple[Mutant, ...] = (
    Mutant("start not written", "crashes", DurableLedger.start, _SAVED, "await super().start(row, fence)"),
    Mutant("told before it is written", "crashes", DurableLedger.finish, _RECORDED, "return await ending(row)"),
    Mutant("results not kept", "crashes", DurableLedger.finish, _RECORDED, "return await self._record(row, ending)"),
    Mutant("dead by epoch", "replica", owners._judge_task, "OwnerState.ALIVE if leased else", "OwnerState.DEAD or"),
    Mutant("power cut not seen", "crashes", owners._judge_task, '"is_dead", False', '"is_gone", False'),
    Mutant("nobody takes over", "crashes", StoreKeeper._start, "await self.ledger.take_over()", "pass"),
    Mutant("claims kept", "crashes", RowBook.take_over_all, "await self.take_over(", "self.take_over  # ("),
    Mutant("others are not waited for", "replica", DurableLedger.look_up, "await self._wait(call, mark)", "mark"),
    Mutant("lost claims are not", "replica", DurableLedger._save, "raise ClaimLostError(", "return True or ("),
    Mutant("a lost claim is the end", "replica", pipeline._run, "suppress(ClaimLostError)", "suppress()"),
    Mutant("stale rows", "replica", RowBook.refresh, "row.load(", "(lambda *_, **__: None)("),
    Mutant("equal calls run again", "equal calls", DurableLedger._refuse_spent, "if gone:", "if gone is None:"),
    Mutant("lease not given", "replica", Owner.start, "await self._store.write(RENEW", "(lambda *_, **__: 0)(RENEW"),
)
