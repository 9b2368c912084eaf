"""The table of jobs that outlive the process, and everything that is done with it.

A running job belongs to the sandbox that claimed it for as long as that has its lease. `RECOVER` makes what was left
behind wait again, or ends it where its process has died too often; it is part of the claim, so that nothing else has to
run for it. The number of the attempt is the fence: whoever was taken over cannot finish any more.

>>> JOBS.tables
('sandbox_jobs',)
"""

from __future__ import annotations

from typing import Final

from ..._core.owners import LEASED
from ..._core.store import Migration, Operation, Schema
from ..._core.store.app_session import ask_place

READY: Final = "jobs"
"""Channel: something may be ready to begin."""
NEWS: Final = "job_news"
"""Channel: a job has ended, or is to be ended."""

_COLUMNS: Final = (
    "id TEXT NOT NULL, name TEXT NOT NULL, function TEXT NOT NULL, arguments BYTEA, correlation_id TEXT NOT NULL, "
    "priority BIGINT NOT NULL, due_at DOUBLE PRECISION NOT NULL, timeout DOUBLE PRECISION, "
    "max_retries BIGINT NOT NULL, unique_key TEXT, state TEXT NOT NULL, attempt BIGINT NOT NULL, "
    "failed BIGINT NOT NULL, lost BIGINT NOT NULL, "
    "cancel_asked BIGINT NOT NULL, owner TEXT, submitted_at DOUBLE PRECISION NOT NULL, "
    "started_at DOUBLE PRECISION, ended_at DOUBLE PRECISION, result BYTEA, reason TEXT, error TEXT"
)
_INDEXES: Final = (
    "CREATE UNIQUE INDEX sandbox_jobs_id ON sandbox_jobs (ns, id)",
    "CREATE INDEX sandbox_jobs_queued ON sandbox_jobs (ns, priority DESC, number) WHERE state = 'queued'",
    "CREATE INDEX sandbox_jobs_running ON sandbox_jobs (ns, owner) WHERE state = 'running'",
    (
        "CREATE UNIQUE INDEX sandbox_jobs_unique ON sandbox_jobs (ns, name, unique_key) "
        "WHERE unique_key IS NOT NULL AND state IN ('queued', 'running')"
    ),
    "CREATE INDEX sandbox_jobs_ended ON sandbox_jobs (ns, ended_at) WHERE ended_at IS NOT NULL",
)


def _with_lists(name: str, sql: str, *, notify: str | None = None) -> Operation:
    """Return an operation whose ``{functions}``, ``{gone}`` and ``{ids}`` are lists, given as JSON texts."""
    lists = ("functions", "gone", "ids")
    sqlite = {each: f"(SELECT value FROM json_each(:{each}))" for each in lists}  # noqa: S608 - our own texts
    postgres = {each: f"(SELECT jsonb_array_elements_text(CAST(:{each} AS jsonb)))" for each in lists}
    return Operation(
        name,
        sql.format(any="IN", skip="", **sqlite),
        # An array is made once; a subquery may be asked again for each row, and would take more than its limit.
        postgres=sql.format(any="= ANY (ARRAY", skip=" FOR UPDATE SKIP LOCKED)", **postgres),
        notify=notify,
    )


