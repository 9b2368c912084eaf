"""One execution per key: a second call of a key joins the first, or gets its stored outcome.

It promises that a key runs at most once until its outcome has expired, whatever happens meanwhile. Where a crash or a
cancellation came between, the outcome is UNKNOWN, and the key runs again only if somebody says that it may. It does not
promise that the one run succeeds.

>>> async def charge(invoice: str, amount: int) -> dict[str, object]:
...     print("charging", invoice)
...     return {"invoice": invoice, "paid": amount}
>>> idempotency = IdempotencyManager()
>>> async def main() -> None:
...     for _ in range(2):
...         print(await idempotency.process_idempotent("charge-17", charge, "inv-17", amount=100))
>>> asyncio.run(main())
charging inv-17
{'invoice': 'inv-17', 'paid': 100}
{'invoice': 'inv-17', 'paid': 100}
>>> asyncio.run(idempotency.process_idempotent("charge-17", charge, "inv-17", amount=999))
Traceback (most recent call last):
    ...
asyncsandbox.errors...IdempotencyConflictError: ...charge[charge-17] was called before with other facts: ...
"""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, cast, overload

from ..._core.clock import Ticker
from ..._core.component import Component, ComponentState
from ..._core.must_await import MustAwait
from ..._core.results import encode_result
from ..._core.tasks import outlast
from ...errors import ConfigurationError, IdempotencyStateError, LifecycleError, NotStartedError
from .calls import Call, Subjects, require_key
from .flights import Flight, Hit, Raised, read_stored
from .in_session import InSession, Transactions
from .options import (
    IdempotencyOptions,
    IdempotencySettings,
    IdempotencyStatus,
    IdempotentDecorator,
    OnUnknown,
    Policy,
    by_arguments,
)
from .records import IdempotencyRecord, IdempotencyRecords, InMemoryIdempotencyRecords, Outcome, RecordState
from .runs import Run, conflict
from .store_records import make_records

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

    from ..._core.component import Services

__all__ = [
    "IdempotencyManager",
    "IdempotencyOptions",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "IdempotencySettings",
    "IdempotencyStatus",
    "InMemoryIdempotencyRecords",
    "OnUnknown",
    "Outcome",
    "RecordState",
]

P = ParamSpec("P")
R = TypeVar("R")


