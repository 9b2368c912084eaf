"""Which process somebody is, written down so that another process can tell later whether it has died.

A process is known by its place (boot, PID namespace, time namespace), its number there and when it began, as the kernel
counts. It is *proven dead* only where that very place can be looked at from here and no such process is there any more.
Numbers are used again, so a process that began at another moment is another one. In another container, on another
machine, after a reboot, or on a system other than Linux nothing is ever proven.

>>> me = this_process()
>>> parse_process(str(me)) == me, is_proven_dead(me)
(True, False)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_NAMESPACES: Final = ("pid", "time")
_START, _STATE = 22, 3  # which fields of /proc/PID/stat, counted from 1
_DEAD_STATES: Final = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, for others to recognise.

    Attributes:
        place: Where its number means anything; empty where that cannot be said.
        pid: Its number.
        ticks: When it began, in the kernel's ticks since boot; 0 where that cannot be said.
    """

    place: str
    pid: int
    ticks: int

    def __str__(self) -> str:
        return f"{self.place}/{self.pid}/{self.ticks}"


def parse_process(text: str) -> Process:
    """Return the process that was written as text; one that nothing is ever known of where the text is none."""
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdecimal() and part.isascii() for part in parts[1:]):  # noqa: PLR2004 - place, number, beginning
        return Process("", 0, 0)
    return Process(parts[0], int(parts[1]), int(parts[2]))


def this_process(proc: Path = PROC) -> Process:
    """Return the process this runs in; after a fork it is another one.

    Args:
        proc: Where the kernel shows processes.
    """
    pid = os.getpid()
    place, found = _place(proc), _look_at(proc, pid)
    if not place or found is None:
        return Process("", pid, 0)
    return Process(place, pid, found[1])


def is_proven_dead(process: Process, proc: Path = PROC) -> bool:
    """Tell whether a process has certainly ended, so that it will never do anything again.

    Args:
        process: Which.
        proc: Where the kernel shows processes.
    """
    if not process.place or process.pid <= 0 or not process.ticks or process.place != _place(proc):
        return False
    found = _look_at(proc, process.pid)
    if found is None:
        return not _may_exist(process.pid)
    state, ticks = found
    return ticks != process.ticks or state in _DEAD_STATES


def _place(proc: Path) -> str:
    """Return where process numbers seen here mean something; empty where that cannot be said."""
    try:
        if (proc / "self").readlink() != Path(str(os.getpid())):  # what is mounted here belongs to another namespace
            return ""
        boot = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        spaces = [str((proc / "self/ns" / name).stat().st_ino) for name in _NAMESPACES if _has(proc, name)]
    except (OSError, ValueError):
        return ""
    return ":".join((boot, *spaces)) if boot and "/" not in boot else ""


def _has(proc: Path, namespace: str) -> bool:
    return namespace == "pid" or (proc / "self/ns" / namespace).exists()  # kernels before 5.6 have no time namespaces


def _look_at(proc: Path, pid: int) -> tuple[str, int] | None:
    """Return state and beginning of a process; None where it is not shown."""
    try:
        text = (proc / str(pid) / "stat").read_text("ascii", "replace")
        fields = text[text.rindex(")") + 1 :].split()  # its name may hold blanks and brackets
        return fields[_STATE - 3], int(fields[_START - 3])
    except (OSError, ValueError, IndexError):
        return None


def _may_exist(pid: int) -> bool:
    """Tell whether the kernel knows a process that it may not want to show."""
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
