"""What the manager asks of its records, for every adapter: one claim per key, fences, expiry, and nothing forgotten.

An adapter joins by a line in `ADAPTERS`. The model is a dictionary.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import must_catch
from virtual_time import run_virtual

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.owners import OWNERS, Owner
from asyncsandbox._core.store import Store, open_store
from asyncsandbox.components.idempotency import (
    IdempotencyRecord,
    IdempotencyRecords,
    InMemoryIdempotencyRecords,
    Outcome,
    RecordState,
)
from asyncsandbox.components.idempotency.records import _Row
from asyncsandbox.components.idempotency.store_records import StoreIdempotencyRecords
from asyncsandbox.errors import IdempotencyFullError

IN_PROGRESS, DONE, FAILED, UNKNOWN = RecordState


class Virtual(SystemClock):
    """A time of day that goes with the loop's time."""

    def now(self) -> Any:
        return super().now().fromtimestamp(1_000_000_000 + self.monotonic(), super().now().tzinfo)


async def close(records: IdempotencyRecords) -> None:
    if isinstance(records, OnInlineStore) and records.store is not None:
        for task in records.tasks:
            task.cancel()
        await asyncio.wait(records.tasks)
        await records.store.close()


class OnInlineStore:
    """The records of a sandbox on a store in memory, opened when they are first used."""

    def __init__(self) -> None:
        self._made: StoreIdempotencyRecords | None = None
        self.store: Store | None = None
        self.tasks: list[asyncio.Task[Any]] = []

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return self.tasks[-1]

    async def _records(self) -> StoreIdempotencyRecords:
        if self._made is None:
            self.store = store = open_store(":memory:", clock=Virtual())
            await store.open()
            await store.attach(OWNERS)
            owner = Owner(store, Virtual(), lease_seconds=1e6)
            await owner.start(self._spawn)
            self._made = StoreIdempotencyRecords(store, owner)
        return self._made

    async def claim(self, *args: Any, **more: Any) -> IdempotencyRecord:
        return await (await self._records()).claim(*args, **more)

    async def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        return await (await self._records()).finish(key, fence, outcome)

    async def release(self, key: str, fence: str) -> bool:
        return await (await self._records()).release(key, fence)

    async def wait(self, key: str, fence: str) -> None:
        await (await self._records()).wait(key, fence)

    async def get(self, key: str) -> IdempotencyRecord | None:
        return await (await self._records()).get(key)

    async def delete_expired(self) -> int:
        return await (await self._records()).delete_expired()

    def count(self) -> Mapping[RecordState, int]:
        return self._made.count() if self._made else {}


ADAPTERS: list[Callable[[], IdempotencyRecords]] = [InMemoryIdempotencyRecords, OnInlineStore]
every_adapter = pytest.mark.parametrize("make", ADAPTERS, ids=lambda make: make.__name__)

KEYS = st.sampled_from(["a", "b"])
FENCES = st.integers(0, 5).map(str)
REASONS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2)  # what every store takes
OUTCOMES = st.one_of(
    st.builds(Outcome, st.just(DONE), st.binary(max_size=2), ttl_seconds=st.integers(1, 3) | st.none()),
    st.builds(Outcome, st.just(FAILED), st.none(), REASONS, ttl_seconds=st.integers(1, 3)),
    st.builds(Outcome, st.just(UNKNOWN), st.none(), st.just("why")),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), KEYS, st.none() | FENCES),
        st.tuples(st.just("finish"), KEYS, FENCES, OUTCOMES),
        st.tuples(st.just("release"), KEYS, FENCES),
        st.tuples(st.just("sleep"), st.integers(1, 2)),
        st.tuples(st.just("delete_expired")),
        st.tuples(st.just("die"), FENCES),
    ),
    max_size=20,
)


@dataclass
class Expected:
    fence: str
    fingerprint: str
    outcome: Outcome = Outcome(IN_PROGRESS)  # noqa: RUF009 - frozen
    until: float | None = None


