"""A hundred processes killed in the middle of writing: nothing they were told is lost, no unit is torn."""

import asyncio
import os
from pathlib import Path

import children
import pytest
from postgres import with_schema
from shelf import LIST, SHELF

from asyncsandbox._core.store import Row, open_store

KILLS = 100

# Everything is imported once; each life is a fork of that process, before it has any thread or loop.
LIVES = """
import asyncio, os, random, signal, sys
import asyncpg, asyncsandbox._core.store.sqlite
from shelf import PUT, SHELF
from asyncsandbox._core.store import open_store

place, lives, early = sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["early"]

async def live(life, pipe):
    async with open_store(place) as store:
        await store.attach(SHELF)
        async def write(caller):
            for number in range(10_000):
                key = f"{life}-{caller}-{number}"
                if early:
                    os.write(pipe, f"{key}\\n".encode())
                await store.write_all(PUT(key=key, value=1), PUT(key=f"{key}'", value=1))
                if not early:
                    os.write(pipe, f"{key}\\n".encode())
        await asyncio.gather(*map(write, range(8)))

for life in range(lives):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        asyncio.run(live(life, writing))
    os.close(writing)
    told = b""
    while told.count(b"\\n") < random.Random(life).randrange(1, 60):
        told += os.read(reading, 65536)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(reading, 65536):
        told += more
    os.close(reading)
    sys.stdout.write("".join(f"{line}\\n" for line in told.decode().split("\\n")[:-1]))
"""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    return with_schema(request.getfixturevalue("postgres_url"))


def kill(place: str, lives: int, *words: str) -> tuple[set[str], set[str]]:
    """Kill so many lives; return the keys that were acknowledged, and those that are in the store."""
    told = children.run(LIVES, place, lives, *words)

    async def read() -> tuple[Row, ...]:
        async with open_store(place) as store:
            await store.attach(SHELF)
            return await store.read(LIST)

    return set(told.split()), {row["key"] for row in asyncio.run(read())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.long
def test_nothing_acknowledged_is_lost_when_processes_are_killed(place: str) -> None:
    told, kept = kill(place, KILLS)
    assert len(told) >= KILLS
    assert told <= kept, f"{len(told - kept)} of {len(told)} acknowledged writes are lost"
    halves = {key for key in kept if not key.endswith("'")}
    assert {f"{key}'" for key in halves} == kept - halves, "a unit is torn"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_store_that_acknowledges_before_it_has_written_is_caught(tmp_path: Path) -> None:
    told, kept = kill(str(tmp_path / "store.sqlite"), 10, "early")
    assert not told <= kept
