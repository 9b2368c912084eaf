"""The readiness checker: what it promises, and that each promise's test catches a checker that breaks it."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from virtual_time import LeftRunningError, run_virtual

from asyncsandbox._core.checks import (
    Check,
    CheckGroup,
    CheckResult,
    CheckStatus,
    ReadinessReport,
    Verdict,
)
from asyncsandbox._core.context import correlation, get_correlation_id
from asyncsandbox._core.journal import Level
from asyncsandbox.components.readiness import ReadinessSettings, SandboxReadinessChecker
from asyncsandbox.errors import ConfigurationError, NotReadyError

PASS, WARN, FAIL, SKIPPED = CheckStatus
TIMEOUT = 4.0
AMPLE = ReadinessSettings(timeout_seconds=TIMEOUT, deadline_seconds=1000)


# ------------------------------------------------------------------ drawn checks


@dataclass(frozen=True)
class Node:
    """A made-up check: how long it takes, how it ends, what it needs."""

    name: str
    seconds: int
    outcome: str
    needs: tuple[str, ...] = ()
    critical: bool = True

    @property
    def hangs(self) -> bool:
        return self.outcome == "hang"

    @property
    def duration(self) -> float:
        return TIMEOUT if self.hangs else self.seconds

    @property
    def status(self) -> CheckStatus:
        return {"pass": PASS, "warn": WARN}.get(self.outcome, FAIL)


OUTCOMES = st.sampled_from(["pass", "pass", "pass", "warn", "fail", "raise", "hang"])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    """Draw up to seven checks of which each needs some earlier ones, in an order of its own."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 7))):
        names = [node.name for node in nodes]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        nodes.append(Node(f"c{number}", draw(st.integers(0, 3)), draw(OUTCOMES), tuple(needs), draw(st.booleans())))
    return tuple(draw(st.permutations(nodes)))


@dataclass
class Probe:
    """A checker over drawn checks, and when each was asked and answered."""

    checker: SandboxReadinessChecker
    asked: dict[str, list[float]]
    ended: dict[str, float]


def make_probe(
    make: type[SandboxReadinessChecker], graph: tuple[Node, ...], options: ReadinessSettings = AMPLE
) -> Probe:
    probe = Probe(make(settings=options), {}, {})
    for node in graph:
        probe.checker.register_check(node.name, make_fn(node, probe), depends_on=node.needs, critical=node.critical)
    return probe


def make_fn(node: Node, probe: Probe) -> Callable[[], Awaitable[object]]:
    async def fn() -> object:
        now = asyncio.get_running_loop().time
        probe.asked.setdefault(node.name, []).append(now())
        try:
            await asyncio.sleep(1e6 if node.hangs else node.seconds)
        finally:
            for _ in range(5):  # clean up
                await asyncio.sleep(0)
            probe.ended[node.name] = now()
        if node.outcome == "raise":
            raise OSError(node.name)
        return {"pass": True, "warn": "look", "fail": False}[node.outcome]

    return fn


def get_ancestors(graph: tuple[Node, ...]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in sorted(graph, key=lambda node: int(node.name[1:])):
        found[node.name] = set(node.needs).union(*(found[name] for name in node.needs))
    return found


# ------------------------------------------------------------------ P1: the verdict


RESULTS = st.lists(
    st.builds(
        CheckResult,
        status=st.sampled_from(CheckStatus),
        critical=st.booleans(),
        name=st.sampled_from("abcdefgh"),
    ),
    max_size=6,
)
ORDER = {Verdict.GO: 0, Verdict.DEGRADED: 1, Verdict.NO_GO: 2}
WORSE = {PASS: 0, WARN: 1, SKIPPED: 2, FAIL: 3}


def weigh(result: CheckResult) -> int:
    """Say how bad one result is by itself: the verdict is the worst of them."""
    if result.status is PASS:
        return 0
    return 2 if result.critical and result.status is not WARN else 1


@given(RESULTS)
def test_verdict_is_the_worst_of_the_results(results: list[CheckResult]) -> None:
    assert ORDER[ReadinessReport.on(results).verdict] == max(map(weigh, results), default=0)


def check_monotone(report: type[ReadinessReport], results: list[CheckResult], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(results) - 1))
    worse = [status for status in CheckStatus if WORSE[status] >= WORSE[results[at].status]]
    after = list(results)
    after[at] = replace(
        results[at], status=data.draw(st.sampled_from(worse)), critical=results[at].critical or data.draw(st.booleans())
    )
    before = report.on(results).verdict
    assert ORDER[before] <= ORDER[report.on(after).verdict]


