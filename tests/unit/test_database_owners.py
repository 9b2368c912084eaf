"""Private copies of dead processes are reaped, those of anybody who may live are not."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from database_promises import a_source, on_server
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox.components.database import DatabaseSettings, SandboxDatabaseManager, isolated, owners, postgres

PROJECT = Path(__file__).parents[2]
LIFE = """
import asyncio, sys
from sqlalchemy import text
from asyncsandbox.components.database import DatabaseSettings, SandboxDatabaseManager
async def main():
    settings = DatabaseSettings(isolation=sys.argv[2])
    async with SandboxDatabaseManager(sys.argv[1] or None, settings=settings) as db:
        async with db.get_session() as session:
            await session.execute(text("CREATE TABLE mine (a INTEGER)"))
            await session.commit()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextmanager
def another_process(source="", isolation="auto", folder=None):
    """Give a process that has a private copy and keeps it until it is told or killed."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(folder or "")}
    with subprocess.Popen(
        [sys.executable, "-c", LIFE, source, isolation],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in environment.items() if value},
    ) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            yield child
        finally:
            child.kill()


def kill(child):
    child.send_signal(signal.SIGKILL)
    child.wait()


def our_name():
    return owners.owned_prefix() + "x"


def a_dead_name():
    """Return a name such as a process had that is gone by now."""
    script = "from asyncsandbox.components.database.owners import owned_prefix; print(owned_prefix() + 'x')"
    return subprocess.check_output([sys.executable, "-c", script], text=True, cwd=PROJECT).strip()


# ---------------------------------------------------------------- the proof


def test_a_living_process_has_no_orphans_and_a_dead_one_has_nothing_else():
    assert not owners.is_orphan(our_name())
    assert owners.is_orphan(a_dead_name())


names = st.text() | st.from_regex(r"asyncsandbox_[0-9a-f]{12}_\d{1,12}_\d+_\w+", fullmatch=True)


def leaves_others_alone(name):
    assert not owners.is_orphan(name), "made on another machine, or not by us"


@given(names)
def test_what_was_made_elsewhere_is_no_orphan_whatever_its_name(name):
    leaves_others_alone(name)


def test_a_reaper_that_does_not_ask_where_a_copy_was_made_is_caught(monkeypatch):
    monkeypatch.setattr(owners, "_digest", lambda _place: AnyPlace())
    must_catch(leaves_others_alone, names)


class AnyPlace:
    __hash__ = None

    def __eq__(self, _):
        return True

    def __ne__(self, _):
        return False


def test_a_process_id_that_was_given_to_a_younger_process_proves_the_death():
    prefix, pid, began, rest = our_name().rsplit("_", 3)
    assert owners.is_orphan(f"{prefix}_{pid}_{int(began) - 1}_{rest}")
    assert not owners.is_orphan(f"{prefix}_{pid}_0_{rest}"), "when it began was not known"


# ---------------------------------------------------------------- SQLite's folders


@pytest.fixture
def room(tmp_path, monkeypatch):
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.setattr(isolated, "_RAM_DIRECTORY", folder)
    monkeypatch.setattr(isolated, "_RAM_RESERVE", 0)
    return folder


async def start_and_stop(source=None, isolation="auto"):
    async with SandboxDatabaseManager(source, settings=DatabaseSettings(isolation=isolation)) as db:
        if source is None:
            await db.get_session().connection()


async def test_folders_of_dead_processes_are_deleted_and_no_others(room):
    orphan, ours = room / a_dead_name(), room / our_name()
    others = [room / name for name in ("asyncsandbox_mine", f"x{a_dead_name()}", "asyncsandbox_0123456789ab_1_1_x")]
    for folder in (orphan, ours, *others):
        folder.mkdir()
        (folder / "file").touch()
    (link := room / a_dead_name()).symlink_to(others[0])
    async with SandboxDatabaseManager() as db, db.get_session() as session:
        await session.connection()
    assert not orphan.exists()
    assert all((folder / "file").exists() for folder in (ours, *others))
    assert link.is_symlink()


async def test_a_folder_of_somebody_else_is_left_alone(room, monkeypatch):
    folder = room / a_dead_name()
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    owners.delete_orphans([room])
    assert folder.exists()


def test_a_folder_that_is_gone_by_now_is_no_trouble(tmp_path):
    assert not owners._is_mine(tmp_path / "gone")


def test_what_a_killed_process_left_is_deleted_by_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def copies(child):
        return [folder for place in (tmp_path, Path("/dev/shm")) for folder in place.glob(f"*_{child.pid}_*")]

    with another_process(folder=tmp_path) as killed, another_process(folder=tmp_path) as living:
        kill(killed)
        assert copies(killed)
        asyncio.run(start_and_stop())
        assert not copies(killed)
        assert copies(living), "two processes never reap each other's"
        living.stdin.close()
        assert living.wait() == 0
    assert not copies(living)


# ---------------------------------------------------------------- PostgreSQL's databases and schemas

COPIES = {
    "clone": "SELECT datname FROM pg_database WHERE datname LIKE 'asyncsandbox%'",
    "schema": "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'asyncsandbox%'",
}


async def the_dead_are_reaped_and_the_living_are_not(url, isolation):
    async with a_source(url) as source:

        async def copies():
            return {name for (name,) in await on_server(source, COPIES[isolation])}

        def of(child, names):
            return {name for name in names if f"_{child.pid}_" in name}

        with another_process(source, isolation) as killed, another_process(source, isolation) as living:
            kill(killed)
            left = await copies()
            assert of(killed, left)
            of_the_living = of(living, left)
            assert of_the_living
            await start_and_stop(source, isolation)
            left = await copies()
            assert not of(killed, left), "reaped by the next start"
            assert of(living, left) == of_the_living, "two processes never reap each other's"
            living.stdin.close()
            assert living.wait() == 0
        assert not of(living, await copies())


@pytest.mark.parametrize("isolation", ["clone", "schema"])
async def test_what_a_killed_process_left_on_a_server_is_dropped_and_nothing_else(postgres_url, isolation):
    await the_dead_are_reaped_and_the_living_are_not(postgres_url, isolation)


def test_a_reaper_that_takes_the_living_for_dead_is_caught(postgres_url, monkeypatch):
    monkeypatch.setattr(postgres, "is_orphan", lambda name: name.startswith(owners.PREFIX))
    with pytest.raises(AssertionError, match="never reap each other's"):
        asyncio.run(the_dead_are_reaped_and_the_living_are_not(postgres_url, "schema"))


async def test_an_orphan_to_which_somebody_is_connected_is_left_alone(postgres_url):
    orphan = a_dead_name()
    async with a_source(postgres_url) as source:
        await on_server(postgres_url, f"CREATE DATABASE {orphan}")
        connection = await postgres.driver().connect(f"{postgres_url.rpartition('/')[0]}/{orphan}")
        connected = f"SELECT 1 FROM pg_database WHERE datname = '{orphan}'"
        try:
            # The server waits five seconds for the connection to end, so the reaper is not asked by a start.
            await start_and_stop(source, "schema")
            assert await on_server(postgres_url, connected) == [(1,)]
        finally:
            await connection.close()
        await start_and_stop(source, "clone")
        assert await on_server(postgres_url, connected) == []
