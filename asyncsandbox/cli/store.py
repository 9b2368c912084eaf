"""``asyncsandbox store info|migrate|prune URL``: what a store holds, for those who run it.

A store that is missing is never made but by ``migrate``, and what is no store is left as it is.

>>> parse_age("30d"), parse_age("1.5h")
(2592000.0, 5400.0)
"""

from __future__ import annotations

import asyncio
import json as _json
import os
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, TypeVar

from cyclopts import App

from .._core.store import StoreSettings, open_store
from ..errors import SandboxError
from ..rehearsal.view import outside
from .trouble import ExitCode, Trouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import Console

    from .._core.store import Schema, Store, StoreInfo

__all__ = ["make_store_app", "parse_age"]

T = TypeVar("T")

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE: Final = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_SECONDS)}])")
_WIDTH: Final = 100


def get_schemas() -> tuple[Schema, ...]:
    """Return the schemas of all components that keep something in the store."""
    from .._core.action_rows import ACTIONS
    from .._core.owners import OWNERS
    from ..components.alerts.archive import ARCHIVE
    from ..components.governor.lease_table import LIMITS
    from ..components.heartbeat.store_beats import STORE_BEATS
    from ..components.idempotency.in_session import IN_SESSION
    from ..components.idempotency.store_records import IDEMPOTENCY
    from ..components.worker.job_table import JOBS

    return (OWNERS, ACTIONS, STORE_BEATS, LIMITS, IDEMPOTENCY, IN_SESSION, JOBS, ARCHIVE)


def make_store_app() -> App:
    """Return the parser of the commands."""
    app = App(name="store", help="Look after a store: see what it holds, migrate it, delete what is old.")
    for command in (info, migrate, prune):
        app.command(command)
    return app


def info(url: str, /, *, json: bool = False) -> int:
    """Show what a store holds: engine, size, and each schema with its version and rows. Changes nothing.

    Args:
        url: Path of an SQLite file, sqlite:///path or postgresql://user@host/database.
        json: Print it as JSON.
    """
    found = _use(url, lambda store: store.info(), create=False)
    if json:
        _print_json(asdict(found))
    else:
        _show(found)
    return ExitCode.OK


def migrate(url: str, /, *, json: bool = False) -> int:
    """Bring the tables of every component to the newest version, all of them or none; make the store if need be.

    Args:
        url: Path of an SQLite file, sqlite:///path or postgresql://user@host/database.
        json: Print what was changed as JSON.
    """
    changes = _use(url, lambda store: store.migrate(*get_schemas()), create=True)
    if json:
        _print_json([asdict(change) for change in changes])
        return ExitCode.OK
    for change in changes:
        _say(f"{change.name}: " + (f"from version {change.before} to {change.after}" if change.before else "made"))
    if not changes:
        _say("every schema is in its newest version; nothing was changed")
    return ExitCode.OK


def prune(url: str, /, *, older_than: str, namespace: str = "default", json: bool = False) -> int:
    """Delete old rows of every component; each keeps what is still in use.

    Args:
        url: Path of an SQLite file, sqlite:///path or postgresql://user@host/database.
        older_than: How old rows are that go: a number with a unit, such as 90s, 15m, 12h, 30d or 8w.
        namespace: Whose rows: the namespace of the sandbox.
        json: Print how many rows went, by schema, as JSON.
    """
    age = parse_age(older_than)

    async def work(store: Store) -> dict[str, int]:
        there = {schema.name for schema in (await store.info()).schemas}
        await store.attach(*(schema for schema in get_schemas() if schema.name in there))
        return await store.prune(older_than_seconds=age)

    gone = _use(url, work, create=False, namespace=namespace)
    if json:
        _print_json(gone)
        return ExitCode.OK
    for name, rows in gone.items():
        _say(f"{name}: {_count(rows)} deleted")
    if not gone:
        _say("no schema in this store has rows that may go; nothing was changed")
    return ExitCode.OK


def parse_age(text: str) -> float:
    """Return a number with a unit in seconds.

    Raises:
        Trouble: It is something else.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        problem = f"--older-than {text}: give a number with a unit, such as 90s, 15m, 12h, 30d or 8w"
        raise Trouble(problem, ExitCode.USAGE)
    return float(match[1]) * _SECONDS[match[2]]


def _use(url: str, work: Callable[[Store], Awaitable[T]], *, create: bool, namespace: str = "default") -> T:
    async def use() -> T:
        settings = StoreSettings(create=create, auto_migrate=False)
        store = open_store(url, namespace=namespace, settings=settings)
        if not store.is_durable:
            raise Trouble(f"{url}: a store in memory ends with its program; give the path or URL of one that stays")
        async with store:
            return await work(store)

    try:
        return asyncio.run(use())
    except SandboxError as error:
        raise Trouble(str(error)) from None


def _show(found: StoreInfo) -> None:
    console, on_terminal = _console()
    engine = {"sqlite": "SQLite", "postgres": "PostgreSQL"}[found.engine]
    for name, value in (
        ("store", found.location),
        ("engine", f"{engine} {found.version}"),
        ("size", _size(found.size_bytes)),
    ):
        console.print(f"{name:7}{outside(value)}", soft_wrap=True, markup=False, highlight=False)
    if not found.schemas:
        console.print("It holds nothing yet.")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if on_terminal else None, pad_edge=on_terminal, header_style="bold")
    for title in ("schema", "version", "table", "rows"):
        table.add_column(title, justify="right" if title == "rows" else "left", no_wrap=True)
    known = {schema.name: schema.version for schema in get_schemas()}
    for schema in found.schemas:
        first = [outside(schema.name), _version(schema.version, known.get(schema.name))]
        for each in schema.tables:
            table.add_row(*map(Text, (*first, outside(each.name), f"{each.rows:,}")))
            first = ["", ""]
        if not schema.tables:
            table.add_row(*map(Text, (*first, "-", "")))
    console.print()
    console.print(table)


def _version(found: int, known: int | None) -> str:
    if known is None:
        return f"{found} (unknown here)"
    if found == known:
        return f"{found}"
    return f"{found} (newer than this program's {known})" if found > known else f"{found} (migrate to {known})"


def _console() -> tuple[Console, bool]:
    from rich.console import Console

    plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return (Console(color_system=None, width=_WIDTH) if plain else Console()), not plain


def _size(number: int) -> str:
    step = min(max(number.bit_length() - 1, 0) // 10, 3)
    return f"{number / 1024**step:,.{min(step, 1)}f} {('bytes', 'KiB', 'MiB', 'GiB')[step]}"


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _print_json(value: object) -> None:
    _say(_json.dumps(value, indent=2))


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the command line's job
