"""Bugs in the alerts for the simulated tests to find, and the checks that must find them."""

from simulation import test_alerts_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.alerts import AlertSystem
from asyncsandbox.components.alerts.audience import Audience
from asyncsandbox.components.alerts.delivery import Subscriber
from asyncsandbox.components.alerts.history import Firing, Record

ALERT_CHECKS: dict[str, Check] = {
    "trouble": Check(
        test=test_alerts_sim.test_one_subscriber_in_trouble_costs_another_nothing,
        what=test_alerts_sim.PAUSES,
        inputs=test_alerts_sim.TROUBLE,
    ),
    "alerts stop": Check(
        test=test_alerts_sim.test_what_is_published_around_a_stop_is_accounted_for,
        what=test_alerts_sim.PAUSES,
        inputs=test_alerts_sim.STOPS,
    ),
    "told once": Check(
        test=test_alerts_sim.test_many_who_raise_one_alert_tell_it_once_and_its_end_once,
        what=test_alerts_sim.PAUSES,
    ),
    "visitors": Check(
        test=test_alerts_sim.test_a_subscriber_may_come_and_go_at_any_time,
        what=test_alerts_sim.PAUSES,
    ),
}

ALERT_MUTANTS: tuple[Mutant, ...] = (
    Mutant("delivery not queued", "trouble", Subscriber.run, "self._current = item", "pass"),
    Mutant("overflow not counted", "trouble", Subscriber.give_one_up, "self._drop(FULL)", "pass"),
    Mutant("failure delivered", "trouble", Subscriber._settle, "failure is None", "True"),
    Mutant("an error ends the task", "trouble", Subscriber._deliver, "except Exception", "except KeyError"),
    Mutant("a cancellation ends the task", "trouble", Subscriber._deliver, "if task and", "if True or"),
    Mutant("no timeout", "trouble", Subscriber._deliver, "self._timeout_seconds)\n", "None)\n"),
    Mutant("newest first", "trouble", Subscriber._take, ".popleft()", ".pop()"),
    Mutant("gravest first", "trouble", Subscriber._take, "min(lanes, key=_number_of_first)", "lanes[-1]"),
    Mutant("foreign correlation", "trouble", Subscriber._deliver, "set_correlation_id(alert.correlation_id)", "pass"),
    Mutant("woken once", "trouble", Audience.start_tasks, "self._woken = None", "pass"),
    Mutant("never drained", "alerts stop", AlertSystem._wind_down, "await self", "0 and await self"),
    Mutant("open after stop", "alerts stop", AlertSystem._stop, "self._audience.is_closed = True", "pass"),
    Mutant("queued after stop", "alerts stop", Audience._queue, "self.drop_all()", "pass"),
    Mutant("stop keeps the queue", "alerts stop", AlertSystem._stop, "self._audience.drop_all()", "pass"),
    Mutant("no dedup", "told once", Firing.is_due, "return rank > self.rank or", "return True or"),
    Mutant("count lost", "told once", Record.repeat, "self.count += 1", "pass"),
    Mutant("resolved twice", "told once", AlertSystem._resolve, "self._firings.remove(firing)", "pass"),
    Mutant("resolved for nobody", "told once", AlertSystem._raise, "firing.add_told(", "("),
    Mutant("left but told", "visitors", Audience.remove, "subscriber.drop_all(UNSUBSCRIBED)", "pass"),
    Mutant("left but listed", "visitors", Audience.remove, "del self._subscribers[subscriber]", "pass"),
)  # fmt: skip
