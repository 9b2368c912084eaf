"""One call under retry settings: which attempts it makes, what it waits between them, and when it gives up.

`Call` decides, for the pipeline of actions as well as for plain calls; `Call.run` makes the attempts of a plain call.
The last failed attempt says why no other followed:

>>> import asyncio
>>> from asyncsandbox.components.retry.budget import Budget
>>> from asyncsandbox.components.retry.settings import RetrySettings
>>> from asyncsandbox._core.component import Services
>>> shared = Shared(name="api", settings=RetrySettings(max_retries=1), budget=Budget(None, 1), breaker=None)
>>> async def main() -> ConnectionError:
...     call, error = Call(shared, Services.alone()), ConnectionError("refused")
...     assert call.fail(error) is not None
...     assert call.fail(error) is None
...     return error
>>> asyncio.run(main()).__notes__
["'api' failed 2 times, not tried again: its max_retries are used up"]
"""

from __future__ import annotations

import functools
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..._core.context import _retried, deadline, get_correlation_id, get_deadline
from ..._core.journal import Level
from ..._core.ports import Attempt
from ...errors import AttemptTimeoutError, SandboxError
from .attempt import give_up_after
from .breaker import BreakerState
from .cancels import Cancels
from .delays import find_retry_after, full_jitter
from .history import note_attempts, say

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Mapping
    from contextvars import Token

    from ..._core.component import Services
    from ..._core.context import Retried
    from .attempt import Body
    from .breaker import Breaker
    from .budget import Budget
    from .settings import RetrySettings


class Refusal(StrEnum):
    """Why there is no further attempt."""

    NOT_WANTED = "not_wanted"
    FORBIDDEN = "forbidden"
    BROKEN = "retry_on"
    CANCELLED = "cancelled"
    NESTED = "nested"
    USED_UP = "max_retries"
    STILL_RUNS = "still_runs"
    BREAKER = "breaker"
    RETRY_AFTER = "retry_after"
    DEADLINE = "deadline"
    BUDGET = "budget"


_WHY = {
    Refusal.NOT_WANTED: "the settings do not ask for it",
    Refusal.FORBIDDEN: "its kind of call does not allow another attempt",
    Refusal.BROKEN: "retry_on itself raised ",
    Refusal.USED_UP: "its max_retries are used up",
    Refusal.STILL_RUNS: "its thread may still be running",
    Refusal.BREAKER: "its circuit breaker has opened meanwhile",
    Refusal.RETRY_AFTER: "it was asked to wait longer than max_retry_after_seconds",
    Refusal.DEADLINE: "the next attempt would come after its deadline",
    Refusal.BUDGET: "the retry budget is used up because too many calls fail",
}


@dataclass(slots=True)
class Tally:
    """What a manager counts."""

    retries: int = 0
    exhausted: int = 0


@dataclass(slots=True, kw_only=True)
class Shared:
    """What calls of one name have in common."""

    name: str
    settings: RetrySettings
    budget: Budget
    breaker: Breaker | None
    tally: Tally = field(default_factory=Tally)
    log: deque[Attempt] | None = None