@given(RESULTS.filter(bool), st.data())
def test_a_worse_check_never_improves_the_verdict(results: list[CheckResult], data: st.DataObject) -> None:
    check_monotone(ReadinessReport, results, data)


class ForgivesSkipped(ReadinessReport):
    """Takes a check that was not asked for one that has nothing to say."""

    @classmethod
    def on(cls, results: object, **rest: object) -> ReadinessReport:
        return super().on([result for result in results if result.status is not SKIPPED], **rest)


def test_monotony_catches_a_verdict_that_forgives_what_was_skipped() -> None:
    run = given(RESULTS.filter(bool), st.data())(lambda results, data: check_monotone(ForgivesSkipped, results, data))
    with pytest.raises(AssertionError):
        hunting(run)()


# ------------------------------------------------------------------ P2 to P6, each with what breaks it


def keep_order_out_of_it(make: type[SandboxReadinessChecker], graph: tuple[Node, ...]) -> None:
    """P2: the order of registration does not change the report, whatever the cap."""
    options = replace(AMPLE, max_concurrency=2, deadline_seconds=7)

    def get_report(nodes: tuple[Node, ...]) -> list[CheckResult]:
        report = run_virtual(make_probe(make, nodes, options).checker.run_all_checks())
        return [replace(check, at="") for check in report.checks]

    assert get_report(graph) == get_report(tuple(reversed(graph)))


class ReportsInOrderOfRegistration(SandboxReadinessChecker):
    def _compose(self, run: object, unfinished: str) -> ReadinessReport:
        report = super()._compose(run, unfinished)
        order = list(self._checks)
        return replace(report, checks=tuple(sorted(report.checks, key=lambda check: order.index(check.name))))


def respect_dependencies(make: type[SandboxReadinessChecker], graph: tuple[Node, ...]) -> None:
    """P3: SKIPPED iff an ancestor failed, naming it; nothing runs before what it depends on."""
    probe = make_probe(make, graph)
    report = run_virtual(probe.checker.run_all_checks())
    results = {check.name: check for check in report.checks}
    ancestors = get_ancestors(graph)
    assert set(results) == {node.name for node in graph}
    for node in graph:
        result = results[node.name]
        failed = {name for name in ancestors[node.name] if results[name].status is FAIL}
        assert result.status is (SKIPPED if failed else node.status)
        assert set(result.because) <= failed
        assert bool(result.because) == bool(failed)
        assert (node.name in probe.asked) == (not failed)
        for name in node.needs:
            assert failed or probe.asked[node.name][0] >= probe.ended[name]


class IgnoresDependencies(SandboxReadinessChecker):
    def register(self, check: Check) -> None:
        super().register(replace(check, depends_on=()))


class AsksBeforeItMay(SandboxReadinessChecker):
    async def _ask(self, check: Check, run: object) -> None:
        early = asyncio.ensure_future(check.fn())
        await super()._ask(check, run)
        early.cancel()
        await asyncio.wait([early])
        _ = early.cancelled() or early.exception()


def take_no_longer_than_needed(make: type[SandboxReadinessChecker], case: tuple[tuple[Node, ...], float]) -> None:
    """P4: a run takes exactly as long as its critical path, or its deadline if that is shorter."""
    graph, deadline = case
    probe = make_probe(make, graph, replace(AMPLE, deadline_seconds=deadline))

    async def main() -> float:
        await probe.checker.run_all_checks()
        return asyncio.get_running_loop().time()

    ends: dict[str, float] = {}
    fails: dict[str, bool] = {}
    for node in sorted(graph, key=lambda node: int(node.name[1:])):
        fails[node.name] = skipped = any(fails[name] for name in node.needs)
        begin = max((ends[name] for name in node.needs), default=0.0)
        ends[node.name] = begin + (0 if skipped else node.duration)
        fails[node.name] |= node.status is FAIL
    assert run_virtual(main()) == min(deadline, max(ends.values()))


class OneAfterTheOther(SandboxReadinessChecker):
    def __init__(self, *, settings: ReadinessSettings) -> None:
        super().__init__(settings=replace(settings, max_concurrency=1))


