"""Jobs that are in the store: what of them is stored, who may finish, and what is done when the store is in trouble."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from children import PATIENCE_SECONDS
from simulation.mutants import Mutant

from asyncsandbox import JobOptions, JobState, LedgerSettings, Sandbox, irreversible, job
from asyncsandbox._core.owners import RELEASE
from asyncsandbox._core.store import Operation, Store, open_store
from asyncsandbox._core.store.patience import Patience
from asyncsandbox.components.worker import Outcome, WorkerSettings, job_table
from asyncsandbox.components.worker.durable import StoreBackend
from asyncsandbox.components.worker.job import _declared_jobs
from asyncsandbox.components.worker.room import Room
from asyncsandbox.components.worker.run import Run
from asyncsandbox.components.worker.stored import Ending
from asyncsandbox.components.worker.taking import Taker
from asyncsandbox.errors import (
    ConfigurationError,
    JobFailedError,
    JobNotFoundError,
    JobNotStorableError,
    NotStartedError,
    QueueFullError,
    ResultCodecError,
    ResultUnavailableError,
    StoreOperationError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
)

gates: dict[str, asyncio.Event] = {}
begun: list[str] = []


@dataclass(frozen=True)
class Order:
    name: str
    total: Decimal


@job("durable.bill")
async def bill(order: Order, *, copies: int = 1) -> tuple[Order, int]:
    return order, copies


@job("durable.connect")
async def connect() -> object:
    return open


@job("durable.hold", max_retries=1)
async def hold(tag: str) -> str:
    begun.append(tag)
    await gates.setdefault(tag, asyncio.Event()).wait()
    return tag


@job("durable.ask")
async def ask() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("only here")


@job("durable.card")
@irreversible("durable.card", key=lambda order: order)
async def charge(order: str) -> str:
    begun.append(order)
    return f"ch_{order}"


@job("durable.night")
async def night() -> None:
    begun.append("night")


@pytest.fixture(autouse=True)
def fresh() -> None:
    gates.clear()
    begun.clear()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store(":memory:") as opened:
        yield opened


def make_sandbox(store: Any, lease: float = 30.0, **settings: Any) -> Sandbox:
    more = {"retry_base_seconds": 0.001, "grace_seconds": 0.02, **settings}
    return Sandbox(
        dry_run=False, store=store, worker=WorkerSettings(**more), ledger=LedgerSettings(lease_seconds=lease)
    )


async def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def events_of(sandbox: Sandbox) -> AsyncIterator[list[Any]]:
    heard: list[Any] = []
    unsubscribe = sandbox.worker.services.journal.subscribe(heard.append)
    yield heard
    unsubscribe()


def backend_of(sandbox: Sandbox) -> StoreBackend:
    backend = sandbox.worker._backends.store
    assert isinstance(backend, StoreBackend)
    return backend


# ------------------------------------------------------------------ what is stored


async def test_arguments_and_results_come_back_equal_in_type_and_value(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        order = Order("o-1", Decimal("9.90"))
        job_id = await sandbox.worker.submit_job("bill", bill, order, copies=2)
        assert await sandbox.worker.get_result(job_id) == (order, 2)


async def test_an_argument_that_cannot_be_stored_is_refused_at_once(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        for args, kwargs, where in (((open,), {}, "args[0]"), ((1,), {"copies": [open]}, "kwargs.copies[0]")):
            with pytest.raises(JobNotStorableError) as raised:
                await sandbox.worker.submit_job("bill", bill, *args, **kwargs)
            assert (raised.value.job, raised.value.argument) == ("bill", where)
            assert "give plain values and value classes" in str(raised.value)
        assert sandbox.worker.get_status().jobs.queued == 0


async def test_a_result_that_cannot_be_stored_is_a_success_all_the_same(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        job_id = await sandbox.worker.submit_job("connect", connect)
        with pytest.raises(ResultUnavailableError, match="a builtin_function_or_method cannot be stored"):
            await sandbox.worker.get_result(job_id)
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.SUCCEEDED


async def test_an_error_that_cannot_be_made_again_comes_as_text(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        job_id = await sandbox.worker.submit_job("ask", ask)
        with pytest.raises(JobFailedError, match="LocalError: only here") as raised:
            await sandbox.worker.get_result(job_id)
        assert (raised.value.job, raised.value.job_id) == ("ask", job_id)


def test_what_cannot_be_read_here_is_said_to_be_so() -> None:
    unknown = b'{"$object":["nowhere:Thing",{}]}'
    succeeded = Ending(JobState.SUCCEEDED, unknown, None, None).to_outcome("bill", "id")
    assert isinstance(succeeded.error, ResultUnavailableError)
    failed = Ending(JobState.FAILED, unknown, None, "Thing: no").to_outcome("bill", "id")
    assert isinstance(failed.error, JobFailedError)
    assert str(JobFailedError("bill", "id", "")).startswith("job 'bill' (id) failed: ")


async def test_arguments_that_cannot_be_read_any_more_fail_the_job(store: Store) -> None:
    spoil = Operation("test.spoil", "UPDATE sandbox_jobs SET arguments = :arguments WHERE ns = :ns")
    async with make_sandbox(store, run_durable=False) as sandbox:
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        store._operations.add(spoil)
        await store.write(spoil, arguments=b'{"$object":["nowhere:Thing",{}]}')
    async with make_sandbox(store) as sandbox:
        with pytest.raises(ResultCodecError, match="damaged"):
            await sandbox.worker.get_result(job_id)
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.FAILED


# ------------------------------------------------------------------ which jobs are in the store


async def test_only_one_home_is_shared_by_sandboxes_on_a_store(store: Store) -> None:
    async with make_sandbox(store) as one, make_sandbox(store) as other, make_sandbox(":memory:") as elsewhere:
        homes = [backend_of(sandbox).home for sandbox in (one, other, elsewhere)]
        assert homes[0] == homes[1] != homes[2]


async def test_only_declared_functions_are_in_the_store(store: Store) -> None:
    async def plain() -> str:
        return "plain"

    async with make_sandbox(store) as sandbox:
        worker = sandbox.worker
        job_id = await worker.submit_job("plain", plain)
        assert not job_id.startswith("durable-")
        assert await worker.get_result(job_id) == "plain"
        with pytest.raises(ConfigurationError, match="declare it with @job"):
            await backend_of(sandbox).submit(worker._request("plain", plain, (), {}, JobOptions()))
        with pytest.raises(ConfigurationError, match="declare it at the function"):
            await worker.with_options(retry_on=(OSError,)).submit_job("hold", hold, "a")


async def test_a_function_that_is_made_anew_by_each_call_is_the_newest_alone(store: Store) -> None:
    def make(result: str) -> Any:
        @job("durable.made")
        async def made() -> str:
            return result

        return made

    older, newer = make("older"), make("newer")
    async with make_sandbox(store) as sandbox:
        worker = sandbox.worker
        ids = [await worker.submit_job("made", each) for each in (older, newer)]
        assert [job_id.startswith("durable-") for job_id in ids] == [False, True]
        assert [await worker.get_result(job_id) for job_id in ids] == ["older", "newer"]


async def test_a_module_that_is_loaded_twice_declares_the_same_functions(store: Store) -> None:
    again = FunctionType(bill.__code__, bill.__globals__, "bill")
    again.__qualname__, again.__kwdefaults__ = bill.__qualname__, bill.__kwdefaults__
    try:
        assert job("durable.bill")(again) is again
        async with make_sandbox(store) as sandbox:
            job_id = await sandbox.worker.submit_job("bill", bill, 1)
            assert job_id.startswith("durable-")
            assert await sandbox.worker.get_result(job_id) == (1, 1)
    finally:
        job("durable.bill")(bill)


def test_two_functions_cannot_have_one_name() -> None:
    with pytest.raises(ConfigurationError, match=r"it is the name of bill in .*test_worker_durable\.py: give each"):
        job("durable.bill")(hold)
    with pytest.raises(ConfigurationError, match="it is the name of bill in"):
        job("durable.bill")(print)


async def test_a_dry_run_keeps_its_jobs_in_memory_and_rehearses_them(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    live = Sandbox(dry_run=False, store=place, allow_mixed=True, worker=WorkerSettings(run_durable=False))
    async with live:
        waiting = await live.worker.submit_job("card", charge, "live")
        async with Sandbox(dry_run=True, store=place, allow_mixed=True) as rehearsal:
            job_id = await rehearsal.worker.submit_job("card", charge, "o-1")
            assert not job_id.startswith("durable-")
            plan = await rehearsal.make_plan()
            assert [(action.action, action.key) for action in plan.actions] == [("durable.card", "o-1")]
            assert (await live.worker.get_job_status(waiting)).state is JobState.QUEUED
    assert begun == []


async def test_an_action_with_a_key_bears_that_its_job_is_attempted_twice(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        ids = [await sandbox.worker.submit_job("card", charge, "o-1") for _ in range(2)]
        assert [await sandbox.worker.get_result(each) for each in ids] == ["ch_o-1"] * 2
    assert begun == ["o-1"]


async def test_a_backend_of_the_apps_own_keeps_them_all(store: Store) -> None:
    from asyncsandbox.components.worker import WorkerProcess
    from asyncsandbox.components.worker.memory import MemoryBackend

    async with make_sandbox(store) as sandbox:
        worker = WorkerProcess(backend=MemoryBackend(WorkerSettings()))
        worker.bind(sandbox.worker.services)
        async with worker:
            assert not (await worker.submit_job("bill", bill, 1)).startswith("durable-")


# ------------------------------------------------------------------ who may finish


async def abandon_and_recover(store: Store) -> tuple[list[Any], str, Sandbox]:
    """Have a job taken over from a sandbox that lives but has lost its lease, and return what was heard there."""
    one, other = make_sandbox(store), make_sandbox(store, run_durable=False)
    async with one, events_of(one) as heard, other, events_of(other) as heard_there:
        job_id = await one.worker.submit_job("hold", hold, "a")
        await until(lambda: begun == ["a"])
        owner = one._services.owner
        assert owner is not None
        await store.write(RELEASE, owner=owner.id)
        taker = backend_of(other)._taker
        await taker.wait()
        (row,) = await taker.take(9)
        assert (row["id"], row["attempt"]) == (job_id, 2)
        gates["a"].set()
        await until(lambda: not one.worker.get_status().jobs.running)
        status = await other.worker.get_job_status(job_id)
        assert (status.state, status.attempt) == (JobState.RUNNING, 2), "whoever was taken over does not finish"
        assert one.worker.get_status().jobs.succeeded == 0
        await store.write(job_table.FINISH, id=job_id, attempt=2, state="succeeded", result=b'"by other"', reason=None,
                          error=None)  # fmt: skip
        assert await one.worker.get_result(job_id) == "by other"
        names = [event.name for event in heard_there]
    del heard
    return names, job_id, one


async def test_whoever_was_taken_over_does_not_finish(store: Store) -> None:
    names, _, _ = await abandon_and_recover(store)
    assert "job.recovered" in names


async def test_an_attempt_that_is_not_ours_any_more_is_ended_before_we_make_another(store: Store) -> None:
    take = Operation("test.take", "UPDATE sandbox_jobs SET attempt = attempt + 1, owner = 'gone' WHERE ns = :ns")
    async with make_sandbox(store) as sandbox:
        job_id = await sandbox.worker.submit_job("hold", hold, "a")
        await until(lambda: len(begun) == 1)
        ours = sandbox.worker._runner.runs[job_id].task  # type: ignore[union-attr]
        store._operations.add(take)
        await store.write(take)
        await until(lambda: len(begun) == 2)
        assert ours is not None
        assert ours.done(), "never two of them here"
        gates["a"].set()
        assert await sandbox.worker.get_result(job_id) == "a"
        assert (await sandbox.worker.get_job_status(job_id)).attempt == 3


async def test_nothing_is_taken_without_a_lease_and_the_lease_is_renewed(store: Store) -> None:
    async with make_sandbox(store, run_durable=False) as sandbox:
        await sandbox.worker.submit_job("bill", bill, 1)
        owner = sandbox._services.owner
        assert owner is not None
        await store.write(RELEASE, owner=owner.id)
        taker = backend_of(sandbox)._taker
        assert await taker.take(9) == ()
        await taker.wait()
        assert await taker.take(9) == (), "and now it is renewed"
        assert len(await taker.take(9)) == 1


async def test_a_job_whose_process_dies_again_and_again_is_dead(store: Store) -> None:
    leave = Operation("test.leave", "UPDATE sandbox_jobs SET state = 'running', owner = 'gone' WHERE ns = :ns")
    async with make_sandbox(store, run_durable=False, max_recoveries=1) as sandbox, events_of(sandbox) as heard:
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        store._operations.add(leave)
        taker = backend_of(sandbox)._taker
        taken = []
        for _ in range(2):
            await store.write(leave)
            await taker.wait()
            taken.append(len(await taker.take(9)))
        assert taken == [1, 0]
        with pytest.raises(JobFailedError, match="the process it ran in has gone"):
            await sandbox.worker.get_result(job_id)
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.DEAD
        assert sandbox.worker.get_status().jobs.dead == 1
        told = [(e.name, e.fields["lost"]) for e in heard if e.name in ("job.recovered", "job.dead")]
        assert told == [("job.recovered", 1), ("job.dead", 2)]


async def test_a_job_that_is_cancelled_and_left_behind_is_not_attempted_again(store: Store) -> None:
    leave = Operation("test.leave", "UPDATE sandbox_jobs SET state = 'running', owner = 'gone' WHERE ns = :ns")
    async with make_sandbox(store, run_durable=False) as sandbox:
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        store._operations.add(leave)
        await store.write(leave)
        assert await sandbox.worker.cancel(job_id) is True
        taker = backend_of(sandbox)._taker
        await taker.wait()
        assert await taker.take(9) == ()
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.CANCELLED


async def test_a_job_that_fails_after_it_was_cancelled_is_not_tried_again(store: Store) -> None:
    async with make_sandbox(store, run_durable=False) as sandbox:
        job_id = await sandbox.worker.submit_job("hold", hold, "a")
        backend = backend_of(sandbox)
        assert await backend.claim(1) == [], "nobody has looked yet"
        await backend.wait_ready()
        (claim,) = await backend.claim(1)
        await sandbox.worker.cancel(job_id)
        failed = Outcome(JobState.QUEUED, error=OSError("no"), retry_in_seconds=5.0)
        assert await backend.finish(claim, failed) is True
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.CANCELLED


# ------------------------------------------------------------------ stopping


async def test_a_stop_puts_back_what_it_cancels_and_leaves_what_waits(store: Store) -> None:
    async with make_sandbox(store, concurrency=1) as sandbox, events_of(sandbox) as heard:
        runs = await sandbox.worker.submit_job("hold", hold, "runs")
        waits = await sandbox.worker.submit_job("bill", bill, 1)
        in_memory = await sandbox.worker.submit_job("sleep", asyncio.sleep, 60)
        await until(lambda: begun)
        await sandbox.worker.stop()
        put_back = [event.fields["job_ids"] for event in heard if event.name == "worker.jobs_put_back"]
        cancelled = [event.fields["job_ids"] for event in heard if event.name == "worker.jobs_cancelled"]
        assert (put_back, cancelled) == ([(runs,)], [(in_memory,)])
    async with make_sandbox(store, run_durable=False) as sandbox:
        states = [(await sandbox.worker.get_job_status(each)).state for each in (runs, waits)]
        assert states == [JobState.QUEUED] * 2


@job("durable.fail_once", max_retries=1)
async def fail_once(tag: str) -> str:
    begun.append(tag)
    if len(begun) == 1:
        await asyncio.sleep(60)
    if len(begun) == 2:
        raise OSError("once")
    return tag


async def test_an_attempt_that_ends_with_its_worker_uses_up_no_retry(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        job_id = await sandbox.worker.submit_job("fail once", fail_once, "a")
        await until(lambda: begun)
    async with make_sandbox(store) as sandbox:
        assert await sandbox.worker.get_result(job_id) == "a"
        assert (await sandbox.worker.get_job_status(job_id)).attempt == 3


async def test_a_claim_that_is_cancelled_gives_back(store: Store) -> None:
    async with make_sandbox(store, run_durable=False) as sandbox:
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        backend = backend_of(sandbox)
        await backend.wait_ready()
        claiming = asyncio.create_task(backend.claim(1))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        status = await sandbox.worker.get_job_status(job_id)
        assert (status.state, sandbox.worker.get_status().jobs.running) == (JobState.QUEUED, 0)
        backend.shut()
        assert await backend.claim(1) == []


# ------------------------------------------------------------------ a store in trouble


class Trouble:
    """Makes a store fail for some operations, a few times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.left: dict[str, list[Exception]] = {}
        for verb in ("write", "read"):
            self._wrap(monkeypatch, store, verb)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, store: Store, verb: str) -> None:
        engine = store._engine
        right = getattr(engine, verb)

        async def carry_out(bounds: Any) -> Any:
            for bound in bounds:
                if self.left.get(bound.operation.name):
                    error = self.left[bound.operation.name].pop(0)
                    if error.args[1] == "written":
                        await right(bounds)
                    raise error
            return await right(bounds)

        monkeypatch.setattr(engine, verb, carry_out)


