"""Many calls in few round trips: each operation of a group is sent once, with all its parameters behind it.

Calls that are under way at the same time may happen in any order, so those of one operation are put side by side; the
operations of one unit keep their order.

>>> add, take = Operation("shelf.add", "UPDATE s SET n = :n"), Operation("shelf.take", "DELETE FROM s WHERE n = :n")
>>> bounds = [(add(n=1),), (take(n=2),), (add(n=3),), (add(n=4), take(n=5))]
>>> [(run.operation.name, [bound.params["n"] for bound in run.bounds]) for run in arrange(bounds)]
[('shelf.add', [1, 3]), ('shelf.take', [2]), ('shelf.add', [4]), ('shelf.take', [5])]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .operations import Dialect, Operation, Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .operations import Bound, Row, Statement

__all__ = ["Caller", "Operation", "Run", "arrange"]


@dataclass(slots=True)
class Run:
    """Calls of one operation, one after the other.

    Attributes:
        operation: Which.
        bounds: Each call's parameters.
        slots: For each call, which unit it belongs to, and which of its operations it is.
    """

    operation: Operation
    bounds: list[Bound] = field(default_factory=list)
    slots: list[tuple[int, int]] = field(default_factory=list)

    def add(self, bound: Bound, slot: tuple[int, int]) -> None:
        """Add a call."""
        self.bounds.append(bound)
        self.slots.append(slot)


def arrange(units: Iterable[tuple[Bound, ...]]) -> list[Run]:
    """Return the calls of some units in an order that needs few round trips."""
    alone: dict[Operation, Run] = {}
    rest: list[Run] = []
    for number, bounds in enumerate(units):
        if len(bounds) == 1:
            operation = bounds[0].operation
            run = alone.get(operation)
            if run is None:
                run = alone[operation] = Run(operation)
            run.add(bounds[0], (number, 0))
        else:
            for step, bound in enumerate(bounds):
                rest.append(Run(bound.operation, [bound], [(number, step)]))
    return [*alone.values(), *rest]


class Caller:
    """Sends runs over a connection. It remembers how each operation is written."""

    def __init__(self) -> None:
        self._statements: dict[Operation, Statement] = {}

    async def call(self, connection: Any, units: Sequence[tuple[Bound, ...]]) -> list[tuple[Result, ...]]:
        """Carry out units and return what came of each."""
        found: list[dict[int, Result]] = [{} for _ in units]
        for run in arrange(units):
            for (unit, step), result in zip(run.slots, await self._send(connection, run), strict=True):
                found[unit][step] = result
        return [tuple(results[step] for step in sorted(results)) for results in found]

    def statement(self, operation: Operation) -> Statement:
        """Return how PostgreSQL runs an operation."""
        statement = self._statements.get(operation)
        if statement is None:
            statement = self._statements[operation] = operation.render(Dialect.POSTGRES)
        return statement

    async def _send(self, connection: Any, run: Run) -> list[Result]:
        statement = self.statement(run.operation)
        names = statement.names
        calls = [(*(bound.params[name] for name in names), number) for number, bound in enumerate(run.bounds)]
        records = await connection.fetchmany(statement.numbered, calls)
        if not statement.returns_rows:
            counts = Counter(record[0] for record in records)
            return [Result((), counts[number]) for number in range(len(calls))]
        rows: list[list[Row]] = [[] for _ in calls]
        for record in records:
            *columns, (_, number) = record.items()
            rows[number].append(dict(columns))
        return [Result(tuple(each), len(each)) for each in rows]
