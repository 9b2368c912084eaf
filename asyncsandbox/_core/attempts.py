"""The attempts of one claimed call: what each needs before it may run, whether another follows, and the outcome.

Another attempt is made only where it can do no harm: the provider never got the one before, or it gets the same key
again. All that is waited for is waited for while nothing runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, IdempotencyConflictError, LimitExceededError, OutcomeUnknownError
from .body import run_body
from .context import get_deadline
from .journal import Level
from .ledger import ActionEvent
from .masking import cover
from .planned import FILLED_IN

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from .planned import ActionSpec
    from .ports import Attempt, RetryCall
    from .runtime import Run


async def take_what_it_needs(run: Run) -> None:
    """Pass the breaker, wait for a permit, and see that the call is still what it was when it was planned.

    Raises:
        BreakerOpenError: The breaker is open.
        LimitExceededError: There is no permit, or not in time.
        DeadlineExceededError: The deadline passed meanwhile.
        IdempotencyConflictError: An argument changed meanwhile.
    """
    spec, runtime = run.spec, run.runtime
    if spec.retry is not None and runtime.retry is not None:
        retry = runtime.retry.begin(spec.name, spec.retry)
        retry.enter()
        run.retry = retry
    if spec.limit is not None:
        await _take_permit(run, spec.limit)
    at = get_deadline()
    if at is not None and runtime.clock.monotonic() >= at:
        raise DeadlineExceededError(run.row.call.action, run.row.call.key)
    _refuse_changed(run)


def give_back(run: Run) -> None:
    """Give back what was taken for a call that is not made after all."""
    _give_permit_back(run)
    if run.retry is not None:
        run.retry.leave(ok=None)


async def make_attempts(run: Run) -> Any:
    """Run the body, again where that is allowed and wanted, and record the outcome.

    Raises:
        OutcomeUnknownError: Nobody knows whether it happened.
        CancelledError: The call was given up between two attempts.
        Exception: Whatever the last attempt raised, unchanged.
    """
    try:
        result = await (_attempt(run) if run.retry is None else _retry(run, run.retry))
    except (Exception, asyncio.CancelledError) as error:
        failure = await _fail(run, error)
        if failure is error:
            raise
        raise failure from (error if run.row.history else None)
    if run.retry is not None:
        run.retry.leave(ok=True)
        run.row.history = _history(run, run.retry)
    await run.runtime.ledger.finish(run.row, run.fence, ActionEvent.RETURN, result=result, masked=run.masked)
    run.runtime.report(run.row, "action.done", Level.INFO)
    return result


async def _retry(run: Run, retry: RetryCall) -> Any:
    while True:
        began = run.runtime.clock.monotonic()
        try:
            return await _attempt(run)
        except Exception as error:
            may_retry = _may_retry(run, error)
            wait = retry.fail(error, began=began, permit_seconds=run.permit_seconds, may_retry=may_retry)
            if wait is None:
                raise
            await _wait_for_next(run, wait, error)


async def _attempt(run: Run) -> Any:
    try:
        return await run_body(run)
    except (Exception, asyncio.CancelledError) as error:
        if not isinstance(error, run.spec.not_delivered):
            run.outcome = ActionEvent.REJECT if isinstance(error, run.spec.rejected) else ActionEvent.LOSE
        raise
    finally:
        if run.permit is not None:
            run.permit.release()
            run.permit = None


def _may_retry(run: Run, error: Exception) -> bool:
    harmless = run.spec.forwards_key or isinstance(error, run.spec.not_delivered)
    given_up = run.flight.is_unwanted or run.runtime.stopping
    return harmless and not given_up and not run.row.left_running and run.outcome is not ActionEvent.REJECT


async def _wait_for_next(run: Run, seconds: float, error: Exception) -> None:
    flight = run.flight
    flight.busy = False
    try:
        await run.runtime.clock.sleep(seconds)
        if run.spec.limit is not None:
            await _take_permit(run, run.spec.limit)
        _refuse_changed(run)
        flight.busy = True
        await run.runtime.ledger.restart(run.row, run.fence)
    except (Exception, asyncio.CancelledError) as refusal:
        flight.busy = True
        _give_permit_back(run)
        ended = isinstance(refusal, asyncio.CancelledError) and not flight.is_unwanted
        if ended or isinstance(refusal, LimitExceededError):
            raise error from None
        raise


async def _take_permit(run: Run, limit: str) -> None:
    spec, permits = run.spec, run.runtime.permits
    if permits is None:
        raise LimitExceededError(limit, "there is no governor here: call the action inside `async with Sandbox(...)`")
    per = whose_permit(spec, run.flight.bound)
    run.permit = permit = await permits.acquire(limit, per=per, until=get_deadline())
    run.permit_seconds = permit.waited_seconds
    run.row.permit_seconds += permit.waited_seconds


def whose_permit(spec: ActionSpec, bound: Mapping[str, Any]) -> Hashable:
    """Return by what a limit counts this call; None where it counts all calls together."""
    return None if spec.limit_per is None else spec.limit_per(bound)


def _give_permit_back(run: Run) -> None:
    if run.permit is not None:
        run.permit.give_back()
        run.permit = None


def _refuse_changed(run: Run) -> None:
    # A mutable argument may have changed while the call waited; what was shown is what must run.
    spec, call, bound = run.spec, run.row.call, run.flight.bound
    if spec.facts is None and _UNCHANGING.issuperset(map(type, bound.values())):
        return
    planner = run.runtime.planner
    if planner.facts_digest(spec, bound) != call.facts_digest:
        raise IdempotencyConflictError(call.action, call.key, call.show(), planner.plan(spec, bound).show())


_UNCHANGING = frozenset({str, int, float, bool, bytes, type(None), type(FILLED_IN)})


async def _fail(run: Run, error: Exception | asyncio.CancelledError) -> Exception | asyncio.CancelledError:
    """Record how the call failed, and return what the caller gets."""
    call, retry, event = run.row.call, run.retry, run.outcome
    if retry is not None:
        blamed = isinstance(error, Exception) and retry.matches(error)
        retry.leave(ok=True if event is ActionEvent.REJECT else False if blamed else None)
        run.row.history = _history(run, retry)
    reason = _reason(run, error)
    await run.runtime.ledger.finish(run.row, run.fence, event, error=reason)
    lost = event is ActionEvent.LOSE
    run.runtime.report(run.row, f"action.{_NAMES.get(event, run.row.state)}", Level.ERROR if lost else Level.WARNING)
    if lost and (error is run.timeout or isinstance(error, asyncio.CancelledError)):
        return OutcomeUnknownError(call.action, call.key, reason)
    if lost:
        error.add_note(f"{call.label} had started, so its outcome is now UNKNOWN and it will not run again by itself")
    return error


def _history(run: Run, retry: RetryCall) -> tuple[Attempt, ...]:
    """Return the attempts that failed, with nothing masked in what their errors say."""
    if not (masked := run.masked):
        return tuple(retry.history)
    return tuple(replace(each, error=each.error and cover(each.error, masked)) for each in retry.history)


_NAMES = {ActionEvent.NOT_DELIVERED: "not_delivered", ActionEvent.REJECT: "rejected"}


def _reason(run: Run, error: Exception | asyncio.CancelledError) -> str:
    if run.timeout is not None and run.timeout is error:
        return f"no answer within {run.timeout.seconds:g} s"
    if isinstance(error, asyncio.CancelledError):
        return "it was cancelled while it ran"
    try:
        return cover(f"{type(error).__name__}: {error}", run.masked)
    except Exception:  # noqa: BLE001 - an outcome must be recorded even if the error cannot say what it is
        return type(error).__name__