async def test_a_store_that_does_not_answer_is_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsandbox.components.worker.durable.POLL_SECONDS", 0.01)
    trouble = Trouble(monkeypatch, store)
    gone = StoreUnavailableError("jobs", "it is gone")
    async with make_sandbox(store) as sandbox, events_of(sandbox) as heard:
        for name in ("jobs.claim", "jobs.finish", "jobs.look", "jobs.ours", "owners.renew"):
            trouble.left[name] = [gone]
        job_id = await sandbox.worker.submit_job("hold", hold, "a")
        await until(lambda: begun)
        await until(lambda: not trouble.left["jobs.ours"])
        gates["a"].set()
        assert await sandbox.worker.get_result(job_id) == "a"
        assert begun == ["a"]
        assert 1 <= [event.name for event in heard].count("worker.store_silent") <= 3


async def test_a_job_whose_submission_was_cut_off_is_accepted_if_it_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch, store)
    async with make_sandbox(store, run_durable=False) as sandbox:
        trouble.left["jobs.submit"] = [StoreOutcomeUnknownError("store.commit", "written")]
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        assert (await sandbox.worker.get_job_status(job_id)).state is JobState.QUEUED
        trouble.left["jobs.submit"] = [StoreOutcomeUnknownError("store.commit", "not written")]
        with pytest.raises(StoreOutcomeUnknownError):
            await sandbox.worker.submit_job("bill", bill, 2)
        assert sandbox.worker.get_status().jobs.queued == 1


