"""What a shared limit keeps in the store: one row per lease, and one per line that whoever leases writes first.

A lease counts at ``until_at``, the last moment at which it can be used, until ``window_seconds`` later. `SETTLE` tells
how much of it was used and when last, which is never more and never later.

>>> sorted(GRANT.parameters)
['id', 'least', 'most', 'per', 'resource', 'seconds', 'wanted', 'window']
"""

from __future__ import annotations

from typing import Final

from ..._core.store import Migration, Operation, Schema

__all__ = ["GRANT", "LIMITS", "LOCK", "LOOK", "SETTLE", "SWEEP"]

_OF_LINE: Final = "ns = :ns AND resource = :resource AND per = :per"
_COUNTS: Final = f"{_OF_LINE} AND until_at + CAST(:window AS DOUBLE PRECISION) > :now"

LOCK: Final = Operation(
    # On PostgreSQL whoever leases at the same time waits here, and then sees our lease.
    "limits.lock",
    "INSERT INTO sandbox_leases (ns, resource, per, id, units, until_at, window_seconds) "
    "VALUES (:ns, :resource, :per, '', 0, :now, 0) "
    "ON CONFLICT (ns, resource, per, id) DO UPDATE SET until_at = excluded.until_at",
)
SWEEP: Final = Operation(
    # By the longer window, where a new release of the app has declared another one.
    "limits.sweep",
    f"DELETE FROM sandbox_leases WHERE {_OF_LINE} AND id <> '' AND until_at + "  # noqa: S608 - our own texts
    "CASE WHEN window_seconds < CAST(:window AS DOUBLE PRECISION) THEN CAST(:window AS DOUBLE PRECISION) "
    "ELSE window_seconds END <= :now",
)
GRANT: Final = Operation(
    "limits.grant",
    "INSERT INTO sandbox_leases (ns, resource, per, id, units, until_at, window_seconds) "  # noqa: S608 - our own texts
    "SELECT CAST(:ns AS TEXT), CAST(:resource AS TEXT), CAST(:per AS TEXT), CAST(:id AS TEXT), granted, "
    ":now + CAST(:seconds AS DOUBLE PRECISION), CAST(:window AS DOUBLE PRECISION) "
    "FROM (SELECT CASE WHEN CAST(:wanted AS BIGINT) < spare "
    "THEN CAST(:wanted AS BIGINT) ELSE spare END AS granted FROM (SELECT CAST(:most AS BIGINT) - "
    f"COALESCE(SUM(units), 0) AS spare FROM sandbox_leases WHERE {_COUNTS}) AS counted) AS offered "
    "WHERE granted >= CAST(:least AS BIGINT) RETURNING units, until_at",
)
SETTLE: Final = Operation(
    "limits.settle",
    "UPDATE sandbox_leases SET units = :units, "  # noqa: S608 - our own texts
    "until_at = CASE WHEN until_at < CAST(:last_at AS DOUBLE PRECISION) "
    f"THEN until_at ELSE CAST(:last_at AS DOUBLE PRECISION) END WHERE {_OF_LINE} AND id = :id",
)
LOOK: Final = Operation(
    # How many units count, and in how many seconds there is room for a call, if nobody else comes.
    "limits.look",
    "SELECT CAST(COALESCE(MAX(total), 0) AS BIGINT) AS used, "  # noqa: S608 - our own texts
    "MIN(CASE WHEN total - gone + CAST(:cost AS BIGINT) <= CAST(:most AS BIGINT) THEN leaves_in END) AS leaves_in "
    "FROM (SELECT until_at + CAST(:window AS DOUBLE PRECISION) - :now AS leaves_in, SUM(units) OVER () AS total, "
    f"SUM(units) OVER (ORDER BY until_at, id) AS gone FROM sandbox_leases WHERE {_COUNTS}) AS counted",
)
LIMITS: Final = Schema(
    name="limits",
    tables=("sandbox_leases",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_leases (ns TEXT NOT NULL, resource TEXT NOT NULL, per TEXT NOT NULL, "
            "id TEXT NOT NULL, units BIGINT NOT NULL, until_at DOUBLE PRECISION NOT NULL, "
            "window_seconds DOUBLE PRECISION NOT NULL, PRIMARY KEY (ns, resource, per, id))",
        ),
    ),
    operations=(LOCK, SWEEP, GRANT, SETTLE, LOOK),
    prune=Operation(
        "limits.prune",
        "DELETE FROM sandbox_leases WHERE ns = :ns AND until_at + window_seconds < :before AND (resource, per, id) IN "
        "(SELECT resource, per, id FROM sandbox_leases WHERE ns = :ns AND until_at + window_seconds < :before "
        "ORDER BY until_at + window_seconds LIMIT :most)",
    ),
)
