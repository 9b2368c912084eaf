"""The store in a file: what goes wrong with files and processes, and what it says then."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import children
import pytest
from shelf import GET, JOBS, KEEP, KEPT, LIST, PUT, SHELF

from asyncsandbox._core.store import Store, StoreSettings, open_store
from asyncsandbox._core.store.lane import Lane, Unit
from asyncsandbox._core.store.sqlite_connection import SqliteConnection
from asyncsandbox._core.store.sqlite_file import filesystem_of
from asyncsandbox.errors import (
    LifecycleError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOpenError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with open_store(path, settings=StoreSettings(busy_seconds=0.1)) as opened:
        await opened.attach(SHELF)
        yield opened


def open_and_close(path: Path) -> None:
    async def main() -> None:
        async with open_store(path) as store:
            await store.attach(SHELF)

    asyncio.run(main())


def refuse(path: Path, why: str) -> None:
    with pytest.raises(StoreOpenError, match=why) as caught:
        asyncio.run(open_store(path).open())
    assert caught.value.store == str(path)


# ------------------------------------------------------------------ opening


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_programs_database_is_left_as_it_is(path: Path, journal: str) -> None:
    theirs = sqlite3.connect(path)
    theirs.execute(f"PRAGMA journal_mode = {journal}")
    theirs.execute("CREATE TABLE customers (name TEXT)")
    theirs.commit()
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    refuse(path, "another program's database")
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    theirs.close()


def test_what_is_no_database_is_left_as_it_is(path: Path) -> None:
    path.write_text("notes " * 100)
    refuse(path, "no SQLite database")
    assert path.read_text() == "notes " * 100


def test_a_damaged_store_is_refused_and_kept(path: Path) -> None:
    open_and_close(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))
    damaged = path.read_bytes()
    refuse(path, "put a backup in its place, or move it away")
    assert path.read_bytes() == damaged


def test_damage_that_comes_to_light_later_says_so(path: Path) -> None:
    keys = [f"{number:03}" for number in range(100)]

    async def fill() -> None:
        async with open_store(path) as store:
            await store.attach(SHELF)
            for key in keys:
                await store.write(KEEP, key=key, whole=0, part=0.0, text="x" * 1000, raw=b"")

    async def find() -> list[str]:
        async with open_store(path) as store:
            await store.attach(SHELF)
            found = await asyncio.gather(*(store.read(KEPT, key=key) for key in keys), return_exceptions=True)
        return [str(each) for each in found if isinstance(each, StoreUnavailableError)]

    asyncio.run(fill())
    whole = bytearray(path.read_bytes())
    whole[4096 * 8 :] = b"\xa5" * (len(whole) - 4096 * 8)
    path.write_bytes(whole)
    said = asyncio.run(find())
    assert said
    assert "kept as it is: put a backup" in said[0]
    assert path.read_bytes() == whole


def test_a_place_that_cannot_be_is_refused(path: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "no" / "such" / "store.sqlite", "folder cannot be used")
    refuse(tmp_path, "not a regular file")
    refuse(Path("/proc/store.sqlite"), "SQLite cannot open it")
    assert not path.exists()


def test_a_folder_is_made_where_only_it_is_missing(tmp_path: Path) -> None:
    open_and_close(tmp_path / ".asyncsandbox" / "store.sqlite")
    assert (tmp_path / ".asyncsandbox" / "store.sqlite").exists()


def run(code: str, *arguments: object, expect: int = 0) -> str:
    """Run a program in a process of its own and return what it prints."""
    header = "import asyncio, os, sys\nfrom shelf import *\nfrom asyncsandbox._core.store import *\n"
    return children.run(header + code, *arguments, expect=expect)


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Do without root's permission to write everything."""
    if os.geteuid() != 0:
        yield
        return
    closed = [each for each in folder.parents if each.stat().st_uid == 0 and each.stat().st_mode & 0o777 == 0o700]
    for each in closed:
        each.chmod(0o711)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for each in closed:
            each.chmod(0o700)