async def test_what_the_store_gave_without_an_answer_is_run_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncsandbox.components.worker.durable.POLL_SECONDS", 0.01)
    trouble = Trouble(monkeypatch, store)
    async with make_sandbox(store) as sandbox:
        trouble.left["jobs.claim"] = [StoreOutcomeUnknownError("store.commit", "written")]
        trouble.left["jobs.ours"] = [StoreUnavailableError("jobs.ours", "still gone")]
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        assert await asyncio.wait_for(sandbox.worker.get_result(job_id), PATIENCE_SECONDS) == (1, 1)
        assert (await sandbox.worker.get_job_status(job_id)).attempt == 2


async def test_what_is_given_while_the_unheard_is_looked_for_is_not_put_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_sandbox(store, run_durable=False) as sandbox:
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        backend, engine = backend_of(sandbox), store._engine
        await backend.wait_ready()
        right_read, right_write = engine.read, engine.write
        committed, answered = asyncio.Event(), asyncio.Event()
        claiming: list[asyncio.Task[Any]] = []

        async def write_and_answer_late(bounds: Any) -> Any:
            written = await right_write(bounds)
            if not committed.is_set():
                committed.set()
                await answered.wait()
            return written

        async def read_meanwhile(bounds: Any) -> Any:
            if not claiming:
                claiming.append(asyncio.create_task(backend.claim(1)))
                await committed.wait()
            return await right_read(bounds)

        monkeypatch.setattr(engine, "write", write_and_answer_late)
        monkeypatch.setattr(engine, "read", read_meanwhile)
        backend._taker.is_in_doubt = True
        await backend._put_back_unheard()
        answered.set()
        (claim,) = await claiming[0]
        status = await sandbox.worker.get_job_status(job_id)
        await backend.finish(claim, Outcome(JobState.SUCCEEDED, 1))
        assert (status.state, status.attempt) == (JobState.RUNNING, 1)
        assert backend._taker.is_in_doubt, "it has to be looked for again"


