"""Looking at what tasks hold disturbs nothing, and tells runs apart that led to something else."""

import asyncio
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.seeing import SeeingLoop

PLANS = st.lists(st.lists(st.sampled_from("ysrwa"), max_size=6), min_size=1, max_size=4)
PAUSES = st.lists(st.integers(0, 20), max_size=3)


class Thing:
    """Something that can be referred to weakly."""


async def program(plan: list[list[str]]) -> list[object]:
    """Run a task for each list of letters: yield, sleep, read, write, and a thing that is let go of."""
    log: list[object] = []
    shared = 0

    async def work(name: int, letters: list[str]) -> int:
        nonlocal shared
        seen = 0
        for letter in letters:
            thing: Thing | None = Thing()
            held = weakref.ref(thing)
            await asyncio.sleep(letter == "s")
            match letter:
                case "r":
                    seen = shared
                case "w":
                    shared = seen + 1
                case "a":
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.Event().wait(), 0.5)
            del thing
            log.append((name, letter, seen, held() is None))
        return seen

    log += await asyncio.gather(*(work(name, letters) for name, letters in enumerate(plan)))
    return [*log, shared]


def check_that_looking_disturbs_nothing(loop: SeeingLoop, plan: list[list[str]], pauses: list[int]) -> None:
    plain = SimLoop(pauses=pauses, record=False)
    assert loop.run(program(plan)) == plain.run(program(plan))
    assert (loop.steps, loop.points, loop.time()) == (plain.steps, plain.points, plain.time())


@given(PLANS, PAUSES)
def test_looking_disturbs_nothing(plan: list[list[str]], pauses: list[int]) -> None:
    check_that_looking_disturbs_nothing(SeeingLoop(pauses=pauses), plan, pauses)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="there asking for local variables keeps nothing alive")
def test_the_check_catches_one_who_asks_for_local_variables() -> None:
    class Asking(SeeingLoop):
        def _look(self, label: str, coroutine: Any) -> None:
            while getattr(coroutine, "cr_frame", None) is not None:
                coroutine.cr_frame.f_locals  # noqa: B018 - asking is the point
                coroutine = coroutine.cr_await

    with pytest.raises(AssertionError):
        check_that_looking_disturbs_nothing(Asking(), [["y"]], [])


@given(PLANS, PAUSES)
def test_equal_runs_have_equal_sights(plan: list[list[str]], pauses: list[int]) -> None:
    first, second = SeeingLoop(pauses=pauses), SeeingLoop(pauses=pauses)
    assert first.run(program(plan)) == second.run(program(plan))
    assert first.sight() == second.sight()
    assert first.moments == second.moments
    assert first.unsteady(second) == set()
    assert len(first.moments) <= first.points


# ---------------------------------------------------------------- what it tells apart


def sights(main: Callable[[], Coroutine[Any, Any, object]], kind: type[SeeingLoop] = SeeingLoop) -> list[int]:
    """Return what is seen in stock order and with each single pause, of runs that all take the same steps."""
    plain = kind()
    plain.run(main())
    loops = [plain, *(kind(pauses=[point]) for point in range(plain.points))]
    for loop in loops[1:]:
        loop.run(main())
    assert len({loop.length for loop in loops}) == 1
    return [loop.sight() for loop in loops]


async def lost_update() -> None:
    balance = 0

    async def deposit(delay: int) -> None:
        nonlocal balance
        for _ in range(delay):
            await asyncio.sleep(0)
        before = balance
        await asyncio.sleep(0)
        balance = before + 1

    await asyncio.gather(deposit(0), deposit(3))


async def other_way() -> None:
    done = False

    async def first() -> None:
        nonlocal done
        await asyncio.sleep(0)
        done = True

    async def second() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        if done:
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)

    await asyncio.gather(first(), second())


async def other_answer() -> None:
    value = 0

    async def write() -> None:
        nonlocal value
        await asyncio.sleep(0)
        value = 1

    async def read() -> int:
        for _ in range(2):
            await asyncio.sleep(0)
        return value

    await asyncio.gather(write(), read())


@pytest.mark.parametrize("main", [lost_update, other_way, other_answer])
def test_a_race_that_changes_no_step_is_seen(main: Callable[[], Coroutine[Any, Any, object]]) -> None:
    assert len(set(sights(main))) > 1


def test_the_test_catches_one_who_counts_steps_only() -> None:
    class Counting(SeeingLoop):
        def sight(self, *_: object) -> int:
            return hash(self.length)

    assert len(set(sights(lost_update, Counting))) == 1


async def nothing_shared() -> None:
    async def turn(count: int) -> None:
        for number in range(count):
            await asyncio.sleep(0)
            assert number >= 0

    await asyncio.gather(turn(2), turn(3), turn(1))


def test_tasks_that_share_nothing_look_alike_in_any_order() -> None:
    assert len(set(sights(nothing_shared))) == 1


def test_functions_that_hold_other_values_every_time_are_left_out() -> None:
    runs = 0

    async def main() -> None:
        nonlocal runs
        runs += 1
        number = runs
        await lost_update()
        assert number

    loops = [SeeingLoop(), SeeingLoop(), SeeingLoop(pauses=[2])]
    for loop in loops:
        loop.run(main())
    unsteady = loops[0].unsteady(loops[1])
    assert {code.co_name for code in unsteady if code is not None} == {"main"}
    assert loops[0].sight() != loops[1].sight()
    assert loops[0].sight(unsteady) == loops[1].sight(unsteady) != loops[2].sight(unsteady)


def test_a_failure_is_still_one_that_nobody_looked_at() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().create_task(fail())
        asyncio.get_running_loop().call_soon(len, "")
        await asyncio.sleep(1)

    loop = SeeingLoop()
    loop.run(main())
    assert [type(each["exception"]) for each in loop.unhandled] == [ZeroDivisionError]
