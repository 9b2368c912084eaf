"""`asyncsandbox worker`: bad input in one clear line; what it does is in test_worker_processes.py."""

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import worker_app
from children import PATIENCE_SECONDS

from asyncsandbox.cli import ExitCode, run

MODULE = """
from asyncsandbox import Sandbox, WorkerSettings
rehearsal = Sandbox(dry_run=True)
nothing_to_run = Sandbox(dry_run=False)
in_memory = Sandbox(dry_run=False, store=":memory:")
number = 5
async def coroutine(): ...
def needs(one, two): ...
def submits_only(**overrides):
    return Sandbox(store="s.sqlite", worker=WorkerSettings(run_durable=False), **overrides)
def breaks():
    raise OSError("no luck")
def wrong_setting():
    return Sandbox(store="", dry_run=False)
def other():
    return 17
def locked(dry_run):
    return Sandbox(store="app.py", dry_run=dry_run)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    (tmp_path / "app.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("app.py", ExitCode.USAGE, "app.py: says no sandbox; give FILE.py:SANDBOX or MODULE:SANDBOX"),
        ("no.py:x", ExitCode.ERROR, "no.py: no such file; give FILE.py:SANDBOX or MODULE:SANDBOX"),
        ("nowhere:x", ExitCode.ERROR, "nowhere: no such module; give FILE.py:SANDBOX or MODULE:SANDBOX"),
        ("app.py:in_memmory", ExitCode.ERROR, "has no sandbox 'in_memmory'; did you mean"),
        ("app.py:rehearsal", ExitCode.ERROR, "is a dry run, which runs no jobs of a store"),
        ("app.py:nothing_to_run", ExitCode.ERROR, "has no store that holds jobs for it; give Sandbox(store=...)"),
        ("app.py:in_memory", ExitCode.ERROR, "has no store that holds jobs for it"),
        ("app.py:submits_only", ExitCode.ERROR, "leave WorkerSettings(run_durable=True)"),
        ("app.py:number", ExitCode.ERROR, "is int; let it be a Sandbox"),
        ("app.py:other", ExitCode.ERROR, "returns int; let it be a Sandbox"),
        ("app.py:coroutine", ExitCode.ERROR, "returns coroutine; let it be a Sandbox, or a plain function"),
        ("app.py:needs", ExitCode.ERROR, "app.py:needs cannot be called: TypeError: needs() missing 2"),
        ("app.py:breaks", ExitCode.ERROR, "app.py:12: OSError: no luck; mend it and try again"),
        ("app.py:wrong_setting", ExitCode.ERROR, "is not allowed"),
        ("app.py:locked", ExitCode.ERROR, "app.py"),
    ],
)
def test_bad_input_ends_in_one_clear_line(
    folder: Path, capsys: pytest.CaptureFixture[str], target: str, code: int, said: str
) -> None:
    before = (folder / "app.py").read_bytes()
    assert run(["worker", target]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert (folder / "app.py").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("signals", [1, 2])
def test_it_runs_until_it_is_told_to_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], signals: int
) -> None:
    log = folder / "log"
    for name, value in {"APP_STORE": "store.sqlite", "APP_LOG": str(log), "APP_GRACE": "5"}.items():
        monkeypatch.setenv(name, value)

    async def submit() -> None:
        async with worker_app.make_sandbox(dry_run=False) as sandbox:
            await sandbox.worker.with_options(delay_seconds=0.05).submit_job(
                "note", worker_app.note, "a", 60.0 if signals > 1 else 0.2
            )

    asyncio.run(submit())
    ended = threading.Event()

    def end() -> None:
        for number in range(signals):
            until = time.monotonic() + PATIENCE_SECONDS
            while not log.exists() and time.monotonic() < until:
                time.sleep(0.01)
            if number:
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
        ended.set()

    thread = threading.Thread(target=end)
    thread.start()
    code = run(["worker", "worker_app:make_sandbox"])
    thread.join()
    assert ended.is_set()
    assert code == (ExitCode.OK if signals == 1 else ExitCode.INTERRUPTED)
    assert "asyncsandbox: running jobs of store.sqlite: " in capfd.readouterr().out
    assert ("end a" in log.read_text()) is (signals == 1)
