"""One run of an action's body: with the provider's key, within its time, and with what becomes of a late result."""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import AttemptTimeoutError
from .context import get_deadline, running_action
from .journal import Level
from .ledger import ActionEvent
from .planned import FILLED_IN, KEY_PARAMETER, provider_key
from .tasks import outlast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .planned import ActionSpec
    from .ports import Permit
    from .runtime import Run, Runtime


class BodyStage(Protocol):
    """Runs a body in place of the pipeline."""

    def __call__(
        self,
        runtime: Runtime,
        spec: ActionSpec,
        label: str,
        body: Callable[[], Coroutine[Any, Any, Any]],
        bound: Mapping[str, Any],
        /,
    ) -> Coroutine[Any, Any, Any]:
        """Return what runs instead of ``body()``, given the label and the bound arguments of the call."""
        ...


body_stage: ContextVar[BodyStage | None] = ContextVar("asyncsandbox_body_stage", default=None)
"""Set by a simulation, for its own tasks only; None everywhere else."""


async def run_body(run: Run) -> Any:
    """Run the body once.

    Raises:
        AttemptTimeoutError: It gave no answer in time. It may still be running; then the row says so.
        Exception: Whatever the body raised.
    """
    spec, row, flight = run.spec, run.row, run.flight
    kwargs = flight.kwargs
    if spec.forwards_key and is_left_to_us(flight.bound):
        kwargs = {**kwargs, KEY_PARAMETER: provider_key(row.call.identity, row.generation)}
    limit = _time_left(run.runtime, spec)
    with running_action(row.call.label):
        body = make_body(run.runtime, spec, row.call.label, flight.args, kwargs, flight.bound)
        if limit is None:
            return await body
        return await _within(run, body, limit)


def make_body(
    runtime: Runtime,
    spec: ActionSpec,
    label: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    bound: Mapping[str, Any],
) -> Coroutine[Any, Any, Any]:
    """Return the body's coroutine, or what a simulation puts in its place."""
    stage = body_stage.get()
    if stage is None:
        return spec.body(*args, **kwargs)
    return stage(runtime, spec, label, functools.partial(spec.body, *args, **kwargs), bound)


def is_left_to_us(bound: Mapping[str, Any]) -> bool:
    """Tell whether the caller gave no idempotency key for the provider."""
    given = bound.get(KEY_PARAMETER)
    return given is None or given is FILLED_IN


async def _within(run: Run, body: Coroutine[Any, Any, Any], limit: float) -> Any:
    task = asyncio.get_running_loop().create_task(body, name=f"body of {run.row.call.label}")
    try:
        done, _ = await asyncio.wait((task,), timeout=limit)
        if done:
            return task.result()
        ended = await _end(run, task)
    except asyncio.CancelledError:
        if not task.done():
            _leave_behind(run, task)
        raise
    if not ended:
        _leave_behind(run, task)
    elif not task.cancelled() and task.exception() is None:
        return task.result()
    run.timeout = AttemptTimeoutError(run.row.call.label, run.row.attempts, limit)
    raise run.timeout


async def _end(run: Run, task: asyncio.Task[Any]) -> bool:
    """Cancel a body that took too long; where another attempt could follow, give it as long again to clean up."""
    left = _time_left(run.runtime, run.spec)
    if run.retry is None or run.spec.threaded or not run.spec.forwards_key or not left:
        return False
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=left)
    return bool(done)


def _leave_behind(run: Run, task: asyncio.Task[Any]) -> None:
    """Cancel a body that took too long, and record its result should it have one all the same; a thread goes on."""
    if not run.spec.threaded:
        task.cancel()
    run.row.left_running = True
    late = asyncio.get_running_loop().create_task(_settle_late(run, run.permit, task), name=f"late {task.get_name()}")
    run.permit = None
    run.runtime.late.add(late)
    late.add_done_callback(run.runtime.late.discard)


async def _settle_late(run: Run, permit: Permit | None, task: asyncio.Task[Any]) -> None:
    cancellation = await outlast(task)
    if permit is not None:
        permit.release()
    run.row.left_running = False
    returned = not task.cancelled() and task.exception() is None
    if returned and await _record_late(run, task.result()):
        run.runtime.report(run.row, "action.done_late", Level.WARNING)
    if cancellation is not None:
        raise cancellation


async def _record_late(run: Run, result: object) -> bool:
    return await run.runtime.ledger.finish(run.row, run.fence, ActionEvent.RETURN, result=result, masked=run.masked)


def _time_left(runtime: Runtime, spec: ActionSpec) -> float | None:
    at = get_deadline()
    left = None if at is None else max(0.0, at - runtime.clock.monotonic())
    if left is None or spec.attempt_timeout_seconds is None:
        return left if spec.attempt_timeout_seconds is None else spec.attempt_timeout_seconds
    return min(left, spec.attempt_timeout_seconds)
