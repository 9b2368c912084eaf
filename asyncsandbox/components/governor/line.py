"""One key's log, and the callers who stand in line for a permit: first come, first served.

A permit that is granted to a waiting caller has no instant yet. It is pending: it takes room, and is stamped when the
caller resumes, for on a busy loop that may be much later.

>>> import asyncio
>>> async def main() -> tuple[bool, bool]:
...     line = Line(None, (Window(1, 60.0),), None, ticker=Ticker(SystemClock()), refuse=print)
...     return line.take(0.0, 1), line.take(59.0, 1)
>>> asyncio.run(main())
(True, False)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from ..._core.clock import SystemClock, Ticker
from .window import ALWAYS, NEVER, Log, Window, seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Line", "SystemClock", "Ticker", "Window"]

# How soon to look again where a timer fired before its time by the clock, which may not be the loop's and stand still.
_LOOK_AGAIN_SECONDS = 0.001


class _Caller:
    """One who stands in line."""

    __slots__ = ("cost", "granted", "outcome", "timer", "until")

    def __init__(self, cost: int, until: float | None, outcome: asyncio.Future[Exception | None]) -> None:
        self.cost = cost
        self.until = until
        # None when granted. An error is a result here: as an exception nobody looked at, asyncio would report it.
        self.outcome = outcome
        self.granted = False
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if not self.outcome.done():  # else its task was cancelled and has not had its turn yet
            self.granted = error is None
            self.outcome.set_result(error)


class Line(Log):
    """A `Log` with a queue.

    It promises that nobody is served before somebody who came earlier and still waits, that a caller who is cancelled
    costs nothing, and that it has one timer at most, and none while nobody waits. A caller who does not wait for ever
    has one of his own.

    Attributes:
        per: The key it belongs to.
        cap: How many permits may be held at the same time; None for any number.
        running: Permits held, also by callers who have not resumed yet.
        filed_at: From when on it will be looked at when unused lines are sought; `ALWAYS` for not at all.
        denials: How many calls were denied since that was last told.
        quiet_until: Until when it need not be told again.

    Concurrency: for one loop. Cancellation: of `wait`, leaves the line, or hands on what was just granted.

    Args:
        per: The key it belongs to.
        windows: What is counted.
        cap: How many permits may be held at the same time; None for any number.
        ticker: Reads the clock.
        refuse: Makes what those get who want so much and whose time is up.
        on_unused: Called when the last permit or caller has gone.
    """

    __slots__ = (
        "_asked",
        "_on_unused",
        "_queue",
        "_refuse",
        "_ticker",
        "_timer",
        "_timer_at",
        "cap",
        "denials",
        "filed_at",
        "per",
        "quiet_until",
        "running",
    )

    def __init__(
        self,
        per: Hashable,
        windows: tuple[Window, ...],
        cap: int | None,
        *,
        ticker: Ticker,
        refuse: Callable[[Line, int], Exception],
        on_unused: Callable[[Line, float], object] | None = None,
    ) -> None:
        super().__init__(windows)
        self.per = per
        self.cap = cap
        self.running = 0
        self.filed_at = ALWAYS
        self.denials = 0
        self.quiet_until = NEVER
        self._ticker = ticker
        self._refuse = refuse
        self._on_unused = on_unused
        self._queue: OrderedDict[_Caller, None] | None = None  # made when first needed: most keys never have one
        self._asked = 0  # units that the callers in the queue want together
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = ALWAYS

    @property
    def waiting(self) -> int:
        """How many callers stand in line."""
        return len(self._queue or ())

    @property
    def is_used(self) -> bool:
        """Whether somebody holds a permit or waits for one."""
        return bool(self._queue or self.running)

    @property
    def has_slot(self) -> bool:
        """Whether one more permit may be held at the same time."""
        return self.cap is None or self.running < self.cap

    def take(self, now: float, cost: int) -> bool:
        """Admit a call at once where nobody waits in front of it and there is room for it."""
        if self._queue and now < self._timer_at:
            return False
        self.advance(now)
        if self._queue or self.spare < cost or not self.has_slot:
            return False
        self.admit(now, cost)
        self._open()
        return True

    def bound_behind(self, now: float, cost: int) -> float:
        """Return the least instant at which a call can be admitted that comes now."""
        return self.bound(now, self._asked, cost)

    async def wait(self, now: float, cost: int, until: float | None) -> float:
        """Stand in line, after `take` has failed just now. The caller then holds a permit.

        Returns:
            From when on the permit counts: the moment in which the caller resumes.

        Raises:
            Exception: What ``refuse`` makes, at ``until``; or what `dismiss` was given.
        """
        loop = self._ticker.loop or asyncio.get_running_loop()
        caller = _Caller(cost, until, loop.create_future())
        self._enter(caller, now)
        try:
            error = await caller.outcome
        except BaseException:
            self._withdraw(caller)
            raise
        resumed = self._ticker.now()
        if error is not None:
            self._tell_unused(resumed)
            raise error
        self.promise(-cost)
        if until is not None and resumed > until:
            self._let_go(resumed)
            raise self.refuse(cost)
        self.admit(resumed, cost)
        if not self._queue:
            self._open()
        elif self._timer is None:
            self._set_timer(resumed)
        return resumed

    def refuse(self, cost: int) -> Exception:
        """Return why a call cannot be admitted now, or not in time."""
        return self._refuse(self, cost)

    def release(self) -> None:
        """Take a permit back whose call has ended."""
        if self.cap is None and self._on_unused is None:
            self.running -= 1  # nobody waits for that, and nothing is to be put away
        else:
            self._let_go(self._ticker.read())

    def give_back(self, stamp: float, cost: int) -> None:
        """Take a permit back whose call was never made."""
        self.take_out(stamp, cost)
        self._let_go(self._ticker.read())

    def advance(self, now: float) -> None:
        """Grant those in front what there is room for."""
        self.refresh(now)
        while self._queue:
            caller = next(iter(self._queue))
            has_left = caller.outcome.done()
            is_late = caller.until is not None and now > caller.until
            if not (has_left or is_late or (self.spare >= caller.cost and self.has_slot)):
                break
            self._remove(caller)
            if has_left:
                continue
            if is_late:
                caller.settle(self.refuse(caller.cost))
            else:
                self.promise(caller.cost)
                self.running += 1
                caller.settle(None)
        self._set_timer(now)
        self._open()

    def dismiss(self, make_error: Callable[[int], Exception], *, above: int = 0) -> None:
        """Send those home who want more than ``above``, with an error made from how much each wants."""
        for caller in [caller for caller in self._queue or () if caller.cost > above]:
            self._remove(caller)
            caller.settle(make_error(caller.cost))
        self.advance(self._ticker.read())

    def _open(self) -> None:
        """Let others take from `spare` without another look, if nobody waits and there is nothing else to look at."""
        shut = self._queue or self.cap is not None or self.has_empty
        self.fresh_until = NEVER if shut else self.next_leave

    def _enter(self, caller: _Caller, now: float) -> None:
        if self._queue is None:
            self._queue = OrderedDict()
        self._queue[caller] = None
        self._asked += caller.cost
        self.fresh_until = NEVER
        if caller.until is not None:
            self._set_deadline(caller, caller.until, now)
        if len(self._queue) == 1:
            self._set_timer(now)

    def _remove(self, caller: _Caller) -> None:
        if self._queue and caller in self._queue:
            del self._queue[caller]
            self._asked -= caller.cost

    def _withdraw(self, caller: _Caller) -> None:
        """Make it as if the caller had never come."""
        if caller.timer is not None:
            caller.timer.cancel()
        self._remove(caller)
        if caller.granted:
            self.promise(-caller.cost)
            self.running -= 1
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # closed after its loop had ended: there is nobody left to be served
        now = self._ticker.read()
        self.advance(now)
        self._tell_unused(now)

    def _let_go(self, now: float) -> None:
        self.running -= 1
        self.advance(now)
        self._tell_unused(now)

    def _tell_unused(self, now: float) -> None:
        if self._on_unused is not None and not self.is_used:
            self._on_unused(self, now)

    def _set_timer(self, now: float) -> None:
        """Have the first in line looked at when there will be room for it, if that is known."""
        at = self.due(next(iter(self._queue)).cost) if self._queue and self.has_slot else ALWAYS
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < ALWAYS:
            self._timer = asyncio.get_running_loop().call_later(seconds_until(now, at), self._look)

    def _look(self) -> None:
        at, now = self._timer_at, self._ticker.read()
        if now < at:
            delay = max(seconds_until(now, at), _LOOK_AGAIN_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._look)
            return
        self._timer, self._timer_at = None, ALWAYS
        self.advance(now)

    def _set_deadline(self, caller: _Caller, until: float, now: float, *, at_least: float = 0.0) -> None:
        delay = max(seconds_until(now, until), at_least)
        caller.timer = asyncio.get_running_loop().call_later(delay, self._time_is_up, caller, until)

    def _time_is_up(self, caller: _Caller, until: float) -> None:
        now = self._ticker.read()
        if now < until:
            self._set_deadline(caller, until, now, at_least=_LOOK_AGAIN_SECONDS)
            return
        self.advance(now)  # this very instant may be the one in which there is room
        if not caller.outcome.done():
            self._remove(caller)
            caller.settle(self.refuse(caller.cost))
            self.advance(now)
