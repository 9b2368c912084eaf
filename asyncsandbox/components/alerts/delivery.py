"""A subscriber: a bounded queue, and a task for as long as something waits in it.

What was published to a subscriber is delivered, dropped or queued, and the three always add up. Whatever its callback
does is its own trouble: it raises, hangs or is cancelled in a task of its own.

>>> subscriber = Subscriber("*", print, max_queued=2, timeout_seconds=1, on_drop=lambda subscriber, why: print(why))
>>> for alert in ("first", "second", "third"):
...     put([subscriber], (alert, ()), rank=0)
the queue was full
>>> status = subscriber.get_status()
>>> status.published, status.delivered, status.dropped, status.queued
(3, 0, 1, 2)
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..._core.context import bound_host, set_correlation_id
from ..._core.decorators import as_coroutine_function
from .plain import to_text
from .values import Alert, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._core.context import Host

FULL = "the queue was full"
STOPPED = "deliveries have stopped"
UNSUBSCRIBED = "it was unsubscribed"

Call = Callable[[Alert], Coroutine[Any, Any, object]]
Chain = tuple["Subscriber", ...]
Item = tuple[Alert, Chain]

# Through whose callbacks the current code was reached: what they raise must come to an end.
_chain: ContextVar[Chain] = ContextVar("asyncsandbox_alert_chain", default=())
_LONGEST_CHAIN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberStatus:
    """What came of the alerts published to one subscriber; delivered + dropped + queued = published.

    Attributes:
        event: What it subscribed to.
        callback: Name of what is called.
        published: Alerts meant for it.
        delivered: Those its callback has returned from.
        dropped: Those it will not see, or not to the end.
        failed: Those of the dropped at which its callback raised, took too long or was cancelled.
        queued: Those that wait, the one being delivered included.
        last_drop: Why one was dropped last; empty before the first.
    """

    event: str
    callback: str
    published: int
    delivered: int
    dropped: int
    failed: int
    queued: int
    last_drop: str


class Subscriber:
    """One subscription: its queue, its callback, and what came of everything published to it.

    A full queue gives up what is least severe in it, the oldest of that first. Alerts are delivered one after the
    other, in the order in which they came.

    Concurrency: belongs to one event loop at a time. Cancellation: the delivery under way is dropped, what is queued
        stays.

    Attributes:
        lanes: What waits, per severity.
        full_at: How many alerts may have been published before the queue is too full.

    Args:
        event: What it subscribed to, for the status.
        callback: A plain or a coroutine function that takes the alert.
        max_queued: How many alerts may wait.
        timeout_seconds: How long one delivery may take.
        on_drop: Told of each alert that is dropped, and why.
    """

    def __init__(
        self,
        event: str,
        callback: Callable[[Alert], object],
        *,
        max_queued: int,
        timeout_seconds: float,
        on_drop: Callable[[Subscriber, str], object],
    ) -> None:
        self.event = event
        self.callback = to_text(getattr(callback, "__qualname__", type(callback).__qualname__))
        self.context = copy_context()
        self.task: asyncio.Task[Any] | None = None
        self.published = self.delivered = self.dropped = self.failed = 0
        self.last_drop = ""
        self._call = cast("Call", callback) if as_coroutine_function(callback) is callback else _InThread(callback)
        self.full_at = max_queued
        self.lanes: tuple[deque[Item], ...] = tuple(deque[Item]() for _ in Severity)
        self._timeout_seconds = timeout_seconds
        self._on_drop = on_drop
        self._current: Item | None = None

    @property
    def queued(self) -> int:
        """How many alerts wait, the one being delivered included."""
        return sum(map(len, self.lanes)) + (self._current is not None)

    def give_one_up(self) -> None:
        """Drop the oldest of what is least severe."""
        next(lane for lane in self.lanes if lane).popleft()
        self.full_at += 1
        self._drop(FULL)

    def drop_all(self, why: str) -> None:
        """Give up whatever waits."""
        while self._take() is not None:
            self._drop(why)

    def needs_task(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether something waits and nothing on this loop delivers it."""
        task = self.task
        if task is not None and not task.done():
            if task.get_loop() is loop:
                return False
            self._settle("its event loop is gone")
        return any(self.lanes)

    async def run(self, host: Host | None) -> None:
        """Deliver until nothing waits any more."""
        with nullcontext() if host is None else bound_host(host):
            while (item := self._take()) is not None:
                self._current = item
                failure: str | None = "the delivery was cancelled"
                try:
                    failure = await self._deliver(*item)
                finally:
                    self._settle(failure)

    def get_status(self) -> SubscriberStatus:
        """Return a frozen, JSON-able account."""
        return SubscriberStatus(
            event=self.event,
            callback=self.callback,
            published=self.published,
            delivered=self.delivered,
            dropped=self.dropped,
            failed=self.failed,
            queued=self.queued,
            last_drop=self.last_drop,
        )

    def _take(self) -> Item | None:
        lanes = [lane for lane in self.lanes if lane]
        if not lanes:
            return None
        self.full_at += 1
        return min(lanes, key=_number_of_first).popleft()

    async def _deliver(self, alert: Alert, chain: Chain) -> str | None:
        """Call the callback and return what went wrong, if anything.

        Raises:
            asyncio.CancelledError: The delivery was cancelled, not just something in the callback.
        """
        set_correlation_id(alert.correlation_id)
        _chain.set((*chain, self))
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        timeout = asyncio.timeout(self._timeout_seconds)
        try:
            async with timeout:
                await self._call(alert)
        except asyncio.CancelledError as error:
            if task and task.cancelling() > cancelled_before:
                raise
            return to_text(error)  # the callback's own; nobody cancelled us
        except Exception as error:  # noqa: BLE001 - whatever a callback raises is its own trouble
            if not timeout.expired():
                return to_text(error)
        return f"it took longer than {self._timeout_seconds:g} s" if timeout.expired() else None

    def _settle(self, failure: str | None) -> None:
        if self._current is None:
            return
        self._current = None
        if failure is None:
            self.delivered += 1
        else:
            self.failed += 1
            self._drop(failure)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self.last_drop = why
        self._on_drop(self, why)


