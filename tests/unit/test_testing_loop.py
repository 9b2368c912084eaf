"""The simulated loop: stock order, pauses, ends, and power cuts."""

import asyncio
import contextlib
import functools
import gc
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import StuckError, VirtualLoop

from asyncsandbox.testing import incarnation
from asyncsandbox.testing.errors import (
    DeadlockError,
    EscapedError,
    LivelockError,
    NestedWorldError,
    NondeterminismError,
    SimulationError,
)
from asyncsandbox.testing.incarnation import Incarnation, WeakList
from asyncsandbox.testing.lanes import SimTask
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.trace import StepKind

# ---------------------------------------------------------------- generated programs

MAX_ROUNDS = 20_000  # none that ends takes nearly as many
MAX_OPS = 22  # each may have a delay of its own, made so that no two sums of them are equal


class Program:
    """Runs a drawn list of operations and logs every step it takes."""

    def __init__(self, body: list[Any]) -> None:
        self.log: list[Any] = []
        self.body = body
        self.used = 0

    async def main(self) -> list[Any]:
        self.queue: asyncio.Queue[int] = asyncio.Queue(1)
        self.event, self.lock, self.semaphore = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        self.condition = asyncio.Condition()
        self.spawned: list[asyncio.Task[None]] = []
        with contextlib.suppress(TimeoutError, asyncio.CancelledError, ZeroDivisionError, ExceptionGroup):
            async with asyncio.timeout(200):
                await self.run("main", self.body)
        while pending := [task for task in self.spawned if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=300)  # some swallow the first cancellation
        await asyncio.gather(*self.spawned, return_exceptions=True)
        return self.log

    def say(self, who: str, what: object) -> None:
        self.log.append((who, what, asyncio.get_running_loop().time()))

    async def run(self, who: str, body: list[Any]) -> None:
        for number, (name, *rest) in enumerate(body):
            here = f"{who}.{number}{name}"
            self.say(here, "begin")
            try:
                await getattr(self, f"do_{name}")(here, *rest)
            except BaseException as error:
                self.say(here, type(error).__name__)
                raise
            self.say(here, "end")

    def delay(self) -> float:
        self.used += 1
        return 1 + 2.0 ** -(self.used % MAX_OPS + 1)

    def spawn(self, who: str, body: list[Any]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.run(who, body))
        self.spawned.append(task)
        return task

    async def do_yield(self, who: str) -> None:
        await asyncio.sleep(0)

    async def do_sleep(self, who: str) -> None:
        await asyncio.sleep(self.delay())

    async def do_put(self, who: str) -> None:
        await self.queue.put(1)

    async def do_get(self, who: str) -> None:
        await self.queue.get()

    async def do_set(self, who: str) -> None:
        self.event.set()

    async def do_clear(self, who: str) -> None:
        self.event.clear()

    async def do_wait(self, who: str) -> None:
        await self.event.wait()

    async def do_notify(self, who: str) -> None:
        async with self.condition:
            self.condition.notify()

    async def do_await_notice(self, who: str) -> None:
        async with self.condition:
            await asyncio.wait_for(self.condition.wait(), self.delay())

    async def do_fail(self, who: str) -> None:
        raise ZeroDivisionError

    async def do_soon(self, who: str) -> None:
        asyncio.get_running_loop().call_soon(self.say, who, "soon")

    async def do_at_once(self, who: str) -> None:
        asyncio.get_running_loop().call_later(1 - self.delay(), self.say, who, "timer")  # it is over due already

    async def do_cancel(self, who: str, which: int) -> None:
        if self.spawned:
            self.spawned[which % len(self.spawned)].cancel()

    async def do_lock(self, who: str, body: list[Any]) -> None:
        async with self.lock:
            await self.run(who, body)

    async def do_permit(self, who: str, body: list[Any]) -> None:
        async with self.semaphore:
            await self.run(who, body)

    async def do_spawn(self, who: str, body: list[Any]) -> None:
        self.spawn(who, body)

    async def do_shield(self, who: str, body: list[Any]) -> None:
        await asyncio.shield(self.spawn(who, body))

    async def do_timeout(self, who: str, body: list[Any]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.delay()):
                await self.run(who, body)

    async def do_wait_for(self, who: str, body: list[Any]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.run(who, body), self.delay())

    async def do_gather(self, who: str, *bodies: list[Any]) -> None:
        await asyncio.gather(*(self.spawn(f"{who}{n}", body) for n, body in enumerate(bodies)))

    async def do_group(self, who: str, *bodies: list[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies):
                group.create_task(self.run(f"{who}{number}", body))

    async def do_first(self, who: str, *bodies: list[Any]) -> None:
        tasks = [self.spawn(f"{who}{n}", body) for n, body in enumerate(bodies)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.say(who, [task in done for task in tasks])


PLAIN = [
    "yield",
    "yield",
    "sleep",
    "put",
    "get",
    "set",
    "clear",
    "wait",
    "notify",
    "await_notice",
    "fail",
    "soon",
    "at_once",
]
operations = st.recursive(
    st.one_of(
        st.sampled_from(PLAIN).map(lambda name: (name,)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
    ),
    lambda inner: st.one_of(
        st.tuples(
            st.sampled_from(["lock", "permit", "spawn", "spawn", "shield", "timeout", "wait_for"]),
            st.lists(inner, max_size=4),
        ),
        st.lists(st.lists(inner, max_size=4), min_size=1, max_size=3).flatmap(
            lambda bodies: st.sampled_from(["gather", "group", "first"]).map(lambda name: (name, *bodies))
        ),
    ),
    max_leaves=16,
)
programs = st.lists(operations, min_size=1, max_size=5)


class NumberedTask(asyncio.Task[Any]):
    """Stock asyncio, but for its sets of tasks: they iterate in the order of addresses otherwise."""

    def __init__(self, number: int, coro: Any, **kwargs: Any) -> None:
        self.number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class BoundedLoop(VirtualLoop):
    """Stock asyncio, but it gives up: before Python 3.12 a cancelled wait may be lost, or busy for ever."""

    rounds = 0

    def _run_once(self) -> None:
        self.rounds += 1
        if self.rounds > MAX_ROUNDS:
            raise LivelockError(self.rounds, ())
        super()._run_once()


stuck: list[asyncio.Task[Any]] = []  # kept: to let them go would have them go on without a loop


def run_stock(main: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    numbers = itertools.count(1)
    with contextlib.closing(BoundedLoop()) as loop:
        loop.set_task_factory(lambda loop, coro, **kwargs: NumberedTask(next(numbers), coro, loop=loop, **kwargs))
        try:
            return loop.run_until_complete(main)
        finally:
            stuck.extend(asyncio.all_tasks(loop))


def outcome_of(run: Callable[[Any], list[Any]], body: list[Any]) -> tuple[list[Any], str]:
    """Return what a program logged, and whether it came to an end."""
    program = Program(body)
    try:
        run(program.main())
    except LivelockError:
        return program.log, "busy for ever"
    except (DeadlockError, StuckError):
        return program.log, "waits for ever"
    return program.log, "ended"


def check_parity(body: list[Any], loop: SimLoop) -> None:
    assert outcome_of(loop.run, body) == outcome_of(run_stock, body)


@settings(max_examples=1_000)
@given(programs)
def test_without_pauses_it_does_exactly_what_stock_asyncio_does(body):
    check_parity(body, SimLoop())


class LastFirst(SimLoop):
    def _begin_round(self):
        super()._begin_round()
        self._ready.rotate(1)


class TimersFirst(SimLoop):
    def _begin_round(self):
        before = len(self._ready)
        super()._begin_round()
        self._ready.rotate(len(self._ready) - before)


class EagerTimers(SimLoop):
    def call_later(self, delay, callback, *args, context=None):
        if delay < 0:
            return self.call_soon(callback, *args, context=context)
        return super().call_later(delay, callback, *args, context=context)


@pytest.mark.parametrize("broken", [LastFirst, TimersFirst, EagerTimers])
def test_the_parity_property_catches_another_order(broken):
    @settings(max_examples=1_000, database=None, report_multiple_bugs=False, derandomize=True)
    @given(programs)
    def parity(body):
        check_parity(body, broken())

    with pytest.raises(AssertionError):
        parity()


@given(programs, st.lists(st.integers(0, 60), max_size=4))
def test_equal_pauses_give_equal_runs(body, pauses):
    first, second = SimLoop(pauses=pauses), SimLoop(pauses=pauses)
    assert outcome_of(first.run, body) == outcome_of(second.run, body)
    assert first.trace.digest() == second.trace.digest()
    assert (first.points, first.steps) == (second.points, second.steps)
    assert first.trace.difference(second.trace) == ""


@given(programs, st.integers(0, 60))
def test_until_the_pause_nothing_is_different(body, point):
    plain, paused = SimLoop(), SimLoop(pauses=[point])
    outcome_of(plain.run, body)
    outcome_of(paused.run, body)
    marks = [i for i, step in enumerate(paused.trace.steps) if step.kind is StepKind.PAUSED]
    same = marks[0] if marks else len(plain.trace)
    assert paused.trace.raw[:same] == plain.trace.raw[:same]
    assert bool(marks) == (point < plain.points)


@given(programs, st.lists(st.integers(0, 60), max_size=4))
def test_not_recording_changes_nothing_else(body, pauses):
    recording, silent = SimLoop(pauses=pauses), SimLoop(pauses=pauses, record=False)
    assert outcome_of(recording.run, body) == outcome_of(silent.run, body)
    assert (recording.points, recording.steps) == (silent.points, silent.steps)
    assert len(silent.trace) == 0


# ---------------------------------------------------------------- determinism

SCRIPT = """
import json, random, sys
sys.path[:0] = json.loads(sys.argv[1])
from test_testing_loop import many_digests
print(many_digests(int(sys.argv[2])))
"""


def random_body(source: random.Random, depth: int = 0) -> list[Any]:
    names = PLAIN + (
        [] if depth > 2 else ["lock", "permit", "spawn", "shield", "timeout", "wait_for", "gather", "group", "first"]
    )
    body: list[Any] = []
    for _ in range(source.randint(1, 4)):
        name = source.choice(names)
        inner = 0 if name in PLAIN else 2 if name in {"gather", "group", "first"} else 1
        body.append((name, *(random_body(source, depth + 1) for _ in range(inner))))
    return body


def many_digests(count: int) -> str:
    together = []
    for seed in range(count):
        source = random.Random(seed)
        loop = SimLoop(pauses=[source.randint(0, 40) for _ in range(source.randint(0, 3))])
        outcome_of(loop.run, random_body(source))
        together.append(loop.trace.digest())
    return json.dumps(together)


def test_other_processes_with_other_hash_seeds_run_the_same_way():
    here = json.dumps([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, here, "60"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outcomes == {many_digests(60)}


async def ten_done() -> list[str]:
    tasks = {asyncio.create_task(asyncio.sleep(0), name=f"t{n}") for n in range(10)}
    done, _ = await asyncio.wait(tasks)
    return [task.get_name() for task in done]


def orders_of_a_set() -> int:
    ballast, orders = [], set()
    for number in range(50):
        ballast.append([object() for _ in range(number * 7)])  # moves the addresses of what comes
        orders.add(tuple(SimLoop().run(ten_done())))
    return len(orders)


def test_sets_of_tasks_iterate_in_the_same_order_in_every_run():
    assert orders_of_a_set() == 1


def test_the_property_of_sets_catches_hashes_made_of_addresses(monkeypatch):
    monkeypatch.setattr(SimTask, "__hash__", object.__hash__)
    assert orders_of_a_set() > 1


def test_equal_deadlines_keep_their_order():
    async def main() -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_at(5, seen.append, number)
        await asyncio.sleep(6)
        return seen

    assert SimLoop().run(main()) == list(range(50))


# ---------------------------------------------------------------- pauses


async def lost_update() -> int:
    value = 0

    async def add(delay: int) -> None:
        nonlocal value
        for _ in range(delay):
            await asyncio.sleep(0)
        seen = value
        await asyncio.sleep(0)
        value = seen + 1

    await asyncio.gather(add(0), add(3))
    return value


def test_one_pause_finds_the_lost_update_that_stock_order_hides():
    plain = SimLoop()
    assert plain.run(lost_update()) == 2
    found = [point for point in range(plain.points) if SimLoop(pauses=[point]).run(lost_update()) == 1]
    assert found


class Choosy(SimLoop):
    """Makes the pauses at some points, and passes over the others."""

    def __init__(self, pauses: list[int], wanted: set[int]) -> None:
        super().__init__(pauses=pauses)
        self.wanted = wanted

    def may_pause(self, _handle: Any) -> bool:
        return self.points - 1 in self.wanted


@given(programs, st.lists(st.integers(0, 60), max_size=4), st.sets(st.integers(0, 60)))
def test_a_pause_that_is_passed_over_was_never_there(body, pauses, wanted):
    choosy, plain = Choosy(pauses, wanted), SimLoop(pauses=wanted & set(pauses))
    assert outcome_of(choosy.run, body) == outcome_of(plain.run, body)
    assert choosy.trace.digest() == plain.trace.digest()


def test_a_pause_lasts_until_everything_else_is_idle():
    async def main() -> list[str]:
        seen: list[str] = []

        async def work(name: str, steps: int) -> None:
            for _ in range(steps):
                seen.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(work("a", 2), work("b", 4))
        return seen

    loop = SimLoop(pauses=[0])
    assert loop.run(main()) == ["b", "b", "b", "b", "a", "a"]
    kinds = [step.kind for step in loop.trace.steps]
    assert kinds.index(StepKind.PAUSED) < kinds.index(StepKind.RESUMED)
    assert loop.trace.steps[kinds.index(StepKind.PAUSED)].task == "work#2"


def test_a_pause_ends_for_those_who_poll_for_the_paused_one():
    async def main() -> bool:
        ready = False

        async def prepare() -> None:
            nonlocal ready
            ready = True

        async def poll() -> None:
            while not ready:  # noqa: ASYNC110 - that is the point
                await asyncio.sleep(0)

        await asyncio.gather(prepare(), poll())
        return ready

    assert SimLoop(pauses=[0], max_steps=5_000).run(main())


def test_healing_ends_the_pauses():
    async def main(loop: SimLoop, when: int) -> list[str]:
        seen: list[str] = []

        async def slow() -> None:
            seen.append("slow")

        async def quick() -> None:
            for number in range(5):
                if number == when:
                    loop.heal()
                await asyncio.sleep(0)
            seen.append("quick")

        await asyncio.gather(slow(), quick())
        return seen

    loops = SimLoop(pauses=[0]), SimLoop(pauses=[0])
    assert loops[0].run(main(loops[0], 9)) == ["quick", "slow"]
    assert loops[1].run(main(loops[1], 1)) == ["slow", "quick"]


# ---------------------------------------------------------------- ends


def test_a_deadlock_is_named_with_task_and_line():
    async def main() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def take(one: asyncio.Lock, other: asyncio.Lock) -> None:
            async with one:
                await asyncio.sleep(0)
                async with other:
                    pass

        await asyncio.gather(take(first, second), take(second, first))

    with pytest.raises(DeadlockError) as caught:
        SimLoop().run(main())
    assert [line.split(" waits at ")[0] for line in caught.value.waiting] == ["main#1", "take#2", "take#3"]
    assert all("test_testing_loop.py:" in line for line in caught.value.waiting)


def test_a_livelock_is_named_with_task_and_line():
    async def main() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    with pytest.raises(LivelockError, match=r"after 100 steps: main#1 at test_testing_loop\.py:\d+"):
        SimLoop(max_steps=100).run(main())


def test_what_is_left_at_the_end_is_named_and_cancelled():
    seen: list[str] = []

    async def forgotten() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise ZeroDivisionError

    async def main() -> None:
        tasks.extend((asyncio.create_task(forgotten()), asyncio.create_task(stubborn(), name="stubborn")))
        await asyncio.sleep(1)

    tasks: list[Any] = []
    loop = SimLoop()
    loop.run(main())
    assert loop.leaked == ("forgotten#2", "stubborn#3")
    assert seen == ["cleaned up"]
    assert [type(context["exception"]) for context in loop.unhandled] == [ZeroDivisionError]
    assert loop.is_closed()


@pytest.mark.parametrize("factory", [None, lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs)])
def test_what_cannot_be_cancelled_is_named(factory):
    async def hang() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        tasks.append(asyncio.create_task(hang(), name="hang"))
        await asyncio.sleep(1)

    tasks: list[Any] = []
    loop = SimLoop()
    loop.run(main())
    assert loop.unhandled[0]["message"] == "a cancelled task did not end"
    assert loop.unhandled[0]["exception"].waiting[0].startswith("hang")


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "dropped"])
def test_failures_nobody_looked_at_are_noted(keep):
    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        task = asyncio.create_task(fail())
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        if keep:
            kept.extend((task, asyncio.current_task()))

    kept: list[Any] = []
    loop = SimLoop()
    loop.run(main())
    assert [type(context["exception"]) for context in loop.unhandled] == [ZeroDivisionError] * 2


def test_names_are_those_people_gave():
    async def main() -> None:
        asyncio.get_running_loop().call_soon(functools.partial(functools.partial(len), ""))
        asyncio.create_task(asyncio.sleep(60)).set_name("renamed")
        await asyncio.sleep(1)

    loop = SimLoop()
    loop.run(main())
    assert loop.leaked == ("renamed#2",)
    assert "len" in {step.task for step in loop.trace.steps}


def test_interrupts_end_the_run():
    async def main() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(1)

    with pytest.raises(SystemExit):
        SimLoop().run(main())


def test_collecting_garbage_stops_during_a_run_and_goes_on_after_it():
    async def main() -> bool:
        return gc.isenabled()

    assert SimLoop().run(main()) is False
    assert gc.isenabled()
    gc.disable()
    try:
        SimLoop().run(main())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_loop_can_be_run_several_times_and_its_tasks_live_on():
    async def start() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(5, "done")))

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    tasks: list[asyncio.Task[str]] = []
    loop = SimLoop()
    loop.run_until_complete(start())
    loop.run_until_complete(wait(3))
    assert not tasks[0].done()
    loop.run_until_complete(wait(3))
    assert tasks[0].result() == "done"
    loop.finish()
    assert loop.time() == 6


# ---------------------------------------------------------------- what runs on it


async def with_groups() -> object:
    async with asyncio.TaskGroup() as group:
        one = group.create_task(asyncio.sleep(1, "a"))
        two = group.create_task(asyncio.to_thread(lambda: "b"))
    return one.result() + two.result()


async def with_executor() -> object:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, sum, (1, 2)) + await loop.run_in_executor(object(), len, "ab")


