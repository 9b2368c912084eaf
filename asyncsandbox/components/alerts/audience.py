"""All subscribers of one alert system: who hears of what, and the tasks that tell them.

Publishing puts an alert into queues and asks the loop, once per step, to start the tasks that are missing. So it takes
no step itself, costs little, and needs neither `start` nor even a loop: what is published without one is delivered as
soon as something else is published or started in a loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..._core.journal import Level
from .delivery import STOPPED, UNSUBSCRIBED, Chain, Subscriber, get_chain, put, reachable
from .values import RANKS, Alert, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..._core.component import Component

EVERYTHING = "*"
REPORT_SECONDS = 60.0  # how often at most the journal hears that one subscriber misses alerts


class Audience:
    """The subscribers of ``component``, whose journal, clock and tasks it uses."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._subscribers: dict[Subscriber, None] = {}
        self._by_rank: tuple[tuple[Subscriber, ...], ...] = ((),) * len(Severity)
        self._by_task: dict[str, tuple[Subscriber, ...]] = {}
        self._reported: dict[Subscriber, float] = {}  # when the journal heard last, on the monotonic scale
        self._woken: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self._subscribers)

    def add(self, subscriber: Subscriber) -> None:
        """Tell a subscriber of what is published from now on."""
        self._subscribers[subscriber] = None
        self._sort()

    def remove(self, subscriber: Subscriber) -> bool:
        """Tell it nothing any more and drop what waits; return whether it was there."""
        if subscriber not in self._subscribers:
            return False
        del self._subscribers[subscriber]
        self._sort()
        subscriber.drop_all(UNSUBSCRIBED)
        self._reported.pop(subscriber, None)
        return True

    def publish(self, alert: Alert) -> tuple[Subscriber, ...]:
        """Queue an alert for everybody who is to hear of it, and return them."""
        receivers = self._by_rank[RANKS[alert.severity]]
        if alert.task_name in self._by_task:
            receivers += self._by_task[alert.task_name]
        chain = get_chain()
        if chain:
            receivers = reachable(receivers, chain)
        self._queue(alert, receivers, chain)
        return receivers

    def publish_to(self, alert: Alert, receivers: Iterable[Subscriber]) -> None:
        """Queue an alert for just these."""
        self._queue(alert, receivers, get_chain())

    def wake(self) -> None:
        """Have the running loop start the tasks that are missing, in its next step; without a loop do nothing."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._woken is not loop:
            self._woken = loop
            loop.call_soon(self.start_tasks)

    def start_tasks(self) -> None:
        """Start a task for every subscriber for whom something waits."""
        self._woken = None
        loop = asyncio.get_running_loop()
        spawn, host = self._component.spawn, self._component.services.host
        for subscriber in tuple(self._subscribers):
            if subscriber.needs_task(loop):
                name = f"deliver to {subscriber.callback}"
                subscriber.task = subscriber.context.copy().run(spawn, subscriber.run(host), name=name)

    async def drain(self, seconds: float) -> None:
        """Wait until everything is delivered, or until ``seconds`` have passed."""
        clock = self._component.services.clock
        ends = clock.monotonic() + seconds
        self.start_tasks()
        while tasks := {s.task for s in self._subscribers if s.task is not None and not s.task.done()}:
            left = ends - clock.monotonic()
            if left <= 0:
                return
            await asyncio.wait(tasks, timeout=left)
            self.start_tasks()

    def drop_all(self) -> None:
        """Give up whatever waits."""
        for subscriber in self._subscribers:
            subscriber.drop_all(STOPPED)

    def report_drop(self, subscriber: Subscriber, why: str) -> None:
        """Let the journal know, now and then."""
        services = self._component.services
        now = services.clock.monotonic()
        last = self._reported.get(subscriber)
        if subscriber not in self._subscribers or (last is not None and now - last < REPORT_SECONDS):
            return
        self._reported[subscriber] = now
        services.journal.publish(
            "alerts.undelivered",
            component=self._component.name,
            level=Level.WARNING,
            subscriber=subscriber.callback,
            subscribed_to=subscriber.event,
            why=why,
            dropped=subscriber.dropped,
        )

    def _queue(self, alert: Alert, receivers: Iterable[Subscriber], chain: Chain) -> None:
        put(receivers, (alert, chain), RANKS[alert.severity])
        if self.is_closed:
            self.drop_all()
        else:
            self.wake()

    def _sort(self) -> None:
        ranks = RANKS | {EVERYTHING: 0}
        by_rank: list[list[Subscriber]] = [[] for _ in Severity]
        by_task: dict[str, list[Subscriber]] = {}
        for subscriber in self._subscribers:
            least = ranks.get(subscriber.event)
            if least is None:
                by_task.setdefault(subscriber.event, []).append(subscriber)
            else:
                for heard in by_rank[least:]:
                    heard.append(subscriber)
        self._by_rank = tuple(map(tuple, by_rank))
        self._by_task = {name: tuple(subscribers) for name, subscribers in by_task.items()}
