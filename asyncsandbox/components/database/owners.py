"""Which process made a private copy, and whether that process is proven dead.

The name of a copy (a folder, a database, a schema) says it: machine and boot, process id, and when that process began.
A copy is an orphan only where the process ran on this machine since its last boot and is there no more, or its id
belongs to a younger process. Of a copy made elsewhere, before the last boot or in another container nothing can be
proven: it is left alone.

>>> is_orphan(owned_prefix() + "copy")
False
>>> is_orphan("asyncsandbox_of_mine"), is_orphan("asyncsandbox_0123456789ab_1_1_made_elsewhere")
(False, False)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "asyncsandbox_"

_NAME = re.compile(PREFIX + r"([0-9a-f]{12})_([1-9]\d{0,9})_(\d+)_\w+")
_PROC = Path("/proc")
_DEAD = frozenset("ZX")
"""States of a process that has ended, but was not waited for by its parent."""


def owned_prefix() -> str:
    """Return how the names of this process' copies begin; short and plain enough for PostgreSQL."""
    began = _look_up(os.getpid())
    return f"{PREFIX}{_place()}_{os.getpid()}_{began[1] if began else 0}_"


def is_orphan(name: str) -> bool:
    """Tell whether the process that made a copy of this name is proven dead."""
    parts = _NAME.fullmatch(name)
    if parts is None or parts[1] != _place():
        return False
    pid, began = int(parts[2]), int(parts[3])
    try:
        os.kill(pid, 0)  # asks only
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    found = _look_up(pid)
    return found is not None and (found[0] in _DEAD or (began != 0 and found[1] != began))


def delete_orphans(directories: Iterable[Path]) -> None:
    """Delete the folders in these directories that dead processes of this account left."""
    for directory in directories:
        for folder in directory.glob(f"{PREFIX}*"):
            if is_orphan(folder.name) and not folder.is_symlink() and _is_mine(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.geteuid()
    except FileNotFoundError:  # another process was faster
        return False


def _place() -> str:
    """Return what is the same for two processes if and only if they can see whether the other one lives."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii")
        parts = (boot, str((_PROC / "self/ns/pid").readlink()))
    except OSError:  # no Linux
        parts = (socket.gethostname(), str(uuid.getnode()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _look_up(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and when it began, in ticks since the boot; None where that cannot be known."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])
