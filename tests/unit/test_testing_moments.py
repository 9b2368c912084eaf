"""Pauses at moments: the same run as with the decision points they come at, whatever was paused before."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.moments import Moment, MomentLoop

PLANS = st.lists(st.lists(st.sampled_from("yysljtm"), max_size=5), min_size=1, max_size=5)
PICKS = st.lists(st.integers(0, 60), max_size=4)


async def program(plan: list[list[str]]) -> list[tuple[int, str, float]]:
    """Run a task for each list of letters: yield, sleep, lock, have a job done, set timers, call a method twice."""
    log: list[tuple[int, str, float]] = []
    lock = asyncio.Lock()
    loop = asyncio.get_running_loop()

    async def work(name: int, letters: list[str]) -> None:
        for letter in letters:
            match letter:
                case "s":
                    await asyncio.sleep(1)
                case "l":
                    async with lock:
                        await asyncio.sleep(0)
                case "j":
                    await asyncio.to_thread(int)
                case "t":
                    loop.call_later(0, log.append, (name, "timer", loop.time()))
                    await asyncio.sleep(0)
                case "m":
                    for _ in range(2):
                        loop.call_soon(log.append, (name, "method", loop.time()))
                case _:
                    await asyncio.sleep(0)
            log.append((name, letter, loop.time()))

    await asyncio.gather(*(work(name, letters) for name, letters in enumerate(plan)))
    return log


def moments_of(loop: MomentLoop) -> list[Moment]:
    return sorted(moment for each in loop.places.values() for moment in each)


def run_at(plan: list[list[str]], picks: list[int], kind: type[MomentLoop] = MomentLoop) -> tuple[MomentLoop, Any]:
    """Pause at some moments of the run in stock order."""
    stock = MomentLoop()
    stock.run(program(plan))
    moments = moments_of(stock)
    loop = kind(at={moments[pick % len(moments)] for pick in picks} if moments else ())
    return loop, loop.run(program(plan))


def check_that_points_replay_it(plan: list[list[str]], picks: list[int], kind: type[MomentLoop] = MomentLoop) -> None:
    loop, log = run_at(plan, picks, kind)
    again = SimLoop(pauses=loop.paused, record=False)
    assert again.run(program(plan)) == log
    assert (again.steps, again.points, again.time()) == (loop.steps, loop.points, loop.time())


@given(PLANS, PICKS)
def test_the_decision_points_it_names_give_the_same_run(plan: list[list[str]], picks: list[int]) -> None:
    check_that_points_replay_it(plan, picks)


def test_the_check_catches_points_that_are_counted_wrong() -> None:
    class Miscounting(MomentLoop):
        def may_pause(self, handle: Any) -> bool:
            answer = super().may_pause(handle)
            self.paused = tuple(point + 1 for point in self.paused) if answer else self.paused
            return answer

    must_catch(lambda drawn: check_that_points_replay_it(*drawn, Miscounting), st.tuples(PLANS, PICKS))


@given(PLANS)
def test_without_moments_nothing_is_paused(plan: list[list[str]]) -> None:
    assert MomentLoop().run(program(plan)) == SimLoop().run(program(plan))


@given(PLANS, PICKS)
def test_equal_moments_give_equal_runs(plan: list[list[str]], picks: list[int]) -> None:
    first, second = run_at(plan, picks), run_at(plan, picks)
    assert first[1] == second[1]
    assert first[0].paused == second[0].paused
    assert list(map(sorted, first[0].places.values())) == list(map(sorted, second[0].places.values()))


def test_the_second_pause_hits_the_same_step_whatever_the_first_one_moved() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def append(name: str, steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            order.append(name)

        await asyncio.gather(append("a", 1), append("b", 3), append("c", 5))
        return order

    both: set[Moment] = {("append#2", 1), ("append#3", 3)}
    assert [MomentLoop(at={each}).run(main()) for each in sorted(both)] == [["b", "c", "a"], ["a", "c", "b"]]
    assert MomentLoop(at=both).run(main()) == ["c", "a", "b"]


def test_moments_are_put_together_by_where_they_wait() -> None:
    async def wait() -> None:
        await asyncio.sleep(0)

    async def one() -> None:
        await wait()
        await wait()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(len, "")
        await asyncio.gather(one(), one(), wait())

    loop = MomentLoop()
    loop.run(main())
    groups = sorted(sorted(group) for group in loop.places.values())
    assert [("one#2", 1), ("one#3", 1)] in groups, "the first wait of one()"
    assert [("one#2", 2), ("one#3", 2)] in groups, "the second one"
    assert [("len", 0)] in groups
    assert [("wait#4", 1)] in groups, "the same line, but nobody of the others is in it from here"


def test_nothing_is_paused_nor_noted_after_the_healing() -> None:
    async def main(loop: MomentLoop) -> list[str]:
        order: list[str] = []

        async def append(name: str) -> None:
            await asyncio.sleep(0)
            order.append(name)

        await asyncio.gather(append("a"), append("b"))
        loop.heal()
        await asyncio.gather(append("c"), append("d"))
        return order

    stock = MomentLoop()
    assert stock.run(main(stock)) == list("abcd")
    assert {moment[0] for moment in moments_of(stock)} <= {"append#2", "append#3", "gather.<locals>._done_callback"}
    paused = MomentLoop(at=[("append#4", 1)])
    assert paused.run(main(paused)) == list("abcd")
    assert paused.paused == ()
