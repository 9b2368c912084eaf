"""Hypothesis' state machines with coroutine functions as rules, on one simulated loop.

>>> import asyncio
>>> from hypothesis import strategies as st
>>> class Queue(AsyncRuleBasedStateMachine):
...     def __init__(self) -> None:
...         super().__init__()
...         self.queue = asyncio.Queue()
...         self.expected = 0
...     @rule(item=st.integers())
...     async def put(self, item: int) -> None:
...         await self.queue.put(item)
...         self.expected += 1
...     @invariant()
...     async def sizes_agree(self) -> None:
...         assert self.queue.qsize() == self.expected
>>> Queue.TestCase().runTest()
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from hypothesis import stateful

from .loop import SimLoop
from .runs import aftermath
from .scenario import Scenario
from .simulation import Simulation
from .world import world

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
R = TypeVar("R")


class AsyncRuleBasedStateMachine(stateful.RuleBasedStateMachine):
    """A state machine of Hypothesis whose rules and invariants may be coroutine functions.

    All of them run on one simulated loop: time passes only where a rule waits, and what a rule leaves running goes on
    in the next one. A subclass with an ``__init__`` calls this one first. Everything else is Hypothesis' own.

    Concurrency: one machine at a time in a process. Cancellation: tasks that are left at the end are cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._context = copy_context()
        self._failed = False

    @functools.cached_property
    def sim(self) -> Simulation:
        """The simulation: start an app, cut its power, look at its actions, promise what always holds."""
        loop = SimLoop(record=False)
        self._stack.callback(loop.close)
        self._stack.enter_context(world(loop))
        self._stack.callback(loop.finish)
        simulation = Simulation(loop, Scenario())
        self._context.run(simulation.govern)
        return simulation

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the machine's loop until it ends.

        Raises:
            Exception: What it raised, or a promise that was broken meanwhile.
        """
        loop = self.sim.loop
        try:
            task: asyncio.Task[R] = loop.create_task(coroutine, context=self._context)
            return loop.run_until_complete(task)
        except BaseException:
            self._failed = True
            raise

    def teardown(self) -> None:
        """Heal, check what must hold at the end, and end the world.

        Raises:
            Exception: A promise was not kept, or a task failed and nobody looked.
        """
        with self._stack:
            if not self._failed:
                self.run(self.sim.finish())
        error = None if self._failed else aftermath(self.sim.loop, leaks=False)
        if error is not None:
            raise error


def rule(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Do what Hypothesis' ``rule`` does, for coroutine functions and plain ones.

    Args:
        **options: A strategy for each argument; ``target`` and ``targets`` as in Hypothesis.

    Returns:
        A decorator.
    """
    decorate: Any = stateful.rule(**options)
    return lambda function: decorate(_plain(function))


def invariant(*, check_during_init: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Do what Hypothesis' ``invariant`` does, for coroutine functions and plain ones.

    Args:
        check_during_init: Whether it holds before the initialising rules have run.

    Returns:
        A decorator.
    """
    decorate: Any = stateful.invariant(check_during_init=check_during_init)
    return lambda function: decorate(_plain(function))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def run(self: AsyncRuleBasedStateMachine, *args: Any, **kwargs: Any) -> Any:
        return self.run(function(self, *args, **kwargs))

    return run
