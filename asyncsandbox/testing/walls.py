"""The edges of a simulated world: what would reach the real one is refused, with what to do instead.

>>> import socket
>>> from asyncsandbox.testing.loop import SimLoop
>>> from asyncsandbox.testing.world import world
>>> loop = SimLoop()
>>> with world(loop):
...     socket.socket()
Traceback (most recent call last):
...
asyncsandbox.testing.errors.EscapedError: the network (socket) is refused inside a simulation: ...
>>> loop.close()
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import SimLoop
    from .patches import Patches
    from .world import World

__all__ = ["refuse_the_world"]

_STUB_IT = "declare the call as an action and give it a stub or a dry_result, or hand the program a stand-in"
_AS_A_JOB = "use asyncio.to_thread or loop.run_in_executor, whose jobs are steps of the simulation"
_AWAIT_IT = "no other thread is there to end the waiting; await an asyncio primitive instead"

# where, name, what it is called in the message, remedy
_WALLS: tuple[tuple[Any, str, str, str], ...] = (
    (socket.socket, "__init__", "the network (socket)", _STUB_IT),
    (socket, "getaddrinfo", "the network (getaddrinfo)", _STUB_IT),
    (subprocess.Popen, "__init__", "a subprocess", _STUB_IT),
    (os, "fork", "a subprocess (os.fork)", _STUB_IT),
    (os, "posix_spawn", "a subprocess (os.posix_spawn)", _STUB_IT),
    (os, "system", "a subprocess (os.system)", _STUB_IT),
    (threading.Thread, "start", "a thread of one's own", _AS_A_JOB),
    (threading.Condition, "wait", "blocking on a thread", _AWAIT_IT),
)
_LOOP_WALLS = {
    "the network": (
        "create_connection create_server create_datagram_endpoint create_unix_connection create_unix_server "
        "connect_accepted_socket start_tls getaddrinfo getnameinfo sock_accept sock_connect sock_recv sock_recv_into "
        "sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile sock_sendto sendfile"
    ),
    "a subprocess": "subprocess_exec subprocess_shell",
    "a file descriptor": "add_reader add_writer remove_reader remove_writer connect_read_pipe connect_write_pipe",
    "a signal handler": "add_signal_handler remove_signal_handler",
}


def refuse_the_world(patches: Patches, world: World) -> None:
    """Put up the walls."""
    for owner, name, what, remedy in _WALLS:
        if hasattr(owner, name):  # pragma: no branch - not every system has every call
            patches.replace(owner, name, _wall(world, what, remedy))


def add_loop_walls(cls: type[SimLoop]) -> type[SimLoop]:
    """Have a loop refuse what only a loop with real input and output can do."""
    for what, names in _LOOP_WALLS.items():
        for name in names.split():
            setattr(cls, name, _loop_wall(f"{what} (loop.{name})"))
    return cls


def _wall(world: World, what: str, remedy: str) -> Callable[..., None]:
    def refuse(*_args: object, **_kwargs: object) -> None:
        world.loop.escape(what, remedy)

    return refuse


def _loop_wall(what: str) -> Callable[..., None]:
    def refuse(self: SimLoop, *_args: object, **_kwargs: object) -> None:
        self.escape(what, _STUB_IT)

    return refuse