async def test_a_worker_ends_though_the_store_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsandbox.components.worker.durable.POLL_SECONDS", 0.01)
    trouble = Trouble(monkeypatch, store)
    async with make_sandbox(store) as sandbox:
        job_id = await sandbox.worker.submit_job("hold", hold, "a")
        await until(lambda: begun)
        trouble.left["jobs.put_back"] = trouble.left["jobs.finish"] = [StoreUnavailableError("jobs", "gone")] * 99
        gates["a"].set()
        await sandbox.worker.stop()
        trouble.left.clear()
    async with make_sandbox(store) as sandbox:
        assert await sandbox.worker.get_result(job_id) == "a", "another life attempts it again"
        assert (await sandbox.worker.get_job_status(job_id)).attempt == 2


async def test_a_wrong_statement_is_not_waited_for() -> None:
    async with Sandbox() as sandbox:
        services = sandbox.worker.services
        patience = Patience("worker", services.journal, services.clock, seconds=1.0)
        with pytest.raises(StoreOperationError):
            await patience.wait(StoreOperationError("jobs.claim", "wrong"))


# ------------------------------------------------------------------ room, and what is forgotten


async def test_room_is_counted_anew_where_others_have_taken_jobs(store: Store) -> None:
    async with (
        make_sandbox(store, run_durable=False, max_queued=2, when_full="refuse") as submits,
        make_sandbox(store) as works,
    ):
        for number in range(9):
            job_id = await submits.worker.submit_job("bill", bill, number)
            assert await works.worker.get_result(job_id) == (number, 1)
        assert await submits.worker.get_result(job_id) == (8, 1)


