"""What an alert is: a frozen value that fits into JSON.

>>> Severity.CRITICAL.rank > Severity.WARNING.rank
True
>>> parse_severity("severity", "loud")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: severity='loud' is not allowed: give one of info, warning, error, critical
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from ...errors import ConfigurationError
from .plain import NOTHING, thaw


class Severity(StrEnum):
    """How grave an alert is; the order is the order of definition."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Position in the order, 0 for info to 3 for critical."""
        return RANKS[self]


RANKS: dict[str, int] = {severity: rank for rank, severity in enumerate(Severity)}
_SEVERITIES: dict[str, Severity] = {severity.value: severity for severity in Severity}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that people should know.

    Attributes:
        number: 1, 2, 3, ... in the order in which a system made them.
        task_name: What it is about: ``"payment"``, or the name of the journal's event.
        message: What happened, for people.
        severity: How grave it is.
        fingerprint: What tells it from other alerts of the same task; the message where none was given.
        at: When it was raised last, in UTC.
        first_at: When it was raised first since it was last resolved, in UTC.
        count: How often it was raised since then.
        resolved: Whether this says that it is over.
        dry_run: Whether it comes from a dry run.
        correlation_id: Of the request or run it belongs to, if there is one.
        context: The particulars, read-only, as plain JSON data.
    """

    number: int
    task_name: str
    message: str
    severity: Severity
    fingerprint: str
    at: datetime
    first_at: datetime
    count: int = 1
    resolved: bool = False
    dry_run: bool = False
    correlation_id: str | None = None
    context: Mapping[str, object] = NOTHING

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data for `json.dumps`, a copy of the caller's own."""
        values: dict[str, Any] = msgspec.structs.asdict(self)
        return values | {
            "severity": self.severity.value,
            "at": self.at.isoformat(),
            "first_at": self.first_at.isoformat(),
            "context": thaw(self.context),
        }


def parse_severity(field: str, value: object) -> Severity:
    """Return the severity of that name.

    Raises:
        ConfigurationError: There is none.
    """
    if type(value) is Severity:
        return value
    severity = _SEVERITIES.get(value) if isinstance(value, str) else None
    if severity is None:
        raise ConfigurationError(field, value, f"give one of {', '.join(Severity)}")
    return severity
