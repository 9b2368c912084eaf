"""The governor under every single pause: whoever is held up, never too many, in order, and nothing is lost."""

import asyncio
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox.components.governor import GovernorEnforcer, GovernorSettings, Limit
from asyncsandbox.errors import LifecycleError, LimitExceededError
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=150)
CALLS = {
    "units": st.integers(2, 3),
    "seconds": st.sampled_from([1, 0.3]),
    "costs": st.lists(st.integers(1, 2), min_size=3, max_size=6),
    "cancelled": st.sampled_from([{2}, set(), {1, 3}, {0}, {2, 3}, {4, 5}]),
    "cancelled_at": st.sampled_from([1.0, 0.3, 0.1]),
}
HOLDS = {
    "cap": st.integers(1, 2),
    "holds": st.sampled_from([0.5, 0.0]),
    "cancelled": st.sampled_from([{1}, set(), {0, 2}, {3}, {1, 4}]),
    "fails": st.booleans(),
}
PATIENCE = {
    "patience": st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=3, max_size=5),
    "holds": st.sampled_from([0.0, 0.75, 3.0]),
}
STOPS = {"stops_after": st.sampled_from([0.0, 0.5, 1.0])}
plain = settings(database=None, deadline=None)


def make(**limits: Limit) -> GovernorEnforcer:
    return GovernorEnforcer(settings=GovernorSettings(limits=limits))


def never_more(limit: Limit, admitted: list[tuple[float, int]]) -> None:
    assert limit.max_requests is not None
    assert limit.window_seconds is not None
    for start, _ in admitted:
        end = Fraction(start) + Fraction(limit.window_seconds)
        units = sum(cost for at, cost in admitted if start <= at < end)
        assert units <= limit.max_requests, f"{units} from {start} on"


def nothing_is_left(governor: GovernorEnforcer, resource: str, per: object = None) -> None:
    loop = asyncio.get_running_loop()
    status = governor.get_status(resource, per=per)
    assert (status.running, status.waiting) == (0, 0)
    assert len(loop.timers) == loop.timers.cancelled  # type: ignore[attr-defined]


@settings(plain, max_examples=80)
@simulate(PAUSES, **CALLS)
async def test_never_too_many_in_a_window_and_nobody_is_passed_by(
    sim: Simulation, units: int, seconds: float, costs: list[int], cancelled: set[int], cancelled_at: float
) -> None:
    governor, limit = make(api=Limit(units, seconds)), Limit(units, seconds)
    line = governor._lines["api"][None]
    admitted: list[tuple[float, int]] = []
    waiting: dict[int, int] = {}  # who came and has not gone on, the first first

    def go_on(number: int, cost: int) -> None:
        admitted.append((sim.loop.time(), cost))
        before = takewhile(lambda other: other != number, waiting)
        assert sum(waiting[other] for other in before) <= line.pending, (
            "who came earlier was granted his permit earlier"
        )

    async def call(number: int, cost: int) -> None:
        waiting[number] = cost
        try:
            async with governor.permit("api", cost=cost):
                go_on(number, cost)
                waiting.pop(number, None)
        finally:
            waiting.pop(number, None)

    async def peep() -> None:
        for _ in range(4):
            decision = await governor.check_limit("api")
            if decision:
                go_on(99, 1)
            else:
                assert decision.retry_after_seconds is not None
                assert decision.retry_after_seconds > 0
            await asyncio.sleep(0.25)

    async with governor:
        tasks = []
        for number, cost in enumerate(costs):
            tasks.append(asyncio.create_task(call(number, cost)))
            await asyncio.sleep(0)
        peeping = asyncio.create_task(peep())
        await asyncio.sleep(cancelled_at)
        for number in sorted(cancelled & set(range(len(tasks)))):
            tasks[number].cancel()
            waiting.pop(number, None)
        await asyncio.gather(*tasks, return_exceptions=True)
        await peeping
        for number, task in enumerate(tasks):
            assert number in cancelled or task.exception() is None
        never_more(limit, admitted)
        nothing_is_left(governor, "api")
        await asyncio.sleep(seconds + 0.001)
        assert governor.get_status("api").remaining == units, "nothing is taken by those who did not go on"


