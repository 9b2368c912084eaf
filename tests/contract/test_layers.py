"""What the source itself must look like: one clock, components side by side, pages and tests of the same name."""

import ast
import pkgutil
from pathlib import Path

import pytest

import asyncsandbox
import asyncsandbox.components

PACKAGE = Path(asyncsandbox.__file__).parent
PROJECT = Path(__file__).parents[2]
COMPONENTS = sorted(module.name for module in pkgutil.iter_modules(asyncsandbox.components.__path__))
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() != "_core/clock.py")

FORBIDDEN_IMPORTS = {"time", "random", "secrets"}
FORBIDDEN_CALLS = {"now", "utcnow", "today", "urandom", "uuid1", "uuid4", "sleep", "time", "monotonic", "perf_counter"}
CLOCKS = {"datetime", "date", "os", "uuid", "asyncio", "anyio", "loop", "time"}


def readings(source: str) -> list[str]:
    """Return where a module reads a clock, sleeps or draws a random number by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in FORBIDDEN_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_CALLS:
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", getattr(owner, "func", None))
            if isinstance(name, str) and name in CLOCKS:
                found.append(f"{name}.{node.func.attr}")
    return found


# The harness is what governs time and chance in a simulation, so it has to touch them.
GOVERNED = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] != "testing"]


@pytest.mark.parametrize("path", GOVERNED, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_clock_reads_time_and_chance(path: Path) -> None:
    assert readings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import random",
        "from datetime import datetime\ndatetime.now()",
        "import os\nos.urandom(8)",
        "import asyncio\nasync def f(): await asyncio.sleep(1)",
        "import uuid\nuuid.uuid4()",
    ],
)
def test_a_module_with_a_clock_of_its_own_is_caught(source: str) -> None:
    assert readings(source)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_has_a_page_and_a_test_of_its_name(name: str) -> None:
    assert (PROJECT / "docs" / "reference" / f"{name}.md").is_file()
    assert (PROJECT / "tests" / "unit" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_outgrows_its_reader(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_sandbox_is_wiring() -> None:
    methods = [
        n for n in vars(asyncsandbox.Sandbox) if not n.startswith("_") and callable(getattr(asyncsandbox.Sandbox, n))
    ]
    assert len(methods) <= 12, methods
    tree = ast.parse((PACKAGE / "sandbox.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    assert len(ast.unparse(tree).splitlines()) <= 250
