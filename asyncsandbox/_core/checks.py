"""What is asked about the state of things, and what comes of it: a check, its result, and the report on many.

A component returns its checks from ``get_checks()``; only the readiness checker asks them.

>>> disk = Check(name="disk", fn=lambda: True)
>>> result = CheckResult.from_answer("82 % full")
>>> result.status, ReadinessReport.on((result,)).verdict
(<CheckStatus.WARN: 'warn'>, <Verdict.DEGRADED: 'DEGRADED'>)
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self, TypeAlias, TypedDict

from ..errors import ConfigurationError
from .settings import require_name, require_number

HEALTH_MEDIA_TYPE = "application/health+json"


class CheckGroup(StrEnum):
    """Who asks: the start of the program, traffic, or a supervisor that would restart it."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


class CheckStatus(StrEnum):
    """How a check came out."""

    PASS = "pass"  # noqa: S105 - a status, no password
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


class Verdict(StrEnum):
    """What the checks say together."""

    GO = "GO"
    DEGRADED = "DEGRADED"
    NO_GO = "NO-GO"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How one check came out. A check function may return one with status and output; the rest is filled in.

    Attributes:
        status: How it came out.
        output: What there is to say about it.
        because: Names of the failed checks for which this one was SKIPPED.
        name: Name of the check.
        critical: Whether a failure forbids going on.
        duration_seconds: How long the check itself ran.
        at: When it ended, ISO 8601 in UTC; empty where it did not run.
    """

    status: CheckStatus
    output: str = ""
    because: tuple[str, ...] = ()
    name: str = ""
    critical: bool = True
    duration_seconds: float = 0.0
    at: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", CheckStatus(self.status))

    @classmethod
    def from_answer(cls, answer: object) -> CheckResult:
        """Return what a check function's return value means."""
        match answer:
            case CheckResult():
                return answer
            case None | True | "":
                return cls(status=CheckStatus.PASS)
            case str():
                return cls(status=CheckStatus.WARN, output=answer)
            case False:
                return cls(status=CheckStatus.FAIL, output="returned False")
            case _:
                said = f"returned {type(answer).__name__}: return a bool, None, text or a CheckResult"
                return cls(status=CheckStatus.FAIL, output=said)

    @classmethod
    def from_error(cls, error: BaseException) -> Self:
        """Return what an exception raised by a check function means."""
        try:
            output = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001 - one that cannot be printed must not escape either
            output = type(error).__name__
        return cls(status=CheckStatus.FAIL, output=output)

    @property
    def blocks(self) -> bool:
        """Whether checks that depend on this one must not be asked."""
        return self.status in {CheckStatus.FAIL, CheckStatus.SKIPPED}

    @property
    def forbids(self) -> bool:
        """Whether this alone forbids going on."""
        return self.critical and self.blocks


