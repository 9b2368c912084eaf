"""Where log lines go: the host's `logging`, a JSON file descriptor, or memory. Any callable is a sink as well.

A sink is called with one line: a read-only mapping of plain JSON data that starts with ``timestamp``, ``level``,
``component``, ``event`` and ``correlation_id``.

>>> sink = MemorySink()
>>> sink({"event": "door.opened", "correlation_id": "req-1"})
>>> [line["event"] for line in sink.get_lines(correlation_id="req-1")]
['door.opened']
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import IO, Any, TypeAlias

import msgspec

from ..._core.settings import require_number
from .clean import HEAD

Line: TypeAlias = Mapping[str, Any]
Sink: TypeAlias = Callable[[Line], object]

_encode = msgspec.json.Encoder().encode
_URGENT = frozenset({"warning", "error", "critical"})
_BATCH_LINES = 128
_STAMP_LENGTH = len("2026-01-01T00:00:00.000000Z")
_GONE = frozenset({errno.EBADF, errno.EPIPE})
_LEVEL_NUMBERS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_FRAMES_TO_CALLER = 4  # this sink, the logger's two methods, and then who logged

logging.getLogger("asyncsandbox").addHandler(logging.NullHandler())


def render(line: Line) -> bytes:
    """Return a line as JSON in UTF-8, with the newline."""
    return _encode(line) + b"\n"


class SandboxLine(dict[str, Any]):
    """A cleaned line inside a log record; a mere dict there might come from anybody."""


class StdlibSink:
    """Hands each line to the standard library's logger ``asyncsandbox.<component>``.

    It promises to touch no logging configuration: handlers, levels and formats are the host's. A record's message is
    one readable line, and ``record.sandbox`` is the whole line as a dict.

    Concurrency: as safe as `logging`. Cancellation: nothing here waits.

    Example:
        >>> StdlibSink()({"level": "info", "component": "app", "event": "paid", "correlation_id": None, "amount": 100})
    """

    def __call__(self, line: Line) -> None:
        """Log one line."""
        logger = logging.getLogger(f"asyncsandbox.{line['component']}")
        number = _LEVEL_NUMBERS[line["level"]]
        if logger.isEnabledFor(number):
            extra = {"sandbox": SandboxLine(line)}
            logger.log(number, _readable(line), extra=extra, stacklevel=_FRAMES_TO_CALLER)


class JsonSink:
    r"""Writes each line as JSON to a file descriptor, a path or a stream.

    It promises whole lines in order, and never to raise. What the target cannot take now (a full pipe, a full disk) is
    kept up to ``max_pending_lines`` and tried again; what it can never take is counted in `lost`. A descriptor in
    blocking mode blocks, as any logger does.

    Buffered, lines wait for at most ``LogSettings.flush_seconds`` while the logger runs, and a line at warning or above
    takes all earlier ones along; a killed process loses what waits. Before start and after stop each line is written
    at once.

    Args:
        target: A descriptor or stream, which stays open; or a path, opened to append and closed by `close`.
        buffered: Write many lines at a time.
        max_pending_lines: How many to keep while the target takes nothing.

    Raises:
        OSError: The path cannot be opened.
        ConfigurationError: ``max_pending_lines`` is not a whole number >= 1.

    Concurrency: may be shared by tasks and threads. Cancellation: nothing here waits.

    Example:
        >>> stream = io.BytesIO()
        >>> JsonSink(stream)({"level": "info", "event": "paid"})
        >>> stream.getvalue()
        b'{"level":"info","event":"paid"}\n'
    """

    def __init__(
        self,
        target: int | str | os.PathLike[str] | IO[Any],
        *,
        buffered: bool = False,
        max_pending_lines: int = 10_000,
    ) -> None:
        require_number("JsonSink.max_pending_lines", max_pending_lines, at_least=1, whole=True)
        self.buffered = buffered
        self._max_pending = max_pending_lines
        self._file = _File(target) if isinstance(target, (str, os.PathLike)) else None
        self._write = _writer(self._file or target)
        self._lock = threading.RLock()  # a finaliser or signal handler that logs may interrupt us in our own thread
        self._queue: deque[bytes] = deque()  # threads append without the lock, which is what makes a line cheap
        self._rest = b""  # what was taken from it and is not written; may begin inside a line
        self._holding = False
        self._draining = False
        self._lost = 0

    @property
    def lost(self) -> int:
        """How many lines the target could not take."""
        return self._lost

    def __call__(self, line: Line) -> None:
        """Write one line, or let it wait."""
        self._queue.append(_encode(line))
        if not self._holding or len(self._queue) >= _BATCH_LINES or line["level"] in _URGENT:
            self.flush()

    def hold(self, *, on: bool) -> None:
        """Let the lines of a buffered sink wait from now on, for somebody will call `flush`; or write each at once."""
        self._holding = on and self.buffered
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            if self._draining:
                return
            self._draining = True
            try:
                while self._rest or self._queue:
                    self._rest = self._rest or self._take()
                    written = self._write(self._rest) or 0
                    self._rest = self._rest[written:]
                    if not written:
                        break
            except OSError as error:
                self._rest = self._rest[getattr(error, "characters_written", 0) :]
                if error.errno in _GONE:
                    self._give_up()
            except Exception:  # noqa: BLE001 - a foreign stream, closed or worse
                self._give_up()
            finally:
                self._draining = False
            while len(self._queue) > self._max_pending:
                self._queue.pop()
                self._lost += 1

    def close(self) -> None:
        """Write what waits and close a path; a later line opens it again, so this also follows a rotated file."""
        with self._lock:
            self.flush()
            self._give_up()
            if self._file is not None:
                self._file.close()

    def _take(self) -> bytes:
        queue = self._queue
        if len(queue) == 1:
            return queue.popleft() + b"\n"
        return b"".join([queue.popleft() + b"\n" for _ in range(len(queue))])

    def _give_up(self) -> None:
        self._lost += self._rest.count(b"\n") + len(self._queue)
        self._queue.clear()
        self._rest = b""


class MemorySink:
    """Keeps the last lines, for tests and for looking at.

    Args:
        max_lines: How many; the oldest goes first.

    Raises:
        ConfigurationError: ``max_lines`` is not a whole number >= 1.

    Concurrency: may be shared by tasks and threads. Cancellation: nothing here waits.
    """

    def __init__(self, max_lines: int = 1000) -> None:
        require_number("MemorySink.max_lines", max_lines, at_least=1, whole=True)
        self._lines: deque[Line] = deque(maxlen=max_lines)

    def __call__(self, line: Line) -> None:
        """Keep one line."""
        self._lines.append(MappingProxyType(dict(line)))

    def get_lines(self, *, correlation_id: str | None = None) -> tuple[Line, ...]:
        """Return the kept lines, oldest first; with an id, only those of that request or run."""
        return tuple(
            line for line in self._lines.copy() if correlation_id is None or line["correlation_id"] == correlation_id
        )


class _File:
    """A path that is open, or opens itself when written to."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._fd: int | None = None
        self._open()

    def _open(self) -> int:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        return self._fd

    def write(self, data: bytes) -> int:
        return os.write(self._open() if self._fd is None else self._fd, data)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _writer(target: Any) -> Callable[[bytes], int | None]:
    """Return a function that writes to the target and says how many bytes that took."""
    if isinstance(target, int):
        return partial(os.write, target)
    if isinstance(target, _File):
        return target.write
    # JSON is UTF-8, whatever a text stream's own encoding.
    binary = getattr(target, "buffer", None)

    def write(data: bytes) -> int | None:
        if binary is not None:
            target.flush()
            written: int | None = binary.write(data)
        elif isinstance(target, io.TextIOBase):
            target.write(data.decode())
            written = len(data)
        else:
            written = target.write(data)
        with suppress(BlockingIOError):  # the stream has the line and keeps it
            (binary or target).flush()
        return written

    return write


def _readable(line: Line) -> str:
    words = [f"{_word(name)}={_word(value)}" for name, value in line.items() if name not in HEAD]
    return " ".join([one_line(line["event"]), *words])


def _word(value: object) -> str:
    is_bare = isinstance(value, str) and value.isprintable() and not set(value) & set(' ="')
    return str(value) if is_bare else json.dumps(value)


def stamp(at: datetime) -> str:
    """Return a moment in UTC as ISO 8601 with microseconds and Z."""
    text = _encode(at)[1:-1].decode()  # msgspec is several times quicker at this than datetime
    return text if len(text) == _STAMP_LENGTH else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def one_line(text: str) -> str:
    """Return text without anything that would start a new line or steer a terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
