"""Two components that never were, for tests of the store: a shelf of numbered things, and jobs that are claimed."""

from asyncsandbox._core.store import Migration, Operation, Schema

PUT = Operation("shelf.put", "INSERT INTO sandbox_shelf (ns, key, value) VALUES (:ns, :key, :value)", notify="shelf")
SET = Operation(
    "shelf.set",
    "INSERT INTO sandbox_shelf (ns, key, value) VALUES (:ns, :key, :value) "
    "ON CONFLICT (ns, key) DO UPDATE SET value = excluded.value",
)
ADD = Operation(
    "shelf.add",
    "UPDATE sandbox_shelf SET value = value + :value WHERE ns = :ns AND key = :key RETURNING value",
)
SWAP = Operation(
    "shelf.swap",
    "UPDATE sandbox_shelf SET value = :value WHERE ns = :ns AND key = :key AND value = :was",
)
TAKE = Operation("shelf.take", "DELETE FROM sandbox_shelf WHERE ns = :ns AND key = :key RETURNING key, value")
GET = Operation("shelf.get", "SELECT value FROM sandbox_shelf WHERE ns = :ns AND key = :key")
LIST = Operation("shelf.list", "SELECT key, value FROM sandbox_shelf WHERE ns = :ns ORDER BY key")
LIST_ALL = Operation("shelf.list_all", "SELECT ns, key, value FROM sandbox_shelf ORDER BY ns, key")
BAD = Operation("shelf.bad", "INSERT INTO sandbox_shelf (ns, key, value) VALUES (:ns, NULL, :value)")
KEEP = Operation(
    "shelf.keep",
    "INSERT INTO sandbox_kept (key, whole, part, text, raw, at) VALUES (:key, :whole, :part, :text, :raw, :now)",
)
KEPT = Operation("shelf.kept", "SELECT whole, part, text, raw, at FROM sandbox_kept WHERE key = :key")
AGES = Operation("shelf.ages", "SELECT key FROM sandbox_kept WHERE at < :now ORDER BY key")
FORGET = Operation(
    "shelf.forget",
    "DELETE FROM sandbox_kept WHERE key IN (SELECT key FROM sandbox_kept WHERE at < :before ORDER BY at LIMIT :most)",
)

SHELF = Schema(
    name="shelf",
    tables=("sandbox_shelf", "sandbox_kept"),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_shelf (ns TEXT NOT NULL, key TEXT NOT NULL, value BIGINT NOT NULL, "
            "PRIMARY KEY (ns, key))"
        ),
        Migration(
            "CREATE TABLE sandbox_kept (key TEXT PRIMARY KEY, whole BIGINT, part DOUBLE PRECISION, text TEXT, "
            "raw BYTEA, at DOUBLE PRECISION NOT NULL)",
            "CREATE INDEX sandbox_kept_at ON sandbox_kept (at)",
        ),
    ),
    operations=(PUT, SET, ADD, SWAP, TAKE, GET, LIST, LIST_ALL, BAD, KEEP, KEPT, AGES),
    prune=FORGET,
)

ENQUEUE = Operation(
    "jobs.enqueue",
    "INSERT INTO sandbox_testjobs (ns, id, state, attempt, until) VALUES (:ns, :id, 0, 0, 0) "
    "ON CONFLICT (ns, id) DO NOTHING",
    notify="testjobs",
)
_CLAIM = (
    "UPDATE sandbox_testjobs SET state = 1, attempt = attempt + 1, until = :now + :lease "
    "WHERE ns = :ns AND id IN (SELECT id FROM sandbox_testjobs WHERE ns = :ns "
    "AND (state = 0 OR (state = 1 AND until < :now)) ORDER BY id LIMIT :most{skip}) RETURNING id, attempt"
)
CLAIM = Operation("jobs.claim", _CLAIM.format(skip=""), postgres=_CLAIM.format(skip=" FOR UPDATE SKIP LOCKED"))
FINISH = Operation(
    "jobs.finish",
    "UPDATE sandbox_testjobs SET state = 2 WHERE ns = :ns AND id = :id AND attempt = :attempt AND state = 1",
)
COUNT = Operation("jobs.count", "SELECT state, count(*) AS n FROM sandbox_testjobs WHERE ns = :ns GROUP BY state")

JOBS = Schema(
    name="testjobs",
    tables=("sandbox_testjobs",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_testjobs (ns TEXT NOT NULL, id TEXT NOT NULL, state BIGINT NOT NULL, "
            "attempt BIGINT NOT NULL, until DOUBLE PRECISION NOT NULL, PRIMARY KEY (ns, id))",
            "CREATE INDEX sandbox_testjobs_open ON sandbox_testjobs (ns, state, id) WHERE state < 2",
        ),
    ),
    operations=(ENQUEUE, CLAIM, FINISH, COUNT),
)
