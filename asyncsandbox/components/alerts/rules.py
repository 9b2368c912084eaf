"""Rules: which events of the journal become alerts.

>>> rule = AlertRule(event="door.opened", severity="warning", message="a door is open", by=("side",))
>>> rule.compose({"side": "north", "by": "the wind"})
'a door is open (side: north)'
>>> AlertRule(event="alerts.undelivered", severity="warning", message="again")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: AlertRule.event='alerts.undelivered' is not allowed: name an event ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._core.settings import require_name
from ...errors import ConfigurationError
from .plain import to_text
from .values import Severity, parse_severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OWN_EVENTS = "alerts."


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """Which event of the journal becomes which alert. The alert's task name is the event's name.

    Attributes:
        event: Name of the event, ``"retry.exhausted"``; no pattern, and none of the alerts' own.
        severity: How grave it is.
        message: What people read.
        by: Fields of the event that tell one alert from another; they are put behind the message.
        when: A field and the value it must have. An event with another value there resolves the alert. None: always.
        resolved_by: Name of another event, with the same fields ``by``, that resolves the alert. Empty: none does.

    Raises:
        ConfigurationError: A value is not usable.
    """

    event: str
    severity: Severity | str
    message: str
    by: tuple[str, ...] = ()
    when: tuple[str, str] | None = None
    resolved_by: str = ""

    def __post_init__(self) -> None:
        require_name("AlertRule.event", self.event)
        require_name("AlertRule.message", self.message)
        parse_severity("AlertRule.severity", self.severity)
        if self.resolved_by:
            require_name("AlertRule.resolved_by", self.resolved_by)
        if not _is_names(self.by):
            raise ConfigurationError("AlertRule.by", self.by, "give a tuple of names of fields")
        if self.when is not None and (not _is_names(self.when) or len(self.when) != 2):  # noqa: PLR2004 - a pair
            raise ConfigurationError("AlertRule.when", self.when, "give a field and a value, or None")
        if self.resolved_by == self.event:
            raise ConfigurationError("AlertRule.resolved_by", self.resolved_by, "name another event; see also `when`")
        if self.event.startswith(_OWN_EVENTS):
            remedy = "name an event that is not the alerts' own, or each would cause the next"
            raise ConfigurationError("AlertRule.event", self.event, remedy)

    def compose(self, fields: Mapping[str, object]) -> str:
        """Return the message for an event with these fields; it is the alert's fingerprint, too."""
        if not self.by:
            return self.message
        return f"{self.message} ({', '.join(f'{name}: {to_text(fields.get(name))}' for name in self.by)})"

    def fires(self, name: str, fields: Mapping[str, object]) -> bool:
        """Tell whether an event raises the alert; if not, it resolves it."""
        return name == self.event and (self.when is None or to_text(fields.get(self.when[0])) == self.when[1])


def index(rules: Iterable[AlertRule]) -> dict[str, tuple[AlertRule, ...]]:
    """Return the rules by the names of the events that concern them."""
    found: dict[str, tuple[AlertRule, ...]] = {}
    for rule in rules:
        for name in filter(None, (rule.event, rule.resolved_by)):
            found[name] = (*found.get(name, ()), rule)
    return found


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


ALERT_RULES: tuple[AlertRule, ...] = (
    AlertRule(
        event="action.unknown",
        severity=Severity.CRITICAL,
        message="nobody knows whether an action happened: find out and recover it",
        by=("action",),
    ),
    AlertRule(event="governor.denied", severity=Severity.WARNING, message="a limit denies calls", by=("resource",)),
    AlertRule(
        event="heartbeat.dead",
        severity=Severity.CRITICAL,
        message="a beat has stopped",
        by=("beat",),
        resolved_by="heartbeat.recovered",
    ),
    AlertRule(event="heartbeat.stall", severity=Severity.WARNING, message="the event loop was blocked"),
    AlertRule(
        event="idempotency.conflict",
        severity=Severity.ERROR,
        message="one key was used for different calls",
        by=("function",),
    ),
    AlertRule(event="job.dead", severity=Severity.ERROR, message="a job failed for good", by=("job",)),
    AlertRule(
        event="readiness.verdict_changed",
        severity=Severity.CRITICAL,
        message="it is not safe to go on",
        by=("group",),
        when=("to", "NO-GO"),
    ),
    AlertRule(event="retry.exhausted", severity=Severity.ERROR, message="retries are used up", by=("call",)),
)
