"""The one way a call of an action takes, from the caller to the outcome.

    refuse nesting -> correlation -> deadline -> plan the call -> join in flight -> look up -> gate
    -> claim -> facts unchanged? -> STARTED -> the body -> outcome -> one journal event

A live call runs in a task of its own: the caller's cancellation is delivered after the outcome is recorded, so one
declined card in a group of fifty does not leave forty-nine outcomes unknown.
"""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import (
    DeadlineExceededError,
    IdempotencyConflictError,
    KnownAfterApplyError,
    NestedActionError,
    NoSandboxError,
    OutcomeUnknownError,
)
from .context import (
    CallScope,
    get_correlation_id,
    get_deadline,
    get_running_action,
    running_action,
)
from .journal import Level
from .ledger import ActionEvent, ActionState
from .planned import FILLED_IN, KEY_PARAMETER, ActionKind, Decision, provider_key
from .runtime import Flight
from .saga import current_saga
from .tasks import outlast
from .tokens import call_site, tokens_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .ledger import Row
    from .planned import ActionSpec, PlannedAction
    from .runtime import Runtime


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


async def perform(runtime: Runtime, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Take one call of an action through the pipeline.

    Raises:
        NestedActionError: It was called inside the body of another action.
        IdempotencyConflictError: The same key was used with other facts.
        KnownAfterApplyError: A value known only after apply stands where it may not.
        OutcomeUnknownError: An earlier or this run started and nobody knows whether it happened.
        DeadlineExceededError: The deadline passed before it started.
        NoSandboxError: The sandbox stopped while it waited.
        Exception: Whatever the body raised, unchanged.
    """
    outer = get_running_action()
    if spec.kind is ActionKind.READ_ONLY:
        return await _read(runtime, spec, args, kwargs)
    if outer is not None:
        raise NestedActionError(spec.name, outer)
    with CallScope(runtime.clock, spec.deadline_seconds):
        bound = spec.arguments.bind(args, kwargs)
        call = runtime.planner.plan(spec, bound, (call_site() or spec.defined_at) if runtime.dry_run else "")
        while (flight := runtime.flights.get(call.identity)) is not None:
            task = await _follow(flight, call)
            if not task.cancelled():
                return task.result()
            if runtime.stopping:
                raise NoSandboxError(spec.name, f"{runtime!r} is stopping")
        if runtime.gate.judge(call) is Decision.HOLD_BACK:
            return await _hold_back(runtime, spec, call, bound)
        return await _lead(runtime, spec, Flight(call, args, kwargs, bound))


async def _hold_back(runtime: Runtime, spec: ActionSpec, call: PlannedAction, bound: Mapping[str, Any]) -> Any:
    row = await runtime.ledger.look_up(call)
    if row is None:
        result = spec.dry_result(bound, call.label)
        row = await runtime.ledger.plan(call, correlation_id=get_correlation_id(), result=result)
        runtime.journal.publish("action.held_back", component="actions", action=call.action, key=call.key)
    return row.result


async def _read(runtime: Runtime, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if runtime.dry_run:
        labels = [label for value in (*args, *kwargs.values()) for label in tokens_in(value)]
        if labels:
            raise KnownAfterApplyError(labels[0], f"the read-only action {spec.name!r}", call_site())
    runtime.reads[spec.name] = runtime.reads.get(spec.name, 0) + 1
    with running_action(spec.name):
        return await _body(runtime, spec, spec.name, args, kwargs, spec.arguments.bind(args, kwargs))


async def _lead(runtime: Runtime, spec: ActionSpec, flight: Flight) -> Any:
    runtime.flights[flight.call.identity] = flight
    task = flight.task = asyncio.get_running_loop().create_task(_fly(runtime, spec, flight), name=flight.call.label)

    # For a task that was cancelled before its first step; any other has ended its flight itself.
    task.add_done_callback(lambda _task: runtime.land(flight))

    def leave() -> None:
        flight.abandoned = True
        flight.give_up_unwanted()

    cancellation = await outlast(task, on_cancel=leave, until=flight.ended)
    if cancellation is None:
        return task.result()
    if not task.cancelled():
        # Fetched, so that asyncio does not report as lost an outcome that the ledger holds.
        task.exception()
    raise cancellation


async def _follow(flight: Flight, call: PlannedAction) -> asyncio.Task[Any]:
    if flight.call.facts_digest != call.facts_digest:
        raise IdempotencyConflictError(call.action, call.key, flight.call.show(), call.show())
    flight.followers += 1
    try:
        await flight.ended()
    finally:
        flight.followers -= 1
        flight.give_up_unwanted()
    return flight.task


async def _fly(runtime: Runtime, spec: ActionSpec, flight: Flight) -> Any:
    try:
        return await _run(runtime, spec, flight)
    finally:
        runtime.land(flight)


async def _run(runtime: Runtime, spec: ActionSpec, flight: Flight) -> Any:
    ledger = runtime.ledger
    row = await ledger.look_up(flight.call)
    if row is None:
        row = await ledger.plan(flight.call, correlation_id=get_correlation_id())
    elif row.state is ActionState.UNKNOWN:
        await _verify(runtime, spec, row, flight.bound)
    if row.state is ActionState.DONE:
        return row.result
    fence = await ledger.claim(row)
    try:
        _refuse_stale(runtime, spec, flight)
    except Exception:
        await ledger.release(row, fence)
        raise
    await ledger.start(row, fence)
    flight.started = True
    try:
        result = await _attempt(runtime, spec, row, flight)
    except (Exception, asyncio.CancelledError) as error:
        failure = await _fail(runtime, spec, row, fence, error)
        if failure is error:
            raise
        raise failure from None
    await ledger.finish(row, fence, ActionEvent.RETURN, result=result)
    _report(runtime, row, "action.done", Level.INFO)
    saga = current_saga()
    if saga is not None and spec.undo is not None:
        saga.add(spec.undo, row, {**flight.bound, "result": result})
    return result


def _refuse_stale(runtime: Runtime, spec: ActionSpec, flight: Flight) -> None:
    call, at = flight.call, get_deadline()
    if at is not None and runtime.clock.monotonic() >= at:
        raise DeadlineExceededError(call.action, call.key)
    if spec.facts is None and _UNCHANGING.issuperset(map(type, flight.bound.values())):
        return
    # A mutable argument may have changed while the call waited; what was shown is what must run.
    if runtime.planner.facts_digest(spec, flight.bound) != call.facts_digest:
        changed = runtime.planner.plan(spec, flight.bound)
        raise IdempotencyConflictError(call.action, call.key, call.show(), changed.show())


_UNCHANGING = frozenset({str, int, float, bool, bytes, type(None), type(FILLED_IN)})


async def _attempt(runtime: Runtime, spec: ActionSpec, row: Row, flight: Flight) -> Any:
    kwargs = flight.kwargs
    if spec.forwards_key and _is_left_to_us(flight.bound):
        kwargs = {**kwargs, KEY_PARAMETER: provider_key(row.call.identity, row.generation)}
    limit = _time_left(runtime, spec)
    with running_action(row.call.label):
        body = _body(runtime, spec, row.call.label, flight.args, kwargs, flight.bound)
        if limit is None:
            return await body
        return await _within(runtime, spec, row, body, limit)


def _body(
    runtime: Runtime,
    spec: ActionSpec,
    label: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    bound: Mapping[str, Any],
) -> Coroutine[Any, Any, Any]:
    stage = body_stage.get()
    if stage is None:
        return spec.body(*args, **kwargs)
    return stage(runtime, spec, label, functools.partial(spec.body, *args, **kwargs), bound)


async def _within(runtime: Runtime, spec: ActionSpec, row: Row, body: Coroutine[Any, Any, Any], limit: float) -> Any:
    task = asyncio.get_running_loop().create_task(body, name=f"body of {row.call.label}")
    try:
        done, _ = await asyncio.wait((task,), timeout=limit)
    except asyncio.CancelledError:
        _leave_behind(runtime, spec, row, task)
        raise
    if done:
        return task.result()
    _leave_behind(runtime, spec, row, task)
    raise OutcomeUnknownError(row.call.action, row.call.key, f"no answer within {limit:g} s")


def _leave_behind(runtime: Runtime, spec: ActionSpec, row: Row, task: asyncio.Task[Any]) -> None:
    """Cancel a body that took too long, and record its result should it have one all the same; a thread goes on."""
    if not spec.threaded:
        task.cancel()
    row.left_running = True
    late = asyncio.get_running_loop().create_task(
        _settle_late(runtime, row, row.fence, task), name=f"late {row.call.label}"
    )
    runtime.late.add(late)
    late.add_done_callback(runtime.late.discard)


async def _settle_late(runtime: Runtime, row: Row, fence: int, task: asyncio.Task[Any]) -> None:
    cancellation = await outlast(task)
    row.left_running = False
    returned = not task.cancelled() and task.exception() is None
    if returned and await runtime.ledger.finish(row, fence, ActionEvent.RETURN, result=task.result()):
        _report(runtime, row, "action.done_late", Level.WARNING)
    if cancellation is not None:
        raise cancellation


async def _fail(
    runtime: Runtime, spec: ActionSpec, row: Row, fence: int, error: Exception | asyncio.CancelledError
) -> Exception:
    """Record how the body failed, and return what the caller gets."""
    call = row.call
    event, level = ActionEvent.LOSE, Level.ERROR
    if isinstance(error, spec.not_delivered):
        event, level = ActionEvent.NOT_DELIVERED, Level.WARNING
    elif isinstance(error, spec.rejected):
        event, level = ActionEvent.REJECT, Level.WARNING
    reason = error.reason if isinstance(error, OutcomeUnknownError) else _say(error)
    await runtime.ledger.finish(row, fence, event, error=reason)
    _report(runtime, row, f"action.{row.state}" if event is ActionEvent.LOSE else f"action.{_NAMES[event]}", level)
    if isinstance(error, asyncio.CancelledError):
        return OutcomeUnknownError(call.action, call.key, "it was cancelled while it ran")
    if event is ActionEvent.LOSE and not isinstance(error, OutcomeUnknownError):
        error.add_note(f"{call.label} had started, so its outcome is now UNKNOWN and it will not run again by itself")
    return error


def _say(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an outcome must be recorded even if the error cannot say what it is
        return type(error).__name__


_NAMES = {ActionEvent.NOT_DELIVERED: "not_delivered", ActionEvent.REJECT: "rejected"}


async def _verify(runtime: Runtime, spec: ActionSpec, row: Row, bound: Mapping[str, Any]) -> None:
    call = row.call
    if spec.verify is None:
        raise OutcomeUnknownError(call.action, call.key, row.error or "its outcome was never recorded")
    if _is_left_to_us(bound):
        bound = {**bound, KEY_PARAMETER: provider_key(call.identity, row.generation)}
    found = await spec.verify(bound)
    if row.state is not ActionState.UNKNOWN:
        return
    if found is None or found is False:
        # Only a dead owner makes "not found" final, and this process is alive: the call may still arrive.
        raise OutcomeUnknownError(call.action, call.key, "verify found no trace of it, but it may still arrive")
    await runtime.ledger.resolve(row, happened=True, result=None if found is True else found)
    _report(runtime, row, "action.verified", Level.INFO)


def _is_left_to_us(bound: Mapping[str, Any]) -> bool:
    given = bound.get(KEY_PARAMETER)
    return given is None or given is FILLED_IN


def _time_left(runtime: Runtime, spec: ActionSpec) -> float | None:
    at = get_deadline()
    left = None if at is None else max(0.0, at - runtime.clock.monotonic())
    if left is None or spec.attempt_timeout_seconds is None:
        return left if spec.attempt_timeout_seconds is None else spec.attempt_timeout_seconds
    return min(left, spec.attempt_timeout_seconds)


def _report(runtime: Runtime, row: Row, name: str, level: Level) -> None:
    runtime.journal.publish(
        name,
        component="actions",
        level=level,
        action=row.call.action,
        key=row.call.key,
        generation=row.generation,
        attempts=row.attempts,
        duration_seconds=row.duration_seconds,
    )
