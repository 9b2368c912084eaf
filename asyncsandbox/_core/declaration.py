"""From what a decorator said to what the pipeline needs, with every mistake found at import.

>>> def charge(invoice: str) -> str: ...
>>> Declaration(name="card.charge", kind=ActionKind.IRREVERSIBLE, key=lambda invioce: invioce).spec(charge)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: card.charge: key='invioce' is not allowed: name parameters of the ...
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError
from .decorators import Arguments, as_coroutine_function, bound_object, by_name
from .planned import FILLED_IN, KEY_PARAMETER, ActionKind, ActionSpec
from .settings import require_name, require_number
from .tokens import resolve, short_path, stand_in_maker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .ports import RetryRules


class _FromAnnotation:
    def __repr__(self) -> str:
        return "from the return annotation"


FROM_ANNOTATION: Final = _FromAnnotation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a decorator, or `DryRunLock.execute`, said of an action; `asyncsandbox.actions` explains each field."""

    name: str
    kind: ActionKind
    key: Callable[..., object] | None = None
    amount: Callable[..., object] | None = None
    facts: Callable[..., object] | None = None
    dry_result: object = FROM_ANNOTATION
    verify: Callable[..., object] | None = None
    undo: Callable[..., object] | None = None
    redact: Iterable[str] = ()
    rejected: Iterable[type[Exception]] = ()
    not_delivered: Iterable[type[Exception]] = ()
    limit: str | None = None
    limit_per: Callable[..., object] | None = None
    retry: RetryRules | None = None
    resend_within_seconds: float | None = None
    attempt_timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    destroys: bool = False

    def __post_init__(self) -> None:
        require_name("name", self.name)
        for field in ("attempt_timeout_seconds", "deadline_seconds", "resend_within_seconds"):
            seconds = getattr(self, field)
            if seconds is not None:
                require_number(f"{self.name}: {field}", seconds, above=0)
        if self.limit is not None:
            require_name(f"{self.name}: limit", self.limit)
        elif self.limit_per is not None:
            raise ConfigurationError(f"{self.name}: limit_per", self.limit_per, "name the limit as well: limit='...'")

    def spec(self, function: Callable[..., Any]) -> ActionSpec:
        """Return everything the pipeline needs to know of the action.

        Raises:
            ConfigurationError: The function cannot be called, or a callback does not fit it.
        """
        if not callable(function):
            raise ConfigurationError(f"{self.name}: function", function, "give a function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"{self.name}: function", function, "give a function that returns, not one that yields"
            )
        arguments = Arguments(function, {KEY_PARAMETER: FILLED_IN})
        names = arguments.names
        if self.resend_within_seconds is not None and KEY_PARAMETER not in names:
            raise ConfigurationError(
                f"{self.name}: resend_within_seconds",
                self.resend_within_seconds,
                f"let the function take {KEY_PARAMETER}: str = FILLED_IN and send it to the provider",
            )
        body = as_coroutine_function(function)
        return ActionSpec(
            name=self.name,
            kind=self.kind,
            body=body,
            arguments=arguments,
            defined_at=_defined_at(function),
            dry_result=self._dry_result(function, names),
            key=self._callback("key", names),
            amount=self._callback("amount", names),
            facts=self._callback("facts", names),
            verify=self._callback("verify", (*names, KEY_PARAMETER)),
            undo=self._callback("undo", (*names, "result")),
            redact=frozenset(self._texts()),
            rejected=self._errors("rejected"),
            not_delivered=self._errors("not_delivered"),
            limit=self.limit,
            limit_per=self._callback("limit_per", names),
            retry=self.retry,
            resend_within_seconds=self.resend_within_seconds,
            attempt_timeout_seconds=self._seconds("attempt_timeout_seconds"),
            deadline_seconds=self._seconds("deadline_seconds"),
            destroys=self.destroys,
            forwards_key=KEY_PARAMETER in names,
            threaded=body is not function,
            not_facts=frozenset(filter(None, (KEY_PARAMETER, bound_object(function, names)))),
        )

    def _callback(self, field: str, names: Iterable[str]) -> Any:
        callback = getattr(self, field)
        if callback is None:
            return None
        if field in ("verify", "undo") and callable(callback):
            callback = as_coroutine_function(callback)
        elif inspect.iscoroutinefunction(callback):
            raise ConfigurationError(
                f"{self.name}: {field}", callback, "give a plain function, it is called on the spot"
            )
        return by_name(callback, dict.fromkeys(names), f"{self.name}: {field}")

    def _seconds(self, field: str) -> float | None:
        # It may be said of the action or in its retry settings, and only once.
        own: float | None = getattr(self, field)
        of_retry: float | None = getattr(self.retry, field, None)
        if own is not None and of_retry is not None:
            raise ConfigurationError(f"{self.name}: {field}", own, f"its retry= says {of_retry:g} already; say it once")
        return of_retry if own is None else own

    def _dry_result(
        self, function: Callable[..., Any], names: Iterable[str]
    ) -> Callable[[Mapping[str, Any], str], Any]:
        if inspect.iscoroutinefunction(self.dry_result):
            raise ConfigurationError(f"{self.name}: dry_result", self.dry_result, "give a value or a plain function")
        if callable(self.dry_result):
            make = by_name(self.dry_result, names, f"{self.name}: dry_result")
            return lambda bound, _label: make(bound)
        if self.dry_result is not FROM_ANNOTATION:
            return lambda _bound, _label: self.dry_result

        @functools.cache
        def maker() -> Callable[[str], Any]:
            # Not before the first call: until then an annotation may name a class that is defined further down.
            return stand_in_maker(_return_annotation(function))

        return lambda _bound, label: maker()(label)

    def _texts(self) -> tuple[str, ...]:
        if isinstance(self.redact, str):
            raise ConfigurationError(f"{self.name}: redact", self.redact, "give several names: redact=('card_token',)")
        return tuple(self.redact)

    def _errors(self, field: str) -> tuple[type[Exception], ...]:
        given = getattr(self, field)
        kinds = (given,) if isinstance(given, type) else tuple(given)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ConfigurationError(f"{self.name}: {field}", kind, "give classes derived from Exception")
        return kinds


def _return_annotation(function: Callable[..., Any]) -> object:
    """Return the resolved return annotation; something that says nothing where it cannot be resolved."""
    inner = inspect.unwrap(function)
    raw = getattr(inner, "__annotations__", {}).get("return", Any)
    return resolve(raw, getattr(inner, "__globals__", {}))


def _defined_at(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{short_path(code.co_filename)}:{code.co_firstlineno}"
