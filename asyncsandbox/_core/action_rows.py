"""The rows of actions in the store: the table, what is done with it, and how a row is written and read.

Every write names the version it is based on and makes the next one. So a row moves from exactly the state, fence and
attempt that somebody has seen, or not at all.

>>> WRITE.parameters == WRITE_LEASED.parameters
True
>>> [name for name in ("was", "owner", "state", "fence") if name not in WRITE.parameters]
[]
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from ..errors import ResultCodecError, ResultUnavailableError
from .ledger import ActionState, Row
from .masking import holds
from .owners import LEASED
from .planned import PlannedAction
from .ports import Attempt
from .results import decode_result, encode_result
from .store import Migration, Operation, Schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from .store import Value

__all__ = [
    "ACTIONS",
    "CHANNEL",
    "Step",
    "StoredRow",
    "changes_of",
    "origin_of",
    "plain_text",
    "result_of",
    "row_of",
    "store_result",
]

CHANNEL: Final = "actions"
"""Told when a row has got an outcome."""

IN_FLIGHT: Final = (ActionState.CLAIMED, ActionState.STARTED, ActionState.UNDOING)
"""States in which somebody is at work on a row."""

_ORIGIN: Final = {
    "identity": "TEXT NOT NULL",
    "action": "TEXT NOT NULL",
    "key": "TEXT NOT NULL",
    "keyed": "BIGINT NOT NULL",
    "facts_digest": "TEXT NOT NULL",
    "call": "TEXT NOT NULL",
    "correlation_id": "TEXT",
}
_CHANGES: Final = {
    "state": "TEXT NOT NULL",
    "generation": "BIGINT NOT NULL",
    "fence": "BIGINT NOT NULL",
    "version": "BIGINT NOT NULL",
    "owner": "TEXT NOT NULL",
    "attempts": "BIGINT NOT NULL",
    "sent_at": "DOUBLE PRECISION",
    "started_at": "DOUBLE PRECISION",
    "finished_at": "DOUBLE PRECISION",
    "duration_seconds": "DOUBLE PRECISION",
    "permit_seconds": "DOUBLE PRECISION NOT NULL",
    "error": "TEXT",
    "history": "TEXT NOT NULL",
    "result": "BYTEA",
    "result_lost": "TEXT",
    "died_at": "DOUBLE PRECISION",
}


Step: TypeAlias = "Callable[[StoredRow], Awaitable[object]]"
"""Moves a copy of a row on; False where there is nothing to do."""


@dataclass(slots=True, kw_only=True)
class StoredRow(Row):
    """A row that is kept in the store.

    Attributes:
        version: The version in the store that this is based on; 0 where there is none yet.
        owner: Who claimed it last.
        stored: The result as it is stored.
        result_lost: Why there is a result that is not stored.
        died_at: When its owner was first seen to be dead, in the store's seconds.
        pending: A step that could not be written, or may have been: to be taken before anything else.
    """

    version: int = 0
    owner: str = ""
    stored: bytes | None = None
    result_lost: str | None = None
    died_at: float | None = None
    pending: Step | None = None

    def get_result(self) -> object:
        """Return what the call returned, made anew where it comes from the store.

        Raises:
            ResultUnavailableError: It could not be stored, or cannot be read here.
        """
        return result_of(self) if self.result is None else self.result

    def become(self, other: StoredRow) -> None:
        """Take over what a step has changed in a copy of this row."""
        for name in _MOVING:
            setattr(self, name, getattr(other, name))

    def load(self, columns: Mapping[str, Any], *, keep_history: bool = False) -> None:
        """Become what the store holds.

        Args:
            columns: That.
            keep_history: Whether what is known here of failed attempts is newer.
        """
        if not keep_history:
            self.history = msgspec.json.decode(columns["history"], type=tuple[Attempt, ...])
            self.permit_seconds = columns["permit_seconds"]
        self.state = ActionState(columns["state"])
        self.generation, self.fence = columns["generation"], columns["fence"]
        self.version, self.owner, self.attempts = columns["version"], columns["owner"], columns["attempts"]
        self.sent_at, self.started_at = _moment(columns["sent_at"]), _moment(columns["started_at"])
        self.finished_at, self.duration_seconds = _moment(columns["finished_at"]), columns["duration_seconds"]
        self.error, self.died_at = columns["error"], columns["died_at"]
        self.result, self.stored, self.result_lost = None, columns["result"], columns["result_lost"]


# All but what never changes, and what only this process knows of its work.
_MOVING: Final = tuple(
    field.name
    for field in fields(StoredRow)
    if field.name not in {"call", "correlation_id", "left_running", "pending", "permit_seconds", "history"}
)


def row_of(columns: Mapping[str, Any]) -> StoredRow:
    """Return the row that columns of the store make."""
    call = msgspec.json.decode(columns["call"], type=PlannedAction)
    row = StoredRow(call=call, correlation_id=columns["correlation_id"])
    row.load(columns)
    return row


def result_of(row: StoredRow) -> object:
    """Return the result of a row that is DONE, made anew.

    Raises:
        ResultUnavailableError: It could not be stored, or cannot be read here.
    """
    if row.result_lost is not None:
        raise ResultUnavailableError(row.call.label, row.result_lost)
    try:
        return None if row.stored is None else decode_result(row.stored)
    except ResultCodecError as error:
        raise ResultUnavailableError(row.call.label, str(error)) from error


def store_result(result: object, masked: Sequence[str]) -> tuple[bytes | None, str | None]:
    """Return a result as bytes, or why it cannot be stored."""
    if result is None:
        return None, None
    try:
        written = encode_result(result).data
    except ResultCodecError as error:
        return None, plain_text(str(error))
    if holds(written, masked):
        return None, "it holds what redact= masks"
    return written, None


def origin_of(row: StoredRow) -> dict[str, Value]:
    """Return the columns that never change."""
    call = row.call
    return {
        "identity": call.identity,
        "action": call.action,
        "key": plain_text(call.key),
        "keyed": call.keyed,
        "facts_digest": call.facts_digest,
        "call": msgspec.json.encode(call).decode(),
        "correlation_id": None if row.correlation_id is None else plain_text(row.correlation_id),
    }


def changes_of(row: StoredRow) -> dict[str, Value]:
    """Return the columns that a step may change."""
    return {
        "state": row.state,
        "generation": row.generation,
        "fence": row.fence,
        "version": row.version,
        "owner": row.owner,
        "attempts": row.attempts,
        "sent_at": _seconds(row.sent_at),
        "started_at": _seconds(row.started_at),
        "finished_at": _seconds(row.finished_at),
        "duration_seconds": row.duration_seconds,
        "permit_seconds": row.permit_seconds,
        "error": None if row.error is None else plain_text(row.error),
        "history": msgspec.json.encode(row.history).decode(),
        "result": row.stored,
        "result_lost": row.result_lost,
        "died_at": row.died_at,
    }


def plain_text(text: str) -> str:
    """Return text as every store can hold it."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _typed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"CAST(:{name} AS {kind.removesuffix(' NOT NULL')})" for name, kind in columns.items())


