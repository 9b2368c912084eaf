"""Binding arguments, callbacks by name, and any function as a coroutine function."""

import asyncio
import contextvars
import functools
import inspect
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncsandbox._core.decorators import Arguments, as_coroutine_function, by_name
from asyncsandbox.errors import ConfigurationError


def plain(a, b=2, *, c, d=4): ...


def positional(a, /, b=2): ...


def variadic(a, *rest, k=1, **more): ...


def nothing(): ...


class Shop:
    def charge(self, invoice, tip=0): ...


FUNCTIONS: list[Callable[..., Any]] = [plain, positional, variadic, nothing, Shop.charge, lambda x, y=1: (x, y)]
NAMES = st.sampled_from(["a", "b", "c", "d", "k", "x", "y", "self", "invoice", "other"])


@given(
    st.sampled_from(FUNCTIONS), st.lists(st.integers(), max_size=4), st.dictionaries(NAMES, st.integers(), max_size=4)
)
@example(plain, [1, 2, 3], {})
@example(plain, [1], {"a": 1})
@example(plain, [1], {"c": 1, "other": 2})
def test_binding_says_what_python_says(function: Callable[..., Any], args: list[int], kwargs: dict[str, int]) -> None:
    try:
        expected = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        words = f"^{re.escape(str(error))}$"
        with pytest.raises(TypeError, match=words):
            Arguments(function).bind(tuple(args), kwargs)
        return
    expected.apply_defaults()
    bound = Arguments(function).bind(tuple(args), kwargs)
    assert bound == expected.arguments
    assert list(bound) == list(expected.arguments)


def test_a_default_is_given_only_where_the_function_has_none() -> None:
    arguments = Arguments(plain, {"c": 30, "d": 40, "unknown": 50})
    assert arguments.bind((1,), {}) == {"a": 1, "b": 2, "c": 30, "d": 4}
    assert arguments.names == ("a", "b", "c", "d")


def test_what_has_no_signature_takes_anything() -> None:
    arguments = Arguments(dict.update)
    assert arguments.bind((1, 2), {"x": 3}) in (
        {"args": (1, 2), "kwargs": {"x": 3}},
        {"self": 1, "args": (2,), "kwargs": {"x": 3}},
    )

    class Odd:
        __signature__ = "no signature"

        def __call__(self, *args: object) -> None: ...

    assert Arguments(Odd()).names == ("args", "kwargs")


def test_the_return_annotation_is_told() -> None:
    def shown() -> int: ...

    assert Arguments(shown).return_annotation is int
    assert Arguments(nothing).return_annotation is inspect.Signature.empty


# ------------------------------------------------------------------ callbacks

BOUND = {"invoice": "inv-1", "card": "visa", "rest": (1, 2)}


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (lambda invoice: invoice, "inv-1"),
        (lambda card, invoice: (card, invoice), ("visa", "inv-1")),
        (lambda *, card: card, "visa"),
        (lambda **everything: sorted(everything), ["card", "invoice", "rest"]),
        (lambda: "constant", "constant"),
        (lambda card, missing=7: (card, missing), ("visa", 7)),
        (lambda *args, card: (args, card), ((), "visa")),
        (functools.partial(lambda a, card: (a, card), 1), (1, "visa")),
        (lambda card, **rest: (card, sorted(rest)), ("visa", ["invoice", "rest"])),
    ],
    ids=["one", "two", "keyword", "all", "none", "optional", "star", "partial", "one and all"],
)
def test_a_callback_gets_just_what_it_names(callback: Callable[..., Any], expected: object) -> None:
    assert by_name(callback, BOUND, "key")(BOUND) == expected


@pytest.mark.parametrize("callback", [lambda invoice, /, card: 0, lambda x, /: 0, dict.get, str], ids=range(4))
def test_a_callback_that_takes_arguments_by_position_only_is_refused(callback: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError):
        by_name(callback, BOUND, "key")


@pytest.mark.parametrize(
    "callback", [lambda invioce: 0, lambda invoice, x: 0, lambda *, x: 0], ids=["typo", "one of two", "keyword"]
)
def test_a_wrong_name_is_refused_with_the_right_ones(callback: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"charge: key='(invioce|x)'.*invoice, card, rest"):
        by_name(callback, BOUND, "charge: key")


@pytest.mark.parametrize("callback", ["id", 5, None])
def test_what_cannot_be_called_is_refused(callback: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a function"):
        by_name(callback, BOUND, "key")


# ------------------------------------------------------------------ coroutine functions

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context() -> None:
    def where(add: str, *, to: str) -> tuple[str, bool]:
        return variable.get() + add + to, threading.current_thread() is threading.main_thread()

    made = as_coroutine_function(where)
    assert inspect.iscoroutinefunction(made)
    assert inspect.signature(made) == inspect.signature(where)
    variable.set("set ")
    assert await made("a", to="b") == ("set ab", False)


async def test_an_error_in_a_thread_comes_out_unchanged() -> None:
    mistake = ValueError("no")

    def fail() -> None:
        raise mistake

    with pytest.raises(ValueError, match="no") as caught:
        await as_coroutine_function(fail)()
    assert caught.value is mistake


async def test_whatever_is_a_coroutine_function_already_stays_on_the_loop() -> None:
    thread = threading.current_thread()

    async def function(x: int = 1) -> tuple[int, bool]:
        return x, threading.current_thread() is thread

    class Called:
        async def __call__(self) -> tuple[int, bool]:
            return await function(2)

    @functools.wraps(nothing)
    async def around_plain() -> tuple[int, bool]:
        return await function(3)

    @functools.wraps(function)
    def returns_coroutine() -> Any:
        return function(4)

    for given_function, number in [
        (function, 1),
        (Called(), 2),
        (around_plain, 3),
        (returns_coroutine, 4),
        (functools.partial(function, 5), 5),
        (lambda: function(6), 6),
    ]:
        made = as_coroutine_function(given_function)
        assert await made() == (number, True)
        assert (made is given_function) == (number != 6)


async def test_a_cancelled_wait_for_a_thread_ends_at_once() -> None:
    go, ended = threading.Event(), []

    def wait() -> None:
        go.wait(5)
        ended.append(1)

    task = asyncio.create_task(as_coroutine_function(wait)())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert ended == []
    go.set()
