# ruff: noqa: PLW0108, FLY002, FURB171 - the table shows each use as a program writes it
"""Stand-ins: what may be done with them leaves a reference, what may not raises, and nothing lies silently."""

import base64
import copy
import csv
import dataclasses
import html
import io
import json
import logging
import operator
import os
import pathlib
import pickle
import re
import sqlite3
import string
import urllib.parse
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NewType, NotRequired, Optional, TypedDict

import attrs
import msgspec
import orjson
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from asyncsandbox._core import tokens
from asyncsandbox._core.codec import Canonical
from asyncsandbox._core.tokens import (
    Opaque,
    Token,
    call_site,
    labels_in,
    resolve,
    show_marks,
    stand_in_maker,
    tokens_in,
)
from asyncsandbox.errors import KnownAfterApplyError

if TYPE_CHECKING:
    from datetime import date

LABEL = "card.charge[inv-17].id"
MARK = f"\u27e6{LABEL}\u27e7"


def stand_in(annotation: object, label: str) -> Any:
    return stand_in_maker(annotation)(label)


class Receipt(pydantic.BaseModel):
    charge_id: str


@dataclasses.dataclass
class Paid:
    charge_id: str


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    charge_id: Mapped[str | None]


def written_by_sqlite(token: str) -> object:
    with sqlite3.connect(":memory:") as connection:
        (found,) = connection.execute("select ?", (token,)).fetchone()
    connection.close()
    return found


def written_by_orm(token: str) -> object:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Invoice(charge_id=token))
        invoice = Invoice(charge_id=None)
        session.add(invoice)
        session.commit()
        assert invoice.charge_id is None
        invoice.charge_id = token
        session.commit()
        found = session.scalars(sa.select(Invoice.charge_id).where(Invoice.charge_id == token)).all()
    engine.dispose()
    assert len(found) == 2
    return found[0]


def written_by_csv(token: str) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([token])
    return out.getvalue()


def written_by_logging(token: str) -> str:
    return logging.LogRecord("shop", logging.INFO, "", 0, "charged %s", (token,), None).getMessage()


PASSES = {
    "itself": lambda t: t,
    "str()": str,
    "f-string": lambda t: f"Your receipt: {t}",
    "format()": format,
    "str.format": "Your receipt: {}".format,
    "percent": lambda t: "Your receipt: %s" % t,  # noqa: UP031
    "text + token": lambda t: "re: " + t,
    "token + text": lambda t: t + "!",
    "join": lambda t: ", ".join(["a", t]),
    "join of one": lambda t: "".join([t]),
    "Template": lambda t: string.Template("re: $id").substitute(id=t),
    "list": lambda t: [t],
    "dict value": lambda t: {"id": t},
    "dataclass": Paid,
    "asdict": lambda t: dataclasses.asdict(Paid(t)),
    "pydantic": lambda t: Receipt(charge_id=t),
    "pydantic dump": lambda t: Receipt(charge_id=t).model_dump_json(),
    "json.dumps": lambda t: json.dumps({"id": t}),
    "json.dumps twice": lambda t: json.dumps(json.dumps({"id": t})),
    "json.dumps, unicode": lambda t: json.dumps({"id": t}, ensure_ascii=False, indent=1),
    "json bytes": lambda t: json.dumps({"id": t}).encode(),
    "orjson": lambda t: orjson.dumps({"id": t}),
    "msgspec with enc_hook": lambda t: msgspec.json.encode({"id": t}, enc_hook=tokens.plain_text),
    "bytes()": lambda t: bytes(t, "utf-8"),
    "quoted URL": lambda t: urllib.parse.quote(f"/charges/{t}", safe="/[]"),
    "sqlite3": written_by_sqlite,
    "SQLAlchemy": written_by_orm,
    "csv": written_by_csv,
    "logging": written_by_logging,
    "print": lambda t: (out := io.StringIO(), print(t, file=out))[0].getvalue(),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "copy": copy.copy,
    "deepcopy": lambda t: copy.deepcopy({"id": [t]}),
    "StringIO": lambda t: io.StringIO(t).read(),
}

