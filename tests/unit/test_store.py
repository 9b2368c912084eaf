"""What every engine of the store promises, asked of each of them."""

import asyncio
import json
import os
import pickle
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import with_schema
from shelf import (
    ADD,
    AGES,
    BAD,
    CLAIM,
    COUNT,
    ENQUEUE,
    FINISH,
    GET,
    JOBS,
    KEEP,
    KEPT,
    LIST,
    LIST_ALL,
    PUT,
    SET,
    SHELF,
    SWAP,
    TAKE,
)

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.store import (
    Migration,
    Operation,
    Result,
    Schema,
    SchemaChange,
    Store,
    StoreSettings,
    open_store,
)
from asyncsandbox._core.store.signals import channels_of
from asyncsandbox.errors import (
    ConfigurationError,
    NotStartedError,
    StoreConflictError,
    StoreOperationError,
    StoreVersionError,
)

ENGINES = ["memory", "sqlite", "postgres"]


def make_place(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "postgres":
        return with_schema(request.getfixturevalue("postgres_url"))
    return ":memory:" if request.param == "memory" else str(folder / "store.sqlite")


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Say where a fresh store of each engine goes."""
    return make_place(request, tmp_path)


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    async with open_store(place) as opened:
        await opened.attach(SHELF, JOBS)
        yield opened


@pytest.fixture(params=[engine for engine in ENGINES if engine != "memory"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Say where a fresh store of each engine that outlives its process goes."""
    return make_place(request, tmp_path)


# ------------------------------------------------------------------ writing and reading


async def test_what_was_written_is_read(store: Store) -> None:
    assert await store.write(PUT, key="a", value=1) == Result(rows=(), count=1)
    assert await store.read(GET, key="a") == ({"value": 1},)
    assert await store.read(GET, key="b") == ()
    assert await store.write(ADD, key="a", value=2) == Result(rows=({"value": 3},), count=1)
    assert await store.write(ADD, key="b", value=2) == Result(rows=(), count=0)
    assert (await store.write(SWAP, key="a", was=3, value=7)).count == 1
    assert (await store.write(SWAP, key="a", was=3, value=8)).count == 0
    assert (await store.write(SET, key="a", value=9)).count == 1
    assert (await store.write(TAKE, key="a")).rows == ({"key": "a", "value": 9},)
    assert await store.read(LIST) == ()


async def test_operations_written_together_see_each_other_and_happen_together(store: Store) -> None:
    results = await store.write_all(PUT(key="a", value=1), ADD(key="a", value=1), GET(key="a"), TAKE(key="a"))
    assert [result.count for result in results] == [1, 1, 1, 1]
    assert [result.rows for result in results[1:3]] == [({"value": 2},), ({"value": 2},)]
    with pytest.raises(StoreConflictError, match=r"'shelf\.put \+ shelf\.bad'"):
        await store.write_all(PUT(key="a", value=1), BAD(value=1))
    assert await store.read(LIST) == ()
    assert await store.write_all() == ()


async def test_one_failure_in_a_group_harms_nobody_else(store: Store) -> None:
    await store.write(PUT, key="taken", value=0)
    writes = [
        store.write_all(PUT(key=f"k{n}", value=n), PUT(key="taken", value=n))
        if n % 7 == 3
        else store.write(BAD, value=n)
        if n % 7 == 5
        else store.write(PUT, key=f"k{n}", value=n)
        for n in range(50)
    ]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    failed = {n for n, outcome in enumerate(outcomes) if isinstance(outcome, StoreConflictError)}
    assert failed == {n for n in range(50) if n % 7 in {3, 5}}
    assert all(isinstance(outcome, Result) for n, outcome in enumerate(outcomes) if n not in failed)
    kept = {row["key"] for row in await store.read(LIST)}
    assert kept == {"taken"} | {f"k{n}" for n in range(50) if n not in failed}


async def test_many_callers_lose_no_update(store: Store) -> None:
    await store.write(PUT, key="sum", value=0)

    async def count() -> list[int]:
        return [(await store.write(ADD, key="sum", value=1)).rows[0]["value"] for _ in range(20)]

    seen = await asyncio.gather(*(count() for _ in range(10)))
    assert sorted(value for each in seen for value in each) == list(range(1, 201))
    assert all(each == sorted(each) for each in seen)
    assert await store.read(GET, key="sum") == ({"value": 200},)


async def test_a_read_that_would_write_is_refused(store: Store) -> None:
    with pytest.raises(StoreOperationError, match=r"use store\.write"):
        await store.read(SET, key="a", value=1)
    assert await store.read(LIST) == ()


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "back"),
    [
        ({"whole": 2**63 - 1, "part": 0.1, "text": "käse \N{CHEESE WEDGE}\n'\"", "raw": b"\0\xff"}, None),
        ({"whole": -(2**63), "part": float("inf"), "text": "", "raw": b""}, None),
        ({"whole": None, "part": None, "text": None, "raw": None}, None),
        (
            {"whole": True, "part": 3, "text": Colour.RED, "raw": b"x"},
            {"whole": 1, "part": 3.0, "text": "red", "raw": b"x"},
        ),
    ],
)
async def test_values_come_back_equal_in_type_and_value(
    store: Store, given: dict[str, object], back: dict[str, object] | None
) -> None:
    await store.write(KEEP, key="k", **given)
    (row,) = await store.read(KEPT, key="k")
    for name, value in (back or given).items():
        assert row[name] == value
        assert type(row[name]) is type(value)