async def with_generators() -> object:
    seen = []

    async def numbers():
        try:
            for number in range(5):
                yield number
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)
            seen.append("closed")

    async for number in numbers():
        if number == 2:
            break
    async with contextlib.aclosing(numbers()) as generator:
        await anext(generator)
    await asyncio.sleep(5)
    left = numbers()  # closed by the end of the run
    await anext(left)
    return tuple(seen)


async def with_anyio() -> object:
    seen = []
    send, receive = anyio.create_memory_object_stream[int](1)

    async def produce() -> None:
        async with send:
            for number in range(3):
                await send.send(number)

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        seen.extend([number async for number in receive])
    with anyio.move_on_after(2) as scope:
        await anyio.sleep(60)
    limiter = anyio.CapacityLimiter(1)
    async with limiter:
        pass
    return tuple(seen), scope.cancelled_caught, anyio.current_time()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (with_groups, "ab"),
        (with_executor, 5),
        (with_generators, ("closed", "closed")),
        (with_anyio, ((0, 1, 2), True, 2.0)),
    ],
)
@pytest.mark.parametrize("pauses", [(), (0,), (1, 3)])
def test_it_runs_what_people_use_the_same_way_every_time(program, expected, pauses):
    loops = [SimLoop(pauses=pauses) for _ in range(3)]
    assert {loop.run(program()) for loop in loops} == {expected}
    assert len({loop.trace.digest() for loop in loops}) == 1
    assert all(loop.unhandled == [] for loop in loops)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_it_runs_eager_tasks():
    async def work() -> str:
        return "at once"

    async def slow() -> str:
        await asyncio.sleep(1)
        return "later"

    async def main() -> tuple[Any, ...]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        quick = asyncio.create_task(work())
        return quick.done(), hash(quick), await asyncio.create_task(slow())

    assert SimLoop().run(main()) == (True, 2, "later")