@pytest.mark.parametrize(("file", "folder", "what"), [(0o444, 0o777, "write it"), (0o666, 0o555, "its folder, where")])
def test_a_read_only_place_says_so(path: Path, file: int, folder: int, what: str) -> None:
    open_and_close(path)
    path.chmod(file)
    path.parent.chmod(folder)
    with unprivileged(path.parent):
        refuse(path, f"you may not {'' if what.startswith('write') else 'write '}{what}")


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("/home/ada/store", "ext4"),
        ("/mnt/share/a b/store", "nfs4"),
        ("/mnt/share2/store", "ext4"),
        ("/over/store", "cifs"),
        ("nowhere", ""),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_longest_mount(where: str, kind: str) -> None:
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\nsrv:/x /mnt/share/a\\040b nfs4 rw 0 0\nbroken\n"
        "tmpfs /over tmpfs rw 0 0\n//srv/x /over cifs rw 0 0\n"
    )
    assert filesystem_of(Path(where), mounts) == kind


def test_a_network_file_system_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nsrv:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr("asyncsandbox._core.store.sqlite_file._MOUNTS", mounts)
    refuse(path, r"network file system \(nfs4\)")
    monkeypatch.setattr("asyncsandbox._core.store.sqlite_file._MOUNTS", tmp_path / "not there")
    open_and_close(path)


