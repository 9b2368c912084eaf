"""`Plan`: what a rehearsal recorded, immutable, the same for every schedule of the same program.

A plan is a set of actions with what each of them would do, the rows the program changed in its isolated database,
the code that was loaded, and the entry point with its arguments. Its digest covers the set of actions and neither
their order nor the time, so two rehearsals that would do the same have the same digest.

>>> code = CodeManifest(python="3.13", modules={}, distributions={})
>>> plan = Plan(planned_at=datetime(2026, 11, 1, tzinfo=UTC), code=code)
>>> plan == Plan.from_json(plan.to_json())
True
>>> plan.digest == Plan(planned_at=datetime.now(UTC), code=code).digest
True
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .._core.codec import Canonical, digest
from .._core.decorators import as_coroutine_function
from .._core.ledger import ActionState
from .._core.planned import ActionKind, PlannedAction  # noqa: TC001 - msgspec reads the annotations
from ..components.database import TableChange  # noqa: TC001 - as above
from ..errors import ConfigurationError, PlanFileError
from .manifest import CodeManifest, take_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._core.runtime import Runtime

__all__ = ["UTC", "ActionTotal", "CodeManifest", "EntryPoint", "Plan", "datetime"]

SCHEMA: Final = 1
"""Version of the plan file; a reader refuses newer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """What was rehearsed, so that a later run can call the same thing.

    Attributes:
        target: ``file.py:function`` as given on the command line, or ``module:function``.
        arguments: Positional arguments, canonical.
        keywords: Keyword arguments, canonical.
    """

    target: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTotal:
    """All calls of one action together.

    Attributes:
        action: Name of the action.
        kind: What it does to the world.
        count: How many calls.
        destroys: Whether it destroys something.
        amount: Sum of the amounts, or None where it has none.
        lowest: Smallest amount.
        highest: Largest amount.
    """

    action: str
    kind: ActionKind
    count: int
    destroys: bool
    amount: Decimal | None
    lowest: Decimal | None
    highest: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rehearsal recorded.

    It promises the same digest for every schedule, and to hold no value that was declared as to be masked. It does not
    promise that the outside world will look the same when it is carried out.

    Attributes:
        planned_at: When, in UTC.
        code: Which code was loaded.
        actions: Every call that was held back, sorted by action and key.
        reads: How often each read-only action ran for real.
        rows: What the program changed in its isolated database; information, not part of the digest.
        entry: What was rehearsed, or None where a block of code was.
        forecast_seconds: How long it takes at least under the limits, in seconds; None where no limit counts the calls.
            Information, not part of the digest.
        namespace: Keeps the keys of different programs apart.
    """

    planned_at: datetime
    code: CodeManifest
    actions: tuple[PlannedAction, ...] = ()
    reads: dict[str, int] = field(default_factory=dict)
    rows: tuple[TableChange, ...] = ()
    entry: EntryPoint | None = None
    forecast_seconds: float | None = None
    namespace: str = "default"

    @property
    def digest(self) -> str:
        """SHA-256 over the set of actions, as hexadecimal digits."""
        return digest(
            sorted([a.identity, a.facts_digest, a.count, a.destroys, a.kind, list(a.references)] for a in self.actions)
        )

    @property
    def count(self) -> int:
        """How many calls were held back."""
        return sum(action.count for action in self.actions)

    def get_totals(self) -> tuple[ActionTotal, ...]:
        """Return the calls added up by action: destructive ones first, then in the order of their names."""
        by_name: dict[str, list[PlannedAction]] = {}
        for action in self.actions:
            by_name.setdefault(action.action, []).append(action)
        totals = [_total(name, actions) for name, actions in by_name.items()]
        return tuple(sorted(totals, key=lambda total: (not total.destroys, total.action)))

    def to_json(self) -> bytes:
        """Return the plan as a JSON document that `from_json` reads back equal."""
        body = msgspec.to_builtins(self)
        document = {"asyncsandbox_plan": SCHEMA, "digest": self.digest, "checksum": _checksum(body), "plan": body}
        return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"

    @classmethod
    def from_json(cls, text: bytes | str, *, source: str = "plan") -> Plan:
        """Read a plan from the text that `to_json` made.

        Args:
            text: The document.
            source: How error messages call it.

        Raises:
            PlanFileError: It is truncated, no plan, from a newer version, or was changed after it was written.
        """
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PlanFileError(source, f"it is not complete JSON ({error})", "make the plan again") from None
        if not isinstance(document, dict) or not isinstance(document.get("asyncsandbox_plan"), int):
            raise PlanFileError(source, "it is not a plan", "give the file that `asyncsandbox plan` wrote")
        schema = document["asyncsandbox_plan"]
        if schema > SCHEMA:
            raise PlanFileError(
                source,
                f"it has schema {schema} and this version reads up to {SCHEMA}",
                "upgrade asyncsandbox, or make the plan again with this version",
            )
        body = document.get("plan")
        if document.get("checksum") != _checksum(body):
            raise PlanFileError(source, "it was changed after it was written", "make the plan again and do not edit it")
        try:
            return msgspec.convert(body, cls)
        except msgspec.ValidationError as error:
            raise PlanFileError(source, f"it does not hold a whole plan ({error})", "make the plan again") from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan to a file, whole or not at all.

        Blocks for as long as the disk takes.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written; what stood there before still does.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file. Blocks for as long as the disk takes.

        Raises:
            PlanFileError: The file cannot be read or holds no usable plan.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise PlanFileError(
                str(path), error.strerror or str(error), "give the path that `asyncsandbox plan` printed"
            ) from None
        return cls.from_json(text, source=str(path))


def entry_point(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> EntryPoint:
    """Describe a call so that a plan can tell it; an argument without a meaning of its own is told by its type."""

    def tell(value: object) -> object:
        try:
            return Canonical("entry point").encode({"value": value})["value"]
        except ConfigurationError:
            return {"$opaque": type(value).__qualname__}

    module = getattr(function, "__module__", "")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return EntryPoint(
        target=f"{module}:{name}",
        arguments=tuple(map(tell, args)),
        keywords={key: tell(value) for key, value in kwargs.items()},
    )


async def make_plan(runtime: Runtime, *, rows: tuple[TableChange, ...], entry: EntryPoint | None) -> Plan:
    """Return the plan of everything a runtime holds back."""
    return Plan(
        planned_at=runtime.clock.now(),
        code=await as_coroutine_function(take_manifest)(),
        actions=fold(row.call for row in runtime.ledger if row.state is ActionState.PLANNED),
        reads=dict(sorted(runtime.reads.items())),
        rows=rows,
        entry=entry,
        forecast_seconds=_forecast(runtime),
        namespace=runtime.planner.namespace,
    )


def _forecast(runtime: Runtime) -> float | None:
    permits = runtime.permits
    known = () if permits is None else permits.get_wanted().items()
    wanted = {permit: count for permit, count in known if permits is not None and permits.has_limit(permit[0])}
    return permits.forecast_seconds(wanted) if permits is not None and wanted else None


def fold(calls: Iterable[PlannedAction]) -> tuple[PlannedAction, ...]:
    """Return calls as a plan holds them: equal calls without a key counted, everything sorted."""
    counts: Counter[str] = Counter()
    first: dict[str, PlannedAction] = {}
    for call in calls:
        identity = call.identity.partition("/")[0]
        counts[identity] += 1
        first.setdefault(identity, call)
    change = msgspec.structs.replace
    folded = (change(call, identity=identity, count=counts[identity]) for identity, call in first.items())
    return tuple(sorted(folded, key=lambda call: (call.action, _natural(call.key), call.identity)))


def _natural(key: str) -> tuple[tuple[int, int, str], ...]:
    """Sort inv-9 before inv-10."""
    import re

    parts = re.split(r"(\d+)", key)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def _total(name: str, actions: list[PlannedAction]) -> ActionTotal:
    amounts = [action.amount for action in actions if action.amount is not None]
    weighted = [action.amount * action.count for action in actions if action.amount is not None]
    return ActionTotal(
        action=name,
        kind=actions[0].kind,
        count=sum(action.count for action in actions),
        destroys=any(action.destroys for action in actions),
        amount=sum(weighted, Decimal(0)) if amounts else None,
        lowest=min(amounts, default=None),
        highest=max(amounts, default=None),
    )


def _checksum(body: object) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
