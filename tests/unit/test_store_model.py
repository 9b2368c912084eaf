"""The store against a dictionary: drawn writes at the same time, failing ones and cancelled ones among them.

What was at the same time may have happened in any order. So each round is right if there is an order of its calls in
which the dictionary gives the same answers; a cancelled call may be in that order, wholly, or not at all.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from postgres import with_schema
from shelf import ADD, BAD, GET, LIST, PUT, SET, SHELF, TAKE

from asyncsandbox._core.store import Bound, Store, StoreSettings, open_store
from asyncsandbox._core.store.inline import InlineEngine
from asyncsandbox._core.store.lane import Unit
from asyncsandbox._core.store.postgres_writer import Writer
from asyncsandbox._core.store.sqlite_connection import SqliteConnection
from asyncsandbox.errors import StoreConflictError, StoreError

Shelf = dict[tuple[str, str], int]
OPERATIONS = {"put": PUT, "set": SET, "add": ADD, "take": TAKE, "bad": BAD, "get": GET}


@dataclass(frozen=True)
class Step:
    """One operation."""

    kind: str
    key: str
    value: int

    def bind(self) -> Bound:
        wanted = OPERATIONS[self.kind].parameters
        return OPERATIONS[self.kind](**{n: v for n, v in (("key", self.key), ("value", self.value)) if n in wanted})

    def apply(self, shelf: Shelf, ns: str) -> Any:
        place = (ns, self.key)
        match self.kind:
            case "put" if place in shelf:
                raise KeyError(place)
            case "bad":
                raise KeyError(place)
            case "put" | "set":
                shelf[place] = self.value
                return (), 1
            case "add" if place in shelf:
                shelf[place] += self.value
                return ({"value": shelf[place]},), 1
            case "take" if place in shelf:
                return ({"key": self.key, "value": shelf.pop(place)},), 1
            case "get" if place in shelf:
                return ({"value": shelf[place]},), 1
        return (), 0


@dataclass(frozen=True)
class Call:
    """What one caller does: some steps together, in a namespace; cancelled after so many rounds of the loop."""

    steps: tuple[Step, ...]
    ns: str
    cancelled_after: int | None

    def apply(self, shelf: Shelf) -> Any:
        trial = dict(shelf)
        try:
            outcome = tuple(step.apply(trial, self.ns) for step in self.steps)
        except KeyError:
            return "refused"
        shelf.clear()
        shelf.update(trial)
        return outcome

    async def make(self, store: Store) -> Any:
        own = store.within(self.ns)
        if len(self.steps) == 1 and self.steps[0].kind == "get":
            return (((rows := await own.read(GET, key=self.steps[0].key)), len(rows)),)
        results = await own.write_all(*(step.bind() for step in self.steps))
        return tuple((result.rows, result.count) for result in results)


STEPS = st.builds(Step, st.sampled_from(sorted(OPERATIONS)), st.sampled_from("ab"), st.integers(0, 9))
CALLS = st.builds(
    Call,
    st.lists(STEPS, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["one", "two"]),
    st.none() | st.none() | st.integers(0, 4),
)
ROUNDS = st.lists(st.lists(CALLS, min_size=1, max_size=4), min_size=1, max_size=5)


async def carry_out(call: Call, store: Store) -> Any:
    task = asyncio.create_task(call.make(store))
    if call.cancelled_after is not None:
        for _ in range(call.cancelled_after):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if isinstance(error, StoreConflictError):
        return "refused"
    assert not isinstance(error, StoreError), error
    return task.result()


async def get_shelf(store: Store) -> Shelf:
    return {(ns, row["key"]): row["value"] for ns in ("one", "two") for row in await store.within(ns).read(LIST)}


def explain(calls: list[Call], outcomes: list[Any], before: Shelf, after: Shelf) -> bool:
    """Tell whether some order of the calls, of the cancelled ones any, gives what came out."""
    sure = [pair for pair in zip(calls, outcomes, strict=True) if pair[1] != "cancelled"]
    open_ones = [pair for pair in zip(calls, outcomes, strict=True) if pair[1] == "cancelled"]
    for count in range(len(open_ones) + 1):
        for chosen in itertools.combinations(open_ones, count):
            for order in itertools.permutations([*sure, *chosen]):
                shelf = dict(before)
                # Each is applied, in this order, whether what it gave was heard of or not.
                fits = [call.apply(shelf) == outcome or outcome == "cancelled" for call, outcome in order]
                if all(fits) and shelf == after:
                    return True
    return False


async def live(store: Store, rounds: list[list[Call]]) -> None:
    shelf = await get_shelf(store)
    assert shelf == {}
    for calls in rounds:
        outcomes = await asyncio.gather(*(carry_out(call, store) for call in calls))
        after = await get_shelf(store)
        assert explain(calls, outcomes, shelf, after), (calls, outcomes, shelf, after)
        shelf = after
    await asyncio.sleep(0.002)
    assert await get_shelf(store) == shelf, "nothing comes after everybody was told"


def check_on(place: Callable[[], str]) -> Callable[[list[list[Call]]], None]:
    async def main(rounds: list[list[Call]]) -> None:
        async with open_store(place(), settings=StoreSettings(max_pending=3)) as store:
            await store.attach(SHELF)
            for ns in ("one", "two"):
                for row in await store.within(ns).read(LIST):
                    await store.within(ns).write(TAKE, key=row["key"])
            await live(store, rounds)

    return lambda rounds: asyncio.run(main(rounds))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder in memory where there is one, to spare the disk."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        import tempfile

        with tempfile.TemporaryDirectory(dir=memory) as name:
            yield Path(name)
    else:
        yield tmp_path_factory.mktemp("model")


drawn = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@drawn
@given(ROUNDS)
def test_the_store_in_memory_is_a_dictionary(rounds: list[list[Call]]) -> None:
    check_on(lambda: ":memory:")(rounds)


@drawn
@given(rounds=ROUNDS)
def test_the_store_in_a_file_is_a_dictionary(folder: Path, rounds: list[list[Call]]) -> None:
    check_on(lambda: str(folder / "store.sqlite"))(rounds)


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    return with_schema(postgres_url)


@settings(drawn, max_examples=40)
@given(rounds=ROUNDS)
def test_the_store_on_postgres_is_a_dictionary(url: str, rounds: list[list[Call]]) -> None:
    check_on(lambda: url)(rounds)


# ------------------------------------------------------------------ what is wrong is found


def forget_savepoints(self: SqliteConnection, unit: Unit) -> Any:
    """Leave what a failed unit did before it failed."""
    single = Unit.__new__(Unit)
    results: list[Any] = []
    for bound in unit.bounds:
        single.bounds = (bound,)
        outcome = ATTEMPT(self, single)
        if isinstance(outcome, Exception):
            return outcome
        results += outcome
    return tuple(results)


def blame_everybody(self: SqliteConnection, group: list[Unit]) -> None:
    """Give one unit's error to all of its group."""
    WRITE_GROUP(self, group)
    error = next((unit.outcome for unit in group if isinstance(unit.outcome, Exception)), None)
    for unit in group:
        unit.outcome = error or unit.outcome


