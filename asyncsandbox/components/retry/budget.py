"""The retry budget: of all calls of one name, only so many may be retries, so that retries never flood a provider.

>>> budget = Budget(ratio=0.5, burst=1)
>>> budget.spend(), budget.spend()
(True, False)
>>> budget.earn(); budget.earn()
>>> budget.spend()
True
"""

from __future__ import annotations

import math


class Budget:
    """A bucket of tokens: each call adds ``ratio``, each retry takes 1, and it holds ``burst`` at most.

    Over any run of calls there are never more than ``ratio`` * calls + ``burst`` retries.

    Args:
        ratio: Tokens per call; None for no limit.
        burst: Tokens it begins with, and holds at most.

    Concurrency: for one event loop. Cancellation: nothing here waits.
    """

    __slots__ = ("burst", "ratio", "tokens")

    def __init__(self, ratio: float | None, burst: int) -> None:
        self.ratio = ratio or 0.0
        self.burst = self.tokens = math.inf if ratio is None else float(burst)

    def earn(self) -> None:
        """Note a call."""
        self.tokens = min(self.burst, self.tokens + self.ratio)

    def spend(self) -> bool:
        """Take a token for a retry; False where there is none."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
