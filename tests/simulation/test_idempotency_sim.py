"""Idempotent calls under every single pause, power cut and duplicate, and against a dictionary.

The records outlive a power cut, as durable ones will, and may be as slow as a database. What must hold: nothing happens
twice under a key; nobody gets another's cancellation; a key is never stuck.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from asyncsandbox.components.idempotency import (
    IdempotencyManager,
    IdempotencyRecord,
    IdempotencySettings,
    InMemoryIdempotencyRecords,
    Outcome,
    RecordState,
)
from asyncsandbox.components.idempotency.records import _Row
from asyncsandbox.errors import (
    IdempotencyConflictError,
    IdempotencyStateError,
    IdempotencyUnknownError,
    NotStartedError,
)
from asyncsandbox.testing import (
    AsyncRuleBasedStateMachine,
    CrashedError,
    PromiseBrokenError,
    Simulation,
    invariant,
    rule,
    scenarios,
    simulate,
)

EVERYTHING = scenarios(pauses=2, crashes=2, duplicates=1, sweep=200)
PAUSES = scenarios(pauses=2, sweep=200)
CRASHES = scenarios(pauses=1, crashes=3, sweep=300)
DISTANT = {"distant": st.booleans()}
ENDS = {"end": st.sampled_from(["paid", "refused", "declined"]), **DISTANT}
LEAVERS = {
    "leavers": st.sets(st.integers(0, 2)),
    "after": st.sampled_from([0.0, 0.05, 0.15, 0.25]),
    "steps": st.integers(0, 12),
    **DISTANT,
}
STOPS = {"after": st.sampled_from([0.0, 0.05, 0.15, 0.25]), **DISTANT}
VERIFIED = {"end": st.sampled_from(["paid", "refused"]), **DISTANT}
plain = settings(database=None, deadline=None)


class RefusedError(Exception):
    pass


class DeclinedError(Exception):
    pass


class Distant(InMemoryIdempotencyRecords):
    """Records that are asked and answer over a distance."""

    async def claim(self, *args: Any, **kwargs: Any) -> IdempotencyRecord:
        await asyncio.sleep(0)
        found = await super().claim(*args, **kwargs)
        await asyncio.sleep(0)
        return found

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        await asyncio.sleep(0)
        found = await super().finish(key, fence, outcome)
        await asyncio.sleep(0)
        return found

    async def release(self, key: str, fence: str) -> bool:
        await asyncio.sleep(0)
        found = await super().release(key, fence)
        await asyncio.sleep(0)
        return found


def make_records(kind: type[InMemoryIdempotencyRecords], *, distant: bool) -> InMemoryIdempotencyRecords:
    """Return records of a kind, near or far."""
    return type("Far", (Distant, kind), {})() if distant else kind()


@dataclass
class World:
    """What has happened, and is remembered whatever the app forgets."""

    began: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    payloads: dict[str, set[object]] = field(default_factory=dict)
    active: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    end: str = "paid"
    pace: float = 0.0

    async def charge(self, key: str, payload: object) -> tuple[str, object]:
        """Do it, in the middle of a wait."""
        self.began[key] += 1
        self.payloads.setdefault(key, set()).add(payload)
        self.active[key] += 1
        try:
            await asyncio.sleep(self.pace)
            if self.end == "refused":
                raise RefusedError(key)
            self.happened[key] += 1
            await asyncio.sleep(self.pace)
            if self.end == "declined":
                raise DeclinedError(key)
            return (key, payload)
        finally:
            self.active[key] -= 1

    def find(self, key: str, payload: object) -> object:
        """Say whether it happened."""
        return (key, payload) if self.happened[key] else None


class Shop:
    """The app: a manager over records that outlive it."""

    def __init__(self, world: World, records: InMemoryIdempotencyRecords, **options: Any) -> None:
        world.lives += 1
        world.active.clear()
        self.world = world
        self.options = options
        given = IdempotencySettings(ttl_seconds=1000, release_on=(RefusedError,))
        self.manager = IdempotencyManager(settings=given, records=records)

    async def __aenter__(self) -> Self:
        await self.manager.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.manager.stop()

    async def ask(self, key: str, payload: object = "a") -> object:
        if self.options:
            once = self.manager.idempotent(key=lambda key: key, **self.options)
            return await once(self.world.charge)(key, payload)
        return await self.manager.process_idempotent(key, self.world.charge, key, payload)


def name(error: object) -> object:
    return type(error) if isinstance(error, BaseException) else error


async def outcome(awaitable: Any) -> object:
    """Return what came of it, exceptions by their type."""
    (got,) = await asyncio.gather(awaitable, return_exceptions=True)
    return name(got)


def promise(sim: Simulation, world: World) -> None:
    sim.always(lambda: max(world.happened.values(), default=0) <= 1, "nothing happens twice")
    sim.always(lambda: max(world.active.values(), default=0) <= 1, "a key runs once at a time")
    sim.always(lambda: all(len(each) == 1 for each in world.payloads.values()), "another payload never runs")


async def buy(sim: Simulation, end: str, records: InMemoryIdempotencyRecords) -> None:
    world = World(end=end)
    promise(sim, world)
    shop = await sim.start(lambda: Shop(world, records))
    final = {"paid": ("k", "a"), "refused": RefusedError, "declined": DeclinedError}[end]
    got = await asyncio.gather(*(outcome(shop.ask(key)) for key in ("k", "k", "l")))
    other = await outcome(shop.ask("k", "b")) if end != "refused" else IdempotencyConflictError
    if world.payloads.get("k") == {"a"}:
        assert other in {IdempotencyConflictError, CrashedError}
    await sim.heal()
    last = await outcome(shop.ask("k"))
    if world.payloads.get("k") == {"b"}:
        assert last is IdempotencyConflictError
        return
    assert last in {final, IdempotencyUnknownError}, "a key is never stuck"
    assert all(each in {final, ("l", "a"), IdempotencyUnknownError, CrashedError} for each in got)
    if last == final and end != "refused":
        assert world.happened["k"] == 1
    if world.lives == 1:
        assert last == final, "what nobody interrupted is known"
        assert got[:2] == [final, final]
    record = await records.get("k")
    assert (record is not None) == (last is not RefusedError)
    assert await shop.manager.is_duplicate("k") == (last is not RefusedError)
    if record is not None:
        fresh = Shop(world, records)
        wrong, right = await asyncio.gather(*(outcome(fresh.ask("k", payload)) for payload in "ba"))
        assert (wrong, right) == (IdempotencyConflictError, last), "it is on record"


@settings(plain, max_examples=150)
@simulate(EVERYTHING, **ENDS)
async def test_a_key_happens_at_most_once_whatever_happens(sim: Simulation, end: str, distant: bool) -> None:
    await buy(sim, end, make_records(InMemoryIdempotencyRecords, distant=distant))


@settings(plain, max_examples=100)
@simulate(PAUSES, **LEAVERS)
async def test_who_stays_gets_the_outcome_and_who_leaves_leaves_alone(
    sim: Simulation, leavers: set[int], after: float, steps: int, distant: bool
) -> None:
    world = World(pace=0.1)
    promise(sim, world)
    shop = Shop(world, make_records(InMemoryIdempotencyRecords, distant=distant))
    async with shop:
        callers = [asyncio.create_task(shop.ask("k")) for _ in range(3)]
        await asyncio.sleep(after)
        for _ in range(steps):
            await asyncio.sleep(0)
        for number in sorted(leavers):
            callers[number].cancel()
        got = [name(each) for each in await asyncio.gather(*callers, return_exceptions=True)]
        for number, each in enumerate(got):
            left = number in leavers and each is asyncio.CancelledError
            # Who had not called yet when the others left may meet what they left behind.
            assert left or each == ("k", "a") or (len(leavers) > 1 and each is IdempotencyUnknownError)
        if got == [asyncio.CancelledError] * 3:
            assert not any(world.active.values()), "who leaves last waits for the end"
            assert asyncio.get_running_loop().time() == after, "which comes at once"
        last = await outcome(shop.ask("k"))
        assert last in {("k", "a"), IdempotencyUnknownError}
        if last is IdempotencyUnknownError:
            assert world.began["k"] == 1, "what never began is not unknown"
            assert shop.manager.get_status().unknown == 1
        else:
            assert world.happened["k"] == 1
    assert shop.manager._flights == {}


@settings(plain, max_examples=60)
@simulate(PAUSES, **STOPS)
async def test_of_two_managers_one_runs_and_the_other_waits_also_for_one_that_stops(
    sim: Simulation, after: float, distant: bool
) -> None:
    world = World(pace=0.1)
    promise(sim, world)
    records = make_records(InMemoryIdempotencyRecords, distant=distant)
    shops = [Shop(world, records) for _ in range(2)]
    async with shops[1]:
        async with shops[0]:
            first = asyncio.create_task(outcome(shops[0].ask("k")))
            second = [asyncio.create_task(outcome(shops[1].ask("k"))) for _ in range(2)]
            await asyncio.sleep(after)
        got = [await first, *[await each for each in second]]
        assert got[0] in {("k", "a"), IdempotencyUnknownError, NotStartedError}
        assert got[1] == got[2]
        assert got[1] in {("k", "a"), IdempotencyUnknownError}
        assert (got[1] == ("k", "a")) <= (world.happened["k"] == 1)
        assert await outcome(shops[1].ask("k")) == got[1]
        assert asyncio.get_running_loop().time() <= 0.8, "who waits is woken"


@settings(plain, max_examples=60)
@simulate(CRASHES, **DISTANT)
async def test_who_waits_for_a_manager_whose_power_is_cut_is_told(sim: Simulation, distant: bool) -> None:
    world = World(pace=0.1)
    promise(sim, world)
    records = make_records(InMemoryIdempotencyRecords, distant=distant)
    shop = await sim.start(lambda: Shop(world, records))
    async with Shop(World(), records) as outside:
        outside.world = world
        asked = asyncio.create_task(outcome(shop.ask("k")))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(outcome(outside.ask("k")))
        done, _ = await asyncio.wait((waiting,), timeout=10)
        assert done, "nobody waits for the dead"
        got = waiting.result()
        assert got in {("k", "a"), IdempotencyUnknownError}
        assert (got == ("k", "a")) <= (world.happened["k"] == 1)
        await asked


@settings(plain, max_examples=80)
@simulate(CRASHES, **VERIFIED)
async def test_with_verify_it_happens_once_across_power_cuts(sim: Simulation, end: str, distant: bool) -> None:
    world = World(end=end)
    promise(sim, world)
    records = make_records(InMemoryIdempotencyRecords, distant=distant)
    shop = await sim.start(lambda: Shop(world, records, verify=world.find, release_on=RefusedError))
    await asyncio.gather(*(outcome(shop.ask("k")) for _ in range(2)))
    world.end = "paid"
    await sim.heal()
    assert await outcome(shop.ask("k")) == ("k", "a")
    assert world.happened["k"] == 1


@settings(plain, max_examples=60)
@simulate(CRASHES, **DISTANT)
async def test_with_rerun_it_happens_at_least_once_across_power_cuts(sim: Simulation, distant: bool) -> None:
    world = World()
    sim.always(lambda: max(world.active.values(), default=0) <= 1, "a key runs once at a time")
    records = make_records(InMemoryIdempotencyRecords, distant=distant)
    shop = await sim.start(lambda: Shop(world, records, on_unknown="rerun"))
    await asyncio.gather(*(outcome(shop.ask("k")) for _ in range(2)))
    await sim.heal()
    assert await outcome(shop.ask("k")) == ("k", "a")
    assert 1 <= world.happened["k"] <= world.lives
    assert shop.manager.get_status().done == 1


# ------------------------------------------------------------------ records that must not pass


class Forgetful(InMemoryIdempotencyRecords):
    """Takes what a dead owner left for free."""

    async def get(self, key: str) -> IdempotencyRecord | None:
        row = self._rows.get(key)
        return None if row is None or row.is_abandoned else await super().get(key)


class Believing(InMemoryIdempotencyRecords):
    """Takes every owner for alive."""

    def _view(self, key: str, row: _Row) -> IdempotencyRecord:
        found = super()._view(key, row)
        gone = row.state is RecordState.IN_PROGRESS and found.state is RecordState.UNKNOWN
        return (
            found
            if not gone
            else IdempotencyRecord(key=key, fingerprint=row.fingerprint, state=RecordState.IN_PROGRESS, fence=row.fence)
        )


class Doubting(InMemoryIdempotencyRecords):
    """Takes every other owner for dead."""

    def _view(self, key: str, row: _Row) -> IdempotencyRecord:
        found = super()._view(key, row)
        mine = asyncio.current_task() in {row.holder, None}
        if row.state is not RecordState.IN_PROGRESS or mine:
            return found
        return IdempotencyRecord(
            key=key, fingerprint=row.fingerprint, state=RecordState.UNKNOWN, fence=row.fence, owner_died=True
        )


class Late(InMemoryIdempotencyRecords):
    """Claims when the call has ended."""

    async def claim(self, key: str, fingerprint: str, fence: str, **more: Any) -> IdempotencyRecord:
        found = await super().claim(key, fingerprint, fence, **more)
        if found.fence == fence:
            del self._rows[key]
        return found

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        return True


ALARMS = (PromiseBrokenError, AssertionError)


@pytest.mark.parametrize("kind", [Forgetful, Believing, Late])
def test_broken_records_are_found_by_one_thing_that_goes_wrong(kind: type[InMemoryIdempotencyRecords]) -> None:
    @settings(plain, max_examples=1, phases=[Phase.generate])
    @simulate(EVERYTHING)
    async def test(sim: Simulation) -> None:
        async def patiently() -> None:
            await buy(sim, "paid", kind())

        await asyncio.wait_for(patiently(), 600)

    with pytest.raises((*ALARMS, TimeoutError)):
        test()


def test_records_that_take_the_living_for_dead_are_found() -> None:
    @settings(plain, max_examples=1, phases=[Phase.generate])
    @simulate(PAUSES)
    async def test(sim: Simulation) -> None:
        world, records = World(pace=0.1), Doubting()
        promise(sim, world)
        async with Shop(world, records, verify=world.find) as one, Shop(world, records, verify=world.find) as two:
            await asyncio.gather(one.ask("k"), two.ask("k"))

    with pytest.raises(ALARMS):
        test()


# ------------------------------------------------------------------ against a dictionary

TTL = 4.9  # no sum of waits of 0.7 s meets the second or two of a run, nor what comes after it


@dataclass
class Expected:
    """What the dictionary holds of a key."""

    payload: str
    began: float
    waiting: set[int]
    state: str = "running"
    until: float | None = None


class Calls(AsyncRuleBasedStateMachine):
    """Calls, duplicates, other payloads, cancellations, time and power cuts; a run takes two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(pace=1.0)
        self.records = InMemoryIdempotencyRecords()
        self.model: dict[str, Expected] = {}
        self.happened: Counter[str] = Counter()
        self.asked: list[asyncio.Task[object]] = []
        self.expected: list[object] = []
        self.shop: Any = None

    def make(self) -> Shop:
        shop = Shop(self.world, self.records)
        shop.manager = IdempotencyManager(settings=IdempotencySettings(ttl_seconds=TTL), records=self.records)
        return shop

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def catch_up(self) -> None:
        """Bring the dictionary up to the present."""
        for key, entry in tuple(self.model.items()):
            if entry.state == "running" and self.now() >= entry.began + 2:
                entry.state, entry.until = "done", entry.began + 2 + TTL
                self.happened[key] += 1
                for number in entry.waiting:
                    self.expected[number] = (key, entry.payload)
            if entry.until is not None and self.now() >= entry.until:
                del self.model[key]

    def lose(self, entry: Expected, key: str) -> None:
        entry.state = "unknown"
        self.happened[key] += self.now() >= entry.began + 1

    @rule(key=st.sampled_from("kl"), payload=st.sampled_from("aab"))
    async def call(self, key: str, payload: str) -> None:
        if self.shop is None:
            self.shop = await self.sim.start(self.make)
        self.catch_up()
        entry, number = self.model.get(key), len(self.asked)
        if entry is None:
            entry = self.model[key] = Expected(payload, self.now(), set())
        expected: object = None
        if entry.payload != payload:
            expected = IdempotencyConflictError
        elif entry.state == "unknown":
            expected = IdempotencyUnknownError
        elif entry.state == "done":
            expected = (key, payload)
        else:
            entry.waiting.add(number)
        self.expected.append(expected)
        self.asked.append(asyncio.create_task(outcome(self.shop.ask(key, payload))))
        await asyncio.sleep(0.001)

    @rule(which=st.integers(0, 9))
    async def cancel(self, which: int) -> None:
        self.catch_up()
        waiting = [(number, key) for key, each in self.model.items() for number in sorted(each.waiting)]
        waiting = [(number, key) for number, key in waiting if self.expected[number] is None]
        if not waiting:
            return
        number, key = waiting[which % len(waiting)]
        self.asked[number].cancel()
        self.expected[number] = asyncio.CancelledError
        entry = self.model[key]
        entry.waiting.discard(number)
        if not entry.waiting and entry.state == "running":
            self.lose(entry, key)
        await asyncio.sleep(0.001)

    @rule(times=st.integers(1, 8))
    async def wait(self, times: int) -> None:
        await asyncio.sleep(0.7 * times)

    @rule()
    async def crash(self) -> None:
        self.catch_up()
        if self.shop is None:
            return
        for key, entry in self.model.items():
            if entry.state == "running":
                self.lose(entry, key)
                for number in entry.waiting:
                    self.expected[number] = CrashedError
        await self.sim.restart()

    @rule(key=st.sampled_from("kl"), happened=st.booleans())
    async def resolve(self, key: str, happened: bool) -> None:
        self.catch_up()
        if self.shop is None:
            return
        entry = self.model.get(key)
        if entry is None or entry.state != "unknown":
            with pytest.raises(IdempotencyStateError):
                await self.shop.manager.resolve(key, happened=happened)
            return
        await self.shop.manager.resolve(key, happened=happened, result=(key, entry.payload))
        if happened:
            entry.state, entry.until = "done", self.now() + TTL
        else:
            del self.model[key]

    @rule()
    async def clear(self) -> None:
        if self.shop is not None:
            await self.shop.manager.clear_expired()

    @invariant()
    async def they_agree(self) -> None:
        self.catch_up()
        halfway = {key for key, each in self.model.items() if each.state == "running" and self.now() >= each.began + 1}
        for key in "kl":
            assert self.world.happened[key] == self.happened[key] + (key in halfway)
            if self.shop is not None:
                assert await self.shop.manager.is_duplicate(key) == (key in self.model)
        for task, expected in zip(self.asked, self.expected, strict=True):
            assert task.done() == (expected is not None)
            assert not task.done() or (asyncio.CancelledError if task.cancelled() else task.result()) == expected

    def teardown(self) -> None:
        if not self._failed:
            self.run(self.end())
        super().teardown()

    async def end(self) -> None:
        await asyncio.sleep(3)
        assert all(task.done() for task in self.asked)


