"""Settings and status of the manager, and what a decorator says of one function.

>>> IdempotencySettings(on_unknown="verify")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: IdempotencySettings.on_unknown='verify' is not allowed: give ...
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, overload

from ..._core.component import ComponentStatus
from ..._core.decorators import as_coroutine_function, by_name
from ..._core.settings import require_number
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = [
    "IdempotencyOptions",
    "IdempotencySettings",
    "IdempotencyStatus",
    "IdempotentDecorator",
    "OnUnknown",
    "Policy",
    "by_arguments",
]

P = ParamSpec("P")
R = TypeVar("R")


class OnUnknown(StrEnum):
    """What a call does whose key is UNKNOWN: an earlier call began and did not say how it ended."""

    VERIFY = "verify"
    RERUN = "rerun"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencySettings:
    """How keys are remembered.

    Attributes:
        ttl_seconds: How long an outcome is kept, from the moment the call ended (> 0).
        max_records: How many keys are kept in memory (>= 1); where records are given, how many results are at hand.
        max_result_bytes: How large a stored result may be (>= 1); a larger one reaches only the first caller.
        release_on: Exceptions that prove that nothing happened: the key is free again and the next call runs. Any
            other is kept like a result, and raised again for the same key.
        on_unknown: ``"manual"`` refuses until `IdempotencyManager.resolve` says what happened; ``"rerun"`` runs again,
            for functions that may run twice.
    """

    ttl_seconds: float = 86_400.0
    max_records: int = 100_000
    max_result_bytes: int = 1_000_000
    release_on: tuple[type[Exception], ...] = ()
    on_unknown: OnUnknown = OnUnknown.MANUAL

    def __post_init__(self) -> None:
        require_number("IdempotencySettings.ttl_seconds", self.ttl_seconds, above=0)
        require_number("IdempotencySettings.max_records", self.max_records, at_least=1, whole=True)
        require_number("IdempotencySettings.max_result_bytes", self.max_result_bytes, at_least=1, whole=True)
        object.__setattr__(self, "release_on", _errors("IdempotencySettings.release_on", self.release_on))
        on_unknown = _parse_on_unknown("IdempotencySettings.on_unknown", self.on_unknown)
        if on_unknown is OnUnknown.VERIFY:
            raise ConfigurationError(
                "IdempotencySettings.on_unknown", "verify", "give it to a function: @idempotent(key=..., verify=...)"
            )
        object.__setattr__(self, "on_unknown", on_unknown)


class IdempotencyOptions(TypedDict, total=False):
    """What `IdempotencyManager.idempotent` takes beside the key. Callbacks name the arguments they want.

    Attributes:
        facts: Gives what of the arguments counts; by default all of them. Another call of the key has to agree in it.
        ttl_seconds: As in `IdempotencySettings`.
        release_on: As in `IdempotencySettings`.
        on_unknown: As in `IdempotencySettings`, or ``"verify"``, which a ``verify`` implies.
        verify: Asks the outside world about a call that is UNKNOWN; it may also name ``idempotency_key``. Returns the
            result (or True) if it happened, None if there is no trace of it.
    """

    facts: Callable[..., object]
    ttl_seconds: float
    release_on: type[Exception] | tuple[type[Exception], ...]
    on_unknown: OnUnknown | str
    verify: Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyStatus(ComponentStatus):
    """What the manager says of itself: how many keys there are by state, as far as it knows without asking a database.

    Attributes:
        in_progress: Calls that have not ended.
        done: Results that are kept.
        failed: Exceptions that are kept.
        unknown: Calls of which nobody knows how they ended; they wait for `resolve`.
    """

    in_progress: int
    done: int
    failed: int
    unknown: int


class IdempotentDecorator(Protocol):
    """Turns a function into a coroutine function of the same parameters and result that runs once per key."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Settings and options of one function, checked and ready for use; callbacks take the bound arguments."""

    ttl_seconds: float
    release_on: tuple[type[Exception], ...]
    on_unknown: OnUnknown
    verify: Callable[[Mapping[str, Any]], Coroutine[Any, Any, Any]] | None = None
    facts: Callable[[Mapping[str, Any]], object] | None = None

    @classmethod
    def of(cls, settings: IdempotencySettings, options: IdempotencyOptions, names: tuple[str, ...] = ()) -> Policy:
        """Fill in from the settings what the options leave open.

        Raises:
            ConfigurationError: An option is wrong, or a callback wants an argument that the function does not have.
        """
        unknown = [name for name in options if name not in IdempotencyOptions.__annotations__]
        if unknown:
            known = ", ".join(IdempotencyOptions.__annotations__)
            raise ConfigurationError("idempotent", unknown[0], f"there is no such option; known: {known}")
        ttl_seconds = options.get("ttl_seconds", settings.ttl_seconds)
        require_number("idempotent: ttl_seconds", ttl_seconds, above=0)
        verify, facts = options.get("verify"), options.get("facts")
        return cls(
            ttl_seconds=ttl_seconds,
            release_on=_errors("idempotent: release_on", options.get("release_on", settings.release_on)),
            on_unknown=_choose(options, settings),
            verify=None if verify is None else by_arguments("verify", verify, (*names, "idempotency_key")),
            facts=None if facts is None else by_arguments("facts", facts, names),
        )


def _choose(options: IdempotencyOptions, settings: IdempotencySettings) -> OnUnknown:
    has_verify = options.get("verify") is not None
    default = OnUnknown.VERIFY if has_verify else settings.on_unknown
    chosen = _parse_on_unknown("idempotent: on_unknown", options.get("on_unknown", default))
    if (chosen is OnUnknown.VERIFY) != has_verify:
        remedy = "leave verify= out, or on_unknown=" if has_verify else "say how with verify="
        raise ConfigurationError("idempotent: on_unknown", chosen.value, remedy)
    return chosen


def _parse_on_unknown(field: str, value: object) -> OnUnknown:
    try:
        return OnUnknown(value)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigurationError(field, value, f"give one of {', '.join(OnUnknown)}") from None


def _errors(field: str, given: Any) -> tuple[type[Exception], ...]:
    kinds = (given,) if isinstance(given, type) else given
    if not isinstance(kinds, tuple):
        raise ConfigurationError(field, given, "give classes derived from Exception, as a tuple")
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(field, kind, "give classes derived from Exception")
    return kinds


def by_arguments(
    field: str, callback: Callable[..., Any], names: tuple[str, ...]
) -> Callable[[Mapping[str, Any]], Any]:
    """Let a callback be called with just the arguments it names; one that asks the outside world may take its time.

    Raises:
        ConfigurationError: It cannot be called so.
    """
    if field == "verify" and callable(callback):
        callback = as_coroutine_function(callback)
    elif inspect.iscoroutinefunction(callback):
        raise ConfigurationError(f"idempotent: {field}", callback, "give a plain function, it is called on the spot")
    return by_name(callback, dict.fromkeys(names), f"idempotent: {field}")
