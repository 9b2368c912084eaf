"""The work behind one key: claim it, call the function once, record how it ended.

Every way out leaves a record: DONE, FAILED, released, or UNKNOWN. Where not even that can be written, the record stays
in progress under a task that has ended, and so reads UNKNOWN.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from ..._core.journal import Level
from ..._core.results import StoredResult
from ...errors import IdempotencyConflictError, IdempotencyUnknownError
from .flights import Hit, Raised, Returned, encode_within, read_stored
from .options import OnUnknown
from .records import Outcome, RecordState

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..._core.component import Services
    from .calls import Call
    from .flights import Flight
    from .records import IdempotencyRecord, IdempotencyRecords


_NEVER_RECORDED: Final = "its outcome was never recorded"


class Run:
    """Brings one flight to its outcome.

    Args:
        flight: The call, and those who wait for it.
        records: Where keys are remembered.
        services: Clock and journal.
        max_result_bytes: How large a stored result may be.
    """

    __slots__ = ("_call", "_fence", "_flight", "_max_result_bytes", "_records", "_replaced", "_services")

    def __init__(
        self, flight: Flight, records: IdempotencyRecords, services: Services, *, max_result_bytes: int
    ) -> None:
        self._flight = flight
        self._call = flight.call
        self._records = records
        self._services = services
        self._max_result_bytes = max_result_bytes
        self._fence = services.clock.random_hex(8)
        self._replaced: IdempotencyRecord | None = None  # UNKNOWN, and allowed to run again

    async def bring_about(self) -> Hit | None:
        """Set the outcome of the flight.

        Returns:
            The result to keep at hand, where it may be.

        Raises:
            IdempotencyConflictError: The key belongs to another call.
            IdempotencyUnknownError: An earlier call of the key is UNKNOWN and may not run again.
            ResultUnavailableError: The call has run, and its outcome is not to be had.
            asyncio.CancelledError: Nobody waits any more, or the manager stops.
            Exception: What the records, or ``verify``, raised.
        """
        while True:
            record = await self._claim()
            if record.fingerprint != self._call.fingerprint:
                error: Exception = conflict(self._services, self._call, record.fingerprint)
                raise error
            self._flight.owns_key.set()
            if record.fence == self._fence:
                return await self._execute()
            if record.state is RecordState.IN_PROGRESS:
                await self._records.wait(self._call.key, record.fence)
            elif record.state is not RecordState.UNKNOWN:
                return self._replay(record)
            elif await self._may_run_again(record):
                self._replaced = record

    async def _claim(self) -> IdempotencyRecord:
        call, flight = self._call, self._flight
        instead_of = None if self._replaced is None else self._replaced.fence
        record = await flight.record(
            self._records.claim(call.key, call.fingerprint, self._fence, holder=flight.task, instead_of=instead_of)
        )
        if flight.cancellation is not None and record.fence == self._fence:
            await self._free()
        flight.check_cancelled()
        return record

    async def _execute(self) -> Hit | None:
        flight, hit = self._flight, None
        try:
            result, flight.cancellation = await self._call.run()
        except Exception as error:  # noqa: BLE001 - it is recorded, and raised by whoever waits
            await self._fail(error)
        except GeneratorExit:
            raise
        except BaseException as error:
            await self._lose(error)
            raise
        else:
            hit = await self._succeed(result)
        flight.check_cancelled()
        return hit

    async def _succeed(self, result: object) -> Hit | None:
        call, stored = self._call, self._encode(result)
        expires_at = self._services.clock.monotonic() + call.policy.ttl_seconds
        self._flight.outcome = Returned(result, call.label, stored)
        recorded = await self._finish(RecordState.DONE, stored)
        return None if isinstance(stored, str) or not recorded else Hit(call, result, stored, expires_at)

    async def _fail(self, error: Exception) -> None:
        call = self._call
        self._flight.outcome = Raised(error)
        if isinstance(error, call.policy.release_on):
            await self._free()
            return
        stored = self._encode(error)
        if isinstance(stored, str):
            stored = f"it raised {type(error).__qualname__}, which could not be stored: {stored}"
        await self._finish(RecordState.FAILED, stored)
        error.add_note(
            f"{call.label} will raise this again and not run for {call.policy.ttl_seconds:g} s: "
            f"name it in release_on= if it proves that nothing happened"
        )

    async def _lose(self, error: BaseException) -> None:
        cancelled = isinstance(error, asyncio.CancelledError)
        reason = "it was cancelled while it ran" if cancelled else f"{type(error).__qualname__} ended it"
        unknown = self._unknown(reason)
        # A cancellation is nobody else's; what ends the interpreter has left the loop and must not do so again.
        not_for_others = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit))
        self._flight.outcome = Raised(unknown if not_for_others else error)
        await self._finish(RecordState.UNKNOWN, reason)

    def _replay(self, record: IdempotencyRecord) -> Hit | None:
        call, flight = self._call, self._flight
        value = read_stored(call.label, record)
        if record.state is RecordState.FAILED:
            value.add_note(f"{call.label} raised this the first time; it was not run again")
            flight.outcome = Raised(value)
            return None
        # Whether it may be shared was known to the process that stored it.
        stored = StoredResult(record.result or b"", shareable=False)
        flight.outcome = Returned(value, call.label, stored)
        left = math.inf if record.expires_in_seconds is None else record.expires_in_seconds
        return Hit(call, value, stored, self._services.clock.monotonic() + left)

    async def _may_run_again(self, record: IdempotencyRecord) -> bool:
        """Say whether a call that is UNKNOWN may run again; if not, it has been settled meanwhile.

        Raises:
            IdempotencyUnknownError: It may not.
        """
        policy, reason = self._call.policy, record.reason or _NEVER_RECORDED
        if policy.on_unknown is OnUnknown.RERUN:
            return True
        if policy.verify is None:
            raise self._unknown(reason)
        found = await policy.verify({"idempotency_key": self._call.key, **self._call.bound})
        if found is None or found is False:
            if record.owner_died:
                return True
            # While the process that made the call is alive, the call may still arrive.
            raise self._unknown("verify found no trace of it, but it may still arrive")
        stored = self._encode(None if found is True else found)
        outcome = self._outcome(RecordState.DONE, stored)
        await self._flight.record(self._records.finish(self._call.key, record.fence, outcome))
        self._flight.check_cancelled()
        return False

    async def _free(self) -> None:
        """Let go of the key: as if nobody had called, unless an earlier call is still UNKNOWN."""
        ruled_out = self._call.policy.on_unknown is OnUnknown.VERIFY
        if self._replaced is None or ruled_out:
            await self._write(self._records.release(self._call.key, self._fence))
        else:
            await self._finish(RecordState.UNKNOWN, self._replaced.reason or _NEVER_RECORDED)

    async def _finish(self, state: RecordState, stored: StoredResult | str) -> bool:
        return await self._write(self._records.finish(self._call.key, self._fence, self._outcome(state, stored)))

    async def _write(self, writing: Coroutine[Any, Any, bool]) -> bool:
        """Record how the call ended. If that fails, it has ended all the same: no error of ours may hide how."""
        try:
            recorded, reason = await self._flight.record(writing), "somebody else has settled it meanwhile"
        except Exception as error:  # noqa: BLE001 - whatever a database raises
            recorded, reason = False, repr(error)
        if not recorded:
            self._publish("idempotency.not_recorded", reason=reason)
        return recorded

    def _outcome(self, state: RecordState, stored: StoredResult | str) -> Outcome:
        ttl_seconds = None if state is RecordState.UNKNOWN else self._call.policy.ttl_seconds
        if isinstance(stored, str):
            return Outcome(state, reason=stored, ttl_seconds=ttl_seconds)
        return Outcome(state, result=stored.data, ttl_seconds=ttl_seconds)

    def _encode(self, result: object) -> StoredResult | str:
        return encode_within(result, self._max_result_bytes)

    def _unknown(self, reason: str) -> IdempotencyUnknownError:
        self._publish("idempotency.unknown", reason=reason)
        return IdempotencyUnknownError(self._call.name, self._call.key, reason)

    def _publish(self, event: str, **fields: object) -> None:
        publish(self._services, event, self._call, **fields)


def conflict(services: Services, call: Call, first: str) -> IdempotencyConflictError:
    """Report that a key was used for two calls, and return the error."""
    publish(services, "idempotency.conflict", call, first=first, second=call.fingerprint)
    return IdempotencyConflictError(call.name, call.key, first, call.fingerprint)


def publish(services: Services, event: str, call: Call, **fields: object) -> None:
    """Report something that people should look at."""
    services.journal.publish(
        event, component="idempotency_manager", level=Level.ERROR, key=call.key, function=call.name, **fields
    )
