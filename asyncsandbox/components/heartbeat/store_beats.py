"""Beats in the store, so that a name may be expected in one process and beat in another.

Each process writes when the names that beat in it last did, and reads when those it expects did elsewhere, as ages by
the store's clock: clocks of processes need not agree.

>>> STORE_BEATS.tables
('sandbox_beats',)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..._core.store import Migration, Operation, Schema
from ..._core.store.patience import Patience
from ...errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..._core.clock import Clock
    from ..._core.journal import Journal
    from ..._core.owners import Owner
    from ..._core.store import Store

__all__ = ["STORE_BEATS", "StoreBeats"]

WRITE: Final = Operation(
    "beats.write",
    "INSERT INTO sandbox_beats AS b (ns, name, owner, beat_at) "
    "VALUES (:ns, :name, :owner, :now - CAST(:age AS DOUBLE PRECISION)) ON CONFLICT (ns, name) DO UPDATE "
    "SET beat_at = excluded.beat_at, owner = excluded.owner WHERE b.beat_at < excluded.beat_at",
)
READ: Final = Operation(
    "beats.read",
    "SELECT name, beat_at, :now - beat_at AS age FROM sandbox_beats WHERE ns = :ns AND owner <> :owner",
)
STORE_BEATS: Final = Schema(
    name="beats",
    tables=("sandbox_beats",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_beats (ns TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, "
            "beat_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (ns, name))"
        ),
    ),
    operations=(WRITE, READ),
    prune=Operation(
        "beats.prune",
        "DELETE FROM sandbox_beats WHERE ns = :ns AND name IN (SELECT name FROM sandbox_beats "
        "WHERE ns = :ns AND beat_at < :before ORDER BY beat_at LIMIT :most) AND beat_at < :before",
    ),
)


class StoreBeats:
    """Exchanges beats with the other processes on a store, now and then.

    It promises one write and one read at most per ``seconds``, and none while no name beats or is expected. A store
    that does not answer is told of once until it answers again; meanwhile nothing is known of other processes.

    Concurrency: `keep` in a task of its own. Cancellation: ends it.

    Args:
        store: Where.
        owner: In whose name; its own beats are no news to it.
        clock: Time here.
        journal: Is told of a store that does not answer.
        seconds: How often.
    """

    def __init__(self, store: Store, owner: Owner, clock: Clock, journal: Journal, seconds: float) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._patience = Patience("heartbeat", journal, clock, seconds=seconds)
        self._seconds = seconds
        self._beaten: dict[str, float] = {}
        self._heard: dict[str, float] = {}  # by name, in the store's time: what was heard is no news

    def note(self, name: str, now: float) -> None:
        """Let others know of a beat, soon."""
        self._beaten[name] = now

    async def keep(self, get_expected: Callable[[], Iterable[str]], hear: Callable[[str, float], object]) -> None:
        """Exchange beats until the heartbeat stops.

        Args:
            get_expected: Gives the names that are expected here.
            hear: Is told the name and the age of a beat elsewhere.
        """
        while True:
            try:
                await self._exchange(get_expected, hear)
            except StoreError as error:
                await self._patience.wait(error)
            else:
                self._patience.has_answered()
                await self._clock.sleep(self._seconds)

    async def flush(self) -> None:
        """Let others know of the beats they have not heard of.

        Raises:
            StoreError: The store does not answer.
        """
        if not self._beaten:
            return
        await self._store.attach(STORE_BEATS)
        beaten, self._beaten = self._beaten, {}
        now = self._clock.monotonic()
        try:
            owner = self._owner.id
            await self._store.write_all(*(WRITE(name=name, owner=owner, age=now - at) for name, at in beaten.items()))
        except StoreError:
            self._beaten = {**beaten, **self._beaten}  # again next time, with its age by then
            raise

    async def _exchange(self, get_expected: Callable[[], Iterable[str]], hear: Callable[[str, float], object]) -> None:
        await self.flush()
        expected = frozenset(get_expected())
        if expected:
            await self._store.attach(STORE_BEATS)
            for row in await self._store.read(READ, owner=self._owner.id):
                name, beat_at = row["name"], row["beat_at"]
                if name in expected and self._heard.get(name) != beat_at:
                    self._heard[name] = beat_at
                    hear(name, row["age"])
