"""Where an action can be, what moves it on, and what is told of it: the table of the design, and nothing else.

Anything that is not in `TRANSITIONS` cannot happen.

>>> TRANSITIONS[ActionState.STARTED, ActionEvent.RETURN]
<ActionState.DONE: 'done'>
>>> (ActionState.DONE, ActionEvent.CLAIM) in TRANSITIONS
False
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .ports import Attempt


class ActionState(StrEnum):
    """Where an action is."""

    PLANNED = "planned"
    APPROVED = "approved"
    CLAIMED = "claimed"
    STARTED = "started"
    DONE = "done"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_UNKNOWN = "undo_unknown"


class ActionEvent(StrEnum):
    """What moves an action from one state to the next."""

    APPROVE = "approve"
    CLAIM = "claim"
    RELEASE = "release"
    START = "start"
    RETURN = "return"
    RETRY = "retry"
    NOT_DELIVERED = "not delivered"
    REJECT = "reject"
    LOSE = "lose"
    HAPPENED = "happened"
    NOT_HAPPENED = "not happened"
    UNDO = "undo"
    UNDO_RETURN = "undo return"
    UNDO_LOSE = "undo lose"


_S, _E = ActionState, ActionEvent

TRANSITIONS: dict[tuple[ActionState, ActionEvent], ActionState] = {
    (_S.PLANNED, _E.APPROVE): _S.APPROVED,
    (_S.APPROVED, _E.CLAIM): _S.CLAIMED,
    (_S.CLAIMED, _E.RELEASE): _S.APPROVED,
    (_S.CLAIMED, _E.START): _S.STARTED,
    (_S.STARTED, _E.RETRY): _S.STARTED,
    (_S.STARTED, _E.RETURN): _S.DONE,
    (_S.STARTED, _E.NOT_DELIVERED): _S.APPROVED,
    (_S.STARTED, _E.REJECT): _S.REJECTED,
    (_S.STARTED, _E.LOSE): _S.UNKNOWN,
    (_S.REJECTED, _E.CLAIM): _S.CLAIMED,
    (_S.UNKNOWN, _E.RETRY): _S.STARTED,
    (_S.UNKNOWN, _E.RETURN): _S.DONE,
    (_S.UNKNOWN, _E.HAPPENED): _S.DONE,
    (_S.UNKNOWN, _E.NOT_HAPPENED): _S.APPROVED,
    (_S.DONE, _E.UNDO): _S.UNDOING,
    (_S.UNDOING, _E.UNDO_RETURN): _S.UNDONE,
    (_S.UNDOING, _E.UNDO_LOSE): _S.UNDO_UNKNOWN,
    (_S.UNDONE, _E.APPROVE): _S.APPROVED,
}
"""Every step a row can take. What is not here cannot happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """What the ledger knows of one action call.

    Attributes:
        identity: Digest of namespace, action and key (or facts and ordinal, without a key).
        action: Name of the action.
        key: The business key, or a label for a call without one.
        state: Where it is.
        generation: 1, and one more after each rejection or undo; the provider's key changes with it.
        attempts: How often its body was started.
        correlation_id: Of the call that made the row.
        started_at: When its body last started, in UTC.
        finished_at: When its outcome was recorded, in UTC.
        duration_seconds: From the last start to the outcome.
        error: The error that decided the outcome, as text.
        permit_seconds: How long it waited for permits of its limit, all attempts together.
        history: The attempts that failed while it was retried.
    """

    identity: str
    action: str
    key: str
    state: ActionState
    generation: int
    attempts: int
    correlation_id: str | None
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    error: str | None
    permit_seconds: float
    history: tuple[Attempt, ...]