class IdempotencyManager(Component):
    """Runs a function at most once per key, and gives its outcome to everybody who calls it again.

    Works without `start` as well. Concurrent calls of a key share one run, which belongs to none of them: it goes on
    until the last of them is cancelled. A result comes back equal in type and value, and what one caller does to it no
    other sees. What cannot be stored reaches the first caller only; the others get an error, never a second run.

    Concurrency: use it from one event loop. Cancellation: a cancelled caller leaves the run to the others; the last
    one cancels it and waits for its end. Then the key is free again if the function had not begun, and else UNKNOWN.

    Args:
        settings: How keys are remembered.
        records: Where; in memory by default. A manager that is given the records of a crashed one finds its calls
            UNKNOWN.

    Example:
        >>> async def main() -> list[int]:
        ...     idempotency = IdempotencyManager()
        ...     @idempotency.idempotent(key=lambda order: f"pay-{order}")
        ...     async def pay(order: int) -> int:
        ...         return order * 100
        ...     return [await pay(17), await pay(17), await idempotency.get_cached_result("pay-17")]
        >>> asyncio.run(main())
        [1700, 1700, 1700]
    """

    name = "idempotency_manager"

    def __init__(
        self, *, settings: IdempotencySettings | None = None, records: IdempotencyRecords | None = None
    ) -> None:
        super().__init__()
        self._settings = settings or IdempotencySettings()
        self._policy = Policy.of(self._settings, {})
        self._has_own_records = records is None
        self._records: IdempotencyRecords = (
            InMemoryIdempotencyRecords(max_records=self._settings.max_records) if records is None else records
        )
        self._subjects = Subjects()
        self._flights: dict[str, Flight] = {}
        self._hits: dict[str, Hit] = {}
        self._transactions = Transactions(self.services, self._settings, self._process)

    def bind(self, services: Services) -> None:
        """Give the manager its collaborators; its own records are in their store, or by their clock if unused.

        Raises:
            LifecycleError: It is running; or keys were used that the store would not know.
        """
        own = self._has_own_records and isinstance(self._records, InMemoryIdempotencyRecords)
        in_use = own and any(self._records.count().values())
        if in_use and services.owner is not None:
            raise LifecycleError("keys were used before the store was there: start the sandbox first")
        super().bind(services)
        self._hits.clear()  # they expire by the former clock
        if self._has_own_records and not in_use:
            self._records = make_records(services, max_records=self._settings.max_records)
        self._transactions = Transactions(services, self._settings, self._process)

    @overload
    async def process_idempotent(
        self, key: str, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def process_idempotent(self, key: str, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def process_idempotent(self, key: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, or give the outcome of an earlier call of the same key.

        Args:
            key: What makes it the same call: a string of yours, or of your client.
            func: A function or coroutine function; a plain one runs in a thread.
            *args: For the function.
            **kwargs: For the function.

        Returns:
            What the function returned, now or then.

        Raises:
            ConfigurationError: The key is empty or no string, or an argument says nothing of its own.
            IdempotencyConflictError: The key was used with another function or other arguments; nothing was run.
            IdempotencyUnknownError: A call of the key began and nobody knows how it ended; nothing was run.
            ResultUnavailableError: The call has run, but its outcome could not be stored.
            Exception: Whatever the function raised, now or then.

        Concurrency: calls of one key share a run. Cancellation: as the class says.
        """
        # What `_process` begins with, for the most frequent call, without the cost of calling it.
        try:
            hit = self._hits[key]
            if hit.quick is func and not kwargs and self._now() < hit.expires_at:
                kinds, left = hit.kinds, len(args)
                while left:
                    left -= 1
                    if type(args[left]) is not kinds[left]:
                        break
                else:
                    if args == hit.args:
                        return hit.value
        except (LookupError, TypeError):  # no such key, more arguments, or a key that is no string
            pass
        return await self._process(key, func, args, kwargs, self._policy)

    def idempotent(self, *, key: Callable[..., object], **options: Unpack[IdempotencyOptions]) -> IdempotentDecorator:
        """Return a decorator that makes every call of a function idempotent.

        Args:
            key: Gives the key of a call, a string; it is called with just those arguments of the function it names.
            **options: See `IdempotencyOptions`.

        Raises:
            ConfigurationError: An option is wrong, or a callback does not fit the function.
        """

        def decorate(function: Callable[..., Any], /) -> Callable[..., Coroutine[Any, Any, Any]]:
            arguments = self._subjects.get(function).arguments
            policy = Policy.of(self._settings, options, arguments.names)
            key_of = by_arguments("key", key, arguments.names)

            @functools.wraps(function)
            async def idempotent(*args: Any, **kwargs: Any) -> Any:
                return await self._process(key_of(arguments.bind(args, kwargs)), function, args, kwargs, policy)

            return idempotent

        return decorate

    def in_session(self, session: AsyncSession) -> InSession:
        """Return what makes calls idempotent inside a session's transaction: rows and result commit together or not.

        For sandboxes whose store is the PostgreSQL database of the session. In a dry run the results are kept in
        memory, as those of other calls. Actions are never part of the transaction.

        Args:
            session: An `AsyncSession`; whoever opened it commits it.
        """
        return InSession(session, self._transactions)

    def is_duplicate(self, key: str) -> MustAwait[bool]:
        """Say whether a call of the key runs, has run, or is UNKNOWN; to be awaited.

        For people and reports: by the time you read the answer it may be another one. What decides is
        `process_idempotent`. Using the answer without ``await`` as a condition raises TypeError.
        """
        return MustAwait(self._is_duplicate(key), "is_duplicate()")

    async def get_cached_result(self, key: str, default: Any = None) -> Any:
        """Return the result of a key without running anything.

        Args:
            key: The key.
            default: What to return where there is no result: the key is absent, running, failed or UNKNOWN. Give an
                object of your own to tell that from a stored None.

        Raises:
            ConfigurationError: The key is empty or no string.
            ResultUnavailableError: The call has run, but its result could not be stored.
        """
        record = await self._records.get(require_key(key))
        if record is None or record.state is not RecordState.DONE:
            return default
        return read_stored(f"{record.fingerprint.partition('#')[0]}[{key}]", record)

    async def clear_expired(self) -> int:
        """Forget the outcomes that have expired, and only those: never what is running or UNKNOWN.

        It need not be called: records in memory go by themselves as new ones come.

        Returns:
            How many were forgotten.
        """
        now = self.services.clock.monotonic()
        self._hits = {key: hit for key, hit in self._hits.items() if now < hit.expires_at}
        return await self._records.delete_expired()

    async def resolve(self, key: str, *, happened: bool, result: object = None) -> None:
        """Settle a key that is UNKNOWN, or has failed, by what somebody found out.

        Args:
            key: The key.
            happened: Whether the function did what it does. If not, the key is free again.
            result: What it returned, where it happened.

        Raises:
            ConfigurationError: The key is empty or no string.
            IdempotencyStateError: The key is neither UNKNOWN nor failed.
            ResultCodecError: The result cannot be stored; nothing has changed.
        """
        record = await self._records.get(require_key(key))
        wanted = "happened" if happened else "did not happen"
        if record is None or record.state not in (RecordState.UNKNOWN, RecordState.FAILED):
            raise IdempotencyStateError(key, "absent" if record is None else record.state, wanted)
        if happened:
            data, ttl_seconds = encode_result(result).data, self._settings.ttl_seconds
            settling = self._records.finish(
                key, record.fence, Outcome(RecordState.DONE, result=data, ttl_seconds=ttl_seconds)
            )
        else:
            settling = self._records.release(key, record.fence)
        if not await settling:
            raise IdempotencyStateError(key, "settled already", wanted)
        self.services.journal.publish("idempotency.resolved", component=self.name, key=key, happened=happened)

    def get_status(self) -> IdempotencyStatus:
        """Return a frozen, JSON-able account: how many keys there are by state."""
        counts = self._records.count()
        return IdempotencyStatus(
            name=self.name,
            state=self._state,
            in_progress=counts.get(RecordState.IN_PROGRESS, 0),
            done=counts.get(RecordState.DONE, 0),
            failed=counts.get(RecordState.FAILED, 0),
            unknown=counts.get(RecordState.UNKNOWN, 0),
        )

    async def _is_duplicate(self, key: str) -> bool:
        return require_key(key) in self._flights or await self._records.get(key) is not None

    async def _process(
        self, key: object, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], policy: Policy
    ) -> Any:
        key = require_key(key)
        hit = self._get_hit(key)
        if hit is not None and hit.fits(func, args, kwargs):
            return hit.give()
        call = Call.of(key, func, args, kwargs, policy=policy, subjects=self._subjects)
        while True:
            hit = self._get_hit(key)
            if hit is not None:
                if hit.fingerprint != call.fingerprint:
                    raise conflict(self.services, call, hit.fingerprint)
                return hit.give()
            flight = self._get_flight(key)
            if flight is None:
                return await self._join(self._take_off(call))
            if flight.unwanted:
                await flight.ended.wait()
            elif flight.call.fingerprint == call.fingerprint:
                return await self._join(flight)
            elif flight.owns_key.is_set():
                raise conflict(self.services, call, flight.call.fingerprint)
            else:
                await flight.owns_key.wait()

    def _get_hit(self, key: str) -> Hit | None:
        hit = self._hits.get(key)
        return hit if hit is not None and self.services.clock.monotonic() < hit.expires_at else None

    def _get_flight(self, key: str) -> Flight | None:
        flight = self._flights.get(key)
        if flight is not None and flight.task.get_loop().is_closed():  # it never ends
            del self._flights[key]
            return None
        return flight

    def _take_off(self, call: Call) -> Flight:
        if self._state in (ComponentState.STOPPING, ComponentState.STOPPED):
            raise NotStartedError(self.name, f"calling {call.label}")
        flight = self._flights[call.key] = Flight(call)
        flight.task = self.spawn(self._fly(flight), name=call.label)
        # For a task that is cancelled before its first step; any other has ended its flight itself.
        flight.task.add_done_callback(lambda _task: self._land(flight))
        return flight

    async def _join(self, flight: Flight) -> Any:
        if flight in _inside.get():
            raise ConfigurationError(
                "key", flight.call.key, "the function under this key would wait for itself: give the inner call its own"
            )
        flight.callers += 1
        try:
            await flight.ended.wait()
        except asyncio.CancelledError as cancellation:
            flight.callers -= 1
            if flight.callers or flight.ended.is_set():
                raise
            flight.give_up()
            raise await outlast(flight.task, on_cancel=flight.task.cancel) or cancellation from None
        if flight.outcome is None:
            raise NotStartedError(self.name, f"calling {flight.call.label}")
        return flight.outcome.take()

    async def _fly(self, flight: Flight) -> None:
        flight.task = cast("asyncio.Task[None]", asyncio.current_task())  # an eager task runs before `spawn` returns it
        _inside.set((*_inside.get(), flight))
        try:
            run = Run(flight, self._records, self.services, max_result_bytes=self._settings.max_result_bytes)
            hit = await run.bring_about()
            if hit is not None:
                self._remember(flight.call.key, hit)
        except Exception as error:  # noqa: BLE001 - it reaches whoever waits
            flight.outcome = Raised(error)
        finally:
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        if self._flights.get(flight.call.key) is flight:
            del self._flights[flight.call.key]
            flight.land()

    def _remember(self, key: str, hit: Hit) -> None:
        ticker = Ticker(self.services.clock)
        now = ticker.read()
        self._now = ticker.now
        # Oldest first; with one time to live that is also the order in which they expire.
        while self._hits:
            oldest = next(iter(self._hits))
            if len(self._hits) < self._settings.max_records and now < self._hits[oldest].expires_at:
                break
            del self._hits[oldest]
        self._hits[key] = hit


_inside: ContextVar[tuple[Flight, ...]] = ContextVar("asyncsandbox_idempotency_inside", default=())
