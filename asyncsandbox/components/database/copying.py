"""A consistent copy of a database file that may be in use, leaving no trace beside it.

SQLite's backup under a read transaction does it, but a reader of a database in WAL mode makes ``-wal`` and ``-shm``
files where there are none, and a reader may not mend what a crash left behind. So the way depends on what is there:

==========================================  ====================================================================
rollback journal, or WAL in use             backup under a read transaction: locks are respected
WAL, closed                                 backup that takes no locks, repeated until the file did not change
left by a crash, or ``-shm`` not writable   the files are copied until they did not change, and SQLite mends the copy
==========================================  ====================================================================

The file is never opened but through SQLite, save in the last row: closing any other handle would drop the locks which
this process holds on it.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from ...errors import DatabaseSourceError
from .source import refuse_bad_path, uri

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from .source import Source

_PAGES_PER_STEP = 2_000
_PAUSE_SECONDS = 0.05
_MEND = "restore a backup, or try `sqlite3 FILE .recover`"


class CopyAbandonedError(Exception):
    """Nobody waits for the copy any more."""


def copy_source(source: Source, path: Path, target: Path, *, timeout_seconds: float, abandoned: Event) -> None:
    """Copy the database at ``path`` to ``target`` and check the copy. To be run in a thread.

    Args:
        source: What to call it in messages, and its URI.
        path: The file.
        target: Does not exist yet; may be left half-written by a failure.
        timeout_seconds: How long to wait for other processes' locks.
        abandoned: Set it to end the copying early.

    Raises:
        DatabaseSourceError: The source cannot be copied, with the reason.
        CopyAbandonedError: ``abandoned`` was set.
    """
    refuse_bad_path(source, path)
    try:
        for _ in range(max(1, round(timeout_seconds / _PAUSE_SECONDS))):
            if _copy_once(path, target, timeout_seconds, abandoned):
                _check(source, path, target)
                return
            abandoned.wait(_PAUSE_SECONDS)
    except sqlite3.Error as error:
        raise DatabaseSourceError(source.shown, *explain(error, timeout_seconds)) from error
    raise DatabaseSourceError(
        source.shown, "it changes faster than it can be copied", "try again when its program is less busy"
    )


def explain(error: sqlite3.Error, timeout_seconds: float) -> tuple[str, str]:
    """Return what is wrong with a file that SQLite cannot open, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "") or ""
    match name.split("_")[1:2]:
        case ["NOTADB"]:
            problem, remedy = "this is not an SQLite database", "check the path"
        case ["CORRUPT"]:
            problem, remedy = f"it is damaged ({error})", _MEND
        case ["BUSY"]:
            problem = f"another program kept it locked for {timeout_seconds:g} s"
            remedy = "close that program, or raise DatabaseSettings(busy_timeout_seconds=...)"
        case ["READONLY" | "PERM" | "CANTOPEN"]:
            problem = f"it cannot be opened as needed ({error})"
            remedy = "check the permissions of the file and of its directory; isolation='clone' only reads"
        case _:
            problem, remedy = f"SQLite cannot use it ({error})", "check the file, its disk and the free space"
    return problem, remedy


def _copy_once(path: Path, target: Path, timeout_seconds: float, abandoned: Event) -> bool:
    """Copy; return False where the file changed meanwhile.

    Raises:
        sqlite3.OperationalError: SQLite cannot open it.
    """
    wal, shm, journal = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))
    before = _fingerprint(path, wal, journal)
    if wal.exists() and not shm.exists():
        _copy_files(path, target, {"-wal": wal})
    elif not wal.exists() and _is_wal(path):
        _backup(uri(path, "immutable=1"), target, timeout_seconds, abandoned)
    else:
        try:
            _backup(uri(path, "mode=ro"), target, timeout_seconds, abandoned)
        except sqlite3.OperationalError as error:
            unreadable = error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
            if not unreadable or not (wal.exists() or journal.exists()):
                raise
            _copy_files(path, target, {"-wal": wal, "-journal": journal})
        else:
            return True
    return before == _fingerprint(path, wal, journal)


def _is_wal(path: Path) -> bool:
    # Without locks SQLite refuses WAL: the one way to ask that neither makes files nor opens the file by hand.
    try:
        with closing(sqlite3.connect(uri(path, "mode=ro&nolock=1"), uri=True)) as probe:
            probe.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname == "SQLITE_CANTOPEN"
    return False


def _backup(uri: str, target: Path, timeout_seconds: float, abandoned: Event) -> None:
    def go_on(_status: int, _remaining: int, _total: int) -> None:
        if abandoned.is_set():
            raise CopyAbandonedError

    target.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=timeout_seconds, isolation_level=None)) as origin,
        closing(sqlite3.connect(target)) as copy,
    ):
        # The read transaction makes the copy one moment's; without it backup() waits for a lock for ever.
        origin.execute("BEGIN")
        origin.execute("SELECT 1 FROM sqlite_master").fetchone()
        origin.backup(copy, pages=_PAGES_PER_STEP, progress=go_on)


def _copy_files(path: Path, target: Path, companions: dict[str, Path]) -> None:
    shutil.copyfile(path, target)
    for suffix, companion in companions.items():
        if companion.exists():
            shutil.copyfile(companion, target.with_name(target.name + suffix))


def _check(source: Source, path: Path, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        (page_size,) = copy.execute("PRAGMA page_size").fetchone()
        # Out of WAL, so that the copy is one file, which can be copied and attached like any other.
        copy.execute("PRAGMA journal_mode=DELETE")
    if path.stat().st_size % page_size:
        # SQLite takes what is missing of the last page for zeros.
        verdict = "it ends in the middle of a page"
    if verdict != "ok":
        raise DatabaseSourceError(source.shown, f"it is damaged ({' '.join(verdict.split())})", _MEND)


def _fingerprint(*paths: Path) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
