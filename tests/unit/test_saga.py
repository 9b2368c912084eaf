# ruff: noqa: PT012 - a block that fails as a whole is what is looked at
"""Undoing: everything that was done, once, the last first, whatever happens meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import make_runtime, must_catch, running, states
from virtual_time import run_virtual

from asyncsandbox._core.runtime import Runtime
from asyncsandbox._core.saga import Saga, current_saga
from asyncsandbox.actions import irreversible, reversible


class FailureError(Exception):
    """Why a block failed."""


class Shop:
    """Reservations, and what was undone."""

    def __init__(self, failing_undos: frozenset[int] = frozenset(), *, seconds: float = 0) -> None:
        self.done: list[int] = []
        self.undone: list[tuple[int, str]] = []

        async def release(item: int, result: str) -> None:
            await asyncio.sleep(seconds)
            self.undone.append((item, result))
            if item in failing_undos:
                raise ValueError(f"undo {item}")

        @reversible("stock.reserve", undo=release, key=lambda item: item)
        async def reserve(item: int) -> str:
            await asyncio.sleep(seconds)
            self.done.append(item)
            return f"r{item}"

        self.reserve = reserve


# What a block does: reserve a number, or run a block inside, which fails or not. A failed inner block is survived.
BLOCK = st.recursive(
    st.lists(st.integers(0, 5), max_size=4),
    lambda inner: st.lists(st.one_of(st.integers(0, 5), st.tuples(inner, st.booleans())), max_size=4),
    max_leaves=6,
)


async def run_block(
    runtime: Runtime, shop: Shop, block: list[Any], held: list[int], saga_class: type[Saga]
) -> list[int]:
    """Run a block, and return what it did that still holds, in order; the oracle."""
    mine: list[int] = []
    for step in block:
        if isinstance(step, int):
            await shop.reserve(step)
            if step not in [*held, *mine]:
                mine.append(step)
            continue
        inner, fails = step
        before = len(shop.undone)
        try:
            async with saga_class(runtime, "inner"):
                kept = await run_block(runtime, shop, inner, [*held, *mine], saga_class)
                if fails:
                    raise FailureError
        except FailureError:
            assert [item for item, _ in shop.undone[before:]][-len(kept) or len(shop.undone) :] == kept[::-1]
        else:
            mine.extend(kept)
    return mine


async def check_saga(drawn: tuple[list[Any], frozenset[int]], saga_class: type[Saga] = Saga) -> None:
    block, failing = drawn
    runtime = make_runtime()
    async with running(runtime):
        shop = Shop(failing)
        kept: list[int] = []
        with pytest.raises(FailureError) as caught:
            async with saga_class(runtime, "outer"):
                try:
                    kept = await run_block(runtime, shop, block, [], saga_class)
                except Exception as error:  # a row that may not run again: an undo of it failed
                    raise FailureError from error
                raise FailureError
        if caught.value.__cause__ is None:
            assert [item for item, _ in shop.undone[len(shop.undone) - len(kept) :]] == kept[::-1]
        assert all(result == f"r{item}" for item, result in shop.undone)
        assert set(states(runtime)) <= {"undone", "undo_unknown"}
        assert current_saga() is None


DRAWN = st.tuples(BLOCK, st.frozensets(st.integers(0, 5), max_size=2))


@given(DRAWN)
def test_what_was_done_is_undone_in_reverse_whatever_fails(drawn: tuple[list[Any], frozenset[int]]) -> None:
    run_virtual(check_saga(drawn))


class InOrder(Saga):
    async def _undo_all(self, cause: BaseException) -> None:
        self._done.reverse()
        await super()._undo_all(cause)


class ForgetsInner(Saga):
    async def __aexit__(self, *error: object) -> None:
        if error[0] is None:
            self._done.clear()
        await super().__aexit__(*error)


class StopsAtFailure(Saga):
    async def _undo(self, undo: Any, row: Any, bound: Any, cause: BaseException) -> None:
        await super()._undo(undo, row, bound, cause)
        if row.state.value == "undo_unknown":
            self._done.clear()


@pytest.mark.parametrize("broken", [InOrder, ForgetsInner, StopsAtFailure])
def test_the_property_catches(broken: type[Saga]) -> None:
    must_catch(lambda drawn: run_virtual(check_saga(drawn, broken)), DRAWN)


async def test_a_block_that_ends_well_undoes_nothing_and_forgets() -> None:
    async with running() as runtime:
        shop = Shop()
        saga = Saga(runtime, "order")
        async with saga:
            await shop.reserve(1)
            assert repr(saga) == "<Saga 'order' with 1 to undo>"
            assert current_saga() is saga
        with pytest.raises(FailureError):
            async with saga:
                await shop.reserve(2)
                raise FailureError
        assert shop.undone == [(2, "r2")]
        assert states(runtime) == ["done", "undone"]


async def test_a_failing_undo_is_told_and_the_others_go_on() -> None:
    async with running() as runtime:
        shop = Shop(frozenset({2}))
        with pytest.raises(FailureError) as caught:
            async with Saga(runtime, "order"):
                for item in (1, 2, 3):
                    await shop.reserve(item)
                raise FailureError
        assert [item for item, _ in shop.undone] == [3, 2, 1]
        assert states(runtime) == ["undone", "undo_unknown", "undone"]
        assert caught.value.__notes__ == [
            "the undo of stock.reserve[2] raised ValueError('undo 2'): nobody knows whether it is undone"
        ]
        names = [event.name for event in runtime.journal.get_events() if "undo" in event.name]
        assert names == ["action.undone", "action.undo_unknown", "action.undone"]


async def test_what_was_undone_runs_again_under_a_new_generation() -> None:
    async with running() as runtime:
        shop = Shop()
        with pytest.raises(FailureError):
            async with Saga(runtime, "order"):
                await shop.reserve(1)
                raise FailureError
        assert await shop.reserve(1) == "r1"
        (record,) = runtime.ledger.get_records()
        assert (record.state.value, record.generation, record.attempts) == ("done", 2, 2)


def test_a_cancelled_block_is_undone_before_the_cancellation_goes_on() -> None:
    async def main() -> None:
        async with running() as runtime:
            shop, loop = Shop(seconds=10), asyncio.get_running_loop()

            async def order() -> None:
                async with Saga(runtime, "order"):
                    await shop.reserve(1)
                    await shop.reserve(2)

            task = asyncio.create_task(order())
            loop.call_at(15, task.cancel)  # while 2 is being reserved: that ends first
            loop.call_at(25, task.cancel)  # while 2 is being undone
            await asyncio.wait((task,))
            assert task.cancelled()
            assert shop.undone == [(2, "r2"), (1, "r1")]
            assert loop.time() == 40

    run_virtual(main())


def test_a_cancellation_during_the_undos_is_delivered_after_them() -> None:
    async def main() -> None:
        async with running() as runtime:
            shop, loop = Shop(seconds=10), asyncio.get_running_loop()

            async def order() -> None:
                async with Saga(runtime, "order"):
                    await shop.reserve(1)
                    raise FailureError

            task = asyncio.create_task(order())
            loop.call_at(15, task.cancel)
            await asyncio.wait((task,))
            assert task.cancelled()
            assert shop.undone == [(1, "r1")]

    run_virtual(main())


async def test_concurrent_actions_are_undone_in_the_reverse_of_their_end() -> None:
    async with running() as runtime:
        ended: list[int] = []
        undone: list[int] = []

        @reversible("stock.reserve", undo=lambda item: undone.extend([item]), key=lambda item: item)
        async def reserve(item: int) -> None:
            for _ in range((item * 7) % 5):
                await asyncio.sleep(0)
            ended.append(item)
            if item == 6:
                raise FailureError

        with pytest.raises(ExceptionGroup):
            async with Saga(runtime, "order"), asyncio.TaskGroup() as group:
                for item in range(7):
                    group.create_task(reserve(item))
        assert undone == [item for item in ended[::-1] if item != 6]
        assert states(runtime).count("undone") == 6


async def test_irreversible_actions_and_stored_results_are_not_undone() -> None:
    async with running() as runtime:
        shop = Shop()

        @irreversible("mail.send")
        async def send() -> None: ...

        await shop.reserve(1)
        with pytest.raises(FailureError):
            async with Saga(runtime, "order"):
                await shop.reserve(1)
                await send()
                raise FailureError
        assert shop.undone == []
        assert states(runtime) == ["done", "done"]


async def test_an_undo_that_is_cancelled_is_unknown() -> None:
    async def release(item: int) -> None:
        raise asyncio.CancelledError

    @reversible("stock.reserve", undo=release, key=lambda item: item)
    async def reserve(item: int) -> None: ...

    async with running() as runtime:
        with pytest.raises(FailureError):
            async with Saga(runtime, "order"):
                await reserve(1)
                raise FailureError
        assert states(runtime) == ["undo_unknown"]


async def test_a_closed_block_awaits_nothing() -> None:
    async with running() as runtime:
        shop = Shop()

        async def order() -> None:
            async with Saga(runtime, "order"):
                await shop.reserve(1)
                await asyncio.Event().wait()

        generator = order()
        caller = asyncio.create_task(shop.reserve(1))
        await caller
        generator.send(None)
        generator.close()
        assert shop.undone == []


async def test_leaving_a_block_that_was_never_entered_does_nothing() -> None:
    runtime = make_runtime()
    leave: Callable[..., Any] = Saga(runtime, "order").__aexit__
    assert await leave(None, None, None) is None
