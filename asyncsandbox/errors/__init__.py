"""Every exception that more than one file raises, under one root.

The tree::

    SandboxError
    ├── ConfigurationError(ValueError)        a setting or a declaration is wrong; nothing was started
    ├── LifecycleError
    │   ├── NotStartedError                   used before start() or after stop()
    │   ├── ComponentStartError               a component did not start; what had started was stopped
    │   └── ComponentStopError                a component did not stop cleanly; the others were stopped
    ├── NoSandboxError(LookupError)           an action was called and no single running sandbox could be found
    ├── ActionError
    │   ├── NestedActionError                 an action was called inside the body of another action
    │   ├── IdempotencyConflictError          one key, two different sets of facts
    │   ├── KnownAfterApplyError              the program looked at a value that exists only after apply
    │   ├── DeadlineExceededError(TimeoutError)  the deadline passed before the action started; it was not run
    │   │   └── RunningElsewhereError         the same, while another process was at work on it
    │   ├── OutcomeUnknownError               the action started and nobody knows whether it happened
    │   │   └── IdempotencyUnknownError       the same, of a call with an idempotency key
    │   ├── ActionNotFoundError(LookupError)  the ledger has no such action
    │   ├── ActionStateError                  the action is not in a state that allows this
    │   │   └── ClaimLostError                somebody else moved it between our look and our step
    │   └── LedgerFullError                   the in-memory ledger has no room; it never forgets silently
    ├── LimitExceededError                    a limit denies a call, now or before its deadline
    ├── AttemptTimeoutError(TimeoutError)     one attempt took longer than it may
    ├── BreakerOpenError                      a circuit breaker is open; the call was not made
    ├── DatabaseSourceError                   the database to isolate cannot be opened
    ├── SessionInUseError                     a second session where sessions take turns
    ├── IdempotencyStateError                 the key is not in a state that allows this
    ├── IdempotencyFullError                  the in-memory records have no room; they never forget silently
    ├── ResultUnavailableError                the call has run, and its result cannot be given again
    ├── ResultCodecError(ValueError)          a result cannot be stored, or cannot be read here
    ├── JobError
    │   ├── JobNotFoundError(LookupError)     the worker knows no job of this id, or no longer
    │   ├── JobCancelledError                 the job was cancelled, so it has no result
    │   ├── JobFailedError                    the job failed elsewhere, with an error that cannot be made here
    │   ├── JobNotStorableError(ValueError)   an argument cannot outlive the process; the job was not accepted
    │   ├── JobTimeoutError(TimeoutError)     one attempt at a job took longer than it may
    │   └── QueueFullError                    too many jobs are waiting; this one was not accepted
    ├── PlanFileError                         a plan file is truncated, newer, or was changed
    ├── NotReadyError                         require_ready() met a NO-GO
    └── StoreError
        ├── StoreOpenError                    the store cannot be opened; it was left as it is
        ├── StoreVersionError                 the store's schema is newer than the program, or must be migrated
        ├── StoreOperationError               an operation is wrong in itself: its SQL or a parameter
        ├── StoreConflictError                a constraint refuses a write
        ├── StoreBusyError(TimeoutError)      somebody else held a lock for too long; nothing was written
        ├── StoreUnavailableError             disk full, file damaged, server gone; nothing was written
        └── StoreOutcomeUnknownError          the connection broke during a commit and stayed broken

Attributes are typed, the message is composed in ``__str__`` and ends with what to do next, and each exception
survives pickling.
"""

from __future__ import annotations

from .actions import (
    ActionError,
    ActionNotFoundError,
    ActionStateError,
    ClaimLostError,
    DeadlineExceededError,
    IdempotencyConflictError,
    KnownAfterApplyError,
    LedgerFullError,
    NestedActionError,
    OutcomeUnknownError,
    PlanFileError,
    RunningElsewhereError,
)
from .base import ConfigurationError, SandboxError
from .calls import AttemptTimeoutError, BreakerOpenError, LimitExceededError
from .database import DatabaseSourceError, SessionInUseError
from .idempotency import (
    IdempotencyFullError,
    IdempotencyStateError,
    IdempotencyUnknownError,
    ResultCodecError,
    ResultUnavailableError,
)
from .jobs import (
    JobCancelledError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    JobNotStorableError,
    JobTimeoutError,
    QueueFullError,
)
from .lifecycle import (
    ComponentStartError,
    ComponentStopError,
    LifecycleError,
    NoSandboxError,
    NotReadyError,
    NotStartedError,
)
from .store import (
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOpenError,
    StoreOperationError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = [
    "ActionError",
    "ActionNotFoundError",
    "ActionStateError",
    "AttemptTimeoutError",
    "BreakerOpenError",
    "ClaimLostError",
    "ComponentStartError",
    "ComponentStopError",
    "ConfigurationError",
    "DatabaseSourceError",
    "DeadlineExceededError",
    "IdempotencyConflictError",
    "IdempotencyFullError",
    "IdempotencyStateError",
    "IdempotencyUnknownError",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobNotFoundError",
    "JobNotStorableError",
    "JobTimeoutError",
    "KnownAfterApplyError",
    "LedgerFullError",
    "LifecycleError",
    "LimitExceededError",
    "NestedActionError",
    "NoSandboxError",
    "NotReadyError",
    "NotStartedError",
    "OutcomeUnknownError",
    "PlanFileError",
    "QueueFullError",
    "ResultCodecError",
    "ResultUnavailableError",
    "RunningElsewhereError",
    "SandboxError",
    "SessionInUseError",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "StoreOpenError",
    "StoreOperationError",
    "StoreOutcomeUnknownError",
    "StoreUnavailableError",
    "StoreVersionError",
]
