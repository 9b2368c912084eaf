"""Bugs for the simulated tests of the governor to find, and those tests, in the form of `mutants.py`."""

from simulation import test_governor_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.governor import GovernorEnforcer
from asyncsandbox.components.governor.line import Line, _Caller
from asyncsandbox.components.governor.permits import HeldPermit, PermitBlock
from asyncsandbox.components.governor.rule import Rule
from asyncsandbox.components.governor.rulebook import RuleBook
from asyncsandbox.components.governor.window import Log

GOVERNOR_CHECKS: dict[str, Check] = {
    "windows": Check(
        most_examples=120,  # a bug that needs one pause and the right inputs takes some 190 runs
        test=test_governor_sim.test_never_too_many_in_a_window_and_nobody_is_passed_by,
        what=test_governor_sim.PAUSES,
        inputs=test_governor_sim.CALLS,
    ),
    "slots": Check(
        test=test_governor_sim.test_never_more_at_a_time_than_slots_and_every_slot_comes_back,
        what=test_governor_sim.PAUSES,
        inputs=test_governor_sim.HOLDS,
    ),
    "keys": Check(test=test_governor_sim.test_another_key_never_waits, what=test_governor_sim.PAUSES),
    "patience": Check(
        test=test_governor_sim.test_nobody_gets_a_permit_after_his_time_and_none_is_lost_by_it,
        what=test_governor_sim.PAUSES,
        inputs=test_governor_sim.PATIENCE,
    ),
    "given back": Check(
        test=test_governor_sim.test_what_is_given_back_is_there_for_the_next,
        what=test_governor_sim.PAUSES,
    ),
    "governor stops": Check(
        test=test_governor_sim.test_who_waits_is_told_when_it_stops_and_what_counts_stays_counted,
        what=test_governor_sim.PAUSES,
        inputs=test_governor_sim.STOPS,
    ),
}

_PASS_BY = """\
        if self._queue and now < self._timer_at:
            return False
        self.advance(now)
        if self._queue or self.spare"""

_FORGET = """\
self._book.dismiss()
        for line in self._lines["api"].values():
            line.stamps.clear()
            line.set_windows(line.windows)"""

GOVERNOR_MUTANTS: tuple[Mutant, ...] = (
    Mutant("stamped when it came", "windows", Line.wait, "self.admit(resumed, cost)", "self.admit(now, cost)"),
    Mutant("not stamped after a wait", "windows", Line.wait, "self.admit(resumed, cost)", "pass"),
    Mutant("promised room given away", "windows", Line.advance, "self.promise(caller.cost)", "self.promise(0)"),
    Mutant("newcomers first", "windows", Line.take, _PASS_BY, "        self.advance(now)\n        if self.spare"),
    Mutant("quick way past the line", "windows", Line._enter, "self.fresh_until = NEVER", "pass"),
    Mutant("last in line first", "windows", Line.advance, "next(iter(self._queue))", "next(reversed(self._queue))"),
    Mutant("granted and cancelled keeps room", "windows", Line._withdraw, "self.promise(-caller.cost)", "pass"),
    Mutant("granted and cancelled keeps running", "windows", Line._withdraw, "self.running -= 1", "pass"),
    Mutant("line stands still after a cancel", "windows", Line._withdraw, "self.advance(now)", "pass"),
    Mutant("one too many by the quick way", "windows", GovernorEnforcer.check_limit, "- 1) >= 0", "- 1) >= -1"),
    Mutant("window one too large", "windows", Log._reckon, "units - len(stamps)", "units + 1 - len(stamps)"),
    Mutant("not looked at again", "windows", Line._look, "        self.advance(now)\n", ""),
    Mutant("timer left behind", "windows", Line._set_timer, "self._timer.cancel()", "pass"),
    Mutant(
        "block releases nothing", "windows", PermitBlock.__aexit__, "self._held.pop().release()", "self._held.pop()"
    ),
    Mutant("slot not given back", "slots", HeldPermit.release, "line.release()", "pass"),
    Mutant("slot comes back unseen", "slots", Line._let_go, "self.advance(now)", "pass"),
    Mutant("slot not counted after a wait", "slots", Line.advance, "self.running += 1", "pass"),
    Mutant("slot not counted without a wait", "slots", GovernorEnforcer.acquire, "line.running += 1", "pass"),
    Mutant("one slot too many", "slots", Line.take, "or not self.has_slot", ""),
    Mutant("cancelled while granted keeps its slot", "slots", Line._withdraw, "if caller.granted:", "if False:"),
    Mutant("key not put away", "slots", Line._tell_unused, "and not self.is_used", "and self.is_used"),
    Mutant("key dropped while it counts", "keys", Rule._put_away, "not self._is_live(line, now)", "True"),
    Mutant("one line for all keys", "keys", Rule.open, "self.lines.get(per)", "next(iter(self.lines.values()), None)"),
    Mutant("slot given back twice", "patience", HeldPermit.release, "self._line, None", "self._line, self._line"),
    Mutant("his time is not watched", "patience", Line._enter, "if caller.until is not None:", "if False:"),
    Mutant("refused and counted as held", "patience", Line._let_go, "self.running -= 1", "pass"),
    Mutant("deadline timer left", "patience", _Caller.settle, "self.timer.cancel()", "pass"),
    Mutant("given back and still counted", "given back", Line.give_back, "self.take_out(stamp, cost)", "pass"),
    Mutant("given back and gone", "given back", Line.give_back, "self._let_go(self._ticker.read())", "pass"),
    Mutant("another's given back", "given back", Log.take_out, "bisect_right(stamps, stamp)", "cost"),
    Mutant("left waiting at a stop", "governor stops", RuleBook.dismiss, "if line.waiting", "if not line.waiting"),
    Mutant("forgets at a stop", "governor stops", GovernorEnforcer.stop, "self._book.dismiss()", _FORGET),
)
