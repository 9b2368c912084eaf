"""Bugs for the simulated tests of the retry manager to find, and the checks that must find them; see `mutants`."""

from simulation import test_retry_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.retry import RetryBackoffManager
from asyncsandbox.components.retry.attempt import give_up_after
from asyncsandbox.components.retry.breaker import Breaker
from asyncsandbox.components.retry.budget import Budget
from asyncsandbox.components.retry.call import Call
from asyncsandbox.components.retry.cancels import Cancels

RETRY_CHECKS: dict[str, Check] = {
    "retry cancelled": Check(
        test=test_retry_sim.test_a_cancelled_call_makes_no_further_attempt_and_the_others_go_on,
        what=test_retry_sim.PAUSES,
        inputs=test_retry_sim.CANCELS,
    ),
    "retry deadline": Check(
        test=test_retry_sim.test_no_call_outlasts_its_deadline_or_the_one_around_it,
        what=test_retry_sim.PAUSES,
        inputs=test_retry_sim.LIMITS,
    ),
    "retry budget": Check(
        test=test_retry_sim.test_retries_are_a_share_of_the_calls,
        what=test_retry_sim.PAUSES,
        inputs=test_retry_sim.TRAFFIC,
    ),
    "retry probes": Check(
        test=test_retry_sim.test_a_half_open_breaker_lets_its_probes_through_and_nobody_else,
        what=test_retry_sim.PAUSES,
        inputs=test_retry_sim.PROBES,
    ),
    "retry nested": Check(
        test=test_retry_sim.test_attempts_do_not_multiply_and_neighbours_do_not_notice,
        what=test_retry_sim.PAUSES,
        inputs=test_retry_sim.NESTS,
    ),
}

RETRY_MUTANTS: tuple[Mutant, ...] = (
    Mutant("cancellation missed", "retry cancelled", Cancels.came, "self._count() > self._before", "False"),
    Mutant("old cancellation counts", "retry cancelled", Cancels.came, "> self._before", "> 0"),
    Mutant("entry not read", "retry cancelled", RetryBackoffManager._wrap_lightly, "else task.cancelling()", "else 0"),
    Mutant("one retry too many", "retry cancelled", Call._find_refusal, ">= self._settings.max_retries", "> 3"),
    Mutant("attempts not numbered", "retry cancelled", Call._note, "number=len(self._history) + 1", "number=1"),
    Mutant("attempt not kept", "retry cancelled", Call._note, "self._history.append(attempt)", "pass"),
    Mutant("history not noted", "retry cancelled", Call.fail, "self._history, self._explain(verdict)", "(), None"),
    Mutant("no wait fits", "retry cancelled", Call._judge, ">= self._deadline", "is not None"),
    Mutant("any wait fits", "retry deadline", Call._judge, "self._deadline is not None and ", "False and "),
    Mutant("deadline stops nothing", "retry deadline", Call.time_left, "self._deadline is None", "True"),
    Mutant("timeout beyond the deadline", "retry deadline", Call.time_left, "min(left, seconds)", "seconds"),
    Mutant("deadline counts anew", "retry deadline", Call.time_left, "self._clock.monotonic()", "0.0"),
    Mutant("time is never up", "retry deadline", give_up_after, "            give_up()\n", "            pass\n"),
    Mutant("own request left", "retry deadline", give_up_after, "            task.uncancel()\n", "            pass\n"),
    Mutant("own request not known", "retry deadline", give_up_after, "== cancels + 1", "== cancels"),
    Mutant("retry costs nothing", "retry budget", Budget.spend, "self.tokens -= 1", "pass"),
    Mutant("retry without a token", "retry budget", Budget.spend, "self.tokens < 1", "self.tokens < 0"),
    Mutant("a call earns too much", "retry budget", Budget.earn, "self.tokens + self.ratio", "self.burst + 9"),
    Mutant(
        "everybody has a budget",
        "retry budget",
        RetryBackoffManager._share,
        "budget = self._budgets[name, ratio, burst] = ",
        "budget = ",
    ),
    Mutant("everybody is a probe", "retry probes", Breaker._take_place, "self._free -= 1", "pass"),
    Mutant("open lets through", "retry probes", Breaker._take_place, "if now < self._until:", "if False:"),
    Mutant("place not freed", "retry probes", Breaker.leave, "self._free += 1", "pass"),
    Mutant("old ends count", "retry probes", Breaker.is_current, "ticket == self._era", "True"),
    Mutant("one probe will do", "retry probes", Breaker.leave, "== self._settings.probes", ">= 1"),
    Mutant("never closes", "retry probes", Breaker.leave, "self._succeeded += 1", "pass"),
    Mutant("failed probe forgiven", "retry probes", Breaker.leave, "elif not ok:", "elif False:"),
    Mutant("never opens", "retry probes", Breaker._count, ">= self._settings.failures", ">= 99"),
    Mutant("ticket lost", "retry probes", Call.enter, "self._ticket = ", ""),
    Mutant("cancelled probe fails", "retry probes", Call._blame, "None if self._cancels.came else False", "False"),
    Mutant("retries multiply", "retry nested", Call.__init__, "outer is not None and outer.is_retrying", "False"),
    Mutant("retry not marked", "retry nested", Call._tell_retry, "_retried.set(self)", "_retried.set(None)"),
    Mutant("never retries inside", "retry nested", Call.__init__, "and outer.is_retrying", "or True"),
)
