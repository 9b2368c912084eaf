"""Programs in processes of their own, for tests: they see this folder's modules, and cannot hang a test for ever."""

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 20.0
_SECONDS = 60


def run(code: str, *arguments: object, expect: int = 0) -> str:
    """Run a program and return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert ended.returncode == expect, ended.stderr
    return ended.stdout


class Child:
    """A program that says "up", is told lines, and says lines."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._said: queue.Queue[str] = queue.Queue()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        assert self.hear() == "up"

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line.strip())

    def hear(self) -> str:
        return self._said.get(timeout=PATIENCE_SECONDS)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        self._listening.join()
        self.process.stdout.close()

    def heard(self) -> list[str]:
        return list(self._said.queue)

    def end(self) -> None:
        self._close()


def _environment() -> dict[str, str]:
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
