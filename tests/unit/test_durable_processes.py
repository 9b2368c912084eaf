"""The ledger among real processes: killed, stalled and racing ones, on SQLite and PostgreSQL."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from children import PATIENCE_SECONDS, Child
from postgres import with_schema

from asyncsandbox import LedgerSettings, Sandbox, irreversible
from asyncsandbox._core import action_rows
from asyncsandbox._core.owners import Owner, OwnerState
from asyncsandbox.errors import OutcomeUnknownError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no death is ever proven")
LEASE = 1.0

CHILD = """
import asyncio, os, sys
from asyncsandbox import GovernorSettings, LedgerSettings, Limit, Sandbox, irreversible
from asyncsandbox._core import action_rows
from asyncsandbox._core.durable_ledger import DurableLedger
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.store import Operation

place, effects, lease, *broken = sys.argv[1:]
log = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@irreversible("card.charge", key=lambda key: key, facts=lambda key: {"key": key})
async def charge(key, seconds):
    os.write(log, f"{key}\\n".encode())
    await asyncio.sleep(seconds)
    return f"paid {key}"

@irreversible("card.wait", key=lambda key: key, facts=lambda key: {"key": key}, limit="card")
async def wait(key, seconds):
    os.write(log, f"{key}\\n".encode())
    return f"paid {key}"

if "no version" in broken:
    sql = action_rows.WRITE_LEASED.sql.partition(" AND version = ")[0] + " AND :was = :was"
    wrong = Operation("actions.write_leased", sql.replace(":was = :was", "CAST(:was AS BIGINT) >= 0"))
    operations = tuple(wrong if o is action_rows.WRITE_LEASED else o for o in action_rows.ACTIONS.operations)
    object.__setattr__(action_rows.ACTIONS, "operations", operations)
    action_rows.WRITE_LEASED = wrong
if "told first" in broken:
    finish = DurableLedger.finish
    async def later(self, row, fence, *rest, **more):
        run = lambda: asyncio.ensure_future(finish(self, row, fence, *rest, **more))
        asyncio.get_running_loop().call_later(0.3, run)
        return True
    DurableLedger.finish = later

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    governor = GovernorSettings(limits={"card": Limit(1, 2.0)})
    async with Sandbox(
        dry_run=False, store=place, governor=governor, ledger=LedgerSettings(lease_seconds=float(lease))
    ) as sandbox:
        async def carry_out(name, key, seconds):
            try:
                said = await {"charge": charge, "wait": wait}[name](key, float(seconds))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            print(key, said, flush=True)
        print("up", flush=True)
        tasks = []
        while line := (await reader.readline()).decode().split():
            if line[0] == "race":
                keys = [f"k{n}" for n in range(int(line[1]))]
                tasks += [asyncio.ensure_future(carry_out("charge", key, 0.0)) for key in keys]
            else:
                tasks.append(asyncio.ensure_future(carry_out(*line)))
        await asyncio.gather(*tasks)