def undo_everybody(self: SqliteConnection, group: list[Unit]) -> None:
    """Undo a whole group for one unit's error, and tell the others that all is well."""
    outcomes: list[Any] = []
    self._connection.execute("BEGIN IMMEDIATE")
    outcomes = [ATTEMPT(self, unit) for unit in group]
    failed = any(isinstance(outcome, Exception) for outcome in outcomes)
    self._connection.execute("ROLLBACK" if failed else "COMMIT")
    for unit, outcome in zip(group, outcomes, strict=True):
        unit.outcome = outcome


def write_twice(self: SqliteConnection, group: list[Unit]) -> None:
    """Write again what was written."""
    WRITE_GROUP(self, group)
    outcomes = [unit.outcome for unit in group]
    WRITE_GROUP(self, group)
    for unit, outcome in zip(group, outcomes, strict=True):
        unit.outcome = outcome


def one_namespace(self: Store, bound: Bound) -> Bound:
    """Give every namespace the same rows."""
    return Bound(bound.operation, {**FILL_IN(self, bound).params, "ns": "one"})


ATTEMPT, WRITE_GROUP, FILL_IN = SqliteConnection._attempt, SqliteConnection.write_group, Store._fill_in
BROKEN = [
    (SqliteConnection, "_attempt", forget_savepoints),
    (SqliteConnection, "write_group", blame_everybody),
    (SqliteConnection, "write_group", undo_everybody),
    (SqliteConnection, "write_group", write_twice),
    (Store, "_fill_in", one_namespace),
]


@contextmanager
def replaced(owner: type, name: str, wrong: Callable[..., Any]) -> Iterator[None]:
    right = getattr(owner, name)
    setattr(owner, name, wrong)
    try:
        yield
    finally:
        setattr(owner, name, right)


def must_catch(check: Callable[[list[list[Call]]], None], *, examples: int = 150) -> None:
    """Assert that some drawn rounds find the fault; real threads may let others find it next time."""
    found: list[object] = []

    @settings(max_examples=examples, database=None, derandomize=True, phases=[Phase.generate])
    @given(ROUNDS)
    def search(rounds: list[list[Call]]) -> None:
        if not found:
            try:
                check(rounds)
            except AssertionError as error:
                found.append(error)

    search()
    assert found


@pytest.mark.parametrize(("owner", "name", "wrong"), BROKEN, ids=lambda each: getattr(each, "__name__", each))
def test_the_dictionary_catches(folder: Path, owner: type, name: str, wrong: Callable[..., Any]) -> None:
    with replaced(owner, name, wrong):
        must_catch(check_on(lambda: str(folder / "broken.sqlite")))


async def commit_by_unit(self: Writer, group: list[Unit]) -> Any:
    """Take the operations of a unit for units of their own."""
    outcomes = []
    for unit in group:
        results: list[Any] = []
        for bound in unit.bounds:
            single = Unit((bound,))
            results += (await COMMIT(self, [single]))[0]
        outcomes.append(tuple(results))
    return outcomes


async def mix_up_rows(self: Writer, group: list[Unit]) -> Any:
    """Give the rows of one call to another."""
    outcomes = await COMMIT(self, group)
    return outcomes[::-1]


COMMIT = Writer._commit


@pytest.mark.parametrize("wrong", [commit_by_unit, mix_up_rows])
def test_the_dictionary_catches_on_postgres(url: str, wrong: Callable[..., Any]) -> None:
    with replaced(Writer, "_commit", wrong):
        must_catch(check_on(lambda: url), examples=80)


def test_the_dictionary_catches_a_store_in_memory_that_writes_late(folder: Path) -> None:
    def write_later(self: InlineEngine, unit: Unit) -> None:
        unit.outcome = ()
        unit.tell()
        asyncio.get_running_loop().call_later(0.001, write, self, Unit(unit.bounds))

    write = InlineEngine._write
    with replaced(InlineEngine, "_write", write_later):
        must_catch(check_on(lambda: ":memory:"))
