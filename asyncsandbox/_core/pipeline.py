"""The one way a call of an action takes, from the caller to the outcome.

    refuse nesting -> correlation -> deadline -> plan the call -> join in flight -> look up -> gate
    -> claim -> breaker -> permit -> facts unchanged? -> STARTED -> attempts -> outcome -> one journal event

A live call runs in a task of its own: the caller's cancellation is delivered after the outcome is recorded, so one
declined card in a group of fifty does not leave forty-nine outcomes unknown.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import (
    ClaimLostError,
    IdempotencyConflictError,
    KnownAfterApplyError,
    NestedActionError,
    NoSandboxError,
    OutcomeUnknownError,
)
from .attempts import give_back, make_attempts, take_what_it_needs, whose_permit
from .body import is_left_to_us, make_body
from .context import CallScope, get_correlation_id, get_running_action, running_action
from .journal import Level
from .ledger import ActionState
from .masking import find_masked
from .planned import KEY_PARAMETER, ActionKind, Decision, provider_key
from .runtime import Flight, Run
from .saga import current_saga
from .tasks import outlast
from .tokens import call_site, tokens_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ledger import Row
    from .planned import ActionSpec, PlannedAction
    from .runtime import Runtime


async def perform(runtime: Runtime, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Take one call of an action through the pipeline.

    Raises:
        NestedActionError: It was called inside the body of another action.
        IdempotencyConflictError: The same key was used with other facts.
        KnownAfterApplyError: A value known only after apply stands where it may not.
        OutcomeUnknownError: An earlier or this run started and nobody knows whether it happened.
        LimitExceededError: Its limit has no permit for it in time; it was not run.
        BreakerOpenError: Its circuit breaker is open; it was not run.
        DeadlineExceededError: The deadline passed before it started.
        NoSandboxError: The sandbox stopped while it waited.
        Exception: Whatever the body raised, unchanged.
    """
    runtime.specs[spec.name] = spec
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
        if spec.limit is not None and runtime.permits is not None:
            runtime.permits.note_wanted(spec.limit, per=whose_permit(spec, bound))
    return row.result


async def _read(runtime: Runtime, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if runtime.dry_run:
        labels = [label for value in (*args, *kwargs.values()) for label in tokens_in(value)]
        if labels:
            raise KnownAfterApplyError(labels[0], f"the read-only action {spec.name!r}", call_site())
    runtime.reads[spec.name] = runtime.reads.get(spec.name, 0) + 1
    with running_action(spec.name):
        return await make_body(runtime, spec, spec.name, args, kwargs, spec.arguments.bind(args, kwargs))


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
        if task.cancelled():
            raise NoSandboxError(spec.name, f"{runtime!r} is stopping")
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
    run: Run | None = None
    while run is None:
        row = await runtime.ledger.look_up(flight.call)
        with suppress(ClaimLostError):  # another process was quicker: look again
            if row is not None and row.state is ActionState.UNKNOWN:
                await _find_out(runtime, spec, row, flight.bound)
            if row is not None and row.state is ActionState.DONE:
                return row.get_result()
            run = await _begin(runtime, spec, flight, row)
    result = await make_attempts(run)
    saga = current_saga()
    if saga is not None and spec.undo is not None:
        saga.add(spec.undo, run.row, {**flight.bound, "result": result}, spec.redact)
    return result


async def _begin(runtime: Runtime, spec: ActionSpec, flight: Flight, found: Row | None) -> Run:
    """Claim a call, take what it needs, and note that its body is about to run.

    Raises:
        ClaimLostError: Another process was quicker, so that what was found is no longer so.
        asyncio.CancelledError: Nobody waits for it any more, or the sandbox stops.
        Exception: What it needs is not to be had.
    """
    ledger, waits = runtime.ledger, spec.limit is not None
    row = found or await ledger.plan(flight.call, correlation_id=get_correlation_id())
    is_unknown = row.state is ActionState.UNKNOWN
    fence = await (ledger.claim_unknown(row, waits=waits) if is_unknown else ledger.claim(row, waits=waits))
    run = Run(runtime, spec, row, fence, flight)
    try:
        await take_what_it_needs(run)
        flight.busy = True
        await (ledger.restart(row, fence) if is_unknown else ledger.start(row, fence))
    except (Exception, asyncio.CancelledError):
        flight.busy = False
        give_back(run)
        await ledger.release(row, fence, forget=found is None)
        raise
    return run


async def _find_out(runtime: Runtime, spec: ActionSpec, row: Row, bound: Mapping[str, Any]) -> None:
    """Settle an UNKNOWN row, or leave it so where its body may run again with the key the provider knows.

    Raises:
        OutcomeUnknownError: Neither is possible.
    """
    reason = row.error or "its outcome was never recorded"
    if spec.verify is not None:
        if is_left_to_us(bound):
            bound = {**bound, KEY_PARAMETER: provider_key(row.call.identity, row.generation)}
        found = await spec.verify(bound)
        if row.state is not ActionState.UNKNOWN:
            return
        if found is not None and found is not False:
            masked = find_masked(bound, spec.redact)
            await runtime.ledger.resolve(row, happened=True, result=None if found is True else found, masked=masked)
            runtime.report(row, "action.verified", Level.INFO)
            return
        # Only a dead owner makes "not found" final: what a living one has sent may still arrive.
        if await runtime.ledger.may_rule_out(row):
            await runtime.ledger.resolve(row, happened=False)
            runtime.report(row, "action.ruled_out", Level.WARNING)
            return
        reason = "verify found no trace of it, but it may still arrive"
    if not _is_remembered(runtime, spec, row):
        raise OutcomeUnknownError(row.call.action, row.call.key, reason)


def _is_remembered(runtime: Runtime, spec: ActionSpec, row: Row) -> bool:
    """Tell whether the provider still knows the key of a call, so that sending it again cannot repeat it."""
    if spec.resend_within_seconds is None or row.sent_at is None or row.left_running:
        return False
    age = (runtime.clock.now() - row.sent_at).total_seconds()
    return 0 <= age <= spec.resend_within_seconds  # below 0 the clock was set back, and nobody knows the age
