"""Decorators for calls that touch the world: `irreversible`, `reversible` and `read_only`.

In a dry run the first two are held back and written into the plan; live, each call runs at most once per key. Which
sandbox a call belongs to is found at call time, and without exactly one the call is refused.

>>> import asyncio
>>> from asyncsandbox import Sandbox, irreversible
>>> @irreversible("mail.send", key=lambda to: to)
... async def send(to: str) -> str:
...     raise AssertionError("a dry run never comes here")
>>> async def main() -> None:
...     async with Sandbox() as sandbox:
...         print(repr(await send("ada@example.org")))
...         print([action.label for action in (await sandbox.make_plan()).actions])
>>> asyncio.run(main())
(known after apply: mail.send[ada@example.org])
['mail.send[ada@example.org]']
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from ._core.context import current_host
from ._core.declaration import FROM_ANNOTATION, Declaration
from ._core.mistakes import SPEC_ATTRIBUTE
from ._core.pipeline import perform
from ._core.planned import FILLED_IN, ActionKind
from ._core.runtime import Runtime
from .components.retry import RetrySettings
from .errors import ConfigurationError, NoSandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

__all__ = ["FILLED_IN", "irreversible", "read_only", "reversible"]

P = ParamSpec("P")
R = TypeVar("R")


class ActionDecorator(Protocol):
    """Turns a function into an action of the same parameters and result, always a coroutine function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


def irreversible(  # noqa: PLR0913 - what there is to say about an action, all by keyword
    name: str,
    *,
    key: Callable[..., object] | None = None,
    amount: Callable[..., object] | None = None,
    facts: Callable[..., object] | None = None,
    dry_result: object = FROM_ANNOTATION,
    verify: Callable[..., object] | None = None,
    redact: Iterable[str] = (),
    rejected: Iterable[type[Exception]] = (),
    not_delivered: Iterable[type[Exception]] = (),
    limit: str | None = None,
    limit_per: Callable[..., object] | None = None,
    retry: RetrySettings | None = None,
    resend_within_seconds: float | None = None,
    attempt_timeout_seconds: float | None = None,
    deadline_seconds: float | None = None,
    destroys: bool = False,
) -> ActionDecorator:
    """Declare a call that cannot be taken back: a charge, a mail, a deletion.

    In a dry run its body never runs. Live, with a key it runs at most once: the same key again joins the running
    call or gets the stored result. Without a key each call runs, and is shown as one of several equal ones. It is at
    most once, not exactly once: a call that started and did not say how it ended is UNKNOWN and stays so until
    somebody finds out.

    Every callback is called with just those arguments of the function that it names.

    Args:
        name: Name of the action, the same everywhere: ``"card.charge"``.
        key: Gives the business key: a string, an integer or a UUID. Recurring work puts the period into it.
        amount: Gives a number that the plan adds up.
        facts: Gives a dictionary of what counts of the call: what is shown, approved and compared. By default all
            arguments, which must then be plain values, dataclasses, attrs, msgspec or pydantic objects.
        dry_result: What a held-back call returns: a value, or a callback that makes it. By default a value made from
            the return annotation, with stand-ins for text.
        verify: Asks the provider about a call whose outcome is unknown; it may also name ``idempotency_key``.
            Returns the result (or True) if the call happened, None if there is no trace of it.
        redact: Names of arguments or fields, at any depth, that are masked before anything is written.
        rejected: Errors by which the provider says no. The call may be made again, with a new provider key.
        not_delivered: Errors that prove the provider never got the call. It may be made again, with the same key.
        limit: Name of a limit of the governor. Each attempt waits for a permit, as long as the deadline allows; a dry
            run takes none and counts them for the plan's forecast.
        limit_per: Gives whose permit it is, for a limit that counts by key.
        retry: How failed attempts are repeated; None for one attempt only. An attempt is repeated only where that does
            no harm: the error is one of ``not_delivered``, or the function takes ``idempotency_key`` and sends it.
        resend_within_seconds: How long the provider remembers ``idempotency_key``, in seconds (> 0). Until then a call
            whose outcome is UNKNOWN is sent again with the same key instead of being refused.
        attempt_timeout_seconds: Longest time for one run of the body, in seconds (> 0); after it the outcome is
            UNKNOWN.
        deadline_seconds: Longest time for the whole call, in seconds (> 0); an outer deadline still holds.
        destroys: Whether the call destroys something; a plan shows such calls first.

    Returns:
        A decorator. A plain function becomes a coroutine function whose body runs in a thread.

    Raises:
        ConfigurationError: Something above is not usable; raised when the module is imported.

    Concurrency: calls with one key run one at a time and share the outcome. Cancellation: a call that has started ends
    first, then the caller's cancellation is delivered.
    """
    return _decorator(
        name=name,
        kind=ActionKind.IRREVERSIBLE,
        key=key,
        amount=amount,
        facts=facts,
        dry_result=dry_result,
        verify=verify,
        redact=redact,
        rejected=rejected,
        not_delivered=not_delivered,
        limit=limit,
        limit_per=limit_per,
        retry=retry,
        resend_within_seconds=resend_within_seconds,
        attempt_timeout_seconds=attempt_timeout_seconds,
        deadline_seconds=deadline_seconds,
        destroys=destroys,
    )


