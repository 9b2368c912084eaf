"""The README's program, run by the README's command, prints what the README shows."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
CHANGING = re.compile(r"^  (when|plan) .*$", re.MULTILINE)


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_first_screen_is_true(tmp_path: Path) -> None:
    (tmp_path / "bill.py").write_text(block("python"), encoding="utf-8")
    command, _, shown = block("console").partition("\n")
    arguments = command.removeprefix("$ asyncsandbox ").split()
    ended = subprocess.run(
        [sys.executable, "-m", "asyncsandbox", *arguments],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert CHANGING.sub("", ended.stdout) == CHANGING.sub("", shown)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"bill.py", "main.plan.json"}


def test_the_program_is_short() -> None:
    assert len(block("python").splitlines()) <= 20
