"""The text of a plan: equal for equal plans, different for different facts, without what is masked."""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox._core.codec import Canonical, show
from asyncsandbox._core.planned import ActionKind, PlannedAction
from asyncsandbox._core.tokens import Token, mark
from asyncsandbox.components.database import TableChange
from asyncsandbox.rehearsal import CodeManifest, Plan
from asyncsandbox.testing import plan_text
from asyncsandbox.testing.plan_text import difference, render


@dataclass(frozen=True)
class Order:
    id: object
    card: object = None


TEXT = st.text(st.characters(exclude_characters="\u27e6\u27e7", exclude_categories=["Cs"]), max_size=4)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals(allow_nan=False) | TEXT
    | st.datetimes() | st.binary(max_size=3) | st.uuids()
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT | st.sampled_from(["a", "a.b", "$type", "b"]), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=2)
        | st.builds(Order, inner)
        | st.sets(st.integers(0, 9), max_size=3)
    ),
    max_leaves=6,
)
FACTS = st.dictionaries(st.sampled_from(["order", "total", "who"]), VALUES, max_size=3)


def planned(facts: dict[str, Any], key: str = "k", **fields: Any) -> PlannedAction:
    encoder = Canonical("card.charge", frozenset({"card"}))
    return PlannedAction(
        identity=key,
        action="card.charge",
        kind=ActionKind.IRREVERSIBLE,
        key=key,
        keyed=fields.pop("keyed", True),
        facts=encoder.encode(facts),
        facts_digest="",
        **fields,
    )


def plan_of(*actions: PlannedAction, **fields: Any) -> Plan:
    code = CodeManifest(python="", modules={}, distributions={})
    return Plan(**{"planned_at": datetime(2026, 1, 1, tzinfo=UTC), "code": code, "actions": actions, **fields})


# ---------------------------------------------------------------- equal and different


def check_that_only_the_actions_count(calls: list[tuple[dict[str, Any], str]], seed: int) -> None:
    source = random.Random(seed)
    actions = [planned(facts, key) for facts, key in calls]
    moved = [planned(dict(source.sample(list(facts.items()), len(facts))), key, site="b.py:2") for facts, key in calls]
    source.shuffle(moved)
    other = plan_of(*moved, planned_at=datetime(2027, 2, 2, tzinfo=UTC), namespace="other", reads={"fx.rates": 3})
    assert render(other) == render(plan_of(*actions))


CALLS = st.lists(st.tuples(FACTS, TEXT.filter(bool)), max_size=4)


@given(CALLS, st.integers(0, 99))
def test_order_time_and_place_change_nothing(calls: list[tuple[dict[str, Any], str]], seed: int) -> None:
    check_that_only_the_actions_count(calls, seed)


@pytest.mark.parametrize("name", ["_action", "sorted"])
def test_the_check_catches_a_text_of_everything_in_any_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"_action": lambda action: (action.site,), "sorted": lambda items, **_: list(items)}
    monkeypatch.setattr(plan_text, name, broken[name], raising=False)

    def check(drawn: tuple[list[tuple[dict[str, Any], str]], int]) -> None:
        check_that_only_the_actions_count(*drawn)

    must_catch(check, st.tuples(CALLS, st.integers(0, 99)))


def check_that_facts_are_told_apart(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, other = (planned(facts) for facts in both)
    same = json.dumps(one.facts, sort_keys=True) == json.dumps(other.facts, sort_keys=True)
    assert (render(plan_of(one)) == render(plan_of(other))) is same


PAIRS = st.tuples(FACTS, FACTS) | FACTS.map(lambda facts: (facts, dict(reversed(facts.items()))))
ALIKE = st.sampled_from([1, "1", 1.0, True, "true", None, "null", Decimal(1), [1], {"1": 1}, {1: 1}, {1}, "[1]", b"1"])


@given(PAIRS | st.tuples(ALIKE, ALIKE).map(lambda two: ({"who": two[0]}, {"who": two[1]})))
def test_different_facts_have_different_texts(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    check_that_facts_are_told_apart(both)


def test_the_check_catches_a_text_that_is_only_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_text, "_say", lambda value: show({"": value}))
    must_catch(check_that_facts_are_told_apart, st.tuples(ALIKE, ALIKE).map(lambda t: ({"who": t[0]}, {"who": t[1]})))


def check_that_nothing_masked_shows(facts: dict[str, Any]) -> None:
    text = render(plan_of(planned({**facts, "card": "4242-4242", "order": Order(1, card="4242-4242")})))
    assert "4242" not in text
    assert text.count("******") == 2


@given(st.dictionaries(st.sampled_from(["total", "who"]), st.integers(0, 9)))
def test_what_is_masked_does_not_show(facts: dict[str, Any]) -> None:
    check_that_nothing_masked_shows(facts)


def test_the_check_catches_what_is_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Canonical, "_field", lambda self, _name, value, path, depth: self._value(value, path, depth))
    with pytest.raises(AssertionError):
        check_that_nothing_masked_shows({})