async def test_a_submitter_waits_no_longer_than_its_deadline(store: Store) -> None:
    from asyncsandbox._core.context import deadline

    async with make_sandbox(store, run_durable=False, max_queued=1) as sandbox:
        await sandbox.worker.submit_job("bill", bill, 1)
        with deadline(sandbox.worker.services.clock.monotonic() + 0.01), pytest.raises(QueueFullError):
            await sandbox.worker.submit_job("bill", bill, 2)


async def test_a_submitter_who_waits_when_the_worker_stops_is_refused(store: Store) -> None:
    async with make_sandbox(store, run_durable=False, max_queued=1) as sandbox:
        await sandbox.worker.submit_job("bill", bill, 1)
        waiting = asyncio.create_task(sandbox.worker.submit_job("bill", bill, 2))
        await asyncio.sleep(0.01)
        await sandbox.worker.stop()
        with pytest.raises(NotStartedError):
            await waiting


async def test_a_twin_that_ends_in_between_makes_room_for_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_sandbox(store, run_durable=False) as sandbox:
        worker, backend = sandbox.worker.with_options(unique_key="k"), backend_of(sandbox)
        first = await worker.submit_job("bill", bill, 1)
        right = backend._find_twin

        async def find_too_late(request: Any) -> str | None:
            await sandbox.worker.cancel(first)
            return await right(request)

        monkeypatch.setattr(backend, "_find_twin", find_too_late)
        assert await worker.submit_job("bill", bill, 1) != first