REFUSED = {
    "== text": lambda t: t == "ch_1",
    "text ==": lambda t: "ch_1" == t,  # noqa: SIM300
    "!=": lambda t: t != "ch_1",
    "<": lambda t: t < "ch_1",
    ">=": lambda t: "ch_1" >= t,  # noqa: SIM300
    "== other token": lambda t: t == Token("card.charge[inv-18].id"),
    "if": lambda t: 1 if t else 2,
    "not": operator.not_,
    "and": lambda t: t and 1,
    "len": len,
    "iter": list,
    "unpack": lambda t: [*t],
    "index": lambda t: t[0],
    "slice": lambda t: t[:3],
    "in token": lambda t: "ch" in t,
    "token in list": lambda t: t in ["ch_1"],
    "hash": hash,
    "dict key": lambda t: {t: 1},
    "dict lookup": lambda t: {"ch_1": 1}.get(t),
    "set": lambda t: {t},
    "sorted": lambda t: sorted(["b", t]),
    "sorted tokens": lambda t: sorted([Token("x[1]"), t]),
    "max": lambda t: max("a", t),
    "match": lambda t: _match(t),
    "int": int,
    "float": float,
    "repeat": lambda t: t * 2,
    "token %": lambda t: t % 1,
    "encode": lambda t: t.encode(),
    "split": lambda t: t.split("_"),
    "startswith": lambda t: t.startswith("ch_"),
    "upper": lambda t: t.upper(),
    "replace": lambda t: t.replace("a", "b"),
    "isdigit": lambda t: t.isdigit(),
    "token.join": lambda t: t.join(["a", "b"]),
    "format width": lambda t: f"{t:>40}",
    "format cut": lambda t: f"{t:.3}",
    "header": lambda t: {"Idempotency-Key": t.encode("ascii")},
    "b64decode": base64.b64decode,
    "quote": urllib.parse.quote,
    "html.escape": html.escape,
    "UUID": uuid.UUID,
    "path": lambda t: os.path.join("receipts", t),  # noqa: PTH118
    # Since Python 3.12 a path looks at its parts no sooner than when somebody looks at it.
    "Path": lambda t: str(pathlib.PurePosixPath("receipts") / t),
}

OTHERWISE_LOUD = {
    "b64encode": (base64.b64encode, TypeError),
    "Decimal": (Decimal, InvalidOperation),
    "msgspec": (msgspec.json.encode, TypeError),
    "int +": (lambda t: t + 1, TypeError),
    "+ int": (lambda t: 1 + t, TypeError),
    "StrEnum": (lambda t: StrEnum("E", {"A": "a"})(t), KnownAfterApplyError),
}

# C code that reads the characters of any str: Python gives a subclass no say. docs/reference/dry_run.md names them.
SILENT = {
    "re.match": lambda t: re.match("ch_", t),
    "token in text": lambda t: t in "ch_1",
    "text.startswith": lambda t: "ch_1".startswith(t),
    "cut by %": lambda t: "%.3s" % t,  # noqa: UP031
}


def _match(token: str) -> int:
    match token:
        case "ch_1":
            return 1
        case _:
            return 2


def references(value: object) -> list[str]:
    encoder = Canonical("test")
    encoder.encode({"value": value})
    return encoder.references


@pytest.mark.parametrize("use", PASSES)
def test_what_passes_leaves_a_reference(use: str) -> None:
    made = PASSES[use](Token(LABEL))
    assert references(made) == [LABEL]
    assert tokens_in(made) == [LABEL]


@pytest.mark.parametrize("use", REFUSED)
def test_what_looks_at_a_token_raises_and_names_the_line(use: str) -> None:
    with pytest.raises(KnownAfterApplyError) as caught:
        REFUSED[use](Token(LABEL))
    assert caught.value.value == LABEL
    assert re.fullmatch(r"test_tokens\.py:\d+", caught.value.line)
    assert "give 'card.charge' a dry_result=" in str(caught.value)


@pytest.mark.parametrize("use", OTHERWISE_LOUD)
def test_what_python_itself_refuses(use: str) -> None:
    look, error = OTHERWISE_LOUD[use]
    with pytest.raises(error):
        look(Token(LABEL))


@pytest.mark.parametrize("use", SILENT)
def test_what_cannot_be_refused_is_known(use: str) -> None:
    assert SILENT[use](Token(LABEL)) in (None, False, MARK[:3])


@pytest.mark.parametrize("use", sorted(set(dir(str)) - set(dir(object)) - {"maketrans"}))
def test_every_method_of_str_refuses_or_is_listed(use: str) -> None:
    allowed = {"__add__", "__format__", "__getnewargs__", "__rmod__"}
    if use in allowed:
        return
    with pytest.raises(KnownAfterApplyError):
        getattr(Token(LABEL), use)(*[1] * (use in ("__mul__", "__rmul__", "__mod__", "__contains__", "__getitem__")))


class ForgetsToRefuse(Token):
    """A broken variant: it compares like any text."""

    __slots__ = ()
    __eq__ = str.__eq__
    __hash__ = str.__hash__


@pytest.mark.parametrize("use", ["== text", "set", "dict lookup", "hash"])
def test_the_table_catches_a_token_that_answers(use: str) -> None:
    with pytest.raises(pytest.fail.Exception), pytest.raises(KnownAfterApplyError):
        REFUSED[use](ForgetsToRefuse(LABEL))


