"""The store on PostgreSQL: broken connections, restarts, locks, and what it says then."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import children
import pytest
from postgres import Cluster, end_cluster, start_cluster, with_schema
from shelf import ADD, BAD, GET, LIST, PUT, SET, SHELF, SWAP

from asyncsandbox._core.store import Operation, Store, StoreSettings, open_store
from asyncsandbox._core.store.postgres import _SCRIPT_LOCK
from asyncsandbox._core.store.postgres_link import translate
from asyncsandbox._core.store.postgres_writer import Writer
from asyncsandbox.errors import (
    LifecycleError,
    StoreBusyError,
    StoreConflictError,
    StoreOpenError,
    StoreOperationError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
)
from asyncsandbox.testing import Scenario, Simulation
from asyncsandbox.testing.errors import EscapedError
from asyncsandbox.testing.runs import run_once

PATIENT = StoreSettings(busy_seconds=1, reconnect_seconds=20)
HASTY = StoreSettings(busy_seconds=0.2, reconnect_seconds=0)


@pytest.fixture
def url(postgres_url: str) -> str:
    return with_schema(postgres_url)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url, settings=PATIENT) as opened:
        await opened.attach(SHELF)
        yield opened


@pytest.fixture
async def other(url: str) -> AsyncIterator[Any]:
    """Give a connection of somebody else."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def put(store: Store, *keys: str) -> "asyncio.Future[list[Any]]":
    return asyncio.gather(*(store.write(PUT, key=key, value=1) for key in keys), return_exceptions=True)


async def keys(store: Store) -> list[str]:
    return [row["key"] for row in await store.read(LIST)]


# ------------------------------------------------------------------ opening


def test_a_server_that_is_not_there_says_so() -> None:
    with pytest.raises(StoreOpenError, match="cannot be reached") as caught:
        asyncio.run(open_store("postgresql://me:secret@127.0.0.1:1/db").open())
    assert "secret" not in str(caught.value)


async def test_a_database_that_does_not_let_us_in_says_so(postgres_url: str) -> None:
    with pytest.raises(StoreOpenError, match="InvalidCatalogNameError"):
        await open_store(re.sub(r"/[^/?]*(\?|$)", r"/no_such_database\1", postgres_url)).open()


async def test_a_schema_that_is_not_there_leaves_nothing_open(postgres_url: str) -> None:
    store = open_store(f"{postgres_url}{'&' if '?' in postgres_url else '?'}search_path=nowhere")
    with pytest.raises(StoreOpenError, match=r"no schema has been selected.*first schema of its search path"):
        await store.open()
    with pytest.raises(LifecycleError):
        await store.info()


def test_without_the_driver_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from asyncsandbox._core.store import open_store\n"
        "try: open_store('postgresql://h/d')\n"
        "except Exception as error: print(error)"
    )
    assert "pip install 'asyncsandbox[postgres]'" in children.run(code)


def test_the_driver_is_imported_only_where_it_is_used() -> None:
    code = "import sys, asyncsandbox._core.store as s; s.open_store(':memory:'); print('asyncpg' in sys.modules)"
    assert children.run(code) == "False\n"


async def test_every_form_of_a_statement_gives_each_call_its_own(store: Store) -> None:
    clear = Operation("shelf.clear", "DELETE FROM sandbox_shelf WHERE ns = :ns AND value = :value -- whatever the key")
    copy = Operation(
        "shelf.copy",
        "WITH found AS (SELECT key FROM sandbox_shelf WHERE ns = :ns AND value = :value) "
        "INSERT INTO sandbox_shelf (ns, key, value) SELECT :ns, 'copy of ' || key, 9 FROM found",
    )
    await store.attach(replace(SHELF, operations=(*SHELF.operations, clear, copy)))
    await asyncio.gather(*(store.write(PUT, key=f"{n}", value=n % 3) for n in range(5)))
    copied = await asyncio.gather(*(store.write(copy, value=n) for n in (0, 7, 2)))
    assert [(result.rows, result.count) for result in copied] == [((), 2), ((), 0), ((), 1)]
    cleared = await asyncio.gather(*(store.write(clear, value=n) for n in (7, 0)))
    assert [(result.rows, result.count) for result in cleared] == [((), 0), ((), 2)]
    nested = "WITH gone AS (DELETE FROM sandbox_shelf WHERE ns = :ns RETURNING key) SELECT key FROM gone ORDER BY key"
    with pytest.raises(StoreOperationError, match="must be at the top level"):
        await store.attach(replace(SHELF, operations=(*SHELF.operations, Operation("shelf.nested", nested))))