@pytest.mark.parametrize(
    "odd", [{"whole": 2**63}, {"part": float("nan")}, {"text": "a\0b"}, {"text": "\ud800"}, {"raw": bytearray()}]
)
async def test_what_not_every_engine_stores_alike_is_refused(store: Store, odd: dict[str, object]) -> None:
    nothing = {"key": "k", "whole": None, "part": None, "text": None, "raw": None}
    with pytest.raises(StoreOperationError, match="not every engine"):
        await store.write(KEEP, **{**nothing, **odd})


async def test_a_value_of_the_wrong_kind_for_its_column_is_the_callers_fault(store: Store) -> None:
    with pytest.raises((StoreOperationError, StoreConflictError)):
        await store.write_all(PUT(key="a", value=1), PUT(key="b", value=None))
    assert await store.read(LIST) == ()


# ------------------------------------------------------------------ namespaces and time


async def test_namespaces_never_see_each_other(store: Store) -> None:
    other = store.within("other")
    await store.write(PUT, key="a", value=1)
    await other.write(PUT, key="a", value=2)
    assert (await store.read(GET, key="a"), await other.read(GET, key="a")) == (({"value": 1},), ({"value": 2},))
    await other.write(TAKE, key="a")
    assert await store.read(LIST_ALL) == ({"ns": "default", "key": "a", "value": 1},)
    assert repr(other) == f"<Store {store.location} namespace='other'>"
    with pytest.raises(ConfigurationError, match="namespace"):
        store.within(" ")


async def test_now_is_the_same_in_python_and_in_sql(store: Store) -> None:
    before = await store.now()
    await store.write(KEEP, key="k", whole=None, part=None, text=None, raw=None)
    after = await store.now()
    (row,) = await store.read(KEPT, key="k")
    assert before <= row["at"] <= after
    assert isinstance(before, float)
    await asyncio.sleep(0.01)
    assert await store.read(AGES) == ({"key": "k"},)


# ------------------------------------------------------------------ schemas


