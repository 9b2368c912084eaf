"""Which PostgreSQL database is meant, and whether it is on this machine.

>>> parse_postgres("postgresql+asyncpg://app:secret@db.example/shop?ssl=require").shown
'postgresql+asyncpg://***@db.example/shop'
>>> find_remote("postgresql://app@localhost/shop"), find_remote("postgresql:///shop?host=10.0.0.1,127.0.0.1")
(None, '10.0.0.1')
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ...errors import DatabaseSourceError
from .source import Source, mask

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOW_TO_WRITE = "write postgresql://user:password@host:port/database, with %3F for a '?' in the password"


def parse_postgres(url: str) -> Source:
    """Read the URL of a PostgreSQL database; connects to nothing.

    Raises:
        DatabaseSourceError: It cannot be read, or not in one way only.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # its text may show a password
        raise DatabaseSourceError(mask(url), "the URL cannot be read", _HOW_TO_WRITE) from None
    if parts.netloc.count("@") > 1:
        # Readers of URLs differ in which one ends the password, and so in which host is meant.
        raise DatabaseSourceError(mask(url), "the URL has more than one '@'", "write %40 for an '@' in the password")
    # SQLAlchemy calls `ssl` what PostgreSQL calls `sslmode`.
    named = [("sslmode" if name == "ssl" else name, value) for name, value in query]
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(named), ""))
    return Source(path=None, shown=mask(url), url=dsn)


def find_remote(url: str) -> str | None:
    """Return the first place in a URL, or else in the environment, that may be on another machine, or None."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query)
    hosts = [unquote(host) for host in _hosts(parts.netloc.rpartition("@")[2])]
    for name, value in query:
        if name in {"host", "hostaddr"}:
            hosts += _hosts(value)
    if not hosts:
        service = next((value for name, value in query if name == "service"), os.environ.get("PGSERVICE"))
        if service:
            return f"service {service}"
        hosts = list(_hosts(os.environ.get("PGHOST", "")))
    return next((host for host in hosts if not _is_local(host)), None)


def refuse_remote(source: Source) -> None:
    """Keep a dry run from a database on another machine.

    Raises:
        DatabaseSourceError: It is on another machine, or may be.
    """
    remote = find_remote(source.url or "")
    if remote is not None:
        raise DatabaseSourceError(
            source.shown,
            f"a dry run does not connect to other machines, and this is or may be one: {remote}",
            "use a database on this machine, or allow it by DatabaseSettings(allow_remote=True)",
        )


def _hosts(listed: str) -> Iterator[str]:
    for entry in filter(None, listed.split(",")):
        if entry.startswith("["):
            yield entry[1:].partition("]")[0]
        elif entry.count(":") > 1:
            yield entry
        else:
            yield entry.partition(":")[0]


def _is_local(host: str) -> bool:
    if not host or host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
