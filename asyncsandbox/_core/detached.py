"""What work that outlives its caller takes along: everything but what belongs to the caller's own call.

>>> from contextvars import copy_context
>>> from asyncsandbox._core.context import CallScope, get_correlation_id, get_deadline, set_correlation_id
>>> from asyncsandbox._core.clock import SystemClock
>>> set_correlation_id("req-7")
>>> with CallScope(SystemClock(), deadline_seconds=1):
...     context = copy_context()
>>> context.run(leave_call)
>>> context.run(get_correlation_id), context.run(get_deadline)
('req-7', None)
>>> set_correlation_id(None)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# The variables themselves, because every job passes here.
from .context import _bound_host, _deadline, _retried, _running_action
from .saga import _current

if TYPE_CHECKING:
    from .context import Host


def leave_call(host: Host | None = None) -> None:
    """Forget deadline, action, saga and retried call around the caller; keep its sandbox and correlation id.

    Args:
        host: The sandbox to use where the caller is bound to none.
    """
    if _deadline.get() is not None:
        _deadline.set(None)
    if _running_action.get() is not None:
        _running_action.set(None)
    if _current.get() is not None:
        _current.set(None)
    if _retried.get() is not None:
        _retried.set(None)
    if host is not None and _bound_host.get() is None:
        _bound_host.set(host)