def test_it_runs_tasks_of_the_users_own_factory():
    left: list[Any] = []

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        left.append(asyncio.create_task(asyncio.sleep(60), name="left"))
        return await asyncio.create_task(asyncio.sleep(1, "fine"), name="mine")

    loop = SimLoop(pauses=[0])
    assert loop.run(main()) == "fine"
    assert loop.leaked == ("left",)
    assert "mine" in {step.task for step in loop.trace.steps}


def test_tasks_are_named_by_coroutine_and_number_or_as_the_user_says():
    async def work() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def main() -> tuple[str, ...]:
        return await work(), await asyncio.create_task(work()), await asyncio.create_task(work(), name="mine")

    loop = SimLoop()
    assert loop.run(main()) == ("main#1", "work#2", "mine")
    assert {"main#1", "work#2", "mine#3"} <= {step.task for step in loop.trace.steps}


def test_many_cancelled_timers_are_dropped():
    async def main(loop: SimLoop) -> int:
        for _ in range(500):
            loop.call_later(3_600, print).cancel()
        await asyncio.sleep(1)
        return len(loop.timers)

    loop = SimLoop()
    assert loop.run(main(loop)) < 200
    assert loop.time() == 1


def test_a_cancelled_timer_does_not_move_time():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        early, due = loop.call_later(1, print), loop.call_later(2, print)
        early.cancel()
        early.cancel()
        loop.call_later(1.5, loop.call_later(2, print).cancel)
        loop.call_later(2, due.cancel)
        loop.call_later(2, loop.call_soon(print).cancel)
        await asyncio.sleep(3)

    loop = SimLoop()
    loop.run(main())
    assert min(step.at for step in loop.trace.steps if step.at > 0) == 1.5


