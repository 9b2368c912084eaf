"""What was raised: rings of alerts, one per severity, and what is firing now, bounded as well.

>>> from datetime import UTC, datetime
>>> history = History(2)
>>> moment = datetime(2026, 1, 1, tzinfo=UTC)
>>> for number, severity in enumerate([Severity.CRITICAL, Severity.INFO, Severity.INFO, Severity.INFO]):
...     _ = history.add(Alert(number=number, task_name="t", message="", severity=severity, fingerprint="",
...                           at=moment, first_at=moment))
>>> [alert.number for alert in history.get_alerts()]
[0, 2, 3]
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from .values import RANKS, Alert, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from .delivery import Subscriber

Key = tuple[str, str]  # task and fingerprint


class Record:
    """An alert of the history; its repetitions that nobody was told of are counted in it."""

    __slots__ = ("alert", "at", "count")

    def __init__(self, alert: Alert) -> None:
        self.alert = alert
        self.at = alert.at
        self.count = alert.count

    def repeat(self, at: datetime) -> None:
        """Count one more."""
        self.count += 1
        self.at = at

    def show(self) -> Alert:
        """Return the alert as it stands."""
        if self.count == self.alert.count:
            return self.alert
        return msgspec.structs.replace(self.alert, count=self.count, at=self.at)


class History:
    """Keeps the newest alerts of each severity, so that many of one never push out those of another."""

    def __init__(self, most: int) -> None:
        self._rings: tuple[deque[Record], ...] = tuple(deque[Record](maxlen=most) for _ in Severity)

    def add(self, alert: Alert) -> Record:
        """Keep an alert."""
        record = Record(alert)
        self._rings[RANKS[alert.severity]].append(record)
        return record

    def get_alerts(self, severity: Severity = Severity.INFO, task_name: str | None = None) -> list[Alert]:
        """Return what is kept of this severity and above, oldest first."""
        records = [record for ring in self._rings[severity.rank :] for record in ring]
        records.sort(key=lambda record: record.alert.number)
        return [record.show() for record in records if task_name in (None, record.alert.task_name)]


class Firing:
    """One alert that was raised and not resolved.

    Attributes:
        record: Its newest place in the history.
        first_at: When it was raised first.
        rank: The severity at which people were last told, or would have been but for a silence.
        marked_at: When that was, on the monotonic scale.
        unheard: Whether a silence kept that from everybody.
        told: Whom it was published to, each once: they will be told when it is over.
    """

    __slots__ = ("first_at", "key", "marked_at", "rank", "record", "told", "unheard")

    record: Record

    def __init__(self, key: Key, first_at: datetime) -> None:
        self.key = key
        self.first_at = first_at
        self.rank = -1
        self.marked_at = 0.0
        self.unheard = False
        self.told: tuple[Subscriber, ...] = ()

    def is_due(self, rank: int, now: float, repeat_seconds: float) -> bool:
        """Tell whether people should hear of it again: it became graver, or some time has passed."""
        return rank > self.rank or now - self.marked_at >= repeat_seconds

    def add_told(self, receivers: tuple[Subscriber, ...]) -> None:
        """Note whom it was published to."""
        if self.told is not receivers:
            self.told = tuple(dict.fromkeys(self.told + receivers)) if self.told else receivers


class Firings:
    """What is firing: at most so many of each severity, those marked longest ago forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_rank: tuple[dict[Key, Firing], ...] = tuple({} for _ in Severity)

    def __len__(self) -> int:
        return sum(map(len, self._by_rank))

    def __iter__(self) -> Iterator[Firing]:
        return (firing for firings in self._by_rank for firing in firings.values())

    def find(self, key: Key) -> Firing | None:
        """Return what is firing under this key."""
        for firings in self._by_rank:
            firing = firings.get(key)
            if firing is not None:
                return firing
        return None

    def mark(self, firing: Firing, rank: int, now: float, *, unheard: bool) -> None:
        """Note that people are told, or would be but for a silence, and make room for it."""
        self.remove(firing)
        firing.rank = rank
        firing.marked_at = now
        firing.unheard = unheard
        firings = self._by_rank[rank]
        firings[firing.key] = firing
        if len(firings) > self._most:
            del firings[next(iter(firings))]

    def remove(self, firing: Firing) -> None:
        """Take one out; does nothing where it is not in."""
        if firing.rank >= 0:
            self._by_rank[firing.rank].pop(firing.key, None)
