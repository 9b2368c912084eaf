"""The readiness checker under every single pause: one run for all who ask, an answer in time, and never a wrong GO."""

import asyncio
from collections import Counter
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox._core.checks import CheckStatus
from asyncsandbox.components.readiness import (
    ReadinessReport,
    ReadinessSettings,
    SandboxReadinessChecker,
    Verdict,
)
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=150)
INPUTS = {
    "cancelled": st.sets(st.integers(0, 3)),
    "fails": st.sampled_from(["network", "", "disk", "cache"]),
    "takes": st.sampled_from([0.0, 0.5, 2.5, 9.0]),
}
KEPT = {"fails": st.sampled_from(["disk", "network"]), "ttl": st.sampled_from([0.0, 1.0])}
STOPS = {"stops_after": st.sampled_from([0.05, 0.2])}
plain = settings(database=None, deadline=None)


class House:
    """Checks that say what they are told: ``api`` needs ``network``; ``api`` and ``disk`` are critical."""

    def __init__(self, takes: float = 0.0, **more: float) -> None:
        self.broken: set[str] = set()
        self.active: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.passed: list[str] = []
        self.takes = takes
        self.checker = SandboxReadinessChecker(
            settings=ReadinessSettings(timeout_seconds=2, deadline_seconds=4, **more)  # type: ignore[arg-type]
        )
        for name in ("api", "cache", "disk", "network"):
            self._add(name)

    def _add(self, name: str) -> None:
        async def check() -> bool:
            self.active[name] += 1
            self.asked[name] += 1
            try:
                await asyncio.sleep(self.takes if name == "disk" else 0.1)
                if name not in self.broken:
                    self.passed.append(name)
                return name not in self.broken
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                raise
            finally:
                self.active[name] -= 1

        depends_on = ("network",) if name == "api" else ()
        self.checker.register_check(name, check, critical=name in {"api", "disk"}, depends_on=depends_on)

    def judge(self, report: ReadinessReport) -> None:
        found = {check.name: check.status for check in report.checks}
        expected = {
            name: CheckStatus.FAIL
            if name in self.broken or (name, self.takes > 2) == ("disk", True)
            else CheckStatus.PASS
            for name in ("api", "cache", "disk", "network")
        }
        if "network" in self.broken:
            expected["api"] = CheckStatus.SKIPPED
        assert found == expected
        critical = {status for name, status in expected.items() if name in {"api", "disk"}}
        verdict = Verdict.DEGRADED if self.broken else Verdict.GO
        assert report.verdict is (verdict if critical == {CheckStatus.PASS} else Verdict.NO_GO)


@settings(plain, max_examples=80)
@simulate(PAUSES, **INPUTS)
async def test_all_who_ask_share_one_run_and_nobody_elses_cancellation(
    sim: Simulation, cancelled: set[int], fails: str, takes: float
) -> None:
    house = House(takes)
    house.broken |= {fails} - {""}
    sim.always(lambda: max(house.active.values(), default=0) <= 1, "a check is asked once at a time")
    async with house.checker:
        loop = asyncio.get_running_loop()
        began = loop.time()
        callers = [asyncio.create_task(house.checker.run_all_checks()) for _ in range(4)]
        await asyncio.sleep(0.05)
        for number in sorted(cancelled):
            callers[number].cancel()
        reports = await asyncio.gather(*callers, return_exceptions=True)
        assert loop.time() - began <= 2.2, "the timeout of a check holds"
        for number, report in enumerate(reports):
            if number in cancelled:
                assert isinstance(report, asyncio.CancelledError)
            else:
                assert isinstance(report, ReadinessReport)
                house.judge(report)
        assert sum(house.active.values()) == 0, "no check goes on after its last caller"
        assert set(house.asked.values()) <= {1}
        assert "api" not in house.asked or "network" in house.passed, "what failed keeps others from being asked"
        house.judge(await house.checker.run_all_checks())
    assert all(task.done() for task in house.checker._tasks)


@settings(plain, max_examples=20)
@simulate(PAUSES)
async def test_a_run_that_nobody_wants_any_more_is_not_joined(sim: Simulation) -> None:
    house = House()
    async with house.checker:
        unwanted = asyncio.create_task(house.checker.run_all_checks())
        await asyncio.sleep(0.02)
        unwanted.cancel()
        await asyncio.sleep(0)
        house.judge(await house.checker.run_all_checks())


@settings(plain, max_examples=40)
@simulate(PAUSES, **KEPT)
async def test_go_is_never_said_while_a_critical_check_fails(sim: Simulation, fails: str, ttl: float) -> None:
    house = House(ttl_seconds=ttl, max_concurrency=1)
    sim.always(lambda: sum(house.active.values()) <= 1, "no more at a time than max_concurrency")
    async with house.checker:
        first = asyncio.create_task(house.checker.run_all_checks("readiness"))
        house.judge(await first)
        house.broken.add(fails)
        await asyncio.sleep(ttl)
        assert not await house.checker.is_ready()
        house.judge(await house.checker.run_all_checks("readiness"))
        assert house.checker.get_status().report is not None
        events = house.checker.services.journal.get_events("readiness.verdict_changed")
        assert [event.fields["to"] for event in events] == [Verdict.GO, Verdict.NO_GO]
        house.broken.clear()
        assert await house.checker.is_ready(), "a failure is not kept"


@settings(plain, max_examples=30)
@simulate(PAUSES, **STOPS)
async def test_a_run_ends_at_its_deadline_and_when_the_checker_stops(sim: Simulation, stops_after: float) -> None:
    loop = asyncio.get_running_loop()

    async def hang() -> None:
        await asyncio.sleep(100)

    async def cling() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(30)

    checker = SandboxReadinessChecker(settings=ReadinessSettings(timeout_seconds=60, deadline_seconds=1))
    checker.register_check("cling", cling)
    checker.register_check("hang", hang)
    async with checker:
        report = await checker.run_all_checks()
        assert report.verdict is Verdict.NO_GO
        assert loop.time() <= 1.2
        asking = asyncio.create_task(checker.run_all_checks())
        await asyncio.sleep(stops_after)
    assert (await asking).verdict is Verdict.NO_GO
    assert all(task.done() for task in checker._tasks)
