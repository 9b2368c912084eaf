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
from ._core.ports import Attempt
from ._core.store import Migration, Operation, Schema, Store, StoreInfo, StoreSettings, open_store
from .actions import FILLED_IN, irreversible, read_only, reversible
from .components.alerts import ALERT_RULES, Alert, AlertRule, AlertSettings, AlertSystem, AppriseSubscriber, Severity
from .components.database import (
    DatabaseSettings,
    Isolation,
    LeakReport,
    SandboxDatabaseManager,
    SessionTimeoutError,
    TableChange,
)
from .components.dry_run import DryRunLock, DryRunSettings
from .components.governor import (
    GovernorEnforcer,
    GovernorSettings,
    GovernorStatus,
    Limit,
    LimitDecision,
    LimitStatus,
)
from .components.idempotency import (
    IdempotencyManager,
    IdempotencyRecord,
    IdempotencyRecords,
    IdempotencySettings,
    InMemoryIdempotencyRecords,
    OnUnknown,
)
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
from .components.retry import BreakerSettings, RetryBackoffManager, RetrySettings, RetryStatus, get_attempts
from .components.worker import (
    JobOptions,
    JobState,
    JobStatus,
    WhenFull,
    WorkerProcess,
    WorkerSettings,
    WorkerStatus,
    job,
)
from .errors import (
    ActionError,
    ActionNotFoundError,
    ActionStateError,
    AttemptTimeoutError,
    BreakerOpenError,
    ClaimLostError,
    ComponentStartError,
    ComponentStopError,
    ConfigurationError,
    DatabaseSourceError,
    DeadlineExceededError,
    IdempotencyConflictError,
    IdempotencyFullError,
    IdempotencyStateError,
    IdempotencyUnknownError,
    JobCancelledError,
    JobError,
    JobNotFoundError,
    JobTimeoutError,
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
    QueueFullError,
    ResultCodecError,
    ResultUnavailableError,
    RunningElsewhereError,
    SandboxError,
    SessionInUseError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOpenError,
    StoreOperationError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
    StoreVersionError,
)
from .rehearsal import ActionTotal, CodeManifest, EntryPoint, Plan
from .sandbox import Sandbox, SandboxOrchestrator, SandboxStatus, current_sandbox

__version__ = "0.1.0"

__all__ = [
    "ALERT_RULES",
    "FILLED_IN",
    "ActionError",
    "ActionKind",
    "ActionNotFoundError",
    "ActionRecord",
    "ActionState",
    "ActionStateError",
    "ActionTotal",
    "Alert",
    "AlertRule",
    "AlertSettings",
    "AlertSystem",
    "AppriseSubscriber",
    "Attempt",
    "AttemptTimeoutError",
    "BreakerOpenError",
    "BreakerSettings",
    "Check",
    "CheckGroup",
    "CheckResult",
    "CheckStatus",
    "ClaimLostError",
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
    "GovernorEnforcer",
    "GovernorSettings",
    "GovernorStatus",
    "IdempotencyConflictError",
    "IdempotencyFullError",
    "IdempotencyManager",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "IdempotencySettings",
    "IdempotencyStateError",
    "IdempotencyUnknownError",
    "InMemoryIdempotencyRecords",
    "Isolation",
    "JobCancelledError",
    "JobError",
    "JobNotFoundError",
    "JobOptions",
    "JobState",
    "JobStatus",
    "JobTimeoutError",
    "JsonFormatter",
    "JsonSink",
    "KnownAfterApplyError",
    "LeakReport",
    "LedgerFullError",
    "LedgerSettings",
    "Level",
    "LifecycleError",
    "Limit",
    "LimitDecision",
    "LimitExceededError",
    "LimitStatus",
    "LogSettings",
    "MemorySink",
    "Migration",
    "NestedActionError",
    "NoSandboxError",
    "NotReadyError",
    "NotStartedError",
    "OnUnknown",
    "Operation",
    "OutcomeUnknownError",
    "Plan",
    "PlanFileError",
    "PlannedAction",
    "QueueFullError",
    "ReadinessReport",
    "ReadinessSettings",
    "ResultCodecError",
    "ResultUnavailableError",
    "RetryBackoffManager",
    "RetrySettings",
    "RetryStatus",
    "RunningElsewhereError",
    "Sandbox",
    "SandboxDatabaseManager",
    "SandboxError",
    "SandboxOrchestrator",
    "SandboxReadinessChecker",
    "SandboxStatus",
    "Schema",
    "Services",
    "SessionInUseError",
    "SessionTimeoutError",
    "Severity",
    "StdlibSink",
    "Store",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "StoreInfo",
    "StoreOpenError",
    "StoreOperationError",
    "StoreOutcomeUnknownError",
    "StoreSettings",
    "StoreUnavailableError",
    "StoreVersionError",
    "StructuredLogger",
    "TableChange",
    "Verdict",
    "WhenFull",
    "WorkerProcess",
    "WorkerSettings",
    "WorkerStatus",
    "__version__",
    "carry",
    "correlation",
    "current_sandbox",
    "get_attempts",
    "irreversible",
    "job",
    "open_store",
    "read_only",
    "reversible",
]
