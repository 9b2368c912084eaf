"""Idempotency keys in a store: shared by processes, they outlive each, and a dry run leaves them alone."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from children import Child
from postgres import with_schema

from asyncsandbox import IdempotencySettings, LedgerSettings, Sandbox, open_store
from asyncsandbox._core.owners import LEASED, RENEW, Owner, OwnerState
from asyncsandbox._core.store import Operation, Schema
from asyncsandbox.components.idempotency import store_records
from asyncsandbox.components.idempotency.store_records import IDEMPOTENCY, StoreIdempotencyRecords
from asyncsandbox.errors import (
    IdempotencyConflictError,
    IdempotencyUnknownError,
    LifecycleError,
    StoreUnavailableError,
)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no death is ever proven")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a place that several sandboxes can open."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = with_schema(request.getfixturevalue("postgres_url"))
    return url


def live(place: object, *, lease: float = 30.0, **settings: Any) -> Sandbox:
    return Sandbox(
        store=place,  # type: ignore[arg-type]
        dry_run=False,
        ledger=LedgerSettings(lease_seconds=lease),
        idempotency_manager=IdempotencySettings(**settings),
    )


class Till:
    """Counts what happens, and takes its time."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.happened: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.began = asyncio.Event()

    async def pay(self, order: str) -> str:
        self.began.set()
        await self.go.wait()
        await asyncio.sleep(self.seconds)
        self.happened.append(order)
        return f"paid {order}"

    async def ask(self, sandbox: Sandbox, order: str = "o-1", key: str = "k") -> str:
        return await sandbox.idempotency_manager.process_idempotent(key, self.pay, order)


async def test_results_outlive_the_sandbox_and_a_rehearsal_reads_them(place: str) -> None:
    till = Till()
    for _ in range(2):
        async with live(place) as sandbox:
            assert await till.ask(sandbox) == "paid o-1"
    async with Sandbox(store=place, dry_run=True) as rehearsal:
        assert await rehearsal.idempotency_manager.get_cached_result("k") == "paid o-1"
        assert await till.ask(rehearsal) == "paid o-1"
        with pytest.raises(IdempotencyConflictError):
            await till.ask(rehearsal, "o-2")
        assert await till.ask(rehearsal, key="rehearsed") == "paid o-1"
    assert till.happened == ["o-1", "o-1"], "really, and rehearsed"
    async with live(place) as sandbox:
        assert await sandbox.idempotency_manager.get_cached_result("rehearsed") is None, "a dry run writes nothing"


async def run_side_by_side(place: str) -> None:
    till = Till(seconds=0.02)
    async with live(place) as one, live(place) as other:
        first = asyncio.create_task(till.ask(one))
        await till.began.wait()
        assert await other.idempotency_manager.is_duplicate("k")
        assert await asyncio.gather(first, till.ask(other)) == ["paid o-1"] * 2
        with pytest.raises(IdempotencyConflictError):
            await till.ask(other, "o-2", "k")
        orders = [till.ask(sandbox, f"n-{n}", f"n-{n}") for n in range(20) for sandbox in (one, other)]
        assert await asyncio.gather(*orders) == [f"paid n-{n}" for n in range(20) for _ in range(2)]
    assert sorted(till.happened) == sorted(["o-1", *(f"n-{n}" for n in range(20))]), "each key once"


async def test_two_sandboxes_run_a_key_once_and_share_the_outcome(place: str) -> None:
    await run_side_by_side(place)


def changed(operation: Operation, old: str, new: str) -> Operation:
    assert operation.sql.count(old) == 1
    return Operation(operation.name, operation.sql.replace(old, new), notify=operation.notify)


@contextmanager
def replaced(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> Iterator[None]:
    """Let one operation be wrong."""
    right = getattr(store_records, name)
    wrong = changed(right, old, new)
    operations = tuple(wrong if each is right else each for each in IDEMPOTENCY.operations)
    schema = Schema(
        name=IDEMPOTENCY.name,
        tables=IDEMPOTENCY.tables,
        migrations=IDEMPOTENCY.migrations,
        operations=operations,
        prune=IDEMPOTENCY.prune,
    )
    with monkeypatch.context() as patch:
        patch.setattr(store_records, name, wrong)
        patch.setattr(store_records, "IDEMPOTENCY", schema)
        yield


async def test_a_claim_that_takes_what_others_hold_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        replaced(monkeypatch, "CLAIM", "WHERE r.expires_at <= :now OR", "WHERE 1 = 1 OR"),
        pytest.raises(AssertionError),
    ):
        await run_side_by_side(str(tmp_path / "store.sqlite"))


