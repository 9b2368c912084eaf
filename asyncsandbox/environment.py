"""What `Sandbox.from_env` reads: which environment variables there are, and what each must hold.

>>> keywords_from({"ASYNCSANDBOX_DRY_RUN": "false", "ASYNCSANDBOX_WORKER__CONCURRENCY": "2", "HOME": "/home/ada"})
{'worker': WorkerSettings(concurrency=2, ...), 'dry_run': False}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ._core.ledger import LedgerSettings
from ._core.settings import keywords_from_environ
from .components.alerts import AlertSettings
from .components.database import DatabaseSettings
from .components.dry_run import DryRunSettings
from .components.governor import GovernorSettings
from .components.heartbeat import HeartbeatSettings
from .components.idempotency import IdempotencySettings
from .components.logs import LogSettings
from .components.readiness import ReadinessSettings
from .components.retry import RetrySettings
from .components.worker import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OPTIONS", "SETTINGS", "keywords_from"]

SETTINGS: Final[dict[str, type]] = {
    "alerts": AlertSettings,
    "database": DatabaseSettings,
    "dry_run_lock": DryRunSettings,
    "governor": GovernorSettings,
    "heartbeat": HeartbeatSettings,
    "idempotency_manager": IdempotencySettings,
    "ledger": LedgerSettings,
    "logger": LogSettings,
    "readiness": ReadinessSettings,
    "retry": RetrySettings,
    "worker": WorkerSettings,
}
"""The settings class of each keyword of `Sandbox` that takes one: ``ASYNCSANDBOX_KEYWORD__FIELD``."""

OPTIONS: Final[dict[str, Any]] = {
    "dry_run": bool,
    "use_memory_db": bool,
    "database_url": str,
    "store": str,
    "namespace": str,
    "allow_mixed": bool,
    "shutdown_seconds": float,
}
"""The type of each other keyword that can be written as text: ``ASYNCSANDBOX_KEYWORD``."""


def keywords_from(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the keywords of `Sandbox` that the environment sets.

    Raises:
        ConfigurationError: A variable names nothing, or its text is not usable.
    """
    return keywords_from_environ(environ, "ASYNCSANDBOX_", options=OPTIONS, settings=SETTINGS)
