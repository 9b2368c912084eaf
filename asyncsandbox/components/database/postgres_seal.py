"""What keeps a transaction from changing the source, watched over by the server itself.

Two means, neither of which leaves anything in the database:

* the session's transactions are read-only unless begun otherwise, so that a statement outside ours writes nothing;
* in ours a cursor is held open that the server reads to its end at COMMIT, whoever says COMMIT. Reading it fails where
  the transaction must not be committed, and then everything is rolled back.
"""

from __future__ import annotations

READ_ONLY_OUTSIDE = {"default_transaction_read_only": "on"}
"""Settings of a session whose transactions have to ask for writing."""

OUTER_MARK = "asyncsandbox: the outer transaction is not to be committed"
OUTSIDE_MARK = "asyncsandbox: outside the scratch schema this transaction changed "

# A text that is no number is the way to raise an error of one's own from a query. random() keeps it from being
# computed at once.
SEAL_OUTER = f"""
DECLARE asyncsandbox_seal NO SCROLL CURSOR WITH HOLD FOR
SELECT ('{OUTER_MARK} ' || random())::int
"""


def seal_schema(schema: str, cursor: str) -> str:
    """Return the statement after which a transaction that changed tables outside a schema cannot be committed.

    Args:
        schema: Its name.
        cursor: A name that is free; it is taken until the cursor is closed, or the transaction rolled back.
    """
    # Whatever changes a table locks it for more than reading until the transaction ends. The cursor sees the catalog as
    # it was at the beginning, with the tables that are dropped by now; new ones are looked up.
    return f"""
DECLARE {cursor} NO SCROLL CURSOR WITH HOLD FOR
SELECT ('{OUTSIDE_MARK}' || string_agg(DISTINCT place.name, ', '))::int
FROM pg_locks AS held
JOIN pg_database AS here ON here.oid = held.database AND here.datname = current_database()
LEFT JOIN pg_class AS old ON old.oid = held.relation
LEFT JOIN pg_namespace AS home ON home.oid = old.relnamespace
CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, held.relation, 0) AS new
CROSS JOIN LATERAL (SELECT coalesce(home.nspname, new.schema) AS schema,
                           coalesce(home.nspname || '.' || old.relname, new.identity) AS name) AS place
WHERE held.pid = pg_backend_pid() AND held.locktype = 'relation'
  AND old.relkind IS DISTINCT FROM 'i' AND held.mode NOT IN ('AccessShareLock', 'RowShareLock')
  AND place.schema <> '{schema}' AND place.schema NOT LIKE 'pg\\_%'
HAVING count(*) > 0
"""  # noqa: S608 - the names are ours