# ------------------------------------------------------------------ locks


async def test_a_write_that_a_lock_holds_up_lets_the_others_pass(store: Store, other: Any) -> None:
    await put(store, "a", "b")
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE sandbox_shelf SET value = 5 WHERE key = 'a'")
    held = asyncio.create_task(store.write(ADD, key="a", value=1))
    assert await asyncio.wait_for(put(store, *"cdefgh"), 1.5)
    assert (await store.write(ADD, key="b", value=1)).rows == ({"value": 2},)
    assert not held.done()
    await transaction.commit()
    assert (await held).rows == ({"value": 6},)


async def test_a_lock_that_is_not_given_back_is_busy(store: Store, other: Any) -> None:
    await put(store, "a")
    async with other.transaction():
        await other.execute("UPDATE sandbox_shelf SET value = 5 WHERE key = 'a'")
        with pytest.raises(StoreBusyError, match="lock timeout"):
            await store.write(ADD, key="a", value=1)
        assert await store.read(GET, key="a") == ({"value": 1},)


async def test_scripts_wait_for_each_other_and_then_say_busy(url: str, store: Store, other: Any) -> None:
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", _SCRIPT_LOCK)
        with pytest.raises(StoreBusyError):
            await store.info()


async def test_stores_that_write_the_same_rows_crosswise_all_come_through(url: str, store: Store) -> None:
    await put(store, "a", "b")

    async def add(own: Store, first: str, second: str) -> None:
        for _ in range(5):
            await own.write_all(ADD(key=first, value=1), ADD(key=second, value=1))

    deadlocks_end = StoreSettings(busy_seconds=5)  # of two, PostgreSQL ends one after a second
    async with open_store(url, settings=deadlocks_end) as one, open_store(url, settings=deadlocks_end) as another:
        await one.attach(SHELF)
        await another.attach(SHELF)
        await asyncio.gather(add(one, "a", "b"), add(another, "b", "a"), add(one, "b", "a"))
    assert await store.read(LIST) == ({"key": "a", "value": 16}, {"key": "b", "value": 16})


async def test_a_table_that_changed_its_shape_is_read_all_the_same(store: Store, other: Any) -> None:
    await put(store, "a")
    await store.read(GET, key="a")
    await store.write(ADD, key="a", value=1)
    await other.execute("ALTER TABLE sandbox_shelf ALTER COLUMN value TYPE integer")
    assert (await store.write(ADD, key="a", value=1)).count == 1


# ------------------------------------------------------------------ broken connections


async def cut(other: Any) -> None:
    """End every session but one's own, as a restart or a broken network does."""
    await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                        "AND datname = current_database() AND backend_type = 'client backend'")  # fmt: skip


async def test_broken_connections_are_made_anew(store: Store, other: Any) -> None:
    for number in range(3):
        assert (await store.write(PUT, key=f"k{number}", value=1)).count == 1
        assert len(await store.read(LIST)) == number + 1
        await cut(other)


async def test_news_comes_again_after_a_broken_connection(store: Store, other: Any) -> None:
    seen = await store.wait_for("shelf", timeout_seconds=5)
    waiting = asyncio.create_task(store.wait_for("shelf", since=seen, timeout_seconds=30))
    await asyncio.sleep(0.05)
    await cut(other)
    seen = await waiting  # woken, to look
    waiting = asyncio.create_task(store.wait_for("shelf", since=seen, timeout_seconds=30))
    await asyncio.sleep(0.2)
    await put(store, "a")
    assert await waiting != seen


