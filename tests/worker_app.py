"""An app for the tests of worker processes: jobs that write down when they begin and end."""

import asyncio
import os
import time
from typing import Any

from asyncsandbox import LedgerSettings, Sandbox, WorkerSettings, job


def write(text: str) -> None:
    log = os.open(os.environ["APP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{text} {os.getpid()}\n".encode())
    os.close(log)


@job("app.note")
async def note(tag: str, seconds: float = 0.0) -> str:
    write(f"begin {tag}")
    await asyncio.sleep(seconds)
    write(f"end {tag}")
    return f"did {tag}"


@job("app.block")
def block(seconds: float) -> None:
    write("begin block")
    time.sleep(seconds)


@job("app.count")
async def count(number: int) -> int:
    return number


def make_sandbox(**overrides: Any) -> Sandbox:
    worker = WorkerSettings(grace_seconds=float(os.environ.get("APP_GRACE", "5")), max_queued=100_000)
    ledger = LedgerSettings(lease_seconds=float(os.environ.get("APP_LEASE", "3600")))
    return Sandbox(**{"store": os.environ["APP_STORE"], "worker": worker, "ledger": ledger, **overrides})


rehearsal = Sandbox(dry_run=True)
without_store = Sandbox(dry_run=False)
