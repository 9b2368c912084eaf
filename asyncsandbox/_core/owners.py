"""Whose a row is while somebody works on it, and whether that somebody is still there.

Each running sandbox is an *owner*: a name that tells its process, and a lease in the store that it keeps renewing.
Others may take over what an owner has begun once it is

* *dead*: its process has certainly ended (`process.is_proven_dead`), or a simulated power cut has ended it;
* *ended*: it ran in this very process, which goes on without it;
* *expired*: its lease is over by the store's clock. It may be on another machine, suspended, or cut off, and come back.

Whoever comes back must not go on as if nothing had happened. So what an owner starts it starts by a statement that also
asks for `LEASED`: in one step with the claim itself, whatever time has passed since it looked.

>>> async def main() -> list[str]:
...     async with open_store(":memory:") as store:
...         await store.attach(OWNERS)
...         owner, tasks = Owner(store, SystemClock(), lease_seconds=30.0), []
...         await owner.start(lambda work, name: tasks.append(asyncio.create_task(work)) or tasks[0])
...         mine, elsewhere = owner.judge(owner.id, leased=True), owner.judge("there/1/2~other", leased=False)
...         tasks[0].cancel()
...         await owner.stop()
...         return [mine.value, elsewhere.value]
>>> asyncio.run(main())
['alive', 'expired']
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from ..errors import NotStartedError, SandboxError
from .clock import SystemClock
from .journal import Level
from .process import Process, is_proven_dead, parse_process, this_process
from .store import Migration, Operation, Schema, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .clock import Clock
    from .journal import Journal
    from .store import Store

__all__ = ["LEASED", "OWNERS", "Owner", "OwnerState", "SystemClock", "asyncio", "open_store"]

RENEW: Final = Operation(
    "owners.renew",
    "INSERT INTO sandbox_owners (ns, id, lease_until) VALUES (:ns, :owner, :now + :seconds) "
    "ON CONFLICT (ns, id) DO UPDATE SET lease_until = excluded.lease_until",
)
RELEASE: Final = Operation("owners.release", "DELETE FROM sandbox_owners WHERE ns = :ns AND id = :owner")
_PRUNE: Final = Operation(
    "owners.prune",
    "DELETE FROM sandbox_owners WHERE ns = :ns AND id IN (SELECT id FROM sandbox_owners "
    "WHERE ns = :ns AND lease_until < :before ORDER BY lease_until LIMIT :most)",
)
OWNERS: Final = Schema(
    name="owners",
    tables=("sandbox_owners",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_owners (ns TEXT NOT NULL, id TEXT NOT NULL, lease_until DOUBLE PRECISION NOT NULL, "
            "PRIMARY KEY (ns, id))"
        ),
    ),
    operations=(RENEW, RELEASE),
    prune=_PRUNE,
)

LEASED: Final = (
    "EXISTS (SELECT 1 FROM sandbox_owners AS leases "
    "WHERE leases.ns = :ns AND leases.id = :owner AND leases.lease_until > :now)"
)
"""What a statement adds to its ``WHERE`` to start something only while the lease of ``:owner`` lasts."""

_PER_LEASE: Final = 3  # renewals, so that two may fail

# Of this process: owner and the task that renews its lease. Process-wide, as the process is: two sandboxes on one store
# must know each other alive, and what a sandbox of this process has left behind no kernel can tell.
_here: WeakValueDictionary[str, asyncio.Task[Any]] = WeakValueDictionary()


class OwnerState(StrEnum):
    """What is known of an owner."""

    ALIVE = "alive"
    EXPIRED = "expired"
    ENDED = "ended"
    DEAD = "dead"


class Owner:
    """A running sandbox as the owner of what it has begun.

    It promises that a lease is renewed three times before it would be over, and that nobody takes an owner for dead or
    ended who is not. It does not promise that an expired one does nothing any more.

    Concurrency: for the loop it was started on. Cancellation: nothing is left half-way; leases end by themselves.

    Args:
        store: Where its lease is.
        clock: Time and the owner's name.
        lease_seconds: How long a lease lasts (> 0).
        journal: Hears of leases that could not be renewed.
    """

    def __init__(self, store: Store, clock: Clock, *, lease_seconds: float, journal: Journal | None = None) -> None:
        self._store = store
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._journal = journal
        self._process = Process("", 0, 0)
        self._id: str | None = None

    @property
    def id(self) -> str:
        """Its name: its process, and a number of its own.

        Raises:
            NotStartedError: It has not started, or has stopped.
        """
        if self._id is None:
            raise NotStartedError("the store's owner", "starting something")
        return self._id

    @property
    def is_started(self) -> bool:
        """Whether it has a name, and as a rule a lease."""
        return self._id is not None

    async def start(
        self,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[Any]],
        *,
        also: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Take a lease, under a new name, and keep it.

        Args:
            spawn: Starts the task that renews the lease; whoever gives it ends that task before `stop`.
            also: What else is done whenever the lease was renewed.

        Raises:
            StoreError: There is no lease to be had.
        """
        self._process = this_process()
        name = f"{self._process}~{self._clock.random_hex(8)}"
        await self._store.write(RENEW, owner=name, seconds=self._lease_seconds)
        self._id = name
        _here[name] = spawn(self._keep(also), "lease")

    async def renew(self) -> None:
        """Make the lease last for its full length from now.

        Raises:
            StoreError: It is as long as it was.
        """
        await self._store.write(RENEW, owner=self.id, seconds=self._lease_seconds)

    async def stop(self) -> None:
        """Give the lease back; does nothing where there is none.

        Raises:
            StoreError: It stays until it is over.
        """
        name, self._id = self._id, None
        if name is not None:
            _here.pop(name, None)
            await self._store.write(RELEASE, owner=name)

    def judge(self, owner: str, *, leased: bool) -> OwnerState:
        """Tell what is known of an owner.

        Args:
            owner: Its name.
            leased: Whether it has a lease that is not over, by the store's clock.
        """
        task = _here.get(owner)
        if task is not None:
            return _judge_task(task, leased=leased)
        process = parse_process(owner.partition("~")[0])
        if process.place and process == self._process:
            return OwnerState.ENDED
        if is_proven_dead(process):
            return OwnerState.DEAD
        return OwnerState.ALIVE if leased else OwnerState.EXPIRED

    async def _keep(self, also: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        while True:
            await self._clock.sleep(self._lease_seconds / _PER_LEASE)
            try:
                await self.renew()
                if also is not None:
                    await also()
            except SandboxError as error:
                if self._journal is not None:
                    self._journal.publish(
                        "store.lease_not_renewed", component="store", level=Level.WARNING, error=str(error)
                    )


def _judge_task(task: asyncio.Task[Any], *, leased: bool) -> OwnerState:
    if getattr(task, "is_dead", False):  # a simulated power cut has ended the life it belongs to
        return OwnerState.DEAD
    if task.done() or task.get_loop().is_closed():
        return OwnerState.ENDED
    return OwnerState.ALIVE if leased else OwnerState.EXPIRED
