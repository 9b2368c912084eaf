"""What a program sees while it is simulated: the loop's time, chance from a seed, and no real world.

It governs, for the thread that entered it: `time.time`, `monotonic` (and their ``_ns``), `time.sleep`, `uuid`,
`os.urandom`, `secrets` and `random`; aiosqlite's and anyio's threads become steps of the loop. Sockets, processes and
threads are refused with an `EscapedError`. It does not govern `datetime.now`, `time.perf_counter`, the names of
temporary files, and names that were imported out of their module before (``from time import time``). Everything is
put back at the end.

>>> import asyncio, time
>>> from asyncsandbox.testing.loop import SimLoop
>>> async def main() -> float:
...     before = time.time()
...     await asyncio.sleep(60)
...     return time.time() - before
>>> loop = SimLoop()
>>> with world(loop):
...     loop.run(main())
60.0
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread
from anyio._backends._asyncio import AsyncIOBackend  # anyio's only door to its worker threads

from .._core import context as core_context
from .._core.runtime import Runtime
from ..components.worker.backends import Backends
from .errors import NestedWorldError
from .incarnation import current_incarnation
from .lost_jobs import AcknowledgedJobs, watched_backend
from .patches import Patches
from .sqlite import replace_sqlite
from .walls import refuse_the_world

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._core.context import Host
    from .loop import SimLoop

__all__ = ["Hosts", "World", "is_governed", "world"]

EPOCH_SECONDS = 1_735_689_600  # the time of day at which every simulation begins: 2025-01-01 00:00 UTC
_NODE = 0x5A9DB0C5AFE0  # the network address `uuid1` would otherwise read from the machine

_turn = threading.Lock()


class World:
    """Replaces, for a block, what loops see of the world, one loop after the other; between them it is the real one.

    A sweep enters one world and runs hundreds of loops in it: replacing everything takes longer than a short run does.

    Attributes:
        loop: Whose turn it is, or was last.

    Raises:
        NestedWorldError: Another simulation governs this process.

    Concurrency: for the thread that entered it. Cancellation: nothing here waits.
    """

    loop: SimLoop

    def __init__(self) -> None:
        self._patches = Patches()
        self._hosts = Hosts()
        self._source = random.Random(0)  # noqa: S311 - a simulation keeps no secrets
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if not _turn.acquire(blocking=False):
            raise NestedWorldError
        with ExitStack() as stack:
            stack.callback(_turn.release)
            patches = stack.enter_context(self._patches)
            _seed_temporary_names()
            _govern_time(patches, self)
            stack.enter_context(_governed_chance(patches, self._source))
            _replace_anyio_threads(patches, self)
            replace_sqlite(patches, self)
            refuse_the_world(patches, self)
            for name in ("first", "store"):
                patches.add(Backends, name, watched_backend(self._find_jobs, name))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    @contextmanager
    def turn(self, loop: SimLoop, *, seed: int = 0) -> Generator[None]:
        """Govern time and chance, and refuse the real world, for a block.

        Args:
            loop: Whose time it is.
            seed: Where every random number comes from.
        """
        self.loop = loop
        self._source.seed(seed)
        random.seed(self._source.getrandbits(64))
        setattr(uuid, "_last_timestamp", None)  # noqa: B010 - in no stub
        self._hosts = Hosts()
        core_context._hosts[loop] = self._hosts  # noqa: SLF001 - it has no other reason to know of power cuts
        self._patches.thread = threading.get_ident()
        try:
            yield
        finally:
            self._patches.thread = None
            del core_context._hosts[loop]  # noqa: SLF001 - as above

    def _find_jobs(self) -> AcknowledgedJobs | None:
        if self._patches.thread != threading.get_ident():
            return None
        self._hosts.jobs = self._hosts.jobs or AcknowledgedJobs()
        return self._hosts.jobs


def is_governed() -> bool:
    """Return whether a simulation governs this process."""
    return _turn.locked()


@contextmanager
def world(loop: SimLoop, *, seed: int = 0) -> Generator[None]:
    """Govern time and chance, and refuse the real world, for a block: a `World` for one loop.

    Args:
        loop: Whose time it is.
        seed: Where every random number comes from.

    Raises:
        NestedWorldError: Another simulation governs this process.
    """
    with World() as governed, governed.turn(loop, seed=seed):
        yield


def _govern_time(patches: Patches, world: World) -> None:
    def monotonic() -> float:
        return world.loop.time()

    def wall() -> float:
        return EPOCH_SECONDS + monotonic() + world.loop.wall_offset

    def sleep(seconds: float) -> None:
        loop = world.loop
        if loop.job is None:
            loop.stall(seconds)
        else:
            loop.job.slept += seconds

    patches.replace(time, "time", wall)
    patches.replace(time, "time_ns", lambda: round(wall() * 1e9))
    patches.replace(time, "monotonic", monotonic)
    patches.replace(time, "monotonic_ns", lambda: round(monotonic() * 1e9))
    patches.replace(time, "sleep", sleep)


def _seed_temporary_names() -> None:
    # Temporary files are real: were their names governed, processes that simulate at once would all draw the same ones,
    # and this one would go on drawing from the seed when the simulation is over.
    _ = tempfile._get_candidate_names().rng  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def _governed_chance(patches: Patches, source: random.Random) -> Generator[None]:
    seed_really = random.Random.seed

    def seed_from_world(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed_really(self, source.getrandbits(64) if a is None else a, version)

    before = random.getstate()
    patches.replace(os, "urandom", source.randbytes)
    patches.replace(random, "_urandom", source.randbytes)  # `SystemRandom` and `secrets` draw here
    patches.replace(random.Random, "seed", seed_from_world)  # noqa: S311 - as above
    for name, value in {"_generate_time_safe": None, "_node": _NODE, "_last_timestamp": None}.items():
        patches.set(uuid, name, value)
    try:
        yield
    finally:
        random.setstate(before)


def _replace_anyio_threads(patches: Patches, world: World) -> None:
    async def run_as_a_step(
        cls: type[AsyncIOBackend],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool = False,  # noqa: FBT001, FBT002 - anyio's signature
        limiter: Any = None,
    ) -> Any:
        await cls.checkpoint()
        async with limiter or cls.current_default_thread_limiter():
            with anyio.CancelScope(shield=not abandon_on_cancel):
                return await world.loop.run_in_executor(None, partial(copy_context().run, func, *args))

    def refuse(*_args: object, **_kwargs: object) -> None:
        world.loop.escape(
            "anyio.from_thread", "a job is one step and cannot wait for the loop: return, and await what it needs"
        )

    patches.set(AsyncIOBackend, "run_sync_in_worker_thread", classmethod(run_as_a_step))
    patches.replace(anyio.from_thread, "run", refuse)
    patches.replace(anyio.from_thread, "run_sync", refuse)
    patches.replace(anyio.from_thread, "check_cancelled", lambda: None)


class Hosts(list["Host"]):
    """The sandboxes running on a loop; the power cut of a life takes its own out and silences them.

    Attributes:
        jobs: What workers on that loop acknowledged; None where there were none.
    """

    jobs: AcknowledgedJobs | None = None

    def append(self, host: Host) -> None:
        """Add one that has begun to run."""
        super().append(host)
        incarnation = current_incarnation()
        if incarnation is not None:
            incarnation.on_cut(partial(_forget, host))


def _forget(host: Host) -> None:
    # It cannot stop any more, and what its dead tasks do when they are let go is no news to anybody.
    core_context.unregister_host(host)
    if isinstance(host, Runtime):  # pragma: no branch - no other kind runs in the package
        host.journal._listeners.clear()  # noqa: SLF001 - a journal has no other reason to know of power cuts
