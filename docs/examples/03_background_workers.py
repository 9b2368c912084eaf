"""Jobs in the background: an id at once, a state at any time, a result when it is there.

$ python 03_background_workers.py
submitted: queued
result: 42
thread: 3 words
flaky: succeeded at attempt 2
hopeless: dead, ValueError: no such customer
one key, one job: True
cancelled: cancelled
"""

import asyncio

from asyncsandbox import WorkerProcess, WorkerSettings, job


async def multiply(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a * b


def count_words(text: str) -> int:  # a plain function runs in a thread
    return len(text.split())


tries: list[str] = []


@job("sync.customer", max_retries=2, retry_on=(ConnectionError,))
async def sync_customer(name: str) -> None:
    tries.append(name)
    if len(tries) == 1:
        raise ConnectionError("refused")


@job("sync.nobody", max_retries=1)
async def sync_nobody() -> None:
    raise ValueError("no such customer")


async def main() -> None:
    async with WorkerProcess(settings=WorkerSettings(retry_base_seconds=0.01)) as worker:
        job_id = await worker.submit_job("multiply", multiply, 6, b=7)
        print("submitted:", (await worker.get_job_status(job_id)).state)
        print("result:", await worker.get_result(job_id))
        words = await worker.submit_job("count", count_words, "all good things")
        print("thread:", await worker.get_result(words), "words")

        flaky = await worker.submit_job("sync.customer", sync_customer, "Ada")
        await worker.get_result(flaky)
        status = await worker.get_job_status(flaky)
        print(f"flaky: {status.state} at attempt {status.attempt}")

        hopeless = await worker.submit_job("sync.nobody", sync_nobody)
        try:
            await worker.get_result(hopeless)
        except ValueError as error:
            status = await worker.get_job_status(hopeless)
            print(f"hopeless: {status.state}, {type(error).__name__}: {error}")

        nightly = worker.with_options(unique_key="2026-11-25", delay_seconds=60)
        first, second = [await nightly.submit_job("report", multiply, 1, 1) for _ in range(2)]
        print("one key, one job:", first == second)
        await worker.cancel(first)
        print("cancelled:", (await worker.get_job_status(first)).state)


if __name__ == "__main__":
    asyncio.run(main())
