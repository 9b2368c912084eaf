"""Owners: alive as long as somebody renews their lease, and taken for dead only where they are."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch
from virtual_time import run_virtual

from asyncsandbox._core import owners
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.owners import LEASED, OWNERS, Owner, OwnerState
from asyncsandbox._core.process import Process, this_process
from asyncsandbox._core.store import Migration, Operation, Schema, Store, open_store
from asyncsandbox.errors import NotStartedError, StoreUnavailableError

LEASE = 30.0
ASK = Operation("bells.ask", f"SELECT 1 AS yes WHERE {LEASED}")
BELLS = Schema(
    name="bells", tables=("sandbox_bells",), migrations=(Migration("CREATE TABLE sandbox_bells (id TEXT)"),),
    operations=(ASK,),
)  # fmt: skip


class Virtual(SystemClock):
    """A time of day that goes with the loop's time."""

    def now(self) -> Any:
        return super().now().fromtimestamp(1_000_000_000 + self.monotonic(), super().now().tzinfo)


@dataclass
class House:
    """A store, and what spawns tasks in it."""

    store: Store
    tasks: list[asyncio.Task[Any]]
    journal: Journal

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.append(task)
        return task

    def owner(self, kind: type[Owner] = Owner) -> Owner:
        return kind(self.store, Virtual(), lease_seconds=LEASE, journal=self.journal)

    async def is_leased(self, owner: str) -> bool:
        return bool(await self.store.read(ASK, owner=owner))


def in_house(visit: Callable[[House], Any]) -> None:
    async def main() -> None:
        async with open_store(":memory:", clock=Virtual()) as store:
            await store.attach(OWNERS, BELLS)
            house = House(store, [], Journal(Virtual()))
            try:
                await visit(house)
            finally:
                for task in house.tasks:
                    task.cancel()
                await asyncio.wait(house.tasks)

    run_virtual(main())


# ------------------------------------------------------------------ the properties


@dataclass(frozen=True)
class Fate:
    """What became of an owner, and how long ago."""

    where: str
    what: str
    ago: float


FATES = st.builds(
    Fate,
    where=st.sampled_from(["here", "same machine", "elsewhere"]),
    what=st.sampled_from(["runs", "stopped", "stalled", "loop gone", "power cut", "killed"]),
    ago=st.sampled_from([0.0, 1.0, 29.0, 31.0, 1000.0]),
)


@contextmanager
def processes(fate: Fate) -> Iterator[Process]:
    """Let an owner be born in another process than this one."""
    right, here = owners.this_process, replace(this_process(), place="this machine")
    born = {
        "here": here,
        "same machine": replace(here, pid=4_194_304 + 1 if fate.what == "killed" else 1),
        "elsewhere": replace(here, place="other"),
    }
    owners.this_process, dead = lambda: born[fate.where], owners.is_proven_dead
    owners.is_proven_dead = lambda process: process.place == here.place and process.pid > 4_194_304
    try:
        yield here
    finally:
        owners.this_process, owners.is_proven_dead = right, dead


def judged(fate: Fate, kind: type[Owner] = Owner) -> None:
    async def visit(house: House) -> None:
        with processes(fate) as here:
            owner = house.owner()
            await owner.start(house.spawn)
            name, (task,) = owner.id, house.tasks
            if fate.where != "here":  # another process' registry is not ours
                del owners._here[name]
            judge = house.owner(kind)
            owners.this_process = lambda: here
            await judge.start(house.spawn)
            if fate.what == "stopped":
                task.cancel()
                await owner.stop()
            elif fate.what != "runs":
                task.cancel()
                await asyncio.wait((task,))
            if fate.what == "power cut" and fate.where == "here":
                owners._here[name] = CORPSE
            await asyncio.sleep(fate.ago)
            state = judge.judge(name, leased=await house.is_leased(name))
        check(fate, state)

    in_house(visit)


class Corpse:
    """A task that a simulated power cut has ended."""

    is_dead = True


def check(fate: Fate, state: OwnerState) -> None:
    over = fate.ago >= LEASE
    if fate.where == "here":
        assert (state is OwnerState.ALIVE) == (fate.what == "runs")
        assert (state is OwnerState.DEAD) == (fate.what == "power cut")
    elif fate.what == "runs":
        assert state is OwnerState.ALIVE
    elif fate.what == "killed" and fate.where == "same machine":
        assert state is OwnerState.DEAD
    else:
        assert state is (OwnerState.EXPIRED if over or fate.what == "stopped" else OwnerState.ALIVE)


