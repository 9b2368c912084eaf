"""Limits that several processes keep together: permits are leased from the store, a few at a time.

A lease is so many units that one process may admit until a moment of the store's time. Whoever grants it counts all of
them at that moment, the last at which they can be used, so they leave the window no earlier than they do in truth. What
was not used by then is never used. A process that dies takes its leases with it until they have left the window.

>>> lease = Lease("1", units=2, asked=100.0, seconds=5.0, until=1000.0)
>>> lease.take(101.0, 1), lease.take(105.0, 1)
(True, False)
>>> round(lease.last_at, 2)  # in the store's time, to be on the safe side with clocks that do not go alike
996.02
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..._core.store import Migration, Operation, Schema
from ...errors import ConfigurationError, NotStartedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ..._core.clock import Clock
    from ..._core.component import Services
    from ..._core.store import Bound, Store
    from ...errors import LimitExceededError
    from .rule import Rule
    from .rulebook import RuleBook
    from .window import Window

__all__ = ["LIMITS", "Lease", "SharedLines"]

_OF_LINE: Final = "ns = :ns AND resource = :resource AND per = :per"
# The line's row is written first, so that on PostgreSQL whoever leases at the same time waits, and then sees our lease.
LOCK: Final = Operation(
    "limits.lock",
    "INSERT INTO sandbox_limits (ns, resource, per, used_at) VALUES (:ns, :resource, :per, :now) "
    "ON CONFLICT (ns, resource, per) DO UPDATE SET used_at = excluded.used_at",
)
SWEEP: Final = Operation(
    "limits.sweep",
    f"DELETE FROM sandbox_leases WHERE {_OF_LINE} "  # noqa: S608 - our own texts
    "AND until_at + CAST(:window AS DOUBLE PRECISION) <= :now",
)
GRANT: Final = Operation(
    "limits.grant",
    "INSERT INTO sandbox_leases (ns, resource, per, id, units, until_at) "  # noqa: S608 - our own texts
    "SELECT CAST(:ns AS TEXT), CAST(:resource AS TEXT), CAST(:per AS TEXT), CAST(:id AS TEXT), granted, "
    ":now + CAST(:seconds AS DOUBLE PRECISION) FROM (SELECT CASE WHEN CAST(:wanted AS BIGINT) < spare "
    "THEN CAST(:wanted AS BIGINT) ELSE spare END AS granted FROM (SELECT CAST(:most AS BIGINT) - "
    f"COALESCE(SUM(units), 0) AS spare FROM sandbox_leases WHERE {_OF_LINE}) AS counted) AS offered "
    "WHERE granted >= CAST(:least AS BIGINT) RETURNING units, until_at",
)
SETTLE: Final = Operation(
    "limits.settle",
    "UPDATE sandbox_leases SET units = :units, "  # noqa: S608 - our own texts
    "until_at = CASE WHEN until_at < CAST(:last_at AS DOUBLE PRECISION) "
    f"THEN until_at ELSE CAST(:last_at AS DOUBLE PRECISION) END WHERE {_OF_LINE} AND id = :id",
)
LOOK: Final = Operation(
    "limits.look",
    "SELECT until_at + CAST(:window AS DOUBLE PRECISION) - :now AS leaves_in, units FROM sandbox_leases "  # noqa: S608
    f"WHERE {_OF_LINE} AND until_at + CAST(:window AS DOUBLE PRECISION) > :now ORDER BY until_at",
)
LIMITS: Final = Schema(
    name="limits",
    tables=("sandbox_limits", "sandbox_leases"),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_limits (ns TEXT NOT NULL, resource TEXT NOT NULL, per TEXT NOT NULL, "
            "used_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (ns, resource, per))",
            "CREATE TABLE sandbox_leases (ns TEXT NOT NULL, resource TEXT NOT NULL, per TEXT NOT NULL, "
            "id TEXT NOT NULL, units BIGINT NOT NULL, until_at DOUBLE PRECISION NOT NULL, "
            "PRIMARY KEY (ns, resource, per, id))",
        ),
    ),
    operations=(LOCK, SWEEP, GRANT, SETTLE, LOOK),
    prune=Operation(
        "limits.prune",
        "DELETE FROM sandbox_limits WHERE ns = :ns AND (resource, per) IN (SELECT resource, per FROM sandbox_limits "
        "WHERE ns = :ns AND used_at < :before ORDER BY used_at LIMIT :most)",
    ),
)

_PER_WINDOW: Final = 20  # leases that fit into a window: so little of it is given away by counting a lease at its end
_SECONDS: Final = (
    1.0,
    5.0,
)  # but no less, so that a slow store is no refusal; and no more, so that the dead take little
_SHARE: Final = 8  # at most so much of the limit is leased ahead of need
_DRIFT: Final = 0.98  # how much of a lease is used: clocks of two machines do not go quite alike
_LOOK_AGAIN_SECONDS: Final = 1.0  # somebody may have given units back
_SOON_SECONDS: Final = 0.001
_LOOKS_PER_NEW_KEY: Final = 2


class Lease:
    """Units that may be admitted here until a moment.

    Attributes:
        id: Its name.
        left: Units that were not used yet.
        used: Units that were.

    Args:
        name: Its name.
        units: How many.
        asked: When it was asked for, by the clock here. Granted was it later, so by this count it ends too early.
        seconds: How long it lasts.
        until: The same in the store's time.
    """

    __slots__ = ("_asked", "_end", "_seconds", "_until", "id", "last_at", "left", "used")

    def __init__(self, name: str, *, units: int, asked: float, seconds: float, until: float) -> None:
        self.id = name
        self.left = units
        self.used = 0
        self.last_at = until - seconds
        self._asked = asked
        self._seconds = seconds
        self._end = asked + seconds * _DRIFT
        self._until = until

    def is_over(self, now: float) -> bool:
        """Return whether nothing more may be admitted."""
        return not self.left or now >= self._end

    def take(self, now: float, cost: int) -> bool:
        """Admit a call, if it may be."""
        if now >= self._end or self.left < cost:
            return False
        self.left -= cost
        self.used += cost
        elapsed = (now - self._asked) / _DRIFT
        self.last_at = min(self._until, self._until - self._seconds + elapsed)
        return True

    def release(self) -> None:
        """Do nothing: units leave with time."""

    def give_back(self, _stamp: float, cost: int) -> None:
        """Take back what was not used after all; of no use any more where the lease is over."""
        self.left += cost
        self.used -= cost


class SharedLine:
    """One key of a shared limit, as this process sees it.

    It promises that all processes together never admit more than the limit in any window of the store's time; that
    nobody here is served before somebody who came earlier and waits; and that a caller who is cancelled costs nothing.

    Concurrency: for one loop. Cancellation: of a waiting call, costs at most a lease that nobody uses.

    Args:
        rule: What is limited.
        per: Whose line it is.
        services: Store and clock.
        deny: Makes the error of a refused call, from a reason and when it may be tried again.
    """

    def __init__(
        self, rule: Rule, per: Hashable, services: Services, deny: Callable[[str, float | None], LimitExceededError]
    ) -> None:
        self._rule = rule
        self._clock: Clock = services.clock
        self._store = _require_store(services, rule.resource)
        self._deny = deny
        self._line = {"resource": rule.resource, "per": _text_of(per)}
        self._lease: Lease | None = None
        self._wall_end = 0.0
        self._batch = 1
        self._leasing = asyncio.Lock()
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()
        self._attached = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and nothing is leased."""
        over = self._lease is None or self._lease.is_over(self._clock.monotonic())
        return over and not self._queue and not self._leasing.locked()

    @property
    def remaining(self) -> int:
        """Units that may be admitted without asking the store."""
        return 0 if self._lease is None else self._lease.left

    async def check(self, cost: int) -> LimitExceededError | None:
        """Admit a call now, or return why not.

        Raises:
            StoreError: The store does not answer; nothing was admitted.
        """
        if self._queue:
            return self._deny(f"{len(self._queue)} in line before it", None)
        if self._take(cost) is not None:
            return None
        found = await self._get(cost)
        return None if isinstance(found, Lease) else self._refuse(found)

    async def acquire(self, cost: int, until: float | None) -> Lease:
        """Wait for units, first come, first served, and return the lease they were taken from.

        Args:
            cost: How many.
            until: Moment after which they are of no use; None for never.

        Raises:
            LimitExceededError: They are not to be had in time.
            StoreError: The store does not answer; nothing was admitted.
        """
        lease = None if self._queue else self._take(cost)
        if lease is not None:
            return lease
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, cost))
        try:
            return await self._wait(turn, cost, until)
        finally:
            self._queue.remove((turn, cost))
            if self._queue and not self._queue[0][0].done():
                self._queue[0][0].set_result(None)

    async def settle(self) -> None:
        """Tell the store what was not used of the lease; does nothing where there is none."""
        if self._lease is not None:
            async with self._leasing:
                ended, self._lease = self._settling(), None
                await self._store.write_all(*ended)

    async def _wait(self, turn: asyncio.Future[None], cost: int, until: float | None) -> Lease:
        if self._queue[0][0] is not turn:
            left = None if until is None else max(0.0, until - self._clock.monotonic())
            if not (await asyncio.wait((turn,), timeout=left))[0]:
                raise self._deny(f"{len(self._queue) - 1} in line, and its time was up before its turn came", None)
        while not isinstance(found := self._take(cost) or await self._get(cost), Lease):
            if until is not None and self._clock.monotonic() + found > until:
                raise self._refuse(found)
            await self._clock.sleep(min(found, _LOOK_AGAIN_SECONDS))
        return found

    def _take(self, cost: int) -> Lease | None:
        lease = self._lease
        # The monotonic clock may stand still while the machine sleeps, and the time of day may be set: ask both.
        if lease is None or self._now() >= self._wall_end or not lease.take(self._clock.monotonic(), cost):
            return None
        return lease

    async def _get(self, cost: int) -> Lease | float:
        """Take units after leasing some; where there are too few, return in how many seconds to try again."""
        async with self._leasing:
            lease = self._take(cost)  # leased by somebody else meanwhile
            if lease is None:
                await self._lease_more(cost)
                lease = self._take(cost)
            if lease is not None:
                return lease
            rows = await self._store.read(LOOK, **self._line, window=self._window.seconds)
        spare, leaves_in = self._window.units - sum(row["units"] for row in rows), 0.0
        for row in rows:
            if spare >= cost:
                break
            spare, leaves_in = spare + row["units"], row["leaves_in"]
        return max(leaves_in, _SOON_SECONDS)

    async def _lease_more(self, cost: int) -> None:
        if not self._attached:
            await self._store.attach(LIMITS)
            self._attached = True
        ended = self._settling()
        asked, wall, seconds, units = self._clock.monotonic(), self._now(), self._seconds, self._window.units
        needed = sum(each for _, each in self._queue)
        name = self._clock.random_hex(8)
        self._lease = None
        *_, granted = await self._store.write_all(
            LOCK(**self._line),
            *ended,
            SWEEP(**self._line, window=self._window.seconds),
            GRANT(
                **self._line, id=name, seconds=seconds, most=units, least=cost,
                wanted=max(cost, needed, self._batch),
            ),
        )  # fmt: skip
        if granted.rows:
            (row,) = granted.rows
            self._lease = Lease(name, units=row["units"], asked=asked, seconds=seconds, until=row["until_at"])
            self._wall_end = wall + seconds

    def _settling(self) -> tuple[Bound, ...]:
        """Return what tells the store how the lease ended, and learn from it how many units to lease."""
        lease = self._lease
        if lease is None:
            return ()
        most = max(1, self._window.units // _SHARE)
        self._batch = min(most, 2 * self._batch) if not lease.left else max(1, min(most, lease.used))
        return (SETTLE(**self._line, id=lease.id, units=lease.used, last_at=lease.last_at),)

    def _refuse(self, leaves_in: float) -> LimitExceededError:
        units, seconds = self._window
        return self._deny(f"all {units} per {seconds:g} s are used or leased, here and elsewhere", leaves_in)

    @property
    def _window(self) -> Window:
        return self._rule.windows[0]

    @property
    def _seconds(self) -> float:
        least, most = _SECONDS
        return min(max(self._window.seconds / _PER_WINDOW, least), most)

    def _now(self) -> float:
        return self._clock.now().timestamp()


class SharedLines:
    """The lines of all shared limits that this process uses.

    Args:
        book: The rules.
        max_keys: How many lines there may be.
    """

    def __init__(self, book: RuleBook, max_keys: int) -> None:
        self._book = book
        self._max_keys = max_keys
        self._lines: OrderedDict[tuple[str, Hashable], SharedLine] = OrderedDict()

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
            line = self._lines[resource, per] = SharedLine(rule, per, services, deny)
        return line

    async def settle(self) -> None:
        """Tell the store what is not used of any lease; where it does not answer, they end by themselves."""
        lines, self._lines = self._lines, OrderedDict()
        for line in lines.values():
            with suppress(StoreError, NotStartedError):  # or it was closed by whoever opened it
                await line.settle()

    def _make_room(self) -> None:
        """Look at the two lines that were looked at least lately; forget those that are idle."""
        for _ in range(min(_LOOKS_PER_NEW_KEY, len(self._lines))):
            key, line = self._lines.popitem(last=False)
            if not line.is_idle:
                self._lines[key] = line


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
