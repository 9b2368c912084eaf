"""`Sandbox`: builds the components, wires them, starts them in order and stops them in reverse.

>>> import asyncio
>>> async def main() -> None:
...     async with Sandbox() as sandbox:
...         print(sandbox.dry_run, await sandbox.is_ready())
>>> asyncio.run(main())
True True
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ._core.checks import Check, CheckResult, CheckStatus
from ._core.clock import SystemClock
from ._core.component import Component, ComponentState, ComponentStatus, Services
from ._core.context import bound_host, current_host, register_host, unregister_host
from ._core.decorators import Arguments, as_coroutine_function
from ._core.journal import Journal
from ._core.ledger import Ledger, LedgerSettings
from ._core.lifecycle import start_component, start_order, stop_all
from ._core.mistakes import find_mistakes, judge_ledger, specs_of
from ._core.runtime import Runtime
from ._core.saga import Saga
from ._core.settings import require_name, require_number
from ._core.store_keeper import StoreKeeper
from .components.alerts import AlertSettings, AlertSystem
from .components.database import DatabaseSettings, SandboxDatabaseManager
from .components.dry_run import DryRunLock, DryRunSettings
from .components.governor import GovernorEnforcer, GovernorSettings
from .components.heartbeat import HeartbeatSettings, SchedulerHeartbeat
from .components.idempotency import IdempotencyManager, IdempotencySettings
from .components.logs import LogSettings, StructuredLogger
from .components.readiness import ReadinessSettings, SandboxReadinessChecker
from .components.retry import RetryBackoffManager, RetrySettings
from .components.worker import WorkerProcess, WorkerSettings
from .environment import keywords_from
from .errors import LifecycleError, NoSandboxError
from .rehearsal import EntryPoint, Plan, entry_point, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from ._core.clock import Clock
    from ._core.ledger import ActionRecord, ActionState
    from ._core.must_await import MustAwait
    from ._core.store import Store

__all__ = ["Sandbox", "SandboxOrchestrator", "SandboxStatus", "current_sandbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatus:
    """What a sandbox says of itself: frozen, and JSON-able by `dataclasses.asdict`.

    Attributes:
        state: Where in its life it is.
        dry_run: Whether it holds actions back.
        components: The account of each component, in the order they start.
        actions: How many actions are in each state.
        in_flight: How many live actions have not ended.
    """

    state: ComponentState
    dry_run: bool
    components: tuple[ComponentStatus, ...]
    actions: dict[str, int]
    in_flight: int


class Sandbox:
    """A dress rehearsal, or a guarded live run, of your own async program.

    It promises that its components start in the order of their dependencies and stop in reverse, that a start which
    fails or is cancelled leaves nothing running, and that two sandboxes never see each other. It is no jail: code
    you do not trust belongs into a container.

    Args:
        dry_run: Whether actions are held back; None means yes.
        use_memory_db: A scratch database of its own; None means yes unless a URL is given.
        database_url: The app's database, isolated as the settings say.
        store: Where actions are remembered: path, PostgreSQL URL, open `Store` (left open); None for in memory.
        namespace: Keeps the keys of different programs apart.
        actions: Decorated functions, or modules that hold some, for the readiness check ``actions`` to judge before
            their first call.
        extra: Components of your own; they start after those they depend on.
        clock: Time and randomness; None for the real ones.
        allow_mixed: Tolerate a sandbox of the other mode on the same event loop.
        shutdown_seconds: How long live actions may go on when the sandbox stops (>= 0).
        alerts: Settings of the alerts.
        database: Settings of the database.
        dry_run_lock: Settings of the interlock.
        governor: Settings of the limits.
        heartbeat: Settings of the watch over loop and beats.
        idempotency_manager: Settings of idempotency keys.
        ledger: Settings of the ledger.
        logger: Settings of the logger.
        readiness: Settings of the readiness checker.
        retry: Settings of retries that bring none of their own.
        worker: Settings of background jobs.

    Raises:
        ConfigurationError: Something above is not usable; nothing was started.

    Concurrency: for the event loop it was started on. Cancellation: a start undoes itself; a stop ends first.
    """

    def __init__(  # noqa: PLR0913 - one keyword per component is how a sandbox is configured
        self,
        *,
        dry_run: bool | None = None,
        use_memory_db: bool | None = None,
        database_url: str | None = None,
        store: str | os.PathLike[str] | Store | None = None,
        namespace: str = "default",
        actions: Iterable[object] = (),
        extra: Iterable[Component] = (),
        clock: Clock | None = None,
        allow_mixed: bool = False,
        shutdown_seconds: float = 30.0,
        alerts: AlertSettings | None = None,
        database: DatabaseSettings | None = None,
        dry_run_lock: DryRunSettings | None = None,
        governor: GovernorSettings | None = None,
        heartbeat: HeartbeatSettings | None = None,
        idempotency_manager: IdempotencySettings | None = None,
        ledger: LedgerSettings | None = None,
        logger: LogSettings | None = None,
        readiness: ReadinessSettings | None = None,
        retry: RetrySettings | None = None,
        worker: WorkerSettings | None = None,
    ) -> None:
        require_name("namespace", namespace)
        require_number("shutdown_seconds", shutdown_seconds, at_least=0)
        self._shutdown_seconds = shutdown_seconds
        self._state = ComponentState.NEW
        self._turn = asyncio.Lock()
        self._bindings = ExitStack()
        self.logger = StructuredLogger(settings=logger)
        self.alerts = AlertSystem(settings=alerts)
        self.heartbeat = SchedulerHeartbeat(settings=heartbeat)
        self.dry_run_lock = DryRunLock(dry_run, settings=dry_run_lock)
        self.database = SandboxDatabaseManager(database_url, use_memory=use_memory_db, settings=database)
        self.retry = RetryBackoffManager(settings=retry)
        self.governor = GovernorEnforcer(settings=governor)
        self.idempotency_manager = IdempotencyManager(settings=idempotency_manager)
        self.worker = WorkerProcess(settings=worker)
        self.readiness = SandboxReadinessChecker(settings=readiness)
        watching = (self.logger, self.alerts, self.heartbeat)  # first, so that they hear of all the others
        at_work = (self.dry_run_lock, self.database, self.retry, self.governor, self.idempotency_manager)
        self._components = start_order((*watching, *at_work, *extra, self.worker, self.readiness))
        journal = Journal(clock := clock or SystemClock())
        planner = self.dry_run_lock.make_planner(namespace)
        keeper = None
        if store is not None:
            keeper = StoreKeeper(store, clock, journal, planner=planner, settings=ledger, dry_run=self.dry_run)
            keeper.refuse_app(self.database.get_status().source)
            self._components = (keeper, *self._components)
        self._runtime = Runtime(
            gate=self.dry_run_lock,
            ledger=Ledger(clock, ledger) if keeper is None else keeper.ledger,
            journal=journal,
            clock=clock,
            planner=planner,
            name=f"sandbox {namespace!r}",
            dry_run=self.dry_run,
            allow_mixed=allow_mixed,
            sandbox=self,
            permits=self.governor,
            retry=self.retry,
            specs=specs_of(actions),
        )
        self._services = Services(
            clock=clock, journal=journal, ledger=self._runtime.ledger, host=self._runtime,
            store=keeper.store if keeper else None, owner=keeper.owner if keeper else None,
        )  # fmt: skip
        for check in (check for component in self._components for check in component.get_checks()):
            self.readiness.register(check)
        self.readiness.register(Check(name="ledger", fn=lambda: judge_ledger(self._runtime), critical=False))
        self.readiness.register(Check(name="actions", fn=self._check_actions))

    def __repr__(self) -> str:
        return f"<Sandbox {self._state.value}, {'dry run' if self.dry_run else 'live'}>"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Build a sandbox from ``ASYNCSANDBOX_...`` variables; keywords beat the environment.

        ``ASYNCSANDBOX_DRY_RUN=false`` sets an option of the sandbox, ``ASYNCSANDBOX_DATABASE__ISOLATION=rollback`` a
        setting of a component.

        Args:
            environ: Where to read from; None for the environment of the process.
            **overrides: Keywords of `Sandbox`.

        Raises:
            ConfigurationError: A variable names nothing, or its text is not usable.
        """
        given = keywords_from(os.environ if environ is None else environ)
        return cls(**{**given, **overrides})

    @property
    def dry_run(self) -> bool:
        """Whether actions are held back."""
        return self.dry_run_lock.dry_run

    async def initialize(self) -> Self:
        """Start every component in the order of dependencies; does nothing where it is running.

        Raises:
            ConfigurationError: A sandbox of the other mode runs on this loop.
            ComponentStartError: A component did not start; what had started was stopped again.
            asyncio.CancelledError: The caller was cancelled; what had started was stopped first.

        Concurrency: callers take turns. Cancellation: what had started is stopped, then it is delivered.
        """
        async with self._turn:
            if self._state is ComponentState.RUNNING:
                return self
            started: list[Component] = []
            try:
                self._state = ComponentState.STARTING
                register_host(self._runtime)
                for component in self._components:
                    await start_component(component, self._services)
                    started.append(component)
            except (Exception, asyncio.CancelledError):
                self._state = ComponentState.FAILED
                unregister_host(self._runtime)
                await stop_all(started)
                raise
            self._state = ComponentState.RUNNING
            return self

    async def cleanup(self) -> None:
        """Let jobs end, refuse new actions, let running ones end, stop every component in reverse.

        Does nothing where it has stopped.

        Raises:
            ComponentStopError: A component did not stop cleanly; the others were stopped all the same.

        Concurrency: callers take turns. Cancellation: everything is stopped first, then it is delivered.
        """
        async with self._turn:
            if self._state is not ComponentState.RUNNING:
                self._state = ComponentState.STOPPED
                return
            self._state = ComponentState.STOPPING
            try:
                # Jobs may call actions, and actions may use any other component.
                await stop_all(self._components, first=self.worker, then=self._end_actions)
            finally:
                self._state = ComponentState.STOPPED

    def is_ready(self) -> MustAwait[bool]:
        """Ask the readiness checks: await it. True unless the verdict is NO-GO."""
        return self.readiness.is_ready()

    def get_status(self) -> SandboxStatus:
        """Return a frozen, JSON-able account of the sandbox and its components."""
        actions: dict[str, int] = {}
        for row in self._services.ledger:
            actions[row.state.value] = actions.get(row.state.value, 0) + 1
        return SandboxStatus(
            state=self._state,
            dry_run=self.dry_run,
            components=tuple(component.get_status() for component in self._components),
            actions=actions,
            in_flight=self._runtime.in_flight,
        )

    def get_actions(
        self, *, name: str | None = None, key: str | None = None, state: ActionState | str | None = None
    ) -> tuple[ActionRecord, ...]:
        """Return what the ledger knows of the action calls that match, in the order they came."""
        return self._services.ledger.get_records(name=name, key=key, state=state)

    async def rehearse(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Plan:
        """Run your program and the jobs it submits as a rehearsal, and return the plan.

        Args:
            function: A function or coroutine function; it gets this sandbox if it has a parameter named ``sandbox``.
            *args: For the function.
            **kwargs: For the function.

        Raises:
            LifecycleError: The sandbox is live or not running.
            Exception: Whatever the function raised, unchanged.

        Concurrency: one rehearsal per sandbox. Cancellation: delivered to the function.
        """
        entry = entry_point(function, args, kwargs)
        self._require_rehearsal()
        if "sandbox" in Arguments(function).names:
            kwargs.setdefault("sandbox", self)
        with bound_host(self._runtime):
            await as_coroutine_function(function)(*args, **kwargs)
        return await self.make_plan(entry=entry)

    async def make_plan(self, *, entry: EntryPoint | None = None) -> Plan:
        """Let the jobs end, and return the plan of everything held back since the sandbox started.

        Args:
            entry: What was rehearsed, for the plan to tell.

        Raises:
            LifecycleError: The sandbox is live or not running.

        Concurrency: at any time. Cancellation: nothing is left behind.
        """
        self._require_rehearsal()
        await self.worker.drain()
        return await make_plan(self._runtime, rows=await self.database.get_row_changes(), entry=entry)

    def saga(self, name: str) -> Saga:
        """Return an ``async with`` block whose reversible actions are undone, the last first, when it fails."""
        return Saga(self._runtime, name)

    async def recover(self, name: str, key: str, *, happened: bool, result: object = None) -> None:
        """Settle an UNKNOWN action by what you found out at the provider; with a store, whichever process left it.

        Args:
            name: Name of the action.
            key: Its key.
            happened: Whether the call happened; if not, it may run again.
            result: What later calls with this key get, if it happened.

        Raises:
            ActionNotFoundError: There is no such action.
            ActionStateError: It is not UNKNOWN.
            StoreError: The store does not answer; nothing was settled.
        """
        await self._services.ledger.recover(name, key, happened=happened, result=result)

    async def __aenter__(self) -> Self:
        await self.initialize()
        self._bindings.enter_context(bound_host(self._runtime))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bindings.close()
        await self.cleanup()

    async def _end_actions(self) -> None:
        unregister_host(self._runtime)
        await self._runtime.drain(self._shutdown_seconds)

    def _require_rehearsal(self) -> None:
        if not self.dry_run:
            raise LifecycleError("a live sandbox makes no plan: rehearse with Sandbox(dry_run=True)")
        if self._state is not ComponentState.RUNNING:
            raise LifecycleError(f"{self!r} makes no plan: do it inside `async with`")

    async def _check_actions(self) -> CheckResult:
        mistakes = find_mistakes(self._runtime.specs.values(), self.governor)
        return CheckResult(status=CheckStatus.FAIL if mistakes else CheckStatus.PASS, output="\n".join(mistakes))


SandboxOrchestrator = Sandbox
"""The same class under its longer name."""


def current_sandbox() -> Sandbox:
    """Return the sandbox that actions called here would use.

    Raises:
        NoSandboxError: There is none, there are several and none is bound, or the bound one has stopped.
    """
    host = current_host("current_sandbox()")
    if not isinstance(host.sandbox, Sandbox):
        raise NoSandboxError("current_sandbox()", f"{host!r} belongs to no Sandbox")
    return host.sandbox