async def test_a_schema_is_migrated_from_every_version_to_the_newest(durable: str) -> None:
    first = Schema(name="shelf", tables=SHELF.tables[:1], migrations=SHELF.migrations[:1], operations=(PUT, GET))
    async with open_store(durable) as store:
        assert await store.migrate(first) == (SchemaChange(name="shelf", before=0, after=1),)
        await store.attach(first)
        await store.write(PUT, key="a", value=1)
    async with open_store(durable) as store:
        await store.attach(SHELF)
        assert await store.read(GET, key="a") == ({"value": 1},)
        assert await store.migrate(SHELF, JOBS) == (SchemaChange(name="testjobs", before=0, after=1),)
    async with open_store(durable) as store:
        with pytest.raises(StoreVersionError, match="upgrade the program") as caught:
            await store.attach(JOBS, first)
        assert (caught.value.schema, caught.value.found, caught.value.known) == ("shelf", 2, 1)


async def test_migration_by_hand_only_where_wished(durable: str) -> None:
    async with open_store(durable, settings=StoreSettings(auto_migrate=False)) as store:
        with pytest.raises(StoreVersionError, match="asyncsandbox store migrate"):
            await store.attach(SHELF)
        await store.migrate(SHELF)
        await store.attach(SHELF)


async def test_a_failing_migration_changes_nothing(store: Store) -> None:
    broken = Schema(
        name="broken",
        tables=("sandbox_broken",),
        migrations=(Migration("CREATE TABLE sandbox_broken (a TEXT)", "CREATE TABLE sandbox_shelf (a TEXT)"),),
    )
    with pytest.raises(StoreOperationError, match=r"broken\.migration_1"):
        await store.attach(broken)
    assert "broken" not in [schema.name for schema in (await store.info()).schemas]
    healthy = Schema(name="broken", tables=(), migrations=(Migration("CREATE TABLE sandbox_broken (a TEXT)"),))
    await store.attach(healthy)
    await store.write(PUT, key="a", value=1)


async def test_an_operation_is_compiled_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Operation] = []

    async def check(operations: list[Operation]) -> None:
        compiled.extend(operations)

    monkeypatch.setattr(store._engine, "check", check)
    another = Operation("shelf.another", "SELECT key FROM sandbox_shelf")
    more = Schema(name="shelf", tables=SHELF.tables, migrations=SHELF.migrations, operations=(LIST, another))
    await store.attach(SHELF, JOBS, more)
    assert compiled == [another]
    assert await store.within("elsewhere").read(LIST) == ()


async def test_wrong_sql_is_found_when_it_is_attached(store: Store) -> None:
    wrong = Operation("shelf.wrong", "SELECT colour FROM sandbox_shelf")
    schema = Schema(name="shelf", tables=SHELF.tables, migrations=SHELF.migrations, operations=(wrong,))
    with pytest.raises(StoreOperationError, match=r"'shelf\.wrong'.*colour.*mend its SQL"):
        await store.attach(schema)
    with pytest.raises(StoreOperationError, match="attach the schema that lists it first"):
        await store.read(wrong)
    with pytest.raises(StoreOperationError, match="it takes key, value"):
        await store.write(PUT, key="a")


async def test_two_stores_that_start_at_once_migrate_once(durable: str) -> None:
    async def start() -> tuple[SchemaChange, ...]:
        async with open_store(durable) as store:
            return await store.migrate(SHELF, JOBS)

    changes = await asyncio.gather(*(start() for _ in range(4)))
    assert sorted(change.name for each in changes for change in each) == ["shelf", "testjobs"]


# ------------------------------------------------------------------ info, prune, news


async def test_info_tells_what_is_there(store: Store) -> None:
    await store.write(PUT, key="a", value=1)
    await store.within("other").write(PUT, key="a", value=1)
    info = await store.info()
    assert [(s.name, s.version, s.rows) for s in info.schemas] == [("shelf", 2, 2), ("testjobs", 1, 0)]
    assert {table.name: table.rows for table in info.schemas[0].tables} == {"sandbox_shelf": 2, "sandbox_kept": 0}
    assert info.size_bytes > 0
    assert info.location == store.location
    assert int(info.version.split(".")[0]) >= 3
    assert json.loads(json.dumps(asdict(info)))["engine"] == info.engine
    assert pickle.loads(pickle.dumps(info)) == info