_SET = ", ".join(f"{name} = :{name}" for name in _CHANGES)
_STATES = ", ".join(f"'{state}'" for state in IN_FLIGHT)
_WRITE = f"UPDATE sandbox_actions SET {_SET} WHERE ns = :ns AND identity = :identity AND version = :was"  # noqa: S608 - names of ours
_INSERT = (
    f"INSERT INTO sandbox_actions (ns, closed, {', '.join(_ORIGIN)}, {', '.join(_CHANGES)}) "
    f"SELECT CAST(:ns AS TEXT), 0, {_typed(_ORIGIN)}, {_typed(_CHANGES)} WHERE {LEASED} "
    f"ON CONFLICT (ns, identity) DO NOTHING"
)
_READ = (
    "SELECT a.*, CASE WHEN leases.id IS NULL THEN 0 ELSE 1 END AS leased FROM sandbox_actions AS a "
    "LEFT JOIN sandbox_owners AS leases ON leases.ns = a.ns AND leases.id = a.owner AND leases.lease_until > :now "
    "WHERE a.ns = :ns AND "
)

READ: Final = Operation("actions.read", f"{_READ} a.identity = :identity")
FIND: Final = Operation(
    "actions.find",
    f"{_READ} a.action = :action AND a.key = :key "
    f"ORDER BY CASE a.state WHEN 'unknown' THEN 0 WHEN 'started' THEN 1 ELSE 2 END, a.identity LIMIT 1",
)
INSERT: Final = Operation("actions.insert", _INSERT)
WRITE: Final = Operation("actions.write", _WRITE)
WRITE_LEASED: Final = Operation("actions.write_leased", f"{_WRITE} AND {LEASED}")
FINISH: Final = Operation("actions.finish", _WRITE, notify=CHANNEL)
FORGET: Final = Operation(
    "actions.forget", "DELETE FROM sandbox_actions WHERE ns = :ns AND identity = :identity AND version = :was"
)