CheckAnswer: TypeAlias = bool | str | CheckResult | None
CheckFunction: TypeAlias = Callable[[], CheckAnswer | Awaitable[CheckAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named question.

    Attributes:
        name: What the report calls it; unique per checker.
        fn: Called without arguments: a coroutine function, or a plain one, which runs in a thread. True, None
            and empty text pass; other text is a warning; False, an exception and anything else fail.
        critical: Whether a failure forbids going on.
        timeout_seconds: How long ``fn`` may take (> 0); None for the checker's default.
        ttl_seconds: How long a pass is kept before ``fn`` runs again (>= 0); None for the checker's default.
        depends_on: Names of checks that must not fail before this one is asked.
        groups: In which groups it is asked.
    """

    name: str
    fn: CheckFunction
    critical: bool = True
    timeout_seconds: float | None = None
    ttl_seconds: float | None = None
    depends_on: tuple[str, ...] = ()
    groups: tuple[str, ...] = (CheckGroup.READINESS,)

    def __post_init__(self) -> None:
        require_name("Check.name", self.name)
        if not callable(self.fn):
            raise ConfigurationError("Check.fn", self.fn, "give a function without arguments")
        if self.timeout_seconds is not None:
            require_number("Check.timeout_seconds", self.timeout_seconds, above=0)
        if self.ttl_seconds is not None:
            require_number("Check.ttl_seconds", self.ttl_seconds, at_least=0)
        object.__setattr__(self, "depends_on", _split("Check.depends_on", self.depends_on))
        groups = tuple(parse_group("Check.groups", group) for group in _split("Check.groups", self.groups))
        if not groups:
            raise ConfigurationError("Check.groups", groups, f"give one or more of {', '.join(CheckGroup)}")
        object.__setattr__(self, "groups", groups)

    def sign(self, result: CheckResult, *, duration_seconds: float = 0.0, at: str = "") -> CheckResult:
        """Return the result as that of this check."""
        return replace(result, name=self.name, critical=self.critical, duration_seconds=duration_seconds, at=at)

    @classmethod
    def failing(cls, name: str, output: str) -> Self:
        """Return a check that always fails and says why."""

        async def fail() -> CheckResult:
            return CheckResult(status=CheckStatus.FAIL, output=output)

        return cls(name=name, fn=fail)


class CheckOptions(TypedDict, total=False):
    """What `Check` takes besides its name and function."""

    critical: bool
    timeout_seconds: float | None
    ttl_seconds: float | None
    depends_on: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessReport:
    """What one run of checks found.

    Attributes:
        verdict: NO-GO if a critical check failed or was skipped, else DEGRADED if any did not pass, else GO.
        checks: Every check of the run, by name.
        group: The group that was asked, None for all checks.
        at: When the run ended, ISO 8601 in UTC.
    """

    verdict: Verdict
    checks: tuple[CheckResult, ...]
    group: CheckGroup | None = None
    at: str = ""

    @classmethod
    def on(cls, results: Iterable[CheckResult], *, group: CheckGroup | None = None, at: str = "") -> Self:
        """Return the report on some results, in the order of their names, with the verdict they give."""
        checks = tuple(sorted(results, key=lambda result: result.name))
        if any(check.forbids for check in checks):
            verdict = Verdict.NO_GO
        else:
            passed = all(check.status is CheckStatus.PASS for check in checks)
            verdict = Verdict.GO if passed else Verdict.DEGRADED
        return cls(verdict=verdict, checks=checks, group=group, at=at)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that forbid going on, in order."""
        return tuple(check.name for check in self.checks if check.forbids)

    def to_health_json(self, *, details: bool = True) -> str:
        """Return a body of type `HEALTH_MEDIA_TYPE`, after draft-inadarei-api-health-check-06.

        Args:
            details: Whether to say more than pass, warn or fail. Outputs may hold what an exception said:
                show them to people you trust.

        Example:
            >>> ReadinessReport.on([]).to_health_json(details=False)
            '{"status": "pass"}'
        """
        status = {Verdict.GO: "pass", Verdict.DEGRADED: "warn", Verdict.NO_GO: "fail"}[self.verdict]
        body: dict[str, object] = {"status": status}
        if details:
            body["output"] = self.verdict.value
            body["checks"] = {check.name: [_to_health(check)] for check in self.checks}
        return json.dumps(body)


def parse_group(field: str, group: str) -> CheckGroup:
    """Return the group of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return CheckGroup(group)
    except ValueError:
        raise ConfigurationError(field, group, f"give one of {', '.join(CheckGroup)}") from None


def _to_health(result: CheckResult) -> dict[str, object]:
    health: dict[str, object] = {"status": "fail" if result.blocks else result.status.value}
    if result.output:
        health["output"] = result.output
    if result.at:
        seconds = round(result.duration_seconds, 6)
        health |= {"time": result.at, "observedValue": seconds, "observedUnit": "s"}
    return health


def _split(field: str, names: Iterable[str]) -> tuple[str, ...]:
    # A lone string is a sequence of letters, which is never what was meant.
    if isinstance(names, str):
        raise ConfigurationError(field, names, f"give a tuple of names, as in ({names!r},)")
    return tuple(names)
