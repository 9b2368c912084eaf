"""Worker processes for real, as `asyncsandbox worker` runs them: killed, stalled, told to end, and in company."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_app
from children import PATIENCE_SECONDS
from postgres import Cluster, end_cluster, find_binaries, start_cluster, with_schema

from asyncsandbox import JobState, Sandbox, WorkerSettings
from asyncsandbox.cli import ExitCode

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no death is ever proven")
HERE = str(Path(__file__).parents[1])


class Shop:
    """A place for jobs, and the processes that run them."""

    def __init__(self, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.log = folder / "log"
        self._monkeypatch = monkeypatch
        self._processes: list[subprocess.Popen[str]] = []
        self.set(APP_STORE=place, APP_LOG=str(self.log))

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def open(self, code: str = "") -> subprocess.Popen[str]:
        """Start a worker process and wait until it runs jobs."""
        command = ["-m", "asyncsandbox"] if not code else ["-c", f"{code}; from asyncsandbox.cli import main; main()"]
        path = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, *command, "worker", "worker_app:make_sandbox"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("asyncsandbox: running jobs of ")
        return process

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    def sandbox(self) -> Sandbox:
        """Give a sandbox that submits and asks, and runs nothing itself."""
        return worker_app.make_sandbox(worker=WorkerSettings(run_durable=False, max_queued=100_000), dry_run=False)

    def logged(self) -> list[str]:
        return [line.rpartition(" ")[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    if request.param == "sqlite":
        place = str(tmp_path / "store.sqlite")
    else:
        place = with_schema(request.getfixturevalue("postgres_url"))
    made = Shop(place, tmp_path, monkeypatch)
    yield made
    made.kill_all()


def submit(shop: Shop, *args: Any, function: Any = worker_app.note) -> str:
    async def main() -> str:
        async with shop.sandbox() as sandbox:
            return await sandbox.worker.submit_job("note", function, *args)

    return asyncio.run(main())


def ask(shop: Shop, job_id: str) -> tuple[Any, Any]:
    """Return the result of a job, and where it stands."""

    async def main() -> tuple[Any, Any]:
        async with shop.sandbox() as sandbox:
            result = await asyncio.wait_for(sandbox.worker.get_result(job_id), PATIENCE_SECONDS)
            return result, await sandbox.worker.get_job_status(job_id)

    return asyncio.run(main())


def look(shop: Shop, job_id: str) -> Any:
    async def main() -> Any:
        async with shop.sandbox() as sandbox:
            return await sandbox.worker.get_job_status(job_id)

    return asyncio.run(main())


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.01)


# ------------------------------------------------------------------ killed and stalled


def kill_while_running(shop: Shop) -> None:
    job_id = submit(shop, "a", 0.5)
    dies = shop.open()
    until(lambda: shop.logged() == ["begin a"])
    dies.kill()
    dies.wait()
    began = time.monotonic()
    shop.open()
    result, status = ask(shop, job_id)
    assert (result, status.attempt) == ("did a", 2)
    assert shop.logged() == ["begin a", "begin a", "end a"], "run again, once"
    assert time.monotonic() - began < PATIENCE_SECONDS / 2, "its lease of an hour is not waited for"


def test_a_job_whose_process_is_killed_is_run_again_at_once(shop: Shop) -> None:
    kill_while_running(shop)


def stall_for_longer_than_the_lease(shop: Shop, *code: str) -> None:
    shop.set(APP_LEASE="1")
    job_id = submit(shop, "a", 0.2)
    stalls = shop.open(*code)
    until(lambda: shop.logged() == ["begin a"])
    stalls.send_signal(signal.SIGSTOP)
    shop.open()
    result, status = ask(shop, job_id)
    assert (result, status.attempt) == ("did a", 2)
    stalls.send_signal(signal.SIGCONT)
    again = submit(shop, "b")
    ask(shop, again)
    time.sleep(0.5)  # what the stalled one does now must change nothing
    assert look(shop, job_id) == status, "it was finished once"
    counted = Counter(shop.logged())
    assert (counted["begin a"], counted["begin b"]) == (2, 1)


def test_whoever_stalls_for_longer_than_its_lease_does_not_finish(shop: Shop) -> None:
    stall_for_longer_than_the_lease(shop)


def test_a_finish_without_a_fence_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from asyncsandbox.components.worker import job_table as t, durable as d; "
        "from asyncsandbox._core.store import Operation; "
        "sql = t.FINISH.sql.replace(\"AND state = 'running' AND attempt = :attempt\", 'AND :attempt > 0'); "
        "d.FINISH = Operation('jobs.finish', sql, notify=t.NEWS); "
        "ops = tuple(d.FINISH if o is t.FINISH else o for o in t.JOBS.operations); "
        "object.__setattr__(t.JOBS, 'operations', ops); "
        "d.StoreBackend._end_unwanted = lambda *_: __import__('asyncio').sleep(0)"
    )
    shop = Shop(str(tmp_path / "store.sqlite"), tmp_path, monkeypatch)
    try:
        with pytest.raises(AssertionError, match="it was finished once"):
            stall_for_longer_than_the_lease(shop, code)
    finally:
        shop.kill_all()


# ------------------------------------------------------------------ told to end


def test_a_process_that_is_told_to_end_lets_jobs_end_and_begins_no_other(shop: Shop) -> None:
    running = submit(shop, "a", 0.5)
    process = shop.open()
    until(lambda: shop.logged() == ["begin a"])
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    waiting = submit(shop, "b")
    assert process.wait(PATIENCE_SECONDS) == ExitCode.OK
    assert (look(shop, running).state, look(shop, waiting).state) == (JobState.SUCCEEDED, JobState.QUEUED)
    assert shop.logged() == ["begin a", "end a"]


def test_after_the_grace_period_jobs_are_put_back(shop: Shop) -> None:
    shop.set(APP_GRACE="0.2")
    job_id = submit(shop, "a", 60.0)
    process = shop.open()
    until(lambda: shop.logged() == ["begin a"])
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == ExitCode.OK
    status = look(shop, job_id)
    assert (status.state, status.attempt) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("function", [worker_app.note, worker_app.block], ids=["coroutine", "thread"])
def test_a_second_signal_ends_it_at_once(shop: Shop, function: Any) -> None:
    shop.set(APP_GRACE="600")
    arguments = ("block", 60.0) if function is worker_app.note else (60.0,)
    job_id = submit(shop, *arguments, function=function)
    process = shop.open()
    until(lambda: shop.logged() == ["begin block"])
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.wait(PATIENCE_SECONDS) == ExitCode.INTERRUPTED
    shop.open()
    until(lambda: shop.logged() == ["begin block"] * 2)
    assert look(shop, job_id).attempt == 2


# ------------------------------------------------------------------ in company


@pytest.mark.long
def test_ten_thousand_jobs_in_three_processes_are_accounted_for_though_one_is_killed(shop: Shop) -> None:
    many = 10_000

    async def main() -> None:
        async with shop.sandbox() as sandbox:
            worker = sandbox.worker
            ids = await asyncio.gather(*(worker.submit_job("count", worker_app.count, n) for n in range(many)))
            assert len(set(ids)) == many
            processes = await asyncio.gather(*(asyncio.to_thread(shop.open) for _ in range(3)))
            assert await worker.get_result(ids[many // 4]) == many // 4
            processes[0].kill()
            async with asyncio.timeout(3 * PATIENCE_SECONDS):
                results = await asyncio.gather(*map(worker.get_result, ids))
            assert results == list(range(many))
            states = [await worker.get_job_status(each) for each in ids[:: many // 100]]
            assert {status.state for status in states} == {JobState.SUCCEEDED}

    asyncio.run(main())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in good order", "as a crash"])
def test_the_server_restarts_while_jobs_wait_run_and_are_listened_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    if find_binaries() is None:  # pragma: no cover
        pytest.skip("there is no PostgreSQL to restart")
    cluster: Cluster = start_cluster()
    shop = Shop(cluster.url, tmp_path, monkeypatch)
    try:
        before = submit(shop, "before", 1.0)
        shop.open()
        until(lambda: shop.logged() == ["begin before"])
        cluster.stop(how)
        time.sleep(0.3)
        cluster.start()
        assert ask(shop, before)[0] == "did before"
        after = [submit(shop, f"after {n}") for n in range(3)]
        assert [ask(shop, each)[0] for each in after] == [f"did after {n}" for n in range(3)]
        assert set(Counter(shop.logged()).values()) == {1}, "nothing is lost and nothing done twice"
    finally:
        shop.kill_all()
        end_cluster(cluster)
