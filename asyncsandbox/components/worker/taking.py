"""Taking jobs out of the store to run them here: those that may begin, and those that somebody left behind.

Nothing is taken without a lease: the statement asks for it. What others are at work on is left alone until their lease
is over, or their process has certainly ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ..._core.journal import Level
from ..._core.owners import OwnerState
from ...errors import StoreError
from .job import JobState, declared_names
from .job_table import CLAIM, HOLDERS, LOOK, READY, RECOVER, UNDECLARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..._core.component import Services
    from ..._core.owners import Owner
    from ..._core.store import Row, Store
    from ..._core.store.patience import Patience

POLL_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.02
"""Between two looks for news from others, however much there is."""
AT_ONCE: Final = 1_000


class Taker:
    """Takes jobs in the name of one sandbox.

    Concurrency: for one task. Cancellation: of `wait` changes nothing; what `take` was given is the sandbox's all the
    same.

    Args:
        services: Of the worker; the journal hears of jobs that were left behind.
        store: Where they are.
        owner: The sandbox.
        patience: For a store that does not answer.
        max_recoveries: How often a job is begun again because its process died.
        on_end: Is told the state of each job that ended because its process died too often, or had to cancel it.

    Attributes:
        is_in_doubt: Whether the store may have given jobs without our hearing of it; whoever puts them back clears it.
    """

    def __init__(
        self,
        services: Services,
        store: Store,
        owner: Owner,
        patience: Patience,
        *,
        max_recoveries: int,
        on_end: Callable[[JobState], object],
    ) -> None:
        self._store = store
        self._owner = owner
        self._clock = services.clock
        self._journal = services.journal
        self._patience = patience
        self._max_recoveries = max_recoveries
        self._on_end = on_end
        self.is_in_doubt = False
        self._seen = 0
        self._in_vain = 0  # takes, one after the other
        self._gone: list[str] = []
        self._must_recover = False
        self._told_of: set[str] = set()  # functions that are not declared here

    async def wait(self) -> None:
        """Wait until there is something to take; look once a second, in case that news did not come."""
        while True:
            seen = self._seen  # from before the look, so that nothing in between is missed
            try:
                wait = await self._look()
                if wait <= 0:
                    return
                self._seen = await self._store.wait_for(READY, since=seen, timeout_seconds=wait)
            except StoreError as error:
                await self._patience.wait(error)

    async def take(self, most: int, *, but: Iterable[str] = ()) -> tuple[Row, ...]:
        """Take up to ``most`` jobs, those left behind among them, and return their rows in order.

        Args:
            most: How many.
            but: None of these: an attempt that somebody took over from us may still have to end here.
        """
        try:
            rows = await self._take(most, json.dumps(list(but)))
            self._in_vain = 0 if rows else self._in_vain + 1
            if self._in_vain > 1:  # others were quicker, or our lease is over
                await self._owner.renew()
                await self._clock.sleep(PAUSE_SECONDS)
        except StoreError as error:
            self.is_in_doubt = True
            await self._patience.wait(error)
            return ()
        return tuple(sorted(rows, key=lambda row: (-row["priority"], row["number"])))

    async def tell_undeclared(self, seconds: float) -> None:
        """Tell the journal, once per function, of jobs that have waited for so long, of a function not declared here.

        Raises:
            StoreError: It cannot be asked.
        """
        for row in await self._store.read(UNDECLARED, functions=known(), seconds=seconds):
            if row["function"] not in self._told_of:
                self._told_of.add(row["function"])
                self._journal.publish(
                    "job.undeclared",
                    component="worker",
                    level=Level.WARNING,
                    function=row["function"],
                    count=row["waiting"],
                    remedy="import the module that declares it, in this process or another one on the store",
                )

    async def _look(self) -> float:
        """Return in how many seconds to look again; 0 where there is something to take."""
        holders = await self._store.read(HOLDERS, owner=self._owner.id)
        judged = {row["owner"]: self._owner.judge(row["owner"], leased=bool(row["leased"])) for row in holders}
        self._gone = [name for name, state in judged.items() if state in (OwnerState.DEAD, OwnerState.ENDED)]
        self._must_recover = any(state is not OwnerState.ALIVE for state in judged.values())
        (row,) = await self._store.read(LOOK, functions=known())
        self._patience.has_answered()
        next_in = POLL_SECONDS if row["next_in"] is None else min(POLL_SECONDS, row["next_in"])
        return 0.0 if self._must_recover else next_in

    async def _take(self, most: int, ids: str) -> tuple[Row, ...]:
        taking = CLAIM(owner=self._owner.id, functions=known(), ids=ids, most=most)
        if not self._must_recover:
            return (await self._store.write_all(taking))[0].rows
        recovering = RECOVER(
            owner=self._owner.id,
            gone=json.dumps(self._gone),
            ids=ids,
            most_lost=self._max_recoveries,
            most=AT_ONCE,
            error=_GONE,
        )
        recovered, taken = await self._store.write_all(recovering, taking)
        self._must_recover = False
        for row in recovered.rows:
            self._tell(row)
        return taken.rows

    def _tell(self, row: Row) -> None:
        state = JobState(row["state"])
        if state.has_ended:
            self._on_end(state)
        self._journal.publish(
            f"job.{state}" if state.has_ended else "job.recovered",
            component="worker",
            level=Level.ERROR if state is JobState.DEAD else Level.WARNING,
            job=row["name"],
            job_id=row["id"],
            attempt=row["attempt"],
            lost=row["lost"],
            error=_GONE,
        )


_GONE: Final = "the process it ran in has gone"


def known() -> str:
    """Return the names of the functions that are declared here, as JSON."""
    return json.dumps(declared_names())
