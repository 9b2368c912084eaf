"""The life of a component: idempotent, undone where it fails, and never outlived by its tasks."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import LeftRunningError, StuckError, run_virtual

from asyncsandbox._core.component import Component, ComponentState, Services
from asyncsandbox._core.journal import Level
from asyncsandbox.errors import LifecycleError


class Bell(Component):
    """Counts how often it was really started and stopped, and takes its time for both."""

    name = "bell"

    def __init__(self, *, fails: int = 0) -> None:
        super().__init__()
        self.started = 0
        self.stopped = 0
        self.busy = 0
        self.fails = fails

    async def _start(self) -> None:
        await self._work()
        if self.fails:
            self.fails -= 1
            raise OSError("no rope")
        self.started += 1

    async def _stop(self) -> None:
        await self._work()
        self.stopped += 1

    async def _work(self) -> None:
        assert not self.busy
        self.busy += 1
        try:
            await asyncio.sleep(1)
        finally:
            self.busy -= 1


# ------------------------------------------------------------------ the promises


def take_turns(make: type[Bell], calls: list[tuple[str, int]]) -> None:
    """Start and stop are idempotent and never overlap, whoever calls them and when."""

    async def call(bell: Bell, what: str, delay: int) -> None:
        await asyncio.sleep(delay / 4)
        await getattr(bell, what)()

    async def main() -> None:
        bell = make()
        await asyncio.gather(*(call(bell, what, delay) for what, delay in calls))
        assert bell.started - bell.stopped == (bell.get_status().state is ComponentState.RUNNING)
        await bell.stop()
        await bell.stop()
        assert bell.started == bell.stopped
        assert bell.get_status().state is ComponentState.STOPPED

    run_virtual(main())


class StopsTwice(Bell):
    async def stop(self) -> None:
        self._state = ComponentState.RUNNING
        await super().stop()


class TakesNoTurns(Bell):
    async def start(self) -> None:
        self._turn = asyncio.Lock()
        await super().start()


def undo_a_cancelled_start(make: type[Bell], cancel_at: float) -> None:
    """A start that is cancelled undoes itself before the cancellation goes on; stop and start work after it."""

    async def main() -> None:
        bell = make()
        starter = asyncio.ensure_future(bell.start())
        await asyncio.sleep(cancel_at)
        bell.spawn(asyncio.sleep(60), name="ringing")
        starter.cancel()
        await asyncio.wait([starter])
        assert starter.cancelled()
        assert (bell.stopped, bell.get_status().state) == (1, ComponentState.FAILED)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await bell.start()
        assert bell.get_status().state is ComponentState.RUNNING
        await bell.stop()

    run_virtual(main())


class LeavesAHalfStart(Bell):
    async def _wind_down(self) -> None:
        if self._state is not ComponentState.STARTING:
            await super()._wind_down()


class SwallowsCancellation(Bell):
    async def start(self) -> None:
        try:
            await super().start()
        except asyncio.CancelledError:
            return


def end_tasks_with_the_component(make: type[Bell], case: tuple[list[str], bool]) -> None:
    """Tasks end with the component, a failed one goes to the journal, and none of them touches another."""
    kinds, is_started = case

    async def run(kind: str) -> None:
        if kind == "fails":
            raise OSError("cracked")
        try:
            await asyncio.sleep(3600 if kind != "short" else 1)
        finally:
            await asyncio.sleep(1.5 if kind == "tidies" else 0)

    async def main() -> None:
        bell = make()
        if is_started:
            await bell.start()
        tasks = [bell.spawn(run(kind), name=f"{kind} {number}") for number, kind in enumerate(kinds)]
        await asyncio.sleep(2)
        running = [task for task in tasks if not task.done()]
        assert len(running) == len(kinds) - kinds.count("fails") - kinds.count("short")
        await bell.stop()
        assert all(task.done() for task in tasks)
        events = bell.services.journal.get_events("component.task_failed")
        assert [event.fields["task"] for event in events] == [
            f"bell:{kind} {number}" for number, kind in enumerate(kinds) if kind == "fails"
        ]
        assert all((event.level, event.component) == (Level.ERROR, "bell") for event in events)

    run_virtual(main())


class ForgetsItsTasks(Bell):
    def spawn(self, coroutine: object, *, name: str) -> asyncio.Task[None]:
        task = super().spawn(coroutine, name=name)
        self._tasks.discard(task)
        return task


class DoesNotWaitForItsTasks(Bell):
    async def _wind_down(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._stop()


CALLS = st.lists(st.tuples(st.sampled_from(["start", "stop", "cleanup"]), st.integers(0, 12)), max_size=6)
KINDS = st.lists(st.sampled_from(["short", "long", "fails", "tidies"]), max_size=4)
PROMISES = {
    take_turns: CALLS,
    undo_a_cancelled_start: st.floats(0.01, 0.99),
    end_tasks_with_the_component: st.tuples(KINDS, st.booleans()),
}
BROKEN = [
    (take_turns, StopsTwice, [("start", 0)]),
    (take_turns, TakesNoTurns, [("start", 0), ("start", 1)]),
    (undo_a_cancelled_start, LeavesAHalfStart, 0.5),
    (undo_a_cancelled_start, SwallowsCancellation, 0.5),
    (end_tasks_with_the_component, ForgetsItsTasks, (["long"], True)),
    (end_tasks_with_the_component, DoesNotWaitForItsTasks, (["long", "tidies"], True)),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(promise: Callable[..., None]) -> None:
    given(PROMISES[promise])(lambda case: promise(Bell, case))()


@pytest.mark.parametrize(
    ("promise", "broken", "case"), BROKEN, ids=[f"{promise.__name__}-{b.__name__}" for promise, b, _ in BROKEN]
)
def test_promise_catches(promise: Callable[..., None], broken: type[Bell], case: object) -> None:
    with pytest.raises((AssertionError, LeftRunningError, StuckError)):
        promise(broken, case)


# ------------------------------------------------------------------ examples


def test_a_failed_start_is_undone_raised_as_it_is_and_may_be_tried_again() -> None:
    async def main() -> None:
        bell = Bell(fails=1)
        with pytest.raises(OSError, match="no rope"):
            async with bell:
                pass
        assert (bell.started, bell.stopped, bell.get_status().state) == (0, 1, ComponentState.FAILED)
        async with bell as same:
            assert same is bell
            assert bell.get_status().state is ComponentState.RUNNING
        assert bell.get_status().state is ComponentState.STOPPED

    run_virtual(main())


def test_a_failure_while_undoing_does_not_hide_why_the_start_failed() -> None:
    class Cracked(Bell):
        async def _stop(self) -> None:
            raise ValueError("stuck")

    with pytest.raises(OSError, match="no rope") as caught:
        run_virtual(Cracked(fails=1).start())
    assert caught.value.__notes__ == ["cleaning up failed as well: ValueError('stuck')"]


def test_a_stop_that_raises_leaves_no_task_and_counts_as_stopped() -> None:
    class Cracked(Bell):
        async def _stop(self) -> None:
            raise ValueError("stuck")

    async def main() -> None:
        bell = Cracked()
        await bell.start()
        bell.spawn(asyncio.sleep(60), name="ringing")
        with pytest.raises(ValueError, match="stuck"):
            await bell.stop()
        assert bell.get_status().state is ComponentState.STOPPED

    run_virtual(main())


async def test_it_is_bound_before_it_starts_or_to_services_of_its_own() -> None:
    bell, services = Bell(), Services.alone()
    assert bell.services is bell.services
    bell.bind(services)
    assert bell.services is services
    bell._state = ComponentState.RUNNING
    with pytest.raises(LifecycleError, match="stop it first"):
        bell.bind(services)


def test_what_it_says_of_itself_is_json() -> None:
    assert json.loads(json.dumps(asdict(Bell().get_status()))) == {"name": "bell", "state": "new"}
    assert repr(Bell()) == "<Bell 'bell' new>"


def test_the_bare_component_needs_nothing_and_asks_nothing() -> None:
    class Plain(Component):
        name = "plain"

    async def main() -> tuple[object, ...]:
        async with Plain() as plain:
            return plain.get_checks()

    assert run_virtual(main()) == ()