class Model:
    """The same by the letter of the port."""

    def __init__(self) -> None:
        self.rows: dict[str, Expected] = {}
        self.dead: set[str] = set()
        self.now = 0.0

    def get(self, key: str) -> Expected | None:
        row = self.rows.get(key)
        return None if row is None or (row.until is not None and row.until <= self.now) else row

    def state(self, row: Expected) -> RecordState:
        lost = row.outcome.state is IN_PROGRESS and row.fence in self.dead
        return UNKNOWN if lost else row.outcome.state

    def claim(self, key: str, fence: str, instead_of: str | None) -> None:
        row = self.get(key)
        if row is None or (self.state(row) is UNKNOWN and row.fence == instead_of):
            self.rows[key] = Expected(fence, f"f#{fence}")

    def finish(self, key: str, fence: str, outcome: Outcome) -> bool:
        row = self.get(key)
        if row is None or row.fence != fence or row.outcome.state is DONE:
            return False
        row.outcome = outcome
        row.until = None if outcome.ttl_seconds is None else self.now + outcome.ttl_seconds
        return True

    def release(self, key: str, fence: str) -> bool:
        row = self.get(key)
        if row is None or row.fence != fence or row.outcome.state is DONE:
            return False
        del self.rows[key]
        return True

    def delete_expired(self) -> None:
        self.rows = {key: row for key, row in self.rows.items() if self.get(key)}


