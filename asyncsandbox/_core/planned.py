"""What an action is (`ActionSpec`), what one call of it is (`PlannedAction`), and who lets it pass (`Gate`).

A planned action holds everything that is shown, approved and compared, in canonical form. Its identity is a digest of
namespace, action and key; correlation ids, order and time never enter it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import msgspec

from ..errors import ConfigurationError, KnownAfterApplyError
from .codec import Canonical, digest, is_writable, show
from .tokens import Opaque, Token, labels_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .decorators import Arguments
    from .ports import RetryRules

KEY_PARAMETER: Final = "idempotency_key"


class _FilledIn(str):
    """Default of an ``idempotency_key`` parameter: the pipeline fills in the key for the provider."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FILLED_IN"

    def __reduce__(self) -> str:
        return "FILLED_IN"


FILLED_IN: Final[str] = _FilledIn()


class ActionKind(StrEnum):
    """What a call of the action does to the world."""

    IRREVERSIBLE = "irreversible"
    REVERSIBLE = "reversible"
    READ_ONLY = "read_only"


class Decision(StrEnum):
    """What a gate decides about one call; a denial is an exception."""

    HOLD_BACK = "hold back"
    RUN = "run"


class Gate(Protocol):
    """Decides whether a call runs. Dry run, live and an approved plan differ in nothing else."""

    def judge(self, call: PlannedAction) -> Decision:
        """Return what to do with the call.

        Raises:
            ActionError: The call is denied.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """One decorated function and everything its decorator said. Callbacks take the bound arguments.

    Attributes:
        name: Name of the action, dotted lower case.
        kind: What it does to the world.
        body: The function, as a coroutine function.
        arguments: Its parameters.
        defined_at: ``file:line`` of the function.
        key: Gives the business key, or None for an action without one.
        amount: Gives what the plan adds up, or None.
        facts: Gives what of the arguments counts, or None for all of them.
        dry_result: Gives what a held-back call returns.
        verify: Asks the provider whether the call happened, or None.
        undo: Undoes a finished call; reversible actions only.
        redact: Names of fields to mask.
        rejected: Errors by which the provider says that nothing happened and why.
        not_delivered: Errors that prove the provider never got the call.
        limit: Name of the limit whose permits it takes, or None.
        limit_per: Gives whose permit it is, for a limit that counts by key.
        retry: Settings of its retries, or None where it is not retried.
        resend_within_seconds: How long the provider remembers the key it got.
        attempt_timeout_seconds: Longest time for one run of the body.
        deadline_seconds: Longest time for the whole call.
        destroys: Whether it destroys something.
        forwards_key: Whether the body takes ``idempotency_key``.
        threaded: Whether the body runs in a thread, where nothing can interrupt it.
        not_facts: Parameters that say nothing of the call: the object a method belongs to, and the provider's key.
    """

    name: str
    kind: ActionKind
    body: Callable[..., Coroutine[Any, Any, Any]]
    arguments: Arguments
    defined_at: str
    dry_result: Callable[[Mapping[str, Any], str], Any]
    key: Callable[[Mapping[str, Any]], object] | None = None
    amount: Callable[[Mapping[str, Any]], object] | None = None
    facts: Callable[[Mapping[str, Any]], object] | None = None
    verify: Callable[[Mapping[str, Any]], Coroutine[Any, Any, Any]] | None = None
    undo: Callable[[Mapping[str, Any]], Coroutine[Any, Any, Any]] | None = None
    redact: frozenset[str] = frozenset()
    rejected: tuple[type[Exception], ...] = ()
    not_delivered: tuple[type[Exception], ...] = ()
    limit: str | None = None
    limit_per: Callable[[Mapping[str, Any]], Any] | None = None
    retry: RetryRules | None = None
    resend_within_seconds: float | None = None
    attempt_timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    destroys: bool = False
    forwards_key: bool = False
    threaded: bool = False
    not_facts: frozenset[str] = frozenset({KEY_PARAMETER})


class PlannedAction(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an action, as far as it is shown, approved and compared.

    Attributes:
        identity: Digest of namespace, action and key; without a key, of the facts, with ``/`` and an ordinal in a
            ledger.
        action: Name of the action.
        kind: What it does to the world.
        key: The business key, or ``~`` and the start of the facts' digest.
        keyed: Whether the caller gave the key.
        facts: What counts of the call, canonical and masked.
        facts_digest: Digest of the facts.
        amount: What the plan adds up.
        destroys: Whether it destroys something.
        site: ``file:line`` of the call, or of the function where a task hides the caller.
        references: Labels of values in the facts that are known only after apply, sorted.
        compared: False where a masked value could not be compared for want of a masking key.
        count: How many equal calls this stands for; more than 1 only without a key, in a plan.
    """

    identity: str
    action: str
    kind: ActionKind
    key: str
    keyed: bool
    facts: dict[str, Any]
    facts_digest: str
    amount: Decimal | None = None
    destroys: bool = False
    site: str = ""
    references: tuple[str, ...] = ()
    compared: bool = True
    count: int = 1

    @property
    def label(self) -> str:
        """How people call this call: ``card.charge[inv-17]``."""
        return f"{self.action}[{self.key}]"

    def show(self) -> str:
        """Return the facts as one line."""
        return show(self.facts)


