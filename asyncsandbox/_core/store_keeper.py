"""The store of a sandbox, from before its first component starts until after its last has stopped.

It is a component like others, so that it starts first and stops last, and its task that renews the lease ends with it.

>>> async def main() -> bool:
...     keeper = StoreKeeper(":memory:", SystemClock(), Journal(SystemClock()))
...     async with keeper:
...         return await keeper.ledger.look_up(CALL) is None
>>> from asyncsandbox._core.planned import ActionKind, PlannedAction
>>> CALL = PlannedAction(
...     identity="i", action="a", kind=ActionKind.IRREVERSIBLE, key="k", keyed=True, facts={}, facts_digest="f"
... )
>>> asyncio.run(main())
True
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from ..errors import ConfigurationError, NotStartedError
from .action_rows import ACTIONS
from .clock import SystemClock
from .component import Component
from .durable_ledger import DurableLedger
from .journal import Journal
from .ledger import LedgerSettings
from .owners import OWNERS, Owner
from .planned import Planner
from .rehearsal_ledger import RehearsalLedger
from .store import Store, open_store
from .store.location import parse_location

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

    from .clock import Clock
    from .ledger import Ledger

__all__ = ["Journal", "StoreKeeper", "SystemClock", "asyncio"]


class StoreKeeper(Component):
    """Opens the store, keeps the lease of its sandbox, and gives the ledger.

    It promises that what processes that are gone were at work on is settled once it has started, and that a store that
    was given open is left open. In a dry run it takes no lease and settles nothing.

    Concurrency: as of any component. Cancellation: a start undoes itself.

    Attributes:
        store: The store, in the sandbox's namespace.
        ledger: The ledger in it.
        owner: In whose name rows are claimed; None in a dry run.

    Args:
        store: Path, URL, or a store that is open.
        clock: Time.
        journal: Hears of what goes wrong.
        planner: Makes the calls; what it makes without a key is new in each life.
        settings: Of the ledger.
        dry_run: Whether nothing is to be written.

    Raises:
        ConfigurationError: The place is neither path nor URL.
    """

    name: ClassVar[str] = "store"

    def __init__(
        self,
        store: str | os.PathLike[str] | Store,
        clock: Clock,
        journal: Journal,
        *,
        planner: Planner | None = None,
        settings: LedgerSettings | None = None,
        dry_run: bool = False,
    ) -> None:
        super().__init__()
        settings = settings or LedgerSettings()
        self._planner = planner or Planner()
        self._is_ours = not isinstance(store, Store)
        opened = store if isinstance(store, Store) else open_store(store, clock=clock)
        self.store = opened.within(self._planner.namespace)
        self.owner: Owner | None = None
        self.ledger: Ledger = RehearsalLedger(clock, settings, self.store)
        if not dry_run:
            self.owner = Owner(self.store, clock, lease_seconds=settings.lease_seconds, journal=journal)
            self.ledger = DurableLedger(clock, settings, self.store, self.owner)

    def refuse_app(self, database: str) -> None:
        """Refuse to keep the ledger in the app's own database file, each waiting for the other's lock.

        Args:
            database: Path or URL of the app's database.

        Raises:
            ConfigurationError: They are one file.
        """
        mine, theirs = parse_location(self.store.location).path, parse_location(database).path
        if mine is not None and theirs is not None and _is_same(mine, theirs):
            raise ConfigurationError(
                "store", self.store.location, "give a file of its own, since this one is the app's database"
            )

    async def _start(self) -> None:
        if self._is_ours:
            await self.store.open()
        await self.store.attach(OWNERS, ACTIONS)
        if self.owner is not None and isinstance(self.ledger, DurableLedger):
            await self.owner.start(self._spawn, also=self.ledger.catch_up)
            self._planner.life = f"{self.owner.id.rpartition('~')[2]}."
            await self.ledger.take_over()

    async def _stop(self) -> None:
        try:
            # Whoever closes his store before us leaves it to our lease to end.
            with suppress(*(() if self._is_ours else (NotStartedError,))):
                await self._give_back()
        finally:
            if self._is_ours:
                await self.store.close()

    async def _give_back(self) -> None:
        if self.owner is not None and self.owner.is_started and isinstance(self.ledger, DurableLedger):
            try:
                await self.ledger.close()
            finally:
                await self.owner.stop()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[Any]:
        return self.spawn(work, name=name)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is yet to be made
        return os.path.realpath(one) == os.path.realpath(other)
