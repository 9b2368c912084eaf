"""A dress rehearsal for async Python: run your program with its irreversible calls held back and read the plan.

>>> import asyncio
>>> from asyncsandbox import Sandbox, irreversible
>>> @irreversible("mail.send", key=lambda to: to)
... async def send(to: str, text: str) -> None: ...
>>> async def main() -> None:
...     for name in ("ada", "grace"):
...         await send(f"{name}@example.org", "Hello")
>>> async def rehearse() -> int:
...     async with Sandbox() as sandbox:
...         plan = await sandbox.rehearse(main)
...     return plan.count
>>> asyncio.run(rehearse())
2
"""

from __future__ import annotations

from ._core.checks import Check, CheckGroup, CheckResult, CheckStatus
from ._core.clock import Clock
from ._core.component import Component, ComponentState, ComponentStatus, Services
from ._core.context import carry, correlation
from ._core.journal import Event, Level
from ._core.ledger import ActionRecord, ActionState, LedgerSettings
from ._core.planned import ActionKind, PlannedAction
from .actions import FILLED_IN, irreversible, read_only, reversible
from .components.database import (
    DatabaseSettings,
    Isolation,
    LeakReport,
    SandboxDatabaseManager,
    SessionTimeoutError,
    TableChange,
)
from .components.dry_run import DryRunLock, DryRunSettings
from .components.logs import (
    CorrelationFilter,
    JsonFormatter,
    JsonSink,
    LogSettings,
    MemorySink,
    StdlibSink,
    StructuredLogger,
)
from .components.readiness import ReadinessReport, ReadinessSettings, SandboxReadinessChecker, Verdict
from .errors import (
    ActionError,
    ActionNotFoundError,
    ActionStateError,
    AttemptTimeoutError,
    BreakerOpenError,
    ComponentStartError,
    ComponentStopError,
    ConfigurationError,
    DatabaseSourceError,
    DeadlineExceededError,
    IdempotencyConflictError,
    KnownAfterApplyError,
    LedgerFullError,
    LifecycleError,
    LimitExceededError,
    NestedActionError,
    NoSandboxError,
    NotReadyError,
    NotStartedError,
    OutcomeUnknownError,
    PlanFileError,
    SandboxError,
    SessionInUseError,
)
from .rehearsal import ActionTotal, CodeManifest, EntryPoint, Plan
from .sandbox import Sandbox, SandboxOrchestrator, SandboxStatus, current_sandbox

__version__ = "0.1.0"

__all__ = [
    "FILLED_IN",
    "ActionError",
    "ActionKind",
    "ActionNotFoundError",
    "ActionRecord",
    "ActionState",
    "ActionStateError",
    "ActionTotal",
    "AttemptTimeoutError",
    "BreakerOpenError",
    "Check",
    "CheckGroup",
    "CheckResult",
    "CheckStatus",
    "Clock",
    "CodeManifest",
    "Component",
    "ComponentStartError",
    "ComponentState",
    "ComponentStatus",
    "ComponentStopError",
    "ConfigurationError",
    "CorrelationFilter",
    "DatabaseSettings",
    "DatabaseSourceError",
    "DeadlineExceededError",
    "DryRunLock",
    "DryRunSettings",
    "EntryPoint",
    "Event",
    "IdempotencyConflictError",
    "Isolation",
    "JsonFormatter",
    "JsonSink",
    "KnownAfterApplyError",
    "LeakReport",
    "LedgerFullError",
    "LedgerSettings",
    "Level",
    "LifecycleError",
    "LimitExceededError",
    "LogSettings",
    "MemorySink",
    "NestedActionError",
    "NoSandboxError",
    "NotReadyError",
    "NotStartedError",
    "OutcomeUnknownError",
    "Plan",
    "PlanFileError",
    "PlannedAction",
    "ReadinessReport",
    "ReadinessSettings",
    "Sandbox",
    "SandboxDatabaseManager",
    "SandboxError",
    "SandboxOrchestrator",
    "SandboxReadinessChecker",
    "SandboxStatus",
    "Services",
    "SessionInUseError",
    "SessionTimeoutError",
    "StdlibSink",
    "StructuredLogger",
    "TableChange",
    "Verdict",
    "__version__",
    "carry",
    "correlation",
    "current_sandbox",
    "irreversible",
    "read_only",
    "reversible",
]