async def test_whoever_does_not_wait_for_a_place_any_more_is_passed_over(store: Store) -> None:
    async with make_sandbox(store) as sandbox:
        runner, loop = sandbox.worker._runner, asyncio.get_running_loop()
        assert runner is not None
        gone, waits = loop.create_future(), loop.create_future()
        gone.cancel()
        runner._slots += [gone, waits]
        runner._free_slots()
        assert waits.done()


async def test_a_job_lets_in_others_though_the_queue_is_full(store: Store) -> None:
    @job("durable.parent")
    async def parent() -> None:
        for number in range(3):
            await sandbox.worker.submit_job("bill", bill, number)

    async with make_sandbox(store, concurrency=1, max_queued=1) as sandbox:
        await sandbox.worker.submit_job("parent", parent)
        await sandbox.worker.drain()
        assert sandbox.worker.get_status().jobs.succeeded == 4


async def test_jobs_that_ended_long_ago_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SWEEP_SECONDS", "_COUNT_SECONDS"):
        monkeypatch.setattr(f"asyncsandbox.components.worker.durable.{name}", 0.0)
    async with make_sandbox(store, keep_seconds=0.0) as sandbox:
        later = await sandbox.worker.with_options(delay_seconds=60).submit_job("bill", bill, 0)
        job_id = await sandbox.worker.submit_job("bill", bill, 1)
        await sandbox.worker.submit_job("bill", bill, 2)
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert time.monotonic() < ends
            try:
                await sandbox.worker.get_job_status(job_id)
            except JobNotFoundError:
                break
            await asyncio.sleep(0.005)
        assert (await sandbox.worker.get_job_status(later)).state is JobState.QUEUED


