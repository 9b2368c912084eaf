"""State machines with coroutine functions as rules: one loop, one simulation, background tasks that live on."""

import asyncio
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from asyncsandbox.testing import AsyncRuleBasedStateMachine, PromiseBrokenError, invariant, rule

quiet = settings(
    database=None, derandomize=True, max_examples=300, stateful_step_count=8, phases=set(Phase) - {Phase.explain}
)


def run(machine: type[AsyncRuleBasedStateMachine]) -> None:
    machine.TestCase.settings = quiet
    machine.TestCase().runTest()


class Submissions(AsyncRuleBasedStateMachine):
    """Jobs that take a while; the fixed one remembers those under way."""

    remembers = True

    def __init__(self) -> None:
        super().__init__()
        self.under_way: set[int] = set()
        self.done: list[int] = []

    @rule(key=st.integers(0, 2))
    async def submit(self, key: int) -> None:
        if key in self.done or (self.remembers and key in self.under_way):
            return
        self.under_way.add(key)
        asyncio.get_running_loop().create_task(self.work(key))

    async def work(self, key: int) -> None:
        await asyncio.sleep(1)
        self.done.append(key)

    @rule(seconds=st.integers(1, 3))
    async def wait(self, seconds: int) -> None:
        await asyncio.sleep(seconds)

    @rule()
    def look(self) -> None:
        assert len(self.under_way) <= 3

    @invariant()
    async def once(self) -> None:
        assert len(self.done) == len(set(self.done)), "twice"

    def teardown(self) -> None:
        self.run(asyncio.sleep(2))
        super().teardown()


class Forgetful(Submissions):
    remembers = False


def test_background_tasks_survive_between_rules() -> None:
    run(Submissions)
    with pytest.raises(AssertionError, match="twice") as caught:
        run(Forgetful)
    steps = "\n".join(caught.value.__notes__)
    assert steps.count("submit") == 2
    assert steps.count("wait") == 1


class Promising(AsyncRuleBasedStateMachine):
    keeps = True

    @rule()
    async def promise(self) -> None:
        state: list[int] = []
        self.sim.eventually(lambda: state, "it is written")
        if self.keeps:
            asyncio.get_running_loop().call_later(10, state.append, 1)

    @rule()
    async def crash(self) -> None:
        if not self.sim.started:
            await self.sim.start(dict)
        await self.sim.restart()


class Breaking(Promising):
    keeps = False


def test_promises_are_checked_at_the_end() -> None:
    run(Promising)
    with pytest.raises(PromiseBrokenError, match="it is written"):
        run(Breaking)


class Unwatched(AsyncRuleBasedStateMachine):
    @rule()
    async def fail_in_the_background(self) -> None:
        async def broken() -> None:
            raise KeyError("nobody looks")

        asyncio.get_running_loop().create_task(broken())


def test_an_error_that_nobody_looked_at_is_found() -> None:
    with pytest.raises(KeyError, match="nobody looks"):
        run(Unwatched)


def test_a_machine_that_never_ran_holds_no_world() -> None:
    machine: Any = AsyncRuleBasedStateMachine.__new__(Submissions)
    machine.__init__()
    machine.teardown()
    run(Submissions)
