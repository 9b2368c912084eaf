"""Alerts: what people should know, told to subscribers none of whom can hurt the program or another subscriber.

>>> import asyncio
>>> from asyncsandbox.components.alerts import AlertSystem
>>> async def main() -> None:
...     async with AlertSystem() as alerts:
...         alerts.subscribe("warning", lambda alert: print(alert.severity, alert.message, dict(alert.context)))
...         await alerts.alert("payment", "Insufficient funds", severity="warning", context={"amount": 100})
...         await alerts.alert("payment", "Insufficient funds", severity="warning")  # nobody is told twice
...     print(alerts.get_alerts(task_name="payment")[0].count)
>>> asyncio.run(main())
warning Insufficient funds {'amount': 100}
2
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ..._core.component import Component, ComponentStatus
from ..._core.context import get_correlation_id
from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError, StoreError
from .archive import ARCHIVE, Archive, read_archive
from .audience import EVERYTHING, Audience
from .by_apprise import AppriseSubscriber
from .delivery import Subscriber, SubscriberStatus
from .history import Firing, Firings, History
from .plain import NOTHING, freeze, to_text
from .rules import ALERT_RULES, AlertRule, index
from .values import RANKS, Alert, Severity, parse_severity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..._core.journal import Event
    from .history import Key, Record

__all__ = [
    "ALERT_RULES",
    "Alert",
    "AlertRule",
    "AlertSettings",
    "AlertStatus",
    "AlertSystem",
    "AppriseSubscriber",
    "Severity",
    "SubscriberStatus",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """How alerts are kept and told.

    Attributes:
        repeat_seconds: How long people are not told again of an alert that is raised again (>= 0); 0 tells every time.
        timeout_seconds: How long one delivery may take (> 0).
        drain_seconds: How long `stop` waits for deliveries (>= 0); what is left then is dropped.
        max_queued: How many alerts may wait for one subscriber (>= 1).
        max_history: How many alerts of each severity are kept (>= 1).
        max_firing: How many alerts of each severity are known to be firing (>= 1); the oldest are forgotten.
        rules: Which events of the journal become alerts; giving some replaces the default ones, `ALERT_RULES`.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    repeat_seconds: float = 300.0
    timeout_seconds: float = 30.0
    drain_seconds: float = 5.0
    max_queued: int = 1000
    max_history: int = 1000
    max_firing: int = 1000
    rules: tuple[AlertRule, ...] = ALERT_RULES

    def __post_init__(self) -> None:
        require_number("AlertSettings.repeat_seconds", self.repeat_seconds, at_least=0)
        require_number("AlertSettings.timeout_seconds", self.timeout_seconds, above=0)
        require_number("AlertSettings.drain_seconds", self.drain_seconds, at_least=0)
        require_number("AlertSettings.max_queued", self.max_queued, at_least=1, whole=True)
        require_number("AlertSettings.max_history", self.max_history, at_least=1, whole=True)
        require_number("AlertSettings.max_firing", self.max_firing, at_least=1, whole=True)
        rules: object = self.rules
        if not isinstance(rules, tuple) or not all(isinstance(rule, AlertRule) for rule in rules):
            raise ConfigurationError("AlertSettings.rules", self.rules, "give a tuple of AlertRule")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertStatus(ComponentStatus):
    """What the alert system says of itself.

    Attributes:
        raised: How often an alert was raised.
        held_back: How often nobody was told, because it was a repetition or silenced.
        firing: How many alerts were raised and not resolved, as far as they are remembered.
        subscribers: What came of the alerts published to each subscriber.
    """

    raised: int
    held_back: int
    firing: int
    subscribers: tuple[SubscriberStatus, ...]