async def test_news_of_other_stores_comes_once_per_group(url: str, store: Store) -> None:
    seen = await store.wait_for("shelf", timeout_seconds=5)
    async with open_store(url) as another:
        await another.attach(SHELF)
        await put(another, *(f"k{n}" for n in range(50)))
        told = await store.wait_for("shelf", since=seen, timeout_seconds=5)
    assert told == seen + 1


class Cutting:
    """A connection that breaks at a certain command: before the server gets it, or after it has obeyed."""

    def __init__(self, connection: Any, command: str, *, after: bool) -> None:
        self._connection = connection
        self._command = command
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, sql: str, *values: object) -> Any:
        if not sql.endswith(self._command):
            return await self._connection.execute(sql, *values)
        if self._after:
            await self._connection.execute(sql, *values)
        self._connection.terminate()
        raise ConnectionResetError("the wire was cut")

    async def fetchmany(self, sql: str, values: object) -> Any:
        if self._command == "CALL":
            self._connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("the wire was cut")
        return await self._connection.fetchmany(sql, values)


def cut_next(store: Store, command: str, *, after: bool = False, reader: bool = False) -> None:
    opened = store._engine._opened
    link = (opened._reader if reader else opened._writer)._link
    link._connection = Cutting(link._connection, command, after=after)


@pytest.mark.parametrize(
    ("command", "after"), [("seen_at", False), ("CALL", False), ("COMMIT", False), ("COMMIT", True)]
)
async def test_a_group_cut_off_anywhere_is_written_exactly_once(store: Store, command: str, after: bool) -> None:
    await store.write(PUT, key="sum", value=0)
    cut_next(store, command, after=after)
    results = await asyncio.gather(*(store.write(ADD, key="sum", value=1) for _ in range(5)))
    assert sorted(result.rows[0]["value"] for result in results) == [1, 2, 3, 4, 5]
    assert await store.read(GET, key="sum") == ({"value": 5},)


class ForgetsToAsk(Writer):
    """Takes every commit that was cut off for one that failed."""

    async def _has_come_through(self, until: float, cause: Exception) -> bool:
        return False


class BelievesInLuck(Writer):
    """Takes every commit that was cut off for one that came through."""

    async def _has_come_through(self, until: float, cause: Exception) -> bool:
        return True


@pytest.mark.parametrize(("broken", "after", "value"), [(ForgetsToAsk, True, 2), (BelievesInLuck, False, 0)])
async def test_a_writer_that_guesses_is_caught(store: Store, broken: type[Writer], after: bool, value: int) -> None:
    await store.write(PUT, key="sum", value=0)
    store._engine._opened._writer.__class__ = broken
    cut_next(store, "COMMIT", after=after)
    await store.write(ADD, key="sum", value=1)
    assert await store.read(GET, key="sum") == ({"value": value},)


async def test_a_commit_is_waited_for_that_the_server_still_works_on(url: str, other: Any) -> None:
    """The old session holds the row of our number: the question waits for its end instead of guessing."""
    async with open_store(url, settings=StoreSettings(busy_seconds=0.1, reconnect_seconds=20)) as store:
        await store.attach(SHELF)
        writer = store._engine._opened._writer
        await put(store, "a")
        async with other.transaction():
            await other.execute("UPDATE sandbox_writers SET number = number + 1 WHERE id = $1", writer._id)
            writer._number += 1
            asking = asyncio.create_task(writer._has_come_through(asyncio.get_running_loop().time() + 20, OSError()))
            await asyncio.sleep(0.4)
            assert not asking.done()
        assert await asking


async def test_a_session_that_the_server_takes_for_alive_is_ended(store: Store, other: Any) -> None:
    """Our end of the wire is gone, and the transaction there would hold its locks for a minute."""
    await put(store, "a")
    link = store._engine._opened._writer._link
    lost = link._connection
    await lost.execute("BEGIN; UPDATE sandbox_shelf SET value = 9 WHERE key = 'a'")
    link._connection = None
    assert (await store.write(ADD, key="a", value=1)).rows == ({"value": 2},)
    lost.terminate()


