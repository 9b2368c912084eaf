"""Limits that several processes keep together: permits are leased from the store, a few at a time.

A lease is so many units that one process may admit until a moment of the store's time; see `Lease`. Whoever grants it
counts all of them at that moment, the last at which they can be used, so they leave the window no earlier than they do
in truth. When it is over, the store is told what was used of it. A process that dies tells nothing, and takes its
leases with it until they have left the window.

>>> async def main() -> list[bool]:
...     async with open_store(":memory:") as store:
...         services = replace(Services.alone(), store=store)
...         book = RuleBook(max_keys=9, ticker=Ticker(services.clock), get_journal=lambda: services.journal)
...         book.declare("api", (Limit(3, 60.0, shared=True),))
...         one, other = (SharedLines(book, 9, asyncio.create_task).find(services, "api", None, 1) for _ in range(2))
...         return [await line.check(1) is None for line in (one, other, one, other)]
>>> asyncio.run(main())
[True, True, True, False]
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from ..._core.clock import Ticker
from ..._core.component import Services
from ..._core.store import open_store
from ..._core.tasks import complete
from ...errors import ConfigurationError, NotStartedError, StoreError
from .lease import Lease, Reading
from .lease_table import GRANT, LIMITS, LOCK, LOOK, SETTLE, SWEEP
from .limits import Limit
from .rulebook import RuleBook, make_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

    from ..._core.store import Bound, Store
    from ...errors import LimitExceededError
    from .rule import Rule
    from .window import Window

__all__ = ["Limit", "RuleBook", "Services", "SharedLines", "Ticker", "asyncio", "open_store", "replace"]

_PER_WINDOW: Final = 20  # leases that fit into a window: so little of it is given away by counting a lease at its end
_SECONDS: Final = (1.0, 5.0)  # but no less, for the store takes time to answer; and no more, so the dead take little
_PATIENCE: Final = 3  # but so many times as long as the store takes, or its leases would be over when they arrive
_FORGETS: Final = 0.9  # how much of that is remembered from one lease to the next
_SHARE: Final = 8  # at most so much of the limit is leased ahead of need
_LOOK_AGAIN_SECONDS: Final = 1.0  # somebody may have given units back
_SOON_SECONDS: Final = 0.001
_LOOKS_PER_NEW_KEY: Final = 2
_SETTLED_AT_ONCE: Final = 100


class SharedLine:
    """One key of a shared limit, as this process sees it.

    It promises that all processes together never admit more than the limit in any window of the store's time; that
    nobody here is served before somebody who came earlier and waits; and that a caller who is cancelled costs nothing:
    what was leased for him is there for the next.

    Concurrency: for one loop. Cancellation: of whoever leases, ends once it is known what came of it.

    Args:
        rule: What is limited.
        per: Whose line it is.
        services: Store and clock.
        deny: Makes the error of a refused call, from a reason and when it may be tried again.
        on_lease: Called when something was leased, some of which may be left over.
    """

    def __init__(
        self,
        rule: Rule,
        per: Hashable,
        services: Services,
        *,
        deny: Callable[[str, float | None], LimitExceededError],
        on_lease: Callable[[SharedLine], object],
    ) -> None:
        self._rule = rule
        self._clock = services.clock
        self.store = _require_store(services, rule.resource)
        self._deny = deny
        self._on_lease = on_lease
        self._line = {"resource": rule.resource, "per": _text_of(per)}
        self._lease: Lease | None = None
        self._batch = 1
        self._took = 0.0  # seconds until a lease was here, lately at most
        self._is_full = False  # so the store said last, and then a look is cheaper than to ask for a lease
        self._leasing = asyncio.Lock()
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attached = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and nothing is leased."""
        return self.over_in() is None and not self._queue and not self._leasing.locked()

    @property
    def remaining(self) -> int:
        """Units that may be admitted without asking the store."""
        return 0 if self._lease is None else self._lease.left

    def over_in(self) -> float | None:
        """Return in how many seconds what is left of the lease can no longer be used; None where nothing is left."""
        if self._lease is None or not self._lease.left:
            return None
        return self._lease.ends_in(Reading.of(self._clock))

    async def check(self, cost: int) -> LimitExceededError | None:
        """Admit a call now, or return why not.

        Raises:
            StoreError: The store does not answer; nothing was admitted.
            LifecycleError: The governor was stopped meanwhile.
        """
        if self._queue:
            return self._deny(f"{len(self._queue)} in line before it", None)
        if self._take(cost) is not None:
            return None
        found = await self._get(cost)
        return None if isinstance(found, Lease) else self._refuse(found, cost)

    async def acquire(self, asked: float, cost: int, until: float | None) -> Lease:
        """Wait for units, first come, first served, and return the lease they were taken from.

        Args:
            asked: When, on the clock's monotonic scale.
            cost: How many.
            until: Moment after which they are of no use; None for never. The store is asked once where that is now.

        Raises:
            LimitExceededError: They are not to be had in time.
            StoreError: The store does not answer; nothing was admitted.
            LifecycleError: The governor was stopped meanwhile.
        """
        if until is not None and until < asked:
            raise self._deny("its time was up before it asked: give it more time", None)
        lease = None if self._queue else self._take(cost)
        if lease is not None:
            return lease
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, cost))
        try:
            lease = await self._wait(turn, cost, until)
        finally:
            self._queue.remove((turn, cost))
            if self._queue:
                _call(self._queue[0][0])
        if until is not None and asked < until < self._clock.monotonic():
            lease.give_back(0.0, cost)
            raise self._deny("the store took longer than its time: give it more", None)
        return lease

    def dismiss(self) -> None:
        """Send everybody home who waits or asks the store."""
        for turn in (self._stopped, *(turn for turn, _ in self._queue)):
            _call(turn)

    def let_go(self) -> tuple[Bound, ...]:
        """Use the lease no more, and return what tells the store how it ended; nothing where there is none."""
        lease, self._lease = self._lease, None
        if lease is None:
            return ()
        most = max(1, self._window.units // _SHARE)
        self._batch = min(most, 2 * self._batch) if not lease.left else max(1, min(most, lease.used))
        return (SETTLE(**self._line, id=lease.id, units=lease.used, last_at=lease.last_at),)

    async def settle(self) -> None:
        """Use the lease no more, nor one that is on its way, and tell the store how it ended."""
        async with self._leasing:
            await self.store.write_all(*self.let_go())

    async def _wait(self, turn: asyncio.Future[None], cost: int, until: float | None) -> Lease:
        if self._queue[0][0] is not turn:
            left = None if until is None else max(0.0, until - self._clock.monotonic())
            if not (await asyncio.wait((turn,), timeout=left))[0]:
                raise self._deny(f"{len(self._queue) - 1} in line, and its time was up before its turn came", None)
        while not isinstance(found := self._take(cost) or await self._get(cost), Lease):
            if found == math.inf or (until is not None and self._clock.monotonic() + found > until):
                raise self._refuse(found, cost)
            await asyncio.wait((self._stopped,), timeout=min(found, _LOOK_AGAIN_SECONDS))
        return found

    def _take(self, cost: int) -> Lease | None:
        lease = self._lease
        return lease if lease is not None and lease.take(Reading.of(self._clock), cost) else None

    async def _get(self, cost: int) -> Lease | float:
        """Take units after leasing some; where there are too few, return in how many seconds to try again."""
        async with self._leasing:
            self._require_running(cost)
            lease = self._take(cost)  # leased by somebody else meanwhile
            if lease is not None:
                return lease
            if self._is_full and (leaves_in := await self._look(cost)) > 0:
                return leaves_in
            await self._lease_more(cost)
            lease = self._take(cost)
            return max(_SOON_SECONDS, await self._look(cost)) if lease is None else lease

    async def _look(self, cost: int) -> float:
        """Return in how many seconds there is room for a call, if nobody else comes."""
        units, seconds = self._window
        (row,) = await self.store.read(LOOK, **self._line, window=seconds, most=units, cost=cost)
        if row["used"] + cost <= units:
            return 0.0
        return math.inf if row["leaves_in"] is None else float(row["leaves_in"])

    async def _lease_more(self, cost: int) -> None:
        if not self._attached:
            await self.store.attach(LIMITS)
            self._attached = True
        (units, window), seconds = self._window, self._seconds
        needed = sum(each for _, each in self._queue)
        ended, asked, name = self.let_go(), Reading.of(self._clock), self._clock.random_hex(8)
        results, cancellation = await complete(
            self.store.write_all(
                LOCK(**self._line),
                *ended,
                SWEEP(**self._line, window=window),
                GRANT(
                    **self._line, id=name, seconds=seconds, window=window, most=units, least=cost,
                    wanted=max(cost, needed, self._batch),
                ),
            )
        )  # fmt: skip
        self._took = max(self._clock.monotonic() - asked.monotonic, _FORGETS * self._took)
        self._is_full = not results[-1].rows
        for row in results[-1].rows:
            self._lease = Lease(name, units=row["units"], asked=asked, seconds=seconds, until=row["until_at"])
            self._on_lease(self)
        if cancellation is not None:
            raise cancellation

    def _require_running(self, cost: int) -> None:
        if self._stopped.done():
            raise make_stopped(self._rule.resource, cost)

    def _refuse(self, leaves_in: float, cost: int) -> LimitExceededError:
        units, seconds = self._window
        if leaves_in == math.inf:
            remedy = "split it, or raise max_requests"
            return self._deny(f"it costs {cost}, more than the {units} ever admitted at once: {remedy}", None)
        return self._deny(f"all {units} per {seconds:g} s are used or leased, here and elsewhere", leaves_in)

    @property
    def _window(self) -> Window:
        return self._rule.windows[0]

    @property
    def _seconds(self) -> float:
        least, most = _SECONDS
        return max(min(max(self._window.seconds / _PER_WINDOW, least), most), _PATIENCE * self._took)


class SharedLines:
    """The lines of all shared limits that this process uses.

    It promises that what was leased and not used is told to the store when its lease is over, also where nobody comes
    any more; and that it has no task while nothing is leased.

    Concurrency: for one loop. Cancellation: of its task, leaves leases to end by themselves.

    Args:
        book: The rules.
        max_keys: How many lines there may be.
        spawn: Starts the task that tells the store.
    """

    def __init__(
        self, book: RuleBook, max_keys: int, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[Any]]
    ) -> None:
        self._book = book
        self._max_keys = max_keys
        self._spawn = spawn
        self._lines: OrderedDict[tuple[str, Hashable], SharedLine] = OrderedDict()
        self._held: list[tuple[float, int, SharedLine]] = []  # when to look at those with something left over
        self._filed: set[SharedLine] = set()
        self._number = 0
        self._task: asyncio.Task[Any] | None = None

    def find(self, services: Services, resource: str, per: Hashable, cost: int) -> SharedLine | None:
        """Return the line of a call; None where its limit is kept by this process alone, as in a dry run.

        Raises:
            ConfigurationError: As for any limit; or there is no store.
            LimitExceededError: It never admits as much at once; or it would be one line more than there may be.
        """
        host = services.host
        if type(resource) is not str or resource not in self._book.shared or (host is not None and host.dry_run):
            return None
        rule = self._book.find(resource, per, cost)
        line = self._lines.get((resource, per))
        if line is None:
            deny = functools.partial(self._book.deny, resource, per)
            self._make_room()
            if len(self._lines) >= self._max_keys:
                raise deny(f"{self._max_keys} keys are in use already: raise GovernorSettings(max_keys=...)")
            file = functools.partial(self._file, services)
            line = self._lines[resource, per] = SharedLine(rule, per, services, deny=deny, on_lease=file)
        return line

    def dismiss(self) -> None:
        """Send everybody home who waits."""
        for line in self._lines.values():
            line.dismiss()

    async def settle(self) -> None:
        """Dismiss all, and tell the store what was used; where it does not answer, leases end by themselves."""
        self.dismiss()
        lines, self._lines = self._lines, OrderedDict()
        self._held.clear()
        self._filed.clear()
        for line in lines.values():
            with suppress(StoreError, NotStartedError):  # or it was closed by whoever opened it
                await line.settle()

    def _file(self, services: Services, line: SharedLine) -> None:
        """Have a line looked at when its lease is over."""
        over_in = line.over_in()
        if over_in is None or line in self._filed:
            return
        self._number += 1
        self._filed.add(line)
        heappush(self._held, (services.clock.monotonic() + max(over_in, _SOON_SECONDS), self._number, line))
        if self._task is None or self._task.done():
            self._task = self._spawn(self._settle_idle(services))

    async def _settle_idle(self, services: Services) -> None:
        while self._held:
            await services.clock.sleep(max(_SOON_SECONDS, self._held[0][0] - services.clock.monotonic()))
            ended: list[Bound] = []
            store: Store | None = None
            while self._held and self._held[0][0] <= services.clock.monotonic() and len(ended) < _SETTLED_AT_ONCE:
                line = heappop(self._held)[-1]
                self._filed.discard(line)
                over_in = line.over_in()
                if over_in is not None and over_in > 0:  # another lease by now
                    self._file(services, line)
                elif over_in is not None:
                    store = line.store
                    ended += line.let_go()
            if store is not None:
                with suppress(StoreError, NotStartedError):
                    await store.write_all(*ended)

    def _make_room(self) -> None:
        """Look at the two lines that were looked at least lately; forget those that are idle."""
        for _ in range(min(_LOOKS_PER_NEW_KEY, len(self._lines))):
            key, line = self._lines.popitem(last=False)
            if not line.is_idle:
                self._lines[key] = line


def _call(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _require_store(services: Services, resource: str) -> Store:
    if services.store is None:
        raise ConfigurationError("shared", True, f"{resource!r} is kept by many processes: give Sandbox(store=...)")  # noqa: FBT003
    return services.store


def _text_of(per: Hashable) -> str:
    if per is None:
        return ""
    if type(per) is str or type(per) is int:
        return f"{type(per).__name__}:{per}"
    raise ConfigurationError("per", per, "give a string or an integer, which other processes know it by")
