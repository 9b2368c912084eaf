"""`DryRunLock`: an interlock, not a mutex: while it is on, no irreversible action passes.

It decides for every action of its sandbox, and holds the low-level door `execute` for callables without a decorator.
There is nothing to acquire or release; the mode is fixed when the lock is made, so no piece of code can switch it off.

>>> import asyncio
>>> def pay(amount: int) -> str:
...     raise AssertionError("a dry run never comes here")
>>> lock = DryRunLock(dry_run=True)
>>> asyncio.run(lock.execute("payment", pay, 100))
(known after apply: payment[~...])
>>> [entry.state.value for entry in lock.get_execution_log("payment")]
['planned']
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .._core.component import Component, ComponentStatus
from .._core.declaration import Declaration
from .._core.ledger import ActionState
from .._core.pipeline import perform
from .._core.planned import ActionKind, Decision, Planner
from .._core.runtime import Runtime
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.ledger import ActionRecord
    from .._core.planned import PlannedAction

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunSettings:
    """How the lock works.

    Attributes:
        dry_run: Whether actions are held back.
        masking_key: Secret by which masked values are compared between two runs (>= 16 characters). It enters no plan.
            Without it masked values are not compared, and the plan says so.
    """

    dry_run: bool = True
    masking_key: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dry_run, bool):
            raise ConfigurationError("DryRunSettings.dry_run", self.dry_run, "give True or False")
        if self.masking_key is not None and len(self.masking_key) < _SHORTEST_KEY:
            raise ConfigurationError(
                "DryRunSettings.masking_key", "******", f"give at least {_SHORTEST_KEY} characters of a secret"
            )

    def __repr__(self) -> str:
        return f"DryRunSettings(dry_run={self.dry_run}, masking_key={'******' if self.masking_key else None})"


_SHORTEST_KEY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunStatus(ComponentStatus):
    """What the lock says of itself.

    Attributes:
        dry_run: Whether actions are held back.
        held_back: How many calls it holds back.
        passed: How many calls have run.
    """

    dry_run: bool
    held_back: int
    passed: int


class DryRunLock(Component):
    """An interlock: no irreversible action passes while it is on.

    It promises that in a dry run no body of an action runs, and that what was held back is in the execution log. It
    does not stop what was never declared as an action.

    Args:
        dry_run: Whether actions are held back; None leaves it to the settings.
        settings: Everything else.

    Concurrency: for one event loop. Cancellation: as for actions.
    """

    name: ClassVar[str] = "dry_run_lock"

    def __init__(self, dry_run: bool | None = None, *, settings: DryRunSettings | None = None) -> None:  # noqa: FBT001 - the owner's signature
        super().__init__()
        given = settings or DryRunSettings()
        self._settings = given if dry_run is None else replace(given, dry_run=dry_run)
        self._own_runtime: Runtime | None = None

    @property
    def dry_run(self) -> bool:
        """Whether actions are held back."""
        return self._settings.dry_run

    @property
    def settings(self) -> DryRunSettings:
        """The settings it was made with."""
        return self._settings

    def judge(self, call: PlannedAction) -> Decision:  # noqa: ARG002 - the gate of an approved plan looks at it
        """Return whether an action is held back or runs."""
        return Decision.HOLD_BACK if self._settings.dry_run else Decision.RUN

    async def execute(self, action_name: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a callable as an irreversible action without a key, or hold it back.

        Args:
            action_name: Name of the action.
            action: A function or coroutine function; a plain one runs in a thread.
            *args: For the action.
            **kwargs: For the action.

        Returns:
            What the action returned; in a dry run a stand-in made from its return annotation.

        Raises:
            ConfigurationError: The name is empty, or an argument says nothing of its own.
            KnownAfterApplyError: An argument is known only after apply; use a decorated action with a key.
            Exception: Whatever the action raised, unchanged.

        Concurrency: calls are independent. Cancellation: a call that has started ends first.
        """
        spec = Declaration(name=action_name, kind=ActionKind.IRREVERSIBLE).spec(action)
        return await perform(self._runtime, spec, args, kwargs)

    def get_execution_log(self, action_name: str | None = None) -> tuple[ActionRecord, ...]:
        """Return the records of all calls, or of one action's, in the order they came."""
        return self.services.ledger.get_records(name=action_name)

    def get_status(self) -> DryRunStatus:
        """Return a frozen, JSON-able account of the lock."""
        rows = tuple(self.services.ledger)
        held_back = sum(row.state is ActionState.PLANNED for row in rows)
        return DryRunStatus(
            name=self.name,
            state=self._state,
            dry_run=self.dry_run,
            held_back=held_back,
            passed=sum(row.attempts for row in rows),
        )

    def make_planner(self, namespace: str) -> Planner:
        """Return what turns calls into planned actions under this lock's masking key."""
        secret = self._settings.masking_key
        return Planner(namespace=namespace, secret=None if secret is None else secret.encode())

    @property
    def _runtime(self) -> Runtime:
        host = self.services.host
        if isinstance(host, Runtime):
            return host
        if self._own_runtime is None:
            services = self.services
            self._own_runtime = Runtime(
                gate=self,
                ledger=services.ledger,
                journal=services.journal,
                clock=services.clock,
                planner=self.make_planner("default"),
                name=repr(self),
                dry_run=self.dry_run,
            )
        return self._own_runtime
