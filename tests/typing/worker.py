"""What type checkers see of jobs: checked by mypy --strict and pyright strict, never run."""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from asyncsandbox.components.worker import JobState, JobStatus, JobSubmitter, WorkerProcess, WorkerSettings, job


@job("mail.send", max_retries=3, timeout_seconds=10)
async def send(address: str, *, subject: str = "") -> int:
    return len(address + subject)


@job("report.write")
def write(name: str, pages: int = 1) -> bytes:
    return name.encode() * pages


worker = WorkerProcess(settings=WorkerSettings(concurrency=4))


@worker.scheduled(every_seconds=60, overlap=True)
async def refresh() -> float:
    return 1.0


@worker.scheduled(cron="0 3 * * *", timezone="Europe/Riga", name="nightly")
def nightly() -> None: ...


async def right() -> None:
    assert_type(await worker.submit_job("mail", send, "ann@example.org", subject="Hi"), str)
    assert_type(await worker.submit_job("report", write, "a", pages=2), str)
    assert_type(await worker.get_job_status("id"), JobStatus)
    assert_type((await worker.get_job_status("id")).state, JobState)
    assert_type(worker.with_options(priority=1, delay_seconds=5), JobSubmitter)
    assert_type(await worker.with_options(unique_key="k").submit_job("mail", send, "ann"), str)
    assert_type(await worker.cancel("id"), bool)
    keeps_parameters: Callable[[str], Coroutine[Any, Any, int]] = send
    assert_type(await keeps_parameters("ann"), int)
    assert_type(await refresh(), float)
    assert_type(write("a", pages=2), bytes)


async def wrong() -> None:
    await worker.submit_job("mail", send)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await worker.submit_job("mail", send, 17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await worker.submit_job("mail", send, "ann", priority=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await worker.submit_job(send, "ann")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    worker.with_options(prio=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    worker.with_options(timeout_seconds="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    worker.submit_job("mail", send, "ann")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]


def declared_wrongly() -> None:
    job("mail.send", retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job(max_retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    worker.scheduled(every=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    worker.scheduled(every_seconds=3)(send)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
