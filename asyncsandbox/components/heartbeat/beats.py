"""The book of beats: what is expected, what came, and what that means now. It is told the time and reads no clock.

>>> beats = Beats(max_unexpected=100)
>>> beats.start(0)
>>> beats.expect("billing", Expectation(expect_every_seconds=60, grace_seconds=30), 0)
>>> beats.beat("billing", 10)
>>> [beats.judge("billing", now).value for now in (10, 69, 70, 99, 100)]
['healthy', 'healthy', 'late', 'late', 'dead']
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum

from ..._core.settings import require_number
from ...errors import ConfigurationError

_TIMER_SLACK_SECONDS = 1e-6  # a timer may fire so much early: sums of floats, and the loop's resolution


class BeatState(StrEnum):
    """How it is with something that should give a sign of life now and then."""

    STARTING = "starting"
    HEALTHY = "healthy"
    LATE = "late"
    DEAD = "dead"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How often a beat should come.

    Attributes:
        expect_every_seconds: A beat is due so long after the one before (> 0).
        grace_seconds: How long it may stay out then (>= 0); None for as long again.
        critical: Whether it is NO-GO, rather than a warning, that no beat comes.
    """

    expect_every_seconds: float
    grace_seconds: float | None = None
    critical: bool = True

    def __post_init__(self) -> None:
        require_number("expect_every_seconds", self.expect_every_seconds, above=0)
        if self.grace_seconds is None:
            object.__setattr__(self, "grace_seconds", self.expect_every_seconds)
        require_number("grace_seconds", self.grace_seconds, at_least=0)
        if not isinstance(self.critical, bool):
            raise ConfigurationError("critical", self.critical, "give True or False")

    @property
    def patience_seconds(self) -> float:
        """After how long without a beat it is dead."""
        return self.expect_every_seconds + (self.grace_seconds or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatStatus:
    """What is known of one name.

    Attributes:
        name: The name.
        state: STARTING: no beat yet, none due. HEALTHY: none due. LATE: one is due and did not come. DEAD: nor did it
            within the grace. STOPPED: not expected any more. UNKNOWN: never was.
        beats: How many came, watched blocks that ended well included.
        failures: How many watched blocks raised.
        running: How many watched blocks have begun and not ended.
        last_error: Type and message of what the last failed block raised, or None.
        age_seconds: How long ago the last beat came, or None.
        overdue_seconds: How long one has been due; 0 where none is.
        expect_every_seconds: How often one is expected, or None.
        grace_seconds: How long it may stay out, or None.
        critical: Whether its death is NO-GO.
    """

    name: str
    state: BeatState
    beats: int
    failures: int
    running: int
    last_error: str | None
    age_seconds: float | None
    overdue_seconds: float
    expect_every_seconds: float | None
    grace_seconds: float | None
    critical: bool


@dataclass(slots=True, eq=False)
class _Line:
    """One name in the book."""

    name: str
    expected: Expectation | None = None
    was_expected: bool = False
    since: float = 0.0  # what the next beat is counted from
    last_at: float | None = None
    beats: int = 0
    failures: int = 0
    running: int = 0
    last_error: str | None = None
    declared_dead: bool = False
    alarm_at: float | None = None  # where in the queue of alarms it stands

    def is_critical(self) -> bool:
        return self.expected is not None and self.expected.critical

    def dies_at(self) -> float:
        return self.since + (self.expected.patience_seconds if self.expected else float("inf"))


class Beats:
    """Every name with what came and what is expected of it.

    It promises that a beat costs no more however many names there are, and that only a name that may be dead is
    looked at: `next_alarm` says when to ask for `pop_dead`.

    Args:
        max_unexpected: How many names that nobody expects are kept (>= 1); the oldest go.
    """

    def __init__(self, max_unexpected: int) -> None:
        self._max_unexpected = max_unexpected
        self._expected: dict[str, _Line] = {}
        self._others: dict[str, _Line] = {}
        self._alarms: list[tuple[float, int, _Line]] = []
        self._alarms_made = 0
        self._counting = False
        self._state_at_rest = BeatState.STARTING

    @property
    def next_alarm(self) -> float | None:
        """When a name may be dead at the earliest, or None."""
        return self._alarms[0][0] if self._alarms else None

    def start(self, now: float) -> None:
        """Count from now: whatever came before is on another clock, perhaps."""
        self._counting = True
        for line in self._get_lines():
            line.since, line.last_at, line.alarm_at = now, None, None
            self._set_alarm(line)

    def stop(self) -> None:
        """Expect nothing any more, until the next start."""
        self._counting = False
        self._state_at_rest = BeatState.STOPPED
        self._alarms.clear()
        for line in self._get_lines():
            line.declared_dead = False

    def expect(self, name: str, expected: Expectation, now: float) -> None:
        """Expect beats of a name, or expect them at other times: then the last beat still counts."""
        line = self._expected.get(name)
        if line is None:
            line = self._others.pop(name) if name in self._others else _Line(name)
            line.since, line.last_at = now, None
            self._expected[name] = line
        line.expected, line.was_expected = expected, True
        self._set_alarm(line)

    def stop_expecting(self, name: str) -> None:
        """Expect no more beats of a name; does nothing where none are."""
        line = self._expected.pop(name, None)
        if line is not None:
            line.expected = None
            line.declared_dead = False
            self._keep_other(line)

    def beat(self, name: str, now: float) -> float | None:
        """Note a beat.

        Returns:
            How long there had been none, where the name had been declared dead for it; else None.
        """
        line = self._get(name)
        silent = now - line.since if line.declared_dead else None
        line.beats += 1
        line.since = line.last_at = now
        line.declared_dead = False
        self._set_alarm(line)
        return silent

    def get_expected(self) -> tuple[str, ...]:
        """Return the names that are expected."""
        return tuple(self._expected)

    def is_news(self, name: str, at: float, now: float) -> bool:
        """Tell whether a beat of this moment makes a difference: younger than the last, and not too old to matter."""
        line = self._expected.get(name)
        if line is None or line.expected is None:
            return False
        return at > line.since and at + line.expected.patience_seconds > now

    def enter(self, name: str) -> None:
        """Note that a watched block began."""
        self._get(name).running += 1

    def leave(self, name: str, failed: str | None) -> None:
        """Note that it ended without a beat, and what it raised, if it failed."""
        line = self._get(name)
        line.running = max(0, line.running - 1)
        if failed is not None:
            line.failures += 1
            line.last_error = failed

    def pop_dead(self, now: float) -> list[tuple[str, float]]:
        """Declare dead what is, and return each such name, once, with how long there was no beat."""
        dead: list[tuple[str, float]] = []
        while self._alarms and self._alarms[0][0] <= now + _TIMER_SLACK_SECONDS:
            at, _, line = heapq.heappop(self._alarms)
            if line.alarm_at != at:  # it was given an earlier alarm since
                continue
            line.alarm_at = None
            if line.dies_at() > now + _TIMER_SLACK_SECONDS:
                self._set_alarm(line)
            else:
                line.declared_dead = True
                dead.append((line.name, now - line.since))
        return dead

    def has_critical_death(self, now: float) -> bool:
        """Return whether a name is DEAD whose death is critical."""
        lines = tuple(self._expected.values())
        return any(self._judge(line, now) is BeatState.DEAD and line.is_critical() for line in lines)

    def judge(self, name: str, now: float) -> BeatState:
        """Return the state of a name."""
        return self._judge(self._expected.get(name) or self._others.get(name) or _Line(name), now)

    def get_statuses(self, now: float) -> tuple[BeatStatus, ...]:
        """Return what is known of every name, in the order of names."""
        return tuple(self._describe(line, now) for line in sorted(self._get_lines(), key=lambda line: line.name))

    def _get_lines(self) -> tuple[_Line, ...]:
        # In one piece, because another thread may ask.
        return (*tuple(self._expected.values()), *tuple(self._others.values()))

    def _get(self, name: str) -> _Line:
        line = self._expected.get(name) or self._others.get(name)
        return self._keep_other(_Line(name)) if line is None else line

    def _keep_other(self, line: _Line) -> _Line:
        while len(self._others) >= self._max_unexpected:
            del self._others[next(iter(self._others))]
        self._others[line.name] = line
        return line

    def _set_alarm(self, line: _Line) -> None:
        # One that comes too early costs nothing but a second look, so a beat moves none.
        if not self._counting or line.expected is None or line.declared_dead:
            return
        at = line.dies_at()
        if line.alarm_at is None or at < line.alarm_at:
            line.alarm_at = at
            self._alarms_made += 1
            heapq.heappush(self._alarms, (at, self._alarms_made, line))

    def _judge(self, line: _Line, now: float) -> BeatState:
        if line.expected is None:
            return BeatState.STOPPED if line.was_expected else BeatState.UNKNOWN
        if not self._counting:
            return self._state_at_rest
        age = now - line.since
        if line.declared_dead or age >= line.expected.patience_seconds:
            return BeatState.DEAD
        if age >= line.expected.expect_every_seconds:
            return BeatState.LATE
        return BeatState.STARTING if line.last_at is None else BeatState.HEALTHY

    def _describe(self, line: _Line, now: float) -> BeatStatus:
        expected = line.expected
        state = self._judge(line, now)
        is_due = expected is not None and state in {BeatState.LATE, BeatState.DEAD}
        return BeatStatus(
            name=line.name,
            state=state,
            beats=line.beats,
            failures=line.failures,
            running=line.running,
            last_error=line.last_error,
            age_seconds=None if line.last_at is None else now - line.last_at,
            overdue_seconds=now - line.since - expected.expect_every_seconds if is_due and expected else 0.0,
            expect_every_seconds=None if expected is None else expected.expect_every_seconds,
            grace_seconds=None if expected is None else expected.grace_seconds,
            critical=line.is_critical(),
        )
