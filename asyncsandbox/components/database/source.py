"""Which database is meant: a path or a URL in, a `Source` out, everything else refused in one line.

>>> parse_source("sqlite+aiosqlite:///shop.db").shown
'shop.db'
>>> parse_source("mysql://app:secret@db/shop")
Traceback (most recent call last):
    ...
asyncsandbox.errors...DatabaseSourceError: mysql://***@db/shop: this works with SQLite and PostgreSQL only, ...
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ...errors import DatabaseSourceError

_HOW_TO_WRITE = "give the path of an SQLite file, sqlite+aiosqlite:///path, or postgresql+asyncpg://user@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the rows come from.

    Attributes:
        path: The SQLite file, or None.
        shown: File or URL as the user wrote it, without a password; ``":memory:"`` where there is none.
        url: PostgreSQL's URL, or None.
    """

    path: Path | None
    shown: str
    url: str | None = None

    @property
    def is_memory(self) -> bool:
        """Whether the database begins empty, in memory."""
        return self.path is None and self.url is None


MEMORY = Source(path=None, shown=":memory:")


def parse_source(url_or_path: str | os.PathLike[str]) -> Source:
    """Read a path or URL; touches no file.

    Raises:
        DatabaseSourceError: It is neither a path nor the URL of an SQLite or PostgreSQL database.
    """
    text = os.fspath(url_or_path)
    scheme, is_url, rest = text.partition("://")
    if is_url:
        dialect, _, driver = scheme.partition("+")
        if dialect in {"postgresql", "postgres"} and driver in {"", "asyncpg"}:
            from .postgres_source import parse_postgres

            return parse_postgres(text)
        if dialect != "sqlite":
            problem = "this works with SQLite and PostgreSQL only, the latter by asyncpg"
            raise DatabaseSourceError(mask(text), problem, _HOW_TO_WRITE)
        if "?" in rest:
            raise DatabaseSourceError(
                mask(text), "parameters in the URL are not supported", "leave out `?` and what follows"
            )
        if rest and not rest.startswith("/"):
            raise DatabaseSourceError(mask(text), "the URL names a host", "write three slashes before the path")
        text = rest[1:] or MEMORY.shown
    if text == MEMORY.shown:
        return MEMORY
    if not text.strip() or "\0" in text:
        raise DatabaseSourceError(repr(text), "this is no path", _HOW_TO_WRITE)
    return Source(path=Path(os.path.abspath(text)), shown=text)  # noqa: PTH100 - resolve() would follow links


def refuse_bad_path(source: Source, path: Path) -> None:
    """Say early what SQLite would only call "unable to open database file".

    Raises:
        DatabaseSourceError: There is no such file, or it may not be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DatabaseSourceError(
            source.shown, "there is no such file", "check the path (an empty file counts as an empty database)"
        ) from None
    except OSError as error:
        problem = f"the path cannot be followed ({error.strerror})"
        raise DatabaseSourceError(source.shown, problem, "check the path and its permissions") from None
    if stat.S_ISDIR(mode):
        raise DatabaseSourceError(source.shown, "this is a directory", "name the database file in it")
    if not stat.S_ISREG(mode):
        raise DatabaseSourceError(source.shown, "this is not a regular file", _HOW_TO_WRITE)
    if not os.access(path, os.R_OK, effective_ids=True):
        raise DatabaseSourceError(source.shown, "you may not read it", "check its permissions")


def refuse_read_only(source: Source, path: Path) -> None:
    """Say that a file, or a journal beside it, could not be written.

    Raises:
        DatabaseSourceError: The file or its directory is read-only.
    """
    for needed, what in ((path, "to it"), (path.parent, "in its directory, where SQLite keeps its journal")):
        if not os.access(needed, os.W_OK, effective_ids=True):
            raise DatabaseSourceError(
                source.shown, f"you may not write {what}", "use isolation='clone', which only reads"
            )


def uri(path: Path, mode: str) -> str:
    """Return SQLite's URI of a file, with the parameters ``mode``."""
    return f"{path.as_uri()}?{mode}"


def mask(url: str) -> str:
    """Hide user and password, and parameters, which may hold one too."""
    scheme, _, rest = url.partition("://")
    place, _, parameters = rest.partition("?")
    if "@" in parameters and "@" not in place:  # or that is a password with a question mark in it
        return f"{scheme}://***"
    user, at, place = place.rpartition("@")
    return f"{scheme}://{'***' if user else ''}{at}{place}"