async def test_a_group_that_cannot_be_rolled_back_harms_nobody(store: Store) -> None:
    await put(store, "a")
    cut_next(store, "ROLLBACK")
    outcomes = await put(store, "a", "b")
    assert [type(outcome).__name__ for outcome in outcomes] == ["StoreConflictError", "Result"]


async def test_a_read_that_is_cut_off_is_made_again(store: Store) -> None:
    await put(store, "a")
    await keys(store)
    cut_next(store, "CALL", reader=True)
    assert await keys(store) == ["a"]


async def test_a_connection_that_does_not_say_goodbye_is_hung_up(url: str) -> None:
    class Silent(Cutting):
        async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109
            raise TimeoutError

    store = open_store(url)
    await store.open()
    link = store._engine._opened._writer._link
    connection = link._connection
    link._connection = Silent(connection, "DELETE FROM sandbox_writers WHERE id = $1", after=False)
    await store.close()
    assert connection.is_closed()

    store = open_store(url)
    await store.open()
    link = store._engine._opened._writer._link
    connection = link._connection
    link._connection = Silent(connection, "nothing", after=False)
    await store.close()
    assert connection.is_closed()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.DiskFullError, StoreUnavailableError),
        (asyncpg.ReadOnlySQLTransactionError, StoreUnavailableError),
        (asyncpg.QueryCanceledError, StoreBusyError),
        (asyncpg.CheckViolationError, StoreConflictError),
        (asyncpg.UndefinedColumnError, StoreOperationError),
        (ConnectionResetError, StoreUnavailableError),
    ],
)
def test_errors_of_the_server_have_our_names(error: type[Exception], kind: type[Exception]) -> None:
    assert type(translate(error("so it is"), "shelf.put")) is kind