def test_a_closed_loop_takes_nothing():
    loop = SimLoop()
    loop.finish()
    for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print), loop.run_forever):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_time_of_far_away_deadlines_still_passes():
    async def main() -> float:
        await asyncio.sleep(4e9)
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert SimLoop().run(main()) == pytest.approx(4e9 + 1)


# ---------------------------------------------------------------- executor jobs


def test_a_job_has_no_running_loop_and_an_empty_context():
    from contextvars import ContextVar

    variable: ContextVar[int] = ContextVar("variable", default=0)

    def job() -> tuple[bool, int]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True, variable.get()
        return False, variable.get()

    async def main() -> tuple[Any, Any]:
        variable.set(7)
        return await asyncio.get_running_loop().run_in_executor(None, job), await asyncio.to_thread(job)

    assert SimLoop().run(main()) == ((True, 0), (True, 7))


def test_jobs_fail_as_in_a_thread():
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen = []
        for error in (ValueError, StopIteration):
            job = loop.run_in_executor(
                None, iter([]).__next__ if error is StopIteration else int, *["x"] * (error is ValueError)
            )
            try:
                await job
            except (ValueError, RuntimeError) as caught:
                seen.append(type(caught).__name__)
        cancelled = loop.run_in_executor(None, seen.append, "never")
        cancelled.cancel()
        await asyncio.sleep(1)
        return seen

    assert SimLoop().run(main()) == ["ValueError", "RuntimeError"]


