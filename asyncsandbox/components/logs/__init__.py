"""One JSON line per event, tied together by correlation ids: never raising, never losing a line, with secrets masked.

>>> from asyncsandbox.components.logs import LogSettings, MemorySink, StructuredLogger
>>> memory = MemorySink()
>>> logger = StructuredLogger(settings=LogSettings(sinks=(memory,)))
>>> request_id = logger.log_request("/api/checkout", "POST", user_id="ada")
>>> logger.log_action("payment_processed", level="info", amount=100, card_token="tok_4242")
>>> line = memory.get_lines(correlation_id=request_id)[-1]
>>> line["event"], line["amount"], line["card_token"]
('payment_processed', 100, '******')
>>> logger.set_correlation_id(None)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..._core.component import Component, ComponentStatus
from ..._core.context import get_correlation_id, set_correlation_id
from ..._core.journal import Level
from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError
from .clean import Cleaner
from .sinks import JsonSink, MemorySink, Sink, StdlibSink, stamp
from .stdlib import REDACT, CorrelationFilter, JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from ..._core.component import Services
    from ..._core.journal import Event

__all__ = [
    "CorrelationFilter",
    "JsonFormatter",
    "JsonSink",
    "LogSettings",
    "LogStatus",
    "MemorySink",
    "Sink",
    "StdlibSink",
    "StructuredLogger",
]

_SHORTEST_NAME = 2
_LEVELS = {level.value: (level.rank, level.value) for level in Level}


def _stdlib_only() -> tuple[Sink, ...]:
    return (StdlibSink(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a `StructuredLogger` logs.

    Attributes:
        level: The lowest level that is written.
        component: Where `log_action` and `log_request` say a line comes from.
        redact: Names whose values are masked, at any depth. ``*`` is any text, ``?`` one character; upper and lower
            case, and whatever is neither letter nor digit, make no difference. Giving some replaces the default ones.
        sinks: Where lines go: any callables that take a line.
        flush_seconds: How long a line waits at most in a buffered `JsonSink`, > 0.
        max_depth: How many containers deep a value is followed, 1 to 100.
        max_items: How many values one field may hold, >= 1.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    level: Level | str = Level.INFO
    component: str = "app"
    redact: tuple[str, ...] = REDACT
    sinks: tuple[Sink, ...] = field(default_factory=_stdlib_only)
    flush_seconds: float = 0.1
    max_depth: int = 8
    max_items: int = 1000

    def __post_init__(self) -> None:
        if self.level not in _LEVELS:
            raise ConfigurationError("LogSettings.level", self.level, f"give one of {', '.join(Level)}")
        require_name("LogSettings.component", self.component)
        for glob in self.redact:  # a mere string falls to letters and is refused too
            if len(glob) < _SHORTEST_NAME or not any(char.isalnum() for char in glob):
                raise ConfigurationError(
                    "LogSettings.redact", self.redact, "give a tuple of names of 2 letters or more"
                )
        for sink in self.sinks:
            if not callable(sink):
                raise ConfigurationError("LogSettings.sinks", sink, "give callables that take a line")
        require_number("LogSettings.flush_seconds", self.flush_seconds, above=0)
        require_number("LogSettings.max_depth", self.max_depth, at_least=1, at_most=100, whole=True)
        require_number("LogSettings.max_items", self.max_items, at_least=1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus(ComponentStatus):
    """What the logger says of itself.

    Attributes:
        lines: Lines handed to the sinks.
        redacted: Values masked in them.
        sink_errors: How often a sink raised; the other sinks got the line all the same.
        lost: Lines that a `JsonSink` could not write, because its target was closed or stayed full.
    """

    lines: int
    redacted: int
    sink_errors: int
    lost: int


class StructuredLogger(Component):
    """Writes what happens as structured lines with correlation ids; works alone, without start().

    It promises that a log call never raises and makes exactly one line of plain JSON data, whatever it is given, with
    secrets masked before any sink sees them. While started, every event of the journal becomes a line too. It does not
    search text that you wrote for secrets, and does not configure `logging`.

    Concurrency: may be called from tasks and threads. Cancellation: no log call waits.
    """

    name = "logger"

    def __init__(self, *, settings: LogSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LogSettings()
        self._cleaner = Cleaner(
            self.settings.redact, max_depth=self.settings.max_depth, max_items=self.settings.max_items
        )
        self._sinks = tuple(map(_protected, self.settings.sinks))
        self._component = self._cleaner.text(self.settings.component)
        self._rank = _LEVELS[self.settings.level][0]
        self._now = self.services.clock.now
        self._unsubscribe: Callable[[], None] = _nothing
        self._lines = self._sink_errors = 0

    def bind(self, services: Services) -> None:
        """Give the logger its clock and journal, before it starts."""
        super().bind(services)
        self._now = services.clock.now

    def log_request(self, path: str, method: str, user_id: str | None = None, **fields: object) -> str:
        """Log that a request came in, and tie everything that follows in this context to it.

        Args:
            path: What was asked for.
            method: How, ``"POST"``.
            user_id: Who asked, if known.
            **fields: The particulars.

        Returns:
            The correlation id: the one set in this context, else a new one of 32 hexadecimal digits, set from now on.
        """
        correlation_id = get_correlation_id()
        if correlation_id is None:
            correlation_id = self.services.clock.random_hex(16)
            set_correlation_id(correlation_id)
        fields = {"path": path, "method": method, "user_id": user_id, **fields}
        if _LEVELS[Level.INFO][0] >= self._rank:
            self._emit(Level.INFO.value, self._component, "request", correlation_id, fields, self._now())
        return correlation_id

    def log_action(self, event: str, /, level: Level | str = Level.INFO, **fields: object) -> None:
        """Log one thing that happened.

        Args:
            event: What happened, ``"payment_processed"``.
            level: How grave it is. One that does not exist is written at info, with a field ``level_given``.
            **fields: The particulars, of any type. One named like ours (``timestamp``, ``component``, ...) gets an
                underscore behind it.
        """
        try:
            rank, level = _LEVELS[level]
        except Exception:  # noqa: BLE001 - not a level, perhaps not even hashable
            rank, level, fields = _read_level(level, fields)
        if rank >= self._rank:
            self._emit(level, self._component, event, get_correlation_id(), fields, self._now())

    def set_correlation_id(self, correlation_id: str | None) -> None:
        """Set the id for the current task and whatever it starts from now on; None takes it away."""
        set_correlation_id(correlation_id)

    def get_correlation_id(self) -> str | None:
        """Return the id of this context, or None."""
        return get_correlation_id()

    def get_status(self) -> LogStatus:
        """Return a frozen, JSON-able account of the logger."""
        return LogStatus(
            name=self.name,
            state=self._state,
            lines=self._lines,
            redacted=self._cleaner.redacted,
            sink_errors=self._sink_errors,
            lost=sum(sink.lost for sink in self._json_sinks()),
        )

    async def _start(self) -> None:
        self._unsubscribe = self.services.journal.subscribe(self._log_event)
        waiting = [sink for sink in self._json_sinks() if sink.buffered]
        for sink in waiting:
            sink.hold(on=True)
        if waiting:
            _ = self.spawn(self._flush_regularly(waiting), name="flush")

    async def _stop(self) -> None:
        self._unsubscribe()
        for sink in self._json_sinks():
            sink.hold(on=False)
            sink.close()

    async def _flush_regularly(self, sinks: list[JsonSink]) -> None:
        while True:
            await self.services.clock.sleep(self.settings.flush_seconds)
            for sink in sinks:
                sink.flush()

    def _json_sinks(self) -> Iterator[JsonSink]:
        return (sink for sink in self.settings.sinks if isinstance(sink, JsonSink))

    def _log_event(self, event: Event) -> None:
        if event.level.rank >= self._rank:
            component = self._cleaner.text(event.component)
            self._emit(event.level.value, component, event.name, event.correlation_id, event.fields, event.at)

    def _emit(
        self,
        level: str,
        component: str,
        event: object,
        correlation_id: str | None,
        fields: Mapping[str, object],
        at: datetime,
    ) -> None:
        line: dict[str, Any] = {
            "timestamp": stamp(at),
            "level": level,
            "component": component,
            "event": event if type(event) is str and event.isascii() else self._cleaner.text(event),
            "correlation_id": correlation_id if correlation_id is None else self._cleaner.text(correlation_id),
        }
        try:
            self._cleaner.fill(line, fields)
        except Exception as error:  # noqa: BLE001 - a log call never raises and never loses its line
            line["log_error"] = type(error).__name__
        self._lines += 1
        for sink in self._sinks:
            try:
                sink(line)
            except Exception:  # noqa: BLE001 - one sink must not cost the others their line
                self._sink_errors += 1


def _nothing() -> None:
    """Stand in for the end of a subscription that was never made."""


def _read_level(level: object, fields: dict[str, object]) -> tuple[int, str, dict[str, object]]:
    known = _LEVELS.get(level.lower()) if type(level) is str else None
    if known is not None:
        return *known, fields
    # Nobody knows how grave it is, so no minimum level may hide it.
    return len(_LEVELS), Level.INFO.value, {**fields, "level_given": level}


def _protected(sink: Sink) -> Sink:
    """Give sinks that are not ours a read-only line: they must not change it for the others."""
    if isinstance(sink, (JsonSink, MemorySink, StdlibSink)):
        return sink
    return lambda line: sink(MappingProxyType(line))
