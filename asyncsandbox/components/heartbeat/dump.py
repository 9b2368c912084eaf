"""Stacks on standard error while C code holds the interpreter, when no Python thread can look.

It is `faulthandler.dump_traceback_later`, pushed back by every tick. There is one such timer per process, so only one
heartbeat may have it, and it must be left alone by everybody else (pytest's ``faulthandler_timeout`` sets it too).

>>> dump = StackDump(60)
>>> dump.claim()
>>> try:
...     StackDump(60).claim()
... except ConfigurationError as error:
...     print(error.allowed)
another heartbeat of this process has the one timer there is: set it for one of them only
>>> dump.release()
"""

from __future__ import annotations

import faulthandler
import sys
import threading

from ...errors import ConfigurationError

_claimed = threading.Lock()  # process-wide, as the timer is


class StackDump:
    """A timer that writes all stacks to standard error unless it is pushed back in time.

    Args:
        seconds: How long it waits (> 0).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file = -1
        self._is_ours = False

    def claim(self) -> None:
        """Take the process's timer.

        Raises:
            ConfigurationError: Another heartbeat has it, or there is no standard error to write to.
        """
        if sys.__stderr__ is None:
            raise ConfigurationError(
                "HeartbeatSettings.dump_seconds", self._seconds, "there is no standard error to write to: leave it None"
            )
        self._is_ours = _claimed.acquire(blocking=False)
        if not self._is_ours:
            raise ConfigurationError(
                "HeartbeatSettings.dump_seconds",
                self._seconds,
                "another heartbeat of this process has the one timer there is: set it for one of them only",
            )
        self._file = sys.__stderr__.fileno()

    def push_back(self) -> None:
        """Start to wait anew."""
        faulthandler.dump_traceback_later(self._seconds, file=self._file)

    def release(self) -> None:
        """Give the timer back; does nothing where it is not ours."""
        if self._is_ours:
            self._is_ours = False
            faulthandler.cancel_dump_traceback_later()
            _claimed.release()