def test_an_interrupt_in_a_job_ends_the_run():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SimLoop().run(asyncio.to_thread(interrupt))


def test_a_job_may_call_back():
    async def main() -> str:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        job = asyncio.to_thread(loop.call_soon_threadsafe, event.set)
        await asyncio.gather(event.wait(), job)
        return "called"

    assert SimLoop().run(main()) == "called"


def test_a_foreign_thread_is_refused_loudly_also_where_it_swallows_the_error():
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def foreign() -> None:
            with contextlib.suppress(EscapedError):
                loop.call_soon_threadsafe(print)

        thread = threading.Thread(target=foreign)
        thread.start()
        thread.join()

    with pytest.raises(EscapedError, match="another thread"):
        SimLoop().run(main())


# ---------------------------------------------------------------- power cuts


class Witness:
    """Writes down everything that must not happen at a power cut."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __del__(self) -> None:
        deaths.append("deleted")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.seen.append("left")
        await asyncio.sleep(1)

    async def ticks(self):
        try:
            while True:
                yield "tick"
                await asyncio.sleep(1)
        finally:
            self.seen.append("generator closed")

    async def app(self) -> None:
        child = asyncio.create_task(self.child())
        asyncio.get_running_loop().call_later(50, self.seen.append, "timer")
        try:
            async with self:
                async for tick in self.ticks():
                    self.seen.append(tick)
        finally:
            self.seen.append("finally")
            child.cancel()
            self.another = asyncio.create_task(self.child())
            asyncio.get_running_loop().call_soon(self.seen.append, "soon")
            await asyncio.sleep(0)
            self.seen.append("awaited in finally")

    async def child(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append("child ended")


deaths: list[str] = []


async def crash(loop: SimLoop, cut: Any) -> tuple[list[str], list[str]]:
    deaths.clear()
    witness = Witness()
    seen = witness.seen
    life = loop.new_incarnation()
    loop.create_task(witness.app(), context=life.context())
    await asyncio.sleep(2.5)
    cut(life)
    del witness
    gc.collect()
    await asyncio.sleep(100)
    return list(seen), seen


def test_a_power_cut_runs_no_finally_and_calls_nobody():
    loop = SimLoop()
    before, after = loop.run(crash(loop, loop.power_cut))
    assert before == ["tick", "tick", "tick"]
    assert "awaited in finally" not in after, "the world is gone by then"
    gc.collect()
    assert deaths == ["deleted"]
    assert loop.leaked == ()
    assert loop.unhandled == []
    assert StepKind.CRASH in {step.kind for step in loop.trace.steps}


def test_the_power_cut_property_catches_a_mere_cancellation():
    loop = SimLoop()

    def cancel(life: Incarnation) -> None:
        for task in asyncio.all_tasks(loop):
            if task.incarnation is life:
                task.cancel()

    before, _ = loop.run(crash(loop, cancel))
    assert before != ["tick", "tick", "tick"]


def test_what_is_paused_dies_too():
    async def main(loop: SimLoop) -> list[str]:
        seen: list[str] = []

        async def app(name: str) -> None:
            for _ in range(5):
                seen.append(name)
                await asyncio.sleep(0)

        lives = [loop.new_incarnation() for _ in range(2)]
        for life in lives:
            loop.create_task(app(str(life.number)), context=life.context())
        loop.create_task(app("outside"))
        loop.at_step = lambda step: loop.power_cut(lives[0]) if step == 6 else None
        await asyncio.sleep(1)
        return seen

    for pauses in ((), (0,), (0, 1)):
        loop = SimLoop(pauses=pauses)
        seen = loop.run(main(loop))
        assert seen.count("2") == seen.count("outside") == 5
        assert seen.count("1") < 5


def test_everything_may_die_at_once():
    async def app() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop = SimLoop()
    life = loop.new_incarnation()
    loop.at_step = lambda step: loop.power_cut(life) if step == 1 else None
    task = loop.create_task(app(), context=life.context())
    with pytest.raises(DeadlockError):
        loop.run_until_complete(task)
    loop.finish()


def test_a_life_may_cut_its_own_power_and_ends_at_the_end_of_the_step():
    async def main(loop: SimLoop) -> list[str]:
        seen: list[str] = []
        life = loop.new_incarnation()

        async def app() -> None:
            loop.power_cut(life)
            seen.append("this step")
            await asyncio.sleep(0)
            seen.append("the next one")

        loop.create_task(app(), context=life.context())
        await asyncio.sleep(1)
        loop.power_cut(life)
        assert not life.alive
        return seen

    loop = SimLoop()
    assert loop.run(main(loop)) == ["this step"]


def test_a_job_of_a_dead_life_does_not_run_and_its_callbacks_are_not_called():
    async def main(loop: SimLoop) -> list[str]:
        seen: list[str] = []
        life = loop.new_incarnation()

        async def app() -> None:
            await asyncio.to_thread(life.alive and loop.power_cut, life)
            seen.append("after the job")

        async def job() -> None:
            await asyncio.to_thread(seen.append, "job")

        loop.create_task(app(), context=life.context())
        loop.create_task(job(), context=life.context())
        await asyncio.sleep(1)
        loop.create_task(job(), context=life.context())
        await asyncio.sleep(1)
        return seen

    loop = SimLoop()
    assert loop.run(main(loop)) == []


@pytest.mark.parametrize("times", [5, 12])
def test_a_coroutine_that_hardly_ends_does_not_stop_the_end(times, monkeypatch):
    async def stubborn() -> None:
        for _ in range(times):
            with contextlib.suppress(GeneratorExit, asyncio.CancelledError):
                await asyncio.Event().wait()

    async def main(loop: SimLoop) -> None:
        life = loop.new_incarnation()
        loop.create_task(stubborn(), context=life.context())
        await asyncio.sleep(1)
        loop.power_cut(life)
        await asyncio.sleep(1)

    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda complaint: complaints.append(complaint.exc_type))
    loop = SimLoop()
    loop.run(main(loop))
    assert loop.unhandled == []
    gc.collect()
    assert complaints == [RuntimeError] * (times > 10)


class Nested:
    """Coroutines that wait for each other in every way there is, and await several times on the way out."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def linger(self, name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                try:
                    await self.pause()
                finally:
                    self.ended.append(name)

    async def pause(self) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    def __await__(self) -> Any:
        return self.linger("awaitable").__await__()

    async def numbers(self) -> Any:
        await self
        yield 1

    async def app(self) -> None:
        try:
            async for _ in self.numbers():
                raise AssertionError
        finally:
            await self.linger("outermost")


