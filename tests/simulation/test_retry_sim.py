"""The retry manager under every single pause: no attempt too many, none once cancelled, none after the deadline."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from providers import DrawnClock, outcome_of, swallow_a_cancellation

from asyncsandbox._core.component import Services
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger
from asyncsandbox.components.retry import BreakerSettings, RetryBackoffManager, RetrySettings, get_attempts
from asyncsandbox.errors import AttemptTimeoutError, BreakerOpenError
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=150)
CALLERS = 4
CANCELS = {
    "cancelled": st.sets(st.integers(0, CALLERS - 1)),
    "after": st.sampled_from([0.05, 0.1, 0.15, 0.3]),
    "swallowed": st.booleans(),
    "limited": st.booleans(),
}
LIMITS = {
    "deadline": st.sampled_from([0.5, 1.0, 3.0]),
    "takes": st.sampled_from([0.25, 0.75, 9.0]),
    "nested": st.booleans(),
}
TRAFFIC = {"failing": st.sets(st.integers(4, 7)), "limited": st.booleans()}
PROBES = {"probes": st.integers(1, 2), "cancelled": st.sets(st.integers(0, 4)), "heals": st.booleans()}
NESTS = {"limited": st.booleans()}
plain = settings(database=None, deadline=None)


class BankError(Exception):
    """What the bank says when it does not work."""


class Bank:
    """A provider that counts: how often it was asked, by whom, and how many ask it at the moment."""

    def __init__(self, takes: float = 0.1) -> None:
        self.takes = takes
        self.slow: dict[int, float] = {}
        self.asked: Counter[int] = Counter()
        self.active: Counter[int] = Counter()
        self.failing: Counter[int] = Counter()

    async def pay(self, who: int) -> int:
        self.asked[who] += 1
        self.active[who] += 1
        try:
            await asyncio.sleep(self.slow.get(who, self.takes))
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise BankError("interrupted") from None
        finally:
            self.active[who] -= 1
        if self.failing[who] >= self.asked[who]:
            raise BankError("down")
        return who


def make(*, limited: bool = False, **options: Any) -> RetryBackoffManager:
    """Return a manager; a limit that is never reached takes its calls another way through the code."""
    if limited:
        options = {"attempt_timeout_seconds": 1000.0, "deadline_seconds": 1000.0, **options}
    common = {"backoff_base_seconds": 0.1, "backoff_cap_seconds": 0.1, "budget_ratio": None}
    retry = RetryBackoffManager(settings=RetrySettings(**{**common, **options}))
    clock = DrawnClock((0.5, 0.25))
    retry.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock)))
    return retry


@settings(plain, max_examples=80)
@simulate(PAUSES, **CANCELS)
async def test_a_cancelled_call_makes_no_further_attempt_and_the_others_go_on(
    sim: Simulation, cancelled: set[int], after: float, swallowed: bool, limited: bool
) -> None:
    bank, retry = Bank(), make(max_retries=3, limited=limited)
    bank.failing.update({0: 0, 1: 1, 2: 3, 3: 9})
    sim.always(lambda: max(bank.active.values(), default=0) <= 1, "a call makes one attempt at a time")
    sim.always(lambda: max(bank.asked.values(), default=0) <= 4, "n retries are at most n + 1 calls")

    async def call(who: int) -> object:
        if swallowed:
            await swallow_a_cancellation()
        return await outcome_of(retry.execute_with_retry(bank.pay, "bank", who))

    tasks = [asyncio.create_task(call(who)) for who in range(CALLERS)]
    await asyncio.sleep(after)
    running = {who for who in cancelled if not tasks[who].done()}
    for who in running:
        tasks[who].cancel()
    asked = dict(bank.asked)
    came = await asyncio.gather(*tasks, return_exceptions=True)
    for who, each in enumerate(came):
        if who in running:
            assert bank.asked[who] == asked.get(who, 0), "an attempt after the cancellation"
            assert isinstance(each, (BankError, asyncio.CancelledError, int))
        else:
            assert bank.asked[who] == min(bank.failing[who], 3) + 1
            assert each == who or (who == 3 and isinstance(each, BankError))
        if isinstance(each, BankError):
            assert [attempt.number for attempt in get_attempts(each)] == list(range(1, bank.asked[who] + 1))
    assert sum(bank.active.values()) == 0


@settings(plain, max_examples=40)
@simulate(PAUSES, **LIMITS)
async def test_no_call_outlasts_its_deadline_or_the_one_around_it(
    sim: Simulation, deadline: float, takes: float, nested: bool
) -> None:
    loop = asyncio.get_running_loop()
    bank = Bank(takes)
    bank.failing.update({0: 99})
    limits: dict[str, Any] = {"attempt_timeout_seconds": 1.0, "retry_on": (BankError, AttemptTimeoutError)}
    if not nested:
        limits["deadline_seconds"] = deadline
    inner = make(max_retries=50, **limits)
    outer = make(max_retries=2, deadline_seconds=deadline)

    async def pay() -> int:
        return await inner.execute_with_retry(bank.pay, "bank", 0)

    began = loop.time()
    sim.always(lambda: loop.time() <= began + deadline or not bank.active[0], "no attempt after the deadline")
    came = await outcome_of(outer.execute_with_retry(pay, "outer") if nested else pay())
    assert isinstance(came, (BankError, AttemptTimeoutError))
    assert loop.time() <= began + deadline + 1e-9
    assert loop.time() >= began + min(takes, deadline, 1.0) - 1e-9
    assert bank.asked[0] > 1 or deadline < 3.0, "there was time for another attempt"


@settings(plain, max_examples=40)
@simulate(PAUSES, **TRAFFIC)
async def test_retries_are_a_share_of_the_calls(sim: Simulation, failing: set[int], limited: bool) -> None:
    bank, retry = Bank(), make(max_retries=3, budget_ratio=0.5, budget_burst=1, limited=limited)
    bank.failing.update(dict.fromkeys([0, 1, 2, 3, *failing], 9))
    sim.always(
        lambda: bank.asked.total() - len(bank.asked) <= 0.5 * len(bank.asked) + 1, "retries <= ratio * calls + burst"
    )
    for wave in ([0], [1], [2], [3], [4, 5, 6, 7]):
        calls = [outcome_of(retry.execute_with_retry(bank.pay, "bank", who)) for who in wave]
        await asyncio.gather(*calls)
    assert bank.asked.total() > len(bank.asked), "there are retries"


@settings(plain, max_examples=60)
@simulate(PAUSES, **PROBES)
async def test_a_half_open_breaker_lets_its_probes_through_and_nobody_else(
    sim: Simulation, probes: int, cancelled: set[int], heals: bool
) -> None:
    bank = Bank()
    breaker = BreakerSettings(failures=2, of_calls=4, open_seconds=1.0, probes=probes)
    retry = make(max_retries=0, breaker=breaker)
    bank.failing.update(dict.fromkeys([100, 101], 9))
    bank.slow[400] = 1.225
    old = asyncio.create_task(retry.execute_with_retry(bank.pay, "bank", 400))  # ends while the probes are under way
    await asyncio.sleep(0)
    for who in (100, 101):
        await outcome_of(retry.execute_with_retry(bank.pay, "bank", who))
    assert retry.get_status().open_breakers == ("bank",)
    refused = await outcome_of(retry.execute_with_retry(bank.pay, "bank", 102))
    assert isinstance(refused, BreakerOpenError)
    await asyncio.sleep(refused.retry_after_seconds)

    sim.always(
        lambda: bank.active.total() - bank.active[400] <= probes or not retry.get_status().open_breakers,
        "no more than the probes",
    )
    bank.failing.update(dict.fromkeys(range(5), 0 if heals else 9))
    tasks = [asyncio.create_task(retry.execute_with_retry(bank.pay, "bank", who)) for who in range(5)]
    await asyncio.sleep(0.05)
    through = sorted(bank.asked.keys() & range(5))
    assert len(through) == probes, "exactly the probes"
    for who in cancelled:
        tasks[who].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await old
    judged = [who for who in through if who not in cancelled]
    if not judged or (heals and len(judged) < probes):
        assert retry.get_status().open_breakers == ("bank",)
        # The places of the cancelled ones are free again, and only those.
        missing = probes - len(judged)
        later = range(200, 205)
        tasks = [asyncio.create_task(retry.execute_with_retry(bank.pay, "bank", who)) for who in later]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(bank.asked.keys() & later) == missing
    elif not heals:
        assert retry.get_status().open_breakers == ("bank",)
        assert isinstance(await outcome_of(retry.execute_with_retry(bank.pay, "bank", 300)), BreakerOpenError)
        return
    assert retry.get_status().open_breakers == ()


@settings(plain, max_examples=30)
@simulate(PAUSES, **NESTS)
async def test_attempts_do_not_multiply_and_neighbours_do_not_notice(sim: Simulation, limited: bool) -> None:
    bank = Bank()
    bank.failing.update({0: 99, 1: 99})
    inner, outer = make(max_retries=2, limited=limited), make(max_retries=2, limited=limited)

    async def pay() -> int:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(inner.execute_with_retry(bank.pay, "bank", 0))
        return task.result()

    neighbour = asyncio.create_task(outcome_of(inner.execute_with_retry(bank.pay, "bank", 1)))
    with suppress(ExceptionGroup):
        await outer.execute_with_retry(pay, "outer")
    await neighbour
    assert bank.asked == {0: 2 + 1 + 2, 1: 3}