def reversible(  # noqa: PLR0913 - as for irreversible
    name: str,
    *,
    undo: Callable[..., object],
    key: Callable[..., object] | None = None,
    amount: Callable[..., object] | None = None,
    facts: Callable[..., object] | None = None,
    dry_result: object = FROM_ANNOTATION,
    verify: Callable[..., object] | None = None,
    redact: Iterable[str] = (),
    rejected: Iterable[type[Exception]] = (),
    not_delivered: Iterable[type[Exception]] = (),
    limit: str | None = None,
    limit_per: Callable[..., object] | None = None,
    retry: RetrySettings | None = None,
    resend_within_seconds: float | None = None,
    attempt_timeout_seconds: float | None = None,
    deadline_seconds: float | None = None,
) -> ActionDecorator:
    """Declare a call that can be taken back: a reservation, a copy.

    It is held back like an irreversible one. Live, when an enclosing ``async with sandbox.saga(...)`` fails, it is
    undone, the last call first.

    Args:
        name: Name of the action.
        undo: Takes the call back; it may name arguments of the function, and ``result``.
        key: As for `irreversible`.
        amount: As for `irreversible`.
        facts: As for `irreversible`.
        dry_result: As for `irreversible`.
        verify: As for `irreversible`.
        redact: As for `irreversible`.
        rejected: As for `irreversible`.
        not_delivered: As for `irreversible`.
        limit: As for `irreversible`.
        limit_per: As for `irreversible`.
        retry: As for `irreversible`.
        resend_within_seconds: As for `irreversible`.
        attempt_timeout_seconds: As for `irreversible`.
        deadline_seconds: As for `irreversible`.

    Returns:
        A decorator.

    Raises:
        ConfigurationError: Something above is not usable; raised when the module is imported.

    Concurrency: as for `irreversible`. Cancellation: as for `irreversible`; undos end before it is delivered.
    """
    return _decorator(
        name=name,
        kind=ActionKind.REVERSIBLE,
        undo=undo,
        key=key,
        amount=amount,
        facts=facts,
        dry_result=dry_result,
        verify=verify,
        redact=redact,
        rejected=rejected,
        not_delivered=not_delivered,
        limit=limit,
        limit_per=limit_per,
        retry=retry,
        resend_within_seconds=resend_within_seconds,
        attempt_timeout_seconds=attempt_timeout_seconds,
        deadline_seconds=deadline_seconds,
    )


def read_only(name: str) -> ActionDecorator:
    """Declare a call that changes nothing, so that it runs for real in a dry run too.

    A value known only after apply may not be passed to it. It may be called from anywhere, other actions included.

    Args:
        name: Name of the action.

    Returns:
        A decorator.

    Raises:
        ConfigurationError: The name is not usable; raised when the module is imported.

    Concurrency: calls are independent. Cancellation: delivered at once.
    """
    return _decorator(name=name, kind=ActionKind.READ_ONLY)


def _decorator(**declared: Any) -> ActionDecorator:
    _refuse_unusable(declared["name"], declared.get("retry"))
    declaration = Declaration(**declared)

    def decorate(function: Callable[..., Any], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        spec = declaration.spec(function)

        @functools.wraps(function)
        async def action(*args: Any, **kwargs: Any) -> Any:
            host = current_host(spec.name)
            if not isinstance(host, Runtime):
                raise NoSandboxError(spec.name, f"{host!r} runs no actions")
            return await perform(host, spec, args, kwargs)

        setattr(action, SPEC_ATTRIBUTE, spec)
        return action

    return decorate


def _refuse_unusable(name: str, retry: object) -> None:
    if retry is None:
        return
    if not isinstance(retry, RetrySettings):
        raise ConfigurationError(f"{name}: retry", retry, "give RetrySettings(...)")
    if retry.retry_on_result is not None:
        remedy = "a call that returned is DONE: raise an error for a result that is none"
        raise ConfigurationError(f"{name}: retry", "RetrySettings(retry_on_result=...)", remedy)
