"""Whether the program still moves: how late its loop is, what blocked it and where, and who gave no sign of life.

>>> async def main() -> HealthStatus:
...     async with SchedulerHeartbeat() as heartbeat:
...         heartbeat.expect("billing", expect_every_seconds=60, grace_seconds=30)
...         async with heartbeat.watch("billing"):
...             pass  # send the invoices
...         return heartbeat.get_health_status()
>>> status = asyncio.run(main())
>>> status.healthy, [(beat.name, beat.state.value, beat.beats) for beat in status.beats]
(True, [('billing', 'healthy', 1)])
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVarTuple

from ..._core.checks import Check, CheckGroup, CheckResult, CheckStatus
from ..._core.clock import is_virtual
from ..._core.component import Component, ComponentState, ComponentStatus
from ..._core.context import set_correlation_id
from ..._core.journal import Level
from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError, NotStartedError, StoreError
from .beats import Beats, BeatState, BeatStatus, Expectation
from .lag import LagSummary
from .monitor import Monitor
from .stalls import StackLine, Stall
from .store_beats import StoreBeats

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from types import TracebackType

    from ..._core.journal import Event

__all__ = [
    "BeatState",
    "BeatStatus",
    "HealthStatus",
    "HeartbeatSettings",
    "LagSummary",
    "SchedulerHeartbeat",
    "StackLine",
    "Stall",
]


Ts = TypeVarTuple("Ts")

_SCHEDULE = "schedule "  # what schedules beat under; each process keeps its own
_SCHEDULE_GRACE_SECONDS = (1.0, 60.0)  # at least, so that a slow step is no death; at most, so that a silent day is one


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSettings:
    """How the loop is watched.

    Attributes:
        watchdog: Whether lag and stalls are looked for; None: wherever the loop's time is real. True does it in virtual
            time too, without the thread that finds the stack.
        tick_seconds: How often the loop should come by (> 0).
        stall_seconds: How late a tick must be to be a stall (> 0).
        lag_samples: Over how many ticks the lag is summed up (>= 1).
        max_stalls: How many stalls are kept (>= 1).
        recent_seconds: For how long a stall is a warning to the readiness checker (>= 0).
        max_unexpected: How many names of beats that nobody expects are kept (>= 1).
        store_seconds: How often beats are exchanged with other processes, where the sandbox has a store (> 0).
        dump_seconds: Write all stacks to standard error, by `faulthandler`, when the loop stands still for so long
            (> 0), even where C code keeps every Python thread from looking; None: never. One timer per process.
    """

    watchdog: bool | None = None
    tick_seconds: float = 0.05
    stall_seconds: float = 0.1
    lag_samples: int = 1000
    max_stalls: int = 20
    recent_seconds: float = 60.0
    max_unexpected: int = 1000
    store_seconds: float = 5.0
    dump_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.watchdog is not None and not isinstance(self.watchdog, bool):
            raise ConfigurationError("HeartbeatSettings.watchdog", self.watchdog, "give True, False or None")
        require_number("HeartbeatSettings.tick_seconds", self.tick_seconds, above=0)
        require_number("HeartbeatSettings.stall_seconds", self.stall_seconds, above=0)
        require_number("HeartbeatSettings.lag_samples", self.lag_samples, at_least=1, whole=True)
        require_number("HeartbeatSettings.max_stalls", self.max_stalls, at_least=1, whole=True)
        require_number("HeartbeatSettings.recent_seconds", self.recent_seconds, at_least=0)
        require_number("HeartbeatSettings.max_unexpected", self.max_unexpected, at_least=1, whole=True)
        require_number("HeartbeatSettings.store_seconds", self.store_seconds, above=0)
        if self.dump_seconds is not None:
            require_number("HeartbeatSettings.dump_seconds", self.dump_seconds, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus(ComponentStatus):
    """What the heartbeat knows.

    Attributes:
        healthy: What `is_healthy` says.
        lag: How late the loop was lately.
        stall_count: How many stalls there were since the heartbeat was made.
        stalls: The newest of them, the newest last.
        current_stall: The stall that is going on now: only another thread can see it.
        beats: What is known of each name, in the order of names.
    """

    healthy: bool
    lag: LagSummary
    stall_count: int
    stalls: tuple[Stall, ...]
    current_stall: Stall | None
    beats: tuple[BeatStatus, ...]


class SchedulerHeartbeat(Component):
    """Notices when the loop stands still, and when something that should give a sign of life gives none.

    It promises that a stall of at least ``tick_seconds + stall_seconds`` is recorded and one shorter than
    ``stall_seconds`` never is; that without a beat time makes a state no better; and that a name turns DEAD in the
    journal once, and RECOVERED once it beats again. It costs no time for names that are not due. It does not restart
    anything, and beats are judged only while it runs.

    Concurrency: every method that is not a coroutine may be called from any thread. Cancellation: a watched block that
    is cancelled is neither a beat nor a failure.

    Args:
        settings: How the loop is watched.

    Example:
        >>> async def main() -> list[str]:
        ...     async with SchedulerHeartbeat() as heartbeat:
        ...         heartbeat.expect("mail", expect_every_seconds=0.01, grace_seconds=0.01)
        ...         await asyncio.sleep(0.05)
        ...         print(heartbeat.is_healthy())
        ...         heartbeat.beat("mail")
        ...         return [event.name for event in heartbeat.services.journal.get_events()]
        >>> asyncio.run(main())
        False
        ['heartbeat.dead', 'heartbeat.recovered']
    """

    name = "heartbeat"

    def __init__(self, *, settings: HeartbeatSettings | None = None) -> None:
        super().__init__()
        self._settings = settings or HeartbeatSettings()
        self._monitor = Monitor(self._settings, self._tell_stall)
        self._beats = Beats(self._settings.max_unexpected)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._context: Context | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._unsubscribe: Callable[[], None] | None = None
        self._skipped: set[str] = set()  # schedules whose last firing was skipped
        self._elsewhere: StoreBeats | None = None

    def expect(
        self, name: str, *, expect_every_seconds: float, grace_seconds: float | None = None, critical: bool = True
    ) -> None:
        """Expect a beat at regular times, the first one counted from now.

        Expecting a name again changes the times and leaves the last beat what it was.

        Args:
            name: Whose beat.
            expect_every_seconds: A beat is due so long after the one before (> 0).
            grace_seconds: How long it may stay out then before the name is DEAD (>= 0); None for as long again.
            critical: Whether the death is NO-GO and makes `is_healthy` False, rather than a warning.

        Raises:
            ConfigurationError: A value is out of its range.
        """
        require_name("name", name)
        expected = Expectation(
            expect_every_seconds=expect_every_seconds, grace_seconds=grace_seconds, critical=critical
        )
        self._on_loop(self._expect, name, expected)

    def stop_expecting(self, name: str) -> None:
        """Expect no more beats of a name: from now on it is STOPPED. Does nothing where none are expected."""
        self._on_loop(self._beats.stop_expecting, name)

    def beat(self, name: str) -> None:
        """Give a sign of life. A name that nobody expects is counted and never DEAD.

        Raises:
            ConfigurationError: The name is no text, or empty.
        """
        require_name("name", name)
        self._on_loop(self._beat, name)

    def watch(self, name: str) -> AbstractAsyncContextManager[None]:
        """Return an ``async with`` block that is a beat when it ends well.

        One that raises is a failure and no beat; one that is cancelled is neither. The exception goes on unchanged.

        Raises:
            ConfigurationError: The name is no text, or empty.
        """
        require_name("name", name)
        return _Watch(self, name)

    def is_healthy(self) -> bool:
        """Return whether it runs, the loop does not stand still now, and nothing critical that is expected is DEAD."""
        return (
            self._state is ComponentState.RUNNING
            and self._monitor.get_current_stall() is None
            and not self._beats.has_critical_death(self.services.clock.monotonic())
        )

    def get_health_status(self) -> HealthStatus:
        """Return all it knows: frozen, and JSON-able by `dataclasses.asdict`."""
        monitor = self._monitor
        return HealthStatus(
            name=self.name,
            state=self._state,
            healthy=self.is_healthy(),
            lag=monitor.summarize_lag(),
            stall_count=monitor.stall_count,
            stalls=monitor.stalls,
            current_stall=monitor.get_current_stall(),
            beats=self._get_beats(),
        )

    def get_status(self) -> HealthStatus:
        """Return the same as `get_health_status`."""
        return self.get_health_status()

    def get_checks(self) -> tuple[Check, ...]:
        """Return one check, for readiness and liveness: DEAD fails; a recent stall, or a death not critical, warns."""
        return (Check(name=self.name, fn=self._check, groups=(CheckGroup.READINESS, CheckGroup.LIVENESS)),)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        clock = self.services.clock
        # What the timers publish belongs to no request, whoever started this.
        self._context = copy_context()
        self._context.run(set_correlation_id, None)
        self._loop, self._loop_thread = loop, threading.get_ident()
        virtual, wanted = is_virtual(loop), self._settings.watchdog
        if wanted or (wanted is None and not virtual):
            self._monitor.start(clock, self._context, with_thread=not virtual)
        now = clock.monotonic()
        self._beats.start(now)
        self._set_alarm(now)
        self._unsubscribe = self.services.journal.subscribe(self._hear)
        services = self.services
        if services.store is not None and services.owner is not None:
            store, owner = services.store, services.owner
            self._elsewhere = StoreBeats(store, owner, clock, services.journal, self._settings.store_seconds)
            keeping = self._elsewhere.keep(self._beats.get_expected, self._hear_of)
            _ = self._context.run(self.spawn, keeping, name="beats elsewhere")

    async def _stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._skipped.clear()
        self._beats.stop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._loop = self._context = None
        self._monitor.stop()
        elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere is not None:
            with suppress(StoreError, NotStartedError):  # then others hear no more of us
                await elsewhere.flush()

    def _on_loop(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        # From a thread it is the loop's turn: journal and timers are no other thread's.
        loop = self._loop
        if loop is None or threading.get_ident() == self._loop_thread:
            function(*args)
        else:
            with suppress(RuntimeError):  # the loop was closed without a stop, and nobody judges any more
                loop.call_soon_threadsafe(function, *args)

    def _expect(self, name: str, expected: Expectation) -> None:
        now = self.services.clock.monotonic()
        self._beats.expect(name, expected, now)
        self._set_alarm(now)

    def _beat(self, name: str) -> None:
        now = self.services.clock.monotonic()
        if self._elsewhere is not None and not name.startswith(_SCHEDULE):
            self._elsewhere.note(name, now)
        self._note_beat(name, now, now)

    def _hear_of(self, name: str, age: float) -> None:
        """Count a beat in another process, unless a younger one is known."""
        now = self.services.clock.monotonic()
        if self._beats.is_news(name, now - age, now) and not name.startswith(_SCHEDULE):
            self._note_beat(name, now - age, now)

    def _note_beat(self, name: str, at: float, now: float) -> None:
        silent = self._beats.beat(name, at)
        if silent is not None:
            self._set_alarm(now)
            self.services.journal.publish("heartbeat.recovered", component=self.name, beat=name, silent_seconds=silent)

    def _set_alarm(self, now: float) -> None:
        """Have a timer for the first name that may be dead, if there is one and the timer is not early enough."""
        loop, at = self._loop, self._beats.next_alarm
        if loop is None or at is None:
            return
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_later(max(0.0, at - now), self._declare_dead, context=self._context)

    def _declare_dead(self) -> None:
        self._alarm = None
        now = self.services.clock.monotonic()
        dead = self._beats.pop_dead(now)
        self._set_alarm(now)
        for name, silent in dead:
            self.services.journal.publish(
                "heartbeat.dead", component=self.name, level=Level.ERROR, beat=name, silent_seconds=silent
            )

    def _hear(self, event: Event) -> None:
        """Expect a beat of each schedule, which says in the journal what it did and when it is due again."""
        if not event.name.startswith("schedule."):
            return
        name, due = f"{_SCHEDULE}{event.fields['schedule']}", event.fields.get("next_in_seconds")
        if event.name == "schedule.skipped":
            if name in self._skipped:
                return  # time and again is as bad as silence
            self._skipped.add(name)
        else:
            self._skipped.discard(name)
        if event.name != "schedule.started":
            self.beat(name)
        if isinstance(due, float):
            least, most = _SCHEDULE_GRACE_SECONDS
            self.expect(name, expect_every_seconds=due, grace_seconds=min(max(due / 2, least), most))
        else:
            self.stop_expecting(name)

    def _tell_stall(self, stall: Stall) -> None:
        self.services.journal.publish(
            "heartbeat.stall",
            component=self.name,
            level=Level.WARNING,
            duration_seconds=stall.duration_seconds,
            task=stall.task,
            stack=tuple(map(str, stall.stack)),
        )

    def _get_beats(self) -> tuple[BeatStatus, ...]:
        return self._beats.get_statuses(self.services.clock.monotonic())

    async def _check(self) -> CheckResult:
        if self._state is not ComponentState.RUNNING:
            return CheckResult(status=CheckStatus.FAIL, output="the heartbeat does not run: start it")
        dead = [beat for beat in self._get_beats() if beat.state is BeatState.DEAD]
        said = [f"no beat of {beat.name!r}, due for {beat.overdue_seconds:.3g} s" for beat in dead]
        seconds = self._monitor.get_seconds_since_stall()
        if seconds is not None and seconds < self._settings.recent_seconds:
            stall = self._monitor.stalls[-1]
            where = stall.where or "an unknown line"
            said.append(f"the loop stood still for {stall.duration_seconds:.3g} s at {where}")
        failed = any(beat.critical for beat in dead)
        status = CheckStatus.FAIL if failed else CheckStatus.WARN if said else CheckStatus.PASS
        return CheckResult(status=status, output="; ".join(said))


class _Watch(AbstractAsyncContextManager[None]):
    """One watched block."""

    def __init__(self, heartbeat: SchedulerHeartbeat, name: str) -> None:
        self._heartbeat = heartbeat
        self._name = name

    async def __aenter__(self) -> None:
        heartbeat = self._heartbeat
        heartbeat._on_loop(heartbeat._beats.enter, self._name)  # noqa: SLF001 - two classes of one file

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        heartbeat = self._heartbeat
        failed = CheckResult.from_error(exc).output if isinstance(exc, Exception) else None
        heartbeat._on_loop(heartbeat._beats.leave, self._name, failed)  # noqa: SLF001 - as above
        if exc_type is None:
            heartbeat.beat(self._name)
