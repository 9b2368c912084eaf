"""What a call is: its identity, its facts, its references."""

import copy
import dataclasses
import inspect
import os
import pickle
import subprocess
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox._core import planned
from asyncsandbox._core.declaration import Declaration
from asyncsandbox._core.planned import FILLED_IN, ActionKind, ActionSpec, PlannedAction, Planner, provider_key
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.errors import ConfigurationError, KnownAfterApplyError


async def pay(to: Any = None, what: Any = None, *, card_token: Any = None, idempotency_key: str = "") -> None: ...


def declare(name: str = "pay", function: Any = pay, **declared: Any) -> ActionSpec:
    return Declaration(name=name, kind=ActionKind.IRREVERSIBLE, **declared).spec(function)


def plan(spec: ActionSpec, *args: Any, planner: Planner | None = None, **kwargs: Any) -> PlannedAction:
    return (planner or Planner()).plan(spec, spec.arguments.bind(args, kwargs))


KEYED = {"key": lambda to: to}

# Texts made of the borders that an identity might be joined with.
PART = st.text(st.sampled_from("a1:/~\x1f\x00[]"), min_size=1, max_size=4).filter(lambda text: text.strip())
CALL = st.tuples(PART, PART, PART)


def check_identity(pair: tuple[tuple[str, str, str], tuple[str, str, str]]) -> None:
    first, second = (
        plan(declare(name, **KEYED), key, planner=Planner(namespace=namespace)) for namespace, name, key in pair
    )
    assert (first.identity == second.identity) == (pair[0] == pair[1])


@given(st.tuples(CALL, CALL))
def test_identities_are_equal_exactly_when_namespace_action_and_key_are(pair: Any) -> None:
    check_identity(pair)


@st.composite
def shifted(draw: st.DrawFn) -> Any:
    a, b, c, border = draw(PART), draw(PART), draw(PART), draw(st.sampled_from([":", "/", "\x1f", "\x00"]))
    return ((a, f"b{border}{b}", c), (f"{a}{border}b", b, c))


@given(shifted())
def test_a_border_inside_a_part_is_no_border(pair: Any) -> None:
    check_identity(pair)


def test_the_property_catches_parts_that_are_only_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "_identity", lambda *parts: "\x1f".join(parts))
    must_catch(check_identity, shifted())


@given(st.permutations(["a", "b", "c"]))
def test_identities_do_not_depend_on_order_or_correlation(order: list[str]) -> None:
    planner, spec = Planner(), declare(**KEYED)
    assert {plan(spec, key, planner=planner).identity for key in order} == {plan(spec, key).identity for key in "abc"}


def test_identities_are_the_same_in_every_process() -> None:
    program = (
        "from asyncsandbox._core.declaration import Declaration\n"
        "from asyncsandbox._core.planned import ActionKind, Planner\n"
        "spec = Declaration(name='pay', kind=ActionKind.IRREVERSIBLE, key=lambda to: to).spec(lambda to, tags: None)\n"
        "print(Planner().plan(spec, {'to': 'ada', 'tags': {'x', 'y', 'z'}}))"
    )
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("0", "1", "77")]
    run = lambda env: subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True).stdout  # noqa: E731
    assert len(set(map(run, seeds))) == 1


def test_equal_calls_without_a_key_are_counted() -> None:
    planner, spec = Planner(), declare()
    calls = [plan(spec, "ada", planner=planner), plan(spec, "bob", planner=planner), plan(spec, "ada", planner=planner)]
    assert [call.identity.rpartition("/")[2] for call in calls] == ["1", "1", "2"]
    assert (
        calls[0].identity.partition("/")[0]
        == calls[2].identity.partition("/")[0]
        != calls[1].identity.partition("/")[0]
    )
    assert not calls[0].keyed
    assert calls[0].label == f"pay[~{calls[0].facts_digest[:8]}]"


def test_a_keyed_call_is_never_taken_for_one_without() -> None:
    without = plan(declare(), "ada")
    keyed = plan(declare(**KEYED), f"{without.key}\x1f{without.facts_digest}")
    assert keyed.identity not in without.identity


