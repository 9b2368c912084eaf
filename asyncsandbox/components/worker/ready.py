"""What may begin, in order: the highest priority first, then the lowest number.

>>> ready: ReadyQueue[str] = ReadyQueue()
>>> for priority, number, item in ((0, 1, "b"), (0, 2, "c"), (5, 3, "a")):
...     ready.push(priority, number, item)
>>> ready.pop(), ready.pop(), ready.pop(), len(ready)
('a', 'b', 'c', 0)
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ReadyQueue(Generic[T]):
    """A queue in order of priority and number.

    What has priority 0 and comes in the order of its number, as nearly everything does, stands in a line; the heap
    with its cost per item is for the rest.

    Concurrency: for one event loop. Cancellation: nothing here waits.
    """

    __slots__ = ("_heap", "_last", "_line")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._line: deque[tuple[int, int, T]] = deque()
        self._last = -1  # the number at the end of the line

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def push(self, priority: int, number: int, item: T) -> None:
        """Add an item; no two have the same number at the same time."""
        entry = (-priority, number, item)
        if priority == 0 and number > self._last:
            self._line.append(entry)
            self._last = number
        else:
            heapq.heappush(self._heap, entry)

    def peek(self) -> T:
        """Return what comes first, and leave it."""
        heap, line = self._heap, self._line
        return heap[0][2] if heap and (not line or heap[0] < line[0]) else line[0][2]

    def pop(self) -> T:
        """Take what comes first."""
        heap, line = self._heap, self._line
        if heap and (not line or heap[0] < line[0]):
            return heapq.heappop(heap)[2]
        return line.popleft()[2]

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop what is not wanted any more."""
        self._heap = [entry for entry in self._heap if wanted(entry[2])]
        heapq.heapify(self._heap)
        self._line = deque(entry for entry in self._line if wanted(entry[2]))
