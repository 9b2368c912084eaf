"""Where a store is: a path or a URL in, a `Location` out.

>>> parse_location("sqlite:///state/store.sqlite").path.as_posix()
'state/store.sqlite'
>>> parse_location("postgres+asyncpg://app:secret@db.example/shop?application_name=shop").shown
'postgresql://***@db.example/shop'
>>> parse_location("mysql://db/shop")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: store='mysql://db/shop' is not allowed: give the path of an SQLite file, ...
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError

_HOW = "give the path of an SQLite file, sqlite:///path, postgresql://user@host/database, or :memory:"
_MEMORY = ":memory:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a store is.

    Attributes:
        shown: Path or URL, without user and password, and without parameters, which may hold one too.
        path: The SQLite file, or None.
        url: PostgreSQL's URL, or None.
    """

    shown: str
    path: Path | None = None
    url: str | None = None


def parse_location(given: str | os.PathLike[str]) -> Location:
    """Read a path or URL; touches no file.

    Raises:
        ConfigurationError: It is neither.
    """
    text = os.fspath(given)
    scheme, is_url, rest = text.partition("://")
    if is_url:
        dialect = scheme.partition("+")[0]
        if dialect in {"postgresql", "postgres"}:
            place = rest.partition("?")[0]
            user, at, host = place.rpartition("@")
            return Location(shown=f"postgresql://{'***' if user else ''}{at}{host}", url=f"postgresql://{rest}")
        if dialect != "sqlite" or "?" in rest or (rest and not rest.startswith("/")):
            place = rest.partition("?")[0].rpartition("@")[2]  # the rest may be secret
            raise ConfigurationError("store", f"{scheme}://{place}", _HOW)
        text = rest[1:] or _MEMORY
    if text == _MEMORY:
        return Location(shown=_MEMORY)
    if not text.strip() or "\0" in text:
        raise ConfigurationError("store", text, _HOW)
    return Location(shown=text, path=Path(text))
