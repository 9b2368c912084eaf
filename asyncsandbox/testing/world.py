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
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
from anyio._backends._asyncio import AsyncIOBackend  # anyio's only door to its worker threads

from .._core import context as core_context
from .._core.runtime import Runtime
from .errors import NestedWorldError
from .incarnation import current_incarnation
from .patches import Patches
from .sqlite import replace_sqlite
from .walls import refuse_the_world

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._core.context import Host
    from .loop import SimLoop

__all__ = ["world"]

EPOCH_SECONDS = 1_735_689_600  # the time of day at which every simulation begins: 2025-01-01 00:00 UTC
_NODE = 0x5A9DB0C5AFE0  # the network address `uuid1` would otherwise read from the machine

_turn = threading.Lock()


@contextmanager
def world(loop: SimLoop, *, seed: int = 0) -> Generator[None]:
    """Govern time and chance, and refuse the real world, for a block.

    Args:
        loop: Whose time it is.
        seed: Where every random number comes from.

    Raises:
        NestedWorldError: Another simulation governs this process.
    """
    if not _turn.acquire(blocking=False):
        raise NestedWorldError
    try:
        with ExitStack() as stack:
            patches = stack.enter_context(Patches(threading.get_ident()))
            _seed_temporary_names()
            _govern_time(patches, loop)
            stack.enter_context(_governed_chance(patches, seed))
            _replace_anyio_threads(patches, loop)
            replace_sqlite(patches, loop)
            refuse_the_world(patches, loop)
            stack.enter_context(_forget_hosts(loop))
            yield
    finally:
        _turn.release()


def _govern_time(patches: Patches, loop: SimLoop) -> None:
    def wall() -> float:
        return EPOCH_SECONDS + loop.time() + loop.wall_offset

    def sleep(seconds: float) -> None:
        if loop.job is None:
            loop.stall(seconds)
        else:
            loop.job.slept += seconds

    patches.replace(time, "time", wall)
    patches.replace(time, "time_ns", lambda: round(wall() * 1e9))
    patches.replace(time, "monotonic", loop.time)
    patches.replace(time, "monotonic_ns", lambda: round(loop.time() * 1e9))
    patches.replace(time, "sleep", sleep)


def _seed_temporary_names() -> None:
    # Temporary files are real: were their names governed, processes that simulate at once would all draw the same ones,
    # and this one would go on drawing from the seed when the simulation is over.
    _ = tempfile._get_candidate_names().rng  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def _governed_chance(patches: Patches, seed: int) -> Generator[None]:
    source = random.Random(seed)  # noqa: S311 - a simulation keeps no secrets
    seed_really = random.Random.seed

    def seed_from_world(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed_really(self, source.getrandbits(64) if a is None else a, version)

    before = random.getstate()
    random.seed(source.getrandbits(64))
    patches.replace(os, "urandom", source.randbytes)
    patches.replace(random, "_urandom", source.randbytes)  # `SystemRandom` and `secrets` draw here
    patches.replace(random.Random, "seed", seed_from_world)  # noqa: S311 - as above
    for name, value in {"_generate_time_safe": None, "_node": _NODE, "_last_timestamp": None}.items():
        patches.set(uuid, name, value)
    try:
        yield
    finally:
        random.setstate(before)


def _replace_anyio_threads(patches: Patches, loop: SimLoop) -> None:
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
                return await loop.run_in_executor(None, partial(copy_context().run, func, *args))

    def refuse(*_args: object, **_kwargs: object) -> None:
        loop.escape(
            "anyio.from_thread", "a job is one step and cannot wait for the loop: return, and await what it needs"
        )

    patches.set(AsyncIOBackend, "run_sync_in_worker_thread", classmethod(run_as_a_step))
    patches.replace(anyio.from_thread, "run", refuse)
    patches.replace(anyio.from_thread, "run_sync", refuse)
    patches.replace(anyio.from_thread, "check_cancelled", lambda: None)


class _Hosts(list["Host"]):
    """The sandboxes running on a loop; the power cut of a life takes its own out and silences them."""

    def append(self, host: Host) -> None:
        super().append(host)
        incarnation = current_incarnation()
        if incarnation is not None:
            incarnation.on_cut(partial(_forget, host))


def _forget(host: Host) -> None:
    # It cannot stop any more, and what its dead tasks do when they are let go is no news to anybody.
    core_context.unregister_host(host)
    if isinstance(host, Runtime):  # pragma: no branch - no other kind runs in the package
        host.journal._listeners.clear()  # noqa: SLF001 - a journal has no other reason to know of power cuts


@contextmanager
def _forget_hosts(loop: SimLoop) -> Generator[None]:
    core_context._hosts[loop] = _Hosts()  # noqa: SLF001 - the registry has no other reason to know of power cuts
    try:
        yield
    finally:
        del core_context._hosts[loop]  # noqa: SLF001
