"""The clock: governed by the loop it runs in; and the virtual loop that tests put in its place."""

import asyncio
import threading
import time
from datetime import UTC

import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import LeftRunningError, StuckError, run_virtual

from asyncsandbox._core.clock import Clock, SystemClock, Ticker, is_virtual, real_seconds
from asyncsandbox.testing.strategies import UnsteadyClock

CLOCK = SystemClock()


def test_the_system_clock_is_a_clock() -> None:
    assert isinstance(CLOCK, Clock)
    assert CLOCK.now().tzinfo is UTC


@given(st.lists(st.integers(0, 10**6)))
def test_inside_a_loop_the_loop_governs_time(naps: list[int]) -> None:
    async def main() -> float:
        began = CLOCK.monotonic()
        for seconds in naps:
            await CLOCK.sleep(seconds)
        return CLOCK.monotonic() - began

    assert run_virtual(main()) == sum(naps)


def test_outside_a_loop_the_system_does() -> None:
    before = time.monotonic()
    assert before <= CLOCK.monotonic() <= time.monotonic()


def test_a_thread_beside_a_loop_has_a_clock_that_no_loop_governs() -> None:
    async def main() -> float:
        await CLOCK.sleep(3600)
        return real_seconds()

    before = time.monotonic()
    assert before <= run_virtual(main()) <= time.monotonic() < before + 3600


def test_a_loop_with_a_time_of_its_own_says_so() -> None:
    async def main() -> bool:
        return is_virtual(asyncio.get_running_loop())

    assert run_virtual(main())
    assert not asyncio.run(main())


@given(st.integers(0, 64))
def test_random_hex_has_the_size_asked_for(size: int) -> None:
    assert len(bytes.fromhex(CLOCK.random_hex(size))) == size


def test_random_numbers_are_in_range_and_differ() -> None:
    drawn = [CLOCK.random() for _ in range(100)]
    assert all(0 <= number < 1 for number in drawn)
    assert len(set(drawn)) > 1
    assert CLOCK.random_hex(16) != CLOCK.random_hex(16)


# ------------------------------------------------------------------ the ticker


class HandClock(SystemClock):
    """Stands still."""

    def monotonic(self) -> float:
        return 7.0


async def test_a_ticker_reads_its_clock_the_quick_way_where_that_reads_the_same() -> None:
    for clock in (CLOCK, UnsteadyClock({})):
        ticker = Ticker(clock)
        before = clock.monotonic()
        assert before <= ticker.now() <= ticker.read() <= clock.monotonic()
        assert ticker.now is time.monotonic
        ticker.use(HandClock())
        assert ticker.now() == ticker.read() == 7.0
    assert ticker.loop is asyncio.get_running_loop()


def test_a_ticker_goes_by_whatever_loop_runs() -> None:
    ticker = Ticker(CLOCK)

    async def main() -> tuple[float, float]:
        await asyncio.sleep(3)
        return ticker.read(), ticker.now()

    assert asyncio.run(asyncio.sleep(0, ticker.read())) <= time.monotonic()
    assert run_virtual(main()) == (3.0, 3.0)
    assert ticker.read() <= time.monotonic()


# ------------------------------------------------------------------ the virtual loop


def test_virtual_time_waits_for_threads_and_runs_executor_jobs() -> None:
    async def main() -> list[object]:
        async with asyncio.timeout(1):
            in_anyio = await to_thread.run_sync(lambda: time.sleep(0.02) or threading.get_ident())
        return [in_anyio, await asyncio.to_thread(threading.get_ident), CLOCK.monotonic()]

    here = threading.get_ident()
    in_anyio, in_executor, now = run_virtual(main())
    assert in_anyio != here
    assert (in_executor, now) == (here, 0)


def test_an_executor_job_that_fails_fails_its_awaiter() -> None:
    with pytest.raises(ZeroDivisionError):
        run_virtual(asyncio.to_thread(divmod, 1, 0))


def test_waiting_for_ever_is_noticed() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match="waiting for ever"):
        run_virtual(main())


def test_a_task_left_running_is_noticed() -> None:
    async def main() -> asyncio.Task[None]:
        return asyncio.ensure_future(asyncio.sleep(1))

    with pytest.raises(LeftRunningError):
        run_virtual(main())


def test_a_step_can_be_chosen_to_cancel_at() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.append(asyncio.current_task())
        for _ in range(100):
            await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        run_virtual(main(), before_step=lambda step: step == 50 and tasks[0].cancel())