def check_that_the_dead_end_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: SimLoop) -> None:
        life = loop.new_incarnation()
        for each in (nested.app(), nested.linger("alone")):
            loop.create_task(each, context=life.context())
        await asyncio.sleep(1)
        loop.power_cut(life)

    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    loop, nested = SimLoop(), Nested()
    loop.run(main(loop))
    gc.collect()
    assert complaints == []
    assert loop.unhandled == []
    assert sorted(nested.ended) == ["alone", "awaitable", "outermost"]


def test_the_dead_end_quietly_however_deep_they_wait(monkeypatch):
    check_that_the_dead_end_quietly(monkeypatch)


def test_the_check_catches_one_who_closes_from_the_outside(monkeypatch):
    def close(task: SimTask) -> None:
        for _ in range(10):
            with contextlib.suppress(BaseException):
                task.context.run(task.get_coro().close)
                return

    monkeypatch.setattr(incarnation, "_close", close)
    with pytest.raises(AssertionError):
        check_that_the_dead_end_quietly(monkeypatch)


def test_failures_of_the_dead_are_nobodys():
    async def fail() -> None:
        raise ZeroDivisionError

    async def app(tasks: list[Any]) -> None:
        tasks.append(asyncio.create_task(fail()))
        await asyncio.sleep(60)

    async def main(loop: SimLoop) -> None:
        tasks: list[Any] = []
        for _ in range(2):
            life = loop.new_incarnation()
            loop.create_task(app(tasks), context=life.context())
            await asyncio.sleep(1)
            loop.power_cut(life)
        del tasks[0]  # asyncio complains of this one at once
        kept.extend(tasks)

    kept: list[Any] = []
    loop = SimLoop()
    loop.run(main(loop))
    assert loop.unhandled == []


