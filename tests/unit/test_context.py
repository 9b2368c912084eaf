"""What travels with a task, and how an action finds the sandbox it belongs to."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtual

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import (
    CallScope,
    Host,
    _deadline,
    bound_host,
    carry,
    correlation,
    current_host,
    deadline,
    get_correlation_id,
    get_deadline,
    get_running_action,
    register_host,
    running_action,
    set_correlation_id,
    unregister_host,
)
from asyncsandbox.errors import ConfigurationError, NoSandboxError

# ------------------------------------------------------------------ scopes


def keep_deadlines_nested(make: type[CallScope], seconds: list[float | None]) -> None:
    """A nested call's deadline never reaches beyond the outer one, and is gone after it; so is its id."""
    clock = SystemClock()

    def nest(rest: list[float | None], bound: float | None) -> None:
        assert get_deadline() == bound
        if rest:
            outer_id = get_correlation_id()
            inner = min((at for at in (rest[0], bound) if at is not None), default=None)
            with make(clock, rest[0]):
                assert get_correlation_id() == outer_id or outer_id is None
                assert get_correlation_id() is not None
                nest(rest[1:], inner)
            assert (get_deadline(), get_correlation_id()) == (bound, outer_id)

    async def main() -> None:  # on a virtual loop now is 0, and stays
        nest(seconds, None)

    run_virtual(main())


SECONDS = st.lists(st.none() | st.floats(0, 100))


@given(SECONDS)
def test_a_nested_deadline_never_reaches_beyond_the_outer_one(seconds: list[float | None]) -> None:
    keep_deadlines_nested(CallScope, seconds)


class ForgetsToRestore(CallScope):
    def __exit__(self, *_exc: object) -> None:
        pass


class ReachesBeyond(CallScope):
    def __enter__(self) -> None:
        _deadline.set(None)
        super().__enter__()


@given(st.lists(st.floats(0, 100)))
def test_of_nested_deadlines_the_earliest_holds(moments: list[float]) -> None:
    with ExitStack() as stack:
        for number, at in enumerate(moments):
            stack.enter_context(deadline(at))
            assert get_deadline() == min(moments[: number + 1])
    assert get_deadline() is None


@pytest.mark.parametrize("broken", [ForgetsToRestore, ReachesBeyond])
def test_a_scope_that_breaks_its_word_is_caught(broken: type[CallScope]) -> None:
    with pytest.raises(AssertionError):
        contextvars.copy_context().run(keep_deadlines_nested, broken, [1.0, 5.0])


@pytest.mark.parametrize(("scope", "read"), [(correlation, get_correlation_id), (running_action, get_running_action)])
@given(names=st.lists(st.text(), min_size=1))
def test_a_scope_restores_what_was_before_it(
    scope: Callable[[str], AbstractContextManager[object]], read: Callable[[], object], names: list[str]
) -> None:
    def nest(rest: list[str], outer: str | None) -> None:
        assert read() == outer
        if rest:
            try:
                with scope(rest[0]):
                    nest(rest[1:], rest[0])
                    raise KeyError(rest[0])
            except KeyError:
                assert read() == outer

    nest(names, None)


def test_a_scope_closed_in_another_context_harms_nobody() -> None:
    scope = correlation("req-1")
    contextvars.copy_context().run(scope.__enter__)
    scope.__exit__(None, None, None)
    assert get_correlation_id() is None


def test_a_correlation_id_can_be_set_for_the_rest_of_a_task() -> None:
    async def child() -> str | None:
        set_correlation_id("child")
        return get_correlation_id()

    async def main() -> list[str | None]:
        set_correlation_id("parent")
        return [await asyncio.create_task(child()), get_correlation_id()]

    assert run_virtual(main()) == ["child", "parent"]


# ------------------------------------------------------------------ carry


def keep_contexts_apart(carrier: Callable[..., Callable[[str], str | None]], ids: list[str]) -> None:
    """Each carried call sees the context `carry` was called in, and no other call's changes."""

    def leave_a_mark(mark: str) -> str | None:
        before = get_correlation_id()
        set_correlation_id(mark)
        return before

    jobs = []
    for name in ids:
        with correlation(name):
            jobs.append(carrier(leave_a_mark))
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(lambda job: [job("x"), job("y")], jobs))
    assert seen == [[name, name] for name in ids]


@given(st.lists(st.text(min_size=1), max_size=4))
def test_carry_takes_the_context_along(ids: list[str]) -> None:
    keep_contexts_apart(carry, ids)


def _share_one_copy(function: Callable[..., object]) -> Callable[..., object]:
    context = contextvars.copy_context()
    return lambda *args: context.run(function, *args)


@pytest.mark.parametrize("broken", [lambda function: function, _share_one_copy], ids=["bare", "shared"])
def test_carrying_nothing_or_one_copy_is_caught(broken: Callable[..., object]) -> None:
    with pytest.raises(AssertionError):
        keep_contexts_apart(broken, ["a"])


# ------------------------------------------------------------------ hosts


def make_host(name: str = "shop", *, dry_run: bool = True, allow_mixed: bool = False) -> Host:
    return Host(name=name, dry_run=dry_run, allow_mixed=allow_mixed)


async def test_the_only_running_host_is_found_and_none_after_it_left() -> None:
    host = make_host()
    register_host(host)
    assert current_host("charge") is host
    unregister_host(host)
    unregister_host(host)
    with pytest.raises(NoSandboxError, match="charge was not run: no sandbox is running"):
        current_host("charge")


async def test_of_several_hosts_the_bound_one_is_meant() -> None:
    hosts = make_host("shop"), make_host("bank")
    for host in hosts:
        register_host(host)
    with pytest.raises(NoSandboxError, match=r"several.*shop.*bank"):
        current_host("charge")
    with bound_host(hosts[1]):
        assert current_host("charge") is hosts[1]
        unregister_host(hosts[1])
        with pytest.raises(NoSandboxError, match=r"bank .* has stopped"):
            current_host("charge")
    unregister_host(hosts[0])


async def test_a_host_of_another_loop_or_no_loop_is_refused_by_name() -> None:
    host = make_host()
    register_host(host)

    def ask() -> str:
        with pytest.raises(NoSandboxError) as caught:
            current_host("charge")
        return caught.value.reason

    async def ask_async() -> str:
        return ask()

    with bound_host(host):
        reasons = await asyncio.gather(asyncio.to_thread(ask), asyncio.to_thread(lambda: asyncio.run(ask_async())))
    assert reasons == [f"{host!r} runs on another event loop"] * 2
    assert await asyncio.to_thread(ask) == "no sandbox is running on this event loop"
    unregister_host(host)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=4))
def test_modes_mix_only_where_both_allow_it(modes: list[tuple[bool, bool]]) -> None:
    async def main() -> None:
        running: list[Host] = []
        for dry_run, allow_mixed in modes:
            host = make_host(dry_run=dry_run, allow_mixed=allow_mixed)
            clash = any(other.dry_run != dry_run and not (other.allow_mixed and allow_mixed) for other in running)
            if clash:
                with pytest.raises(ConfigurationError, match="allow_mixed=True"):
                    register_host(host)
            else:
                register_host(host)
                running.append(host)
        for host in running:
            unregister_host(host)

    run_virtual(main())


def test_a_host_says_its_name_and_mode() -> None:
    assert repr(make_host("shop")) == "<shop (dry run)>"
    assert repr(make_host("shop", dry_run=False)) == "<shop (live)>"