@dataclass(slots=True)
class Planner:
    """Makes planned actions of one sandbox.

    Attributes:
        namespace: Keeps the keys of different programs apart.
        secret: Key by which masked values are compared; it is written nowhere.
        life: Which life of a program this is, where rows outlast it: calls without a key are new in each.
    """

    namespace: str = "default"
    secret: bytes | None = None
    life: str = ""
    _ordinals: dict[tuple[str, str], int] = field(default_factory=dict)
    _fields: dict[type, tuple[str, ...] | None] = field(default_factory=dict)

    def plan(self, spec: ActionSpec, bound: Mapping[str, Any], site: str = "") -> PlannedAction:
        """Make the planned action of one call.

        Raises:
            ConfigurationError: Facts, key or amount are not of a usable kind.
            KnownAfterApplyError: A value known only after apply stands in the key, or in facts without a key.
        """
        facts, encoder = self._facts(spec, bound)
        facts_digest = digest(facts)
        references = tuple(sorted(set(encoder.references)))
        key = None if spec.key is None else _key_text(spec, spec.key(bound))
        if key is None:
            if references:
                raise KnownAfterApplyError(references[0], f"{spec.name!r}, an action without a key=,")
            label = f"~{facts_digest[:8]}"
            ordinal = self._ordinals[spec.name, facts_digest] = self._ordinals.get((spec.name, facts_digest), 0) + 1
            identity = f"{_identity(self.namespace, spec.name, f'f{facts_digest}')}/{self.life}{ordinal}"
        else:
            label = key
            identity = _identity(self.namespace, spec.name, f"k{key}")
        return PlannedAction(
            identity=identity,
            action=spec.name,
            kind=spec.kind,
            key=label,
            keyed=key is not None,
            facts=facts,
            facts_digest=facts_digest,
            amount=None if spec.amount is None else _amount(spec, spec.amount(bound)),
            destroys=spec.destroys,
            site=site,
            references=references,
            compared=not encoder.unmatched,
        )

    def facts_digest(self, spec: ActionSpec, bound: Mapping[str, Any]) -> str:
        """Return the digest of a call's facts as they are now."""
        return digest(self._facts(spec, bound)[0])

    def _facts(self, spec: ActionSpec, bound: Mapping[str, Any]) -> tuple[dict[str, Any], Canonical]:
        encoder = Canonical(spec.name, spec.redact, self.secret, fields=self._fields)
        if spec.facts is None:
            named: Mapping[str, object] = {n: v for n, v in bound.items() if n not in spec.not_facts}
        else:
            chosen = spec.facts(bound)
            named = chosen if isinstance(chosen, dict) else {"facts": chosen}
        return encoder.encode(named), encoder


def provider_key(identity: str, generation: int) -> str:
    """Return the idempotency key for the provider: stable across retries and restarts, new with each generation."""
    return hashlib.sha256(f"{identity}/{generation}".encode()).hexdigest()[:32]


def _identity(namespace: str, action: str, rest: str) -> str:
    # With their lengths, so that no text in one part can pass for the border to the next.
    joined = f"{len(namespace)}:{namespace}{len(action)}:{action}{rest}"
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def _key_text(spec: ActionSpec, key: object) -> str:
    if isinstance(key, Token | Opaque):
        raise KnownAfterApplyError(key.asyncsandbox_label, f"the key of {spec.name!r}")
    text = str(key) if isinstance(key, str | int) and not isinstance(key, bool) else _uuid_text(key)
    if not text or not is_writable(text):
        raise ConfigurationError(f"{spec.name}: key", key, "return a string that is not empty, an integer or a UUID")
    labels = labels_in(text)
    if labels:
        raise KnownAfterApplyError(labels[0], f"the key of {spec.name!r}")
    return text


def _uuid_text(key: object) -> str:
    return str(key) if isinstance(key, UUID) else ""


def _amount(spec: ActionSpec, amount: object) -> Decimal:
    if isinstance(amount, Decimal | int | float) and not isinstance(amount, bool):
        exact = Decimal(str(amount))
        if exact.is_finite():
            return exact
    raise ConfigurationError(f"{spec.name}: amount", amount, "return a finite Decimal, int or float")
