"""Every seeded bug of the package, with the checks that must find it, by what it was seeded into."""

from collections.abc import Mapping

from simulation import heartbeat_bugs
from simulation.alerts_bugs import ALERT_CHECKS, ALERT_MUTANTS
from simulation.durable_bugs import DURABLE_CHECKS, DURABLE_MUTANTS
from simulation.governor_bugs import GOVERNOR_CHECKS, GOVERNOR_MUTANTS
from simulation.governor_shared_bugs import GOVERNOR_SHARED_CHECKS, GOVERNOR_SHARED_MUTANTS
from simulation.idempotency_bugs import IDEMPOTENCY_CHECKS, IDEMPOTENCY_MUTANTS
from simulation.idempotency_store_bugs import IDEMPOTENCY_STORE_CHECKS, IDEMPOTENCY_STORE_MUTANTS
from simulation.mutants import CHECKS, Check, Mutant
from simulation.retry_bugs import RETRY_CHECKS, RETRY_MUTANTS
from simulation.seeded_bugs import MUTANTS
from simulation.store_bugs import STORE_CHECKS, STORE_MUTANTS
from simulation.worker_bugs import WORKER_CHECKS, WORKER_MUTANTS
from simulation.worker_durable_bugs import WORKER_DURABLE_CHECKS, WORKER_DURABLE_MUTANTS

ALL_BUGS: dict[str, tuple[Mapping[str, Check], tuple[Mutant, ...]]] = {
    "alerts": (ALERT_CHECKS, tuple(ALERT_MUTANTS)),
    "core": (CHECKS, MUTANTS),
    "durable": (DURABLE_CHECKS, DURABLE_MUTANTS),
    "governor": (GOVERNOR_CHECKS, tuple(GOVERNOR_MUTANTS)),
    "governor shared": (GOVERNOR_SHARED_CHECKS, GOVERNOR_SHARED_MUTANTS),
    "heartbeat": (heartbeat_bugs.CHECKS, heartbeat_bugs.MUTANTS),
    "idempotency": (IDEMPOTENCY_CHECKS, tuple(IDEMPOTENCY_MUTANTS)),
    "idempotency store": (IDEMPOTENCY_STORE_CHECKS, IDEMPOTENCY_STORE_MUTANTS),
    "retry": (RETRY_CHECKS, tuple(RETRY_MUTANTS)),
    "store": (STORE_CHECKS, STORE_MUTANTS),
    "worker": (WORKER_CHECKS, tuple(WORKER_MUTANTS)),
    "worker durable": (WORKER_DURABLE_CHECKS, WORKER_DURABLE_MUTANTS),
}