async def test_a_cancelled_call_is_unknown_to_everybody_until_a_person_says(place: str) -> None:
    till = Till()
    till.go.clear()
    async with live(place) as one, live(place) as other:
        call = asyncio.create_task(till.ask(one))
        await till.began.wait()
        waiter = asyncio.create_task(till.ask(other))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(IdempotencyUnknownError, match="cancelled while it ran"):
            await waiter
        await other.idempotency_manager.resolve("k", happened=True, result="seen")
        assert await till.ask(one) == "seen"
    assert till.happened == []


async def test_a_call_that_raised_is_known_to_raise(place: str) -> None:
    calls = []

    async def fail(order: str) -> None:
        calls.append(order)
        raise (PermissionError if order == "kept" else ConnectionError)(order)

    for _ in range(2):
        async with live(place, release_on=(ConnectionError,)) as sandbox:
            process = sandbox.idempotency_manager.process_idempotent
            with pytest.raises(PermissionError, match="kept"):
                await process("a", fail, "kept")
            with pytest.raises(ConnectionError, match="freed"):
                await process("b", fail, "freed")
    assert calls == ["kept", "freed", "freed"]


async def test_an_outcome_expires_and_what_nobody_asks_for_is_swept(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_records, "_PER_SWEEP", 4)
    till = Till()
    async with live(place, ttl_seconds=0.02) as sandbox:
        for n in range(3):
            await till.ask(sandbox, f"o-{n}", f"k-{n}")
        await asyncio.sleep(0.03)
        assert await till.ask(sandbox, "o-0", "k-0") == "paid o-0"
        assert till.happened == ["o-0", "o-1", "o-2", "o-0"], "it has expired, so it runs again"
    async with open_store(place) as store:
        await store.attach(store_records.OWNERS, IDEMPOTENCY)
        found = await store.read(store_records.GET, key="k-0")
        assert len(found) <= 1
        counts = {schema.name: schema.tables[0].rows for schema in (await store.info()).schemas}
        assert counts["idempotency"] == 1, "the fourth claim has swept the two that had expired"
        await asyncio.sleep(0.03)
        assert (await store.prune(older_than_seconds=0))["idempotency"] == 1


async def test_expired_outcomes_can_be_cleared_at_once(place: str) -> None:
    till = Till()
    async with live(place, ttl_seconds=0.02) as sandbox:
        for n in range(3):
            await till.ask(sandbox, f"o-{n}", f"k-{n}")
        await asyncio.sleep(0.03)
        assert await sandbox.idempotency_manager.clear_expired() == 3


async def test_running_calls_are_counted_and_a_restarted_sandbox_knows_its_keys(tmp_path: Path) -> None:
    till = Till()
    sandbox = live(tmp_path / "store.sqlite")
    till.go.clear()
    async with sandbox:
        call = asyncio.create_task(till.ask(sandbox))
        await till.began.wait()
        assert sandbox.idempotency_manager.get_status().in_progress == 1
        till.go.set()
        await call
        assert sandbox.idempotency_manager.get_status().in_progress == 0
    async with sandbox:
        assert await till.ask(sandbox) == "paid o-1"
    assert till.happened == ["o-1"]


async def test_keys_used_before_the_store_is_there_are_not_forgotten_silently(tmp_path: Path) -> None:
    till = Till()
    sandbox = live(tmp_path / "store.sqlite")
    await till.ask(sandbox)
    with pytest.raises(LifecycleError, match="start the sandbox first"):
        await sandbox.initialize()
    rehearsal = Sandbox(store=tmp_path / "store.sqlite")
    await till.ask(rehearsal)
    async with rehearsal:
        await till.ask(rehearsal)
    assert till.happened == ["o-1", "o-1"], "in a dry run they stay in memory"