class Unfenced(Calls):
    def make(self) -> Shop:
        self.records._movable = lambda key, _fence: self.records._rows.get(key)  # type: ignore[method-assign]
        self.records._is_expired = lambda _row: False  # type: ignore[method-assign]
        return super().make()


class Renewed(Calls):
    """Broken: what a power cut interrupted is free."""

    def make(self) -> Shop:
        self.records._rows = {key: row for key, row in self.records._rows.items() if not row.is_abandoned}
        return super().make()


class Shared(Calls):
    """Broken: the first who leaves ends the run."""

    def make(self) -> Shop:
        shop = super().make()
        join = shop.manager._join

        async def leave(flight: Any) -> Any:
            try:
                return await join(flight)
            except asyncio.CancelledError:
                flight.task.cancel()
                raise

        shop.manager._join = leave  # type: ignore[method-assign]
        return shop


quiet = settings(plain, derandomize=True, max_examples=150, stateful_step_count=12, phases=set(Phase) - {Phase.explain})


def play(machine: type[AsyncRuleBasedStateMachine], *, examples: int = 150) -> None:
    machine.TestCase.settings = settings(quiet, max_examples=examples)
    machine.TestCase().runTest()


def test_it_does_what_a_dictionary_would() -> None:
    play(Calls)


@pytest.mark.parametrize("broken", [Unfenced, Renewed, Shared])
def test_a_machine_with_a_fault_is_found(broken: type[Calls]) -> None:
    with pytest.raises(AssertionError):
        play(broken, examples=1_000)
