"""What is wrong with actions and cannot be told from a decorator alone: in their declarations, and where they are kept.

>>> find_mistakes([], None)
()
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .checks import CheckResult, CheckStatus
from .planned import KEY_PARAMETER, ActionSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .ports import PermitPort
    from .runtime import Runtime

SPEC_ATTRIBUTE = "asyncsandbox_spec"
"""Where a decorated function keeps what was declared of it."""


def specs_of(actions: Iterable[object]) -> dict[str, ActionSpec]:
    """Return what is declared of decorated functions, and of those in modules, by the name of the action.

    Raises:
        ConfigurationError: Something is neither a decorated function nor a module that has one.
    """
    found: dict[str, ActionSpec] = {}
    for given in actions:
        values: Iterable[Any] = vars(given).values() if isinstance(given, ModuleType) else (given,)
        specs = [spec for value in values if isinstance(spec := getattr(value, SPEC_ATTRIBUTE, None), ActionSpec)]
        if not specs:
            raise ConfigurationError("actions", given, "give decorated functions, or modules that hold some")
        found.update((spec.name, spec) for spec in specs)
    return found


def find_mistakes(specs: Iterable[ActionSpec], permits: PermitPort | None) -> tuple[str, ...]:
    """Return a sentence for each mistake, in the order of the actions' names."""
    return tuple(said for spec in sorted(specs, key=lambda spec: spec.name) for said in _mistakes_of(spec, permits))


def judge_ledger(runtime: Runtime) -> CheckResult:
    """Return whether the ledger has room, and would still know after a crash what ran."""
    if runtime.ledger.is_full:
        return CheckResult(status=CheckStatus.FAIL, output="the in-memory ledger is full: new actions are refused")
    if not runtime.dry_run and not runtime.ledger.is_durable:
        return CheckResult(status=CheckStatus.WARN, output="live without a durable store: a crash forgets what ran")
    return CheckResult(status=CheckStatus.PASS)


def _mistakes_of(spec: ActionSpec, permits: PermitPort | None) -> Iterable[str]:
    retries = spec.retry is not None and spec.retry.max_retries > 0
    if retries and not spec.forwards_key and not spec.not_delivered:
        yield (
            f"{spec.name}: retry= can never retry it, because a repeated call could happen twice: "
            f"take {KEY_PARAMETER}: str = FILLED_IN and send it to the provider, or name not_delivered= errors"
        )
    if spec.limit is not None and not (permits is not None and permits.has_limit(spec.limit)):
        yield (
            f"{spec.name}: limit {spec.limit!r} is not declared: "
            f"governor.set_limit({spec.limit!r}, max_requests, window_seconds), or GovernorSettings(limits=...)"
        )
