"""One stream of frozen events: what the logger writes and what alerts watch.

Components publish; the logger and others listen. Publishing never waits and never raises because of a listener.

>>> journal = Journal(SystemClock())
>>> seen = []
>>> unsubscribe = journal.subscribe(seen.append)
>>> _ = journal.publish("door.opened", component="house", side="north")
>>> seen[0].name, dict(seen[0].fields)
('door.opened', {'side': 'north'})
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from .clock import SystemClock
from .context import get_correlation_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from .clock import Clock

__all__ = ["Event", "Journal", "Level", "SystemClock"]


class Level(StrEnum):
    """How grave an event is; the order is the order of definition."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Position in the order, 0 for debug to 4 for critical."""
        return _RANKS[self]


_RANKS = {level: rank for rank, level in enumerate(Level)}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Attributes:
        name: What happened, in dotted lower case: ``"action.done"``.
        component: Who published it.
        level: How grave it is.
        at: When, in UTC.
        correlation_id: Of the request or run it belongs to, if there is one.
        fields: The particulars, read-only.
    """

    name: str
    component: str
    level: Level
    at: datetime
    correlation_id: str | None
    fields: Mapping[str, object]


class Journal:
    """A bounded stream of events with listeners.

    It promises that every listener is told of every event in order, and that a listener that raises harms nobody
    else; its failure is counted in `listener_errors`. What a listener publishes is told after what it was told of.
    It does not promise to keep events beyond ``max_events``.

    Concurrency: publish and subscribe from the loop's thread. Cancellation: nothing here waits.
    """

    def __init__(self, clock: Clock, *, max_events: int = 10_000) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=max_events)
        self._untold: deque[Event] = deque()
        self._is_telling = False
        self._listeners: dict[object, Callable[[Event], object]] = {}
        self._listener_errors = 0

    @property
    def listener_errors(self) -> int:
        """How often a listener raised."""
        return self._listener_errors

    def publish(self, name: str, *, component: str, level: Level = Level.INFO, **fields: object) -> Event:
        """Record an event and tell every listener.

        Returns:
            The event.
        """
        event = Event(
            name=name,
            component=component,
            level=level,
            at=self._clock.now(),
            correlation_id=get_correlation_id(),
            fields=MappingProxyType(fields),
        )
        self._events.append(event)
        self._untold.append(event)
        if not self._is_telling:
            self._is_telling = True
            try:
                while self._untold:
                    self._tell(self._untold.popleft())
            finally:
                self._is_telling = False
        return event

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners.values()):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener must never break what it listens to
                self._listener_errors += 1

    def subscribe(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Tell ``listener`` of every event from now on.

        Args:
            listener: Called with the event in the publisher's thread; it must be quick and must not block.

        Returns:
            A function that ends the subscription; calling it again does nothing.
        """
        subscription = object()  # the same listener may subscribe twice
        self._listeners[subscription] = listener

        def unsubscribe() -> None:
            self._listeners.pop(subscription, None)

        return unsubscribe

    def get_events(self, name: str | None = None) -> tuple[Event, ...]:
        """Return the events still kept, oldest first, optionally only those of one name."""
        return tuple(event for event in self._events if name is None or event.name == name)
