"""`asyncsandbox store`: what it says, and that what is no store, or not ours, is left as it is."""

import asyncio
import json
import os
import pty
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import children
import pytest
from postgres import with_schema
from shelf import ENQUEUE, JOBS, KEEP, PUT, SHELF

from asyncsandbox._core.store import Store, open_store
from asyncsandbox.cli import run

OLD_SHELF = replace(SHELF, migrations=SHELF.migrations[:1], tables=SHELF.tables[:1], operations=(PUT,), prune=None)


@pytest.fixture(autouse=True)
def schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, SHELF)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    return "store.sqlite" if request.param == "sqlite" else with_schema(request.getfixturevalue("postgres_url"))


def know(monkeypatch: pytest.MonkeyPatch, *schemas: object) -> None:
    monkeypatch.setattr("asyncsandbox.cli.store.get_schemas", lambda: schemas)


def fill(url: str, *schemas: object, work: Callable[[Store], object] | None = None) -> None:
    async def main() -> None:
        async with open_store(url) as store:
            await store.attach(*schemas)
            if work is not None:
                await work(store)

    asyncio.run(main())


async def put_some(store: Store) -> None:
    for number in range(3):
        await store.write(PUT, key=f"{number}", value=1)
    await store.write(KEEP, key="a", whole=0, part=0.0, text="", raw=b"")
    await store.within("other").write(PUT, key="0", value=1)


# ------------------------------------------------------------------ info


def test_info_shows_what_a_store_holds(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url, SHELF, work=put_some)
    assert run(["store", "info", url]) == 0
    out = capsys.readouterr().out
    assert re.match(
        r"store +(store\.sqlite|postgresql://\S+)\nengine (SQLite|PostgreSQL) \d+\.\S*\nsize   [\d.]+ KiB\n", out
    )
    rows = out.split("\n\n")[1].splitlines()
    assert [row.split() for row in rows] == [
        ["schema", "version", "table", "rows"],
        ["shelf", "2", "sandbox_shelf", "4"],
        ["sandbox_kept", "1"],
    ]
    assert "\x1b" not in out


def test_info_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url, SHELF, work=put_some)
    assert run(["store", "info", url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"engine", "version", "location", "schemas", "size_bytes"}
    assert said["schemas"] == [
        {
            "name": "shelf",
            "version": 2,
            "tables": [{"name": "sandbox_shelf", "rows": 4}, {"name": "sandbox_kept", "rows": 1}],
        }
    ]


@pytest.mark.parametrize(
    ("stored", "known", "shown"),
    [
        (OLD_SHELF, SHELF, "1 (migrate to 2)"),
        (SHELF, OLD_SHELF, "2 (newer than this program's 1)"),
        (JOBS, SHELF, "1 (unknown here)"),
        (replace(JOBS, tables=()), JOBS, "1        -"),
    ],
)
def test_info_tells_what_this_program_knows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored, known, shown: str
) -> None:
    fill("store.sqlite", stored)
    know(monkeypatch, known)
    assert run(["store", "info", "store.sqlite"]) == 0
    assert shown in capsys.readouterr().out


def test_an_empty_store_holds_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill("store.sqlite")
    assert run(["store", "info", "store.sqlite"]) == 0
    assert capsys.readouterr().out.endswith("It holds nothing yet.\n")


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**41, "2,048.0 GiB")],
)
def test_sizes_are_readable(size: int, shown: str) -> None:
    from asyncsandbox.cli.store import _size

    assert _size(size) == shown


