"""Makes failed calls again: within a budget and one deadline, with full jitter, never for a task that was cancelled.

>>> import asyncio
>>> retry = RetryBackoffManager(settings=RetrySettings(backoff_base_seconds=0.01))
>>> answers = iter([ConnectionError("refused"), TimeoutError("slow"), "paid"])
>>> @retry.retrying("bank", retry_on=(ConnectionError, TimeoutError), backoff_base_seconds=0.01)
... async def pay() -> str:
...     answer = next(answers)
...     if isinstance(answer, Exception):
...         raise answer
...     return answer
>>> asyncio.run(pay())
'paid'
>>> [(attempt.number, attempt.error) for attempt in retry.get_retry_log("bank")]
[(1, 'ConnectionError: refused'), (2, 'TimeoutError: slow')]
"""

from __future__ import annotations

import functools
import inspect
from asyncio import current_task
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack, overload

from ..._core.checks import Check
from ..._core.component import Component, ComponentStatus
from ..._core.settings import require_name
from ...errors import ConfigurationError
from .attempt import Body
from .breaker import Breaker, BreakerState
from .budget import Budget
from .call import Call, Shared, Tally
from .history import get_attempts
from .settings import BreakerSettings, RetryOptions, RetrySettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from ..._core.decorators import P, R
    from ..._core.ports import Attempt

__all__ = [
    "BreakerSettings",
    "RetryBackoffManager",
    "RetryOptions",
    "RetrySettings",
    "RetryStatus",
    "get_attempts",
]

_LOGGED_ATTEMPTS = 1_000


