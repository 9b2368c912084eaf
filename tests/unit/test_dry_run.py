"""The interlock: while it is on, no body runs; and what is held back is on record."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import make_runtime, must_catch, running, states

from asyncsandbox._core.planned import PlannedAction
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.actions import irreversible, reversible
from asyncsandbox.components.dry_run import DryRunLock, DryRunSettings
from asyncsandbox.errors import ConfigurationError, IdempotencyConflictError, KnownAfterApplyError, NestedActionError


@dataclass
class Charge:
    id: str


CALLS = st.lists(
    st.tuples(st.sampled_from(["charge", "reserve", "mail"]), st.sampled_from("abc"), st.integers(1, 2)), max_size=12
)


async def rehearse(calls: list[tuple[str, str, int]], runtime: Any) -> None:
    ran: list[str] = []

    @irreversible("charge", key=lambda key: key)
    async def charge(key: str, amount: int) -> Charge:
        ran.append(key)
        return Charge(key)

    @reversible("reserve", key=lambda key: key, undo=lambda key: ran.extend([key]))
    def reserve(key: str, amount: int) -> Charge:
        ran.append(key)
        return Charge(key)

    @irreversible("mail")
    async def mail(key: str, amount: int) -> None:
        ran.append(key)

    actions = {"charge": charge, "reserve": reserve, "mail": mail}
    async with running(runtime):
        results = await asyncio.gather(
            *(actions[name](key, amount) for name, key, amount in calls), return_exceptions=True
        )
    assert ran == []
    first: dict[tuple[str, str], tuple[int, object]] = {}
    for (name, key, amount), result in zip(calls, results, strict=True):
        if name == "mail":
            assert result is None
            continue
        expected = first.setdefault((name, key), (amount, result))
        if expected[0] == amount:
            assert result is expected[1]
            assert isinstance(result.id, Token)
        else:
            assert isinstance(result, IdempotencyConflictError)
    assert len(runtime.ledger) == len(first) + sum(name == "mail" for name, _, _ in calls)
    assert set(states(runtime)) <= {"planned"}


@settings(max_examples=60)
@given(CALLS)
def test_a_dry_run_runs_nothing_and_makes_one_row_per_key(calls: list[tuple[str, str, int]]) -> None:
    asyncio.run(rehearse(calls, make_runtime(dry_run=True)))


def test_the_property_catches_a_lock_that_leaks() -> None:
    class Leaks(DryRunLock):
        def judge(self, call: PlannedAction) -> Any:
            return DryRunLock(dry_run=call.key != "b").judge(call)

    def check(calls: list[tuple[str, str, int]]) -> None:
        runtime = make_runtime(dry_run=True)
        runtime.gate = Leaks()
        asyncio.run(rehearse(calls, runtime))

    must_catch(check, CALLS)


async def test_a_chain_of_actions_leaves_references() -> None:
    @irreversible("card.charge", key=lambda invoice: invoice)
    async def charge(invoice: str) -> Charge: ...

    @irreversible("mail.receipt", key=lambda invoice: invoice)
    async def send(invoice: str, charge_id: str, text: str) -> None: ...

    async with running(dry_run=True) as runtime:
        charge_ = await charge("inv-17")
        await send("inv-17", charge_.id, f"Your receipt: {charge_.id}")
        call = runtime.ledger.get_row("mail.receipt", "inv-17").call
        assert call.references == ("card.charge[inv-17].id",)
        assert call.show().count("(known after apply: card.charge[inv-17].id)") == 2
        assert [event.name for event in runtime.journal.get_events()] == ["action.held_back"] * 2


async def test_the_site_of_a_held_back_call_is_the_callers_line_or_the_function() -> None:
    @irreversible("mail.send", key=lambda to: to)
    async def send(to: str) -> None: ...

    async with running(dry_run=True) as runtime:
        await send("a")
        await asyncio.create_task(send("b"))
        rows = {row.call.key: row.call.site for row in runtime.ledger}
    assert rows["a"].startswith("test_dry_run.py:")
    assert rows["b"].startswith("test_dry_run.py:")
    assert int(rows["a"].partition(":")[2]) > int(rows["b"].partition(":")[2])


# ------------------------------------------------------------------ the low-level door


async def test_execute_holds_back_or_runs() -> None:
    ran: list[int] = []

    async def pay(amount: int, *, note: str = "") -> str:
        ran.append(amount)
        return f"paid {amount} {note}"

    def pay_in_thread(amount: int) -> int:
        ran.append(amount)
        return amount

    lock = DryRunLock(dry_run=True)
    result = await lock.execute("payment", pay, 100, note="x")
    assert type(result) is Token
    assert type(await lock.execute("other", lambda: 5)) is Opaque
    assert ran == []
    assert [record.state.value for record in lock.get_execution_log("payment")] == ["planned"]
    assert len(lock.get_execution_log()) == 2
    assert (lock.get_status().held_back, lock.get_status().passed, lock.get_status().dry_run) == (2, 0, True)

    live = DryRunLock(dry_run=False)
    assert await live.execute("payment", pay, 100, note="x") == "paid 100 x"
    assert await live.execute("payment", pay_in_thread, 7) == 7
    assert await live.execute("payment", pay_in_thread, 7) == 7
    assert ran == [100, 7, 7]
    assert [record.state.value for record in live.get_execution_log("payment")] == ["done"] * 3
    assert (live.get_status().held_back, live.get_status().passed) == (0, 3)


async def test_execute_refuses_what_it_cannot_show_run_or_nest() -> None:
    lock = DryRunLock(dry_run=False)
    with pytest.raises(ConfigurationError, match="name"):
        await lock.execute("", print)
    with pytest.raises(ConfigurationError, match="give a function"):
        await lock.execute("payment", "pay")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="says nothing of its own"):
        await lock.execute("payment", print, object())
    with pytest.raises(KnownAfterApplyError):
        await lock.execute("payment", print, Token("x[1]"))
    with pytest.raises(ZeroDivisionError):
        await lock.execute("payment", lambda: 1 / 0)

    async def outer() -> None:
        await lock.execute("inner", print)

    with pytest.raises(NestedActionError):
        await lock.execute("outer", outer)


async def test_in_a_sandbox_the_lock_uses_its_ledger() -> None:
    from asyncsandbox._core.component import Services

    async with running(dry_run=True) as runtime:
        lock = DryRunLock(dry_run=True)
        lock.bind(Services(clock=runtime.clock, journal=runtime.journal, ledger=runtime.ledger, host=runtime))
        await lock.execute("payment", print, 1)
        assert lock.get_execution_log("payment") == runtime.ledger.get_records()


# ------------------------------------------------------------------ settings


def test_the_mode_is_fixed_and_the_argument_wins() -> None:
    assert DryRunLock().dry_run is True
    assert DryRunLock(settings=DryRunSettings(dry_run=False)).dry_run is False
    lock = DryRunLock(dry_run=True, settings=DryRunSettings(dry_run=False, masking_key="0123456789abcdef"))
    assert lock.dry_run is True
    assert lock.settings.masking_key == "0123456789abcdef"
    with pytest.raises(AttributeError):
        lock.dry_run = False  # type: ignore[misc]


def test_the_masking_key_enters_the_planner_and_no_text() -> None:
    settings_ = DryRunSettings(masking_key="0123456789abcdef")
    assert DryRunLock(settings=settings_).make_planner("shop").secret == b"0123456789abcdef"
    assert DryRunLock().make_planner("shop").secret is None
    assert "0123" not in repr(settings_)
    with pytest.raises(ConfigurationError) as caught:
        DryRunSettings(masking_key="too short")
    assert "too short" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_mode_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"DryRunSettings\.dry_run"):
        DryRunSettings(dry_run=value)
