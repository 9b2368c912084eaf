"""Every mistake in a decorator is found when the module is imported."""

from typing import TYPE_CHECKING, Any

import pytest

from asyncsandbox import RetrySettings, irreversible
from asyncsandbox._core.declaration import FROM_ANNOTATION, Declaration
from asyncsandbox._core.planned import FILLED_IN, ActionKind, ActionSpec
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.errors import ConfigurationError

if TYPE_CHECKING:
    from nowhere import Missing


async def charge(invoice: str, amount: int = 1, *, idempotency_key: str = FILLED_IN) -> str: ...


def declare(function: Any = charge, **declared: Any) -> ActionSpec:
    return Declaration(name="card.charge", kind=ActionKind.IRREVERSIBLE, **declared).spec(function)


async def coroutine_callback(invoice: str) -> str: ...


@pytest.mark.parametrize("field", ["key", "amount", "facts", "dry_result", "limit_per", "verify", "undo"])
def test_a_callback_that_names_what_is_not_there_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"card.charge: {field}='invioce'.*invoice, amount"):
        declare(**{"limit": "card", field: lambda invioce: invioce})


@pytest.mark.parametrize("field", ["key", "amount", "facts", "verify", "undo"])
def test_a_callback_that_cannot_be_called_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"card.charge: {field}"):
        declare(**{field: "invoice"})


@pytest.mark.parametrize("field", ["key", "amount", "facts", "dry_result"])
def test_a_coroutine_function_where_nothing_can_be_awaited_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"card.charge: {field}.*plain function"):
        declare(**{field: coroutine_callback})


@pytest.mark.parametrize(
    "declared",
    [
        {"redact": "card_token"},
        {"rejected": [int]},
        {"rejected": [BaseException]},
        {"not_delivered": ["ConnectError"]},
        {"not_delivered": KeyboardInterrupt},
        {"attempt_timeout_seconds": 0},
        {"attempt_timeout_seconds": "5"},
        {"deadline_seconds": -1},
        {"deadline_seconds": float("nan")},
        {"resend_within_seconds": 0},
        {"resend_within_seconds": float("inf")},
        {"limit": ""},
        {"limit": 7},
        {"limit_per": len},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(declared: dict[str, Any]) -> None:
    (field,) = declared
    with pytest.raises(ConfigurationError, match=f"card.charge: {field}"):
        declare(**declared)


async def without_a_key(invoice: str) -> str: ...


def test_a_call_is_sent_again_only_with_a_key() -> None:
    with pytest.raises(ConfigurationError, match=r"resend_within_seconds.*take idempotency_key: str = FILLED_IN"):
        declare(without_a_key, resend_within_seconds=60)
    assert declare(resend_within_seconds=60).resend_within_seconds == 60


@pytest.mark.parametrize("field", ["attempt_timeout_seconds", "deadline_seconds"])
def test_a_time_is_said_once_of_the_action_or_of_its_retries(field: str) -> None:
    retry = RetrySettings(**{field: 7})
    assert getattr(declare(retry=retry), field) == 7
    assert getattr(declare(retry=RetrySettings(), **{field: 5}), field) == 5
    with pytest.raises(ConfigurationError, match=f"card.charge: {field}=5.*says 7 already; say it once"):
        declare(retry=retry, **{field: 5})


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        (3, r"retry=3 .*give RetrySettings"),
        (RetrySettings(retry_on_result=lambda result: not result), r"retry=.*retry_on_result.*that returned is DONE"),
    ],
    ids=["number", "result"],
)
def test_retries_that_no_action_can_have_are_refused(retry: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"card.charge: {said}"):
        irreversible("card.charge", retry=retry)


@pytest.mark.parametrize("name", ["", "  ", 5, None])
def test_a_name_is_needed(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Declaration(name=name, kind=ActionKind.READ_ONLY)


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize(
    "function", [generator, async_generator, "charge", None], ids=["generator", "async", "str", "None"]
)
def test_what_does_not_return_is_no_action(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"card\.charge: function"):
        declare(function)


async def test_callbacks_get_what_they_name() -> None:
    seen: list[Any] = []

    def undo(invoice: str, result: str) -> None:
        seen.append((invoice, result))

    async def find(idempotency_key: str, amount: int) -> str:
        return f"{idempotency_key} {amount}"

    spec = declare(
        key=lambda invoice: invoice, verify=find, undo=undo, redact=["token"], rejected=KeyError, destroys=True
    )
    bound = spec.arguments.bind(("inv-1",), {})
    assert spec.key is not None
    assert spec.verify is not None
    assert spec.undo is not None
    assert spec.key(bound) == "inv-1"
    assert await spec.verify({**bound, "idempotency_key": "k"}) == "k 1"
    await spec.undo({**bound, "result": "ch_1"})
    assert seen == [("inv-1", "ch_1")]
    assert (spec.redact, spec.rejected, spec.destroys) == (frozenset({"token"}), (KeyError,), True)


def plain(invoice: str) -> str: ...


def test_what_the_pipeline_needs_to_know_is_told() -> None:
    spec = declare()
    assert spec.defined_at.startswith("test_declaration.py:")
    assert (spec.forwards_key, spec.threaded) == (True, False)
    assert bound_key(spec) is FILLED_IN
    spec = declare(plain)
    assert (spec.forwards_key, spec.threaded) == (False, True)
    assert declare(len).defined_at == ""
    assert repr(FILLED_IN) == "FILLED_IN"
    assert repr(FROM_ANNOTATION) == "from the return annotation"


def bound_key(spec: ActionSpec) -> object:
    return spec.arguments.bind(("inv-1",), {})["idempotency_key"]


def test_a_key_parameter_without_default_is_filled_in_too() -> None:
    async def without(invoice: str, *, idempotency_key: str) -> None: ...

    assert bound_key(declare(without)) is FILLED_IN


class Shop:
    async def charge(self, invoice: str) -> None: ...

    @classmethod
    async def refund(cls, invoice: str) -> None: ...

    @staticmethod
    async def book(cls: str) -> None:  # noqa: PLW0211 - a seat's class
        ...


async def book(cls: str, self: int) -> None: ...


def test_the_object_of_a_method_is_no_fact_and_a_parameter_called_cls_is() -> None:
    assert declare(Shop.charge).not_facts == {"self", "idempotency_key"}
    assert declare(Shop.__dict__["refund"].__func__).not_facts == {"cls", "idempotency_key"}
    assert declare(book).not_facts == {"idempotency_key"}

    async def local(self: str) -> None: ...

    assert declare(local).not_facts == {"idempotency_key"}


def test_the_dry_result_is_a_value_a_callback_or_made_from_the_annotation() -> None:
    assert declare(dry_result=lambda amount: amount + 1).dry_result({"invoice": "i", "amount": 1}, "l") == 2
    assert declare(dry_result=None).dry_result({}, "l") is None
    assert type(declare().dry_result({}, "l")) is Token

    async def unresolvable(x: "Missing") -> "str": ...

    async def unresolvable_return(x: str) -> "Missing": ...

    async def unannotated(x): ...

    assert type(declare(unresolvable).dry_result({}, "l")) is Token
    assert type(declare(unresolvable_return).dry_result({}, "l")) is Opaque
    assert type(declare(unannotated).dry_result({}, "l")) is Opaque
    assert type(declare(len).dry_result({}, "l")) is Opaque