CORPSE = Corpse()  # the registry holds tasks weakly


@given(fate=FATES)
def test_an_owner_is_given_up_only_when_it_is_gone(fate: Fate) -> None:
    judged(fate)


class ByEpoch(Owner):
    def judge(self, owner: str, *, leased: bool) -> OwnerState:
        return OwnerState.ALIVE if owner == self.id else OwnerState.DEAD


class ByLeaseAlone(Owner):
    def judge(self, owner: str, *, leased: bool) -> OwnerState:
        return OwnerState.ALIVE if leased else OwnerState.EXPIRED


class TrustsTheGone(Owner):
    def judge(self, owner: str, *, leased: bool) -> OwnerState:
        state = super().judge(owner, leased=leased)
        return OwnerState.ALIVE if state is OwnerState.EXPIRED else state


@pytest.mark.parametrize("broken", [ByEpoch, ByLeaseAlone, TrustsTheGone])
def test_the_property_catches(broken: type[Owner]) -> None:
    must_catch(lambda fate: judged(fate, broken), FATES)


@given(stalls=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=4))
def test_whoever_was_stalled_for_longer_than_its_lease_is_told_so_by_the_store(
    stalls: list[tuple[float, float]],
) -> None:
    class Stalling(Virtual):
        until = 0.0

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)
            await asyncio.sleep(max(0.0, self.until - self.monotonic()))

    async def visit(house: House) -> None:
        clock = Stalling()
        owner = Owner(house.store, clock, lease_seconds=LEASE)
        await owner.start(house.spawn)
        for runs, stalled in stalls:
            await asyncio.sleep(runs)
            clock.until = asyncio.get_running_loop().time() + stalled
            if stalled < LEASE * 2 / 3:
                await asyncio.sleep(stalled)
                assert await house.is_leased(owner.id), "two renewals may fail"
            await asyncio.sleep(max(0.0, clock.until - asyncio.get_running_loop().time()))
            clock.until = 0.0
            await owner.renew()
            assert await house.is_leased(owner.id)

    in_house(visit)


# ------------------------------------------------------------------ examples


def test_two_of_one_process_have_two_names_and_leave_nothing_behind() -> None:
    async def visit(house: House) -> None:
        first, second = house.owner(), house.owner()
        await first.start(house.spawn)
        await second.start(house.spawn)
        assert first.id != second.id
        assert second.judge(first.id, leased=True) is OwnerState.ALIVE
        name = first.id
        await first.stop()
        await first.stop()
        assert not await house.is_leased(name)
        assert second.judge(name, leased=False) is OwnerState.ENDED
        with pytest.raises(NotStartedError):
            _ = first.id
        await first.start(house.spawn)
        assert first.id != name, "whoever starts again is somebody else"

    in_house(visit)


def test_a_loop_that_was_closed_has_ended_its_owners() -> None:
    held = []

    async def visit(house: House) -> None:
        owner = house.owner()
        await owner.start(house.spawn)
        held.append((owner.id, house.tasks[0]))

    in_house(visit)
    assert owners._here[held[0][0]] is held[0][1]
    owner = Owner(open_store(":memory:"), Virtual(), lease_seconds=LEASE)
    assert owner.judge(held[0][0], leased=True) is OwnerState.ENDED


def test_a_lease_that_cannot_be_renewed_is_told_and_tried_again() -> None:
    class Broken(Owner):
        async def renew(self) -> None:
            failures.append(self.id)
            raise StoreUnavailableError("owners.renew", "disk full")

    failures: list[str] = []

    async def visit(house: House) -> None:
        owner = house.owner(Broken)
        await owner.start(house.spawn)
        await asyncio.sleep(25)
        (first, _) = house.journal.get_events("store.lease_not_renewed")
        assert "disk full" in str(first.fields["error"])
        silent = Broken(house.store, Virtual(), lease_seconds=LEASE)
        await silent.start(house.spawn)
        await asyncio.sleep(11)
        assert len(failures) == 4

    in_house(visit)


def test_leases_that_were_over_long_ago_can_be_pruned() -> None:
    async def visit(house: House) -> None:
        await house.owner().start(house.spawn)
        (task,) = house.tasks
        task.cancel()
        await asyncio.sleep(1000)
        keeps = house.owner()
        await keeps.start(house.spawn)
        assert await house.store.prune(older_than_seconds=500) == {"owners": 1}
        assert await house.is_leased(keeps.id)

    in_house(visit)
