"""The app under test, from one power cut to the next.

An app is made by its factory inside an incarnation of the loop: whatever it starts belongs to it and dies with it, no
``finally`` running. The test stands outside and talks to it through a handle that outlives it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from .asgi import AsgiClient, is_asgi
from .ending import unfinished_tasks
from .errors import CrashedError, NothingToRestartError, PromiseBrokenError
from .lanes import life_of
from .trace import StepKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from .incarnation import Incarnation
    from .loop import SimLoop
    from .scenario import Scenario


class Life:
    """One life of the app.

    Attributes:
        number: Counted from 1.
        born: The step at which it began.
        app: What the factory made; None until it has.
        context: What its tasks inherit.
    """

    __slots__ = ("app", "born", "closing", "context", "host", "incarnation", "number", "waiting")

    def __init__(self, number: int, born: int, incarnation: Incarnation) -> None:
        self.number = number
        self.born = born
        self.incarnation = incarnation
        self.app: Any = None
        self.context: Context | None = None
        self.closing = asyncio.Event()
        self.host: asyncio.Task[None] | None = None
        self.waiting: dict[asyncio.Future[Any], str] = {}


class Lives:
    """Starts the app, cuts its power as the scenario says, and starts it again.

    Concurrency: for one simulated loop. Cancellation: a cancelled call from the test cancels its task in the app.
    """

    def __init__(self, loop: SimLoop, scenario: Scenario) -> None:
        self._loop = loop
        self._crashes = deque(scenario.crashes)
        self._duplicates = scenario.duplicates
        self._outside = copy_context()
        self._factory: Callable[[], Any] | None = None
        self._life: Life | None = None
        self._up = asyncio.Event()
        self.count = 0
        self.cuts = 0
        self.requests = 0
        self.duplicated = 0
        self.born = 0
        self.failure: BaseException | None = None

    @property
    def started(self) -> bool:
        """Whether there ever was an app."""
        return self._factory is not None

    @property
    def app(self) -> Any:
        """The app as it is now.

        Raises:
            CrashedError: It is down, or not up yet.
        """
        if self._life is None or self._life.context is None:
            raise CrashedError("a look at the app")
        return self._life.app

    async def start(self, factory: Callable[[], Any]) -> None:
        """Start the app for the first time and wait until it is up."""
        self._factory = factory
        self._outside = copy_context()
        self.born = self._loop.steps
        await self.wait_up()

    async def restart(self) -> None:
        """Start it again, after a power cut if it is up, and wait until it is up."""
        self.cut()
        await self.wait_up()

    async def wait_up(self) -> None:
        """Wait until the app is up, where there is one; start it again where it is down."""
        if self._factory is None:
            return
        if self._life is None:
            self._boot()
        while self._life is None or self._life.context is None:
            await self._up.wait()

    def cut(self) -> None:
        """Cut the power of the app; does nothing where it is down.

        Raises:
            NothingToRestartError: There is no app.
        """
        if self._factory is None:
            raise NothingToRestartError
        life = self._life
        if life is None:
            return
        self._life = None
        self._up.clear()
        self._loop.power_cut(life.incarnation)
        for future, call in life.waiting.items():
            if not future.done():
                future.set_exception(CrashedError(call))
                future.exception()

    def before_step(self, step: int) -> None:
        """Cut the power where the scenario says so, and start the app again at once."""
        life = self._life
        if life is None or not self._crashes or step - life.born <= self._crashes[0]:
            return
        self.cuts += 1
        self._crashes.popleft()
        self.cut()
        self._boot()

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        self._crashes.clear()
        self._duplicates = ()

    async def call(self, function: Callable[[Any], Coroutine[Any, Any, Any]], name: str) -> Any:
        """Call something inside the app and wait for the answer.

        Raises:
            NothingToRestartError: There is no app.
            CrashedError: The app is down, or its power was cut before it answered.
            asyncio.CancelledError: The caller was cancelled; so is the call.
            Exception: Whatever the call raised.
        """
        if self._factory is None:
            raise NothingToRestartError
        self.requests += 1
        twice = self.requests in self._duplicates
        while (life := self._life) is None or life.context is None:
            if life is None:
                raise CrashedError(name)
            await self._up.wait()
        task, answer = self._send(life, function, name)
        if twice:
            self.duplicated += 1
            self._loop.mark(StepKind.MARK, f"{name} arrives twice")
            _, ignored = self._send(life, function, f"{name} again")
            ignored.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            return await answer
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def close(self) -> None:
        """Stop the app in good order, where it can be entered; else cut its power. It must leave no task behind.

        Raises:
            PromiseBrokenError: Tasks it started are still running after it stopped.
        """
        life = self._life
        if life is None or life.host is None:
            return
        entered = not life.host.done()
        if entered:
            life.closing.set()
            await life.host
            left = [task for task in unfinished_tasks(self._loop) if life_of(task) is life.incarnation]
            if left:
                names = ", ".join(task.get_name() for task in left)
                raise PromiseBrokenError("the app leaves no task behind when it stops", names)
        self._life = None
        self._loop.power_cut(life.incarnation)

    def _boot(self) -> None:
        self.count += 1
        life = self._life = Life(self.count, self._loop.steps, self._loop.new_incarnation())
        if self.count > 1:
            self._loop.mark(StepKind.RESTART, f"life {self.count}")
        context = self._outside.run(life.incarnation.context)
        life.host = self._loop.create_task(self._host(life), name="app", context=context)
        life.host.add_done_callback(self._host_ended)

    async def _host(self, life: Life) -> None:
        assert self._factory is not None  # noqa: S101 - for type checkers: nothing boots without one
        app: Any = self._factory()
        if inspect.isawaitable(app):
            app = await app
        if not hasattr(app, "__aenter__") and is_asgi(app):
            app = AsgiClient(app)
        if not hasattr(app, "__aenter__"):
            self._ready(life, app)
            return
        async with app as entered:
            self._ready(life, app if entered is None else entered)
            await life.closing.wait()

    def _ready(self, life: Life, app: Any) -> None:
        life.app = app
        life.context = copy_context()
        self._up.set()

    def _host_ended(self, host: asyncio.Task[None]) -> None:
        if not host.cancelled() and host.exception() is not None:
            self.failure = host.exception()
            self._up.set()  # whoever waits wakes, and the check before that step raises the failure

    def _send(
        self, life: Life, function: Callable[[Any], Coroutine[Any, Any, Any]], name: str
    ) -> tuple[asyncio.Task[Any], asyncio.Future[Any]]:
        answer = self._loop.create_future()
        life.waiting[answer] = name

        def settle(task: asyncio.Task[Any]) -> None:
            del life.waiting[answer]
            if answer.done():
                _ = task.cancelled() or task.exception()
            elif task.cancelled():
                answer.cancel()
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        assert life.context is not None  # noqa: S101 - for type checkers: it is up
        task = self._loop.create_task(function(life.app), name=name, context=life.context.copy())
        task.add_done_callback(settle)
        return task, answer


class Handle:
    """What `Simulation.start` returns: the app as it is now, also after it was started again.

    Coroutine functions called on it run inside the app; everything else is looked up on the spot.
    """

    __slots__ = ("_lives",)

    def __init__(self, lives: Lives) -> None:
        object.__setattr__(self, "_lives", lives)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lives.app, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._lives.call(lambda app: getattr(app, name)(*args, **kwargs), name)

        return call

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._lives.app, name, value)