async def test_an_open_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    opening = asyncio.create_task(open_store(path).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.close()


async def test_a_store_writes_ahead_and_waits_for_the_disk(store: Store) -> None:
    writer = store._engine._opened.writer._connection

    def ask(pragma: str) -> object:
        return store._engine._opened.threads[0].submit(writer.execute, f"PRAGMA {pragma}").result().fetchone()[0]

    assert (ask("journal_mode"), ask("synchronous"), ask("application_id")) == ("wal", 2, 0x53424F58)


# ------------------------------------------------------------------ the disk is full


async def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(store: Store) -> None:
    engine = store._engine._opened
    connection = engine.writer._connection

    def allow(pages: int) -> None:
        engine.threads[0].submit(connection.execute, f"PRAGMA max_page_count = {pages}").result().fetchall()

    (pages,) = engine.threads[0].submit(connection.execute, "PRAGMA page_count").result().fetchone()
    allow(pages + 20)
    big = {"whole": 0, "part": 0.0, "text": "x" * 200_000, "raw": b""}
    small = {**big, "text": "x"}
    outcomes = await asyncio.gather(
        *(store.write(KEEP, key=f"{n}", **(big if n == 5 else small)) for n in range(10)), return_exceptions=True
    )
    (failed,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == 5
    with pytest.raises(StoreUnavailableError, match=r"full.*nothing was written"):
        await store.write(KEEP, key="again", **big)
    assert [schema.rows for schema in (await store.info()).schemas] == [9]
    allow(10_000)
    await store.write(KEEP, key="again", **big)


class GivesUp(SqliteConnection):
    """Meets an error upon which SQLite undoes the whole transaction, whenever a certain key is written."""

    fatal = "poison"
    at_commit: str | None = None

    def _execute(self, bound: object) -> object:
        result = super()._execute(bound)
        if bound.params.get("key") == self.fatal:
            self._connection.execute("ROLLBACK")
            raise make_error("disk I/O error", sqlite3.SQLITE_FULL)
        return result


def make_error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


async def test_a_group_that_sqlite_gave_up_is_tried_again_without_who_is_to_blame(store: Store) -> None:
    store._engine._opened.writer.__class__ = GivesUp
    outcomes = await asyncio.gather(
        *(store.write(PUT, key=key, value=1) for key in ("a", "b", "poison", "c", "d")), return_exceptions=True
    )
    assert [isinstance(outcome, StoreUnavailableError) for outcome in outcomes] == [False, False, True, False, False]
    assert [row["key"] for row in await store.read(LIST)] == ["a", "b", "c", "d"]


class FailsToCommit(SqliteConnection):
    """Whose commits fail."""

    code = sqlite3.SQLITE_IOERR

    def write_group(self, group: list[Unit]) -> None:
        real, self._connection = self._connection, self
        try:
            super().write_group(group)
        finally:
            self._connection = real

    def execute(self, sql: str, *params: object) -> object:
        if sql == "COMMIT":
            raise make_error("disk I/O error", self.code)
        return REAL[id(self)].execute(sql, *params)

    @property
    def in_transaction(self) -> bool:
        return REAL[id(self)].in_transaction


REAL: dict[int, sqlite3.Connection] = {}


async def test_a_commit_that_fails_on_the_disk_is_unknown_and_any_other_is_not(store: Store) -> None:
    writer = store._engine._opened.writer
    REAL[id(writer)] = writer._connection
    writer.__class__ = FailsToCommit
    with pytest.raises(StoreOutcomeUnknownError, match="read the row"):
        await store.write(PUT, key="a", value=1)
    writer.code = sqlite3.SQLITE_FULL
    outcomes = await asyncio.gather(*(store.write(PUT, key=key, value=1) for key in "abc"), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
    writer.__class__ = SqliteConnection
    assert await store.read(LIST) == ()


LIMITED = """
import resource, signal

def allow(bytes_per_file):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, resource.RLIM_INFINITY))

async def keep(store, *keys):
    writes = (store.write(KEEP, key=key, whole=0, part=0.0, text="x" * 3000, raw=b"") for key in keys)
    return [isinstance(each, Result) or str(each) for each in await asyncio.gather(*writes, return_exceptions=True)]

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.attach(SHELF)
        allow(200_000)
        print(*await keep(store, *"abc"))
        print(*set(await keep(store, *(f"{number}" for number in range(90)))))
        allow(resource.RLIM_INFINITY)
        print(*await keep(store, "z"), *[row["rows"] for row in await store.read(MANY)])

MANY = Operation("shelf.many", "SELECT count(*) AS rows FROM sandbox_kept")
SHELF = __import__("dataclasses").replace(SHELF, operations=(*SHELF.operations, MANY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the system refuses the write instead
asyncio.run(main())
"""


def test_a_log_that_the_system_lets_grow_no_further_loses_nothing_and_works_again(path: Path) -> None:
    told, failed, after = run(LIMITED, path).splitlines()
    assert told == "True True True"
    assert "is UNKNOWN (disk I/O error)" in failed  # what an error of the disk left behind, only reading tells
    assert after == "True 4"


# ------------------------------------------------------------------ other processes


def test_a_file_that_another_process_locks_is_busy_until_that_ends(path: Path) -> None:
    open_and_close(path)
    code = "import sqlite3, sys; it = sqlite3.connect(sys.argv[1]); it.execute('BEGIN IMMEDIATE'); print(1, flush=True)"
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(StoreBusyError):
            asyncio.run(open_store(path, settings=StoreSettings(busy_seconds=0.05)).open())
        other.kill()
    open_and_close(path)


async def test_a_file_that_is_locked_is_waited_for_and_then_busy(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(*(store.write(PUT, key=key, value=1) for key in "ab"), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreBusyError}
    assert "busy_seconds" in str(outcomes[0])
    assert await store.read(LIST) == ()
    ending = threading.Timer(0.03, other.rollback)
    ending.start()
    assert (await store.write(PUT, key="a", value=1)).count == 1
    ending.join()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        await store.migrate(SHELF)
    other.close()


def test_opening_a_locked_file_is_busy(path: Path) -> None:
    open_and_close(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusyError):
        asyncio.run(open_store(path, settings=StoreSettings(busy_seconds=0.05)).open())
    other.close()


def test_the_switch_to_wal_is_waited_for(path: Path) -> None:
    open_and_close(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN")
    other.execute("SELECT * FROM sandbox_schemas").fetchall()
    ending = threading.Timer(0.5, other.rollback)
    ending.start()
    open_and_close(path)
    assert other.execute("SELECT count(*) FROM sandbox_schemas").fetchone() == (1,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ending.join()
    other.close()


def test_a_switch_to_wal_that_nobody_lets_happen_is_busy(path: Path) -> None:
    open_and_close(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN")
        other.execute("SELECT * FROM sandbox_schemas").fetchall()
        with pytest.raises(StoreBusyError):
            asyncio.run(open_store(path, settings=StoreSettings(busy_seconds=0.05)).open())


def test_a_database_that_appears_while_we_open_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE customers (name TEXT)")
    before = path.read_bytes()
    monkeypatch.setattr("asyncsandbox._core.store.sqlite_file._refuse_foreign", lambda path, shown: None)
    refuse(path, "another program's database")
    assert path.read_bytes() == before


async def test_attaching_that_is_cancelled_ends_first(store: Store) -> None:
    attaching = asyncio.create_task(store.migrate(JOBS))
    await asyncio.sleep(0)
    attaching.cancel()
    await asyncio.wait([attaching])
    assert attaching.cancelled()
    assert await store.migrate(JOBS) == ()


ADDING = """
async def main():
    async with open_store(sys.argv[1]) as store:
        await store.attach(SHELF)
        await asyncio.gather(*(store.write(ADD, key="sum", value=1) for _ in range(100)))
asyncio.run(main())
"""


async def test_processes_on_one_file_lose_no_update(store: Store, path: Path) -> None:
    await store.write(PUT, key="sum", value=0)
    await asyncio.gather(*(asyncio.to_thread(run, ADDING, path) for _ in range(3)))
    assert await store.read(GET, key="sum") == ({"value": 300},)


FORKED = """
async def child(store):
    for use in (store.write(PUT, key="b", value=1), store.read(LIST), store.migrate(SHELF)):
        try:
            await use
        except Exception as error:
            print(type(error).__name__, "in each process" in str(error))
    await store.close()

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

import warnings
warnings.simplefilter("ignore")  # Python warns of forking beside threads, and rightly
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_store_is_not_used_across_a_fork(path: Path) -> None:
    assert run(FORKED, path).splitlines() == ["LifecycleError True"] * 3 + ["['a']"]


def test_a_store_belongs_to_one_loop(path: Path) -> None:
    with asyncio.Runner() as runner:
        store = open_store(path)
        runner.run(store.open())
        with pytest.raises(LifecycleError, match="on each loop"):
            asyncio.run(use(store))
        runner.run(store.close())


async def use(store: Store) -> None:
    await store.info()


# ------------------------------------------------------------------ the loop ends


def test_writes_of_a_loop_that_ends_are_finished_or_lost_and_hang_nobody(path: Path) -> None:
    async def main() -> Store:
        store = open_store(path)
        await store.open()
        await store.attach(SHELF)
        for number in range(5):
            loop.create_task(swallow(store.write(PUT, key=f"k{number}", value=1)))
        await asyncio.sleep(0)
        return store

    async def swallow(awaitable: object) -> None:
        with suppress(StoreError):
            await awaitable

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        store = runner.run(main())
        runner.run(store.close())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sandbox_shelf").fetchone() == (5,)


def refuse_to_start(future: object) -> None:
    raise RuntimeError("cannot schedule new futures after shutdown")


async def test_a_group_that_ends_without_outcome_is_unknown() -> None:
    def start(group: list[Unit]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        ends.pop()(future)
        return future

    ends: list[Callable[[asyncio.Future[None]], object]] = [
        lambda future: future.cancel(),
        lambda future: future.set_exception(OSError("gone")),
        lambda future: future.set_result(None),
        refuse_to_start,
    ]
    lane = Lane(start, limit=10)
    for cause in (RuntimeError, type(None), OSError, asyncio.CancelledError):
        with pytest.raises(StoreOutcomeUnknownError) as caught:
            await lane.submit((PUT(key="a", value=1),))
        assert isinstance(caught.value.__cause__, cause)


async def test_a_constraint_is_named(store: Store) -> None:
    await store.write(PUT, key="a", value=1)
    with pytest.raises(StoreConflictError, match=r"UNIQUE.*ON CONFLICT"):
        await store.write(PUT, key="a", value=1)