async def test_whoever_runs_jobs_tells_once_of_those_it_has_no_function_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job("durable.moved_away")
    async def moved_away() -> None: ...

    monkeypatch.setattr("asyncsandbox.components.worker.durable._SWEEP_SECONDS", 0.0)
    monkeypatch.setattr("asyncsandbox.components.worker.durable.POLL_SECONDS", 0.01)
    async with make_sandbox(store, run_durable=False) as submits, events_of(submits) as heard_there:
        for _ in range(2):
            await submits.worker.submit_job("moved away", moved_away)
        monkeypatch.delitem(_declared_jobs, "durable.moved_away")
        async with make_sandbox(store) as works, events_of(works) as heard:
            await until(lambda: heard)
            await backend_of(works)._taker.tell_undeclared(0.0)
    assert [(event.name, event.fields["function"], event.fields["count"]) for event in heard] == [
        ("job.undeclared", "durable.moved_away", 2)
    ]
    assert heard_there == []


async def test_whoever_waits_elsewhere_hears_of_the_end(store: Store) -> None:
    async with make_sandbox(store) as works, make_sandbox(store, run_durable=False) as asks:
        job_id = await asks.worker.submit_job("hold", hold, "a")
        asking = [asyncio.create_task(asks.worker.get_result(job_id)) for _ in range(3)]
        await until(lambda: begun)
        asking[0].cancel()
        gates["a"].set()
        assert await asyncio.gather(*asking[1:]) == ["a", "a"]
        assert works.worker.get_status().jobs.succeeded == 1


async def test_drain_waits_for_what_jobs_submit_to_either_home(store: Store) -> None:
    ended: list[str] = []

    @job("durable.chain")
    async def chain(left: int) -> None:
        ended.append(f"durable {left}")
        if left:
            await sandbox.worker.submit_job("in memory", in_memory, left - 1)

    async def in_memory(left: int) -> None:
        await asyncio.sleep(0.005)
        ended.append(f"memory {left}")
        if left:
            await sandbox.worker.submit_job("chain", chain, left - 1)

    async with make_sandbox(store) as sandbox:
        await sandbox.worker.submit_job("chain", chain, 3)
        await sandbox.worker.drain()
        assert ended == ["durable 3", "memory 2", "durable 1", "memory 0"]


