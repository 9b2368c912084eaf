"""Every example runs: the docstrings' (`>>>`), and the `python` blocks of README.md and docs/."""

import asyncio
import os
import tempfile
from collections.abc import Generator
from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

collect_ignore = ["docs/_build"]  # Sphinx's copies of the pages


@pytest.fixture(scope="session")
def shop_on_postgres() -> Generator[None]:
    """Serve a database for the examples that need a server; its URL is in the environment."""
    import asyncpg
    import postgres

    cluster = postgres.start_cluster()
    url = f"{cluster.url.rpartition('/')[0]}/shop"

    async def execute(at: str, script: str) -> None:
        connection = await asyncpg.connect(at)
        await connection.execute(script)
        await connection.close()

    try:
        asyncio.run(execute(cluster.url, "CREATE DATABASE shop"))
        invoices = (
            "CREATE TABLE invoice (id INTEGER PRIMARY KEY, paid INTEGER); INSERT INTO invoice VALUES (1, 0), (2, 0)"
        )
        asyncio.run(execute(url, invoices))
        os.environ["SHOP_URL"] = url
        yield
    finally:
        os.environ.pop("SHOP_URL", None)
        postgres.end_cluster(cluster)


def _enter_empty_folder(namespace: dict[str, Any]) -> None:
    """Let the examples of one file write where they are, without littering."""
    folder = namespace["_folder"] = tempfile.TemporaryDirectory()
    namespace["_home"] = Path.cwd()
    os.chdir(folder.name)


def _leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


_docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    path="asyncsandbox",
    patterns=["*.py"],
    document_types={".py": PythonDocStringDocument},
    setup=_enter_empty_folder,
    teardown=_leave_folder,
)


def _make_pages(patterns: list[str], **options: Any) -> Sybil:
    return Sybil(
        parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
        patterns=patterns,
        setup=_enter_empty_folder,
        teardown=_leave_folder,
        **options,
    )


_with_server = ["docs/reference/database.md"]
_pages = _make_pages(["*.md"], excludes=_with_server)
_pages_with_server = _make_pages(_with_server, fixtures=["shop_on_postgres"])

pytest_collect_file = SybilCollection((_docstrings, _pages, _pages_with_server)).pytest()