class KnowsNoDeadline(SandboxReadinessChecker):
    def __init__(self, *, settings: ReadinessSettings) -> None:
        super().__init__(settings=replace(settings, deadline_seconds=1e6))


def share_one_run(make: type[SandboxReadinessChecker], case: tuple[tuple[Node, ...], list[int], int]) -> None:
    """P5: callers at the same time share one execution per check, also when one of them is cancelled."""
    graph, arrivals, victim = case
    slow = Node("c99", 5, "pass")
    probe = make_probe(make, (*graph, slow))

    async def call(delay: int) -> ReadinessReport:
        await asyncio.sleep(delay)
        return await probe.checker.run_all_checks()

    async def main() -> None:
        callers = [asyncio.ensure_future(call(delay)) for delay in (0, *arrivals, 0)]
        await asyncio.sleep(4)
        callers[victim % len(callers)].cancel()
        reports = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(reports.pop(victim % len(callers)), asyncio.CancelledError)
        assert all(report is reports[0] for report in reports)
        assert isinstance(reports[0], ReadinessReport)

    run_virtual(main())
    assert all(len(asked) == 1 for asked in probe.asked.values())


class SharesNothing(SandboxReadinessChecker):
    def _join_run(self, group: CheckGroup | None) -> object:
        self._runs.clear()
        return super()._join_run(group)


class DiesWithOneCaller(SandboxReadinessChecker):
    async def _wait_for(self, run: object) -> None:
        run.callers += 1
        await run.main


def leave_nothing_behind(make: type[SandboxReadinessChecker], case: tuple[tuple[Node, ...], int]) -> None:
    """P6: at whatever step all callers are cancelled, no task is left when the last of them has ended."""
    graph, callers = case

    def attempt(cancel_at: int) -> int:
        steps = 0
        tasks: list[asyncio.Task[ReadinessReport]] = []
        probe = make_probe(make, graph)

        def before_step(step: int) -> None:
            nonlocal steps
            steps = step
            if step == cancel_at:
                for task in tasks:
                    task.cancel()

        async def main() -> None:
            tasks.extend(asyncio.ensure_future(probe.checker.run_all_checks()) for _ in range(callers))
            await asyncio.wait(tasks)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run_virtual(main(), before_step=before_step)
        return steps

    for cancel_at in range(1, attempt(-1)):
        attempt(cancel_at)


class LeavesTheRunAlone(SandboxReadinessChecker):
    async def _wait_for(self, run: object) -> None:
        run.callers += 1
        await asyncio.shield(run.main)


class DoesNotWaitForTheEnd(SandboxReadinessChecker):
    async def _wait_for(self, run: object) -> None:
        run.callers += 1
        try:
            await asyncio.shield(run.main)
        except asyncio.CancelledError:
            for task in (run.main, *run.asking.values()):
                task.cancel()
            raise


PROMISES = {
    keep_order_out_of_it: graphs(),
    respect_dependencies: graphs(),
    take_no_longer_than_needed: st.tuples(graphs(), st.sampled_from([1.5, 5.5, 1000.0])),
    share_one_run: st.tuples(graphs(), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 9)),
    leave_nothing_behind: st.tuples(graphs(), st.integers(1, 3)),
}
BROKEN = [
    (keep_order_out_of_it, ReportsInOrderOfRegistration),
    (respect_dependencies, IgnoresDependencies),
    (respect_dependencies, AsksBeforeItMay),
    (take_no_longer_than_needed, OneAfterTheOther),
    (take_no_longer_than_needed, KnowsNoDeadline),
    (share_one_run, SharesNothing),
    (share_one_run, DiesWithOneCaller),
    (leave_nothing_behind, LeavesTheRunAlone),
    (leave_nothing_behind, DoesNotWaitForTheEnd),
]


