"""A `Runtime` made by hand: what actions need of a sandbox, without the sandbox.

`running()` registers one on the running loop, ends its calls at the end, and fails when asyncio had something to
report (an exception never retrieved, a task destroyed) or when a call was left in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import bound_host, register_host, unregister_host
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger, LedgerSettings
from asyncsandbox._core.planned import Planner
from asyncsandbox._core.runtime import Runtime
from asyncsandbox.components.dry_run import DryRunLock


def make_runtime(
    *,
    dry_run: bool = False,
    ledger: Ledger | None = None,
    ledger_settings: LedgerSettings | None = None,
    **fields: Any,
) -> Runtime:
    """Return a runtime that is not registered anywhere."""
    clock = SystemClock()
    fields.setdefault(
        "planner", Planner(namespace=fields.pop("namespace", "default"), secret=fields.pop("secret", None))
    )
    return Runtime(
        gate=DryRunLock(dry_run),
        ledger=Ledger(clock, ledger_settings) if ledger is None else ledger,
        journal=Journal(clock),
        clock=clock,
        dry_run=dry_run,
        **fields,
    )


@asynccontextmanager
async def running(
    runtime: Runtime | None = None, *, drain_seconds: float = 5.0, **fields: Any
) -> AsyncIterator[Runtime]:
    """Run a runtime on the running loop, as `Sandbox` does."""
    runtime = runtime or make_runtime(**fields)
    loop, reported = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    register_host(runtime)
    try:
        with bound_host(runtime):
            yield runtime
    finally:
        unregister_host(runtime)
        await runtime.drain(drain_seconds)
        await asyncio.sleep(0)
        loop.set_exception_handler(None)
    assert runtime.in_flight == 0
    assert reported == []


def states(runtime: Runtime) -> list[str]:
    """Return the states of all rows, in the order the calls came."""
    return [record.state.value for record in runtime.ledger.get_records()]


def must_catch(check: Callable[[Any], object], strategy: SearchStrategy[Any], *, examples: int = 400) -> None:
    """Assert that a property fails for a broken variant: some drawn example makes the check raise."""

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def search(drawn: Any) -> None:
        check(drawn)

    with pytest.raises(AssertionError):
        search()