FORKED = """
import asyncio, gc, os, sys, warnings
from shelf import LIST, PUT, SHELF
from asyncsandbox._core.store import open_store

async def child(store):
    for number, use in enumerate([store.write(PUT, key="b", value=1), store.read(LIST), store.info(), store.now()]):
        if number == 3:
            await store.close()
            gc.collect()  # what nobody holds any more would hang up on the parent's server
        try:
            await use
        except Exception as error:
            print(type(error).__name__, "in each process" in str(error))

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.attach(SHELF)
        await store.write(PUT, key="a", value=1)
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            asyncio.run(child(store))
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        print([row["key"] for row in await store.read(LIST)])

warnings.simplefilter("ignore")
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_store_is_not_used_across_a_fork(url: str) -> None:
    assert children.run(FORKED, url).splitlines() == ["LifecycleError True"] * 4 + ["['a']"]


async def test_a_server_that_stays_away_is_told(url: str) -> None:
    async with open_store(url, settings=HASTY) as store:
        await store.attach(SHELF)
        await put(store, "a")
        writer, reader = store._engine._opened._writer._link, store._engine._opened._reader._link
        await keys(store)
        for link in (writer, reader):
            link._url = "postgresql://127.0.0.1:1/nowhere"
        cut_next(store, "COMMIT", after=True)
        with pytest.raises(StoreOutcomeUnknownError, match="wire was cut"):
            await store.write(PUT, key="b", value=1)
        with pytest.raises(StoreUnavailableError, match="no connection"):
            await store.write(PUT, key="c", value=1)
        cut_next(store, "CALL", reader=True)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await keys(store)
        for link in (writer, reader):
            link._url = url
        assert await keys(store) == ["a", "b"]
        await put(store, "c")
        for command in ("CALL", "seen_at"):
            cut_next(store, command)
            (outcome,) = await put(store, "lost")
            assert isinstance(outcome, StoreUnavailableError)
            await put(store, command)
        assert await keys(store) == ["CALL", "a", "b", "c", "seen_at"]


async def test_waiting_for_news_without_a_server_lasts_its_time(store: Store) -> None:
    store._engine._opened.listener._link._url = "postgresql://127.0.0.1:1/nowhere"
    assert await store.wait_for("shelf", since=0, timeout_seconds=0.1) == 0


async def test_a_value_that_no_column_takes_is_the_operations_fault_and_nobody_elses(store: Store) -> None:
    writes = [store.write(SET, key="a", value=1), store.write(SET, key="b", value="many"), store.write(BAD, value=1)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Result", "StoreOperationError", "StoreConflictError"]
    reads = [store.read(GET, key="a"), store.read(GET, key=7), store.read(GET, key="b")]
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["tuple", "StoreOperationError", "tuple"]
    assert (await store.write(SWAP, key="a", was=1, value=2)).count == 1


async def test_a_group_whose_task_is_cancelled_is_unknown_and_the_store_goes_on(store: Store, other: Any) -> None:
    async with other.transaction():
        await other.execute("LOCK TABLE sandbox_shelf")
        writing = asyncio.create_task(store.write(PUT, key="a", value=1))
        reading = asyncio.create_task(store.read(LIST))
        await asyncio.sleep(0.03)
        for task in asyncio.all_tasks():
            if task.get_name() == "store:group":
                task.cancel()
        with pytest.raises(StoreOutcomeUnknownError):
            await writing
        with pytest.raises(StoreOutcomeUnknownError):
            await reading
    await put(store, "b")
    assert "b" in await keys(store)


# ------------------------------------------------------------------ a server of its own


@pytest.fixture
def cluster() -> Generator[Cluster]:
    own = start_cluster()
    yield own
    end_cluster(own)


async def test_a_server_without_room_says_so(cluster: Cluster) -> None:
    async with open_store(cluster.url, settings=HASTY) as store:
        await store.attach(SHELF)
        taken: list[Any] = []
        with suppress(asyncpg.PostgresError):
            while True:
                taken.append(await asyncpg.connect(cluster.url))
        try:
            with pytest.raises(StoreOpenError, match="max_connections"):
                await open_store(cluster.url).open()
            with pytest.raises(StoreOpenError, match="max_connections"):
                await store.info()  # which needs one more
            await store.write(PUT, key="a", value=1)
        finally:
            await asyncio.gather(*(connection.close() for connection in taken))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_restart_in_mid_flight_loses_nothing_and_doubles_nothing(cluster: Cluster, how: signal.Signals) -> None:
    async with open_store(cluster.url, settings=PATIENT) as store:
        await store.attach(SHELF)
        await store.write(PUT, key="sum", value=0)
        acknowledged = 0
        ending = asyncio.Event()

        async def add() -> None:
            nonlocal acknowledged
            while not ending.is_set():
                result = await store.write(ADD, key="sum", value=1)
                acknowledged += result.count

        adding = [asyncio.create_task(add()) for _ in range(20)]
        for _ in range(2):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(cluster.stop, how)
            await asyncio.to_thread(cluster.start)
        await asyncio.gather(*(store.write(ADD, key="sum", value=0) for _ in range(5)))
        await asyncio.sleep(0.1)
        ending.set()
        await asyncio.gather(*adding)
        assert await store.read(GET, key="sum") == ({"value": acknowledged},)


async def test_a_connection_that_breaks_while_it_is_made_is_hung_up(
    url: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncsandbox._core.store.postgres_link._THIS_SESSION", "SELECT nonsense")
    with pytest.raises(StoreOpenError, match="nonsense"):
        await open_store(f"{url}&application_name=broken").open()
    theirs = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'broken'"
    async with asyncio.timeout(5):
        while await other.fetchval(theirs):  # noqa: ASYNC110 - the server gives no sign
            await asyncio.sleep(0.01)


async def test_wrong_settings_of_the_url_are_told(url: str) -> None:
    with pytest.raises(StoreOpenError):
        await open_store(f"{url}&no_such_setting=1").open()


def test_a_simulation_refuses_it() -> None:
    async def test(_sim: Simulation) -> None:
        async with open_store("postgresql://postgres@127.0.0.1/postgres"):
            pass

    with pytest.raises(EscapedError, match="give the app a store in memory or in a file"):
        raise run_once(test, Scenario(), {}).error or AssertionError