def test_two_answers_are_certain_and_given() -> None:
    token = Token(LABEL)
    assert (token == None, token != None, token == 5) == (False, True, False)  # noqa: E711
    assert token == Token(LABEL)
    assert not token != Token(LABEL)  # noqa: SIM202
    assert token in [token]
    assert isinstance(token, str)


def test_a_token_shows_what_it_is() -> None:
    assert repr(Token(LABEL)) == f"(known after apply: {LABEL})"
    assert repr("to " + Token(LABEL)) == f"to (known after apply: {LABEL})"
    assert show_marks("plain") == "plain"
    assert references("a " + Token("x[1].a") + " and " + Token("x[2].b")) == ["x[1].a", "x[2].b"]


@given(st.text(st.characters(exclude_characters="\u27e6\u27e7", exclude_categories=["Cs"]), min_size=1), st.text())
def test_labels_are_found_in_any_text(label: str, around: str) -> None:
    around = around.replace("\u27e6", "").replace("\u27e7", "")
    if "27e6" in around.lower() or "27e7" in around.lower() or "%" in around + label or "\\" in label:
        return
    assert labels_in(f"{around}{Token(label)}{around}") == [label]


# ------------------------------------------------------------------ opaque values


OPAQUE_USES = (
    "o == 1; o != o; o < 1; bool(o); hash(o); len(o); list(o); int(o); float(o); round(o); abs(o); -o; "
    "o + 1; 1 + o; 'a' + o; o - 1; 1 - o; o * 2; 2 * o; o / 2; 2 / o; o // 2; o % 2; o['id']; 'id' in o; "
    "o.id; getattr(o, 'id', None); hasattr(o, 'id'); o(); setattr(o, 'id', 1); f'{o:>10}'; [1, 2][o]; "
    "{o: 1}; next(iter(o))"
)


@pytest.mark.parametrize("use", OPAQUE_USES.split("; "))
def test_an_opaque_value_answers_nothing(use: str) -> None:
    with pytest.raises(KnownAfterApplyError, match=r"x\[1\] is known only after apply.* at "):
        eval(use, {"o": Opaque("x[1]"), "__name__": "__main__"})


def test_an_opaque_value_can_be_handed_on() -> None:
    value = Opaque("x[1]")
    assert repr(value) == "(known after apply: x[1])"
    assert labels_in(f"{value}") == ["x[1]"]
    assert references({"deep": [value]}) == tokens_in({"deep": [value]}) == ["x[1]"]
    for copied in (copy.copy(value), copy.deepcopy([value])[0], pickle.loads(pickle.dumps(value))):
        assert repr(copied) == repr(value)
    with pytest.raises(AttributeError):
        _ = value.__missing__
    with pytest.raises(TypeError):
        value["id"] = 1


def test_tokens_are_found_as_far_as_declared_structure_goes() -> None:
    token = Token("x[1]")
    for holder in ([token], (token,), deque([token]), {"a": token}, MappingProxyType({"a": token}), Paid(token)):
        assert tokens_in([holder]) == ["x[1]"]
    assert tokens_in({1, None, 2.0}) == []
    assert tokens_in(object()) == []
    cyclic: list[object] = [token]
    cyclic.append(cyclic)
    assert set(tokens_in(cyclic)) == {"x[1]"}


# ------------------------------------------------------------------ made from the return annotation

ChargeId = NewType("ChargeId", str)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    code: str
    note: str = "default"
    tries: int = 3
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Outer:
    id: ChargeId
    inner: Inner
    link: Annotated[str | None, "url"]
    computed: str = dataclasses.field(init=False, default="fixed")


@attrs.frozen
class Attrs:
    id: str
    _secret: str
    count: int = 0


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    tries: int = 1
    charge_id: str


class Late(msgspec.Struct, kw_only=True):
    tries: int = 1
    total: int


class Model(pydantic.BaseModel):
    charge_id: str = pydantic.Field(alias="chargeId", min_length=50)
    tries: int = 1


class Tuple(NamedTuple):
    id: str
    tries: int = 1


class Typed(TypedDict):
    id: str
    note: NotRequired[str]
    tries: NotRequired[int]


def token_fields(value: object, *names: str) -> list[str]:
    found = [getattr(value, name) for name in names]
    assert all(type(item) is Token for item in found)
    return [item.asyncsandbox_label for item in found]


