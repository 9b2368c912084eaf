"""What type checkers see of retries: checked by mypy --strict and pyright strict, never run."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from asyncsandbox._core.ports import Attempt, RetryPort
from asyncsandbox.components.retry import (
    BreakerSettings,
    RetryBackoffManager,
    RetrySettings,
    RetryStatus,
    get_attempts,
)

retry = RetryBackoffManager(max_retries=3)
port: RetryPort = retry


async def fetch(path: str, *, pages: int = 1) -> bytes:
    return path.encode() * pages


def read(path: str, pages: int = 1) -> float:
    return 1.0


@retry.retrying("rates", retry_on=(ConnectionError, TimeoutError), breaker=BreakerSettings())
async def rate(currency: str) -> float:
    return 1.0


@retry.retrying(retry_on=lambda error: bool(error.args), max_retries=5)
def write(name: str, pages: int = 1) -> bytes:
    return name.encode() * pages


class Shop:
    @retry.retrying()
    async def close(self, reason: str) -> int:
        return len(reason)


async def right() -> None:
    assert_type(await retry.execute_with_retry(fetch, "api", "/", pages=2), bytes)
    assert_type(await retry.execute_with_retry(read, "api", "/", 2), float)
    assert_type(await retry.execute_with_retry(lambda: fetch("/"), "api"), bytes)
    assert_type(await rate("EUR"), float)
    assert_type(await write("a", pages=2), bytes)
    assert_type(await Shop().close("late"), int)
    assert_type(await asyncio.create_task(rate("EUR")), float)
    keeps_parameters: Callable[[str], Coroutine[Any, Any, float]] = rate
    await keeps_parameters("EUR")

    assert_type(retry.get_retry_log("api"), tuple[Attempt, ...])
    assert_type(get_attempts(ValueError()), tuple[Attempt, ...])
    assert_type(retry.get_status(), RetryStatus)
    RetryBackoffManager(settings=RetrySettings(retry_on=OSError, retry_on_result=lambda result: result is None))


async def wrong() -> None:
    await retry.execute_with_retry(fetch, "api", 17)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await retry.execute_with_retry(fetch, "api")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await rate(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await write("a", pages="two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retry.retrying("api", attempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    retry.retrying("api", retry_on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    rate("EUR")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