class Holders:
    """Tasks that hold claims, by fence."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def get(self, fence: str) -> asyncio.Task[Any]:
        if fence not in self.tasks:
            self.tasks[fence] = asyncio.get_running_loop().create_task(asyncio.sleep(1e6))
        return self.tasks[fence]

    async def end(self, fence: str) -> None:
        task = self.get(fence)
        task.cancel()
        await asyncio.wait((task,))


def agree(found: IdempotencyRecord | None, key: str, model: Model) -> None:
    expected = model.get(key)
    if expected is None:
        assert found is None
        return
    assert found is not None
    outcome = expected.outcome
    assert (found.key, found.fence, found.fingerprint) == (key, expected.fence, expected.fingerprint)
    assert (found.state, found.result) == (model.state(expected), outcome.result)
    assert found.reason == outcome.reason or outcome.state is IN_PROGRESS
    left = None if expected.until is None else expected.until - model.now
    assert found.expires_in_seconds == left
    assert not found.owner_died


def check_model(make: Callable[[], IdempotencyRecords], steps: list[tuple[Any, ...]]) -> None:
    async def main() -> None:
        records, model, holders, claims = make(), Model(), Holders(), 0
        for name, *args in steps:
            if name == "claim":
                key, instead_of = args
                fence, claims = str(claims), claims + 1
                model.claim(key, fence, instead_of)
                found = await records.claim(key, f"f#{fence}", fence, holder=holders.get(fence), instead_of=instead_of)
                agree(found, key, model)
            elif name == "sleep":
                await asyncio.sleep(*args)
                model.now += args[0]
            elif name == "die":
                await holders.end(*args)
                model.dead.add(*args)
            elif name == "delete_expired":
                model.delete_expired()
                await records.delete_expired()
            else:
                assert await getattr(records, name)(*args) == getattr(model, name)(*args)
            for key in ("a", "b"):
                agree(await records.get(key), key, model)
            counts = [model.state(row) for key in model.rows if (row := model.get(key))]
            if isinstance(records, InMemoryIdempotencyRecords):  # others may know less without waiting
                assert dict(records.count()) == {state: counts.count(state) for state in set(counts)}
        for fence in holders.tasks:
            await holders.end(fence)
        await close(records)

    run_virtual(main())


@every_adapter
@settings(max_examples=300)
@given(STEPS)
def test_records_do_what_the_port_says(make: Callable[[], IdempotencyRecords], steps: list[Any]) -> None:
    check_model(make, steps)


class Unfenced(InMemoryIdempotencyRecords):
    def _movable(self, key: str, fence: str) -> _Row | None:
        return self._rows.get(key)


class Overwriting(InMemoryIdempotencyRecords):
    def _movable(self, key: str, fence: str) -> _Row | None:
        row = self._rows.get(key)
        return row if row is not None and row.fence == fence else None


class Trusting(InMemoryIdempotencyRecords):
    async def claim(self, key: str, *rest: Any, **more: Any) -> IdempotencyRecord:
        row = self._rows.get(key)
        more["instead_of"] = None if row is None else row.fence
        return await super().claim(key, *rest, **more)


class Eternal(InMemoryIdempotencyRecords):
    def _is_expired(self, row: _Row) -> bool:
        return False


class Sweeping(InMemoryIdempotencyRecords):
    async def delete_expired(self) -> int:
        self._rows.clear()
        return 0


class Stuck(InMemoryIdempotencyRecords):
    def _view(self, key: str, row: _Row) -> IdempotencyRecord:
        found = super()._view(key, row)
        return (
            found
            if row.state is not IN_PROGRESS
            else IdempotencyRecord(key=key, fingerprint=row.fingerprint, state=IN_PROGRESS, fence=row.fence)
        )


@pytest.mark.parametrize("broken", [Unfenced, Overwriting, Trusting, Eternal, Sweeping, Stuck])
def test_broken_records_are_caught(broken: type[InMemoryIdempotencyRecords]) -> None:
    must_catch(lambda steps: check_model(broken, steps), STEPS, examples=1000)


@every_adapter
def test_waiting_ends_with_the_claim_or_is_asked_again(make: Callable[[], IdempotencyRecords]) -> None:
    def wait_for(ending: Callable[[IdempotencyRecords], Any]) -> float:
        async def main() -> float:
            records, holders = make(), Holders()
            await records.claim("a", "f", "1", holder=holders.get("1"))
            waiter = asyncio.ensure_future(records.wait("a", "1"))
            given_up, too_late = (asyncio.ensure_future(records.wait("a", "1")) for _ in range(2))
            await asyncio.sleep(0.25)
            given_up.cancel()
            await ending(records)
            too_late.cancel()
            await waiter
            await holders.end("1")
            await close(records)
            return asyncio.get_running_loop().time()

        return run_virtual(main())

    async def settle(records: IdempotencyRecords) -> None:
        await records.finish("a", "1", Outcome(UNKNOWN, reason="lost"))
        await records.finish("a", "1", Outcome(DONE, b""))

    assert wait_for(settle) == 0.25
    assert wait_for(lambda records: records.release("a", "1")) == 0.25
    assert wait_for(lambda records: records.get("a")) <= 2


@every_adapter
async def test_there_is_no_waiting_for_what_has_ended(make: Callable[[], IdempotencyRecords]) -> None:
    records, holder = make(), asyncio.current_task()
    assert holder is not None
    await asyncio.wait_for(records.wait("a", "1"), 0.1)
    await records.claim("a", "f", "1", holder=holder)
    await asyncio.wait_for(records.wait("a", "2"), 0.1)
    await records.finish("a", "1", Outcome(DONE, b""))
    await asyncio.wait_for(records.wait("a", "1"), 0.1)
    await close(records)


# ------------------------------------------------------------------ in memory only


def test_a_full_memory_refuses_and_forgets_only_what_has_expired() -> None:
    async def main() -> None:
        records, task = InMemoryIdempotencyRecords(max_records=3), asyncio.current_task()
        assert task is not None
        for key, outcome in (("a", DONE), ("b", UNKNOWN), ("c", FAILED)):
            await records.claim(key, "f", key, holder=task)
            await records.finish(key, key, Outcome(outcome, b"", ttl_seconds=None if outcome is UNKNOWN else 10))
        for _ in range(2):
            with pytest.raises(IdempotencyFullError, match="max_records"):
                await records.claim("d", "f", "d", holder=task)
        assert (await records.claim("b", "f", "2", holder=task, instead_of="b")).fence == "2", "it has its room"
        await asyncio.sleep(10)
        assert (await records.claim("a", "f", "2", holder=task)).fence == "2"
        assert (await records.claim("d", "f", "d", holder=task)).fence == "d"
        assert await records.get("c") is None
        assert await records.get("b") is not None

    run_virtual(main())


def test_what_nobody_asks_for_does_not_pile_up() -> None:
    async def main() -> int:
        records, task, most = InMemoryIdempotencyRecords(), asyncio.current_task(), 0
        assert task is not None
        for number in range(500):
            await records.claim(str(number), "f", "1", holder=task)
            await records.finish(str(number), "1", Outcome(DONE, b"", ttl_seconds=10))
            await asyncio.sleep(1)
            most = max(most, len(records._rows), len(records._expiries))
        return most

    assert run_virtual(main()) <= 12


def test_a_claim_on_a_loop_that_is_gone_is_unknown() -> None:
    records = InMemoryIdempotencyRecords()
    loop = asyncio.new_event_loop()

    async def claim() -> None:
        await records.claim("a", "f", "1", holder=left_behind)

    left_behind = loop.create_task(asyncio.sleep(0))
    loop.run_until_complete(claim())
    found = asyncio.run(records.get("a"))
    assert found is not None
    assert found.state is UNKNOWN
    loop.close()
