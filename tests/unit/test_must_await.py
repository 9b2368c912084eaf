"""MustAwait: a coroutine in every respect but one."""

import asyncio
import inspect
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtual

from asyncsandbox._core.must_await import MustAwait


class OddError(Exception):
    pass


async def answer(value: object, naps: int = 0) -> object:
    for _ in range(naps):
        await asyncio.sleep(1)
    if isinstance(value, Exception):
        raise value
    return value


async def hand_on(made: MustAwait[object]) -> object:
    return await made


WAYS = {
    "run": lambda made: made,
    "await": hand_on,
}


@pytest.mark.parametrize("way", ["run", "await"])
@given(value=st.booleans() | st.builds(OddError), naps=st.integers(0, 3))
def test_awaiting_it_is_awaiting_what_it_holds(way: str, value: object, naps: int) -> None:
    made = WAYS[way](MustAwait(answer(value, naps), "is_ready()"))
    if isinstance(value, Exception):
        with pytest.raises(OddError) as caught:
            run_virtual(made)
        assert caught.value is value
    else:
        assert run_virtual(made) is value


@pytest.mark.parametrize("use", [asyncio.ensure_future, asyncio.gather, lambda made: asyncio.wait_for(made, 60)])
def test_asyncio_takes_it_for_a_coroutine(use: object) -> None:
    async def main() -> object:
        return await use(MustAwait(answer(False, 2), "is_ready()"))

    assert run_virtual(main()) in (False, [False])
    held = answer(1)
    made = MustAwait(held, "x()")
    assert inspect.isawaitable(made)
    assert asyncio.iscoroutine(made)
    made.close()
    assert inspect.getcoroutinestate(held) == inspect.CORO_CLOSED


@pytest.mark.parametrize("use", [bool, operator.not_, lambda made: all([made])], ids=["if", "not", "all"])
def test_it_is_no_condition(use: object) -> None:
    made = MustAwait(answer(False), "is_ready()")
    with pytest.raises(TypeError, match=r"is_ready\(\) was not awaited.*`if await \.\.\.is_ready\(\):`"):
        use(made)


def test_a_bare_coroutine_would_have_read_as_yes() -> None:
    coroutine = answer(False)
    assert coroutine
    coroutine.close()


def test_asyncio_can_print_the_task_that_runs_it() -> None:
    made = MustAwait(answer(False, 1), "is_ready()")

    async def main() -> object:
        task = asyncio.ensure_future(made)
        assert "MustAwait" in repr(task)
        # What some versions of asyncio do inside that repr:
        assert eval("bool(made)", {"made": made, "__name__": "asyncio.base_tasks"})
        return await task

    assert run_virtual(main()) is False


def test_being_cancelled_reaches_what_it_holds() -> None:
    seen: list[BaseException] = []

    async def hold() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    async def main() -> None:
        task = asyncio.ensure_future(MustAwait(hold(), "is_ready()"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run_virtual(main())
    assert len(seen) == 1


@pytest.mark.parametrize(
    "thrown", [(ValueError("x"),), (ValueError, ValueError("x")), (ValueError, ValueError("x"), None)]
)
def test_throw_takes_what_a_coroutine_takes(thrown: tuple[object, ...]) -> None:
    made = MustAwait(answer(True), "is_ready()")
    with pytest.raises(ValueError, match="x"):
        made.throw(*thrown)
