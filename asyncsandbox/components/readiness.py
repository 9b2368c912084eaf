"""Whether it is safe to go on: GO, DEGRADED or NO-GO, from many small checks asked at once.

It promises an answer within one deadline whatever the checks do, that nothing but the checks decides it, and
that making one check worse never makes the verdict better.

>>> async def main() -> ReadinessReport:
...     checker = SandboxReadinessChecker()
...     checker.register_check("database", lambda: True)
...     checker.register_check("mail", lambda: "the queue is long", critical=False)
...     return await checker.run_all_checks()
>>> report = asyncio.run(main())
>>> report.verdict
<Verdict.DEGRADED: 'DEGRADED'>
>>> [(check.name, check.status.value, check.output) for check in report.checks]
[('database', 'pass', ''), ('mail', 'warn', 'the queue is long')]
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, TypeVar, Unpack

from .._core.checks import (
    Check,
    CheckFunction,
    CheckGroup,
    CheckOptions,
    CheckResult,
    CheckStatus,
    ReadinessReport,
    Verdict,
    parse_group,
)
from .._core.component import Component, ComponentStatus
from .._core.journal import Level
from .._core.must_await import MustAwait
from .._core.settings import require_number
from ..errors import ConfigurationError, NotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._core.checks import CheckAnswer

__all__ = ["ReadinessReport", "ReadinessSettings", "ReadinessStatus", "SandboxReadinessChecker", "Verdict"]

F = TypeVar("F", bound=CheckFunction)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessSettings:
    """How the checks are asked.

    Attributes:
        timeout_seconds: How long one check may take where it does not say itself (> 0).
        deadline_seconds: How long a whole run may take (> 0); what is unfinished then has failed.
        cleanup_seconds: How much longer a run waits for the checks it cut off to clean up (>= 0).
        max_concurrency: How many checks run at the same time (>= 1).
        ttl_seconds: How long a pass is kept before the check is asked again (>= 0); 0 asks every time.
        fail_ttl_seconds: How long any other outcome is kept (>= 0).
        allow_empty: Whether a group without checks is GO. A gate that checks nothing is NO-GO otherwise.
    """

    timeout_seconds: float = 2.0
    deadline_seconds: float = 5.0
    cleanup_seconds: float = 0.1
    max_concurrency: int = 32
    ttl_seconds: float = 0.0
    fail_ttl_seconds: float = 0.0
    allow_empty: bool = False

    def __post_init__(self) -> None:
        require_number("ReadinessSettings.timeout_seconds", self.timeout_seconds, above=0)
        require_number("ReadinessSettings.deadline_seconds", self.deadline_seconds, above=0)
        require_number("ReadinessSettings.cleanup_seconds", self.cleanup_seconds, at_least=0)
        require_number("ReadinessSettings.max_concurrency", self.max_concurrency, at_least=1, whole=True)
        require_number("ReadinessSettings.ttl_seconds", self.ttl_seconds, at_least=0)
        require_number("ReadinessSettings.fail_ttl_seconds", self.fail_ttl_seconds, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessStatus(ComponentStatus):
    """What the checker says of itself, without asking any check.

    Attributes:
        registered: Names of the checks.
        report: The newest report on the readiness group or on all checks; None before the first.
    """

    registered: tuple[str, ...]
    report: ReadinessReport | None


class SandboxReadinessChecker(Component):
    """Asks many checks at once and says GO, DEGRADED or NO-GO.

    Works without `start` as well. A check that raises, hangs, or ignores its cancellation fails; it never
    harms the caller or other checks. The thread of a plain function that hangs cannot be ended: until it
    returns, the check fails without being called again.

    Concurrency: callers who ask for one group at the same time share a run, in the context of the first; use
    it from one event loop. Cancellation: a cancelled caller leaves the run to the others; the last ends it.

    Args:
        settings: How the checks are asked.

    Example:
        >>> async def main() -> bool:
        ...     checker = SandboxReadinessChecker(settings=ReadinessSettings(deadline_seconds=1))
        ...     @checker.check("cache", depends_on=("network",))
        ...     async def cache() -> bool:
        ...         return True
        ...     checker.register_check("network", lambda: False)
        ...     return await checker.is_ready()
        >>> asyncio.run(main())
        False
    """

    name = "readiness"

    def __init__(self, *, settings: ReadinessSettings | None = None) -> None:
        super().__init__()
        self._settings = settings or ReadinessSettings()
        self._checks: dict[str, Check] = {}
        self._runs: dict[CheckGroup | None, _Run] = {}
        self._kept: dict[str, tuple[CheckResult, float]] = {}  # until when, on the monotonic scale
        self._hung: dict[str, threading.Event] = {}  # set once the abandoned call returns
        self._verdicts: dict[CheckGroup | None, Verdict] = {}
        self._report: ReadinessReport | None = None

    def register_check(self, name: str, fn: CheckFunction, **options: Unpack[CheckOptions]) -> None:
        """Add a check; see `Check` for the options.

        Raises:
            ConfigurationError: The name is taken, an option is wrong, or the check would depend on itself.
        """
        self.register(Check(name=name, fn=fn, **options))

    def register(self, check: Check) -> None:
        """Add a check that is ready made. What it depends on may be added later.

        Raises:
            ConfigurationError: The name is taken, or the check would depend on itself.
        """
        if check.name in self._checks:
            raise ConfigurationError("Check.name", check.name, "this name is taken: give every check its own")
        if check.name in self._get_ancestors(check.depends_on):
            raise ConfigurationError(
                "Check.depends_on", check.depends_on, f"this leads back to {check.name!r}: break the cycle"
            )
        self._checks[check.name] = check

    def check(self, name: str, **options: Unpack[CheckOptions]) -> Callable[[F], F]:
        """Return a decorator that does what `register_check` does and leaves the function as it is."""

        def decorate(fn: F) -> F:
            self.register_check(name, fn, **options)
            return fn

        return decorate

    async def run_all_checks(self, group: str | None = None) -> ReadinessReport:
        """Ask every check, or those of one group and what they depend on.

        A check starts as soon as all it depends on has come out; if any of that failed, it is SKIPPED.

        Args:
            group: A `CheckGroup`; None for all.

        Returns:
            The report, at the latest `deadline_seconds` + `cleanup_seconds` from now.

        Raises:
            ConfigurationError: There is no such group.
        """
        run = self._join_run(None if group is None else parse_group("group", group))
        await self._wait_for(run)
        if run.main.cancelled():  # by stop()
            return self._compose(run, "the checker was stopped")
        return run.main.result()

    def is_ready(self) -> MustAwait[bool]:
        """Ask the readiness group and say whether the verdict allows going on; to be awaited.

        Using the answer without ``await`` as a condition raises TypeError.
        """
        return MustAwait(self._is_ready(), "is_ready()")

    async def require_ready(self, group: str = CheckGroup.READINESS) -> ReadinessReport:
        """Do nothing but return the report where it is safe to go on.

        Raises:
            NotReadyError: The verdict is NO-GO.
            ConfigurationError: There is no such group.
        """
        report = await self.run_all_checks(group)
        if report.verdict is Verdict.NO_GO:
            raise NotReadyError(report.failed)
        return report

    def get_status(self) -> ReadinessStatus:
        """Return the newest report on readiness as it is; asks no check."""
        return ReadinessStatus(
            name=self.name, state=self._state, registered=tuple(sorted(self._checks)), report=self._report
        )

    async def _is_ready(self) -> bool:
        report = await self.run_all_checks(CheckGroup.READINESS)
        return report.verdict is not Verdict.NO_GO

    def _get_ancestors(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self._checks[name].depends_on if name in self._checks else ()
        return found

    def _select(self, group: CheckGroup | None) -> dict[str, Check]:
        """Return the checks to ask in an order in which everything follows what it depends on."""
        chosen = {name for name, check in self._checks.items() if group is None or group in check.groups}
        if not chosen and not self._settings.allow_empty:
            where = "" if group is None else f" in group {group.value!r}"
            remedy = f"no check is registered{where}: add one, or set ReadinessSettings(allow_empty=True)"
            return {"any_check": Check.failing("any_check", remedy)}
        missing = "not registered, but another check depends on it"
        checks = {
            name: self._checks.get(name) or Check.failing(name, missing) for name in sorted(self._get_ancestors(chosen))
        }
        order = TopologicalSorter({name: check.depends_on for name, check in checks.items()}).static_order()
        return {name: checks[name] for name in order}

    def _join_run(self, group: CheckGroup | None) -> _Run:
        run = self._runs.get(group)
        # A run without callers is being cancelled; one of another loop never ends.
        if run and run.callers and not run.main.done() and run.main.get_loop() is asyncio.get_running_loop():
            return run
        run = self._runs[group] = _Run(group, self._select(group), self._settings.max_concurrency)
        run.main = self.spawn(self._execute(run), name=f"run {group or 'all'}")
        return run

    async def _wait_for(self, run: _Run) -> None:
        run.callers += 1
        try:
            await asyncio.wait((run.main,))
        except asyncio.CancelledError:
            run.callers -= 1
            if not run.callers:
                tasks = (run.main, *run.asking.values())
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=self._settings.cleanup_seconds)
            raise

    async def _execute(self, run: _Run) -> ReadinessReport:
        settings = self._settings
        for name, check in run.checks.items():
            run.asking[name] = self.spawn(self._ask(check, run), name=f"check {name}")
        unfinished = set(run.asking.values())
        if unfinished:
            _, unfinished = await asyncio.wait(unfinished, timeout=settings.deadline_seconds)
        report = self._compose(run, f"no result before the deadline of {settings.deadline_seconds:g} s")
        if unfinished:
            for task in unfinished:
                task.cancel()
            await asyncio.wait(unfinished, timeout=settings.cleanup_seconds)
        self._conclude(report)
        return report

    async def _ask(self, check: Check, run: _Run) -> None:
        if check.depends_on:
            await asyncio.wait([run.asking[name] for name in check.depends_on])
        result = run.skip(check) or self._get_kept(check)
        if result is None:
            async with run.permits:
                result = await self._call(check)
        run.results[check.name] = result

    def _get_kept(self, check: Check) -> CheckResult | None:
        result, until = self._kept.get(check.name, (None, 0.0))
        return result if self.services.clock.monotonic() < until else None

    async def _call(self, check: Check) -> CheckResult:
        clock = self.services.clock
        began = clock.monotonic()
        answer = await self._get_answer(check)
        ended = clock.monotonic()
        result = check.sign(answer, duration_seconds=ended - began, at=clock.now().isoformat())
        pass_ttl = self._settings.ttl_seconds if check.ttl_seconds is None else check.ttl_seconds
        ttl = pass_ttl if result.status is CheckStatus.PASS else self._settings.fail_ttl_seconds
        self._kept[check.name] = (result, ended + ttl)
        return result

    async def _get_answer(self, check: Check) -> CheckResult:
        seconds = self._settings.timeout_seconds if check.timeout_seconds is None else check.timeout_seconds
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                result = CheckResult.from_answer(await self._invoke(check))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = CheckResult.from_error(error)  # the check cancelled itself; nobody cancelled us
        except Exception as error:  # noqa: BLE001 - whatever a check raises is its answer
            result = CheckResult.from_error(error)
        if timeout.expired():
            return CheckResult(status=CheckStatus.FAIL, output=f"no answer within {seconds:g} s")
        return result

    async def _invoke(self, check: Check) -> CheckAnswer:
        hung = self._hung.get(check.name)
        if hung and not hung.is_set():
            return CheckResult(status=CheckStatus.FAIL, output="a previous call has not returned yet")
        is_async = inspect.iscoroutinefunction(check.fn)
        answer = check.fn() if is_async else await self._call_in_thread(check)
        return await answer if isinstance(answer, Awaitable) else answer

    async def _call_in_thread(self, check: Check) -> CheckAnswer | Awaitable[CheckAnswer]:
        from anyio import CapacityLimiter
        from anyio.to_thread import run_sync

        began, returned = threading.Event(), threading.Event()

        def call() -> CheckAnswer | Awaitable[CheckAnswer]:
            began.set()
            try:
                return check.fn()
            finally:
                returned.set()

        try:
            # A limiter of its own: the permits bound us already, and a full default one must not fail us.
            return await run_sync(call, abandon_on_cancel=True, limiter=CapacityLimiter(1))
        except asyncio.CancelledError:
            if began.is_set():
                self._hung[check.name] = returned
            raise

    def _compose(self, run: _Run, unfinished: str) -> ReadinessReport:
        at = self.services.clock.now().isoformat()
        cut = CheckResult(status=CheckStatus.FAIL, output=unfinished, at=at)
        for name, check in run.checks.items():
            if name not in run.results:
                run.results[name] = run.skip(check) or check.sign(cut, at=at)
        return ReadinessReport.on(run.results.values(), group=run.group, at=at)

    def _conclude(self, report: ReadinessReport) -> None:
        if report.group in (None, CheckGroup.READINESS):
            self._report = report
        before = self._verdicts.get(report.group)
        self._verdicts[report.group] = report.verdict
        if report.verdict is before:
            return
        change = {"from": before, "to": report.verdict, "group": report.group, "failed": report.failed}
        level = Level.ERROR if report.verdict is Verdict.NO_GO else Level.INFO
        self.services.journal.publish("readiness.verdict_changed", component=self.name, level=level, **change)


class _Run:
    """One run and those who wait for it."""

    main: asyncio.Task[ReadinessReport]

    def __init__(self, group: CheckGroup | None, checks: Mapping[str, Check], max_concurrency: int) -> None:
        self.group = group
        self.checks = checks
        self.permits = asyncio.Semaphore(max_concurrency)
        self.callers = 0
        self.asking: dict[str, asyncio.Task[None]] = {}
        self.results: dict[str, CheckResult] = {}

    def skip(self, check: Check) -> CheckResult | None:
        """Return the result of a check that is not to be asked, None where nothing speaks against it."""
        because: set[str] = set()
        for name in check.depends_on:
            result = self.results.get(name, _NO_RESULT)
            if result.blocks:
                because.update(result.because or (name,))
        if not because:
            return None
        names = tuple(sorted(because))
        output = f"not asked, because of {', '.join(names)}"
        skipped = CheckResult(status=CheckStatus.SKIPPED, output=output, because=names)
        return check.sign(skipped)


_NO_RESULT = CheckResult(status=CheckStatus.FAIL)
