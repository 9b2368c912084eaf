"""Programs in processes of their own, for tests: they see this folder's modules, and cannot hang a test for ever."""

import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_SECONDS = 60


def run(code: str, *arguments: object, expect: int = 0) -> str:
    """Run a program and return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=_HERE,  # and so first on its path
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert ended.returncode == expect, ended.stderr
    return ended.stdout
