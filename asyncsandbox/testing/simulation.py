"""`Simulation`: what a simulated test holds in its hands.

>>> from asyncsandbox.testing import Scenario, replay, scenarios, simulate
>>> class Counter:
...     value = 0
...     async def add(self) -> None:
...         self.value += 1
>>> @simulate(scenarios())
... async def test_counter(sim: Simulation) -> None:
...     counter = await sim.start(Counter)
...     sim.always(lambda: counter.value <= 2, "never more than two")
...     await counter.add()
...     await counter.add()
>>> test_counter()
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from .._core import context as core_context
from .._core.attempts import whose_permit
from .._core.body import body_stage
from .._core.clock import SystemClock
from .._core.decorators import by_name
from .._core.planned import ActionKind
from .._core.settings import require_number
from ..errors import ConfigurationError
from .asgi import is_asgi
from .calls import ActionCall, Actions, round_of
from .ending import unfinished_tasks
from .errors import CrashedError, PromiseBrokenError
from .lives import Handle, Lives
from .oracles import Oracles, ask
from .scenario import Extent
from .trace import StepKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from .._core.clock import Clock
    from .._core.planned import ActionSpec
    from .._core.runtime import Runtime
    from .asgi import Asgi, AsgiClient
    from .calls import Round
    from .loop import SimLoop
    from .scenario import Fault, Scenario

# How long an app goes on after the test's last line before it is healed: what the test began must meet trouble, too.
_SAFETY_SECONDS = 10.0

P = ParamSpec("P")
T = TypeVar("T")


class Simulation:
    """One run of a test in a simulated world; `simulate` makes it.

    It promises that the same scenario goes the same way again. The body of an irreversible or reversible action never
    runs: what `stub` gives, or else its ``dry_result``, stands in for it. A read-only action runs unless stubbed.

    Attributes:
        scenario: What goes wrong in this run.
        actions: The calls that reached the world.
        loop: The loop it runs on.
        told: How long the trace was when the test ended.
        unfinished: Which tasks had not ended then.

    Concurrency: for the tasks of this run. Cancellation: as the methods say.
    """

    def __init__(self, loop: SimLoop, scenario: Scenario) -> None:
        self.scenario = scenario
        self.actions = Actions()
        self._fired: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()
        self._answers: dict[Round, object] = {}
        self.loop = loop
        self.told = 0
        self.unfinished: frozenset[asyncio.Task[Any]] | None = None
        self._lives = Lives(loop, scenario)
        self._stubs: dict[str, Callable[..., Any]] = {}
        self._faults = list(scenario.faults)
        self._jumps = list(scenario.jumps)
        self._always: list[tuple[Callable[[], object], str]] = []
        self._eventually: list[tuple[Callable[[], object], float, str]] = []
        self._broken: PromiseBrokenError | None = None
        self._healed_at: int | None = None
        self._hosts = core_context._hosts.get(loop, ())  # noqa: SLF001 - the world put the list there
        self._oracles = Oracles(self._hosts)

    @property
    def started(self) -> bool:
        """Whether an app was started."""
        return self._lives.started

    @property
    def extent(self) -> Extent:
        """How far the run has come."""
        loop, lives = self.loop, self._lives
        steps = loop.steps - lives.born if lives.started else 0
        return Extent(points=loop.points, steps=steps, requests=lives.requests, calls=self._begun)

    def get_fired(self) -> Counter[str]:
        """Return what went wrong so far, by kind."""
        fired = self._fired.copy()
        points = self.loop.points if self._healed_at is None else self._healed_at
        pauses = sum(pause < points for pause in self.scenario.pauses)
        for kind, count in (("pause", pauses), ("crash", self._lives.cuts), ("duplicate", self._lives.duplicated)):
            if count:
                fired[kind] = count
        return fired

    @property
    def clock(self) -> Clock:
        """The simulated clock."""
        return SystemClock()

    @overload
    async def start(self, factory: Asgi) -> AsgiClient: ...
    @overload
    async def start(self, factory: Callable[[], Awaitable[T] | T]) -> T: ...
    async def start(self, factory: Callable[..., Any]) -> Any:
        """Start the app under test; a power cut calls the factory again.

        Whatever the factory, and what it returns, keeps in memory is lost in a power cut. What outlives one (a store,
        a database) is made in the test and closed over.

        Args:
            factory: Makes the app, a plain or coroutine function. An app with ``async with`` is entered, and left
                in good order at the end of the run. Of an ASGI app the lifespan is run, and the handle is a client
                of it: ``await app.get("/")``. An ASGI app itself will do, but what it remembers outlives power cuts.

        Returns:
            A handle on the app, whichever life it is in. Coroutine methods called on it run inside the app.

        Raises:
            ConfigurationError: There is an app already, or nothing to make one by.
            Exception: Whatever the factory raised.
        """
        if self._lives.started:
            raise ConfigurationError("sim.start", factory, "one app per simulation: have one factory make all it needs")
        _require_function("sim.start", factory)
        await self._lives.start((lambda: factory) if is_asgi(factory) else factory)
        return Handle(self._lives)

    async def call(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a coroutine function inside the app, so that it dies with it.

        Raises:
            NothingToRestartError: There is no app.
            CrashedError: The app is down, or its power was cut before the answer came.
            Exception: Whatever the function raised.
        """
        name = getattr(function, "__name__", "call")
        return cast("T", await self._lives.call(lambda _app: function(*args, **kwargs), name))

    def stub(self, action: str, function: Callable[..., Any]) -> None:
        """Let ``function`` stand in for the body of an action.

        Args:
            action: Name of the action.
            function: Called with just those arguments of the action that it names; plain or a coroutine function.
                What it raises, the provider has refused: the call does not count as one that happened.

        Raises:
            ConfigurationError: It is no function.
        """
        _require_function("sim.stub", function)
        self._stubs[action] = function

    def always(self, holds: Callable[[], object], promise: str) -> None:
        """Promise something that holds after every step, whatever goes wrong.

        Args:
            holds: Returns whether it does. It must not wait; while the app is down it may ask it in vain.
            promise: What is promised, for the report.

        Raises:
            ConfigurationError: ``holds`` is no function.
        """
        _require_function("sim.always", holds)
        self._always.append((holds, promise))

    def eventually(self, holds: Callable[[], object], promise: str, *, within_seconds: float = 60.0) -> None:
        """Promise something that comes true once nothing goes wrong any more.

        Args:
            holds: Returns whether it has. It must not wait.
            promise: What is promised, for the report.
            within_seconds: Virtual seconds after `heal`, or after the end of the test (> 0).

        Raises:
            ConfigurationError: ``holds`` is no function, or ``within_seconds`` not positive.
        """
        _require_function("sim.eventually", holds)
        require_number("sim.eventually: within_seconds", within_seconds, above=0)
        self._eventually.append((holds, within_seconds, promise))

    def crash(self) -> None:
        """Cut the app's power: its tasks stop for good and no ``finally`` runs.

        Raises:
            NothingToRestartError: There is no app.
        """
        self._lives.cut()

    async def restart(self) -> None:
        """Start the app again and wait until it is up; one that is up loses power first.

        Raises:
            NothingToRestartError: There is no app.
        """
        await self._lives.restart()

    async def heal(self) -> None:
        """End the phase in which things go wrong: no pause, fault, crash, duplicate or jump after this.

        An app that is down is started again. What must come true eventually must come true from here. A test that does
        not call this is healed 10 virtual seconds after its end.
        """
        if self._healed_at is None:
            self._healed_at = self.loop.points
            self.loop.heal()
            self._lives.heal()
            self._faults.clear()
            self._jumps.clear()
        await self._lives.wait_up()

    async def settle(self, seconds: float = 60.0) -> None:
        """Let virtual time pass, which takes no real time; the app does whatever it still has to do.

        Args:
            seconds: Virtual seconds (>= 0).
        """
        require_number("sim.settle: seconds", seconds, at_least=0)
        await asyncio.sleep(seconds)

    def govern(self) -> None:
        """Stand in for the bodies of actions in this context, and watch every step of the loop."""
        body_stage.set(self._stage)
        self.loop.at_step = self._before_step

    async def test(self, test: Callable[..., Coroutine[Any, Any, object]], inputs: Mapping[str, Any]) -> None:
        """Run the whole test: what the user wrote, then the phase in which nothing goes wrong.

        Raises:
            CrashedError: The test cut the power itself and did not expect this.
            PromiseBrokenError: A promise was not kept.
        """
        self.govern()
        try:
            try:
                await test(self, **inputs)
            except CrashedError:
                # The client is gone; what was promised must hold all the same. A crash that the test made is its own.
                if not self._lives.cuts:
                    raise
            if self._healed_at is None and self.started:
                await self.settle(_SAFETY_SECONDS)
            await self.finish()
        finally:
            self._end()

    async def finish(self) -> None:
        """Heal, wait for what must come true eventually, and stop the app in good order.

        Raises:
            PromiseBrokenError: A promise was not kept.
        """
        await self.heal()
        await self._await_promises()
        self._broken = self._broken or await self._oracles.find_lost()
        await self._lives.close()
        self._check()

    def _end(self) -> None:
        """Note where the test ended; what comes after is tidying up."""
        if self.unfinished is None:
            self.told = len(self.loop.trace)
            self.unfinished = frozenset(unfinished_tasks(self.loop))

    async def _await_promises(self) -> None:
        began = self.loop.time()
        for holds, seconds, promise in sorted(self._eventually, key=lambda each: each[1]):
            while not ask(holds, otherwise=False):
                left = began + seconds - self.loop.time()
                if left <= 0:
                    raise PromiseBrokenError(promise, f"not within {seconds:g} s after everything was healed")
                await asyncio.sleep(min(left, seconds / 100))

    def _before_step(self, step: int) -> None:
        lives = self._lives
        if self._always or self._hosts or self._broken is not None or lives.failure is not None:
            self._check()
        if lives.count:
            if self._jumps:
                self._jump(step - lives.born)
            lives.before_step(step)

    def _jump(self, step: int) -> None:
        for jump in [each for each in self._jumps if each.step <= step]:
            self._jumps.remove(jump)
            self.loop.jump(jump.seconds)
            self._fired["jump"] += 1

    def _check(self) -> None:
        if self._lives.failure is not None:
            raise self._lives.failure
        self._broken = self._broken or self._oracles.find_wrong()
        if self._broken is None:
            for holds, promise in self._always:
                if not ask(holds, otherwise=True):
                    self._broken = PromiseBrokenError(promise, "it does not hold any more")
                    break
        if self._broken is not None:
            self.loop.mark(StepKind.VIOLATION, self._broken.promise)
            self._end()
            raise self._broken

    async def _stage(
        self,
        runtime: Runtime,
        spec: ActionSpec,
        label: str,
        body: Callable[[], Coroutine[Any, Any, Any]],
        bound: Mapping[str, Any],
    ) -> Any:
        """Stand in for the body of an action: on the way there, it happens, on the way back."""
        self._begun[spec.name] += 1
        if spec.limit is not None:
            per = whose_permit(spec, bound)
            self._broken = self._oracles.judge_attempt(runtime, spec.limit, per, self.loop.time()) or self._broken
        fault = self._fault(spec.name, self._begun[spec.name])
        await self.travel()
        if fault is not None and not fault.after:
            raise self._fail(fault, label, "before it happened")
        of_key = round_of(runtime, spec, label)
        if of_key in self._answers:
            result = self._answers[of_key]
            self.loop.mark(StepKind.ACTION, f"{label} again with the same key: nothing new happens")
        else:
            result = await self._happen(spec, label, body, bound)
            if spec.forwards_key and not of_key[1].startswith("~"):
                self._answers[of_key] = result
            if spec.kind is not ActionKind.READ_ONLY or spec.name in self._stubs:
                self._note(runtime, spec, of_key, bound)
        await self.travel()
        if fault is not None:
            raise self._fail(fault, label, "after it happened, the reply was lost")
        return result

    async def travel(self) -> None:
        """Be on the way to the world, or back: a moment that may take long."""
        await asyncio.sleep(0)

    def _fault(self, action: str, nth: int) -> Fault | None:
        return next((each for each in self._faults if (each.action, each.nth) == (action, nth)), None)

    def _fail(self, fault: Fault, label: str, when: str) -> Exception:
        error = fault.error()
        self._fired[repr(fault.anywhere)] += 1
        self.loop.mark(StepKind.FAULT, f"{label} raises {type(error).__name__} {when}")
        return error

    async def _happen(
        self, spec: ActionSpec, label: str, body: Callable[[], Coroutine[Any, Any, Any]], bound: Mapping[str, Any]
    ) -> Any:
        stub = self._stubs.get(spec.name)
        if stub is not None:
            result = by_name(stub, bound, f"sim.stub({spec.name!r})")(bound)
            if inspect.isawaitable(result):
                result = await result
        elif spec.kind is ActionKind.READ_ONLY:
            return await body()
        else:
            result = spec.dry_result(bound, label)
        return result

    def _note(self, runtime: Runtime, spec: ActionSpec, of_key: Round, bound: Mapping[str, Any]) -> None:
        action, key, generation = of_key
        at, life = self.loop.time(), self._lives.count
        call = ActionCall(action=action, key=key, generation=generation, arguments=bound, at=at, life=life)
        label = f"{action}[{key}]"
        self.actions.add(call)
        times = self.actions.count(action, key=key)
        self.loop.mark(StepKind.ACTION, f"{label} #{times}" if times > 1 else label)
        if spec.kind is not ActionKind.READ_ONLY:
            self._broken = self._oracles.judge(runtime, call, label) or self._broken


def _require_function(field: str, value: object) -> None:
    if not callable(value):
        raise ConfigurationError(field, value, "give a function: `lambda: ...`")
