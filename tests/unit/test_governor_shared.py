"""Limits that processes keep together: never more than the limit in any window, whoever is killed, stalled or late."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from children import Child
from hypothesis import given
from hypothesis import strategies as st
from postgres import with_schema
from runtimes import must_catch

from asyncsandbox import GovernorEnforcer, GovernorSettings, Limit, Sandbox, open_store
from asyncsandbox._core.store import Operation, Schema, Store
from asyncsandbox.components.governor import lease, shared
from asyncsandbox.components.governor.lease import Lease, Reading
from asyncsandbox.components.governor.lease_table import LIMITS, LOOK
from asyncsandbox.errors import ConfigurationError, LimitExceededError, StoreError

API = Limit(4, 60.0, shared=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = with_schema(request.getfixturevalue("postgres_url"))
    return url


def live(place: Any, limit: Limit = API, **more: Any) -> Sandbox:
    return Sandbox(store=place, dry_run=False, governor=GovernorSettings(limits={"api": limit}, **more))


async def admit(sandbox: Sandbox, times: int, **more: Any) -> int:
    return sum([bool(await sandbox.governor.check_limit("api", **more)) for _ in range(times)])


# ------------------------------------------------------------------ a lease


def most_in_a_window(stamps: Sequence[float], seconds: float) -> int:
    """Return how many there are in the fullest half-open window."""
    ordered, most, first = sorted(stamps), 0, 0
    for last, stamp in enumerate(ordered):
        while stamp - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def counts_no_earlier_than_used(drawn: tuple[int, float, float, float, list[tuple[float, float]]]) -> None:
    units, delay, rate, jump, steps = drawn
    seconds, granted_at = 5.0, 1000.0
    asked = Reading(100.0, 7000.0)
    lease = Lease("a", units=units, asked=asked, seconds=seconds, until=granted_at + seconds)
    passed, slept, used, last = 0.0, 0.0, 0, granted_at
    for awake, asleep in steps:
        passed, slept = passed + awake + asleep, slept + asleep
        # While the machine sleeps, one of the clocks stands still; or else somebody has set the time of day.
        now = Reading(asked.monotonic + passed - slept, asked.wall + passed + (0.0 if slept else jump))
        if lease.take(now, 1):
            used += 1
            # The store granted it some time after it was asked, and its clock goes a little slower or faster.
            true = granted_at + (passed - delay) * rate
            last = max(last, true)
            assert true < granted_at + seconds, "nothing is used when it is over"
        assert last <= lease.last_at + 1e-6, "it is counted no earlier than it was used"
        assert lease.last_at <= granted_at + seconds, "nor later than it can be"
    assert (lease.used, lease.left) == (used, units - used)
    assert used <= units


PAUSES = st.lists(st.tuples(st.floats(0, 2), st.just(0.0) | st.floats(0, 3)), max_size=8)
LEASES = st.tuples(st.integers(1, 4), st.floats(0, 3), st.floats(0.985, 1.015), st.floats(-9, 9), PAUSES)


@given(LEASES)
def test_a_lease_is_used_up_to_its_end_and_counted_no_earlier_than_it_was_used(drawn: Any) -> None:
    counts_no_earlier_than_used(drawn)


@pytest.mark.parametrize("factor", [1.0, 1.1], ids=["clocks alike", "longer than it is"])
def test_a_lease_that_trusts_clocks_is_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_DRIFT", factor)
    must_catch(counts_no_earlier_than_used, LEASES, examples=2000)


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
def test_a_lease_that_goes_by_one_clock_is_caught(clock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def since(now: Reading, other: Reading) -> float:
        return float(getattr(now, clock) - getattr(other, clock))

    monkeypatch.setattr(Reading, "since", since)
    must_catch(counts_no_earlier_than_used, LEASES, examples=2000)


# ------------------------------------------------------------------ one limit, several sandboxes


async def hold_together(place: str) -> None:
    async with live(place) as one, live(place) as other:
        found = await asyncio.gather(*(admit(each, 4) for each in (one, other, one)))
        assert sum(found) == 4, "all together, not each"
        decision = await other.governor.check_limit("api")
        assert not decision
        assert decision.retry_after_seconds is not None
        assert 55 < decision.retry_after_seconds <= 60
        assert "used or leased, here and elsewhere" in decision.message
        with pytest.raises(LimitExceededError, match="used or leased"):
            await one.governor.require_limit("api")
        with pytest.raises(LimitExceededError):
            async with one.governor.permit("api", timeout_seconds=1):
                pass
    async with live(place) as later:
        assert await admit(later, 1) == 0, "it outlives the sandboxes"


async def test_sandboxes_on_one_store_keep_a_limit_together(place: str) -> None:
    await hold_together(place)


@contextmanager
def replaced(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> Iterator[None]:
    """Let one operation be wrong."""
    right: Operation = getattr(shared, name)
    assert right.sql.count(old) == 1
    wrong = Operation(right.name, right.sql.replace(old, new))
    operations = tuple(wrong if each is right else each for each in LIMITS.operations)
    schema = Schema(
        name=LIMITS.name, tables=LIMITS.tables, migrations=LIMITS.migrations, operations=operations, prune=LIMITS.prune
    )
    with monkeypatch.context() as patch:
        patch.setattr(shared, name, wrong)
        patch.setattr(shared, "LIMITS", schema)
        yield


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("GRANT", "COALESCE(SUM(units), 0)", "0 * COALESCE(SUM(units), 0)"),
        ("GRANT", "> :now", "> :now + 1000"),
        ("SWEEP", "<= :now", "<= :now + 1000"),
        ("SETTLE", "SET units = :units", "SET units = :units * 0"),
    ],
)
async def test_a_store_that_forgets_is_caught(
    name: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replaced(monkeypatch, name, old, new), pytest.raises(AssertionError):
        await hold_together(str(tmp_path / "store.sqlite"))


async def used_in(store: Store, window: float) -> int:
    await store.attach(LIMITS)
    (row,) = await store.read(LOOK, resource="api", per="", window=window, most=1000, cost=1)
    return int(row["used"])


async def test_what_was_leased_and_not_used_comes_back_at_the_stop(place: str) -> None:
    async with live(place, Limit(80, 60.0, shared=True)) as one:
        assert await admit(one, 11) == 11
    async with open_store(place) as store, live(place, Limit(80, 60.0, shared=True)) as other:
        assert await used_in(store, 60.0) == 11, "just what was used"
        assert await admit(other, 80) == 69


async def test_a_permit_given_back_may_be_used_again(place: str) -> None:
    async with live(place) as sandbox:
        for _ in range(10):
            permit = await sandbox.governor.acquire("api", cost=2)
            permit.give_back()
        async with sandbox.governor.permit("api", cost=4):
            assert await admit(sandbox, 1) == 0


async def test_keys_are_counted_apart_and_told_by_type(place: str) -> None:
    async with (
        live(place, Limit(1, 60.0, per="user", shared=True)) as one,
        live(place, Limit(1, 60.0, per="user", shared=True)) as other,
    ):
        assert [await admit(one, 2, per=key) for key in ("7", 7, "ada")] == [1, 1, 1]
        assert [await admit(other, 2, per=key) for key in ("7", 7, "ada", "new")] == [0, 0, 0, 1]
        with pytest.raises(ConfigurationError, match="other processes know it by"):
            await one.governor.check_limit("api", per=("a", "b"))
        with pytest.raises(ConfigurationError, match="pass per="):
            await one.governor.check_limit("api")


async def test_keys_that_are_idle_are_forgotten_and_others_are_bounded(tmp_path: Path) -> None:
    limit = Limit(1, 60.0, per="user", shared=True)
    async with live(tmp_path / "store.sqlite", limit, max_keys=3) as sandbox:
        for number in range(9):
            assert await admit(sandbox, 1, per=number) == 1, "a lease of one unit is over when it is used"
        many = Limit(100, 60.0, per="user", shared=True)
    async with live(tmp_path / "other.sqlite", many, max_keys=2) as sandbox:
        for number in range(2):
            assert await admit(sandbox, 2, per=number) == 2, "with a third one at hand"
        refused = await sandbox.governor.check_limit("api", per=2)
        assert "2 keys are in use already" in refused.message


# ------------------------------------------------------------------ waiting


async def test_those_who_wait_are_served_in_order_and_leavers_cost_nothing(tmp_path: Path) -> None:
    order: list[int] = []
    async with live(tmp_path / "store.sqlite", Limit(2, 0.06, shared=True)) as sandbox:
        governor = sandbox.governor

        async def ask(number: int) -> None:
            async with governor.permit("api"):
                order.append(number)

        tasks = [asyncio.create_task(ask(number)) for number in range(6)]
        await asyncio.sleep(0.02)
        tasks[3].cancel()
        refused = await governor.check_limit("api")
        assert "in line before it" in refused.message, "nobody barges"
        with pytest.raises(LimitExceededError, match="its time was up"):
            async with governor.permit("api", timeout_seconds=0.005):
                pass
        await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 1, 2, 4, 5]


async def test_a_batch_is_leased_where_many_ask(tmp_path: Path) -> None:
    async with live(tmp_path / "store.sqlite", Limit(10_000, 60.0, shared=True)) as sandbox:
        await admit(sandbox, 1)
        (line,) = sandbox.governor._shared._lines.values()
        assert all(await asyncio.gather(*(sandbox.governor.check_limit("api") for _ in range(2))))
        assert line.remaining == 0, "the second to ask found one that the first had leased"
        store, writes = line.store, []
        write_all = store.write_all

        async def count(*bounds: Any) -> Any:
            writes.append(len(bounds))
            return await write_all(*bounds)

        store.write_all = count  # type: ignore[method-assign]
        assert await admit(sandbox, 1000) == 1000
        assert len(writes) <= 12, "each lease is twice the one before, so a thousand take ten or so"
        writes.clear()
        await asyncio.gather(*(sandbox.governor.acquire("api") for _ in range(2000)))
        assert len(writes) <= 4


# ------------------------------------------------------------------ refusals


async def test_a_limit_to_be_shared_needs_a_store_and_a_dry_run_takes_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"give Sandbox\(store=...\)"):
        await GovernorEnforcer(settings=GovernorSettings(limits={"api": API})).check_limit("api")
    async with Sandbox(dry_run=False, governor=GovernorSettings(limits={"api": API})) as sandbox:
        with pytest.raises(ConfigurationError, match=r"give Sandbox\(store=...\)"):
            async with sandbox.governor.permit("api"):
                pass
    place = tmp_path / "store.sqlite"
    async with Sandbox(store=place, governor=GovernorSettings(limits={"api": API})) as rehearsal:
        for _ in range(9):
            async with rehearsal.governor.permit("api"):
                pass
        assert rehearsal.governor.get_wanted() == {("api", None): 9}
        assert await admit(rehearsal, 9) == 4
    async with live(place) as sandbox:
        assert await admit(sandbox, 9) == 4, "the rehearsal has taken nothing"


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="leave out max_concurrent"):
        Limit(3, 60, max_concurrent=1, shared=True)
    with pytest.raises(ConfigurationError, match="True or False"):
        Limit(3, 60, shared=1)  # type: ignore[arg-type]
    governor = GovernorEnforcer()
    with pytest.raises(ConfigurationError, match="resource of its own"):
        governor.set_limits("api", [Limit(3, 60, shared=True), Limit(1, 1)])
    governor.set_limit("api", 3, 60, shared=True)
    governor.set_limit("api", 5, 60, shared=True)
    with pytest.raises(ConfigurationError, match="declare another resource"):
        governor.set_limit("api", 5, 60)
    status = governor.get_status("api")
    assert (status.used, status.remaining) == (None, None), "which only the store knows"
    assert asdict(status)["limits"][0]["shared"] is True


async def test_more_than_is_ever_admitted_is_refused_at_once(place: str) -> None:
    async with live(place) as sandbox:
        assert "more than the 4 ever admitted" in (await sandbox.governor.check_limit("api", cost=5)).message
        with pytest.raises(LimitExceededError, match="more than the 4"):
            await sandbox.governor.acquire("api", cost=5)


async def test_a_store_that_does_not_answer_admits_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store.sqlite") as store, live(store) as sandbox:
        assert await admit(sandbox, 1) == 1
        (line,) = sandbox.governor._shared._lines.values()

        async def fail(*_: Any) -> Any:
            raise StoreError("api", "it does not answer")

        line.store.write_all = fail  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await sandbox.governor.check_limit("api", cost=2)
        with pytest.raises(StoreError):
            await sandbox.governor.acquire("api", cost=2)


# ------------------------------------------------------------------ processes

CHILD = """
import asyncio, sys, time
from asyncsandbox import GovernorSettings, Limit, Sandbox