LIST_AT_WORK: Final = Operation(
    "actions.list_at_work",
    "SELECT DISTINCT a.owner, CASE WHEN leases.id IS NULL THEN 0 ELSE 1 END AS leased "  # noqa: S608 - as above
    "FROM sandbox_actions AS a LEFT JOIN sandbox_owners AS leases "
    "ON leases.ns = a.ns AND leases.id = a.owner AND leases.lease_until > :now "
    f"WHERE a.ns = :ns AND a.owner <> :owner AND a.state IN ({_STATES})",
)
TAKE_OVER: Final = Operation(
    "actions.take_over",
    "UPDATE sandbox_actions SET version = version + 1, "  # noqa: S608 - as above
    "state = CASE state WHEN 'claimed' THEN 'approved' WHEN 'started' THEN 'unknown' ELSE 'undo_unknown' END, "
    "error = CASE state WHEN 'claimed' THEN error ELSE CAST(:reason AS TEXT) END, "
    "finished_at = CASE state WHEN 'claimed' THEN finished_at ELSE :now END, "
    "died_at = CASE WHEN CAST(:dead AS BIGINT) = 1 THEN :now ELSE died_at END "
    f"WHERE ns = :ns AND owner = :owner AND state IN ({_STATES}) AND (CAST(:sure AS BIGINT) = 1 OR NOT {LEASED})",
    notify=CHANNEL,
)
"""Settles all that an owner was at work on, if it is surely gone, or if its lease is (still) over."""

_SPENT = "('started', 'done', 'unknown', 'undoing', 'undo_unknown')"
COUNT_SPENT: Final = Operation(
    "actions.count_spent",
    "SELECT a.owner, CASE WHEN leases.id IS NULL THEN 0 ELSE 1 END AS leased, count(*) AS spent "  # noqa: S608 - as above
    "FROM sandbox_actions AS a LEFT JOIN sandbox_owners AS leases "
    "ON leases.ns = a.ns AND leases.id = a.owner AND leases.lease_until > :now "
    "WHERE a.ns = :ns AND a.action = :action AND a.facts_digest = :facts_digest AND a.keyed = 0 AND a.closed = 0 "
    f"AND a.owner <> :owner AND a.state IN {_SPENT} GROUP BY a.owner, leases.id",
)
CLOSE_GROUP: Final = Operation(
    "actions.close_group",
    "UPDATE sandbox_actions SET closed = 1 WHERE ns = :ns AND action = :action AND facts_digest = :facts_digest "
    "AND keyed = 0 AND owner = :owner",
)
CLOSE_OWN: Final = Operation(
    "actions.close_own",
    "UPDATE sandbox_actions SET closed = 1 WHERE ns = :ns AND owner = :owner AND keyed = 0 AND state <> 'started'",
)

ACTIONS: Final = Schema(
    name="actions",
    tables=("sandbox_actions",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_actions (ns TEXT NOT NULL, "
            + "".join(f"{name} {kind}, " for name, kind in (_ORIGIN | _CHANGES).items())
            + "closed BIGINT NOT NULL, PRIMARY KEY (ns, identity))",
            "CREATE INDEX sandbox_actions_key ON sandbox_actions (ns, action, key)",
            f"CREATE INDEX sandbox_actions_at_work ON sandbox_actions (ns, owner) WHERE state IN ({_STATES})",
            "CREATE INDEX sandbox_actions_groups ON sandbox_actions (ns, action, facts_digest) "
            "WHERE keyed = 0 AND closed = 0",
        ),
    ),
    operations=(
        READ,
        FIND,
        INSERT,
        WRITE,
        WRITE_LEASED,
        FINISH,
        FORGET,
        LIST_AT_WORK,
        TAKE_OVER,
        COUNT_SPENT,
        CLOSE_GROUP,
        CLOSE_OWN,
    ),
)
