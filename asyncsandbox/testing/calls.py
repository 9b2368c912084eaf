"""The calls of actions that reached the simulated world.

>>> actions = Actions()
>>> actions.add(ActionCall(action="mail.send", key="ada", generation=1, arguments={}, at=0.0, life=1))
>>> actions.count("mail.send"), actions.count("mail.send", key="grace")
(1, 0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ActionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._core.planned import ActionSpec
    from .._core.runtime import Runtime

Round: TypeAlias = "tuple[str, str, int]"
"""Action, key and generation: what a provider recognises a call by that is made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCall:
    """A call of an action that reached the world.

    Attributes:
        action: Name of the action.
        key: Its key; ``~`` and a digest where it has none.
        generation: Which round of this key: a rejected or undone call may be made again.
        arguments: By name, defaults filled in.
        at: Virtual seconds since the run began.
        life: Which life of the app made it; 0 where the test itself did.
    """

    action: str
    key: str
    generation: int
    arguments: Mapping[str, Any]
    at: float
    life: int


class Actions:
    """The calls that reached the world, in the order they did."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[ActionCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[ActionCall]:
        return iter(tuple(self._calls))

    def add(self, call: ActionCall) -> None:
        """Note one more; the simulation does."""
        self._calls.append(call)

    def count(self, action: str, *, key: str | None = None) -> int:
        """Return how many calls of an action happened, with one key or with any."""
        return sum(call.action == action and key in (None, call.key) for call in self._calls)


def round_of(runtime: Runtime, spec: ActionSpec, label: str) -> Round:
    """Return which round of which key a call belongs to, by its label (``card.charge[inv-17]``)."""
    key = label.removeprefix(f"{spec.name}[").removesuffix("]")
    try:
        return spec.name, key, runtime.ledger.get_row(spec.name, key).generation
    except ActionNotFoundError:
        return spec.name, key, 1
