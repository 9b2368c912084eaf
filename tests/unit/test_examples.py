"""The owner's eleven examples: each runs alone, and prints what its docstring says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
SUBJECTS = [
    "complete_setup",
    "dry_run_locks",
    "background_workers",
    "heartbeat",
    "retry",
    "idempotency",
    "governor",
    "alerts",
    "logging",
    "readiness",
    "integrated_workflow",
]


def promised_output(path: Path) -> str:
    """Return what stands in the docstring after the command."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    _, command, output = text.partition(f"$ python {path.name}\n")
    assert command, f"{path.name} does not say how to run it"
    return output.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path)]
    ran = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False, timeout=60
    )
    assert ran.stderr == ""
    assert ran.stdout.strip() == promised_output(path)
    assert ran.returncode == 0
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_all_eleven_are_there() -> None:
    assert [path.stem for path in EXAMPLES] == [f"{n:02}_{subject}" for n, subject in enumerate(SUBJECTS, start=1)]


def test_the_page_lists_every_example() -> None:
    page = (FOLDER.parent / "how-to" / "examples.md").read_text("utf-8")
    assert [path.name for path in EXAMPLES if f"[{path.name}](../examples/{path.name})" not in page] == []