class AlertSystem(Component):
    """Tells subscribers what people should know; works alone, without start().

    It promises that `alert` never waits for a subscriber and never raises because of one, or of what it is given to
    report; that each subscriber's delivered + dropped + queued alerts are those published to it; that whatever one
    does never changes what another gets; that a rise in severity is always told, unless it is silenced; and that
    `resolve` tells exactly those who were told of the alert. It does not promise delivery: a full queue gives up what
    is least severe, a delivery that raises or takes too long is not repeated, and `stop` waits for `drain_seconds`.

    While started, events of the journal become alerts by the rules. Before, alerts are delivered as well; after `stop`
    they are only kept.

    Concurrency: use it from one event loop; each subscriber is called in a task or thread of its own, one alert after
    the other. Cancellation: nothing here waits but `stop`, which then drops what is queued.

    Args:
        settings: How alerts are kept and told.
    """

    name = "alerts"

    def __init__(self, *, settings: AlertSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or AlertSettings()
        self._rules = index(self.settings.rules)
        self._history = History(self.settings.max_history)
        self._firings = Firings(self.settings.max_firing)
        self._silences: dict[str, float] = {}  # until when, on the monotonic scale
        self._audience = Audience(self)
        self._number = self._raised = self._held_back = 0
        self._unsubscribe: Callable[[], None] = _nothing
        self._archive: Archive | None = None

    async def alert(
        self,
        task_name: str,
        message: str,
        severity: Severity | str = Severity.WARNING,
        *,
        context: Mapping[str, object] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Raise an alert. Never waits, in spite of the ``await``.

        Raised again, the same alert is counted, and told again after `repeat_seconds` or when it becomes graver.

        Args:
            task_name: What it is about, ``"payment"``.
            message: What happened, for people. What is no text is shown as well as possible.
            severity: A `Severity` or its name.
            context: The particulars, of any type; they are copied as plain data, as far as they are not too large.
            fingerprint: What makes it the same alert; the message by default, so give one where that holds numbers.

        Raises:
            ConfigurationError: There is no such severity.
        """
        severity = parse_severity("severity", severity)
        message = to_text(message)
        key = (to_text(task_name), message if fingerprint is None else to_text(fingerprint))
        self._raise(key, message, severity, context, get_correlation_id())

    async def resolve(self, task_name: str, fingerprint: str | None = None) -> int:
        """Say that it is over; whoever was told of the alert is told of that, also during a silence.

        Args:
            task_name: What the alert is about.
            fingerprint: Which alert; all of the task by default.

        Returns:
            How many alerts were firing.
        """
        task_name = to_text(task_name)
        only = None if fingerprint is None else to_text(fingerprint)
        found = [f for f in self._firings if f.key[0] == task_name and only in (None, f.key[1])]
        for firing in found:
            self._resolve(firing, get_correlation_id())
        return len(found)

    def silence(self, task_name: str, *, seconds: float) -> None:
        """Tell nobody of alerts for a time. They are still kept, and told when they are raised once it is over.

        Args:
            task_name: What the alerts are about; ``"*"`` for all.
            seconds: For how long from now on, >= 0; it replaces what is left of an earlier silence, so 0 ends it.

        Raises:
            ConfigurationError: The name is empty, or the time is no number >= 0.
        """
        require_name("task_name", task_name)
        require_number("seconds", seconds, at_least=0)
        now = self.services.clock.monotonic()
        self._silences[to_text(task_name)] = now + seconds
        self._silences = {name: until for name, until in self._silences.items() if now < until}

    def subscribe(self, event: str, callback: Callable[[Alert], object]) -> Callable[[], None]:
        """Tell ``callback`` of alerts from now on.

        Args:
            event: A severity (that one and above), the name of a task, or ``"*"`` for all.
            callback: A plain function, called in a thread, or a coroutine function. It is called for one alert after
                the other, in the context of this call, with the alert's correlation id.

        Returns:
            A function that ends the subscription and drops what waits; calling it again does nothing.

        Raises:
            ConfigurationError: The name is empty, or the callback cannot be called.
        """
        require_name("event", event)
        if not callable(callback):
            raise ConfigurationError("callback", callback, "give a function that takes an alert")
        subscriber = Subscriber(
            to_text(event),
            callback,
            max_queued=self.settings.max_queued,
            timeout_seconds=self.settings.timeout_seconds,
            on_drop=self._audience.report_drop,
        )
        self._audience.add(subscriber)

        def unsubscribe() -> None:
            if self._audience.remove(subscriber):
                for firing in self._firings:
                    firing.told = tuple(told for told in firing.told if told is not subscriber)

        return unsubscribe

    def get_alerts(
        self, severity: Severity | str | None = None, task_name: str | None = None, limit: int | None = None
    ) -> tuple[Alert, ...]:
        """Return the alerts that are kept, oldest first; repetitions that nobody was told of are counted in one.

        Args:
            severity: Only this one and above.
            task_name: Only those about this.
            limit: Only so many, the newest (>= 0).

        Raises:
            ConfigurationError: There is no such severity, or the limit is no number >= 0.
        """
        least = Severity.INFO if severity is None else parse_severity("severity", severity)
        alerts = self._history.get_alerts(least, None if task_name is None else to_text(task_name))
        if limit is not None:
            require_number("limit", limit, at_least=0, whole=True)
            alerts = alerts[max(0, len(alerts) - limit) :]
        return tuple(alerts)

    async def get_history(
        self, severity: Severity | str | None = None, task_name: str | None = None, limit: int = 1000
    ) -> tuple[Alert, ...]:
        """Return what `get_alerts` does, of every process on the store of the sandbox and of earlier lives as well.

        Other processes write theirs once a second. Without a store it is what this one keeps.

        Args:
            severity: Only this one and above.
            task_name: Only those about this.
            limit: Only so many, the newest (>= 0).

        Raises:
            ConfigurationError: There is no such severity, or the limit is no number >= 0.
            StoreError: The store does not answer.
        """
        here = self.get_alerts(severity, task_name, limit)
        store = self.services.store
        if store is None:
            return here
        if self._archive is not None:
            await self._archive.flush()
        least = Severity.INFO if severity is None else parse_severity("severity", severity)
        return await read_archive(store, least, None if task_name is None else to_text(task_name), limit)

    def get_status(self) -> AlertStatus:
        """Return a frozen, JSON-able account of the alerts."""
        return AlertStatus(
            name=self.name,
            state=self._state,
            raised=self._raised,
            held_back=self._held_back,
            firing=len(self._firings),
            subscribers=tuple(subscriber.get_status() for subscriber in self._audience),
        )

    async def stop(self) -> None:
        """Deliver what is queued, for `drain_seconds` at most, drop the rest, and end every task."""
        self._audience.start_tasks()
        await super().stop()
        self._audience.is_closed = True

    async def _start(self) -> None:
        self._audience.is_closed = False
        self._unsubscribe = self.services.journal.subscribe(self._apply_rules)
        self._audience.wake()
        store, owner = self.services.store, self.services.owner
        if store is not None and owner is not None:
            await store.attach(ARCHIVE)
            self._archive = Archive(self.services, store, owner.id, most=self.settings.max_history)
            _ = self.spawn(self._archive.keep(), name="keep alerts")

    async def _wind_down(self) -> None:
        # The base ends the tasks before it asks `_stop`, which would leave no time to deliver.
        try:
            await self._audience.drain(self.settings.drain_seconds)
        finally:
            await super()._wind_down()

    async def _stop(self) -> None:
        archive, self._archive = self._archive, None
        if archive is not None:
            with suppress(StoreError):  # it was told of, and must not keep anything from ending
                await archive.flush()
        self._unsubscribe()
        self._audience.is_closed = True
        self._audience.drop_all()

    def _apply_rules(self, event: Event) -> None:
        for rule in self._rules.get(event.name, ()):
            message = rule.compose(event.fields)
            key = (rule.event, message)
            if rule.fires(event.name, event.fields):
                severity = parse_severity("severity", rule.severity)
                self._raise(key, message, severity, event.fields, event.correlation_id)
            elif (firing := self._firings.find(key)) is not None:
                self._resolve(firing, event.correlation_id)

    def _raise(self, key: Key, message: str, severity: Severity, context: object, correlation_id: str | None) -> None:
        services = self.services
        clock, host = services.clock, services.host
        now, at, rank = clock.monotonic(), clock.now(), RANKS[severity]
        self._raised += 1
        silenced = bool(self._silences) and self._is_silenced(key[0], now)
        firing = self._firings.find(key)
        if firing is None:
            firing = Firing(key, at)
            count = 1
        else:
            count = firing.record.count + 1
            due = firing.is_due(rank, now, self.settings.repeat_seconds)
            if not due and (silenced or not firing.unheard):
                self._held_back += 1
                firing.record.repeat(at)
                self._note(firing.record)
                return
        self._number += 1
        alert = Alert(
            number=self._number,
            task_name=key[0],
            message=message,
            severity=severity,
            fingerprint=key[1],
            at=at,
            first_at=firing.first_at,
            count=count,
            dry_run=host is not None and host.dry_run,
            correlation_id=correlation_id,
            context=NOTHING if context is None else freeze(context),
        )
        firing.record = self._note(self._history.add(alert))
        self._firings.mark(firing, rank, now, unheard=silenced)
        if silenced:
            self._held_back += 1
            return
        firing.add_told(self._audience.publish(alert))

    def _resolve(self, firing: Firing, correlation_id: str | None) -> None:
        self._firings.remove(firing)
        self._number += 1
        alert = msgspec.structs.replace(
            firing.record.show(),
            number=self._number,
            at=self.services.clock.now(),
            resolved=True,
            correlation_id=correlation_id,
        )
        self._note(self._history.add(alert))
        self._audience.publish_to(alert, firing.told)

    def _note(self, record: Record) -> Record:
        if self._archive is not None:
            self._archive.note(record)
        return record

    def _is_silenced(self, task_name: str, now: float) -> bool:
        return any(now < self._silences.get(name, now) for name in (task_name, EVERYTHING))


def _nothing() -> None:
    """Stand in for the end of a subscription that was never made."""
