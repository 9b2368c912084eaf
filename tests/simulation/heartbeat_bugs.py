"""Bugs for the heartbeat's simulated tests to find, each one place of its code made wrong."""

from simulation import test_heartbeat_sim
from simulation.mutants import Check, Mutant

from asyncsandbox.components.heartbeat import SchedulerHeartbeat, _Watch
from asyncsandbox.components.heartbeat.beats import Beats
from asyncsandbox.components.heartbeat.monitor import Monitor
from asyncsandbox.components.worker.schedule import Schedule

CHECKS: dict[str, Check] = {
    "beats": Check(
        test=test_heartbeat_sim.test_a_death_is_told_once_where_it_is_true_and_so_is_the_recovery,
        what=test_heartbeat_sim.PAUSES,
        inputs=test_heartbeat_sim.LOOPS,
    ),
    "watched": Check(
        test=test_heartbeat_sim.test_a_watched_block_is_a_beat_only_when_it_ends_well,
        what=test_heartbeat_sim.PAUSES,
        inputs=test_heartbeat_sim.WATCHED,
    ),
    "heartbeat start": Check(
        test=test_heartbeat_sim.test_a_start_at_any_moment_cancelled_leaves_no_timer,
        what=test_heartbeat_sim.PAUSES,
        inputs=test_heartbeat_sim.STARTS,
    ),
    "stalls": Check(
        test=test_heartbeat_sim.test_a_loop_that_stands_still_is_told_of_by_the_tick_alone,
        what=test_heartbeat_sim.PAUSES,
        inputs=test_heartbeat_sim.STALLS,
    ),
    "schedules": Check(
        test=test_heartbeat_sim.test_a_schedule_that_is_silent_turns_the_verdict_and_one_that_fires_turns_it_back,
        what=test_heartbeat_sim.PAUSES,
        inputs=test_heartbeat_sim.JOBS,
    ),
    "dead schedule": Check(
        test=test_heartbeat_sim.test_a_schedule_whose_task_died_is_silent, what=test_heartbeat_sim.PAUSES
    ),
}

MUTANTS: tuple[Mutant, ...] = (
    Mutant("death not told", "beats", Beats.pop_dead, "dead.append((line.name, now - line.since))", "pass"),
    Mutant(
        "death told twice",
        "beats",
        Beats.pop_dead,
        "line.declared_dead = True",
        "line.since = now; self._set_alarm(line)",
    ),
    Mutant(
        "early look is a death", "beats", Beats.pop_dead, "if line.dies_at() > now + _TIMER_SLACK_SECONDS:", "if False:"
    ),
    Mutant(
        "no second look", "beats", Beats.pop_dead, "                self._set_alarm(line)\n", "                pass\n"
    ),
    Mutant("recovery not told", "beats", Beats.beat, "if line.declared_dead else None", "if False else None"),
    Mutant("recovered but still dead", "beats", Beats.beat, "line.declared_dead = False", "pass"),
    Mutant("no alarm after recovery", "beats", Beats.beat, "        self._set_alarm(line)\n", ""),
    Mutant("no timer after recovery", "beats", SchedulerHeartbeat._note_beat, "            self._set_alarm(now)\n", ""),
    Mutant("one timer only", "beats", SchedulerHeartbeat._declare_dead, "        self._set_alarm(now)\n", ""),
    Mutant("timer thought to be set", "beats", SchedulerHeartbeat._declare_dead, "self._alarm = None", "pass"),
    Mutant("late is healthy", "beats", Beats._judge, "return BeatState.LATE", "return BeatState.HEALTHY"),
    Mutant("still expected", "beats", Beats.stop_expecting, "line.expected = None", "pass"),
    Mutant("failure is a beat", "watched", _Watch.__aexit__, "if exc_type is None:", "if True:"),
    Mutant("cancel is a failure", "watched", _Watch.__aexit__, "if isinstance(exc, Exception)", "if exc is not None"),
    Mutant("block never left", "watched", Beats.leave, "line.running - 1", "line.running"),
    Mutant("failure not counted", "watched", Beats.leave, "line.failures += 1", "pass"),
    Mutant("timer left behind", "heartbeat start", SchedulerHeartbeat._stop, "self._alarm.cancel()", "pass"),
    Mutant("stop not told", "heartbeat start", SchedulerHeartbeat._stop, "self._beats.stop()", "pass"),
    Mutant("tick left behind", "heartbeat start", Monitor.stop, "self._timer.cancel()", "pass"),
    Mutant("old alarms kept", "heartbeat start", Beats.start, ", line.alarm_at = now, None, None", " = now, None"),
    Mutant("counts from long ago", "heartbeat start", Beats.start, "= now, None, None", "= line.since, None, None"),
    Mutant("stall not noted", "stalls", Monitor._tick, "if lag >= self._settings.stall_seconds:", "if False:"),
    Mutant("any lag is a stall", "stalls", Monitor._tick, "if lag >= self._settings.stall_seconds:", "if lag > 0:"),
    Mutant("ticks once", "stalls", Monitor._tick, "        self._set_timer(now)\n", ""),
    Mutant("lag from the last tick", "stalls", Monitor._set_timer, "now + self._settings.tick_seconds", "now"),
    Mutant("stall not told", "stalls", Monitor._note, "self._on_stall(stall)", "pass"),
    Mutant("nothing heard", "dead schedule", SchedulerHeartbeat._hear, "isinstance(due, float)", "False"),
    Mutant("skips are life", "schedules", SchedulerHeartbeat._hear, "if name in self._skipped:", "if False:"),
    Mutant("no skip let pass", "schedules", SchedulerHeartbeat._hear, "if name in self._skipped:", "if True:"),
    Mutant("skips for ever", "schedules", SchedulerHeartbeat._hear, "self._skipped.discard(name)", "pass"),
    Mutant("a firing is no beat", "schedules", SchedulerHeartbeat._hear, 'event.name != "schedule.started"', "False"),
    Mutant(
        "end not told",
        "schedules",
        Schedule.keep,
        'tell("schedule.stopped", schedule=self.name)\n            raise',
        "raise",
    ),
    Mutant(
        "death taken for an end",
        "dead schedule",
        Schedule.keep,
        "except asyncio.CancelledError:",
        "except BaseException:",
    ),
)