async def test_prune_deletes_what_is_old(store: Store) -> None:
    for key in ("a", "b"):
        await store.write(KEEP, key=key, whole=None, part=None, text=None, raw=None)
    assert await store.prune(older_than_seconds=3600) == {"shelf": 0}
    await asyncio.sleep(0.01)
    assert await store.prune(older_than_seconds=0) == {"shelf": 2}
    with pytest.raises(ConfigurationError, match="older_than_seconds"):
        await store.prune(older_than_seconds=-1)


async def test_news_wakes_who_waits_and_waits_for_who_comes_late(store: Store) -> None:
    seen = await store.wait_for("shelf", timeout_seconds=0.3)  # PostgreSQL: time to connect
    waiting = [asyncio.create_task(store.wait_for("shelf", since=seen, timeout_seconds=30)) for _ in range(3)]
    await asyncio.sleep(0.01)
    await store.write(PUT, key="a", value=1)
    assert [await each != seen for each in waiting] == [True] * 3
    seen = await waiting[0]
    await store.write(SET, key="a", value=1)  # says nothing
    assert await store.wait_for("shelf", since=seen, timeout_seconds=0.01) == seen
    await store.write(PUT, key="b", value=1)  # while nobody waits
    assert await store.wait_for("shelf", since=seen, timeout_seconds=30) != seen
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        await store.wait_for("shelf", timeout_seconds=0)


async def test_a_failed_write_is_no_news(store: Store) -> None:
    await store.write(PUT, key="a", value=1)
    seen = await store.wait_for("shelf", timeout_seconds=30)
    with pytest.raises(StoreConflictError):
        await store.write(PUT, key="a", value=1)
    assert await store.wait_for("shelf", since=seen, timeout_seconds=0.02) == seen
    assert channels_of([]) == set()


# ------------------------------------------------------------------ life


async def test_open_and_close_and_open_again(durable: str) -> None:
    store = open_store(durable)
    await store.close()
    for number in range(2):
        async with store:
            await store.attach(SHELF)
            await store.write(PUT, key=f"k{number}", value=number)
            assert len(await store.read(LIST)) == number + 1
        await store.close()


async def test_a_store_that_is_not_open_says_so(store: Store) -> None:
    await store.close()
    for use in (store.write(PUT, key="a", value=1), store.read(LIST), store.info(), store.migrate(JOBS)):
        with pytest.raises(NotStartedError, match="async with"):
            await use


async def test_closing_finishes_what_was_submitted(durable: str) -> None:
    async with open_store(durable) as store:
        await store.attach(SHELF)
        writes = [asyncio.create_task(store.write(PUT, key=f"k{n}", value=n)) for n in range(100)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*writes)
    assert len(outcomes) == 100
    async with open_store(durable) as store:
        await store.attach(SHELF)
        assert len(await store.read(LIST)) == 100


async def test_a_cancelled_caller_is_told_when_its_write_has_come_out(store: Store) -> None:
    for number in range(10):
        writing = asyncio.create_task(store.write(PUT, key=f"k{number}", value=number))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        begun = not writing.done() and number % 4
        writing.cancel()
        writing.cancel()
        await asyncio.wait([writing])
        found = await store.read(GET, key=f"k{number}")
        assert len(found) == 1 or not begun or writing.cancelled()
        await asyncio.sleep(0.002)
        assert await store.read(GET, key=f"k{number}") == found


async def test_a_full_store_makes_callers_wait_and_forgets_those_who_leave(place: str) -> None:
    async with open_store(place, settings=StoreSettings(max_pending=2)) as store:
        await store.attach(SHELF)
        writes = [asyncio.create_task(store.write(PUT, key=f"k{n}", value=n)) for n in range(20)]
        await asyncio.sleep(0)
        for late in writes[-5:]:
            late.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        kept = len(await store.read(LIST))
        assert kept == 20 - sum(write.cancelled() for write in writes) or not store.is_durable
        assert kept >= 15


# ------------------------------------------------------------------ a realistic component


