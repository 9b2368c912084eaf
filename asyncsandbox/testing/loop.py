"""An event loop on which time, order and power are the test's to decide.

With no pauses it takes exactly the steps that stock asyncio takes, in the same order, and jumps to the next timer
when nothing is left to do. It is one thread: executor jobs are steps like any other, the real world is refused.

>>> async def main() -> float:
...     await asyncio.sleep(3600)
...     return asyncio.get_running_loop().time()
>>> SimLoop().run(main())
3600.0
"""

# ruff: noqa: SLF001 - asyncio has no public way to make a loop

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple, cast

from .ending import let_go, note_unhandled, places_of_tasks, wind_down
from .errors import DeadlockError, EscapedError, LivelockError
from .incarnation import Graveyard, Incarnation, WeakList, current_incarnation, incarnation_of
from .jobs import Job
from .lanes import NOWHERE, SimTask, label_of, lane_of, make_task, name_of, place_here, place_of
from .queues import Holds, SimHandle, SimTimer, Timers
from .trace import StepKind, Trace
from .walls import add_loop_walls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
    from concurrent.futures import Executor

    from .queues import AnyHandle

__all__ = ["SimLoop"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ENDING_STEPS = 10_000  # what cancelled tasks may take to end

_RUN = StepKind.RUN
_EAGER: Any = getattr(asyncio, "eager_task_factory", None)  # Python 3.12 and newer


@add_loop_walls
class SimLoop(asyncio.BaseEventLoop):
    """Runs a program in virtual time, in stock order except for the pauses it is given.

    At each *decision point* (at least two callbacks can run) the loop takes the oldest. A pause at point ``p``
    holds back the lane of that callback until everything else is idle; with several, the longest held goes first.

    Concurrency: belongs to the thread that made it. Cancellation: as on any loop.

    Args:
        pauses: Decision points at which to pause, counted from 0.
        max_steps: How many steps a run may take in all.
        record: Whether the trace is kept; without it a run is faster and its trace empty.

    Attributes:
        points, steps: How many decision points there were, and steps taken, so far.
        trace: What happened.
        at_step: Called before each step with its number, from 0; may cut the power.
        wall_offset: Seconds by which the time of day is ahead of where it began, beyond the virtual time passed.
        job: The executor job that is running, or None.
        ending: Whether the run is over and only being cleaned up.
        leaked: Names of the tasks that were unfinished when the main one ended.
        unhandled: What nobody handled: errors in callbacks, and of tasks whose outcome nobody looked at.
        escaped: The first refusal of something real, also where the program swallowed the error.
        timers, born: The timers that are set, and the tasks it made that are still there.
        patience: How many steps a program may take while no time passes.
    """

    virtual_time = True  # see `_core.clock.is_virtual`
    if TYPE_CHECKING:  # of asyncio, and in no stub
        _closed: bool
        _ready: Any
        _stopping: bool
        _thread_id: int | None

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...

    def __init__(self, *, pauses: Iterable[int] = (), max_steps: int = 200_000, record: bool = True) -> None:
        super().__init__()
        self.points = 0
        self.steps = 0
        self.trace = Trace()
        self.at_step: Callable[[int], object] | None = None
        self.wall_offset = 0.0
        self.job: Job | None = None
        self.ending = False
        self.leaked: tuple[str, ...] = ()
        self.unhandled: list[dict[str, Any]] = []
        self.escaped: EscapedError | None = None
        self.timers = Timers()
        self.patience = self._max_steps = self._limit = max_steps
        self._record = record
        self._log = self.trace.raw.append
        self._pauses = set(pauses)
        self._holds = Holds()
        self._home = threading.get_ident()
        self._now = 0.0
        self._tasks_made = 0
        self.born: WeakList[asyncio.Task[Any]] = WeakList()
        self._generators: dict[Incarnation | None, WeakList[AsyncGenerator[Any, Any]]] = {}
        self._incarnations: list[Incarnation] = []
        self._has_dead = False
        self._cut_due: list[Incarnation] = []
        self._graveyard = Graveyard()
        self._over = False  # the world has ended: nothing is scheduled any more
        self.set_exception_handler(note_unhandled)

    # ------------------------------------------------------------ what the test does

    def run(self, main: Coroutine[Any, Any, R]) -> R:
        """Run a program to its end and clean up after it.

        Returns:
            What it returned.

        Raises:
            DeadlockError: It can never go on.
            LivelockError: It takes too many steps.
            EscapedError: It reached for the real world, and swallowed the refusal.
            BaseException: Whatever the program raised.
        """
        self._limit = min(self._max_steps, self.patience)
        try:
            result = self.run_until_complete(main)
        finally:
            self.finish()
        if self.escaped is not None:
            raise self.escaped
        return result

    def finish(self) -> None:
        """End the run: cut every life, cancel what is left in stock order and undisturbed, let the dead go, close."""
        self.ending = True
        self.heal()
        self.at_step = None
        self._max_steps = self._limit = self.steps + _ENDING_STEPS
        for incarnation in self._incarnations:  # an app that stopped in good order is over already
            self.power_cut(incarnation)
        try:
            wind_down(self)
        finally:
            self._over = self._has_dead = True
            let_go(self, self._graveyard)
            self.close()

    def heal(self) -> None:
        """End the pauses, those that hold something back now and those to come."""
        self._pauses.clear()
        self._ready.extend(self._holds.empty())

    def mark(self, kind: StepKind, note: str = "") -> None:
        """Add a step to the trace, for the running task."""
        if self._record:
            task = asyncio.current_task(self)
            label = "" if task is None else name_of(task)
            self.trace.append(kind, at=self._now, task=label, note=note, place=place_here(sys._getframe(1)))

    def may_pause(self, _handle: AnyHandle) -> bool:
        """Return whether to make a pause that is due at the latest decision point."""
        return True

    def jump(self, seconds: float) -> None:
        """Set the time of day forward or back; timers and the monotonic clock do not notice."""
        self.wall_offset += seconds
        self.mark(StepKind.JUMP, f"{seconds:+g} s")

    def stall(self, seconds: float) -> None:
        """Let time pass without anybody running, as `time.sleep` on the loop does."""
        self._now += max(0.0, seconds)

    def new_incarnation(self) -> Incarnation:
        """Begin a life whose power can be cut; start its first task in `Incarnation.context`."""
        incarnation = Incarnation(len(self._incarnations) + 1)
        self._incarnations.append(incarnation)
        return incarnation

    def power_cut(self, incarnation: Incarnation) -> None:
        """Stop everything that belongs to a life, for good: no ``finally`` runs while the simulation does.

        Called from inside that life it takes effect at the end of the current step: no running code can be
        stopped half-way. Does nothing for a life that is over.
        """
        if not incarnation.alive:
            return
        from_inside = self.is_running() and current_incarnation() is incarnation
        (self._cut_due.append if from_inside else self._cut)(incarnation)

    def escape(self, what: str, remedy: str) -> NoReturn:
        """Refuse something real, loudly: the refusal is also remembered.

        Raises:
            EscapedError: Always.
        """
        error = EscapedError(what, remedy)
        self.escaped = self.escaped or error
        raise error

    # ------------------------------------------------------------ what asyncio asks of a loop

    def time(self) -> float:
        """Return virtual seconds since the loop was made; within an executor job, as that job sees them."""
        return self._now if self.job is None else self._now + self.job.slept

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Have a callback called in the next round."""
        if self._closed:
            self._check_closed()
        handle = SimHandle(callback, args, self, context)
        if not (self._has_dead and self._bury_if_dead(handle)):
            self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Have a callback called at a time; equal times keep their order."""
        if self._closed:
            self._check_closed()
        handle = SimTimer(when, callback, args, self, context)
        if not (self._has_dead and self._bury_if_dead(handle)):
            self.timers.push(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Have a callback called, also from an executor job; refused to real threads."""
        if threading.get_ident() != self._home:
            self.escape("a call from another thread", "start the thread's work with asyncio.to_thread instead")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - one thread is all there is
        func: Callable[[*Ts], R],
        *args: *Ts,
    ) -> asyncio.Future[R]:
        """Run a job in a step of its own, whatever the executor."""
        job = Job(self, func, args, current_incarnation())
        self.call_soon(job.run)
        return job.future

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **kwargs: Any
    ) -> asyncio.Task[Any]:
        """Start a task."""
        self._check_closed()
        factory = self.get_task_factory()
        if factory is _EAGER is not None:
            kwargs.setdefault("eager_start", True)  # pragma: no cover - Python 3.12 and newer, tested there
        elif factory is not None:
            self.born.append(made := super().create_task(coro, name=cast("str", name), context=context, **kwargs))
            return made
        self._tasks_made += 1
        context = copy_context() if context is None else context
        task = make_task(coro, self._tasks_made, name, loop=self, context=context, **kwargs)
        self.born.append(task)
        if self._over or task.is_dead:
            self._graveyard.bury_task(task)
        return task

    def run_forever(self) -> None:
        """Run until `stop`."""
        self._check_closed()
        self._check_running()
        hooks, collecting = sys.get_asyncgen_hooks(), gc.isenabled()
        gc.disable()  # what a collection finds, and when, depends on what ran before
        sys.set_asyncgen_hooks(firstiter=self._generator_began, finalizer=self._generator_dropped)
        self._thread_id = self._home
        asyncio._set_running_loop(self)
        try:
            self._drive()
        finally:
            self._stopping = False
            self._thread_id = None
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            if collecting:
                gc.enable()

    async def shutdown_asyncgens(self) -> None:
        """Close the async generators that are still suspended, oldest first."""
        generators = [generator for its in self._generators.values() for generator in its.living()]
        self._generators.clear()
        await asyncio.gather(*(generator.aclose() for generator in generators), return_exceptions=True)

    # ------------------------------------------------------------ the order of things

    def _drive(self) -> None:
        ready, holds, pauses = self._ready, self._holds, self._pauses
        lanes = holds.lanes
        while not self._stopping:
            self._begin_round()
            for _ in range(len(ready)):
                if self.at_step is not None:
                    self.at_step(self.steps)
                if not ready:  # a power cut emptied it
                    break
                handle = ready.popleft()
                if handle._cancelled or (lanes and holds.take(handle)):
                    continue
                point = None
                if ready:
                    point = self.points
                    self.points = point + 1
                    if point in pauses and self.may_pause(handle):
                        holds.hold(handle, self.steps)
                        self._write(handle, StepKind.PAUSED, point)
                        continue
                self._step(handle, point)

    def _step(self, handle: AnyHandle, point: int | None) -> None:
        if self.steps >= self._limit:
            self._ready.appendleft(handle)  # it goes on when it is cancelled
            raise LivelockError(self.steps, places_of_tasks(self, "at"))
        self.steps += 1
        callback = handle._callback
        if self._record:
            owner = getattr(callback, "__self__", None)
            if type(owner) is SimTask:
                self._log((point, self._now, owner.label, _RUN, "", *place_of(owner.get_coro())))
            else:
                self._log((point, self._now, label_of(handle), _RUN, "", None, -1))
        try:
            handle._context.run(callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as on any loop, the exception handler gets it
            message = f"a callback failed: {label_of(handle)}"
            self.call_exception_handler({"message": message, "exception": error, "handle": handle})
        if self._cut_due:
            self._cut(self._cut_due.pop())

    def _begin_round(self) -> None:
        # Where nothing is left to do, the longest pause ends; where nothing is paused either, time passes.
        ready, timers = self._ready, self.timers
        ready.extend(timers.pop_due(self._now))
        if self._holds.lanes:
            released = self._holds.release(self.steps, idle=not ready)
            if released:
                self._write(released[0], StepKind.RESUMED, None)
                ready.extend(released)
        if not ready:
            next_at = timers.next_at
            if next_at is None:
                raise DeadlockError(places_of_tasks(self, "waits at"))
            self._now = max(self._now, next_at)
            self._limit = min(self._max_steps, self.steps + self.patience)
            ready.extend(timers.pop_due(self._now))

    def _write(self, handle: AnyHandle, kind: StepKind, point: int | None) -> None:
        if self._record:
            owner = lane_of(handle)
            place = place_of(owner.get_coro()) if isinstance(owner, SimTask) else NOWHERE
            self._log((point, self._now, label_of(handle), kind, "", *place))

    # ------------------------------------------------------------ power cuts

    def _cut(self, incarnation: Incarnation) -> None:
        self.mark(StepKind.CRASH, f"power cut of life {incarnation.number}")
        self._has_dead = True
        incarnation.cut()
        waiting = tuple(self._ready)
        self._ready.clear()
        self._ready.extend(handle for handle in waiting if not self._bury_if_dead(handle))
        self.timers.drop(self._bury_if_dead)
        self._holds.drop(self._bury_if_dead)
        for task in self.born.living():
            if isinstance(task, SimTask) and task.incarnation is incarnation and not task.done():
                self._graveyard.bury_task(task)
        for generator in self._generators.pop(incarnation, WeakList()).living():
            self._graveyard.bury(generator)

    def _bury_if_dead(self, handle: AnyHandle) -> bool:
        incarnation = incarnation_of(handle._context)
        dead = self._over or not (incarnation is None or incarnation.alive)
        if dead:
            self._graveyard.bury(handle)
        return dead

    def _generator_began(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.setdefault(current_incarnation(), WeakList()).append(generator)

    def _generator_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        incarnation = current_incarnation()
        if not self._over and (incarnation is None or incarnation.alive):
            self.call_soon(self.create_task, generator.aclose())
