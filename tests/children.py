"""Programs in processes of their own, for tests: they see this folder's modules, and cannot hang a test for ever."""

import os
import subprocess
import sys
from pathlib import Path

_SECONDS = 60


def run(code: str, *arguments: object, expect: int = 0) -> str:
    """Run a program and return what it prints."""
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert ended.returncode == expect, ended.stderr
    return ended.stdout