@given(CALLS)
def test_every_line_is_one_that_a_screen_can_show(calls: list[tuple[dict[str, Any], str]]) -> None:
    text = render(plan_of(*(planned(facts, key) for facts, key in calls)))
    assert all(line.isprintable() for line in text.split("\n"))


def test_what_is_known_after_apply_says_so() -> None:
    facts = {"charge": Token("card.charge[1].id"), "text": f"paid by {mark('card.charge[1].id')}", "none": []}
    text = render(plan_of(planned(facts, references=("card.charge[1].id",))))
    assert "  needs: card.charge[1].id\n  charge = (known after apply: card.charge[1].id)\n" in text
    assert '  text = "paid by (known after apply: card.charge[1].id)"\n' in text


def test_a_plan_reads_like_a_list() -> None:
    after = planned(
        {"to": "ada", "tags": [], "more": {}}, "2", amount=Decimal("1E+3"), destroys=True, keyed=False, count=3
    )
    later = planned(
        {"order": Order(7), "how": {1: {"a", "b"}, "x y": [1, {"z": True}]}}, "1", references=("pay[1].id",)
    )
    rows = (TableChange(table="b", inserted=2), TableChange(table="a", updated=1, deleted=3))
    assert render(plan_of(after, later, rows=rows)) == (
        "card.charge (no key) irreversible, destroys\n"
        "  times: 3\n"
        "  amount: 1000\n"
        "  more = {}\n"
        "  tags = []\n"
        '  to = "ada"\n'
        "\n"
        "card.charge [1] irreversible\n"
        "  needs: pay[1].id\n"
        '  how = {"x y": [1, {z: true}], 1: {"a", "b"}}\n'
        "  order = Order\n"
        "  order.card = ******\n"
        "  order.id = 7\n"
        "\n"
        "rows of a\n"
        "  +0 ~1 -3\n"
        "\n"
        "rows of b\n"
        "  +2 ~0 -0\n"
    )


# ---------------------------------------------------------------- what differs


@given(CALLS, CALLS)
def test_only_a_difference_is_one(before: Any, after: Any) -> None:
    texts = [render(plan_of(*(planned(facts, key) for facts, key in calls))) for calls in (before, after)]
    assert (difference(*texts) == "") is (texts[0] == texts[1])


def test_actions_come_and_go_and_change() -> None:
    before = render(plan_of(planned({"to": "ada"}, "1"), planned({"to": "bob"}, "2"), planned({"to": "cy"}, "3")))
    after = render(plan_of(planned({"to": "ada"}, "1"), planned({"to": "eve"}, "2"), planned({"to": "dan"}, "4")))
    assert difference(before, after).split("\n") == [
        "  card.charge [2] irreversible",
        '-   to = "bob"',
        '+   to = "eve"',
        "- card.charge [3] irreversible",
        '-   to = "cy"',
        "+ card.charge [4] irreversible",
        '+   to = "dan"',
    ]


def test_equal_calls_are_counted() -> None:
    one = render(plan_of(planned({}, "~1", keyed=False)))
    two = render(plan_of(planned({}, "~1", keyed=False), planned({}, "~2", keyed=False)))
    assert difference(one, two) == "+ card.charge (no key) irreversible"


def test_a_long_difference_is_cut() -> None:
    lines = difference(render(plan_of()), render(plan_of(*(planned({}, str(n)) for n in range(99))))).split("\n")
    assert len(lines) == 61
    assert lines[-1] == "  ... 40 more lines"


def test_a_value_known_after_apply_and_sets_that_are_empty_say_so() -> None:
    said = plan_text._say({"charge": {"$after_apply": "card.charge[1].id"}, "none": {"$set": []}, "one": {"$set": [1]}})
    assert said == "{charge: (known after apply: card.charge[1].id), none: set(), one: {1}}"
