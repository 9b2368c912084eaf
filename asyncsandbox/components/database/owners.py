"""Which process made a private copy, and whether that process is proven dead.

The name of a copy (a folder, a database, a schema) says it: a digest of the place, process id, and when that process
began. A copy is an orphan only where the process is proven dead, see `_core/process.py`. Of a copy made elsewhere,
before the last boot or in another container nothing can be proven: it is left alone.

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
from typing import TYPE_CHECKING

from ..._core.process import Process, is_proven_dead, this_process

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PREFIX = "asyncsandbox_"

_NAME = re.compile(PREFIX + r"([0-9a-f]{12})_([1-9]\d{0,9})_(\d+)_\w+", re.ASCII)


def owned_prefix() -> str:
    """Return how the names of this process' copies begin; short and plain enough for PostgreSQL."""
    me = this_process()
    return f"{PREFIX}{_digest(me.place)}_{me.pid}_{me.ticks}_"


def is_orphan(name: str) -> bool:
    """Tell whether the process that made a copy of this name is proven dead."""
    parts, here = _NAME.fullmatch(name), this_process().place
    if parts is None or parts[1] != _digest(here):
        return False
    return is_proven_dead(Process(here, int(parts[2]), int(parts[3])))


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


def _digest(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]