async def test_a_line_of_cron_fires_once_in_all_processes(store: Store) -> None:
    async with make_sandbox(store) as one, make_sandbox(store) as other:
        ids = []
        for moment in ("2026-01-01T03:00:00+00:00", "2026-01-01T03:00:00+00:00", "2026-01-02T03:00:00+00:00"):
            for sandbox in (one, other):
                ids.append(await sandbox.worker._submit_scheduled("nightly", night, JobOptions(), moment))
                await sandbox.worker.get_result(ids[-1])
        assert len(set(ids)) == 2
        assert ids[0] == "durable-nightly@2026-01-01T03:00:00+00:00"
        each = [await sandbox.worker._submit_scheduled("often", night, JobOptions(), None) for sandbox in (one, other)]
        assert len(set(each)) == 2, "an interval counts from each start"
        await one.worker.drain()
    assert begun == ["night"] * 4


# ------------------------------------------------------------------ broken variants


EXAMPLES: tuple[tuple[Mutant, Callable[..., Any]], ...] = (
    (Mutant("no fence", "", StoreBackend._record, "attempt=attempt, **", "attempt=2, **"),
     test_whoever_was_taken_over_does_not_finish),
    (Mutant("goes on", "", StoreBackend._end_unwanted, "end(job_id)", "pass"),
     test_an_attempt_that_is_not_ours_any_more_is_ended_before_we_make_another),
    (Mutant("lease not renewed", "", Taker.take, "self._in_vain > 1", "False"),
     test_nothing_is_taken_without_a_lease_and_the_lease_is_renewed),
    (Mutant("never dead", "", Taker._take, "most_lost=self._max_recoveries", "most_lost=99"),
     test_a_job_whose_process_dies_again_and_again_is_dead),
    (Mutant("cancelled by the stop", "", Run.give_up, "self.claim.outlives and not self.is_unwanted", "False"),
     test_a_stop_puts_back_what_it_cancels_and_leaves_what_waits),
    (
        Mutant("never put back", "", StoreBackend._put_back_unheard, "not self._taker.is_in_doubt", "True"),
        test_what_the_store_gave_without_an_answer_is_run_all_the_same,
    ),
    (
        Mutant("puts back what is given", "", StoreBackend._put_back_unheard, "self._takes == takes:", "True:"),
        test_what_is_given_while_the_unheard_is_looked_for_is_not_put_back,
    ),
    (
        Mutant("retry used up", "", StoreBackend._read_claim, 'row["attempt"] - 1 - row["failed"]', "0"),
        test_an_attempt_that_ends_with_its_worker_uses_up_no_retry,
    ),
    (Mutant("told again and again", "", Taker.tell_undeclared, "not in self._told_of", "not in ()"),
     test_whoever_runs_jobs_tells_once_of_those_it_has_no_function_for),
    (Mutant("claim kept", "", StoreBackend.claim, "for claim in claims", "for claim in ()"),
     test_a_claim_that_is_cancelled_gives_back),
    (Mutant("result needed", "", Ending.of, "plain_text(str(problem)), error)", "None, error)"),
     test_a_result_that_cannot_be_stored_is_a_success_all_the_same),
    (Mutant("no count", "", Room._is_full, "await self.recount()", "pass"),
     test_room_is_counted_anew_where_others_have_taken_jobs),
)  # fmt: skip


@pytest.mark.parametrize(("mutant", "example"), EXAMPLES, ids=[mutant.name for mutant, _ in EXAMPLES])
async def test_a_broken_variant_fails_its_example(
    mutant: Mutant, example: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PATIENCE_SECONDS", 0.3)
    more = {"monkeypatch": monkeypatch} if "monkeypatch" in inspect.signature(example).parameters else {}
    found = (AssertionError, pytest.fail.Exception, OSError, QueueFullError, ValueError)  # a timeout is an OSError
    with mutant.applied(), pytest.raises(found):
        await asyncio.wait_for(example(store, **more), 5)
