"""A hundred processes killed in the middle of actions: what was told is DONE, nothing happens twice."""

from collections import Counter
from pathlib import Path

import children
import pytest
from postgres import with_schema

KILLS = 100

# Everything is imported once; each life is a fork of that process, before it has any thread or loop. A life first looks
# at what the lives before it have left: whoever is dead is at work on nothing.
LIVES = """
import asyncio, os, random, signal, sys
import asyncpg, aiosqlite, asyncsandbox._core.store.sqlite
from asyncsandbox import LedgerSettings, Sandbox, irreversible
from asyncsandbox._core.durable_ledger import DurableLedger
from asyncsandbox._core.store import Operation, Schema, Migration

place, lives, broken = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
STATES = Operation("test.states", "SELECT key, state FROM sandbox_actions WHERE ns = :ns")
pipe = -1

@irreversible("card.charge", key=lambda key: key)
async def charge(key):
    os.write(pipe, f"began {key}\\n".encode())
    await asyncio.sleep(random.random() * 0.004)
    return f"paid {key}"

if "told first" in broken:
    async def forget(self, row, fence, *rest, **more):
        return True
    DurableLedger.finish = forget
if "nobody takes over" in broken:
    async def leave(self):
        pass
    DurableLedger.take_over = leave

async def live(life, ends):
    async with Sandbox(store=place, dry_run=False, ledger=LedgerSettings(lease_seconds=3600)) as sandbox:
        store = sandbox._services.store
        store._operations.add(STATES)
        for row in await store.read(STATES):
            os.write(pipe, f"found {row['key']} {row['state']}\\n".encode())
        if ends:
            os._exit(0)
        async def work(caller):
            for number in range(10_000):
                key = f"{life}-{caller}-{number}"
                await charge(key)
                os.write(pipe, f"told {key}\\n".encode())
        await asyncio.gather(*map(work, range(8)))

for life in range(lives + 1):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        pipe = writing
        asyncio.run(live(life, life == lives))
    os.close(writing)
    said = b""
    while said.count(b"told") < random.Random(life).randrange(1, 12) and (more := os.read(reading, 65536)):
        said += more
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(reading, 65536):
        said += more
    os.close(reading)
    sys.stdout.write("".join(f"{life} {line}\\n" for line in said.decode().split("\\n")[:-1]))
"""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = with_schema(request.getfixturevalue("postgres_url"))
    return url


def check(place: str, kills: int, *broken: str) -> None:
    began: Counter[str] = Counter()
    told: set[str] = set()
    found: dict[int, dict[str, str]] = {}
    for line in children.run(LIVES, place, kills, *broken).splitlines():
        life, what, key, *state = line.split()
        if what == "began":
            began[key] += 1
        elif what == "told":
            told.add(key)
        else:
            found.setdefault(int(life), {})[key] = state[0]
    assert len(told) >= kills
    assert max(began.values()) == 1, "nothing happens twice"
    assert len(found) == kills, "each life but the first found rows"
    for life, states in found.items():
        assert set(states.values()) <= {"done", "unknown", "approved"}, "the dead are at work on nothing"
        before = {key for key in told if int(key.partition("-")[0]) < life}
        assert all(states.get(key) == "done" for key in before), "what was told is DONE"
        happened = {key for key in began if int(key.partition("-")[0]) < life}
        assert all(states.get(key) in ("done", "unknown") for key in happened), "what happened is on record"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="elsewhere no death is ever proven")
@pytest.mark.long
def test_the_ledger_is_right_after_each_of_a_hundred_kills(place: str) -> None:
    check(place, KILLS)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="elsewhere no death is ever proven")
@pytest.mark.parametrize("broken", ["told first", "nobody takes over"])
def test_a_ledger_that_breaks_its_word_is_caught(broken: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check(str(tmp_path / "store.sqlite"), 8, broken)