def put(subscribers: Iterable[Subscriber], item: Item, rank: int) -> None:
    """Queue an alert of this rank for each; a full queue gives one up. One loop, because every alert passes here."""
    for subscriber in subscribers:
        subscriber.published += 1
        subscriber.lanes[rank].append(item)
        if subscriber.published > subscriber.full_at:
            subscriber.give_one_up()


def get_chain() -> Chain:
    """Return through whose callbacks the current code was reached."""
    return _chain.get()


def reachable(receivers: Iterable[Subscriber], chain: Chain) -> tuple[Subscriber, ...]:
    """Return who may be told of an alert raised inside a delivery: others, and of an answer to an answer nobody."""
    if len(chain) > _LONGEST_CHAIN:
        return ()
    return tuple(receiver for receiver in receivers if receiver not in chain)


def _number_of_first(lane: deque[Item]) -> int:
    return lane[0][0].number


class _InThread:
    """Calls a plain function in a thread of its own, which is given up when it takes too long.

    A thread cannot be ended: until it returns, the function is not called again.
    """

    def __init__(self, function: Callable[[Alert], object]) -> None:
        self._function = function
        self._hung: threading.Event | None = None

    async def __call__(self, alert: Alert) -> None:
        from anyio import CapacityLimiter
        from anyio.to_thread import run_sync

        if self._hung is not None and not self._hung.is_set():
            raise TimeoutError("an earlier call has not returned yet")
        tickets, ended = [None], threading.Event()

        def call() -> object:
            try:
                tickets.pop()
            except IndexError:
                return None  # given up before it began
            try:
                return self._function(alert)
            finally:
                ended.set()

        try:
            # A limiter of its own: a full default one must not fail us.
            result = await run_sync(call, abandon_on_cancel=True, limiter=CapacityLimiter(1))
        except asyncio.CancelledError:
            if not tickets:
                self._hung = ended
            tickets.clear()
            raise
        if inspect.isawaitable(result):
            await result
