"""What a limit is, what one says to a call, and what it says of itself.

>>> Limit(100, 3600)
Limit(max_requests=100, window_seconds=3600, per=None, max_concurrent=None, shared=False)
>>> allowed, message = LimitDecision(False, "all 100 per 3600 s are used: try again in 12 s", 12.0, 0)
>>> allowed, message
(False, 'all 100 per 3600 s are used: try again in 12 s')
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import msgspec

from ..._core.settings import require_name, require_number
from ...errors import ConfigurationError

_LONGEST_SECONDS = 1e9  # beyond, a float no longer tells microseconds apart


@dataclass(frozen=True, slots=True)
class Limit:
    """How much is admitted: so many in any window of time, so many at the same time, or both.

    Attributes:
        max_requests: Units admitted in any window (whole, >= 1).
        window_seconds: Length of the window (> 0, <= 1e9).
        per: Name of what is counted separately, such as ``"user"``; None counts all calls together.
        max_concurrent: Permits held at the same time (whole, >= 1), whatever each costs.
        shared: Whether all processes on the sandbox's store keep it together, rather than each by itself.

    Raises:
        ConfigurationError: A value is out of its range, or nothing is limited.
    """

    max_requests: int | None = None
    window_seconds: float | None = None
    _: KW_ONLY
    per: str | None = None
    max_concurrent: int | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if (self.max_requests is None) != (self.window_seconds is None):
            raise ConfigurationError("Limit", self, "give max_requests and window_seconds together")
        if self.max_requests is None and self.max_concurrent is None:
            raise ConfigurationError("Limit", self, "give max_requests and window_seconds, or max_concurrent")
        if self.max_requests is not None:
            require_number("Limit.max_requests", self.max_requests, at_least=1, whole=True)
            require_number("Limit.window_seconds", self.window_seconds, above=0, at_most=_LONGEST_SECONDS)
        if self.per is not None:
            require_name("Limit.per", self.per)
        if self.max_concurrent is not None:
            require_number("Limit.max_concurrent", self.max_concurrent, at_least=1, whole=True)
        if not isinstance(self.shared, bool):
            raise ConfigurationError("Limit.shared", self.shared, "give True or False")
        if self.shared and self.max_concurrent is not None:
            raise ConfigurationError("Limit", self, "leave out max_concurrent: a shared limit has a window only")


class LimitDecision(msgspec.Struct, frozen=True, gc=False):
    """What a limit says to one call. Unpacks as ``(allowed, message)``; as a condition it is ``allowed``.

    Attributes:
        allowed: Whether the call may be made; if so, it counts.
        message: Why not, and what to do; empty where it may.
        retry_after_seconds: When it would be admitted, from now, if nobody else comes; 0 where it is, None where
            waiting is not known to help.
        remaining: Units that are left now.
    """

    allowed: bool
    message: str
    retry_after_seconds: float | None
    remaining: int

    def __bool__(self) -> bool:
        return self.allowed

    def __iter__(self) -> Iterator[Any]:
        """Give ``allowed``, then ``message``."""
        yield self.allowed
        yield self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """How far one resource is used: frozen, and JSON-able by `dataclasses.asdict`.

    Attributes:
        resource: Its name.
        limits: What is declared.
        used: Units that count now, in the window with the fewest left; None for a resource that counts per key and no
            key was named, where no window is declared, and for a shared one, which only the store knows.
        remaining: Units left in that window; None as above.
        running: Permits held.
        waiting: Calls that wait for a permit.
        keys: Keys that are remembered, because they were used within their window or are in use.
        denied: Calls denied so far.
    """

    resource: str
    limits: tuple[Limit, ...]
    used: int | None
    remaining: int | None
    running: int
    waiting: int
    keys: int
    denied: int


class Declared(Mapping[str, tuple[Limit, ...]]):
    """Limits by resource: checked, immutable, and picklable, which a mapping proxy is not."""

    __slots__ = ("_limits",)

    def __init__(self, limits: Mapping[str, Limit | tuple[Limit, ...]]) -> None:
        if not isinstance(limits, Mapping):
            raise ConfigurationError("GovernorSettings.limits", limits, "give a mapping of names to limits")
        self._limits = {resource: parse_limits(resource, given) for resource, given in limits.items()}

    def __getitem__(self, resource: str) -> tuple[Limit, ...]:
        return self._limits[resource]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __repr__(self) -> str:
        return repr(self._limits)


def parse_limits(resource: str, limits: object) -> tuple[Limit, ...]:
    """Return the limits of one resource, checked.

    Raises:
        ConfigurationError: The name is no name, there is no limit, or they count by different things.
    """
    require_name("resource", resource)
    given = (limits,) if isinstance(limits, Limit) else tuple(limits) if isinstance(limits, list | tuple) else ()
    if not given or not all(isinstance(limit, Limit) for limit in given):
        raise ConfigurationError(f"limits of {resource!r}", limits, "give a list of one or more Limit(...)")
    names = {limit.per for limit in given}
    if len(names) > 1:
        raise ConfigurationError(
            f"limits of {resource!r}",
            given,
            "they must count by the same `per`: make the others a resource of their own",
        )
    if len(given) > 1 and any(limit.shared for limit in given):
        raise ConfigurationError(f"limits of {resource!r}", given, "give a shared limit a resource of its own")
    return given


def require_cost(cost: object) -> None:
    """Check that a cost is a number of units.

    Raises:
        ConfigurationError: It is not.
    """
    require_number("cost", cost, at_least=1, whole=True)