asyncio.run(main())
"""


@irreversible("card.charge", key=lambda key: key, facts=lambda key: {"key": key})
async def charge(key: str, seconds: float) -> str:
    Shop.effects.append(key)
    await asyncio.sleep(seconds)
    return f"paid {key}"


@irreversible("card.wait", key=lambda key: key, facts=lambda key: {"key": key})
async def wait(key: str, seconds: float) -> str:
    Shop.effects.append(key)
    return f"paid {key}"


class Shop:
    """A place, the processes that charge there, and what was charged, by them and by this process."""

    effects: list[str]

    def __init__(self, place: str, folder: Path) -> None:
        self.place = place
        self._log = folder / "effects"
        self.children: list[Child] = []
        Shop.effects = []

    def open(self, *broken: str, lease: float = LEASE) -> Child:
        child = Child(CHILD, self.place, self._log, lease, *broken)
        self.children.append(child)
        return child

    def sandbox(self) -> Sandbox:
        return Sandbox(dry_run=False, store=self.place, ledger=LedgerSettings(lease_seconds=LEASE))

    def charged(self) -> list[str]:
        return (self._log.read_text().split() if self._log.exists() else []) + Shop.effects


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        place = str(tmp_path / "store.sqlite")
    else:
        place = with_schema(request.getfixturevalue("postgres_url"))
    with opened(place, tmp_path) as made:
        yield made


@contextmanager
def opened(place: str, folder: Path) -> Iterator[Shop]:
    shop = Shop(place, folder)
    try:
        yield shop
    finally:
        for child in shop.children:
            child.kill()


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.01)


async def until_state(sandbox: Sandbox, key: str, wanted: str) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while await state_of(sandbox, key) != wanted:
        assert time.monotonic() < ends, f"{key} is never {wanted}"
        await asyncio.sleep(0.01)


async def state_of(sandbox: Sandbox, key: str) -> str | None:
    store = sandbox._services.store
    assert store is not None
    for action in ("card.charge", "card.wait"):
        for row in await store.read(action_rows.FIND, action=action, key=key):
            return str(row["state"])
    return None


# ------------------------------------------------------------------ killed


def kill_one_of_two(shop: Shop) -> None:
    dies, lives = shop.open(lease=3600), shop.open(lease=3600)
    dies.tell("charge a 60")
    lives.tell("charge b 2")
    lives.tell("charge c 60")
    until(lambda: sorted(shop.charged()) == ["a", "b", "c"])
    dies.kill()

    async def look() -> None:
        async with shop.sandbox() as sandbox:
            began = time.monotonic()
            assert await state_of(sandbox, "a") == "unknown", "a dead process is recognised when somebody starts"
            assert (await state_of(sandbox, "b"), await state_of(sandbox, "c")) == ("started", "started")
            with pytest.raises(OutcomeUnknownError, match="died before it was recorded"):
                await charge("a", 0)
            joined = asyncio.create_task(charge("b", 0))
            assert await joined == "paid b", "whoever is at work elsewhere is waited for"
            lives.kill()
            began = time.monotonic()
            with pytest.raises(OutcomeUnknownError):
                await charge("c", 0)
            assert time.monotonic() - began < 1, "and when somebody looks"
            await sandbox.recover("card.charge", "a", happened=True, result="seen at the bank")
            assert await charge("a", 0) == "seen at the bank"

    asyncio.run(look())
    assert sorted(shop.charged()) == ["a", "b", "c"]


def test_what_a_killed_process_was_at_is_unknown_at_once_and_others_are_left_alone(shop: Shop) -> None:
    kill_one_of_two(shop)


def test_taking_everybody_else_for_dead_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owner, "judge", lambda self, owner, leased: OwnerState.DEAD)
    with opened(str(tmp_path / "store.sqlite"), tmp_path) as shop, pytest.raises(AssertionError):
        kill_one_of_two(shop)


def kill_while_it_tells(shop: Shop, *broken: str) -> None:
    child = shop.open(*broken)
    child.tell("race 30")
    first = child.hear()
    child.kill()
    told = {line.split()[0] for line in (first, *child.heard())}

    async def look() -> dict[str, str | None]:
        async with shop.sandbox() as sandbox:
            return {key: await state_of(sandbox, key) for key in told}

    assert set(asyncio.run(look()).values()) == {"done"}, "what a caller was told was not there for good"


def test_what_a_caller_was_told_is_done_whenever_its_process_is_killed(shop: Shop) -> None:
    kill_while_it_tells(shop)


def test_telling_before_writing_is_caught(tmp_path: Path) -> None:
    with opened(str(tmp_path / "store.sqlite"), tmp_path) as shop, pytest.raises(AssertionError, match="for good"):
        kill_while_it_tells(shop, "told first")


# ------------------------------------------------------------------ racing


def test_two_processes_that_race_for_200_keys_charge_each_once(shop: Shop) -> None:
    both = [shop.open(), shop.open()]
    for child in both:
        child.tell("race 200")
    heard = [sorted(child.hear() for _ in range(200)) for child in both]
    assert heard[0] == heard[1] == sorted(f"k{n} paid k{n}" for n in range(200))
    assert sorted(shop.charged()) == sorted(f"k{n}" for n in range(200))
    for child in both:
        child.end()


# ------------------------------------------------------------------ stalled


def stall_between_claim_and_start(shop: Shop, *broken: str) -> str:
    """Let a process wait for a permit, stop it there for longer than its lease, and let it go on."""
    stalls = shop.open(*broken)
    stalls.tell("wait first 0")
    assert stalls.hear() == "first paid first"
    stalls.tell("wait key 0")

    async def overtake() -> None:
        async with shop.sandbox() as sandbox:
            await until_state(sandbox, "key", "claimed")
            stalls.signal(signal.SIGSTOP)
            assert await wait("key", 0) == "paid key", "after the lease it is free again"
            stalls.signal(signal.SIGCONT)
            await asyncio.get_running_loop().run_in_executor(None, until, stalls.heard)

    asyncio.run(overtake())
    return stalls.hear()


def test_whoever_was_stalled_for_longer_than_its_lease_starts_nothing(shop: Shop) -> None:
    assert stall_between_claim_and_start(shop) == "key paid key"
    assert sorted(shop.charged()) == ["first", "key"]


def test_a_start_that_does_not_look_is_caught(tmp_path: Path) -> None:
    with opened(str(tmp_path / "store.sqlite"), tmp_path) as shop:
        stall_between_claim_and_start(shop, "no version")
        assert sorted(shop.charged()) == ["first", "key", "key"]


def test_a_lease_lost_while_the_body_runs_ends_in_an_honest_outcome(shop: Shop) -> None:
    stalls = shop.open()
    stalls.tell("charge key 0.5")
    until(lambda: shop.charged() == ["key"])
    stalls.signal(signal.SIGSTOP)

    async def look() -> Any:
        async with shop.sandbox() as sandbox:
            with pytest.raises(OutcomeUnknownError, match="longer than a lease"):
                await charge("key", 0)
            assert await state_of(sandbox, "key") == "unknown"
            stalls.signal(signal.SIGCONT)
            await until_state(sandbox, "key", "done")
            return await charge("key", 0)

    assert asyncio.run(look()) == "paid key"
    assert stalls.hear() == "key paid key", "the late result counts, for whoever was stalled as well"
    assert shop.charged() == ["key"]
