"""How often, how much, and how many at a time: exact limits, first come first served.

It promises never more than ``max_requests`` in *any* window of ``window_seconds``, that a refused call spends nothing
and is told exactly when it would be admitted, and that those who wait are served in the order they came. The counts are
kept in memory, for one process.

>>> import asyncio
>>> governor = GovernorEnforcer()
>>> governor.set_limit("payment", 2, 3600)
>>> async def main() -> None:
...     for _ in range(3):
...         allowed, message = await governor.check_limit("payment")
...         print(allowed, message)
>>> asyncio.run(main())
True
True
False limit 'payment' denies the call: 2 of 2 per 3600 s are used; try again in 3600 s, or wait with governor.permit()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping  # noqa: TC003 - settings read from the environment look up their annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, overload

from ..._core.clock import Ticker
from ..._core.component import Component, ComponentStatus
from ..._core.context import get_deadline
from ..._core.settings import require_number
from ...errors import LimitExceededError
from .forecast import get_least_seconds
from .limits import Declared, Limit, LimitDecision, LimitStatus, parse_limits, require_cost
from .permits import DryLine, HeldPermit, PermitBlock, PermitDecorator, limit_calls
from .rulebook import RuleBook
from .shared import SharedLines
from .window import ALWAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from ..._core.component import Services

__all__ = ["GovernorEnforcer", "GovernorSettings", "GovernorStatus", "Limit", "LimitDecision", "LimitStatus"]

_ONE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorSettings:
    """What is limited from the start.

    Attributes:
        limits: By resource, a `Limit` or a tuple of them.
        max_keys: How many keys one resource counts separately at the same time (whole, >= 1). A key is forgotten only
            when nothing it did counts any more; where there is no room, a new key is denied.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    limits: Mapping[str, Limit | tuple[Limit, ...]] = field(default_factory=dict)
    max_keys: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", Declared(self.limits))
        require_number("GovernorSettings.max_keys", self.max_keys, at_least=1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorStatus(ComponentStatus):
    """What the governor says of itself.

    Attributes:
        limits: How far each resource is used, by name.
    """

    limits: tuple[LimitStatus, ...]


class GovernorEnforcer(Component):
    """Admits calls as limits allow, and lets the others wait in line or tells them when to come again.

    Works without `start` as well. It promises, for every key by itself:

    * never more than ``max_requests`` units in any half-open window of ``window_seconds``, whatever a call costs; one
      that waited counts from the moment in which it goes on;
    * a refusal means that admitting would break that, or that somebody who came earlier waits; it spends nothing;
    * first in, first out, whatever each costs; a caller who is cancelled or gives up leaves no trace;
    * what still counts is never forgotten, and idle keys cost no time.

    In a dry run, `permit` and `limited` do not wait: what they would have waited for is in `get_wanted`.

    Concurrency: use it from one event loop at a time. Cancellation: of a waiting call, costs nothing; a permit that was
    just granted goes to the next in line.

    Args:
        settings: What is limited from the start.

    Example:
        >>> import asyncio
        >>> async def main() -> int:
        ...     governor = GovernorEnforcer()
        ...     governor.set_limit("api", 10, 1.0, max_concurrent=2)
        ...     @governor.limited("api")
        ...     async def fetch(page: int) -> int:
        ...         return page
        ...     return sum(await asyncio.gather(*(fetch(page) for page in range(5))))
        >>> asyncio.run(main())
        10
    """

    name = "governor"

    def __init__(self, *, settings: GovernorSettings | None = None) -> None:
        super().__init__()
        self._settings = settings or GovernorSettings()
        self._ticker = Ticker(self.services.clock)
        self._book = RuleBook(
            max_keys=self._settings.max_keys, ticker=self._ticker, get_journal=lambda: self.services.journal
        )
        self._lines = self._book.lines  # one step nearer
        self._shared = SharedLines(
            self._book, self._settings.max_keys, lambda work: self.spawn(work, name="settle leases")
        )
        self._wanted: Counter[tuple[str, Hashable]] = Counter()
        for resource, limits in self._settings.limits.items():
            self.set_limits(resource, limits)

    def set_limit(
        self,
        resource: str,
        max_requests: int | None = None,
        window_seconds: float | None = None,
        *,
        per: str | None = None,
        max_concurrent: int | None = None,
        shared: bool = False,
    ) -> None:
        """Let a resource have exactly this limit; see `Limit`. What was admitted before stays counted.

        Raises:
            ConfigurationError: A value is out of its range, or the resource is in use and counts by something else.
        """
        limit = Limit(max_requests, window_seconds, per=per, max_concurrent=max_concurrent, shared=shared)
        self.set_limits(resource, [limit])

    def set_limits(self, resource: str, limits: Sequence[Limit] | Limit) -> None:
        """Let a resource have exactly these limits: a call is admitted by all of them, or spends nothing.

        What was admitted before stays counted, as far back as the longest window so far. Who waits goes on waiting, but
        is refused if that would be for ever.

        Raises:
            ConfigurationError: There is none, they differ in ``per``, or the resource is in use and counts by something
                else.
        """
        self._book.declare(resource, parse_limits(resource, limits))

    def has_limit(self, resource: str) -> bool:
        """Tell whether a limit of this name is declared."""
        return resource in self._book.rules

    async def check_limit(self, resource: str, *, per: Hashable = None, cost: int = 1) -> LimitDecision:
        """Say whether a call may be made now. If so, it counts: this *consumes*. It never waits.

        Args:
            resource: Name of the limit. A name that is not declared is denied.
            per: Whose call it is, for a limit that counts by key.
            cost: How many units it takes (whole, >= 1).

        Raises:
            ConfigurationError: ``per`` is missing, superfluous or not hashable, the cost is no number of units, or the
                resource has a ``max_concurrent``, which needs to know when the call ends.
        """
        try:
            line = self._lines[resource][per]
        except (KeyError, TypeError):
            return await self._check_shared(resource, per, cost)
        now = self._ticker.now()
        if now < line.fresh_until and cost is _ONE and (spare := line.spare - 1) >= 0:  # what `take` comes to, unrolled
            line.spare = spare
            line.stamps.append(now)
            return LimitDecision(True, "", 0.0, spare)  # noqa: FBT003 - by keyword it takes twice as long
        return self._check(resource, per, cost)

    async def require_limit(self, resource: str, *, per: Hashable = None, cost: int = 1) -> None:
        """Do as `check_limit` does, and raise where the call may not be made.

        Raises:
            LimitExceededError: It may not; ``retry_after_seconds`` says when it may.
            ConfigurationError: As for `check_limit`.
        """
        shared = self._shared.find(self.services, resource, per, cost)
        error = self._book.judge(resource, per, cost)[0] if shared is None else await shared.check(cost)
        if error is not None:
            raise error

    def permit(
        self, resource: str, *, per: Hashable = None, cost: int = 1, timeout_seconds: float | None = None
    ) -> PermitBlock:
        """Return an ``async with`` block that waits for a permit and holds it.

        Where the permit cannot be had within ``timeout_seconds``, or by the deadline of the action that runs, entering
        fails at once instead of waiting in vain. The block may be kept and entered again, like a semaphore.

        Args:
            resource: Name of the limit.
            per: Whose call it is, for a limit that counts by key.
            cost: How many units it takes (whole, >= 1).
            timeout_seconds: How long to wait at most (>= 0); None for as long as it takes. 0 does not wait.

        Raises:
            ConfigurationError: ``timeout_seconds`` is out of its range. On entering, as for `check_limit`.
            LimitExceededError: On entering: no such limit, more than is ever admitted, or not to be had in time.
            LifecycleError: On entering: the governor was stopped meanwhile.
        """
        _require_timeout(timeout_seconds)
        return PermitBlock(self._take, resource, per, cost, timeout_seconds)

    def limited(
        self,
        resource: str,
        *,
        per: Callable[..., Hashable] | None = None,
        cost: int | Callable[..., int] = 1,
        timeout_seconds: float | None = None,
    ) -> PermitDecorator:
        """Return a decorator that lets every call wait for a permit and hold it; see `permit`.

        Args:
            resource: Name of the limit. It may be declared later.
            per: Gives whose call it is. Like ``cost``, called with just those arguments of the function that it names.
            cost: How many units a call takes, or a callback that gives it.
            timeout_seconds: How long to wait at most (>= 0); None for as long as it takes.

        Raises:
            ConfigurationError: A callback asks for an argument that there is not, or a value is out of its range.
        """
        _require_timeout(timeout_seconds)
        if not callable(cost):
            require_cost(cost)

        def take(key: Hashable, units: int) -> Coroutine[Any, Any, HeldPermit]:
            return self._take(resource, key, units, timeout_seconds)

        return limit_calls(take, per, cost)

    async def acquire(
        self,
        resource: str,
        *,
        per: Hashable = None,
        cost: int = 1,
        until: float | None = None,
        timeout_seconds: float | None = None,
    ) -> HeldPermit:
        """Wait for a permit, first come first served, in a dry run too. It is to be released; `permit` does that.

        Args:
            resource: Name of the limit.
            per: Whose permit, for a limit that counts by key.
            cost: How many units it takes.
            until: Moment, on the clock's monotonic scale, after which it is of no use; None for never.
            timeout_seconds: The same, in seconds from now.

        Raises:
            LimitExceededError: No such limit, more than it ever admits, or not to be had in time.
            ConfigurationError: As for `check_limit`.
            LifecycleError: The governor was stopped meanwhile.
        """
        asked = self._ticker.read()
        if timeout_seconds is not None:
            until = min(asked + timeout_seconds, ALWAYS if until is None else until)
        try:
            line = self._lines[resource][per]
        except (KeyError, TypeError):
            line = None
        if line is None:
            shared = self._shared.find(self.services, resource, per, cost)
            if shared is not None:
                lease = await shared.acquire(asked, cost, until)
                now = self._ticker.read()
                return HeldPermit(lease, now, cost, now - asked)
        if line is None or cost is not _ONE:
            line = self._book.open(resource, per, cost, asked)
        if (until is None or asked <= until) and line.take(asked, cost):
            line.running += 1
            return HeldPermit(line, asked, cost, 0.0)
        if until is not None and (until <= asked or line.bound_behind(asked, cost) > until):
            raise line.refuse(cost)
        stamp = await line.wait(asked, cost, until)
        return HeldPermit(line, stamp, cost, stamp - asked)

    def forecast_seconds(self, wanted: Mapping[tuple[str, Hashable], int]) -> float:
        """Return how long it takes at least to admit so many units, from limits nobody has used yet.

        Args:
            wanted: How many units, by name of the limit and whose they are.

        Raises:
            ConfigurationError: A limit is not declared.
        """
        return max(
            (get_least_seconds(self._book.get(resource).windows, units) for (resource, _), units in wanted.items()),
            default=0.0,
        )

    def note_wanted(self, resource: str, *, per: Hashable = None, cost: int = 1) -> None:
        """Count a permit that a dry run would need and does not take; the limit may be declared later."""
        self._wanted[resource, per] += cost

    def get_wanted(self) -> Mapping[tuple[str, Hashable], int]:
        """Return what a dry run would have needed and did not take, as `forecast_seconds` takes it."""
        return +self._wanted

    @overload
    def get_status(self) -> GovernorStatus: ...
    @overload
    def get_status(self, resource: str, *, per: Hashable = None) -> LimitStatus: ...
    def get_status(self, resource: str | None = None, *, per: Hashable = None) -> GovernorStatus | LimitStatus:
        """Return how far one resource is used, or all of them. Spends nothing.

        Args:
            resource: Name of the limit; None for the account of the component.
            per: By whom, for a limit that counts by key.

        Raises:
            ConfigurationError: There is no such limit, or ``per`` is superfluous or not hashable.
        """
        if resource is not None:
            return self._book.get_status(resource, per)
        limits = tuple(rule.get_status() for _, rule in sorted(self._book.rules.items()))
        return GovernorStatus(name=self.name, state=self._state, limits=limits)

    def bind(self, services: Services) -> None:
        """Take the clock, the journal and the mode of a sandbox; see `Component.bind`."""
        super().bind(services)
        self._ticker.use(services.clock)

    async def stop(self) -> None:
        """Stop, also where it was never started: those who wait get a `LifecycleError`. What counts stays counted."""
        await super().stop()
        self._book.dismiss()
        self._shared.dismiss()

    async def _start(self) -> None:
        self._wanted.clear()

    async def _stop(self) -> None:
        await self._shared.settle()

    async def _check_shared(self, resource: str, per: Hashable, cost: int) -> LimitDecision:
        try:
            line = self._shared.find(self.services, resource, per, cost)
        except LimitExceededError as never:
            return _deny(never, 0)
        if line is None:
            return self._check(resource, per, cost)
        error = await line.check(cost)
        if error is None:
            return LimitDecision(allowed=True, message="", retry_after_seconds=0.0, remaining=line.remaining)
        return _deny(error, line.remaining)

    def _check(self, resource: str, per: Hashable, cost: int) -> LimitDecision:
        error, remaining = self._book.judge(resource, per, cost)
        if error is None:
            return LimitDecision(allowed=True, message="", retry_after_seconds=0.0, remaining=remaining)
        return _deny(error, remaining)

    def _take(
        self, resource: str, per: Hashable, cost: int, timeout_seconds: float | None
    ) -> Coroutine[Any, Any, HeldPermit]:
        host = self.services.host
        if host is not None and host.dry_run:
            return self._take_none(resource, per, cost)
        return self.acquire(resource, per=per, cost=cost, until=get_deadline(), timeout_seconds=timeout_seconds)

    async def _take_none(self, resource: str, per: Hashable, cost: int) -> HeldPermit:
        self._book.find(resource, per, cost)
        line = DryLine(self._wanted, (resource, per))
        line.take(cost)
        return HeldPermit(line, 0.0, cost, 0.0)


def _require_timeout(timeout_seconds: float | None) -> None:
    if timeout_seconds is not None:
        require_number("timeout_seconds", timeout_seconds, at_least=0)


def _deny(error: LimitExceededError, remaining: int) -> LimitDecision:
    return LimitDecision(
        allowed=False, message=str(error), retry_after_seconds=error.retry_after_seconds, remaining=remaining
    )