def test_a_name_from_elsewhere_cannot_act_on_the_screen_or_on_the_database(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill("store.sqlite", SHELF)
    with closing(sqlite3.connect("store.sqlite")) as other, other:
        other.execute("INSERT INTO sandbox_schemas VALUES ('a\x1b[31m', 1, 'sandbox_shelf, x')")
    assert run(["store", "info", "store.sqlite"]) == 0
    assert "a\\x1b[31m" in capsys.readouterr().out


def test_a_terminal_gets_a_table_with_lines(folder: Path) -> None:
    fill("store.sqlite", SHELF)
    code = "import sys; from asyncsandbox.cli import run; sys.exit(run(['store', 'info', 'store.sqlite']))"
    pid, terminal = pty.fork()
    if not pid:
        os.environ.pop("NO_COLOR", None)
        os.execve(sys.executable, [sys.executable, "-c", code], {**os.environ, "TERM": "xterm"})
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # Linux says so when the other side has closed
        pass
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    assert "───" in shown.decode()
    assert b"\x1b[1m" in shown


# ------------------------------------------------------------------ migrate


def test_migrate_makes_a_store_and_brings_an_old_one_up_to_date(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    know(monkeypatch, OLD_SHELF)
    assert run(["store", "migrate", url]) == 0
    assert capsys.readouterr().out == "shelf: made\n"
    know(monkeypatch, SHELF, JOBS)
    assert run(["store", "migrate", url]) == 0
    assert capsys.readouterr().out == "shelf: from version 1 to 2\ntestjobs: made\n"
    assert run(["store", "migrate", url]) == 0
    assert capsys.readouterr().out == "every schema is in its newest version; nothing was changed\n"


def test_migrate_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "migrate", "store.sqlite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "shelf", "before": 0, "after": 2}]


# ------------------------------------------------------------------ prune


def test_prune_says_how_many_rows_went(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url, SHELF, work=put_some)
    know(monkeypatch, SHELF, JOBS)  # of which the store holds one
    assert run(["store", "prune", url, "--older-than", "30d"]) == 0
    assert capsys.readouterr().out == "shelf: 0 rows deleted\n"
    assert run(["store", "prune", url, "--older-than", "0s"]) == 0
    assert capsys.readouterr().out == "shelf: 1 row deleted\n"
    assert run(["store", "prune", url, "--older-than", "0s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shelf": 0}


def test_prune_has_nothing_to_do_where_no_schema_lets_rows_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill("store.sqlite", JOBS, work=lambda store: store.write(ENQUEUE, id="a"))
    know(monkeypatch, JOBS)
    assert run(["store", "prune", "store.sqlite", "--older-than", "0s"]) == 0
    assert capsys.readouterr().out == "no schema in this store has rows that may go; nothing was changed\n"


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1 d", "30days", "1e3s"])
def test_an_age_without_a_unit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], age: str) -> None:
    assert run(["store", "prune", "store.sqlite", "--older-than", age]) == 2
    assert "12h, 30d" in capsys.readouterr().err or age.startswith("-")


# ------------------------------------------------------------------ what is refused


COMMANDS = [["info"], ["migrate"], ["prune", "--older-than", "1d"]]


def refused(capsys: pytest.CaptureFixture[str], command: list[str], place: str) -> str:
    """Return the one line that a refused command says."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert run(["store", command[0], place, *command[1:]]) == 1
    out, err = capsys.readouterr()
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert out == ""
    assert re.fullmatch(r"asyncsandbox: [^\n]+\n", err)
    return err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
class TestRefused:
    def test_a_url_of_another_kind(self, folder: Path, capsys, command: list[str]) -> None:
        said = refused(capsys, command, "mysql://me:secret@db/shop")
        assert "mysql://db/shop" in said
        assert "give the path of an SQLite file" in said

    def test_a_store_in_memory(self, folder: Path, capsys, command: list[str]) -> None:
        assert "ends with its program" in refused(capsys, command, ":memory:")

    def test_the_apps_own_file(self, folder: Path, capsys, command: list[str]) -> None:
        with closing(sqlite3.connect("app.sqlite")) as theirs:
            theirs.execute("CREATE TABLE customers (name TEXT)")
        assert "another program's database" in refused(capsys, command, "app.sqlite")

    def test_what_is_no_database(self, folder: Path, capsys, command: list[str]) -> None:
        Path("notes.txt").write_text("notes " * 100)
        assert "no SQLite database; it was left as it is" in refused(capsys, command, "notes.txt")

    def test_a_missing_driver(self, folder: Path, capsys, monkeypatch, command: list[str]) -> None:
        monkeypatch.setitem(sys.modules, "asyncpg", None)
        assert "pip install 'asyncsandbox[postgres]'" in refused(capsys, command, "postgresql://db/shop")

    def test_a_server_that_is_not_there(self, folder: Path, capsys, command: list[str]) -> None:
        said = refused(capsys, command, "postgresql://me:secret@127.0.0.1:1/shop")
        assert "cannot be reached" in said
        assert "secret" not in said


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_a_store_that_is_newer_is_left_alone(url: str, capsys, monkeypatch, command: list[str]) -> None:
    fill(url, SHELF, work=put_some)
    know(monkeypatch, OLD_SHELF)
    assert run(["store", command[0], url, *command[1:]]) == 1
    assert "schema 'shelf' in version 2, this program in 1: upgrade the program" in capsys.readouterr().err


def test_a_store_that_is_older_is_pruned_only_after_migration(folder: Path, capsys, monkeypatch) -> None:
    fill("store.sqlite", OLD_SHELF)
    assert "asyncsandbox store migrate" in refused(capsys, COMMANDS[2], "store.sqlite")


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[2]], ids=lambda command: command[0])
def test_a_store_that_is_not_there_is_not_made(url: str, capsys, command: list[str]) -> None:
    assert "there is no store; check the" in refused(capsys, command, url)
    assert "there is no store; check the" in refused(capsys, command, url)
    if "://" not in url:
        Path(url).touch()
        assert "there is no store; check the path" in refused(capsys, command, url)


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    code = "import sys, asyncsandbox.cli.commands; print({'asyncpg', 'rich.table'} & set(sys.modules))"
    assert children.run(code) == "set()\n"
