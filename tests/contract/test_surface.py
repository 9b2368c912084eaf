"""What users import: complete, sorted, documented, and light."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asyncsandbox
from asyncsandbox import errors

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
HEAVY = ("aiosqlite", "asyncpg", "cyclopts", "hypothesis", "pytest", "rich", "sqlalchemy", "sqlite3")


def constants_classes_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(asyncsandbox).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert list(asyncsandbox.__all__) == sorted(asyncsandbox.__all__, key=constants_classes_functions)
    assert set(asyncsandbox.__all__) == public | {"__version__"}


def test_every_exception_is_exported() -> None:
    todo, found = [errors.SandboxError], set()
    while todo:
        kind = todo.pop()
        found.add(kind.__name__)
        todo.extend(kind.__subclasses__())
        # What tests and the harness derive has a home of its own.
        todo = [k for k in todo if k.__module__.startswith("asyncsandbox.") and ".testing." not in k.__module__]
    assert found <= set(asyncsandbox.__all__)


@pytest.mark.parametrize("name", sorted(set(asyncsandbox.__all__) - {"__version__"}))
def test_every_exported_name_is_documented(name: str) -> None:
    value = getattr(asyncsandbox, name)
    assert inspect.getdoc(value)
    pages = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    homes = {value.__module__} if hasattr(value, "__module__") else set()
    assert re.search(rf"\b{name}\b", pages) or any(
        re.search(rf"automodule:: {re.escape(home)}\s", pages) for home in homes
    ), f"no page in docs/reference tells of {name}"


def test_import_is_light() -> None:
    # Measured for coverage, a process has some of them before.
    code = f"import sys; had = set(sys.modules); import asyncsandbox; print(*(set({HEAVY!r}) & set(sys.modules) - had))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize(
    "name", ["Sandbox", "irreversible", "DryRunLock", "StructuredLogger", "SandboxReadinessChecker"]
)
def test_public_docstrings_speak_of_concurrency_and_cancellation(name: str) -> None:
    text = inspect.getdoc(getattr(asyncsandbox, name)) or ""
    assert "Concurrency:" in text
    assert "Cancellation:" in text
