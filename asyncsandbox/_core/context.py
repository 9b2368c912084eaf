"""What travels with a task: correlation id, deadline, the action being run, what is being retried, and the sandbox.

Everything is a ContextVar, so tasks, `asyncio.to_thread` and anyio threads inherit it by themselves; `carry` takes
it into executors. The one piece of process-wide state is the registry of running hosts per event loop.

>>> with correlation("req-1"):
...     get_correlation_id()
'req-1'
>>> get_correlation_id() is None
True
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError, NoSandboxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from .clock import Clock

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_correlation_id: ContextVar[str | None] = ContextVar("asyncsandbox_correlation_id", default=None)
_deadline: ContextVar[float | None] = ContextVar("asyncsandbox_deadline", default=None)
_running_action: ContextVar[str | None] = ContextVar("asyncsandbox_running_action", default=None)
_retried: ContextVar[Retried | None] = ContextVar("asyncsandbox_retried", default=None)
"""The call that is being retried around us. Tasks that it started inherit it, and may outlive it."""


class Retried(Protocol):
    """A call that may be retried."""

    @property
    def is_retrying(self) -> bool:
        """Whether it is past its first attempt and has not ended."""
        ...


def get_correlation_id() -> str | None:
    """Return the id that ties together all lines of one request or run, or None."""
    return _correlation_id.get()


def set_correlation_id(correlation_id: str | None) -> None:
    """Set the id for the current task and whatever it starts from now on."""
    _correlation_id.set(correlation_id)


def correlation(correlation_id: str) -> AbstractContextManager[str]:
    """Set the correlation id for a block and restore the previous one after it."""
    return _Scope(_correlation_id, correlation_id)


def get_deadline() -> float | None:
    """Return the moment, on the clock's monotonic scale, by which the current call must be over, or None."""
    return _deadline.get()


def deadline(at: float) -> AbstractContextManager[float]:
    """Say by which moment, on the clock's monotonic scale, a block must be over; an earlier one around it holds.

    Whoever says so has to end what runs then.
    """
    outer = _deadline.get()
    return _Scope(_deadline, at if outer is None else min(at, outer))


class CallScope:
    """A correlation id, where there is none yet, and a deadline for the length of one call.

    One class instead of a stack of context managers, because every action passes here.
    """

    __slots__ = ("_clock", "_correlation", "_deadline", "_seconds")

    def __init__(self, clock: Clock, deadline_seconds: float | None) -> None:
        self._clock = clock
        self._seconds = deadline_seconds
        self._correlation: Token[str | None] | None = None
        self._deadline: Token[float | None] | None = None

    def __enter__(self) -> None:
        if _correlation_id.get() is None:
            self._correlation = _correlation_id.set(self._clock.random_hex(16))
        if self._seconds is not None:
            outer = _deadline.get()
            at = self._clock.monotonic() + self._seconds
            self._deadline = _deadline.set(at if outer is None else min(at, outer))

    def __exit__(self, *_exc: object) -> None:
        if self._deadline is not None:
            _reset(_deadline, self._deadline)
        if self._correlation is not None:
            _reset(_correlation_id, self._correlation)


def get_running_action() -> str | None:
    """Return the label of the action whose body is running in this context, or None."""
    return _running_action.get()


def running_action(label: str) -> AbstractContextManager[str]:
    """Mark a block as the body of an action."""
    return _Scope(_running_action, label)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Take the caller's context (correlation id, sandbox) along into a thread or an executor.

    Args:
        function: What will be called elsewhere, any number of times, also at the same time.

    Returns:
        The same function, bound to a copy of the context in which `carry` was called.

    Concurrency: each call runs in its own copy. Cancellation: not concerned.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor() as pool, correlation("req-7"):
        ...     pool.submit(carry(get_correlation_id)).result()
        'req-7'
    """
    context = copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)

    return carried


class _Scope(AbstractContextManager[T]):
    """Sets a variable for a block. A class instead of a generator, because every action passes here."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[Any], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> T:
        self._token = self._variable.set(self._value)
        return self._value

    def __exit__(self, *_exc: object) -> None:
        _reset(self._variable, self._token)


def _reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    # ValueError: closed in another context, which never saw the value.
    with suppress(ValueError):
        variable.reset(token)


class Host:
    """A running sandbox as the lower layers see it. `Sandbox` builds one and registers it.

    Attributes:
        name: How error messages call it.
        dry_run: Whether it holds actions back.
        allow_mixed: Whether it tolerates a sandbox of the other mode on the same loop.
        sandbox: The object users know it by.
    """

    def __init__(self, *, name: str, dry_run: bool, allow_mixed: bool = False, sandbox: object = None) -> None:
        self.name = name
        self.dry_run = dry_run
        self.allow_mixed = allow_mixed
        self.sandbox = sandbox

    def __repr__(self) -> str:
        return f"<{self.name} ({'dry run' if self.dry_run else 'live'})>"


_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Host]] = WeakKeyDictionary()
_bound_host: ContextVar[Host | None] = ContextVar("asyncsandbox_host", default=None)


def register_host(host: Host) -> None:
    """Make a host findable on the running loop.

    Raises:
        ConfigurationError: A host of the other mode runs on this loop and one of the two does not allow that.
    """
    running = _hosts.setdefault(asyncio.get_running_loop(), [])
    for other in running:
        if other.dry_run != host.dry_run and not (other.allow_mixed and host.allow_mixed):
            raise ConfigurationError(
                "dry_run",
                host.dry_run,
                f"{other!r} runs on the same loop; stop it first, or give both sandboxes allow_mixed=True",
            )
    running.append(host)


def unregister_host(host: Host) -> None:
    """Take a host out of the registry; does nothing where it is not in it."""
    for running in _hosts.values():
        if host in running:
            running.remove(host)


def bound_host(host: Host) -> AbstractContextManager[Host]:
    """Make ``host`` the one that actions in this context use, also where several run."""
    return _Scope(_bound_host, host)


def current_host(wanted_by: str) -> Host:
    """Find the one host an action belongs to: the bound one, else the only one running on this loop.

    Args:
        wanted_by: Who asks, for the error message.

    Raises:
        NoSandboxError: There is none, there are several, or the bound one has stopped or lives on another loop.
    """
    try:
        running = _hosts.get(asyncio.get_running_loop(), [])
    except RuntimeError:  # a thread without a loop
        running = []
    bound = _bound_host.get()
    if bound is not None:
        if bound in running:
            return bound
        elsewhere = any(bound in hosts for hosts in _hosts.values())
        raise NoSandboxError(wanted_by, f"{bound!r} {'runs on another event loop' if elsewhere else 'has stopped'}")
    if len(running) == 1:
        return running[0]
    if not running:
        raise NoSandboxError(wanted_by, "no sandbox is running on this event loop")
    raise NoSandboxError(wanted_by, f"several sandboxes run on this event loop ({', '.join(map(repr, running))})")
