"""A provider that does what a script says, and a retry manager on a drawn clock to call it.

>>> from virtual_time import run_virtual
>>> provider = Provider((Step("wanted", seconds=1.0), Step("ok")))
>>> run_virtual(make().execute_with_retry(provider.call, "api"))
'ok'
>>> provider.began
[0.0, 1.125]
"""

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.component import Services
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger
from asyncsandbox.components.retry import RetryBackoffManager, RetrySettings

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
BASE, CAP = 0.25, 2.0
FOREVER = 1e6
BACKOFF = {"backoff_base_seconds": BASE, "backoff_cap_seconds": CAP, "budget_ratio": None}


class DrawnClock(SystemClock):
    """The running loop's time, a time of day that goes with it, and chances drawn before."""

    def __init__(self, chances: tuple[float, ...] = (0.5,)) -> None:
        self.chances = itertools.cycle(chances)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def random(self) -> float:
        return next(self.chances)


class WantedError(Exception):
    """What the settings of these tests want to be retried."""


class UnwantedError(Exception):
    """What they do not."""


@dataclass(frozen=True)
class Step:
    """What the provider does in one attempt, and what it makes of being cancelled meanwhile."""

    outcome: str = "ok"  # ok, wanted, unwanted, timeout
    seconds: float = 0.0
    cleanup: str = "passes"  # passes, wanted, timeout, result


@dataclass
class Provider:
    """A provider that follows a script; its last step goes on for ever."""

    steps: tuple[Step, ...]
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)

    async def call(self, *args: object) -> object:
        now = asyncio.get_running_loop().time
        step = self.steps[min(len(self.began), len(self.steps) - 1)]
        self.began.append(now())
        try:
            return await self._answer(step)
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.ended.append(now())

    async def _answer(self, step: Step) -> object:
        try:
            await asyncio.sleep(step.seconds)
        except asyncio.CancelledError:
            if step.cleanup == "result":
                return "late"
            if step.cleanup != "passes":
                raise _ERRORS[step.cleanup]("while it was cancelled") from None
            raise
        if step.outcome == "ok":
            return "ok"
        raise _ERRORS[step.outcome](f"attempt {len(self.began)}")


_ERRORS = {"wanted": WantedError, "unwanted": UnwantedError, "timeout": TimeoutError}
WANTED = (WantedError, TimeoutError)


def make(*, chances: tuple[float, ...] = (0.5,), **options: Any) -> RetryBackoffManager:
    """Return a manager on a drawn clock."""
    clock = DrawnClock(chances)
    retry = RetryBackoffManager(settings=RetrySettings(**{**BACKOFF, **options}))
    retry.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock)))
    return retry


async def outcome_of(awaitable: Coroutine[Any, Any, Any]) -> object:
    """Return what comes out, a result or an exception."""
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever comes out is looked at
        return error


async def swallow_a_cancellation() -> None:
    task = asyncio.current_task()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


class Response:
    def __init__(self, headers: object) -> None:
        self.headers = headers


class HttpStatusError(WantedError):
    """As httpx and requests raise it: the response is on the error."""

    def __init__(self, value: object, header: str = "Retry-After") -> None:
        super().__init__("503")
        self.response = Response({"Date": "today", header: value})

    @property
    def request(self) -> object:
        raise RuntimeError("the request was never set")


class ClientResponseError(WantedError):
    """As aiohttp and urllib raise it: the headers are on the error."""

    def __init__(self, value: object, header: str = "retry-after") -> None:
        super().__init__("429")
        self.headers = {header: value}


class RetryAfterError(WantedError):
    """As chat and payment libraries raise it."""

    def __init__(self, value: object) -> None:
        super().__init__("flood control")
        self.retry_after = value


class RetryAfterSecondsError(WantedError):
    def __init__(self, value: object) -> None:
        super().__init__("flood control")
        self.retry_after_seconds = value