async def test_a_new_key_costs_two_writes_and_one_read_and_one_that_is_at_hand_none(tmp_path: Path) -> None:
    till = Till()
    async with live(tmp_path / "store.sqlite") as sandbox:
        await till.ask(sandbox, key="warm up")
        records = sandbox.idempotency_manager._records
        assert isinstance(records, StoreIdempotencyRecords)
        store, counts = records._store, {"read": 0, "write": 0}
        read, write = store.read, store.write

        async def count_read(*args: Any, **more: Any) -> Any:
            counts["read"] += 1
            return await read(*args, **more)

        async def count_write(*args: Any, **more: Any) -> Any:
            counts["write"] += 1
            return await write(*args, **more)

        store.read, store.write = count_read, count_write  # type: ignore[method-assign]
        await till.ask(sandbox)
        assert counts == {"read": 1, "write": 2}
        await till.ask(sandbox)
        assert counts == {"read": 1, "write": 2}


async def stall(place: str) -> None:
    """Let the lease of a sandbox run out while its call runs, and another one begin the call anew."""
    slow_till, till = Till(), Till()
    slow_till.go.clear()
    till.go.clear()
    async with open_store(place) as store, live(place, lease=3600) as slow, live(place) as other:
        late = asyncio.create_task(slow_till.ask(slow))
        await slow_till.began.wait()
        assert slow._services.owner is not None
        await store.attach(store_records.OWNERS)
        await store.write(RENEW, owner=slow._services.owner.id, seconds=-1.0)
        with pytest.raises(IdempotencyUnknownError, match="has gone without saying"):
            await till.ask(other)
        await other.idempotency_manager.resolve("k", happened=False)
        call = asyncio.create_task(till.ask(other))
        await till.began.wait()
        slow_till.go.set()
        assert await late == "paid o-1", "its caller gets what came of it"
        assert len(slow._services.journal.get_events("idempotency.not_recorded")) == 1, "it came too late: that is told"
        assert await slow.idempotency_manager.get_cached_result("k") is None, "who has lost a key ends no other's call"
        till.go.set()
        assert await call == "paid o-1"
        assert await slow.idempotency_manager.get_cached_result("k") == "paid o-1"


async def test_who_was_taken_for_gone_ends_no_other_call(place: str) -> None:
    await stall(place)


async def test_an_end_without_a_fence_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replaced(monkeypatch, "FINISH", "AND fence = :fence ", "AND :fence = :fence "), pytest.raises(AssertionError):
        await stall(str(tmp_path / "store.sqlite"))


async def come_back(place: str) -> None:
    """Let a lease run out and be renewed while another one makes up its mind to run the call again."""
    till = Till()
    till.go.clear()
    async with open_store(place) as store, live(place, lease=3600) as slow, live(place) as other:
        call = asyncio.create_task(till.ask(slow))
        await till.began.wait()
        owner = slow._services.owner
        assert owner is not None
        await store.attach(store_records.OWNERS)
        await store.write(RENEW, owner=owner.id, seconds=-1.0)
        records = other.idempotency_manager._records
        record = await records.get("k")
        assert record is not None
        assert record.state == "unknown"
        await owner.renew()
        task = asyncio.current_task()
        assert task is not None
        found = await records.claim("k", record.fingerprint, "mine", holder=task, instead_of=record.fence)
        assert (found.fence, found.state) == (record.fence, "in progress"), "it is there again, so nobody runs it anew"
        till.go.set()
        assert await call == "paid o-1"
    assert till.happened == ["o-1"]


async def test_a_claim_that_only_seemed_abandoned_is_left_alone(place: str) -> None:
    await come_back(place)


async def test_believing_an_old_look_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replaced(monkeypatch, "CLAIM", "CAST(:sure AS BIGINT) = 1", "CAST(:sure AS BIGINT) <> 2")
    with wrong, pytest.raises(AssertionError):
        await come_back(str(tmp_path / "store.sqlite"))


