"""Waiting for what must end before a cancellation goes on."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch
from virtual_time import run_virtual

from asyncsandbox._core.tasks import outlast


async def be_cancelled(cancel_at: list[int], wait: Any = outlast) -> None:
    vital = asyncio.create_task(asyncio.sleep(10, "recorded"))
    noticed: list[float] = []
    loop = asyncio.get_running_loop()
    waiter = asyncio.create_task(wait(vital, on_cancel=lambda: noticed.append(loop.time())))
    for moment in cancel_at:
        loop.call_at(moment + 0.5, waiter.cancel)
    cancellation = await waiter
    assert vital.result() == "recorded"
    assert loop.time() == 10
    during = [moment + 0.5 for moment in sorted(cancel_at) if moment < 10]
    assert noticed == during
    assert isinstance(cancellation, asyncio.CancelledError) == bool(during)


MOMENTS = st.lists(st.integers(0, 12), unique=True, max_size=5)


@given(MOMENTS)
def test_the_task_ends_however_often_the_waiter_is_cancelled(cancel_at: list[int]) -> None:
    run_virtual(be_cancelled(cancel_at))


def test_the_property_catches_a_wait_that_gives_up() -> None:
    async def once(task: asyncio.Task[Any], *, on_cancel: Any) -> asyncio.CancelledError | None:
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            on_cancel()
            await asyncio.wait((task,))
            return error
        return None

    async def check(cancel_at: list[int]) -> None:
        try:
            await be_cancelled(cancel_at, once)
        except asyncio.CancelledError:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            raise AssertionError from None

    must_catch(lambda cancel_at: run_virtual(check(cancel_at)), MOMENTS)


async def test_a_finished_or_failing_task_is_not_touched() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    task = asyncio.create_task(fail())
    assert await outlast(task) is None
    assert await outlast(task) is None
    with pytest.raises(ValueError, match="mine"):
        task.result()
    vital = asyncio.create_task(asyncio.sleep(0))
    waiter = asyncio.create_task(outlast(vital))
    await asyncio.sleep(0)
    waiter.cancel()
    assert isinstance(await waiter, asyncio.CancelledError)