class Call:
    """Decides for one call whether it may be made and whether a failed attempt is followed by another.

    Concurrency: for one task. Cancellation: a task that was cancelled since the call began gets no further attempt.

    Attributes:
        is_retrying: Whether it is past its first attempt and has not ended.

    Args:
        shared: What it has in common with others.
        services: Clock and journal.
        cancels: How often the task had been cancelled when the call began; None for as often as now.
    """

    def __init__(self, shared: Shared, services: Services, cancels: int | None = None) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._services = services
        self._clock = services.clock
        self.is_retrying = False
        self._cancels = Cancels(cancels)
        outer = _retried.get()
        self._is_nested = outer is not None and outer.is_retrying
        self._deadline = get_deadline()
        if self._settings.deadline_seconds is not None:
            at = self._clock.monotonic() + self._settings.deadline_seconds
            self._deadline = at if self._deadline is None else min(at, self._deadline)
        self._history: list[Attempt] = []
        self._matched = False
        self._broken = ""
        self._left_running = False
        self._ticket: int | None = None
        self._token: Token[Retried | None] | None = None

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The failed attempts so far."""
        return tuple(self._history)

    def enter(self) -> None:
        """Pass the circuit breaker; once, before the first attempt.

        Raises:
            BreakerOpenError: It is open, or half open with all its probes under way.
        """
        if self._shared.breaker is not None:
            self._ticket = self._shared.breaker.enter(self._clock)

    def leave(self, *, ok: bool | None) -> None:
        """Tell the breaker how the call ended; calling it again does nothing."""
        self.is_retrying = False
        if self._token is not None:
            with suppress(ValueError):  # ended in another context, which never saw the call
                _retried.reset(self._token)
            self._token = None
        breaker, ticket = self._shared.breaker, self._ticket
        if breaker is None or ticket is None:
            return
        self._ticket = None
        before = breaker.state
        breaker.leave(ticket, self._clock, ok=ok)
        if breaker.state is not before:
            level = Level.WARNING if breaker.state is BreakerState.OPEN else Level.INFO
            self._publish(f"retry.breaker_{breaker.state}", level)

    def time_left(self) -> float | None:
        """Return how long an attempt that begins now may take, in seconds; None for no limit."""
        seconds = self._settings.attempt_timeout_seconds
        if self._deadline is None:
            return seconds
        left = self._deadline - self._clock.monotonic()
        return left if seconds is None else min(left, seconds)

    def matches(self, error: Exception) -> bool:
        """Tell whether the settings want an attempt that raised this to be repeated. Spends nothing."""
        retry_on = self._settings.retry_on
        if isinstance(error, SandboxError) and not isinstance(error, AttemptTimeoutError):
            return False
        if isinstance(retry_on, (type, tuple)):
            return isinstance(error, retry_on)
        try:
            return bool(retry_on(error))
        except Exception as broken:  # noqa: BLE001 - what the caller has to get is why the attempt failed
            self._broken = say(broken)
            return False

    def fail(
        self, error: Exception, *, began: float | None = None, permit_seconds: float = 0.0, may_retry: bool = True
    ) -> float | None:
        """Note a failed attempt.

        Returns:
            How long to wait before the next attempt; None where there must not be one, with the history noted on
            the error.
        """
        self._cancels.forgive(error)
        self._matched = self.matches(error)
        if not may_retry:
            verdict: float | Refusal = Refusal.FORBIDDEN
        elif not self._matched:
            verdict = Refusal.BROKEN if self._broken else Refusal.NOT_WANTED
        else:
            verdict = self._judge(find_retry_after(error, self._clock.now()) or 0.0)
        wait = self._note(say(error), verdict, began, permit_seconds)
        if isinstance(verdict, Refusal):
            note_attempts(error, self._history, self._explain(verdict))
        return wait

    async def run(
        self, body: Body, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, wait: float | None = None
    ) -> Any:
        """Make attempts until one ends well or there must not be another.

        Args:
            body: What to call.
            args: For the body.
            kwargs: For the body.
            wait: Seconds before the first of them, where one has failed already.

        Raises:
            AttemptTimeoutError: The last attempt took too long.
            Exception: Whatever the last attempt raised, unchanged.
        """
        ok: bool | None = None
        own_deadline = None if self._settings.deadline_seconds is None else self._deadline
        try:
            with nullcontext() if own_deadline is None else deadline(own_deadline):
                while True:
                    if wait is not None:
                        await self._clock.sleep(wait)
                    began = self._clock.monotonic()
                    try:
                        result = await self._attempt(body, args, kwargs)
                    except Exception as error:
                        wait = self.fail(error, began=began)
                        if wait is None:
                            ok = self._blame() if self._matched else None
                            raise
                    else:
                        wait = self._weigh(result, began)
                        if wait is None:
                            ok = self._blame() if self._matched else True
                            return result
        finally:
            self.leave(ok=ok)

    def _blame(self) -> bool | None:
        # What a cancelled attempt came to says nothing of the provider.
        return None if self._cancels.came else False

    async def _attempt(self, body: Body, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        seconds = self.time_left()
        if seconds is None:
            return await body.call(*args, **kwargs)
        too_late = functools.partial(AttemptTimeoutError, self._shared.name, len(self._history) + 1, max(seconds, 0.0))
        if seconds <= 0:
            raise too_late()
        call, is_running = body.watch()
        try:
            return await give_up_after(seconds, call(*args, **kwargs), too_late)
        except Exception:
            self._left_running = is_running()
            raise

    def _weigh(self, result: object, began: float) -> float | None:
        unwanted = self._settings.retry_on_result
        self._matched = unwanted is not None and bool(unwanted(result))
        if not self._matched:
            return None
        text = f"retry_on_result refused the {type(result).__name__} it returned"
        return self._note(text, self._judge(0.0), began, 0.0)

    def _judge(self, retry_after: float) -> float | Refusal:
        """Return how long to wait for the next attempt, or why there must not be one."""
        refusal = self._find_refusal(retry_after)
        if refusal is not None:
            return refusal
        settings = self._settings
        wait = retry_after + full_jitter(
            len(self._history),
            base=settings.backoff_base_seconds,
            cap=settings.backoff_cap_seconds,
            chance=self._clock.random(),
        )
        if self._deadline is not None and self._clock.monotonic() + wait >= self._deadline:
            return Refusal.DEADLINE
        return wait if self._shared.budget.spend() else Refusal.BUDGET

    def _find_refusal(self, retry_after: float) -> Refusal | None:
        breaker, ticket = self._shared.breaker, self._ticket
        reasons = {
            Refusal.NOT_WANTED: not self._settings.max_retries,
            Refusal.CANCELLED: self._cancels.came,
            Refusal.NESTED: self._is_nested,
            Refusal.USED_UP: len(self._history) >= self._settings.max_retries,
            Refusal.STILL_RUNS: self._left_running,
            Refusal.BREAKER: breaker is not None and ticket is not None and not breaker.is_current(ticket),
            Refusal.RETRY_AFTER: retry_after > self._settings.max_retry_after_seconds,
        }
        return next((refusal for refusal, applies in reasons.items() if applies), None)

    def _note(self, text: str, verdict: float | Refusal, began: float | None, permit_seconds: float) -> float | None:
        """Write down an attempt and what follows from it."""
        wait = None if isinstance(verdict, Refusal) else verdict
        seconds = None if began is None else self._clock.monotonic() - began
        attempt = Attempt(
            call=self._shared.name,
            number=len(self._history) + 1,
            at=self._clock.now() - timedelta(seconds=seconds or 0.0),
            duration_seconds=seconds,
            error=text,
            retry_in_seconds=wait,
            permit_seconds=permit_seconds,
            correlation_id=get_correlation_id(),
        )
        self._history.append(attempt)
        if self._shared.log is not None:
            self._shared.log.append(attempt)
        if isinstance(verdict, Refusal):
            self._tell_end(verdict, text)
        else:
            self._tell_retry(verdict, text)
        return wait

    def _tell_retry(self, wait: float, text: str) -> None:
        self._shared.tally.retries += 1
        if self._token is None:
            self.is_retrying = True
            self._token = _retried.set(self)
        number = len(self._history)
        self._publish("retry.scheduled", Level.WARNING, attempt=number, error=text, wait_seconds=wait)

    def _tell_end(self, refusal: Refusal, text: str) -> None:
        if self._explain(refusal) is None:
            return
        self._shared.tally.exhausted += 1
        number = len(self._history)
        self._publish("retry.exhausted", Level.ERROR, attempts=number, error=text, reason=refusal.value)

    def _explain(self, refusal: Refusal) -> str | None:
        """Return what people should read; None where no retry was made and none was wanted."""
        times = len(self._history)
        quiet = {Refusal.NOT_WANTED, Refusal.FORBIDDEN}
        if refusal not in _WHY or (times == 1 and refusal in quiet):
            return None
        how_often = "once" if times == 1 else f"{times} times"
        why = _WHY[refusal] + (self._broken if refusal is Refusal.BROKEN else "")
        return f"{self._shared.name!r} failed {how_often}, not tried again: {why}"

    def _publish(self, name: str, level: Level, **fields: object) -> None:
        self._services.journal.publish(name, component="retry", level=level, call=self._shared.name, **fields)
