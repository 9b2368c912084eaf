"""Alerts in the store: those of every process, and of earlier lives.

`alert` never waits, so they are written a little later: once a second, all that are new or were raised again, in one
write. What a process had not written when it was killed is lost; a stop writes it.

>>> ARCHIVE.tables
('sandbox_alerts',)
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..._core.action_rows import plain_text
from ..._core.store import Migration, Operation, Schema
from ..._core.store.patience import Patience
from ...errors import StoreError
from .plain import thaw
from .values import RANKS, Alert, Severity

if TYPE_CHECKING:
    from ..._core.component import Services
    from ..._core.store import Bound, Row, Store
    from .history import Record

_COLUMNS: Final = (
    "number, task_name, message, severity, fingerprint, at, first_at, count, resolved, dry_run, correlation_id, context"
)
KEEP: Final = Operation(
    "alerts.keep",
    f"INSERT INTO sandbox_alerts AS a (ns, source, {_COLUMNS}) VALUES (:ns, :source, "  # noqa: S608 - our own texts
    f"{', '.join(f':{name}' for name in _COLUMNS.split(', '))}) "
    "ON CONFLICT (ns, source, number) DO UPDATE SET count = excluded.count, at = excluded.at "
    "WHERE a.count < excluded.count",
)
LIST: Final = Operation(
    "alerts.list",
    f"SELECT source, {_COLUMNS} FROM sandbox_alerts "  # noqa: S608 - our own texts
    "WHERE ns = :ns AND severity >= :severity AND (CAST(:any_task AS BIGINT) = 1 OR task_name = :task_name) "
    "ORDER BY at DESC, source, number DESC LIMIT :most",
)
ARCHIVE: Final = Schema(
    name="alerts",
    tables=("sandbox_alerts",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_alerts (ns TEXT NOT NULL, source TEXT NOT NULL, number BIGINT NOT NULL, "
            "task_name TEXT NOT NULL, message TEXT NOT NULL, severity BIGINT NOT NULL, fingerprint TEXT NOT NULL, "
            "at DOUBLE PRECISION NOT NULL, first_at DOUBLE PRECISION NOT NULL, count BIGINT NOT NULL, "
            "resolved BIGINT NOT NULL, dry_run BIGINT NOT NULL, correlation_id TEXT, context TEXT NOT NULL, "
            "PRIMARY KEY (ns, source, number))",
            "CREATE INDEX sandbox_alerts_at ON sandbox_alerts (ns, at)",
        ),
    ),
    operations=(KEEP, LIST),
    prune=Operation(
        "alerts.prune",
        "DELETE FROM sandbox_alerts WHERE ns = :ns AND (source, number) IN (SELECT source, number FROM sandbox_alerts "
        "WHERE ns = :ns AND at < :before ORDER BY at LIMIT :most)",
    ),
)

_SECONDS: Final = 1.0
_AT_ONCE: Final = 500


class Archive:
    """Writes the alerts of one process to the store, soon.

    What cannot be written is kept in memory, the newest ``most`` alerts of it, and tried again.

    Concurrency: for one event loop; `keep` in a task of its own. Cancellation: ends it; a write that was begun is
    carried out.

    Args:
        services: Of the alert system.
        store: Where.
        source: Which process and life the alerts are of.
        most: How many alerts wait at most.
    """

    def __init__(self, services: Services, store: Store, source: str, *, most: int) -> None:
        self._store = store
        self._source = source
        self._most = most
        self._clock = services.clock
        self._patience = Patience("alerts", services.journal, services.clock, seconds=_SECONDS)
        self._new: dict[int, Record] = {}  # by number

    def note(self, record: Record) -> None:
        """Have an alert written, or written again as it now stands."""
        self._new[record.alert.number] = record
        if len(self._new) > self._most:
            del self._new[next(iter(self._new))]

    async def keep(self) -> None:
        """Write what is new, now and then, until the alert system stops."""
        while True:
            try:
                await self.flush()
                self._patience.has_answered()
            except StoreError as error:
                await self._patience.wait(error)
            else:
                await self._clock.sleep(_SECONDS)

    async def flush(self) -> None:
        """Write what is new.

        Raises:
            StoreError: It is not written, and kept for another time.
        """
        while self._new:
            numbers = list(self._new)[:_AT_ONCE]
            taken = {number: self._new.pop(number) for number in numbers}
            try:
                await self._store.write_all(*(self._bind(record.show()) for record in taken.values()))
            except StoreError:
                self._new = {**taken, **self._new}
                raise

    def _bind(self, alert: Alert) -> Bound:
        return KEEP(
            source=self._source,
            number=alert.number,
            task_name=plain_text(alert.task_name),
            message=plain_text(alert.message),
            severity=RANKS[alert.severity],
            fingerprint=plain_text(alert.fingerprint),
            at=alert.at.timestamp(),
            first_at=alert.first_at.timestamp(),
            count=alert.count,
            resolved=int(alert.resolved),
            dry_run=int(alert.dry_run),
            correlation_id=None if alert.correlation_id is None else plain_text(alert.correlation_id),
            context=plain_text(msgspec.json.encode(thaw(alert.context)).decode()),
        )


async def read_archive(store: Store, severity: Severity, task_name: str | None, most: int) -> tuple[Alert, ...]:
    """Return the newest alerts in a store, oldest first.

    Raises:
        StoreError: It does not answer.
    """
    await store.attach(ARCHIVE)
    rows = await store.read(
        LIST, severity=RANKS[severity], any_task=int(task_name is None), task_name=task_name or "", most=most
    )
    return tuple(_read(row) for row in reversed(rows))


def _read(row: Row) -> Alert:
    context: dict[str, Any] = msgspec.json.decode(row["context"])
    return Alert(
        number=row["number"],
        task_name=row["task_name"],
        message=row["message"],
        severity=list(Severity)[row["severity"]],
        fingerprint=row["fingerprint"],
        at=datetime.fromtimestamp(row["at"], UTC),
        first_at=datetime.fromtimestamp(row["first_at"], UTC),
        count=row["count"],
        resolved=bool(row["resolved"]),
        dry_run=bool(row["dry_run"]),
        correlation_id=row["correlation_id"],
        context=context,
    )
