"""Mistakes in declarations that only a sandbox can see: a limit nobody declared, a retry that can never retry."""

import types
from dataclasses import dataclass

import pytest

from asyncsandbox import FILLED_IN, RetrySettings, Sandbox, Verdict, irreversible, read_only
from asyncsandbox._core.mistakes import find_mistakes, specs_of
from asyncsandbox.components.governor import GovernorEnforcer, GovernorSettings, Limit
from asyncsandbox.errors import ConfigurationError


class UnreachableError(Exception):
    pass


@dataclass(frozen=True)
class Declared:
    """Decorated functions, each with what is wrong with it."""

    @staticmethod
    @irreversible("a.right", limit="card", retry=RetrySettings())
    async def right(order: str, *, idempotency_key: str = FILLED_IN) -> None: ...

    @staticmethod
    @irreversible("b.not_delivered", retry=RetrySettings(), not_delivered=(UnreachableError,))
    async def not_delivered(order: str) -> None: ...

    @staticmethod
    @irreversible("c.only_a_breaker", retry=RetrySettings(max_retries=0))
    async def only_a_breaker(order: str) -> None: ...

    @staticmethod
    @irreversible("d.never", retry=RetrySettings())
    async def never(order: str) -> None: ...

    @staticmethod
    @irreversible("e.no_such_limit", limit="crad")
    async def no_such_limit(order: str) -> None: ...

    @staticmethod
    @read_only("f.read")
    async def read(order: str) -> None: ...


ALL = [
    Declared.right,
    Declared.not_delivered,
    Declared.only_a_breaker,
    Declared.never,
    Declared.no_such_limit,
    Declared.read,
]
CARD = GovernorSettings(limits={"card": Limit(10, 60)})


def test_each_mistake_is_a_sentence_that_ends_with_the_remedy() -> None:
    said = find_mistakes(specs_of(ALL).values(), GovernorEnforcer(settings=CARD))
    assert [sentence.partition(":")[0] for sentence in said] == ["d.never", "e.no_such_limit"]
    assert said[0].endswith("name not_delivered= errors")
    assert "limit 'crad' is not declared: governor.set_limit('crad'," in said[1]


def test_without_a_governor_no_limit_is_declared() -> None:
    said = find_mistakes(specs_of([Declared.right]).values(), None)
    assert len(said) == 1
    assert "'card'" in said[0]


def test_actions_are_given_one_by_one_or_by_the_module() -> None:
    module = types.ModuleType("shop")
    module.charge, module.number = Declared.right, 7  # type: ignore[attr-defined]
    assert list(specs_of([module, Declared.read])) == ["a.right", "f.read"]


@pytest.mark.parametrize("given", [7, len, types.ModuleType("empty"), "shop"])
def test_what_is_no_action_is_refused(given: object) -> None:
    with pytest.raises(ConfigurationError, match="actions="):
        Sandbox(actions=[given])


async def test_a_mistake_is_a_no_go_before_the_first_call() -> None:
    async with Sandbox(actions=[Declared.no_such_limit]) as sandbox:
        report = await sandbox.readiness.run_all_checks()
        assert report.verdict is Verdict.NO_GO
        (check,) = [check for check in report.checks if check.name == "actions"]
        assert "'crad' is not declared" in check.output
        sandbox.governor.set_limit("crad", 1, 60)
        assert await sandbox.is_ready()


async def test_a_mistake_is_a_no_go_once_the_action_was_called() -> None:
    async with Sandbox() as sandbox:
        assert await sandbox.is_ready()
        await Declared.never("o-1")
        assert not await sandbox.is_ready()
    async with Sandbox() as another:
        assert await another.is_ready(), "two sandboxes never see each other"