_SUBMIT: Final = (
    "INSERT INTO sandbox_jobs (ns, id, name, function, arguments, correlation_id, priority, due_at, timeout, "
    "max_retries, unique_key, state, attempt, failed, lost, cancel_asked, submitted_at) "
    "VALUES (:ns, :id, :name, :function, :arguments, :correlation_id, :priority, "
    ":now + CAST(:delay AS DOUBLE PRECISION), :timeout, :max_retries, :unique_key, 'queued', 0, 0, 0, 0, :now) "
    "ON CONFLICT DO NOTHING"
)
# SQLite counts what it writes by itself; PostgreSQL is asked for many jobs at once, and has to say which they were.
SUBMIT: Final = Operation("jobs.submit", _SUBMIT, postgres=f"{_SUBMIT} RETURNING id", notify=READY)
TABLE_PLACE: Final = ask_place("jobs.place", "sandbox_jobs")
TWIN: Final = Operation(
    "jobs.twin",
    "SELECT id FROM sandbox_jobs WHERE ns = :ns AND name = :name AND unique_key = :unique_key "
    "AND state IN ('queued', 'running')",
)
_PICKED: Final = (
    "id, name, function, arguments, correlation_id, priority, number, timeout, max_retries, attempt, failed"
)
CLAIM: Final = _with_lists(
    "jobs.claim",
    "UPDATE sandbox_jobs SET state = 'running', attempt = attempt + 1, owner = :owner, started_at = :now "  # noqa: S608 - our own texts
    f"WHERE {LEASED} AND state = 'queued' AND number {{any}} (SELECT number FROM sandbox_jobs WHERE ns = :ns "
    "AND state = 'queued' AND due_at <= :now AND function IN {functions} AND id NOT IN {ids} "
    f"ORDER BY priority DESC, number LIMIT :most{{skip}}) RETURNING {_PICKED}",
)
_NO_LEASE: Final = (
    "NOT EXISTS (SELECT 1 FROM sandbox_owners AS others "
    "WHERE others.ns = jobs.ns AND others.id = jobs.owner AND others.lease_until > :now)"
)
RECOVER: Final = _with_lists(
    "jobs.recover",
    "UPDATE sandbox_jobs SET lost = lost + 1, error = :error, "  # noqa: S608 - our own texts
    "state = CASE WHEN cancel_asked = 1 THEN 'cancelled' WHEN lost >= CAST(:most_lost AS BIGINT) THEN 'dead' "
    "ELSE 'queued' END, "
    "ended_at = CASE WHEN cancel_asked = 1 OR lost >= CAST(:most_lost AS BIGINT) THEN :now ELSE NULL END "
    f"WHERE {LEASED} AND state = 'running' AND number {{any}} (SELECT number FROM sandbox_jobs AS jobs "
    f"WHERE jobs.ns = :ns AND jobs.state = 'running' AND jobs.owner <> :owner "
    f"AND (jobs.owner IN {{gone}} OR {_NO_LEASE}) AND jobs.id NOT IN {{ids}} "
    "LIMIT :most{skip}) RETURNING id, name, state, lost, attempt",
    notify=NEWS,
)
_FENCED: Final = "WHERE ns = :ns AND id = :id AND state = 'running' AND attempt = :attempt"
_FINISH: Final = (
    "UPDATE sandbox_jobs SET state = :state, result = :result, reason = :reason, error = :error, ended_at = :now "  # noqa: S608 - our own texts
    f"{_FENCED}"
)
FINISH: Final = Operation("jobs.finish", _FINISH, postgres=f"{_FINISH} RETURNING state", notify=NEWS)
PUT_BACK: Final = Operation(
    "jobs.put_back",
    "UPDATE sandbox_jobs SET state = CASE WHEN cancel_asked = 1 THEN 'cancelled' ELSE 'queued' END, "  # noqa: S608 - our own texts
    "ended_at = CASE WHEN cancel_asked = 1 THEN :now ELSE NULL END, error = CAST(:error AS TEXT), "
    "failed = failed + CASE WHEN CAST(:error AS TEXT) IS NULL THEN 0 ELSE 1 END, "
    f"due_at = :now + CAST(:wait AS DOUBLE PRECISION) {_FENCED} RETURNING state",
    notify=READY,
)
CANCEL: Final = Operation(
    "jobs.cancel",
    "UPDATE sandbox_jobs SET cancel_asked = 1, "
    "ended_at = CASE WHEN state = 'queued' THEN :now ELSE NULL END, "
    "state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END "
    "WHERE ns = :ns AND id = :id AND state IN ('queued', 'running') RETURNING state",
    notify=NEWS,
)
_VIEW: Final = (
    "id, name, state, attempt, correlation_id, submitted_at, started_at, ended_at, result, reason, error "
    "FROM sandbox_jobs WHERE ns = :ns AND"
)
GET: Final = Operation("jobs.get", f"SELECT {_VIEW} id = :id")
ENDED: Final = _with_lists("jobs.ended", f"SELECT {_VIEW} ended_at IS NOT NULL AND id IN {{ids}}")
OURS: Final = Operation(
    "jobs.ours",
    "SELECT id, attempt, cancel_asked FROM sandbox_jobs WHERE ns = :ns AND state = 'running' AND owner = :owner",
)
HOLDERS: Final = Operation(
    "jobs.holders",
    "SELECT jobs.owner, MAX(CASE WHEN leases.lease_until > :now THEN 1 ELSE 0 END) AS leased "
    "FROM sandbox_jobs AS jobs LEFT JOIN sandbox_owners AS leases ON leases.ns = jobs.ns AND leases.id = jobs.owner "
    "WHERE jobs.ns = :ns AND jobs.state = 'running' AND jobs.owner <> :owner GROUP BY jobs.owner",
)
LOOK: Final = _with_lists(
    "jobs.look",
    "SELECT MIN(due_at) - :now AS next_in FROM sandbox_jobs "
    "WHERE ns = :ns AND state = 'queued' AND function IN {functions}",
)
UNDECLARED: Final = _with_lists(
    "jobs.undeclared",
    "SELECT function, COUNT(*) AS waiting FROM sandbox_jobs WHERE ns = :ns AND state = 'queued' "
    "AND due_at < :now - CAST(:seconds AS DOUBLE PRECISION) AND function NOT IN {functions} GROUP BY function",
)
COUNT: Final = _with_lists(
    "jobs.count",
    "SELECT COALESCE(SUM(CASE WHEN state = 'queued' THEN 1 ELSE 0 END), 0) AS queued, "
    "COUNT(*) AS pending FROM sandbox_jobs "
    "WHERE ns = :ns AND state IN ('queued', 'running') AND function IN {functions}",
)
SWEEP: Final = Operation(
    "jobs.sweep",
    "DELETE FROM sandbox_jobs WHERE number IN (SELECT number FROM sandbox_jobs "
    "WHERE ns = :ns AND ended_at < :now - CAST(:seconds AS DOUBLE PRECISION) ORDER BY ended_at LIMIT :most)",
)
JOBS: Final = Schema(
    name="jobs",
    tables=("sandbox_jobs",),
    migrations=(
        Migration(
            sqlite=(
                f"CREATE TABLE sandbox_jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, ns TEXT NOT NULL, {_COLUMNS})",
                *_INDEXES,
            ),
            postgres=(
                (
                    "CREATE TABLE sandbox_jobs (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                    f"ns TEXT NOT NULL, {_COLUMNS})"
                ),
                *_INDEXES,
            ),
        ),
    ),
    operations=(
        *(SUBMIT, TWIN, CLAIM, RECOVER, FINISH, PUT_BACK, CANCEL, SWEEP),
        *(GET, ENDED, OURS, HOLDERS, LOOK, UNDECLARED, COUNT, TABLE_PLACE),
    ),
    prune=Operation(
        "jobs.prune",
        "DELETE FROM sandbox_jobs WHERE number IN (SELECT number FROM sandbox_jobs "
        "WHERE ns = :ns AND ended_at < :before ORDER BY ended_at LIMIT :most)",
    ),
)