class RetryDecorator(Protocol):
    """Gives a function retries; it keeps its parameters and its result, and is always a coroutine function."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryStatus(ComponentStatus):
    """What the manager says of itself.

    Attributes:
        retries: How many retries were made, or are waited for.
        exhausted: How many calls failed although a retry had been made or was wanted.
        open_breakers: Names of the calls that a circuit breaker refuses, or lets through only to try.
    """

    retries: int
    exhausted: int
    open_breakers: tuple[str, ...]


class RetryBackoffManager(Component):
    """Makes calls again that failed; works alone, without `start`.

    It promises that n retries are at most n + 1 calls, that the function's own exception comes out, that a cancelled
    task starts no further attempt, that no wait and no attempt outlasts the deadline, and that retries are a bounded
    share of the calls. It does not know whether a call may be made twice: retry what is safe to repeat, or declare it
    as an action with a key.

    Args:
        max_retries: How many attempts may follow the first one; None leaves it to the settings.
        settings: Everything else, for calls that bring no settings of their own.

    Concurrency: calls are independent but for the budget and the breaker of their name; use it from one event loop.
    Cancellation: delivered at once, to the running attempt or the wait.

    Example:
        >>> async def main() -> str:
        ...     retry = RetryBackoffManager(max_retries=3)
        ...     return await retry.execute_with_retry(str.upper, "shout", "hello")
        >>> asyncio.run(main())
        'HELLO'
    """

    name: ClassVar[str] = "retry"

    def __init__(self, max_retries: int | None = None, *, settings: RetrySettings | None = None) -> None:
        super().__init__()
        given = settings or RetrySettings()
        self._settings = given if max_retries is None else replace(given, max_retries=max_retries)
        self._budgets: dict[tuple[str, float | None, int], Budget] = {}
        self._breakers: dict[tuple[str, BreakerSettings], Breaker] = {}
        self._tally = Tally()
        self._log: deque[Attempt] = deque(maxlen=_LOGGED_ATTEMPTS)

    @overload
    async def execute_with_retry(
        self, func: Callable[P, Awaitable[R]], name: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def execute_with_retry(self, func: Callable[P, R], name: str, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def execute_with_retry(self, func: Callable[..., Any], name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and again as the settings say where it fails.

        Args:
            func: A coroutine function, or a plain one, which runs in a thread.
            name: What is called: calls of one name share a budget and a breaker. Not one name per call.
            *args: For the function.
            **kwargs: For the function.

        Returns:
            What the function returned.

        Raises:
            ConfigurationError: The name is empty, or the function yields instead of returning.
            BreakerOpenError: The circuit breaker refuses the call.
            AttemptTimeoutError: The last attempt took too long.
            Exception: Whatever the last attempt raised, unchanged; `get_attempts` tells of all of them.

        Concurrency: calls are independent. Cancellation: delivered at once; no further attempt is made.
        """
        return await self._wrap(func, name, self._settings)(*args, **kwargs)

    def retrying(self, name: str | None = None, **options: Unpack[RetryOptions]) -> RetryDecorator:
        """Return a decorator that gives a function retries.

        Args:
            name: What is called; None for module and name of the function.
            **options: Fields of `RetrySettings`. If there are any, those not given have their defaults, whatever the
                settings of the manager; if there are none, the settings of the manager hold.

        Returns:
            The decorator. A plain function becomes a coroutine function that runs in a thread.

        Raises:
            ConfigurationError: An option is not usable, or there are no parentheses behind ``retrying``.

        Concurrency: as for `execute_with_retry`. Cancellation: as for `execute_with_retry`.
        """
        if callable(name):
            raise ConfigurationError("retrying: name", name, "give text, or nothing: @retry.retrying()")
        settings = RetrySettings(**options) if options else self._settings

        def decorate(function: Callable[..., Any], /) -> Callable[..., Coroutine[Any, Any, Any]]:
            wrapped = self._wrap(function, _name_of(function) if name is None else name, settings)
            return functools.update_wrapper(wrapped, function)

        return decorate

    def begin(self, call: str, settings: object) -> Call:
        """Return what decides on the attempts of one call; to be called in the task that makes them.

        Args:
            call: Name of what is called.
            settings: ``RetrySettings``.

        Raises:
            ConfigurationError: They are something else.
        """
        if not isinstance(settings, RetrySettings):
            raise ConfigurationError("retry", settings, "give RetrySettings(...)")
        shared = self._share(call, settings, None)
        shared.budget.earn()
        return Call(shared, self.services)

    def get_retry_log(self, name: str | None = None) -> tuple[Attempt, ...]:
        """Return the failed attempts still known, of all calls or those of one name, in the order they began.

        Those of actions come from the ledger; of other calls the last thousand are kept.
        """
        found = [attempt for attempt in self._log if name is None or attempt.call == name]
        for record in self.services.ledger.get_records(name=name):
            found += [attempt for attempt in getattr(record, "history", ()) if attempt.error is not None]
        return tuple(sorted(found, key=lambda attempt: attempt.at))

    def get_status(self) -> RetryStatus:
        """Return a frozen, JSON-able account of the manager."""
        return RetryStatus(
            name=self.name,
            state=self._state,
            retries=self._tally.retries,
            exhausted=self._tally.exhausted,
            open_breakers=self._get_open_breakers(),
        )

    def get_checks(self) -> tuple[Check, ...]:
        """Return one check: it warns while a circuit breaker is not closed."""

        async def find_open_breakers() -> str:
            names = self._get_open_breakers()
            return f"circuit breaker open: {', '.join(names)}" if names else ""

        return (Check(name=self.name, fn=find_open_breakers, critical=False),)

    def _get_open_breakers(self) -> tuple[str, ...]:
        items = self._breakers.items()
        return tuple(sorted({name for (name, _), breaker in items if breaker.state is not BreakerState.CLOSED}))

    def _share(self, name: str, settings: RetrySettings, log: deque[Attempt] | None) -> Shared:
        """Return what a call has in common with those of its name; other budget or breaker settings stand apart."""
        require_name("retry: name", name)
        ratio, burst = settings.budget_ratio, settings.budget_burst
        budget = self._budgets.get((name, ratio, burst))
        if budget is None:
            budget = self._budgets[name, ratio, burst] = Budget(ratio, burst)
        breaker = None
        if settings.breaker is not None:
            breaker = self._breakers.get((name, settings.breaker))
            if breaker is None:
                breaker = self._breakers[name, settings.breaker] = Breaker(name, settings.breaker)
        return Shared(name=name, settings=settings, budget=budget, breaker=breaker, tally=self._tally, log=log)

    def _wrap(self, function: Any, name: str, settings: RetrySettings) -> Callable[..., Coroutine[Any, Any, Any]]:
        if not inspect.iscoroutinefunction(function):
            _require_returning(function, name)
        shared = self._share(name, settings, self._log)
        body = Body(function)
        return self._wrap_lightly(body, shared) if settings.is_light else self._wrap_closely(body, shared)

    def _wrap_lightly(self, body: Body, shared: Shared) -> Callable[..., Coroutine[Any, Any, Any]]:
        budget, call = shared.budget, body.call

        # Nothing is made here before something fails: this is what every call pays.
        async def retried(*args: Any, **kwargs: Any) -> Any:
            if budget.tokens < budget.burst:
                budget.earn()
            task = current_task()
            cancels = 0 if task is None else task.cancelling()
            try:
                return await call(*args, **kwargs)
            except Exception as error:
                deciding = Call(shared, self.services, cancels)
                wait = deciding.fail(error)
                if wait is None:
                    raise
            return await deciding.run(body, args, kwargs, wait=wait)

        return retried

    def _wrap_closely(self, body: Body, shared: Shared) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def retried(*args: Any, **kwargs: Any) -> Any:
            shared.budget.earn()
            call = Call(shared, self.services)
            call.enter()
            return await call.run(body, args, kwargs)

        return retried


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", "")
    return f"{function.__module__}.{name}" if name else ""


def _require_returning(function: Any, name: str) -> None:
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name}: function", function, "give a function that returns, not one that yields")