def test_text_fields_become_tokens_and_defaults_stay() -> None:
    outer = stand_in(Outer, "c[1]")
    assert type(outer) is Outer
    assert token_fields(outer, "id", "link") == ["c[1].id", "c[1].link"]
    assert outer.computed == "fixed"
    assert token_fields(outer.inner, "code", "note") == ["c[1].inner.code", "c[1].inner.note"]
    assert (outer.inner.tries, outer.inner.tags) == (3, [])
    assert token_fields(stand_in(Attrs, "c[1]"), "id", "_secret") == ["c[1].id", "c[1]._secret"]
    assert token_fields(stand_in(Struct, "c[1]"), "charge_id") == ["c[1].charge_id"]
    assert token_fields(stand_in(Model, "c[1]"), "charge_id") == ["c[1].charge_id"]
    assert stand_in(Model, "c[1]").tries == 1
    assert token_fields(stand_in(Tuple, "c[1]"), "id") == ["c[1].id"]
    typed = stand_in(Typed, "c[1]")
    assert set(typed) == {"id", "note"}
    assert type(typed["id"]) is Token


@pytest.mark.parametrize("kind", [str, ChargeId, Annotated[str, 1], str | None, Optional[str]], ids=repr)  # noqa: UP045
def test_text_becomes_a_token(kind: object) -> None:
    assert type(stand_in(kind, "c[1]")) is Token


@pytest.mark.parametrize("kind", [None, type(None)])
def test_nothing_stays_nothing(kind: object) -> None:
    assert stand_in(kind, "c[1]") is None


@pytest.mark.parametrize(
    "kind", [int, dict, dict[str, str], list[str], Any, Outer | None, object, str | int, "Outer"], ids=repr
)
def test_what_says_too_little_is_opaque(kind: object) -> None:
    assert type(stand_in(kind, "c[1]")) is Opaque


def test_a_required_field_that_is_not_text_is_refused_by_name() -> None:
    @dataclasses.dataclass
    class Total:
        id: str
        total: int

    for kind in (Total, Late):
        with pytest.raises(KnownAfterApplyError, match=r"c\[1\].total.*the return type (Total|Late)"):
            stand_in(kind, "c[1]")


@dataclasses.dataclass
class HalfHidden:
    """Fields as written under ``from __future__ import annotations``, one of them for type checkers only."""

    id: "str"
    at: "date | None" = None


def test_a_name_for_type_checkers_only_does_not_hide_the_other_fields() -> None:
    assert token_fields(stand_in(HalfHidden, "c[1]"), "id") == ["c[1].id"]
    assert resolve("date", {}) is Any
    assert resolve("int | str", {}) == int | str
    assert resolve("not valid (", {}) is Any


# ------------------------------------------------------------------ where


def test_the_site_is_the_users_line_also_below_a_library() -> None:
    assert re.fullmatch(r"test_tokens\.py:\d+", call_site())
    seen: list[str] = []

    class Spy:
        def __str__(self) -> str:
            seen.append(call_site())
            return ""

    logging.LogRecord("a", 1, "", 0, "%s", (Spy(),), None).getMessage()
    re.sub("x", lambda _: seen.append(call_site()) or "", "x")
    exec("seen.append(call_site())", {"seen": seen, "call_site": call_site})
    assert all(re.fullmatch(r"test_tokens\.py:\d+", site) for site in seen)
    assert len(seen) == 3


async def test_in_a_task_of_its_own_there_is_no_site() -> None:
    import asyncio

    async def action() -> str:
        return where()

    # The frames of this module would be the answer; take them out to look at what is below.
    namespace: dict[str, Any] = {"call_site": call_site, "__name__": "asyncsandbox.fake"}
    exec("def where(): return call_site()\nasync def action(): return where()", namespace)
    where = namespace["where"]
    assert re.fullmatch(r"test_tokens\.py:\d+", await namespace["action"]())
    assert re.fullmatch(r"test_tokens\.py:\d+", await action())
    assert await asyncio.create_task(namespace["action"]()) == ""


def test_a_program_installed_as_a_library_has_a_site_too() -> None:
    namespace: dict[str, Any] = {"call_site": call_site, "__name__": "shop.main"}
    exec(compile("site = call_site()", "/lib/site-packages/shop/main.py", "exec"), namespace)
    assert namespace["site"].startswith("test_tokens.py:")
    loop: dict[str, Any] = {"__name__": "asyncio.events", "namespace": namespace}
    namespace["where"] = eval(compile("lambda: call_site()", "/lib/site-packages/shop/main.py", "eval"), namespace)
    exec("site = namespace['where']()", loop)
    assert loop["site"] == "main.py:1"


def test_a_call_from_no_code_of_the_users_has_no_site() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(call_site).result() == ""


def test_a_path_made_of_joined_text_keeps_its_reference() -> None:
    made = pathlib.PurePosixPath(f"receipts/{Token(LABEL)}.pdf")
    assert references(made) == [LABEL]
    assert tokens_in(made) == [LABEL]
