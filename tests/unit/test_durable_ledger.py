"""The ledger in a store: the same table, written before anything else happens, and the rows of whoever is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from postgres import with_schema
from runtimes import make_runtime, must_catch
from unit import test_ledger, test_pipeline
from virtual_time import run_virtual

from asyncsandbox import (
    FILLED_IN,
    GovernorSettings,
    LedgerSettings,
    Limit,
    RetrySettings,
    Sandbox,
    WorkerSettings,
    irreversible,
    reversible,
)
from asyncsandbox._core import action_rows, row_book
from asyncsandbox._core.action_rows import ACTIONS, StoredRow
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import CallScope
from asyncsandbox._core.durable_ledger import DurableLedger
from asyncsandbox._core.ledger import ActionEvent, ActionState, Ledger, Row
from asyncsandbox._core.owners import OWNERS, Owner, OwnerState
from asyncsandbox._core.store import Bound, Store, open_store
from asyncsandbox.errors import (
    ActionNotFoundError,
    ActionStateError,
    ClaimLostError,
    ConfigurationError,
    IdempotencyConflictError,
    OutcomeUnknownError,
    ResultUnavailableError,
    RunningElsewhereError,
    StoreUnavailableError,
)

R = TypeVar("R")
call = test_ledger.call


class Virtual(SystemClock):
    """A time of day that goes with the loop's time."""

    def now(self) -> Any:
        return super().now().fromtimestamp(1_000_000_000, super().now().tzinfo) + timedelta(seconds=self.monotonic())


# ------------------------------------------------------------------ the table, on every engine


