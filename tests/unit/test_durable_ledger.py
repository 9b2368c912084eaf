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

from asyncsandbox import FILLED_IN, GovernorSettings, LedgerSettings, Limit, RetrySettings, Sandbox, irreversible
from asyncsandbox._core import action_rows, durable_ledger, row_book
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