async def test_jobs_are_claimed_once_and_finished_once(store: Store) -> None:
    await asyncio.gather(*(store.write(ENQUEUE, id=f"{n:03}") for n in range(60)))
    assert (await store.write(ENQUEUE, id="000")).count == 0
    finished: list[tuple[str, int]] = []

    async def work() -> None:
        while claimed := (await store.write(CLAIM, lease=60.0, most=5)).rows:
            for job in claimed:
                finished.extend([(job["id"], job["attempt"])] * (await store.write(FINISH, **job)).count)

    await asyncio.gather(*(work() for _ in range(8)))
    assert sorted(finished) == [(f"{n:03}", 1) for n in range(60)]
    assert await store.read(COUNT) == ({"state": 2, "n": 60},)


async def test_a_lease_that_ended_is_claimed_again_and_the_old_owner_is_fenced_off(store: Store) -> None:
    await store.write(ENQUEUE, id="j")
    first = (await store.write(CLAIM, lease=-1.0, most=1)).rows[0]
    await asyncio.sleep(0.01)
    second = (await store.write(CLAIM, lease=60.0, most=1)).rows[0]
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert (await store.write(CLAIM, lease=60.0, most=1)).rows == ()
    assert (await store.write(FINISH, id="j", attempt=1)).count == 0
    assert (await store.write(FINISH, id="j", attempt=2)).count == 1


class Wound(SystemClock):
    """A clock whose time of day somebody sets; the time that passes he cannot change."""

    __slots__ = ("by",)

    def now(self) -> datetime:
        return super().now() + self.by


async def test_a_clock_that_steps_back_wakes_no_lease_and_loses_nothing(place: str) -> None:
    clock = Wound()
    clock.by = timedelta()
    async with open_store(place, clock=clock) as store:
        await store.attach(SHELF, JOBS)
        await store.write(ENQUEUE, id="j")
        claimed = (await store.write(CLAIM, lease=60.0, most=1)).rows
        before = await store.now()
        clock.by = timedelta(hours=-1)
        moved = await store.now() - before
        assert (
            moved >= 0 if store._engine.kind == "postgres" else -3600 <= moved < -3500
        )  # a server has a clock of its own
        assert (await store.write(CLAIM, lease=60.0, most=1)).rows == ()
        assert (await store.write(FINISH, **claimed[0])).count == 1
        seen = await store.wait_for("shelf", timeout_seconds=0.01)
        await store.write(PUT, key="a", value=1)
        assert await store.wait_for("shelf", since=seen, timeout_seconds=60) != seen
        assert await store.read(LIST) == ({"key": "a", "value": 1},)


# ------------------------------------------------------------------ places


@pytest.mark.parametrize("wrong", ["", " ", "a\0b", "mysql://h/d", "sqlite://host/x", "sqlite:///a?mode=ro"])
def test_what_is_no_place_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="store="):
        open_store(wrong)


def test_a_place_shows_no_secret(tmp_path: Path) -> None:
    assert open_store(tmp_path / "s").location == os.fspath(tmp_path / "s")
    assert open_store("sqlite+aiosqlite:///a/b").location == "a/b"
    assert open_store("sqlite://").location == ":memory:"
    with pytest.raises(ConfigurationError) as caught:
        open_store("mysql://me:secret@host/db?password=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"busy_seconds": 0}, {"reconnect_seconds": -1}, {"max_pending": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        StoreSettings(**wrong)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=8), st.binary(max_size=8), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
def test_any_storable_value_comes_back(tmp_path: Path, text: str, raw: bytes, whole: int, part: float) -> None:
    async def main() -> None:
        async with open_store(":memory:") as store:
            await store.attach(SHELF)
            try:
                await store.write(KEEP, key="k", whole=whole, part=part, text=text, raw=raw)
            except StoreOperationError:
                assert "\0" in text or not text.isascii()
                return
            (row,) = await store.read(KEPT, key="k")
            assert (row["whole"], row["part"], row["text"], row["raw"]) == (whole, part, text, raw)

    asyncio.run(main())