async def claim_without_lease(place: str) -> None:
    """Claim a key after the lease ran out: it is renewed first, or nothing is claimed."""
    till = Till()
    async with open_store(place) as store, live(place, lease=3600) as sandbox:
        owner = sandbox._services.owner
        assert owner is not None
        await store.attach(store_records.OWNERS, IDEMPOTENCY)
        await store.write(RENEW, owner=owner.id, seconds=-1.0)
        assert await till.ask(sandbox) == "paid o-1"
        (row,) = await store.read(store_records.GET, key="k")
        assert row["leased"], "whoever claims has a lease"

        async def refuse() -> None:
            await store.write(RENEW, owner=owner.id, seconds=-1.0)

        owner.renew = refuse  # type: ignore[method-assign]
        await store.write(RENEW, owner=owner.id, seconds=-1.0)
        with pytest.raises(StoreUnavailableError, match="lease of this sandbox is over"):
            await till.ask(sandbox, key="another")
        assert await store.read(store_records.GET, key="another") == ()
    assert till.happened == ["o-1"]


async def test_nothing_is_claimed_without_a_lease(place: str) -> None:
    await claim_without_lease(place)


async def test_a_claim_without_a_lease_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leased = f"WHERE {LEASED} ON CONFLICT"
    with replaced(monkeypatch, "CLAIM", leased, "WHERE :owner = :owner ON CONFLICT"), pytest.raises(AssertionError):
        await claim_without_lease(str(tmp_path / "store.sqlite"))


# ------------------------------------------------------------------ processes that are killed

CHILD = """
import asyncio, os, sys
from asyncsandbox import Sandbox

place, effects = sys.argv[1:]
log = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def pay(order, seconds):
    os.write(log, f"{order}\\n".encode())
    await asyncio.sleep(seconds)
    return f"paid {order}"

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Sandbox(dry_run=False, store=place) as sandbox:
        async def carry_out(order, seconds):
            print(await sandbox.idempotency_manager.process_idempotent(order, pay, order, float(seconds)), flush=True)
        print("up", flush=True)
        tasks = []
        while line := (await reader.readline()).decode().split():
            tasks.append(asyncio.ensure_future(carry_out(*line)))
        await asyncio.gather(*tasks)

asyncio.run(main())
"""


def until(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def kill_while_it_pays(place: str, folder: Path) -> None:
    effects = folder / "effects"
    child = Child(CHILD, place, effects)
    acknowledged = [f"a-{n}" for n in range(10)]
    for order in acknowledged:
        child.tell(f"{order} 0")
    assert sorted(child.hear() for _ in acknowledged) == sorted(f"paid {order}" for order in acknowledged)
    child.tell("slow 60")
    until(lambda: "slow" in effects.read_text())
    child.signal(signal.SIGKILL)
    child.kill()

    ran: list[str] = []

    async def pay(order: str, seconds: float) -> str:
        ran.append(order)
        return f"paid {order}"

    pay.__module__, pay.__qualname__ = "__main__", "pay"

    async def look() -> None:
        async with live(place) as sandbox:
            process = sandbox.idempotency_manager.process_idempotent
            for order in acknowledged:
                assert await process(order, pay, order, 0.0) == f"paid {order}"
            with pytest.raises(IdempotencyUnknownError, match="has gone without saying"):
                async with asyncio.timeout(1):  # a death is known at once
                    await process("slow", pay, "slow", 60.0)

            find_none = sandbox.idempotency_manager.idempotent(key=lambda order: order, verify=lambda order: None)
            verified = find_none(pay)
            assert await verified("slow", 60.0) == "paid slow", "no trace of it, and who made it is dead: so it runs"

    asyncio.run(look())
    assert ran == ["slow"], "what was acknowledged does not run again"


@on_linux
def test_what_a_killed_process_was_told_of_is_kept_and_the_rest_is_unknown_at_once(place: str, tmp_path: Path) -> None:
    kill_while_it_pays(place, tmp_path)


@on_linux
def test_taking_everybody_for_alive_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owner, "judge", lambda self, owner, leased: OwnerState.ALIVE)
    with pytest.raises(TimeoutError):
        kill_while_it_pays(str(tmp_path / "store.sqlite"), tmp_path)
