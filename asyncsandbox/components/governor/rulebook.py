"""Which limit a call falls under, and what is said of a refusal: to the caller, and in the journal.

>>> book = RuleBook(max_keys=10, ticker=Ticker(SystemClock()), get_journal=lambda: Journal(SystemClock()))
>>> book.declare("payment", (Limit(1, 60.0, per="user"),))
>>> book.judge("payment", "ada", 1)
(None, 0)
>>> print(book.judge("payment", "ada", 1)[0].reason)
1 of 1 per 60 s are used for user 'ada'
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..._core.clock import SystemClock, Ticker
from ..._core.journal import Journal, Level
from ..._core.settings import require_name
from ...errors import ConfigurationError, LifecycleError, LimitExceededError
from .limits import Limit, LimitStatus, require_cost
from .rule import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .line import Line

__all__ = ["Journal", "Limit", "RuleBook", "SystemClock", "Ticker"]

_QUIET_SECONDS = 60.0  # after a denial was told of, those that follow for the same key are only counted


class RuleBook:
    """The rules of all resources.

    Attributes:
        rules: By resource.
        lines: Their lines, by resource and key, but for those of shared ones.
        shared: The resources that other processes use, too.

    Args:
        max_keys: How many keys a resource may count separately.
        ticker: Reads the clock.
        get_journal: Gives the journal to tell of denials.
    """

    def __init__(self, *, max_keys: int, ticker: Ticker, get_journal: Callable[[], Journal]) -> None:
        self.rules: dict[str, Rule] = {}
        self.lines: dict[str, dict[Hashable, Line]] = {}
        self.shared: set[str] = set()
        self._max_keys = max_keys
        self._ticker = ticker
        self._get_journal = get_journal

    def declare(self, resource: str, limits: tuple[Limit, ...]) -> None:
        """Let a resource have exactly these limits.

        Raises:
            ConfigurationError: It is in use and counts by something else.
        """
        rule = self.rules.get(resource)
        if rule is not None and (rule.per, rule.is_shared) == (limits[0].per, limits[0].shared):
            rule.change(limits)
            return
        if rule is not None and (rule.is_shared or limits[0].shared or rule.is_live(self._ticker.read())):
            raise ConfigurationError(
                "per", limits[0].per, f"{resource!r} is in use and counts by {rule.per}: declare another resource"
            )
        rule = Rule(resource, limits, max_keys=self._max_keys, ticker=self._ticker, refuse=self.refuse)
        self.rules[resource] = rule
        if rule.is_shared:
            self.shared.add(resource)
        else:
            self.lines[resource] = rule.lines

    def get(self, resource: str) -> Rule:
        """Return the rule of a resource.

        Raises:
            ConfigurationError: There is none.
        """
        rule = self.rules.get(resource)
        if rule is None:
            raise ConfigurationError("resource", resource, f"declare it with set_limit(); {self._say_known()}")
        return rule

    def get_status(self, resource: str, per: Hashable) -> LimitStatus:
        """Return how far a resource is used, by one key where one is named.

        Raises:
            ConfigurationError: There is none, or ``per`` is superfluous or not hashable.
        """
        rule = self.get(resource)
        if per is not None:
            _require_key(rule, per)
        return rule.get_status(per)

    def find(self, resource: str, per: Hashable, cost: int) -> Rule:
        """Return the rule a call falls under.

        Raises:
            ConfigurationError: ``per`` or the cost is not usable.
            LimitExceededError: There is none, or it never admits as much at once.
        """
        if type(cost) is not int or cost < 1:
            require_cost(cost)
        try:
            rule = self.rules[resource]
        except (KeyError, TypeError):
            require_name("resource", resource)
            remedy = f"call governor.set_limit({resource!r}, max_requests, window_seconds) first"
            raise self.deny(resource, None, f"no such limit is declared, {self._say_known()}: {remedy}") from None
        if per is not None or rule.per is not None:
            _require_key(rule, per)
        if cost > rule.most:
            raise self._deny_dear(rule, per, cost)
        return rule

    def open(self, resource: str, per: Hashable, cost: int, now: float) -> Line:
        """Return the line in which a call stands.

        Raises:
            ConfigurationError: As for `find`.
            LimitExceededError: As for `find`, or it would be one line more than there may be.
        """
        return self._open(self.find(resource, per, cost), per, now)

    def judge(self, resource: str, per: Hashable, cost: int) -> tuple[LimitExceededError | None, int]:
        """Admit a call or say why not; say also how many units are left.

        Raises:
            ConfigurationError: Something is not usable, or the resource needs to know when the call ends.
        """
        now = self._ticker.read()
        try:
            rule = self.find(resource, per, cost)
            if rule.cap is not None:
                remedy = "it has max_concurrent, so it must learn when the call ends: use `async with permit(...)`"
                raise ConfigurationError("resource", resource, remedy)
            line = self._open(rule, per, now)
        except LimitExceededError as never:
            return never, 0
        error = None if line.take(now, cost) else self.refuse(rule, line, cost)
        return error, max(0, line.spare)

    def refuse(self, rule: Rule, line: Line, cost: int) -> LimitExceededError:
        """Return why a call is not admitted now, or not in time, and tell the journal."""
        if cost > rule.most:
            return self._deny_dear(rule, line.per, cost)
        now = self._ticker.read()
        line.refresh(now)
        reason, retry_after_seconds = rule.say_why_not(line, cost, now)
        return self.deny(rule.resource, line.per, reason, retry_after_seconds, line)

    def dismiss(self) -> None:
        """Send everybody home who waits."""
        for rule in self.rules.values():
            for line in [line for line in rule.lines.values() if line.waiting]:
                line.dismiss(functools.partial(make_stopped, rule.resource))

    def _open(self, rule: Rule, per: Hashable, now: float) -> Line:
        line = rule.open(per, now)
        if line is None:
            reason = f"{self._max_keys} keys are in use already: raise GovernorSettings(max_keys=...)"
            raise self.deny(rule.resource, per, reason)
        return line

    def _deny_dear(self, rule: Rule, per: Hashable, cost: int) -> LimitExceededError:
        reason = f"it costs {cost}, more than the {rule.most} ever admitted at once: split it, or raise max_requests"
        return self.deny(rule.resource, per, reason)

    def deny(
        self,
        resource: str,
        per: Hashable,
        reason: str,
        retry_after_seconds: float | None = None,
        line: Line | None = None,
    ) -> LimitExceededError:
        """Make the error, and tell the journal; in a flood of denials once in a while, with their number."""
        rule = self.rules.get(resource)
        denials, counter = 1, line or rule
        if rule is not None and counter is not None:
            rule.denied += 1
            counter.denials += 1
            now = self._ticker.read()
            if now < counter.quiet_until:
                return LimitExceededError(resource, reason, retry_after_seconds)
            denials, counter.denials = counter.denials, 0
            counter.quiet_until = now + _QUIET_SECONDS
        self._get_journal().publish(
            "governor.denied",
            component="governor",
            level=Level.WARNING,
            resource=resource,
            per=per,
            retry_after_seconds=retry_after_seconds,
            denials=denials,
        )
        return LimitExceededError(resource, reason, retry_after_seconds)

    def _say_known(self) -> str:
        return f"declared are {', '.join(map(repr, sorted(self.rules))) or 'none'}"


def _require_key(rule: Rule, per: Hashable) -> None:
    if rule.per is None and per is not None:
        remedy = f"{rule.resource!r} counts all calls together: leave it out, or declare the limit with per=..."
        raise ConfigurationError("per", per, remedy)
    if rule.per is not None and per is None:
        raise ConfigurationError("per", per, f"{rule.resource!r} counts per {rule.per}: pass per=<the {rule.per}>")
    try:
        hash(per)
    except TypeError:
        raise ConfigurationError("per", per, "give something hashable, such as a string") from None


def make_stopped(resource: str, _cost: int) -> LifecycleError:
    """Return what those get who wait when the governor stops."""
    waited = f"the governor was stopped while a call waited for a permit of {resource!r}"
    return LifecycleError(f"{waited}: stop the callers first, or call again after start()")
