"""The decorators: the function as it was, and the one sandbox it belongs to."""

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest
from runtimes import make_runtime, running, states

from asyncsandbox._core.context import Host, bound_host, get_running_action, register_host, unregister_host
from asyncsandbox._core.ledger import ActionState
from asyncsandbox.actions import FILLED_IN, irreversible, read_only, reversible
from asyncsandbox.errors import ConfigurationError, NestedActionError, NoSandboxError


@irreversible("mail.send", key=lambda to: to)
async def send(to: str, text: str = "hello", *, copy: bool = False) -> str:
    """Send a mail."""
    return f"sent to {to}"


def test_the_decorated_function_looks_as_before() -> None:
    assert send.__name__ == "send"
    assert send.__doc__ == "Send a mail."
    assert inspect.iscoroutinefunction(send)
    assert str(inspect.signature(send)) == "(to: str, text: str = 'hello', *, copy: bool = False) -> str"
    assert repr(FILLED_IN) == "FILLED_IN"


async def test_wrong_arguments_are_refused_in_pythons_words_before_anything_is_recorded() -> None:
    async with running() as runtime:
        for arguments in ((), ("a", "b", "c")):
            with pytest.raises(TypeError, match="argument"):
                await send(*arguments)  # type: ignore[call-arg,arg-type]
        with pytest.raises(TypeError, match="unexpected keyword argument 'cc'"):
            await send("a", cc=1)  # type: ignore[call-arg]
        assert len(runtime.ledger) == 0


async def test_methods_class_methods_and_static_methods() -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @irreversible("shop.charge", key=lambda self, invoice: f"{self.name}-{invoice}")
        async def charge(self, invoice: str) -> str:
            return f"{self.name} {invoice}"

        @classmethod
        @irreversible("shop.refund", key=lambda invoice: invoice)
        async def refund(cls, invoice: str) -> str:
            return f"{cls.__name__} {invoice}"

        @staticmethod
        @irreversible("shop.ship", key=lambda invoice: invoice)
        def ship(invoice: str) -> str:
            return invoice

    async with running() as runtime:
        assert await Shop("a").charge("1") == "a 1"
        assert await Shop("a").charge("1") == "a 1"
        assert await Shop("b").charge("1") == "b 1"
        assert await Shop.refund("1") == "Shop 1"
        assert await Shop("c").ship("1") == "1"
        assert [row.call.facts for row in runtime.ledger] == [{"invoice": "1"}] * 4


async def test_a_plain_function_runs_in_a_thread_in_its_callers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    @irreversible("report.write", key=lambda name: name)
    def write(name: str, /, *lines: str, **more: int) -> tuple[Any, ...]:
        on_loop = threading.current_thread() is threading.main_thread()
        return name, lines, more, variable.get(), on_loop, get_running_action()

    async with running() as runtime:
        variable.set("set")
        assert await write("a", "x", "y", pages=3) == ("a", ("x", "y"), {"pages": 3}, "set", False, "report.write[a]")
        (row,) = runtime.ledger
        assert row.call.facts == {"name": "a", "lines": ["x", "y"], "more": {"pages": 3}}


async def test_nesting_is_refused_also_through_a_thread() -> None:
    from anyio import from_thread

    @irreversible("report.write")
    def write() -> None:
        from_thread.run(send, "a")

    async with running():
        with pytest.raises(NestedActionError, match=r"'mail\.send'.*report\.write"):
            await write()


async def test_decorators_can_stand_on_each_other_and_on_wrappers() -> None:
    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> list[Any]:
            return [await function(*args), await function(*args)]

        return wrapper

    @irreversible("card.charge", key=lambda number: number)
    @twice
    async def charge(number: int) -> int:
        return number

    @read_only("fx.rate")
    def rate() -> float:
        return 1.5

    async with running():
        assert await charge(2) == [2, 2]
        assert await rate() == 1.5


async def test_mistakes_are_found_at_import() -> None:
    with pytest.raises(ConfigurationError, match="key='invoice'"):

        @irreversible("mail.send", key=lambda invoice: invoice)
        async def first(to: str) -> None: ...

    with pytest.raises(ConfigurationError, match="undo='item'"):

        @reversible("stock.reserve", undo=lambda item: None)
        async def second(to: str) -> None: ...

    with pytest.raises(ConfigurationError, match="name"):
        read_only("")


# ------------------------------------------------------------------ which sandbox


async def test_without_a_sandbox_nothing_runs() -> None:
    with pytest.raises(NoSandboxError, match=r"mail\.send was not run: no sandbox is running"):
        await send("a")


async def test_the_only_one_on_the_loop_is_found_without_being_bound() -> None:
    runtime = make_runtime()
    register_host(runtime)
    try:
        assert await send("a") == "sent to a"
    finally:
        unregister_host(runtime)
    assert states(runtime) == ["done"]


async def test_of_several_the_bound_one_is_used_and_without_one_both_are_named() -> None:
    first, second = make_runtime(name="first"), make_runtime(name="second")
    for runtime in (first, second):
        register_host(runtime)
    try:
        with pytest.raises(NoSandboxError, match=r"<first \(live\)>, <second \(live\)>"):
            await send("a")
        with bound_host(first):
            await send("a")
            with bound_host(second):
                await asyncio.create_task(send("b"))
        assert [[record.key for record in runtime.ledger.get_records()] for runtime in (first, second)] == [
            ["a"],
            ["b"],
        ]
    finally:
        for runtime in (first, second):
            unregister_host(runtime)


async def test_a_stopped_one_is_refused_even_where_another_runs() -> None:
    stopped = make_runtime(name="old")
    async with running(stopped):
        task_may_start = asyncio.Event()

        async def later() -> str:
            await task_may_start.wait()
            return await send("a")

        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    async with running() as other:
        task_may_start.set()
        with pytest.raises(NoSandboxError, match=r"<old \(live\)> has stopped"):
            await task
        assert len(other.ledger) == 0


async def test_one_of_another_loop_is_refused() -> None:
    async with running(make_runtime(name="here")):
        context = contextvars.copy_context()
        with pytest.raises(NoSandboxError, match=r"<here \(live\)> runs on another event loop"):
            await asyncio.to_thread(context.run, asyncio.run, send("a"))


async def test_the_two_modes_do_not_mix_unless_both_agree() -> None:
    async with running(make_runtime()):
        with pytest.raises(ConfigurationError, match="allow_mixed"):
            register_host(make_runtime(dry_run=True, allow_mixed=True))
    async with (
        running(make_runtime(allow_mixed=True)) as live,
        running(make_runtime(dry_run=True, allow_mixed=True)) as dry,
    ):
        await send("a")
        with bound_host(live):
            await send("b")
        assert (states(live), states(dry)) == (["done"], ["planned"])


async def test_a_host_that_runs_no_actions_is_refused() -> None:
    host = Host(name="bare", dry_run=False)
    register_host(host)
    try:
        with pytest.raises(NoSandboxError, match=r"<bare \(live\)> runs no actions"):
            await send("a")
    finally:
        unregister_host(host)


# ------------------------------------------------------------------ two sandboxes never see each other


async def test_two_sandboxes_share_nothing() -> None:
    async with running(make_runtime(namespace="one")) as one, running(make_runtime(namespace="two")) as two:
        await send("a")
        with bound_host(one):
            await send("a")
        identities = {row.call.identity for runtime in (one, two) for row in runtime.ledger}
        assert len(identities) == 2
        assert {record.state for runtime in (one, two) for record in runtime.ledger.get_records()} == {ActionState.DONE}