@pytest.mark.parametrize(("key", "text"), [("a", "a"), (5, "5"), (-1, "-1"), (UUID(int=1), str(UUID(int=1)))])
def test_a_key_is_text_a_number_or_a_uuid(key: object, text: str) -> None:
    assert plan(declare(key=lambda: key)).key == text


@pytest.mark.parametrize("key", ["", None, True, 1.5, b"a", ("a",), object, "\ud800"], ids=repr)
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(ConfigurationError, match="pay: key"):
        plan(declare(key=lambda: key))


@pytest.mark.parametrize(("amount", "text"), [(5, "5"), (1.1, "1.1"), (Decimal("9.90"), "9.90")])
def test_an_amount_is_exact(amount: object, text: str) -> None:
    assert plan(declare(amount=lambda: amount)).amount == Decimal(text)


@pytest.mark.parametrize("amount", ["5", None, True, float("nan"), Decimal("Infinity"), 1j], ids=repr)
def test_other_amounts_are_refused(amount: object) -> None:
    with pytest.raises(ConfigurationError, match="pay: amount"):
        plan(declare(amount=lambda: amount))


def test_references_stand_in_keyed_facts_only() -> None:
    keyed, keyless = declare(**KEYED), declare()
    what = {"deep": [Token("card.charge[2].id"), "see " + Token("card.charge[1].id"), Opaque("card.charge[2].id")]}
    call = plan(keyed, "ada", what)
    assert call.references == ("card.charge[1].id", "card.charge[2].id")
    assert "(known after apply: card.charge[2].id)" in call.show()
    with pytest.raises(KnownAfterApplyError, match=r"card.charge\[1\].*'pay', an action without a key"):
        plan(keyless, "ada", what)
    for key in (Token("c[1]"), Opaque("c[1]"), "to " + Token("c[1]"), f"to {Token('c[1]')}"):
        with pytest.raises(KnownAfterApplyError, match=r"c\[1\].*the key of 'pay'"):
            plan(keyed, key)


@given(st.text(max_size=5), st.text(max_size=5))
def test_facts_are_what_the_callback_says(first: str, second: str) -> None:
    assume(first != second)
    spec = declare(facts=lambda to: {"to": to}, **KEYED)
    assert plan(spec, "a", first).facts_digest == plan(spec, "a", second).facts_digest
    assert plan(spec, "a").facts == {"to": "a"}
    assert plan(declare(facts=lambda what: what), "a", 5).facts == {"facts": 5}


def test_the_providers_key_and_the_object_are_no_facts() -> None:
    class Shop:
        async def pay(self, to: str) -> None: ...

    assert plan(declare(), "ada", idempotency_key="x").facts == {"to": "ada", "what": None, "card_token": None}
    assert plan(declare(function=Shop.pay), Shop(), "ada").facts == {"to": "ada"}

    async def book(cls: str) -> None: ...

    assert plan(declare(function=book), "first").facts == {"cls": "first"}


def test_masked_values_are_compared_only_under_a_masking_key() -> None:
    spec = declare(redact=["card_token"], **KEYED)
    for secret in (None, b"0123456789abcdef"):
        one, other = (plan(spec, "a", planner=Planner(secret=secret), card_token=token) for token in ("4242", "4343"))
        assert one.compared == (secret is not None)
        assert (one.facts_digest == other.facts_digest) == (secret is None)
        assert "4242" not in repr(one)


def test_facts_are_digested_as_they_are_now() -> None:
    @dataclasses.dataclass
    class Invoice:
        total: int

    planner, spec, invoice = Planner(), declare(**KEYED), Invoice(1)
    bound = spec.arguments.bind(("a", invoice), {})
    call = planner.plan(spec, bound)
    assert planner.facts_digest(spec, bound) == call.facts_digest
    invoice.total = 2
    assert planner.facts_digest(spec, bound) != call.facts_digest


def test_filled_in_is_itself_everywhere() -> None:
    assert pickle.loads(pickle.dumps(FILLED_IN)) is copy.deepcopy(FILLED_IN) is FILLED_IN
    assert inspect.getdoc(FILLED_IN)


def test_the_providers_key_changes_with_identity_and_generation_only() -> None:
    assert provider_key("a", 1) == provider_key("a", 1)
    assert len({provider_key("a", 1), provider_key("a", 2), provider_key("b", 1)}) == 3
    assert len(provider_key("a", 1)) == 32
