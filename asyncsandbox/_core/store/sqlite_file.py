"""Opening the file of a store: made where there is none, refused and left alone where it is somebody else's.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp(), "store.sqlite")
>>> open_writer(path, shown="store.sqlite", busy_seconds=5).close()
>>> _ = path.with_name("notes.txt").write_text("not a database, but many notes on databases " * 5)
>>> open_writer(path.with_name("notes.txt"), shown="notes.txt", busy_seconds=5)
Traceback (most recent call last):
    ...
asyncsandbox.errors...StoreOpenError: notes.txt: this is no SQLite database; it was left as it is: give the store a ...
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
from contextlib import suppress
from pathlib import Path

from ...errors import StoreBusyError, StoreError, StoreOpenError, StoreUnavailableError
from .schema import creating_marker
from .sqlite_connection import SqliteConnection, translate

__all__ = ["Path", "filesystem_of", "open_reader", "open_writer"]

APPLICATION_ID = 0x53_42_4F_58  # "SBOX", in the header of every store
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING
_MAGIC = b"SQLite format 3\0"
_ID_AT = slice(68, 72)
_HEADER_BYTES = 100
_NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|lustre|beegfs|fuse\.(sshfs|glusterfs|ceph.*|s3fs|rclone))"
)
_MOUNTS = Path("/proc/mounts")
_OWN_FILE = "it was left as it is: give the store a file of its own"
_RETRY_SECONDS = 0.02


def open_writer(path: Path, *, shown: str, busy_seconds: float, create: bool = True) -> sqlite3.Connection:
    """Open the file for writing, durably.

    Args:
        path: Where it is.
        shown: How messages call it.
        busy_seconds: How long to wait for a lock.
        create: Whether to make a store where there is no file or an empty one.

    Raises:
        StoreOpenError: The file is not a store, is damaged, or lies where it cannot be used.
        StoreBusyError: Another process holds it locked.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:  # pragma: no cover - older than the Pythons we support ship
        raise StoreOpenError(shown, f"SQLite {sqlite3.sqlite_version} has no RETURNING", "use 3.35 or newer")
    if not (create or (path.is_file() and path.stat().st_size)):
        raise StoreOpenError(shown, "there is no store", "check the path (a program that uses a store makes it)")
    _prepare_folder(path, shown)
    _refuse_foreign(path, shown)
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        _adopt(connection, shown)
        _write_ahead(connection, busy_seconds)
        _set_up(connection)
    except (sqlite3.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        failure = _explain(error, shown)
        raise failure from error
    return connection


def open_reader(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Open the file of a store that has a writer once more, for reading only."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the file system a path is on; empty where nothing tells.

    Args:
        path: Absolute.
        mounts: What ``/proc/mounts`` says.
    """
    found, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2:  # noqa: PLR2004 - device, place, type
            place = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
            if path.is_relative_to(place) and len(place.parts) >= longest:
                found, longest = fields[2], len(place.parts)
    return found


def _prepare_folder(path: Path, shown: str) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    except OSError as error:
        raise StoreOpenError(shown, f"its folder cannot be used ({error.strerror})", "make the folder first") from error
    if not stat.S_ISREG(mode):
        raise StoreOpenError(shown, "this is not a regular file", "name a file, it need not exist")
    for needed, what in ((path, "it"), (path.parent, "its folder, where SQLite keeps its log")):
        if needed.exists() and not os.access(needed, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreOpenError(shown, f"you may not write {what}", "change its permissions, or take another place")
    with suppress(OSError):
        kind = filesystem_of(path.absolute(), _MOUNTS.read_text("utf-8", "replace"))
        if _NETWORK.fullmatch(kind):
            problem = f"it lies on a network file system ({kind}), where SQLite's locks cannot be relied on"
            raise StoreOpenError(shown, problem, "take a local disk, or PostgreSQL for several machines")


def _refuse_foreign(path: Path, shown: str) -> None:
    # By hand, since SQLite itself writes to a file that it opens: it ends what a crash left unfinished.
    with suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if header and not header.startswith(_MAGIC):
            raise StoreOpenError(shown, "this is no SQLite database", _OWN_FILE)
        if header and int.from_bytes(header[_ID_AT]) != APPLICATION_ID:
            raise StoreOpenError(shown, "this is another program's database", _OWN_FILE)


def _adopt(connection: sqlite3.Connection, shown: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    if found == APPLICATION_ID:
        connection.execute("ROLLBACK")
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:  # which came in a moment ago
        raise StoreOpenError(shown, "this is another program's database", _OWN_FILE)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for bound in creating_marker():
        connection.execute(bound.operation.sql)
    connection.execute("COMMIT")


def _write_ahead(connection: sqlite3.Connection, busy_seconds: float) -> None:
    tries = max(1, round(busy_seconds / _RETRY_SECONDS))
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait for the lock here, and another process may be opening the file as well.
            tries -= 1
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not tries:
                raise
            threading.Event().wait(_RETRY_SECONDS)
        else:
            return


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: otherwise the disk may keep it in its own memory
    connection.execute("PRAGMA foreign_keys = ON")
    SqliteConnection(connection).run(creating_marker())  # a damaged file says so now


def _explain(error: sqlite3.Error | StoreError, shown: str) -> StoreError:
    if isinstance(error, StoreOpenError):
        return error
    said = translate(error, "store.open")
    if isinstance(said, StoreBusyError):
        return said
    kept = "mend that and try again"
    if isinstance(said, StoreUnavailableError) and "file is kept" in said.reason:
        kept = "it was kept as it is: put a backup in its place, or move it away to begin anew"
    return StoreOpenError(shown, f"SQLite cannot open it ({error})", kept)