place, units, seconds, mode, *broken = sys.argv[1:]
if broken:
    from asyncsandbox._core.store import Operation
    from asyncsandbox.components.governor import shared

    sql = shared.GRANT.sql.replace("COALESCE(SUM(units), 0)", "0 * COALESCE(SUM(units), 0)")
    wrong = Operation(shared.GRANT.name, sql)
    operations = tuple(wrong if each is shared.GRANT else each for each in shared.LIMITS.operations)
    object.__setattr__(shared.LIMITS, "operations", operations)
    shared.GRANT = wrong

async def main():
    limits = {"api": Limit(int(units), float(seconds), shared=True)}
    async with Sandbox(store=place, dry_run=False, governor=GovernorSettings(limits=limits)) as sandbox:
        governor = sandbox.governor
        print("up", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            if mode == "wait":
                try:
                    await governor.acquire("api", timeout_seconds=0.3)
                except Exception:
                    continue
                print(time.time(), flush=True)
            elif await governor.check_limit("api"):
                print(time.time(), flush=True)
            else:
                await asyncio.sleep(0.003)
    print("down", flush=True)

asyncio.run(main())
"""
UNITS, SECONDS = 20, 0.4


def hammer(place: str, *broken: str, trouble: str = "") -> list[float]:
    """Let four processes ask for all they can get, and return when each call was admitted."""
    children = [Child(CHILD, place, UNITS, SECONDS, mode, *broken) for mode in ("wait", "check", "wait", "check")]
    stamps: list[float] = []
    for child in children:
        child.tell("go")
    if trouble:
        first = children[0]
        stamps.append(float(first.hear()))
        first.signal(signal.SIGKILL if trouble == "kill" else signal.SIGSTOP)
        if trouble == "stall":
            time.sleep(2 * SECONDS)
            first.signal(signal.SIGCONT)
    for child in children:
        if trouble == "kill" and child is children[0]:
            child.kill()
            stamps += [float(line) for line in child.heard() if line not in ("up", "down")]
            continue
        while (line := child.hear()) != "down":
            stamps.append(float(line))
        child.end()
    return stamps


def is_kept(stamps: list[float]) -> bool:
    # Each stamp was taken a moment after the call was admitted, which may be late by what the machine makes of it.
    return most_in_a_window(stamps, SECONDS - 0.05) <= UNITS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are stopped by signals")
@pytest.mark.parametrize(
    ("trouble", "windows"), [("", 2), ("kill", 1), ("stall", 1)]
)  # it may stall with the file locked
def test_four_processes_never_admit_more_in_any_window(place: str, trouble: str, windows: int) -> None:
    stamps = hammer(place, trouble=trouble)
    assert is_kept(stamps)
    assert len(stamps) >= windows * UNITS, "and they do get on"


def test_four_processes_that_do_not_see_each_other_are_caught(tmp_path: Path) -> None:
    assert not is_kept(hammer(str(tmp_path / "store.sqlite"), "broken"))
