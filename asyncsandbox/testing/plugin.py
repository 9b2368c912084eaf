"""The pytest plugin: fixtures `sandbox`, `virtual_time` and `plan_snapshot`, and their options.

Pytest loads it by its entry point. It imports neither Hypothesis nor SQLAlchemy before a test needs them.
"""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from .loop import SimLoop
    from .plan_snapshot import PlanSnapshot
    from .settling import SettlingSandbox
    from .simulated import Simulated

T = TypeVar("T")

_REPLAY, _REPORT, _UPDATE = "--sim-replay", "--sim-report", "--plan-snapshot-update"
_WRITTEN = "asyncsandbox_plan_snapshot"  # a property of reports, which come from other processes, too


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("asyncsandbox", "simulated tests")
    group.addoption(
        _REPLAY, metavar="TOKEN", help="run one failing scenario again; the report of a failure prints its token"
    )
    group.addoption(
        _REPORT, metavar="DIR", help="write each failing simulation as a picture, as JSON, and as a plain test"
    )
    group.addoption(_UPDATE, action="store_true", help="write the plan snapshots that are missing or differ")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the test that the replay token belongs to.

    Raises:
        pytest.UsageError: The token cannot be used, or its test was not collected.
    """
    token = config.getoption(_REPLAY)
    if token is None:
        return
    from .errors import ReplayTokenError
    from .replay_token import named_test

    try:
        wanted = named_test(token)
    except ReplayTokenError as error:
        raise pytest.UsageError(str(error)) from error
    kept = [item for item in items if (simulated := _simulated(item)) is not None and simulated.name == wanted]
    if not kept:
        stray = ReplayTokenError(token, f"belongs to {wanted}, which was not collected", f"run: pytest '{wanted}'")
        raise pytest.UsageError(str(stray))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Put a plain function in the place of a test that this plugin runs, before another plugin takes it."""
    ours = _replaying(pyfuncitem) or _in_virtual_time(pyfuncitem)
    if ours is None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfuncitem, "obj", ours)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check the coverage counters of a test that passed; write the report of one that failed.

    Raises:
        UncoveredError: The test asked for coverage, and something never went wrong.
    """
    simulated = _simulated(item)
    if simulated is None:
        return (yield)
    try:
        result = yield
    except BaseException:
        folder = item.config.getoption(_REPORT)
        if folder is not None:
            _write(simulated, Path(folder), item.name)
        raise
    if item.config.getoption(_REPLAY) is None:
        simulated.require_covered()
    return result


class VirtualTime:
    """What the fixture `virtual_time` gives.

    Attributes:
        elapsed_seconds: Virtual seconds since the test began.
    """

    def __init__(self) -> None:
        self._loop: SimLoop | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Virtual seconds since the test began."""
        return 0.0 if self._loop is None else self._loop.time()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a simulated world in which nothing goes wrong.

        Raises:
            Exception: What it raised, and what failed in a task that nobody looked at.
        """
        from .runs import run_in_world

        def entered(loop: SimLoop) -> Coroutine[Any, Any, T]:
            self._loop = loop
            return coroutine

        return run_in_world(entered)


@pytest.fixture
def virtual_time() -> VirtualTime:
    """Run this test, a coroutine function, in virtual time: an hour of sleep takes no time, the network is refused."""
    return VirtualTime()


@pytest.fixture
def sandbox(virtual_time: VirtualTime) -> SettlingSandbox:  # noqa: ARG001 - its presence is what makes the test run in virtual time
    """A sandbox that is entered around this test, a coroutine function: a dry run with a database in memory."""
    from .settling import SettlingSandbox

    return SettlingSandbox(dry_run=True, use_memory_db=True)


@pytest.fixture
def plan_snapshot(request: pytest.FixtureRequest) -> Generator[PlanSnapshot]:
    """Compare plans with the files beside this test; ``--plan-snapshot-update`` writes them."""
    from .plan_snapshot import PlanSnapshot

    snapshot = PlanSnapshot(request.path, request.node.nodeid, update=bool(request.config.getoption(_UPDATE)))
    yield snapshot
    request.node.user_properties.extend((_WRITTEN, str(path)) for path in snapshot.written)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the plan snapshots that were written: none is in silence."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    written = [path for report in reports for name, path in getattr(report, "user_properties", ()) if name == _WRITTEN]
    if written:
        terminalreporter.section("plan snapshots written")
        for path in sorted(set(written)):
            terminalreporter.line(path)


def _replaying(item: pytest.Function) -> Callable[..., None] | None:
    token, simulated = item.config.getoption(_REPLAY), _simulated(item)
    if token is None or simulated is None:
        return None
    from .replay_token import read_token

    scenario, inputs = read_token(token, simulated.name)
    owner = () if item.instance is None else (item.instance,)
    return lambda **fixtures: simulated.check(scenario, {**fixtures, **inputs}, owner)


def _in_virtual_time(item: pytest.Function) -> Callable[..., None] | None:
    time = item.funcargs.get("virtual_time")
    box: Any = item.funcargs.get("sandbox")
    test = inspect.unwrap(item.obj)
    if not (isinstance(time, VirtualTime) and inspect.iscoroutinefunction(test)):
        return None

    async def entered(**fixtures: Any) -> None:
        async with nullcontext() if box is None else box:
            await test(**fixtures)

    return lambda **fixtures: time.run(entered(**fixtures))


def _simulated(item: pytest.Item) -> Simulated | None:
    return getattr(getattr(item, "function", None), "asyncsandbox_simulated", None)


def _write(simulated: Simulated, folder: Path, name: str) -> None:
    report = simulated.report
    if report is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "_", name).strip("_")
    (folder / f"{stem}.html").write_text(report.to_html(), encoding="utf-8")
    (folder / f"{stem}.json").write_text(report.to_json(), encoding="utf-8")
    (folder / f"{stem}_again.py").write_text(report.export_test(), encoding="utf-8")