def test_what_an_operating_system_would_release_is_released():
    released: list[str] = []
    life = Incarnation(7)
    life.on_cut(lambda: released.append("file"))
    life.cut()
    assert released == ["file"]
    assert repr(life) == "<Incarnation 7 (dead)>"
    assert repr(Incarnation(8)) == "<Incarnation 8 (alive)>"


# ---------------------------------------------------------------- the rest


def test_weak_lists_forget_what_is_gone():
    class Thing:
        pass

    kept = [Thing() for _ in range(5)]
    things: WeakList[Thing] = WeakList()
    for thing in kept:
        things.append(thing)
    for _ in range(3_000):
        things.append(Thing())
    assert things.living() == kept
    assert len(things._refs) < 1_100
    assert weakref.getweakrefcount(kept[0]) == 1


def test_marks_are_put_where_the_user_is():
    async def main(loop: SimLoop) -> None:
        loop.mark(StepKind.MARK, "here")
        await asyncio.sleep(1)

    loop = SimLoop()
    loop.run(main(loop))
    (mark,) = [step for step in loop.trace.steps if step.kind is StepKind.MARK]
    assert mark.task == "main#1"
    assert mark.source == 'loop.mark(StepKind.MARK, "here")'
    silent = SimLoop(record=False)
    silent.run(main(silent))
    assert len(silent.trace) == 0


@pytest.mark.parametrize(
    "error",
    [
        DeadlockError(("a waits at b:1",)),
        LivelockError(5, ("a at b:1",)),
        EscapedError("the network", "stub it"),
        NestedWorldError(),
        NondeterminismError("step 3"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_say_what_to_do(error):
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, SimulationError)
    assert str(copy) == str(error)
    assert len(str(error)) > 40


def test_a_simulated_hour_is_quick():
    async def main() -> None:
        for _ in range(3_600):
            await asyncio.sleep(1)

    began = time.perf_counter()
    SimLoop().run(main())
    assert time.perf_counter() - began < 3
