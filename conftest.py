"""Every example runs: the docstrings' (`>>>`), and the `python` blocks of README.md and docs/."""

import os
import tempfile
from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


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
_pages = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["*.md"],
    setup=_enter_empty_folder,
    teardown=_leave_folder,
)

pytest_collect_file = (_docstrings + _pages).pytest()
