"""What type checkers see of the governor: checked by mypy --strict and pyright strict, never run."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from asyncsandbox._core.ports import Permit, PermitPort
from asyncsandbox.components.governor import (
    GovernorEnforcer,
    GovernorSettings,
    GovernorStatus,
    Limit,
    LimitDecision,
    LimitStatus,
)

governor = GovernorEnforcer(settings=GovernorSettings(limits={"a": Limit(1, 1.5), "b": (Limit(1, 1), Limit(9, 60))}))


@governor.limited("api", per=lambda user: user, cost=lambda page: page)
async def fetch(user: str, *, page: int = 1) -> bytes:
    return user.encode() * page


@governor.limited("api", cost=2, timeout_seconds=1)
def write(name: str) -> int:
    return len(name)


class Shop:
    @governor.limited("shop")
    async def close(self, reason: str) -> int:
        return len(reason)


async def right() -> None:
    governor.set_limit("payment", 100, 3600, per="user", max_concurrent=5)
    governor.set_limit("slots", max_concurrent=5)
    governor.set_limit("together", 100, 3600, per="user", shared=True)
    assert_type(Limit(100, 3600, shared=True).shared, bool)
    governor.set_limits("payment", [Limit(1, 1), Limit(100, 60.5, per="user")])
    decision = await governor.check_limit("payment", per=("ada", 1), cost=2)
    assert_type(decision, LimitDecision)
    assert_type(decision.retry_after_seconds, float | None)
    assert_type(decision.remaining, int)
    allowed, message = decision
    assert allowed or message
    assert_type(await governor.require_limit("payment"), None)
    async with governor.permit("payment", per=1, timeout_seconds=2) as permit:
        assert_type(permit, Permit)
        assert_type(permit.waited_seconds, float)
        permit.give_back()
    assert_type(governor.get_status(), GovernorStatus)
    assert_type(governor.get_status("payment"), LimitStatus)
    assert_type(governor.get_status("payment", per="ada").used, int | None)
    assert_type(governor.forecast_seconds(governor.get_wanted()), float)

    assert_type(await fetch("ada", page=2), bytes)
    assert_type(await write("a"), int)
    assert_type(await Shop().close("late"), int)
    task = asyncio.create_task(fetch("ada"))
    assert_type(await task, bytes)
    keeps_parameters: Callable[[str], Coroutine[Any, Any, int]] = write
    await keeps_parameters("a")
    await ask(governor)


async def ask(port: PermitPort) -> None:
    assert_type(await port.acquire("api", until=1.0), Permit)


async def wrong() -> None:
    governor.set_limit("payment", "100", 3600)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    governor.set_limit("payment", 100, 3600, "user")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    governor.set_limits("payment", [100])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Limit(1, 1, "user")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Limit(1, 1).max_requests = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    await governor.check_limit("payment", "ada")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await governor.check_limit("payment", per=["ada"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    governor.check_limit("payment")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    if governor.check_limit("payment"):  # type: ignore[truthy-bool]
        pass
    (await governor.check_limit("payment")).allowed = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    governor.limited("api", per="user")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await write("a", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with governor.permit("payment"):  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue,reportGeneralTypeIssues]
        pass
