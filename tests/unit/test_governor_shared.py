"""Limits that processes keep together: never more than the limit in any window, whoever is killed, stalled or late."""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from children import Child
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import with_schema
from runtimes import must_catch
from virtual_time import run_virtual

from asyncsandbox import GovernorEnforcer, GovernorSettings, Limit, Sandbox, WorkerSettings, open_store
from asyncsandbox._core.clock import Clock, SystemClock
from asyncsandbox._core.store import Operation, Schema, Store
from asyncsandbox.components.governor import shared
from asyncsandbox.components.governor.lease import Lease, Reading
from asyncsandbox.components.governor.lease_table import LIMITS, LOOK
from asyncsandbox.components.governor.shared import SharedLines
from asyncsandbox.errors import ConfigurationError, LifecycleError, LimitExceededError, StoreError

API = Limit(4, 60.0, shared=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = with_schema(request.getfixturevalue("postgres_url"))
    return url


def live(place: Any, limit: Limit = API, *, clock: Clock | None = None, **more: Any) -> Sandbox:
    governor, quiet = GovernorSettings(limits={"api": limit}, **more), WorkerSettings(run_durable=False)
    return Sandbox(store=place, dry_run=False, clock=clock, governor=governor, worker=quiet)


async def admit(sandbox: Sandbox, times: int, **more: Any) -> int:
    return sum([bool(await sandbox.governor.check_limit("api", **more)) for _ in range(times)])


def most_in_a_window(stamps: Sequence[float], seconds: float) -> int:
    """Return how many there are in the fullest half-open window."""
    ordered, most, first = sorted(stamps), 0, 0
    for last, stamp in enumerate(ordered):
        while stamp - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


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


async def test_those_who_wait_when_the_governor_stops_are_told(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store.sqlite") as store, live(store, Limit(1, 60.0, shared=True)) as sandbox:
        governor = sandbox.governor
        assert await admit(sandbox, 1) == 1
        tasks = [asyncio.create_task(governor.acquire("api")) for _ in range(3)]
        await asyncio.sleep(0.05)
        line, asking = governor._shared._lines["api", None], asyncio.Event()

        async def read(*_: Any, **__: Any) -> Any:
            asking.set()
            await asyncio.sleep(0.05)
            return [{"used": 0, "leaves_in": None}]

        line.store.read = read  # type: ignore[method-assign]
        await asyncio.wait_for(asking.wait(), 5)
        tasks.append(asyncio.create_task(line._get(1)))  # type: ignore[arg-type]
        await asyncio.wait_for(governor.stop(), 5)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, LifecycleError | Lease), outcome
        assert sum(isinstance(task.exception(), LifecycleError) for task in tasks) >= 3


async def test_a_permit_that_comes_too_late_is_not_given(tmp_path: Path) -> None:
    async with live(tmp_path / "store.sqlite", Limit(2, 60.0, shared=True)) as sandbox:
        governor = sandbox.governor
        await governor.acquire("api", timeout_seconds=0)
        (line,) = governor._shared._lines.values()
        write_all = line.store.write_all

        async def slowly(*bounds: Any) -> Any:
            await asyncio.sleep(0.05)
            return await write_all(*bounds)

        line.store.write_all = slowly  # type: ignore[method-assign]
        with pytest.raises(LimitExceededError, match="the store took longer"):
            await governor.acquire("api", timeout_seconds=0.01)
        with pytest.raises(LimitExceededError, match="time was up before it asked"):
            await governor.acquire("api", until=asyncio.get_running_loop().time() - 1)
        assert await admit(sandbox, 2) == 1, "it is there for the next"


async def test_who_waits_for_more_than_is_ever_admitted_now_is_refused(tmp_path: Path) -> None:
    async with live(tmp_path / "store.sqlite", Limit(3, 60.0, shared=True)) as sandbox:
        assert await admit(sandbox, 1) == 1
        waiting = asyncio.create_task(sandbox.governor.acquire("api", cost=3))
        await asyncio.sleep(0.05)
        sandbox.governor.set_limit("api", 2, 60.0, shared=True)
        with pytest.raises(LimitExceededError, match="more than the 2 ever admitted"):
            await waiting


# ------------------------------------------------------------------ what it costs, and what it leaves


@contextmanager
def counting(store: Store) -> Iterator[dict[str, int]]:
    """Count transactions and reads."""
    found = {"writes": 0, "reads": 0}
    write_all, read = store.write_all, store.read

    async def write_one(*bounds: Any) -> Any:
        found["writes"] += 1
        return await write_all(*bounds)

    async def read_one(*given: Any, **params: Any) -> Any:
        found["reads"] += 1
        return await read(*given, **params)

    store.write_all, store.read = write_one, read_one  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        store.write_all, store.read = write_all, read  # type: ignore[method-assign]


async def test_a_refusal_writes_nothing(place: str) -> None:
    async with live(place) as sandbox:
        assert await admit(sandbox, 5) == 4
        store = sandbox.governor.services.store
        assert store is not None
        with counting(store) as found:
            assert await admit(sandbox, 50) == 0
        assert found == {"writes": 0, "reads": 50}


def test_rows_that_count_no_more_go_and_others_stay() -> None:
    short, long = Limit(2, 0.5, per="user", shared=True), Limit(2, 60.0, per="user", shared=True)

    async def main() -> None:
        async with open_store(":memory:", clock=Drifting()) as store:
            async with live(store, short, clock=Drifting()) as sandbox:
                for user in range(5):
                    assert await admit(sandbox, 1, per=user) == 1
            async with live(store, long, clock=Drifting()) as sandbox:
                assert await admit(sandbox, 1, per="ada") == 1
                await asyncio.sleep(10.0)
                await store.attach(LIMITS)
                pruned = await store.prune(older_than_seconds=5.0)
                assert (pruned["owners"], pruned["limits"]) == (0, 11), "but hers"
                assert await admit(sandbox, 2, per="ada") == 1

    run_virtual(main())


async def test_a_release_with_a_longer_window_is_told_of_what_still_counts(place: str) -> None:
    async with live(place, Limit(2, 60.0, shared=True)) as later, live(place, Limit(2, 0.05, shared=True)) as earlier:
        assert await admit(later, 1) == 1
        await asyncio.sleep(0.1)
        assert await admit(earlier, 1) == 1
        assert await admit(later, 2) == 0, "the other has swept nothing that counts here"


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


# ------------------------------------------------------------------ in virtual time: any calls, clocks and delays


class Drifting(SystemClock):
    """A machine's clock, which goes a little faster or slower than the store's, and is set otherwise."""

    __slots__ = ("ahead", "rate")

    def __init__(self, rate: float = 1.0, ahead: float = 0.0) -> None:
        self.rate, self.ahead = rate, ahead

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self.rate

    def now(self) -> datetime:
        return datetime.fromtimestamp(1e9 + self.ahead + self.monotonic(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)


LONGEST_LEASE = 8.0  # three times as long as the store takes, and a little


@dataclass
class Play:
    """Some processes on one store, what is done in them, and what was admitted when."""

    units: int
    seconds: float
    sandboxes: list[Sandbox]
    stamps: list[float] = field(default_factory=list)
    died: bool = False
    is_over: bool = False

    async def act(self, who: int, how: str, cost: int, patience: float) -> None:
        cost = min(cost, self.units)
        governor = self.sandboxes[who].governor
        if how == "die":  # nobody is told what its leases were used for
            self.died = True
            for line in governor._shared._lines.values():
                line._lease = None
        elif how == "check":
            self.note(cost if await governor.check_limit("api", cost=cost) else 0)
        elif how == "leave":
            await self.leave(governor, cost, patience)
        else:
            with suppress(LimitExceededError):
                permit = await governor.acquire("api", cost=cost, timeout_seconds=patience if how == "hurry" else None)
                if how == "give back":
                    permit.give_back()
                else:
                    self.note(cost)

    async def leave(self, governor: GovernorEnforcer, cost: int, patience: float) -> None:
        """Be cancelled after a moment."""

        async def ask() -> None:
            self.note(cost if await governor.check_limit("api", cost=cost) else 0)

        task = asyncio.create_task(ask())
        await asyncio.sleep(patience / 10)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def note(self, cost: int) -> None:
        self.stamps += [asyncio.get_running_loop().time()] * cost

    async def judge(self, store: Store) -> None:
        assert most_in_a_window(self.stamps, self.seconds - 1e-6) <= self.units, "never more in any window"
        self.is_over = True
        await asyncio.sleep(LONGEST_LEASE)
        if not self.died:
            now = asyncio.get_running_loop().time()
            counting = sum(now - stamp <= self.seconds + LONGEST_LEASE for stamp in self.stamps)
            assert await used_in(store, self.seconds) <= counting, "who goes idle or leaves keeps nothing from others"
        await asyncio.sleep(self.seconds + LONGEST_LEASE)
        self.stamps.clear()
        for _ in range(self.units + 1):
            await self.act(0, "check", 1, 0.0)
        assert len(self.stamps) == self.units, "nothing is lost for longer than a window"


def delay(store: Store, delays: Iterator[tuple[float, float]], play: Play) -> None:
    """Let the store be slow to hear and slow to answer, while they play."""
    write_all = store.write_all

    async def slowly(*bounds: Any) -> Any:
        before, after = (0.0, 0.0) if play.is_over else next(delays)
        await asyncio.sleep(before)
        result = await write_all(*bounds)
        await asyncio.sleep(after)
        return result

    store.write_all = slowly  # type: ignore[method-assign]


def holds_whatever_happens(drawn: tuple[Any, ...]) -> None:
    (units, seconds), clocks, delays, calls = drawn

    async def main() -> None:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(":memory:", clock=Drifting()))
            play = Play(units, seconds, [])
            for number, (rate, ahead) in enumerate(clocks):
                sandbox = live(store, Limit(units, seconds, shared=True), clock=Drifting(rate, ahead))
                play.sandboxes.append(await stack.enter_async_context(sandbox))
                mine = sandbox.governor.services.store
                assert mine is not None
                delay(mine, itertools.cycle(delays[number:] + delays[:number]), play)
            tasks = []
            for who, how, cost, pause, patience in calls:
                tasks.append(asyncio.create_task(play.act(who % len(clocks), how, cost, patience)))
                await asyncio.sleep(pause)
            _, waiting = await asyncio.wait(tasks, timeout=600)
            assert not waiting, "those who wait are served"
            await asyncio.gather(*tasks)
            await play.judge(store)

    run_virtual(main())


CLOCKS = st.lists(st.tuples(st.floats(0.995, 1.005), st.floats(-1e4, 1e4)), min_size=2, max_size=3)
DELAYS = st.lists(st.tuples(*[st.sampled_from([0.0, 0.0, 0.01, 0.6, 1.2])] * 2), min_size=3, max_size=6)
WAYS = st.sampled_from(["check", "check", "check", "leave", "wait", "hurry", "give back", "die"])
GAPS = st.sampled_from([0.0, 0.0, 0.0, 0.05, 0.5, 0.97, 1.5, 4.0])
CALLS = st.lists(st.tuples(st.integers(0, 2), WAYS, st.integers(1, 3), GAPS, GAPS), min_size=1, max_size=30)
PLAYS = st.tuples(st.tuples(st.integers(1, 24), st.sampled_from([0.5, 3.0, 20.0])), CLOCKS, DELAYS, CALLS)


@settings(max_examples=150)
@given(PLAYS)
def test_whatever_happens_the_limit_holds_and_nothing_is_lost(drawn: Any) -> None:
    holds_whatever_happens(drawn)


async def _forgets_the_lease(work: Coroutine[Any, Any, Any]) -> tuple[Any, None]:
    return await work, None


def _tells_when_it_was_granted(lease: Lease, now: Reading, cost: int) -> bool:
    if lease.left < cost or lease.ends_in(now) <= 0:
        return False
    lease.left, lease.used = lease.left - cost, lease.used + cost
    return True


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (shared, "complete", _forgets_the_lease),
        (SharedLines, "_file", lambda *_: None),
        (Lease, "take", _tells_when_it_was_granted),
        (Lease, "give_back", lambda lease, _, cost: setattr(lease, "left", lease.left + 2 * cost)),
    ],
    ids=[
        "who leaves takes the lease along",
        "who is idle keeps it",
        "used earlier than it was",
        "more back than taken",
    ],
)
def test_what_loses_or_doubles_permits_is_caught(
    owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    must_catch(holds_whatever_happens, PLAYS, examples=2000)


# ------------------------------------------------------------------ processes

CHILD = """
import asyncio, sys, time
from asyncsandbox import GovernorSettings, Limit, Sandbox

place, units, seconds, lasts, mode, *broken = sys.argv[1:]
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
        end = time.monotonic() + float(lasts)
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
    lasts = 2.4 if trouble == "stall" else 1.2
    children = [
        Child(CHILD, place, UNITS, SECONDS, lasts, mode, *broken) for mode in ("wait", "check", "wait", "check")
    ]
    stamps: list[float] = []
    for child in children:
        child.tell("go")
    if trouble:
        first = children[0]
        stamps.append(float(first.hear()))
        first.signal(signal.SIGKILL if trouble == "kill" else signal.SIGSTOP)
        if trouble == "stall":
            time.sleep(1.3)  # longer than a lease lasts
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
@pytest.mark.long
def test_four_processes_never_admit_more_in_any_window(place: str, trouble: str, windows: int) -> None:
    stamps = hammer(place, trouble=trouble)
    assert is_kept(stamps)
    assert len(stamps) >= windows * UNITS, "and they do get on"


def test_four_processes_that_do_not_see_each_other_are_caught(tmp_path: Path) -> None:
    assert not is_kept(hammer(str(tmp_path / "store.sqlite"), "broken"))
