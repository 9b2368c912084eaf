"""For a host that configures `logging` itself: its own records as JSON lines, and the correlation id on each of them.

>>> import logging
>>> from asyncsandbox import correlation
>>> record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, "sold %d", (3,), None)
>>> with correlation("req-1"):
...     print(JsonFormatter().format(record).partition('"level"')[2])
:"info","component":"shop","event":"sold 3","correlation_id":"req-1"}
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..._core.context import get_correlation_id
from .clean import Cleaner
from .sinks import SandboxLine, one_line, render, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACT = (
    "*api_key*",
    "*authorization*",
    "*card_number*",
    "*cookie*",
    "*credential*",
    "*passphrase*",
    "*passwd*",
    "*password*",
    "*private_key*",
    "*secret*",
    "*token*",
    "cvc",
    "cvv",
    "iban",
    "pwd",
    "ssn",
)
"""Names whose values are masked unless you say otherwise."""

_OURS = {"sandbox", "correlation_id"}
_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", *_OURS}


class JsonFormatter(logging.Formatter):
    """Formats every record of a handler as one line of strict JSON, the sandbox's and the host's own alike.

    It promises not to raise, whatever the record holds. ``extra=`` fields are kept and masked as the logger's are.

    Args:
        redact: Names to mask, as in `LogSettings.redact`.

    Concurrency: may be shared by handlers and threads. Cancellation: nothing here waits.
    """

    def __init__(self, *, redact: Iterable[str] = REDACT) -> None:
        super().__init__()
        self._cleaner = Cleaner(redact)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without a newline."""
        return render(_sandbox_line(record) or self._line(record))[:-1].decode()

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        try:
            event: object = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not fit the message
            event, fields["args"] = record.msg, record.args
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = record.exc_info[1]
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        line = {
            "timestamp": stamp(datetime.fromtimestamp(record.created, UTC)),
            "level": self._cleaner.text(record.levelname).lower(),
            "component": self._cleaner.text(record.name),
            "event": self._cleaner.text(event),
            "correlation_id": self._cleaner.clean(get_correlation_id()),
        }
        self._cleaner.fill(line, fields)
        return line


class CorrelationFilter(logging.Filter):
    """Adds ``correlation_id`` to every record, for ``%(correlation_id)s`` in a format; ``-`` where there is none.

    Put it on handlers: a logger's filters do not see records that come up from its children.

    Concurrency: may be shared by handlers and threads. Cancellation: nothing here waits.

    Example:
        >>> record = logging.makeLogRecord({})
        >>> with correlation("req-1"):
        ...     CorrelationFilter().filter(record), record.correlation_id
        (True, 'req-1')
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, with its id."""
        record.correlation_id = one_line(str(_id_of(record) or "-"))
        return True


def _id_of(record: logging.LogRecord) -> object:
    line = _sandbox_line(record)
    return get_correlation_id() if line is None else line["correlation_id"]


def _sandbox_line(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return the line that a `StdlibSink` put into the record."""
    line = record.__dict__.get("sandbox")
    return line if isinstance(line, SandboxLine) else None
