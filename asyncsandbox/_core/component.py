"""The life of a component: bind, start, stop, and tasks that never outlive it.

A subclass gives a ``name``, names in ``depends_on`` what must start before it, and overrides `_start` and `_stop`.

>>> class Bell(Component):
...     name = "bell"
>>> async def main() -> str:
...     async with Bell() as bell:
...         return bell.get_status().state
>>> asyncio.run(main())
<ComponentState.RUNNING: 'running'>
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import LifecycleError
from .clock import SystemClock
from .journal import Journal, Level
from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from .checks import Check
    from .clock import Clock
    from .context import Host
    from .owners import Owner
    from .store import Store


class ComponentState(StrEnum):
    """Where in its life a component is."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStatus:
    """What a component says of itself: frozen, and JSON-able by `dataclasses.asdict`.

    Attributes:
        name: The component's name.
        state: Where in its life it is.
    """

    name: str
    state: ComponentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a component is given by its sandbox, or makes for itself when it stands alone.

    Attributes:
        clock: Time and randomness.
        journal: The stream of events.
        ledger: The rows of actions.
        store: The durable memory, or None where there is none.
        owner: In whose name things are begun in the store; None where there is none, and in a dry run.
        host: The sandbox it lives in, or None alone.
    """

    clock: Clock
    journal: Journal
    ledger: Ledger
    store: Store | None = None
    owner: Owner | None = None
    host: Host | None = None

    @classmethod
    def alone(cls) -> Services:
        """Return what a component outside a sandbox uses."""
        clock = SystemClock()
        return cls(clock=clock, journal=Journal(clock), ledger=Ledger(clock))


class Component:
    """Base of every component; subclass it for one of your own and pass that as ``Sandbox(extra=(...,))``.

    It promises that `start` and `stop` are idempotent, that `stop` works after a failed or cancelled start, and that
    tasks made by `spawn` end with the component and never cancel anybody else's.

    Concurrency: start and stop may be called from several tasks; they take turns. Cancellation: a cancelled start
    undoes itself before the cancellation goes on.
    """

    name: ClassVar[str]
    depends_on: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._state = ComponentState.NEW
        self._services: Services | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._state.value}>"

    @property
    def services(self) -> Services:
        """The services this component was bound to; default ones where it stands alone."""
        if self._services is None:
            self._services = Services.alone()
        return self._services

    def bind(self, services: Services) -> None:
        """Give the component its collaborators, before it starts.

        Raises:
            LifecycleError: It is running.
        """
        if self._state in (ComponentState.STARTING, ComponentState.RUNNING, ComponentState.STOPPING):
            raise LifecycleError(f"{self!r} cannot be bound while it runs: stop it first")
        self._services = services

    def get_status(self) -> ComponentStatus:
        """Return a frozen, JSON-able account of the component."""
        return ComponentStatus(name=self.name, state=self._state)

    def get_checks(self) -> tuple[Check, ...]:
        """Return what the readiness checker should ask about this component. To be overridden."""
        return ()

    async def start(self) -> None:
        """Start the component; does nothing where it is running.

        Raises:
            asyncio.CancelledError: The caller was cancelled, after `_stop` has cleaned up.
            Exception: Whatever `_start` raised, after `_stop` has cleaned up.
        """
        async with self._turn:
            if self._state is ComponentState.RUNNING:
                return
            self._state = ComponentState.STARTING
            try:
                await self._start()
            except (Exception, asyncio.CancelledError) as error:
                try:
                    await self._wind_down()
                except Exception as another:  # noqa: BLE001 - it must not hide why the start failed
                    error.add_note(f"cleaning up failed as well: {another!r}")
                finally:
                    self._state = ComponentState.FAILED
                raise
            self._state = ComponentState.RUNNING

    async def stop(self) -> None:
        """Stop the component and end its tasks; does nothing where it has stopped or never did anything."""
        async with self._turn:
            if self._state in (ComponentState.NEW, ComponentState.STOPPED) and not self._tasks:
                self._state = ComponentState.STOPPED
                return
            self._state = ComponentState.STOPPING
            try:
                await self._wind_down()
            finally:
                self._state = ComponentState.STOPPED

    async def cleanup(self) -> None:
        """Do the same as `stop`."""
        await self.stop()

    def spawn(self, coroutine: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[Any]:
        """Run a coroutine in a task that ends with the component.

        A failure goes to the journal as ``component.task_failed`` and reaches nobody else's task.

        Args:
            coroutine: What to run.
            name: Name of the task, for people who look at it.

        Returns:
            The task.
        """
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    async def _start(self) -> None:
        """Acquire what the component needs. To be overridden."""

    async def _stop(self) -> None:
        """Release it; called also after a `_start` that failed half-way. To be overridden."""

    async def _wind_down(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            await self._stop()
        finally:
            if tasks:
                await asyncio.wait(tasks)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.services.journal.publish(
                "component.task_failed", component=self.name, level=Level.ERROR, task=task.get_name(), error=repr(error)
            )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