def hunting(test: Callable[..., None]) -> Callable[..., None]:
    """Run a property that is to fail: always the same examples, none kept, none shrunk."""
    options = settings(
        database=None,
        derandomize=True,
        max_examples=300,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    return options(test)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(promise: Callable[..., None]) -> None:
    given(PROMISES[promise])(lambda case: promise(SandboxReadinessChecker, case))()


@pytest.mark.parametrize(
    ("promise", "broken"), BROKEN, ids=[f"{promise.__name__}-{broken.__name__}" for promise, broken in BROKEN]
)
def test_promise_catches(promise: Callable[..., None], broken: type[SandboxReadinessChecker]) -> None:
    run = hunting(given(PROMISES[promise])(lambda case: promise(broken, case)))
    with pytest.raises((AssertionError, LeftRunningError, KeyError, asyncio.CancelledError)):
        run()


@given(st.integers(1, 6), st.data())
def test_a_cycle_is_refused_when_it_closes(size: int, data: st.DataObject) -> None:
    checker = SandboxReadinessChecker()
    ring = [f"c{number}" for number in range(size)]
    edges = [*pairwise(ring), (ring[-1], ring[0])]
    *first, last = data.draw(st.permutations(edges))
    for name, need in first:
        checker.register_check(name, bool, depends_on=(need,))
    with pytest.raises(ConfigurationError, match="break the cycle"):
        checker.register_check(last[0], bool, depends_on=(last[1],))


# ------------------------------------------------------------------ examples


async def test_the_first_lines_work_without_start() -> None:
    checker = SandboxReadinessChecker()
    checker.register_check("db", lambda: object() is not None)
    report = await checker.run_all_checks()
    assert report.verdict is Verdict.GO
    assert await checker.is_ready()
    assert checker.get_status().report is not None


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def _raise(error: BaseException) -> None:
    raise error


async def _async_raise(error: BaseException) -> None:
    raise error


async def _true() -> bool:
    return True


ANSWERS = [
    (lambda: True, PASS, ""),
    (lambda: None, PASS, ""),
    (lambda: "", PASS, ""),
    (lambda: "82 % full", WARN, "82 % full"),
    (lambda: False, FAIL, "returned False"),
    (lambda: 1, FAIL, "returned int: return a bool, None, text or a CheckResult"),
    (lambda: CheckResult(status=PASS, output="3 ms"), PASS, "3 ms"),
    (lambda: CheckResult(status="broken"), FAIL, "ValueError: 'broken' is not a valid CheckStatus"),
    (lambda: _raise(OSError("gone")), FAIL, "OSError: gone"),
    (lambda: _raise(UnprintableError()), FAIL, "UnprintableError"),
    (lambda: _async_raise(asyncio.CancelledError("x")), FAIL, "CancelledError: x"),
    (lambda: _async_raise(TimeoutError("mine")), FAIL, "TimeoutError: mine"),
    (_true, PASS, ""),
    (lambda: _true(), PASS, ""),  # noqa: PLW0108 - a plain function that returns a coroutine
]


@pytest.mark.parametrize(("fn", "status", "output"), ANSWERS, ids=range(len(ANSWERS)))
async def test_what_an_answer_means(fn: Callable[[], object], status: CheckStatus, output: str) -> None:
    checker = SandboxReadinessChecker()
    checker.register_check("it", fn, critical=False)
    (result,) = (await checker.run_all_checks()).checks
    assert (result.name, result.status, result.output) == ("it", status, output)
    assert result.critical is False
    assert result.at.endswith("+00:00")


async def test_a_plain_function_runs_in_a_thread_with_the_context_of_the_caller() -> None:
    seen: list[object] = []
    checker = SandboxReadinessChecker()
    checker.register_check("it", lambda: seen.extend([threading.current_thread(), get_correlation_id()]))
    with correlation("req-1"):
        await checker.run_all_checks()
    assert seen[0] is not threading.main_thread()
    assert seen[1] == "req-1"


async def test_a_thread_that_hangs_fails_and_is_not_called_again_before_it_returns() -> None:
    release, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        release.wait(5)

    checker = SandboxReadinessChecker()
    checker.register_check("it", hang, timeout_seconds=0.02)
    outputs = [(await checker.run_all_checks()).checks[0].output for _ in range(2)]
    assert outputs == ["no answer within 0.02 s", "a previous call has not returned yet"]
    release.set()
    while not await checker.is_ready():
        pass
    assert len(calls) == 2


async def test_a_call_cancelled_before_it_began_does_not_count_as_hanging() -> None:
    checker = SandboxReadinessChecker()
    checker.register_check("it", lambda: True)
    caller = asyncio.ensure_future(checker.run_all_checks())
    for _ in range(4):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert (await checker.run_all_checks()).verdict is Verdict.GO


def test_a_check_that_ignores_its_cancellation_delays_the_report_by_the_cleanup_time_only() -> None:
    done: list[float] = []

    async def stubborn() -> bool:
        for _ in range(3):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                done.append(asyncio.get_running_loop().time())
        return True

    async def main() -> tuple[ReadinessReport, float]:
        checker = SandboxReadinessChecker(settings=ReadinessSettings(timeout_seconds=2, deadline_seconds=3))
        checker.register_check("stubborn", stubborn)
        checker.register_check("needs it", _true, depends_on=("stubborn",))
        report = await checker.run_all_checks()
        took = asyncio.get_running_loop().time()
        await asyncio.sleep(60)
        return report, took

    report, took = run_virtual(main())
    assert took == pytest.approx(3.1)
    assert done == [2, 3]
    assert [check.status for check in report.checks] == [SKIPPED, FAIL]
    assert report.checks[0].because == ("stubborn",)
    assert report.checks[1].output == "no result before the deadline of 3 s"


def test_an_answer_after_the_timeout_does_not_count() -> None:
    async def late() -> bool:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return True
        return True

    checker = SandboxReadinessChecker()
    checker.register_check("late", late)
    (result,) = run_virtual(checker.run_all_checks()).checks
    assert (result.status, result.output) == (FAIL, "no answer within 2 s")
    assert result.duration_seconds == 2


async def test_a_gate_that_checks_nothing_is_no_go_unless_told_otherwise() -> None:
    report = await SandboxReadinessChecker().run_all_checks(CheckGroup.LIVENESS)
    assert report.verdict is Verdict.NO_GO
    assert report.failed == ("any_check",)
    assert "'liveness'" in report.checks[0].output
    assert "allow_empty=True" in (await SandboxReadinessChecker().run_all_checks()).checks[0].output
    open_gate = SandboxReadinessChecker(settings=ReadinessSettings(allow_empty=True))
    assert await open_gate.is_ready()


async def test_an_unknown_dependency_is_no_go_and_named_and_may_come_later() -> None:
    checker = SandboxReadinessChecker()
    checker.register_check("app", _true, critical=False, depends_on=("db",))
    report = await checker.run_all_checks()
    assert report.failed == ("db",)
    assert [check.status for check in report.checks] == [SKIPPED, FAIL]
    checker.register_check("db", _true)
    assert (await checker.run_all_checks()).verdict is Verdict.GO


async def test_a_group_asks_its_own_checks_and_what_they_depend_on() -> None:
    checker = SandboxReadinessChecker()

    @checker.check("db", groups=("startup", "readiness"), depends_on=("network",))
    async def ask() -> bool:
        return True

    checker.register_check("network", _true, groups=("startup",))
    checker.register_check("loop", lambda: False, groups=("liveness",))
    assert await ask()
    assert await checker.is_ready()
    assert [check.name for check in (await checker.run_all_checks("readiness")).checks] == ["db", "network"]
    assert (await checker.require_ready("startup")).group is CheckGroup.STARTUP
    with pytest.raises(NotReadyError) as caught:
        await checker.require_ready("liveness")
    assert caught.value.failed == ("loop",)
    assert checker.get_status().report.group is CheckGroup.READINESS
    with pytest.raises(ConfigurationError, match="startup, readiness, liveness"):
        await checker.run_all_checks("traffic")


def test_forgetting_to_await_is_an_error_not_a_yes() -> None:
    with pytest.raises(TypeError, match=r"await"):
        bool(SandboxReadinessChecker().is_ready())


def test_a_pass_is_kept_longer_than_a_failure() -> None:
    asked: list[str] = []
    answer = {"good": True, "bad": False}
    checker = SandboxReadinessChecker(settings=ReadinessSettings(ttl_seconds=10, fail_ttl_seconds=3))
    for name in ("good", "bad"):

        async def fn(name: str = name) -> bool:
            asked.append(name)
            return answer[name]

        checker.register_check(name, fn)
    checker.register_check("own", _true, ttl_seconds=0)

    async def main() -> None:
        for _ in range(11):
            await checker.run_all_checks()
            await asyncio.sleep(1)

    run_virtual(main())
    assert (asked.count("good"), asked.count("bad")) == (2, 4)


def test_a_kept_pass_does_not_hide_that_its_dependency_failed() -> None:
    answers = iter([True, False])

    async def db() -> bool:
        return next(answers)

    async def main() -> ReadinessReport:
        checker = SandboxReadinessChecker()
        checker.register_check("app", _true, ttl_seconds=60, depends_on=("db",))
        checker.register_check("db", db)
        await checker.run_all_checks()
        return await checker.run_all_checks()

    assert [check.status for check in run_virtual(main()).checks] == [SKIPPED, FAIL]


def test_stopping_during_a_run_gives_its_callers_a_no_go() -> None:
    async def main() -> ReadinessReport:
        async with SandboxReadinessChecker() as checker:
            checker.register_check("slow", lambda: asyncio.sleep(1))
            checker.register_check("then", _true, depends_on=("slow",))
            caller = asyncio.ensure_future(checker.run_all_checks())
            await asyncio.sleep(0.5)
        report = await caller
        assert checker.get_status().report is None
        return report

    report = run_virtual(main())
    assert [check.status for check in report.checks] == [FAIL, SKIPPED]
    assert report.checks[0].output == "the checker was stopped"


def test_a_change_of_verdict_is_an_event_and_no_change_is_none() -> None:
    answer: list[object] = [True]

    async def fn() -> object:
        return answer[0]

    async def main() -> list[tuple[object, ...]]:
        checker = SandboxReadinessChecker()
        checker.register_check("it", fn)
        for answer[0] in (True, True, False, False, "hm", True):
            await checker.run_all_checks()
        events = checker.services.journal.get_events("readiness.verdict_changed")
        return [(event.fields["from"], event.fields["to"], event.level) for event in events]

    assert run_virtual(main()) == [
        (None, Verdict.GO, Level.INFO),
        (Verdict.GO, Verdict.NO_GO, Level.ERROR),
        (Verdict.NO_GO, Verdict.DEGRADED, Level.INFO),
        (Verdict.DEGRADED, Verdict.GO, Level.INFO),
    ]


def test_one_checker_serves_one_loop_after_the_other() -> None:
    async def leave_a_run_behind() -> None:
        run = checker._join_run(None)
        run.callers += 1
        run.main.cancel()
        await asyncio.wait([run.main, *run.asking.values()])

    checker = SandboxReadinessChecker()
    checker.register_check("it", _true)
    run_virtual(leave_a_run_behind())
    for _ in range(2):
        assert run_virtual(checker.run_all_checks()).verdict is Verdict.GO


async def test_status_is_json_and_asks_nothing() -> None:
    checker = SandboxReadinessChecker()
    asked: list[int] = []
    checker.register_check("it", lambda: asked.append(1))
    assert json.loads(json.dumps(asdict(checker.get_status()))) == {
        "name": "readiness",
        "state": "new",
        "registered": ["it"],
        "report": None,
    }
    await checker.run_all_checks()
    assert json.loads(json.dumps(asdict(checker.get_status())))["report"]["verdict"] == "GO"
    assert asked == [1]


def test_health_json_follows_the_draft() -> None:
    report = ReadinessReport.on(
        [
            CheckResult(status=FAIL, name="db", output="gone", at="2026-01-01T00:00:00+00:00", duration_seconds=0.25),
            CheckResult(status=SKIPPED, name="app", because=("db",)),
            CheckResult(status=WARN, name="mail", critical=False),
        ]
    )
    assert json.loads(report.to_health_json()) == {
        "status": "fail",
        "output": "NO-GO",
        "checks": {
            "app": [{"status": "fail"}],
            "db": [
                {
                    "status": "fail",
                    "output": "gone",
                    "time": "2026-01-01T00:00:00+00:00",
                    "observedValue": 0.25,
                    "observedUnit": "s",
                }
            ],
            "mail": [{"status": "warn"}],
        },
    }
    assert json.loads(report.to_health_json(details=False)) == {"status": "fail"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"fn": None},
        {"timeout_seconds": 0},
        {"ttl_seconds": -1},
        {"depends_on": "db"},
        {"groups": "readiness"},
        {"groups": ()},
        {"groups": ("traffic",)},
    ],
)
def test_a_wrong_check_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"Check.{next(iter(wrong))}"):
        Check(**{"name": "it", "fn": bool, **wrong})


def test_a_name_is_given_once() -> None:
    checker = SandboxReadinessChecker()
    checker.register_check("it", bool)
    with pytest.raises(ConfigurationError, match="taken"):
        checker.register_check("it", bool)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_seconds": 0},
        {"deadline_seconds": 0},
        {"cleanup_seconds": -1},
        {"max_concurrency": 0},
        {"ttl_seconds": -1},
        {"fail_ttl_seconds": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ReadinessSettings(**wrong)
