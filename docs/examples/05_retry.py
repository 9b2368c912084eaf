"""Calls that fail now and then: bounded attempts, full jitter, one deadline, and a breaker for the day it is down.

$ python 05_retry.py
rates: EUR 1.08
log: 1 ConnectionError: refused, 2 TimeoutError: slow
not worth it: 1 call
out of time: ConnectionError, without waiting for it: True
breaker: open after 5 failures, then 0 calls
"""

import asyncio

from asyncsandbox import BreakerOpenError, BreakerSettings, RetryBackoffManager, RetrySettings

quick = RetrySettings(backoff_base_seconds=0.005)
answers: list[object] = [ConnectionError("refused"), TimeoutError("slow"), "EUR 1.08"]
calls: list[str] = []


async def fetch_rates() -> str:
    answer = answers.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return str(answer)


async def main() -> None:
    retry = RetryBackoffManager(max_retries=3, settings=quick)
    print("rates:", await retry.execute_with_retry(fetch_rates, "rates"))
    print("log:", ", ".join(f"{attempt.number} {attempt.error}" for attempt in retry.get_retry_log("rates")))

    @retry.retrying("login", retry_on=ConnectionError, max_retries=3)
    async def log_in() -> None:
        calls.append("login")
        raise PermissionError("wrong password")

    try:
        await log_in()
    except PermissionError:
        print(f"not worth it: {len(calls)} call")

    calls.clear()

    @retry.retrying("slow", max_retries=20, backoff_base_seconds=30, deadline_seconds=0.02)
    async def wait_long() -> None:
        calls.append("slow")
        raise ConnectionError("busy")

    try:
        await wait_long()
    except ConnectionError as error:  # at once: the next wait does not fit into the deadline
        print(f"out of time: {type(error).__name__}, without waiting for it: {len(calls) < 3}")

    calls.clear()
    breaker = BreakerSettings(failures=5, of_calls=5, open_seconds=60)

    @retry.retrying("down", max_retries=0, breaker=breaker)
    async def call_what_is_down() -> None:
        calls.append("down")
        raise ConnectionError("down")

    failures = 0
    while True:
        try:
            await call_what_is_down()
        except BreakerOpenError:
            break
        except ConnectionError:
            failures += 1
    print(f"breaker: open after {failures} failures, then {len(calls) - failures} calls")


if __name__ == "__main__":
    asyncio.run(main())