@settings(plain, max_examples=60)
@simulate(PAUSES, **HOLDS)
async def test_never_more_at_a_time_than_slots_and_every_slot_comes_back(
    sim: Simulation, cap: int, holds: float, cancelled: set[int], fails: bool
) -> None:
    governor = make(db=Limit(max_concurrent=cap, per="table"))
    inside: list[int] = []
    served: list[int] = []
    sim.always(lambda: len(inside) <= cap, "no more than slots")

    @governor.limited("db", per=lambda: "invoices")
    async def work(number: int) -> None:
        inside.append(number)
        served.append(number)
        try:
            await asyncio.sleep(holds)
            if fails and number == 1:
                raise OSError("lost")
        finally:
            inside.remove(number)

    async with governor:
        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        for number in sorted(cancelled):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert set(range(5)) - set(served) <= cancelled, "everybody else was served"
        nothing_is_left(governor, "db")
        assert governor.get_status("db").keys == 0


@settings(plain, max_examples=40)
@simulate(PAUSES)
async def test_another_key_never_waits(sim: Simulation) -> None:
    governor = make(api=Limit(1, 1000, per="user"))
    done: list[str] = []

    async def call(user: str) -> None:
        async with governor.permit("api", per=user):
            done.append(user)

    async with governor:
        waiting = [asyncio.create_task(call("ada")) for _ in range(3)]
        others = [asyncio.create_task(call(user)) for user in ("grace", "joan")]
        await asyncio.wait(others)
        assert sim.loop.time() == 0
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert done.count("ada") <= 1
        nothing_is_left(governor, "api", "ada")
        assert not await governor.check_limit("api", per="grace"), "what counts is not forgotten when nobody waits"


@settings(plain, max_examples=60)
@simulate(PAUSES, **PATIENCE)
async def test_nobody_gets_a_permit_after_his_time_and_none_is_lost_by_it(
    sim: Simulation, patience: list[float], holds: float
) -> None:
    governor, limit = make(api=Limit(1, 1, max_concurrent=1)), Limit(1, 1)
    admitted: list[tuple[float, int]] = []
    refused: list[float] = []

    async def call(seconds: float) -> None:
        until = sim.loop.time() + seconds
        try:
            permit = await governor.acquire("api", until=until)
        except LimitExceededError:
            refused.append(seconds)
            assert sim.loop.time() <= until
            return
        assert sim.loop.time() <= until
        admitted.append((sim.loop.time(), 1))
        await asyncio.sleep(holds)
        permit.release()
        permit.release()

    async with governor:
        tasks = [asyncio.create_task(call(seconds)) for seconds in patience]
        await asyncio.gather(*tasks)
        assert admitted
        assert len(admitted) + len(refused) == len(patience)
        never_more(limit, admitted)
        nothing_is_left(governor, "api")
        await asyncio.sleep(1)
        async with governor.permit("api", timeout_seconds=0):
            pass


@settings(plain, max_examples=40)
@simulate(PAUSES)
async def test_what_is_given_back_is_there_for_the_next(sim: Simulation) -> None:
    governor = make(api=Limit(3, 1000, max_concurrent=1))
    used = 0

    async def call(number: int) -> None:
        nonlocal used
        async with governor.permit("api") as permit:
            await asyncio.sleep(0.1)
            if number % 2:
                permit.give_back()
            else:
                used += 1

    async with governor:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(call(number))
        assert sim.loop.time() < 10, "nobody had to wait for the window"
        assert governor.get_status("api").used == used == 2
        nothing_is_left(governor, "api")


@settings(plain, max_examples=40)
@simulate(PAUSES, **STOPS)
async def test_who_waits_is_told_when_it_stops_and_what_counts_stays_counted(
    sim: Simulation, stops_after: float
) -> None:
    governor, limit = make(api=Limit(1, 1)), Limit(1, 1)
    admitted: list[tuple[float, int]] = []
    told: list[int] = []

    async def call(number: int) -> None:
        try:
            async with governor.permit("api"):
                admitted.append((sim.loop.time(), 1))
        except LifecycleError:
            told.append(number)

    async with governor:
        tasks = [asyncio.create_task(call(number)) for number in range(4)]
        await asyncio.sleep(stops_after)
    assert governor.get_status("api").waiting == 0
    await asyncio.wait(tasks)
    assert len(admitted) + len(told) == 4
    nothing_is_left(governor, "api")
    async with governor:
        with suppress(LimitExceededError):
            await governor.require_limit("api")
            admitted.append((sim.loop.time(), 1))
    never_more(limit, admitted)