class Place:
    """A store that is open as long as some examples last, each in a namespace of its own."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.used = 0
        self.runner = asyncio.Runner()
        self.store = open_store(where)
        self.run(self._open())

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(coroutine)

    def next(self) -> Store:
        self.used += 1
        return self.store.within(f"ns{self.used}")

    def close(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    async def _open(self) -> None:
        await self.store.open()
        await self.store.attach(OWNERS, ACTIONS)


@contextmanager
def place_of(where: str) -> Iterator[Place]:
    place = Place(where)
    try:
        yield place
    finally:
        place.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    where = {"memory": ":memory:", "sqlite": str(tmp_path / "store.sqlite")}.get(request.param)
    with place_of(where or with_schema(request.getfixturevalue("postgres_url"))) as made:
        yield made


class DurableMachine(test_ledger.LedgerMachine):
    """The same sequences of calls against the same model; what is in the store must be what the model says."""

    ledger_class: type[Ledger] = DurableLedger
    max_rows = 1_000
    place: Place

    def make_ledger(self, given: LedgerSettings) -> Ledger:
        self.store = self.place.next()
        self.owner = Owner(self.store, SystemClock(), lease_seconds=3600)
        self.keeping: list[asyncio.Task[Any]] = []
        self.now(self.owner.start(self.spawn))
        return self.ledger_class(SystemClock(), given, self.store, self.owner)

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        self.keeping.append(asyncio.get_running_loop().create_task(work))
        return self.keeping[-1]

    def now(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.place.run(coroutine)

    def teardown(self) -> None:
        async def stop() -> None:
            for task in self.keeping:
                task.cancel()
            await asyncio.wait(self.keeping)
            await self.owner.stop()

        self.now(stop())

    @rule(key=test_ledger.KEYS)
    def run_at_once(self, key: str) -> None:
        """Claim and start as a call without a limit does: in one write."""
        self.plan(key)
        row, state = self.rows[key], self.state[key]
        renewed = state in ("rejected", "undone")
        if state not in ("planned", "approved", "rejected", "undone") or (
            renewed and self.generation[key] >= test_ledger.MAX_GENERATIONS
        ):
            return
        self.fence[key] = self.now(self.ledger.claim(row, waits=False))
        self.generation[key] += renewed
        self.state[key] = "claimed"
        self.start(key, 0)

    @invariant()
    def the_store_has_what_the_model_says(self) -> None:
        for key, row in self.rows.items():
            found = self.now(self.store.read(action_rows.READ, identity=row.call.identity))
            if not found:
                assert self.state[key] == "planned"
                continue
            (columns,) = found
            seen = {name: columns[name] for name in ("state", "generation", "fence", "attempts", "owner")}
            assert seen == {
                "state": self.state[key],
                "generation": self.generation[key],
                "fence": self.fence[key],
                "attempts": self.attempts[key],
                "owner": self.owner.id,
            }
            if self.state[key] == "done":
                again = action_rows.row_of(columns)
                assert action_rows.result_of(again) == self.result[key]
                assert replace(again.record(), history=()) == replace(row.record(), history=())


def run_machine(place: Place, kind: type[Ledger], *, examples: int, **how: Any) -> None:
    machine = type("Machine", (DurableMachine,), {"ledger_class": kind, "place": place})
    given = settings(test_ledger.QUICK, max_examples=examples, **how)
    run_state_machine_as_test(machine, settings=given)


def test_the_table_holds_on_every_engine(place: Place) -> None:
    run_machine(place, DurableLedger, examples=40 if place.where == ":memory:" else 6, stateful_step_count=25)


class WithoutFence(DurableLedger):
    async def start(self, row: Row, fence: int) -> None:
        await super().start(row, row.fence)


class TellsBeforeItWrites(DurableLedger):
    async def finish(self, row: Row, fence: int, event: ActionEvent, **outcome: Any) -> bool:
        return await Ledger.finish(self, row, fence, event, **outcome)


class KeepsClaimsToItself(DurableLedger):
    async def claim(self, row: Row, *, waits: bool = True) -> int:
        return await Ledger.claim(self, row)


class ForgetsResults(DurableLedger):
    async def finish(self, row: Row, fence: int, event: ActionEvent, *, result: object = None, **outcome: Any) -> bool:
        return await super().finish(row, fence, event, **outcome)


@pytest.mark.parametrize("broken", [WithoutFence, TellsBeforeItWrites, KeepsClaimsToItself, ForgetsResults])
def test_the_model_catches(broken: type[Ledger]) -> None:
    with place_of(":memory:") as place, pytest.raises((AssertionError, pytest.fail.Exception)):
        run_machine(
            place, broken, examples=400, stateful_step_count=60,
            database=None, derandomize=True, print_blob=False, phases=[Phase.generate],
        )  # fmt: skip


# ------------------------------------------------------------------ sandboxes on one store


class DeclinedError(Exception):
    pass


class World:
    """What was charged, and what becomes of the next charges."""

    charged: list[str]
    gate: asyncio.Event
    answers: list[BaseException | object]


@irreversible(
    "card.charge",
    key=lambda invoice: invoice,
    facts=lambda invoice, total: {"total": total},
    rejected=(DeclinedError,),
)
async def charge(invoice: str, total: int = 1) -> Any:
    World.charged.append(invoice)
    await World.gate.wait()
    answer = World.answers.pop(0) if World.answers else f"paid {invoice}"
    if isinstance(answer, BaseException):
        raise answer
    return answer


@irreversible("mail.send")
async def send(to: str) -> str:
    World.charged.append(to)
    return f"sent {to}"


@irreversible("card.limited", key=lambda invoice: invoice, limit="card")
async def charge_limited(invoice: str) -> str:
    World.charged.append(invoice)
    return f"paid {invoice}"


Visit = Callable[[Store], Coroutine[Any, Any, None]]


def on_store(visit: Visit) -> None:
    """Run a test on an open store in memory, in virtual time."""

    async def main() -> None:
        World.charged, World.answers, World.gate = [], [], asyncio.Event()
        World.gate.set()
        async with open_store(":memory:", clock=Virtual()) as store:
            await visit(store)

    run_virtual(main())


def make_sandbox(store: Any, **given: Any) -> Sandbox:
    given.setdefault("dry_run", False)
    limits = GovernorSettings(limits={"card": Limit(1, 10.0)})
    # What a worker does in the store now and then would be counted too.
    quiet = WorkerSettings(run_durable=False)
    return Sandbox(store=store, clock=Virtual(), governor=limits, worker=quiet, **given)


class Corpse:
    """The task of an owner that a simulated power cut has ended."""

    is_dead = True


CORPSE = Corpse()


@asynccontextmanager
async def dying(store: Store) -> AsyncIterator[Sandbox]:
    """Give a sandbox that is dead at the end of the block: its tasks go on, but nobody believes them."""
    sandbox = make_sandbox(store)
    await sandbox.initialize()
    owner = sandbox._services.owner
    assert owner is not None
    name = owner.id
    try:
        with bound_to(sandbox):
            yield sandbox
    finally:
        owner._id = None  # it gives nothing back
        await sandbox.cleanup()
        from asyncsandbox._core import owners

        owners._here[name] = CORPSE  # type: ignore[assignment]


@contextmanager
def bound_to(sandbox: Sandbox) -> Iterator[None]:
    from asyncsandbox._core.context import bound_host

    with bound_host(sandbox._runtime):
        yield


async def states_in(store: Store) -> list[tuple[str, str]]:
    found = store._engine._connection._connection.execute("SELECT key, state FROM sandbox_actions ORDER BY key")
    return found.fetchall()


class Counting:
    """Counts what a store is asked."""

    def __init__(self, store: Store) -> None:
        self.asked: Counter[str] = Counter()
        self.operations: list[str] = []
        for name in ("read", "write"):
            setattr(store._engine, name, self._count(name, getattr(store._engine, name)))

    def _count(self, name: str, function: Any) -> Any:
        async def counted(bounds: tuple[Bound, ...]) -> Any:
            if not bounds[0].operation.name.startswith("owners."):
                self.asked[name] += 1
                self.operations.append(bounds[0].operation.name)
            return await function(bounds)

        return counted


def test_a_call_costs_one_read_and_two_writes() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store):
            counting = Counting(store)
            for cost, calling in [
                ({"read": 1, "write": 2}, lambda: charge("a")),
                ({"read": 1}, lambda: charge("a")),
                ({"read": 1, "write": 3}, lambda: charge_limited("b")),
                ({"read": 1, "write": 2}, lambda: send("ada")),
                ({"write": 2}, lambda: send("ada")),
            ]:
                counting.asked.clear()
                await calling()
                assert dict(counting.asked) == cost, counting.operations

    on_store(visit)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(test_pipeline.STEPS)
def test_every_key_runs_at_most_once_under_any_schedule_and_any_cancellation(steps: list[Any]) -> None:
    """The property of the pipeline itself, with each row in a store."""

    async def visit(store: Store) -> None:
        await store.attach(OWNERS, ACTIONS)
        owner = Owner(store, Virtual(), lease_seconds=30)
        keeping: list[asyncio.Task[Any]] = []

        def spawn(work: Any, name: str) -> asyncio.Task[Any]:
            keeping.append(asyncio.get_running_loop().create_task(work))
            return keeping[-1]

        await owner.start(spawn)
        await test_pipeline.carry_out(steps, make_runtime(ledger=DurableLedger(Virtual(), None, store, owner)))
        keeping[0].cancel()
        await asyncio.wait(keeping)
        assert {state for _, state in await states_in(store)} <= {"done", "rejected", "unknown", "approved"}

    on_store(visit)


# ------------------------------------------------------------------ leases


@dataclass(frozen=True)
class Stall:
    """How long a process is stalled between its look and its start, and before that."""

    before: float
    between: float


STALLS = st.builds(
    Stall, before=st.sampled_from([0.0, 5.0, 40.0]), between=st.sampled_from([0.0, 5.0, 29.0, 31.0, 500.0])
)


def start_after(stall: Stall) -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            owner = sandbox._services.owner
            assert owner is not None
            (keeping,) = (task for task in sandbox._components[0]._tasks)
            keeping.cancel()  # a stalled process renews nothing
            await asyncio.wait([keeping])
            durable = sandbox._runtime.ledger
            await asyncio.sleep(stall.before)
            row = await durable.plan(call("a"), correlation_id=None)
            fence = await durable.claim(row)
            await asyncio.sleep(stall.between)
            await durable.start(row, fence)
            (columns,) = await store.read(action_rows.READ, identity="id-a")
            assert columns["leased"], "what starts, starts under a lease"

    on_store(visit)


@given(STALLS)
def test_nothing_starts_without_a_lease(stall: Stall) -> None:
    start_after(stall)


def test_a_start_that_does_not_ask_for_the_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = replace_operation(action_rows.WRITE_LEASED, action_rows.WRITE.sql)
    operations = tuple(loose if each is action_rows.WRITE_LEASED else each for each in ACTIONS.operations)
    object.__setattr__(ACTIONS, "operations", operations)
    right = action_rows.WRITE_LEASED
    monkeypatch.setattr(action_rows, "WRITE_LEASED", loose)
    try:
        must_catch(start_after, STALLS)
    finally:
        restored = tuple(right if each is loose else each for each in operations)
        object.__setattr__(ACTIONS, "operations", restored)


def replace_operation(operation: Any, sql: str) -> Any:
    return type(operation)(operation.name, sql)


# ------------------------------------------------------------------ others at work


def test_whoever_is_at_work_elsewhere_is_waited_for_as_long_as_the_deadline_allows() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            World.gate.clear()
            with bound_to(one):
                first = asyncio.create_task(charge("a"))
            await asyncio.sleep(1)
            with bound_to(two):
                second = asyncio.create_task(charge("a"))
                third = asyncio.create_task(charge("a", 2))
                clock = two._runtime.clock
                with CallScope(clock, 5.0):
                    hurried = asyncio.create_task(charge("a"))
                cancelled = asyncio.create_task(charge("a"))
            await asyncio.sleep(1)
            cancelled.cancel()
            await asyncio.wait([cancelled, third])
            assert isinstance(third.exception(), IdempotencyConflictError)
            assert cancelled.cancelled()
            await asyncio.sleep(100)
            assert not first.done()
            assert not second.done()
            World.gate.set()
            assert await first == await second == await hurried == "paid a", "those of one process wait together"
            assert World.charged == ["a"]
            World.gate.clear()
            with bound_to(one):
                first = asyncio.create_task(charge("b"))
            await asyncio.sleep(1)
            elsewhere = pytest.raises(RunningElsewhereError, match="another process was at work on card")
            with bound_to(two), CallScope(clock, 5.0), elsewhere:
                await charge("b")
            World.answers.append(DeclinedError("no"))
            with bound_to(two):
                second = asyncio.create_task(charge("b"))
            await asyncio.sleep(1)
            World.gate.set()
            with pytest.raises(DeclinedError):
                await first
            assert await second == "paid b", "what was rejected may be tried again"

    on_store(visit)


def test_the_undo_of_another_process_is_not_waited_for() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            with bound_to(one):
                await charge("a")
            row = one._runtime.ledger.get_row("card.charge", "a")
            await one._runtime.ledger.move_undo(row, ActionEvent.UNDO)
            with bound_to(two), pytest.raises(ActionStateError, match="undoing"):
                await charge("a")
            with pytest.raises(ActionStateError):
                await two.recover("card.charge", "a", happened=True)
            await one._runtime.ledger.move_undo(row, ActionEvent.UNDO_RETURN)
            with bound_to(two):
                assert await charge("a") == "paid a", "undone, it may be done in the next generation"
            assert two.get_actions()[0].generation == 2

    on_store(visit)


# ------------------------------------------------------------------ what the dead leave behind


async def leave_behind(store: Store, *states: str) -> None:
    """Let a dead process leave rows in these states, with their states as keys."""
    async with dying(store) as sandbox:
        ledger = sandbox._runtime.ledger
        for state in states:
            row = await ledger.plan(call(state), correlation_id="c")
            fence = await ledger.claim(row)
            if state == "claimed":
                continue
            await ledger.start(row, fence)
            if state != "started":
                event = ActionEvent.LOSE if state == "unknown" else ActionEvent.RETURN
                await ledger.finish(row, fence, event, result="r")
            if state == "undoing":
                await ledger.move_undo(row, ActionEvent.UNDO)


def test_what_the_dead_left_behind_is_settled_at_the_start() -> None:
    async def visit(store: Store) -> None:
        await leave_behind(store, "claimed", "started", "done", "undoing", "unknown")
        async with make_sandbox(store):
            assert dict(await states_in(store)) == {
                "claimed": "approved",
                "started": "unknown",
                "done": "done",
                "undoing": "undo_unknown",
                "unknown": "unknown",
            }

    on_store(visit)


def test_what_a_gone_process_left_behind_is_settled_when_its_lease_is_over() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            right = Owner.judge
            async with dying(store) as other:
                ledger = other._runtime.ledger
                row = await ledger.plan(call("a"), correlation_id=None)
                await ledger.start(row, await ledger.claim(row))

            def on_another_machine(self: Owner, owner: str, *, leased: bool) -> OwnerState:
                if owner == row.owner:
                    return OwnerState.ALIVE if leased else OwnerState.EXPIRED
                return right(self, owner, leased=leased)

            Owner.judge = on_another_machine  # type: ignore[method-assign]
            try:
                with bound_to(sandbox), CallScope(Virtual(), 20.0), pytest.raises(RunningElsewhereError):
                    await sandbox._runtime.ledger.look_up(call("a"))
                await asyncio.sleep(30)
                found = await sandbox._runtime.ledger.look_up(call("a"))
            finally:
                Owner.judge = right  # type: ignore[method-assign]
            assert found is not None
            assert (found.state, found.died_at) == (ActionState.UNKNOWN, None)
            assert "longer than a lease" in str(found.error)
            assert not await sandbox._runtime.ledger.may_rule_out(found) or found.died_at is not None

    on_store(visit)


@irreversible("card.verified", key=lambda invoice: invoice, verify=lambda invoice: World.answers.pop(0))
async def charge_verified(invoice: str) -> str:
    World.charged.append(invoice)
    await World.gate.wait()
    return f"paid {invoice}"


@pytest.mark.parametrize("already_unknown", [False, True])
def test_verify_rules_a_call_out_once_its_owner_is_dead_and_all_has_settled(already_unknown: bool) -> None:
    async def visit(store: Store) -> None:
        async with dying(store) as sandbox:
            World.gate.clear()
            calling = asyncio.create_task(charge_verified("a"))
            await asyncio.sleep(1)
            if already_unknown:
                for task in sandbox._runtime._unfinished():
                    task.cancel()
                await asyncio.wait([calling])
        if not already_unknown:
            rows = store._engine._connection._connection
            rows.execute("UPDATE sandbox_actions SET state = 'started'")  # the power cut came earlier
            calling.exception()
        World.gate.set()
        async with make_sandbox(store, ledger=LedgerSettings(settle_seconds=60)) as sandbox:
            World.answers = [False, False, False]
            for _ in range(2):
                with pytest.raises(OutcomeUnknownError, match="may still arrive"):
                    await charge_verified("a")
                await asyncio.sleep(59)
            await asyncio.sleep(1)
            assert await charge_verified("a") == "paid a"
            assert [event.name for event in sandbox._runtime.journal.get_events("action.ruled_out")]
        assert World.charged == ["a", "a"]

    on_store(visit)


def test_verify_never_rules_out_a_call_of_a_process_that_lives() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            World.gate.clear()
            with bound_to(one):
                calling = asyncio.create_task(charge_verified("a"))
            await asyncio.sleep(1)
            for task in one._runtime._unfinished():
                task.cancel()
            await asyncio.wait([calling])
            World.answers = [False]
            await asyncio.sleep(1000)
            with bound_to(two), pytest.raises(OutcomeUnknownError, match="may still arrive"):
                await charge_verified("a")
            World.answers = ["it is there"]
            with bound_to(two):
                assert await charge_verified("a") == "it is there"

    on_store(visit)


def test_two_that_find_out_at_the_same_time_agree() -> None:
    found: asyncio.Event

    @irreversible("card.slow", key=lambda invoice: invoice, verify=lambda invoice: look())
    async def charge_slowly(invoice: str) -> str:
        raise ConnectionResetError

    async def look() -> object:
        await found.wait()
        return {"seen": "at the bank"}

    async def visit(store: Store) -> None:
        nonlocal found
        found = asyncio.Event()
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            with bound_to(one), pytest.raises(ConnectionResetError):
                await charge_slowly("a")
            asking = []
            for sandbox in (one, two):
                with bound_to(sandbox):
                    asking.append(asyncio.create_task(charge_slowly("a")))
            await asyncio.sleep(1)
            found.set()
            assert await asyncio.gather(*asking) == [{"seen": "at the bank"}] * 2

            row = two._runtime.ledger.get_row("card.slow", "a")
            row.result = None  # as it is when a row was read anew
            assert row.get_result() == {"seen": "at the bank"}

    on_store(visit)


def test_a_person_settles_what_another_process_left_behind() -> None:
    async def visit(store: Store) -> None:
        await leave_behind(store, "started", "done")
        async with make_sandbox(store) as sandbox:
            with pytest.raises(ActionNotFoundError):
                await sandbox.recover("card.charge", "nothing", happened=True)
            with pytest.raises(ActionStateError, match="done"):
                await sandbox.recover("card.charge", "done", happened=False)
            await sandbox.recover("card.charge", "started", happened=True, result={"seen": [1]})
            row = await sandbox._runtime.ledger.look_up(call("started"))
            assert row is not None
            assert (row.state, row.result) == (ActionState.DONE, {"seen": [1]})

    on_store(visit)


def test_equal_calls_without_a_key_of_a_dead_process_need_a_person() -> None:
    async def visit(store: Store) -> None:
        async with dying(store):
            await send("ada")
            await send("ada")
            await send("grace")
        async with make_sandbox(store) as sandbox:
            assert await send("joan") == "sent joan"
            with pytest.raises(OutcomeUnknownError, match="2 equal without a key") as caught:
                await send("ada")
            await sandbox.recover("mail.send", caught.value.key, happened=True)
            assert await send("ada") == "sent ada"
            with pytest.raises(ActionStateError):
                await sandbox.recover("mail.send", caught.value.key, happened=True)
        async with make_sandbox(store):
            assert await send("ada") == "sent ada", "whoever stopped in good order leaves nothing open"
            with pytest.raises(OutcomeUnknownError):
                await send("grace")
        assert Counter(World.charged) == {"ada": 4, "grace": 1, "joan": 1}

    on_store(visit)


def test_of_equal_calls_each_unknown_one_is_settled_before_the_group_is_free() -> None:
    async def visit(store: Store) -> None:
        async with dying(store):
            await send("ada")
            await send("ada")
        rows = store._engine._connection._connection
        rows.execute("UPDATE sandbox_actions SET state = 'started'")
        async with make_sandbox(store) as sandbox:
            for _ in range(2):
                with pytest.raises(OutcomeUnknownError) as caught:
                    await send("ada")
                await sandbox.recover("mail.send", caught.value.key, happened=False)
            assert await send("ada") == "sent ada"

    on_store(visit)


def test_many_groups_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_book, "_MANY_GROUPS", 2)

    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            for number in range(5):
                await send(f"{number}")
            assert len(sandbox._runtime.ledger._book._clean) <= 2

    on_store(visit)


# ------------------------------------------------------------------ results and secrets


class Local:
    """Not to be stored."""


def test_results_come_back_equal_and_anew_and_those_that_cannot_say_so() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store):
            World.answers = [{"items": [1]}, Local(), None]
            first = await charge("a")
            again = await charge("a")
            assert first == again == {"items": [1]}
            again["items"].append(2)
            assert await charge("a") == {"items": [1]}
            assert isinstance(await charge("b"), Local)
            with pytest.raises(ResultUnavailableError, match=r"card\.charge\[b\] has run and will not run again"):
                await charge("b")
            assert await charge("c") is None
        rows = store._engine._connection._connection
        rows.execute("UPDATE sandbox_actions SET result = ? WHERE key = 'c'", (b'{"$value":["gone:Class",{}]}',))
        async with make_sandbox(store):
            assert await charge("a") == {"items": [1]}
            for key in "bc":
                with pytest.raises(ResultUnavailableError):
                    await charge(key)
        assert World.charged == ["a", "b", "c"]

    on_store(visit)


CANARY = "4242-canary-4242"


@irreversible(
    "card.masked",
    key=lambda invoice: invoice,
    redact=("card_token",),
    not_delivered=(ConnectionError,),
    retry=RetrySettings(max_retries=2, backoff_base_seconds=0.01, retry_on=(ConnectionError,)),
    verify=lambda invoice, card_token: {"found": card_token},
)
async def charge_masked(invoice: str, *, card_token: str, idempotency_key: str = FILLED_IN) -> object:
    World.charged.append(invoice)
    if invoice == "fails":
        raise ValueError(f"the bank refuses {card_token}")
    if invoice == "retried" and World.charged.count(invoice) < 3:
        raise ConnectionError(f"no line for {card_token}")
    return {"used": card_token} if invoice == "tells" else f"paid {invoice}"


async def test_nothing_masked_reaches_the_file(tmp_path: Path) -> None:
    World.charged = []
    async with Sandbox(dry_run=False, store=tmp_path / "store.sqlite") as sandbox:
        assert await charge_masked("tells", card_token=CANARY) == {"used": CANARY}
        with pytest.raises(ResultUnavailableError, match="redact="):
            await charge_masked("tells", card_token=CANARY)
        with pytest.raises(ValueError, match=CANARY):
            await charge_masked("fails", card_token=CANARY)
        assert await charge_masked("retried", card_token=CANARY) == "paid retried"
        (retried,) = sandbox.get_actions(key="retried")
        assert ["******" in str(each.error) for each in retried.history[:2]] == [True, True]
        (failed,) = sandbox.get_actions(key="fails")
        assert failed.error == "ValueError: the bank refuses ******"
        assert await charge_masked("fails", card_token=CANARY) == {"found": CANARY}, (
            "verify finds it, and tells the card"
        )
        with pytest.raises(ResultUnavailableError):
            await charge_masked("fails", card_token=CANARY)
        seen = read_all(tmp_path)
        assert b"paid retried" in seen
        assert CANARY.encode() not in seen
        assert CANARY.encode().hex().encode() not in seen


def read_all(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("store.sqlite*"))


def test_text_that_no_database_takes_is_written_so_that_it_can() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            World.answers = [ValueError("nul \0 and half \ud800")]
            with pytest.raises(ValueError, match="nul"):
                await charge("k\0ey")
            await sandbox.recover("card.charge", "k\0ey", happened=True)

    on_store(visit)


# ------------------------------------------------------------------ a store in trouble


class Failing:
    """Lets some writes of a store fail: not written at all, or written and never acknowledged."""

    def __init__(self, store: Store) -> None:
        self.plan: list[str] = []
        self._write = store._engine.write
        store._engine.write = self  # type: ignore[method-assign]

    async def __call__(self, bounds: tuple[Bound, ...]) -> Any:
        what = self.plan.pop(0) if self.plan and not bounds[0].operation.name.startswith("owners.") else "well"
        if what == "lost":
            await self._write(bounds)
        if what != "well":
            raise StoreUnavailableError(bounds[0].operation.name, what)
        return await self._write(bounds)


def test_an_outcome_that_could_not_be_written_is_written_at_the_next_look() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            failing = Failing(store)
            failing.plan = ["well", "full"]
            with pytest.raises(StoreUnavailableError) as caught:
                await charge("a")
            assert "nobody else can see it" in caught.value.__notes__[0]
            assert await states_in(store) == [("a", "started")]
            assert await charge("a") == "paid a"
            failing.plan = ["well", "full"]
            with pytest.raises(StoreUnavailableError):
                await charge("b")
            with pytest.raises(ActionStateError):
                await sandbox.recover("card.charge", "b", happened=False)
            failing.plan = ["well", "full"]
            with pytest.raises(StoreUnavailableError):
                await charge("c")
        assert await states_in(store) == [("a", "done"), ("b", "done"), ("c", "done")]
        assert World.charged == ["a", "b", "c"]

    on_store(visit)


def test_an_outcome_that_could_not_be_written_is_not_kept_from_others_for_long() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            failing = Failing(store)
            failing.plan = ["well", "full", "full"]
            with bound_to(one), pytest.raises(StoreUnavailableError):
                await charge("a")
            with bound_to(two), CallScope(Virtual(), 25.0):
                assert await charge("a") == "paid a"
            assert one._runtime.journal.get_events("store.lease_not_renewed")

    on_store(visit)


def test_a_person_who_settles_a_call_that_is_about_to_start_changes_nothing() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            for steps in range(20):
                calling = asyncio.create_task(charge(f"{steps}"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                with pytest.raises((ActionNotFoundError, ActionStateError)):
                    await sandbox.recover("card.charge", f"{steps}", happened=False)
                assert await calling == f"paid {steps}"
                assert await charge(f"{steps}") == f"paid {steps}"
            assert len(World.charged) == 20

    on_store(visit)


@pytest.mark.parametrize("plan", [["full"], ["lost"], ["lost", "full"], ["lost", "lost"], ["full", "full"]])
@pytest.mark.parametrize("limited", [False, True])
def test_a_start_that_may_have_been_written_has_not_happened(plan: list[str], limited: bool) -> None:
    async def visit(store: Store) -> None:
        action = charge_limited if limited else charge
        async with make_sandbox(store):
            failing = Failing(store)
            failing.plan = [*(["well"] if limited else []), *plan]
            with pytest.raises(StoreUnavailableError):
                await action("a")
            assert World.charged == []
            failing.plan = []
            assert await action("a") == "paid a"
            assert World.charged == ["a"]
        async with make_sandbox(store):
            assert await action("a") == "paid a"

    on_store(visit)


def test_a_start_in_doubt_is_cleared_up_when_the_sandbox_stops() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store):
            failing = Failing(store)
            for key, plan in (("a", ["lost", "full"]), ("b", ["full", "full"])):
                failing.plan = plan
                with pytest.raises(StoreUnavailableError):
                    await charge(key)
                failing.plan = []
        assert await states_in(store) == [("a", "approved")]

    on_store(visit)


def test_a_call_cancelled_while_its_start_is_written_has_not_happened() -> None:
    class Slow:
        """Takes its time to acknowledge."""

        def __init__(self, store: Store) -> None:
            self._write = store._engine.write
            store._engine.write = self  # type: ignore[method-assign]

        async def __call__(self, bounds: tuple[Bound, ...]) -> Any:
            result = await self._write(bounds)
            await asyncio.sleep(1)
            return result

    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            Slow(store)
            for key, after in (("a", 0.5), ("b", 1.5)):
                calling = asyncio.create_task(charge(key))
                await asyncio.sleep(after)
                for task in sandbox._runtime._unfinished():
                    task.cancel()
                await asyncio.wait([calling])
            await asyncio.sleep(5)
            assert World.charged == ["b"]
            assert await states_in(store) == [("a", "approved"), ("b", "done")]

    on_store(visit)


def test_denials_leave_no_row() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            await charge_limited("a")
            with CallScope(Virtual(), 5.0), pytest.raises(Exception, match="card"):
                await charge_limited("b")
            waiting = asyncio.create_task(charge_limited("c"))
            await asyncio.sleep(1)
            assert ("c", "claimed") in await states_in(store)
            waiting.cancel()
            await asyncio.wait([waiting])
            with CallScope(Virtual(), 0.0), pytest.raises(TimeoutError):
                await charge("d")
            assert await states_in(store) == [("a", "done")]
            assert [record.key for record in sandbox.get_actions()] == ["a"]
            World.answers = [DeclinedError("no")]
            with pytest.raises(DeclinedError):
                await charge("e")
            with CallScope(Virtual(), 0.0), pytest.raises(TimeoutError):
                await charge("e")
            assert await charge("e") == "paid e"
            assert sandbox.get_actions(key="e")[0].generation == 2

    on_store(visit)


def test_a_claim_that_was_lost_is_not_given_back() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as one, make_sandbox(store) as two:
            first, second = one._runtime.ledger, two._runtime.ledger
            mine = await first.plan(call("a"), correlation_id=None)
            theirs = await second.plan(call("a"), correlation_id=None)
            fence = await first.claim(mine, waits=False)
            assert await second.claim(theirs, waits=False) == fence, "nothing of either is written yet"
            await second.start(theirs, fence)
            with pytest.raises(ClaimLostError, match="moved by somebody else and is started now"):
                await first.start(mine, fence)
            await first.release(mine, fence, forget=True)
            assert await states_in(store) == [("a", "started")]
            await second.finish(theirs, fence, ActionEvent.LOSE)
            assert (await first.look_up(call("a"))) is mine
            late = await first.claim_unknown(mine)
            with pytest.raises(ClaimLostError):
                await second.claim_unknown(theirs)
            await first.restart(mine, late)
            assert not await second.finish(theirs, fence, ActionEvent.RETURN, result="late"), "its fence is old"

    on_store(visit)


def test_a_claim_that_somebody_took_over_is_not_deleted() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            ledger = sandbox._runtime.ledger
            row = await ledger.plan(call("a"), correlation_id=None)
            fence = await ledger.claim(row)
            rows = store._engine._connection._connection
            rows.execute("UPDATE sandbox_actions SET state = 'approved', version = version + 1")
            await ledger.release(row, fence, forget=True)
            assert await states_in(store) == [("a", "approved")]
            assert row.state is ActionState.APPROVED

    on_store(visit)


@irreversible("card.resent", key=lambda invoice: invoice, resend_within_seconds=600)
async def charge_again(invoice: str, *, idempotency_key: str = FILLED_IN) -> str:
    World.charged.append(idempotency_key)
    answer = World.answers.pop(0)
    if isinstance(answer, BaseException):
        raise answer
    return str(answer)


def test_a_call_that_a_crash_left_unknown_is_sent_again_in_time_with_the_key_it_had() -> None:
    async def visit(store: Store) -> None:
        async with dying(store):
            World.answers = [ConnectionResetError(), ConnectionResetError()]
            for invoice in "ab":
                with pytest.raises(ConnectionResetError):
                    await charge_again(invoice)
        await asyncio.sleep(500)
        async with make_sandbox(store):
            World.answers = ["paid"]
            assert await charge_again("a") == await charge_again("a") == "paid"
            await asyncio.sleep(200)
            with pytest.raises(OutcomeUnknownError):
                await charge_again("b")
        first, other, again = World.charged
        assert first == again != other

    on_store(visit)


def test_a_person_settles_what_a_process_left_behind_that_died_while_we_ran() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            await leave_behind(store, "started")
            await sandbox.recover("card.charge", "started", happened=False)
            assert await states_in(store) == [("started", "approved")]

    on_store(visit)


def test_old_rows_make_room_and_are_still_there() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store, ledger=LedgerSettings(max_rows=2)) as sandbox:
            World.gate.clear()
            calls = [asyncio.create_task(charge(key)) for key in "abc"]
            await asyncio.sleep(1)
            assert len(sandbox.get_actions()) == 3, "whatever is under way is kept"
            World.gate.set()
            await asyncio.gather(*calls)
            for key in "defg":
                await charge(key)
            assert len(sandbox.get_actions()) == 3
            assert await charge("a") == "paid a"
            assert World.charged.count("a") == 1

    on_store(visit)


def test_a_row_that_was_read_late_does_not_undo_what_came_since() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:
            book = sandbox._runtime.ledger._book
            row = await sandbox._runtime.ledger.plan(call("a"), correlation_id=None)
            fence = await sandbox._runtime.ledger.claim(row)
            (early,) = await store.read(action_rows.READ, identity="id-a")
            await sandbox._runtime.ledger.start(row, fence)
            assert book.see(early) is row
            assert row.state is ActionState.STARTED
            (now,) = await store.read(action_rows.READ, identity="id-a")
            after = StoredRow(call=row.call, correlation_id=None, version=now["version"] - 1)
            await book._carry_out(
                action_rows.WRITE,
                {"identity": "id-a", "was": now["version"], **action_rows.changes_of(row)},
                row,
                after,
            )
            assert row.state is ActionState.STARTED, "a write that was forestalled here"

    on_store(visit)


# ------------------------------------------------------------------ the sandbox around it


def test_namespaces_know_nothing_of_each_other() -> None:
    async def visit(store: Store) -> None:
        for namespace in ("red", "blue"):
            async with make_sandbox(store, namespace=namespace):
                assert await charge("a") == "paid a"
        assert World.charged == ["a", "a"]

    on_store(visit)


def test_a_dry_run_knows_what_is_done_and_writes_nothing() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store):
            World.answers = ["paid", Local(), ValueError("lost")]
            await charge("a")
            await charge("b")
            with pytest.raises(ValueError, match="lost"):
                await charge("c")
        before = await states_in(store)
        async with make_sandbox(store, dry_run=True) as sandbox:
            counting = Counting(store)
            assert await charge("a") == await charge("a") == "paid"
            with pytest.raises(ResultUnavailableError):
                await charge("b")
            with pytest.raises(IdempotencyConflictError):
                await charge("c", 2)
            await charge("d")
            await charge("c")
            await send("ada")
            plan = await sandbox.make_plan()
            assert [action.key for action in plan.actions if action.keyed] == ["c", "d"]
            assert [record.key for record in sandbox.get_actions(state="done")] == ["a"]
            assert counting.asked["write"] == 0
            assert sandbox._services.owner is None
        assert await states_in(store) == before
        assert await store.read(action_rows.LIST_AT_WORK, owner="") == ()

    on_store(visit)


def test_a_store_that_was_given_open_stays_open_and_may_be_closed_first() -> None:
    async def main() -> None:
        World.charged, World.answers, World.gate = [], [], asyncio.Event()
        World.gate.set()
        store = open_store(":memory:", clock=Virtual())
        await store.open()
        async with make_sandbox(store) as sandbox:
            assert sandbox._services.store is not None
            await charge("a")
        assert await states_in(store) == [("a", "done")]
        async with make_sandbox(store):
            await charge("a")
            await store.close()

    run_virtual(main())


def test_a_store_that_cannot_be_opened_keeps_the_sandbox_from_starting(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 10)

    async def main() -> None:
        with pytest.raises(Exception, match="component 'store' failed"):
            await make_sandbox(tmp_path / "store.sqlite").initialize()

    asyncio.run(main())


@pytest.mark.parametrize("exists", [False, True])
def test_the_ledger_is_never_kept_in_the_apps_own_file(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "shop.db"
    if exists:
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for store in (path, tmp_path / "link" / "shop.db", f"sqlite:///{path}"):
        with pytest.raises(ConfigurationError, match="a file of its own"):
            Sandbox(store=store, database_url=f"sqlite+aiosqlite:///{path}")
    Sandbox(store=tmp_path / "store.sqlite", database_url=str(path))


async def test_a_live_sandbox_with_a_durable_store_is_go(tmp_path: Path) -> None:
    for place, verdict in ((tmp_path / "store.sqlite", "GO"), (":memory:", "DEGRADED")):
        async with Sandbox(dry_run=False, store=place) as sandbox:
            assert (await sandbox.readiness.run_all_checks()).verdict.value == verdict
            assert sandbox.get_status().components[0].name == "store"
    environ = {"ASYNCSANDBOX_STORE": str(tmp_path / "store.sqlite"), "ASYNCSANDBOX_LEDGER__LEASE_SECONDS": "5"}
    async with Sandbox.from_env(environ, dry_run=False) as sandbox:
        assert sandbox._services.store is not None


@pytest.mark.parametrize(("name", "value"), [("lease_seconds", 0.5), ("settle_seconds", -1)])
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        LedgerSettings(**{name: value})


def test_a_sandbox_that_is_started_again_goes_on_where_it_was() -> None:
    async def visit(store: Store) -> None:
        sandbox = make_sandbox(store)
        for _ in range(2):
            async with sandbox:
                assert await charge("a") == "paid a"
                assert await send("ada") == "sent ada"
        assert Counter(World.charged) == {"a": 1, "ada": 2}

    on_store(visit)


@reversible("stock.reserve", key=lambda item: item, undo=lambda item: World.charged.append(f"undo {item}"))
async def reserve(item: str) -> str:
    World.charged.append(item)
    return f"reserved {item}"


def test_what_a_saga_undid_is_undone_in_the_store() -> None:
    async def visit(store: Store) -> None:
        async with make_sandbox(store) as sandbox:

            async def order() -> None:
                async with sandbox.saga("order"):
                    await reserve("bolt")
                    raise ValueError("no")

            with pytest.raises(ValueError, match="no"):
                await order()
            assert await states_in(store) == [("bolt", "undone")]
        async with make_sandbox(store):
            assert await reserve("bolt") == "reserved bolt"
        assert World.charged == ["bolt", "undo bolt", "bolt"]

    on_store(visit)
