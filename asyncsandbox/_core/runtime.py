"""A running sandbox as actions see it, and the live calls that have not ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .context import Host
from .ledger import ActionEvent
from .masking import find_masked
from .planned import Planner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import AttemptTimeoutError
    from .clock import Clock
    from .journal import Journal, Level
    from .ledger import Ledger, Row
    from .planned import ActionSpec, Gate, PlannedAction
    from .ports import Permit, PermitPort, RetryCall, RetryPort


@dataclass(eq=False, slots=True)
class Flight:
    """A live call that has not ended: its arguments, its task, and who waits for it.

    Attributes:
        call: What is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        bound: All arguments by name.
        task: The task it runs in.
        busy: Whether its body runs, so that its outcome must be awaited.
        abandoned: Whether the caller who began it has left.
        followers: How many other callers wait for it.
        landed: Whether it has ended.
    """

    call: PlannedAction
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    bound: Mapping[str, Any]
    task: asyncio.Task[Any] = field(init=False)
    busy: bool = False
    abandoned: bool = False
    followers: int = 0
    landed: bool = False
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def ended(self) -> asyncio.Future[None]:
        """Return something to await that is done when the call has ended; one for each who waits."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Let those who wait go on. The call does so itself: a callback of its task would come a step later."""
        while self._waiters:
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.abandoned and not self.followers

    def give_up_unwanted(self) -> None:
        """Cancel the call if nobody waits for it any more and its body does not run."""
        if self.is_unwanted and not self.busy:
            self.task.cancel()


@dataclass(eq=False)
class Runtime(Host):
    """A running sandbox as actions see it.

    Attributes:
        gate: Decides whether calls run.
        planner: Makes planned actions.
        ledger: Keeps their rows.
        journal: Hears of their outcomes.
        clock: Time.
        permits: Gives permits of limits, or None where there is no governor.
        retry: Decides on retries, or None where nothing is retried.
        specs: The actions that were called so far.
        reads: How often each read-only action ran.
        stopping: Whether live calls are being ended.
        flights: Live calls that have not ended, by identity.
        late: Bodies that were given up as UNKNOWN and have not ended.
    """

    gate: Gate
    ledger: Ledger
    journal: Journal
    clock: Clock
    planner: Planner = field(default_factory=Planner)
    name: str = "sandbox"
    dry_run: bool = True
    allow_mixed: bool = False
    sandbox: object = None
    permits: PermitPort | None = None
    retry: RetryPort | None = None
    specs: dict[str, ActionSpec] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    stopping: bool = False
    flights: dict[str, Flight] = field(default_factory=dict)
    late: set[asyncio.Task[Any]] = field(default_factory=set)

    __repr__ = Host.__repr__

    @property
    def in_flight(self) -> int:
        """How many live calls have not ended, those given up as UNKNOWN but still running included."""
        return len(self.flights) + len(self.late)

    def report(self, row: Row, name: str, level: Level) -> None:
        """Publish what came of a call."""
        self.journal.publish(
            name,
            component="actions",
            level=level,
            action=row.call.action,
            key=row.call.key,
            generation=row.generation,
            attempts=row.attempts,
            duration_seconds=row.duration_seconds,
        )

    async def drain(self, timeout_seconds: float) -> None:
        """Let live calls end; end those that take longer, which leaves them UNKNOWN."""
        await self._wait_for_all(timeout_seconds)
        self.stopping = True
        for task in self._unfinished():
            task.cancel()
        await self._wait_for_all(timeout_seconds)
        self.stopping = False

    def _unfinished(self) -> set[asyncio.Task[Any]]:
        return {flight.task for flight in self.flights.values()} | self.late

    async def _wait_for_all(self, timeout_seconds: float) -> None:
        """Wait for live calls, those that come meanwhile included."""
        ends = self.clock.monotonic() + timeout_seconds
        while tasks := self._unfinished():
            left = max(0.0, ends - self.clock.monotonic())
            await asyncio.wait(tasks, timeout=left)
            if not left:
                return

    def land(self, flight: Flight) -> None:
        """Note that a call has ended, and let those who wait for it go on."""
        # Once: by the time its task's callback runs, another call may fly under the same identity.
        if not flight.landed:
            flight.landed = True
            self.flights.pop(flight.call.identity)
        flight.wake()


@dataclass(eq=False, slots=True)
class Run:
    """A claimed call on its way to an outcome.

    Attributes:
        runtime: The sandbox it belongs to.
        spec: What is called.
        row: Its row in the ledger.
        fence: What shows that the claim is ours.
        flight: The call as its callers see it.
        retry: Decides on further attempts, or None where there is one only.
        permit: The permit of the attempt that is about to run or runs.
        permit_seconds: How long that permit was waited for.
        outcome: What the ledger is told should no attempt return: NOT_DELIVERED until one may have reached somebody.
        timeout: The error of the last attempt that took too long.
    """

    runtime: Runtime
    spec: ActionSpec
    row: Row
    fence: int
    flight: Flight
    retry: RetryCall | None = None
    permit: Permit | None = None
    permit_seconds: float = 0.0
    outcome: ActionEvent = ActionEvent.NOT_DELIVERED
    timeout: AttemptTimeoutError | None = None

    @property
    def masked(self) -> tuple[str, ...]:
        """Texts of its arguments that must be written nowhere."""
        return find_masked(self.flight.bound, self.spec.redact) if self.spec.redact else ()
