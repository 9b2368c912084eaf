"""Group commit in lock-step: what callers may rely on, whatever a group takes and whoever leaves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch
from shelf import GET
from virtual_time import run_virtual

from asyncsandbox._core.store.lane import Lane, Unit
from asyncsandbox._core.store.operations import Bound, Result
from asyncsandbox._core.store.signals import Signals
from asyncsandbox.errors import NotStartedError, StoreBusyError

LIMIT = 3
DONE = (Result((), 1),)


@dataclass(frozen=True)
class Caller:
    """Somebody who submits at some time, and may be cancelled later."""

    at: int
    cancelled_after: int | None
    fails: bool


@dataclass
class Disk:
    """Writes groups, each taking its time, and keeps account."""

    takes: list[int]
    groups: list[list[str]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    busy: int = 0

    def start(self, group: list[Unit]) -> asyncio.Future[None]:
        if self.busy:
            self.wrong.append("one group at a time")
        if not 0 < len(group) <= LIMIT:
            self.wrong.append("no empty group, and no more under way than there is room for")
        self.busy += 1
        self.groups.append([unit.bounds[0].params["key"] for unit in group])
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(self.takes[len(self.groups) % len(self.takes)], self._end, group, done)
        return done

    def _end(self, group: list[Unit], done: asyncio.Future[None]) -> None:
        self.busy -= 1
        for unit in group:
            key = unit.bounds[0].params["key"]
            self.written.append(key)
            unit.outcome = StoreBusyError(key, "so it was drawn") if key.endswith("!") else DONE
        done.set_result(None)


CALLERS = st.lists(
    st.builds(Caller, st.integers(0, 6), st.none() | st.integers(0, 6), st.booleans()), min_size=1, max_size=9
)
DRAWN = st.tuples(CALLERS, st.lists(st.integers(1, 4), min_size=1, max_size=3))


def keep_promises(make: Callable[..., Lane], drawn: tuple[list[Caller], list[int]]) -> None:
    callers, takes = drawn
    disk = Disk(takes)

    async def live(lane: Lane, number: int, caller: Caller) -> str:
        await asyncio.sleep(caller.at)
        key = f"{number}{'!' if caller.fails else ''}"
        task = asyncio.create_task(lane.submit((Bound(GET, {"key": key}),)))
        if caller.cancelled_after is not None:
            await asyncio.wait([task], timeout=caller.cancelled_after)
            task.cancel()
        await asyncio.wait([task])
        submitted = any(key in group for group in disk.groups)
        assert not submitted or key in disk.written, "nobody is told before the group has ended"
        if task.cancelled():
            return "cancelled"
        assert submitted, "who was not cancelled was served"
        assert isinstance(task.exception(), StoreBusyError) == caller.fails, "each has his own outcome"
        return key

    async def main() -> None:
        lane = make(disk.start, limit=LIMIT)
        served = await asyncio.gather(*(live(lane, number, caller) for number, caller in enumerate(callers)))
        closed_at = asyncio.get_running_loop().time()
        await lane.close()
        assert asyncio.get_running_loop().time() == closed_at, "nothing goes on when all have been told"
        assert disk.wrong == []
        assert len(disk.written) == len(set(disk.written)), "nothing is done twice"
        assert {key for key in served if key != "cancelled"} <= set(disk.written)
        with pytest.raises(NotStartedError):
            await lane.submit((Bound(GET, {"key": "late"}),))

    run_virtual(main())


@given(DRAWN)
def test_a_lane_keeps_its_promises(drawn: tuple[list[Caller], list[int]]) -> None:
    keep_promises(Lane, drawn)


class Overlaps(Lane):
    def add(self, unit: Unit) -> None:
        self._start([unit]).add_done_callback(lambda _: unit.tell())


class TellsAtOnce(Lane):
    def _next(self) -> None:
        group = list(self._waiting)
        super()._next()
        for unit in group:
            unit.outcome = DONE
            unit.tell()


class Hurries(Lane):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, patient=False)


class TakesAll(Lane):
    def __init__(self, *args: Any, limit: int) -> None:
        super().__init__(*args, limit=100)


class OneForAll(Lane):
    def _ended(self, future: asyncio.Future[Any]) -> None:
        for unit in self._group:
            unit.outcome = self._group[0].outcome
        super()._ended(future)


class ForgetsTheLast(Lane):
    def _next(self) -> None:
        if len(self._waiting) > 2:
            self._waiting.pop().tell()
        super()._next()


class Repeats(Lane):
    def _ended(self, future: asyncio.Future[Any]) -> None:
        group = self._group
        super()._ended(future)
        if len(group) > 1:
            self.add(group[0])


@pytest.mark.parametrize("broken", [Overlaps, TellsAtOnce, Hurries, TakesAll, OneForAll, ForgetsTheLast, Repeats])
def test_a_broken_lane_is_caught(broken: type[Lane]) -> None:
    must_catch(lambda drawn: keep_promises(broken, drawn), DRAWN)


def test_all_who_come_in_one_round_share_a_group_and_those_who_come_later_the_next() -> None:
    disk = Disk([5])

    async def main() -> None:
        lane = Lane(disk.start, limit=LIMIT)
        submit = [asyncio.create_task(lane.submit((Bound(GET, {"key": f"{n}"}),))) for n in range(5)]
        await asyncio.sleep(1)
        assert disk.groups == [["0", "1", "2"]]
        closing = asyncio.create_task(lane.close())
        outcomes = await asyncio.gather(*submit, return_exceptions=True)
        await closing
        assert [type(outcome).__name__ for outcome in outcomes] == ["tuple"] * 3 + ["NotStartedError"] * 2

    run_virtual(main())


def test_closing_waits_for_the_group_under_way_and_the_one_after_it() -> None:
    disk = Disk([5])

    async def main() -> float:
        lane = Lane(disk.start, limit=LIMIT)
        first = asyncio.create_task(lane.submit((Bound(GET, {"key": "1"}),)))
        await asyncio.sleep(1)
        second = asyncio.create_task(lane.submit((Bound(GET, {"key": "2"}),)))
        await asyncio.sleep(1)
        await asyncio.gather(lane.close(), lane.close())
        assert first.done()
        assert second.done()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 10
    assert disk.groups == [["1"], ["2"]]


# ------------------------------------------------------------------ signals


@given(st.lists(st.tuples(st.sampled_from(["tell", "look"]), st.integers(0, 3)), max_size=12))
def test_no_news_is_missed_between_two_looks(events: list[tuple[str, int]]) -> None:
    async def main() -> None:
        signals, seen, told = Signals(), 0, 0
        for what, seconds in events:
            if what == "tell":
                signals.tell({"it"})
                told += 1
            else:
                asyncio.get_running_loop().call_later(seconds, lambda: None)
                began = asyncio.get_running_loop().time()
                seen = await signals.wait("it", since=seen, timeout_seconds=seconds + 1)
                assert seen == told
                assert asyncio.get_running_loop().time() - began in {0, seconds + 1}

    run_virtual(main())


def test_signals_outlive_their_loop_and_wake_everybody() -> None:
    signals = Signals()

    async def leave() -> None:
        waiting = asyncio.create_task(signals.wait("it", since=0, timeout_seconds=60))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.wait([waiting])

    async def main() -> int:
        waiting = [asyncio.create_task(signals.wait("it", since=0, timeout_seconds=60)) for _ in range(3)]
        await asyncio.sleep(1)
        signals.tell({"it", "other"})
        assert [await each for each in waiting] == [1, 1, 1]
        return await signals.wait("other", since=0, timeout_seconds=1)

    run_virtual(leave())
    assert run_virtual(main()) == 1
