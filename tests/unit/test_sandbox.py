"""The orchestrator: order, failure, cancellation, resolution, environment, and the owner's snippets."""

import asyncio
import dataclasses
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtual

from asyncsandbox import (
    FILLED_IN,
    ActionNotFoundError,
    ActionStateError,
    Component,
    ComponentStartError,
    ComponentState,
    ComponentStopError,
    ConfigurationError,
    DatabaseSettings,
    DryRunSettings,
    GovernorEnforcer,
    GovernorSettings,
    IdempotencyManager,
    LedgerFullError,
    LedgerSettings,
    LifecycleError,
    Limit,
    NoSandboxError,
    OutcomeUnknownError,
    Plan,
    RetryBackoffManager,
    Sandbox,
    SandboxOrchestrator,
    current_sandbox,
    irreversible,
    read_only,
    reversible,
)
from asyncsandbox._core.context import Host, register_host, unregister_host
from asyncsandbox._core.lifecycle import start_order


@irreversible("mail.send", key=lambda to: to)
async def send(to: str, *, idempotency_key: str = FILLED_IN) -> str:
    return f"sent to {to} with {len(idempotency_key)}"


class Recording(Component):
    """A component that writes down what happens to it."""

    name = "recording"

    def __init__(self, name: str, log: list[str], *, needs: tuple[str, ...] = (), fail_at: str = "") -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]
        self.depends_on = needs  # type: ignore[misc]
        self._log = log
        self._fail_at = fail_at

    async def _start(self) -> None:
        self._log.append(f"+{self.name}")
        await asyncio.sleep(1)
        if self._fail_at == "start":
            raise ConnectionError("no network")

    async def _stop(self) -> None:
        await asyncio.sleep(1)
        self._log.append(f"-{self.name}")
        if self._fail_at == "stop":
            raise ConnectionError("still no network")


# ---------------------------------------------------------------- order


@given(st.data())
def test_components_start_after_what_they_depend_on_and_stop_in_reverse(data: st.DataObject) -> None:
    names = [f"c{i}" for i in range(data.draw(st.integers(1, 6)))]
    needs = {n: tuple(data.draw(st.sets(st.sampled_from(names[:i])))) if i else () for i, n in enumerate(names)}
    shuffled = data.draw(st.permutations(names))
    log: list[str] = []

    async def main() -> None:
        async with Sandbox(extra=[Recording(n, log, needs=needs[n]) for n in shuffled]):
            pass

    run_virtual(main())
    started = [entry[1:] for entry in log if entry[0] == "+"]
    stopped = [entry[1:] for entry in log if entry[0] == "-"]
    assert sorted(started) == sorted(names)
    assert stopped == started[::-1]
    for name in names:
        assert all(started.index(needed) < started.index(name) for needed in needs[name])


def test_an_order_that_ignores_dependencies_is_no_order() -> None:
    log: list[str] = []
    late, early = Recording("late", log, needs=("early",)), Recording("early", log)
    assert start_order([late, early]) == (early, late)
    assert start_order([late, early]) != (late, early)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ([("a", ()), ("a", ())], "extra"),
        ([("database", ())], "extra"),
        ([("a", ("nowhere",))], "a.depends_on"),
        ([("a", ("b",)), ("b", ("a",))], "depends_on"),
        ([("a", ("a",))], "depends_on"),
    ],
)
def test_components_that_cannot_be_ordered_are_refused_at_once(extra: list, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Sandbox(extra=[Recording(name, [], needs=needs) for name, needs in extra])
    assert caught.value.field == field


# ---------------------------------------------------------------- failure and cancellation


@pytest.mark.parametrize("broken", range(4))
def test_a_failing_start_stops_what_had_started(broken: int) -> None:
    log: list[str] = []
    extra = [Recording(f"c{i}", log, fail_at="start" if i == broken else "") for i in range(4)]
    sandbox = Sandbox(extra=extra)

    async def main() -> None:
        with pytest.raises(ComponentStartError) as caught:
            await sandbox.initialize()
        assert (caught.value.component, caught.value.phase) == (f"c{broken}", "start")
        assert isinstance(caught.value.__cause__, ConnectionError)
        with pytest.raises(NoSandboxError):
            current_sandbox()
        await sandbox.cleanup()

    run_virtual(main())
    assert sorted(entry[1:] for entry in log if entry[0] == "-") == [f"c{i}" for i in range(broken + 1)]
    assert sandbox.get_status().state is ComponentState.STOPPED


def test_a_component_that_cannot_be_bound_names_the_phase() -> None:
    async def main() -> None:
        extra = Component.__new__(type("Busy", (Component,), {"name": "busy"}))
        extra.__init__()
        await extra.start()
        with pytest.raises(ComponentStartError) as caught:
            await Sandbox(extra=[extra]).initialize()
        assert (caught.value.component, caught.value.phase) == ("busy", "bind")
        await extra.stop()

    run_virtual(main())


def start_cancelled_at_every_step(kind: type[Sandbox]) -> None:
    for step in range(1, 400):
        log: list[str] = []

        async def main(step: int = step, log: list[str] = log) -> bool:
            sandbox = kind(extra=[Recording("one", log), Recording("two", log, needs=("one",))])
            starting = asyncio.get_running_loop().create_task(sandbox.initialize())
            for _ in range(step):
                await asyncio.sleep(0 if not log else 0.25)
            finished = starting.done()
            starting.cancel()
            await asyncio.wait((starting,))
            if not finished:
                assert starting.cancelled()
                with pytest.raises(NoSandboxError):
                    current_sandbox()
            await sandbox.cleanup()
            return finished

        finished = run_virtual(main())
        assert log.count("+one") == log.count("-one"), step
        assert log.count("+two") == log.count("-two"), step
        if finished:
            return
    raise AssertionError("it never starts")


def test_a_start_cancelled_at_any_step_leaves_nothing_behind() -> None:
    start_cancelled_at_every_step(Sandbox)


def test_a_sandbox_that_forgets_what_had_started_is_caught() -> None:
    class Forgetful(Sandbox):
        async def initialize(self) -> Sandbox:
            for component in self._components:
                await component.start()
            return await super().initialize()

    with pytest.raises(AssertionError):
        start_cancelled_at_every_step(Forgetful)


def test_cleanup_stops_everything_though_cancelled_again_and_again() -> None:
    log: list[str] = []

    async def main() -> None:
        sandbox = Sandbox(extra=[Recording(f"c{i}", log) for i in range(3)])
        await sandbox.initialize()
        stopping = asyncio.get_running_loop().create_task(sandbox.cleanup())
        for _ in range(4):
            await asyncio.sleep(0.4)
            stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert sandbox.get_status().state is ComponentState.STOPPED

    run_virtual(main())
    assert sorted(log) == ["+c0", "+c1", "+c2", "-c0", "-c1", "-c2"]


def test_a_component_that_does_not_stop_cleanly_hinders_no_other() -> None:
    log: list[str] = []
    extra = [Recording("a", log, fail_at="stop"), Recording("b", log), Recording("c", log, fail_at="stop")]

    async def main() -> None:
        sandbox = await Sandbox(extra=extra).initialize()
        with pytest.raises(ComponentStopError) as caught:
            await sandbox.cleanup()
        assert caught.value.component == "c"
        assert "'a'" in "".join(caught.value.__notes__)

    run_virtual(main())
    assert {"-a", "-b", "-c"} <= set(log)


# ---------------------------------------------------------------- the owner's snippets


async def test_owner_snippet_complete_setup() -> None:
    sandbox = SandboxOrchestrator(use_memory_db=True)
    await sandbox.initialize()
    assert await sandbox.is_ready()
    status = sandbox.get_status()
    await sandbox.cleanup()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.dry_run = False  # type: ignore[misc]
    assert json.loads(json.dumps(dataclasses.asdict(status)))["components"][0]["name"] == "logger"


async def test_owner_snippets_inside_a_sandbox() -> None:
    async with Sandbox(use_memory_db=True) as sandbox:
        async with sandbox.database.get_session() as session:
            assert session is not None
        assert sandbox.database.engine is not None

        async def payment_func(amount: int) -> str:
            raise AssertionError(f"a dry run never pays {amount}")

        await sandbox.dry_run_lock.execute("payment", payment_func, 100)
        assert [entry.action for entry in sandbox.dry_run_lock.get_execution_log("payment")] == ["payment"]

        cid = sandbox.logger.log_request("/api/checkout", "POST", user_id=None)
        sandbox.logger.log_action("payment_processed", level="info", amount=100)
        sandbox.logger.set_correlation_id(cid)
        assert sandbox.logger.get_correlation_id() == cid

        sandbox.readiness.register_check("db", lambda: sandbox.database.engine is not None)
        await sandbox.readiness.run_all_checks()
        assert await sandbox.readiness.is_ready()
        assert sandbox.readiness.get_status() is not None


async def use_retry(retry: RetryBackoffManager) -> None:
    answers = iter([ConnectionError("no route"), 200])

    async def api_call(path: str, *, verb: str) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await retry.execute_with_retry(api_call, "api", "/pay", verb="POST") == 200
    assert [attempt.error for attempt in retry.get_retry_log("api")] == ["ConnectionError: no route"]


async def use_idempotency(idempotency: IdempotencyManager) -> None:
    ran: list[int] = []

    def func(amount: int) -> list[int]:
        ran.append(amount)
        return [amount]

    assert not await idempotency.is_duplicate("key")
    for _ in range(2):
        assert await idempotency.process_idempotent("key", func, amount=100) == [100]
    assert await idempotency.is_duplicate("key")
    assert await idempotency.get_cached_result("key") == [100]
    assert await idempotency.clear_expired() == 0
    assert ran == [100]


async def use_governor(governor: GovernorEnforcer) -> None:
    governor.set_limit("payment", 2, 3600)
    for expected in (True, True, False):
        allowed, msg = await governor.check_limit("payment")
        assert (allowed, bool(msg)) == (expected, not expected)
    assert governor.get_status("payment").used == 2
    allowed, msg = await governor.check_limit("paymnet")
    assert not allowed
    assert "governor.set_limit('paymnet'" in msg


def test_owner_snippets_of_retry_idempotency_and_governor_alone_and_in_one_sandbox() -> None:
    async def main() -> None:
        await use_retry(RetryBackoffManager(max_retries=3))
        await use_idempotency(IdempotencyManager())
        await use_governor(GovernorEnforcer())
        for dry_run in (True, False):
            async with Sandbox(dry_run=dry_run) as sandbox:
                await use_retry(sandbox.retry)
                await use_idempotency(sandbox.idempotency_manager)
                await use_governor(sandbox.governor)

    run_virtual(main())


async def test_a_plan_says_how_long_its_calls_take_under_the_limits() -> None:
    @irreversible("sms.send", key=lambda number: number, limit="sms")
    async def sms(number: int) -> None: ...

    async def main(sandbox: Sandbox) -> None:
        for number in range(340):
            await sms(number)
        for number in range(30):
            async with sandbox.governor.permit("api", per=number % 2):
                pass

    async with Sandbox(
        governor=GovernorSettings(limits={"sms": Limit(20, 60), "api": Limit(1, 60, per="user")})
    ) as box:
        plan = await box.rehearse(main)
    assert plan.forecast_seconds == pytest.approx(16 * 60)
    assert Plan.from_json(plan.to_json()) == plan
    async with Sandbox() as box:
        assert (await box.make_plan()).forecast_seconds is None


async def test_a_forgotten_await_is_no_yes() -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(TypeError, match="not awaited"):
            bool(sandbox.is_ready())


# ---------------------------------------------------------------- resolution


async def test_two_sandboxes_never_see_each_other() -> None:
    async with Sandbox(namespace="one") as one:
        await send("a@example.org")
        async with Sandbox(namespace="two") as two:
            await send("b@example.org")
            assert current_sandbox() is two
        assert current_sandbox() is one
        await send("c@example.org")
    assert [r.key for r in one.get_actions()] == ["a@example.org", "c@example.org"]
    assert [r.key for r in two.get_actions()] == ["b@example.org"]


async def test_without_a_binding_the_only_sandbox_is_found_and_several_are_refused() -> None:
    with pytest.raises(NoSandboxError, match="no sandbox"):
        await send("a@example.org")
    one = await Sandbox(namespace="one").initialize()
    assert current_sandbox() is one
    two = await Sandbox(namespace="two").initialize()
    with pytest.raises(NoSandboxError, match=r"several.*one.*two"):
        await send("a@example.org")
    await one.cleanup()
    assert current_sandbox() is two
    await two.cleanup()


async def test_a_task_that_outlives_its_sandbox_is_refused() -> None:
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        await send("late@example.org")

    async with Sandbox(), asyncio.timeout(5):
        task = asyncio.get_running_loop().create_task(late())
        await asyncio.sleep(0)
    async with Sandbox():
        go.set()
        with pytest.raises(NoSandboxError, match="stopped"):
            await task


async def test_another_loop_is_refused() -> None:
    async with Sandbox():
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                asyncio.run(send("a@example.org"))
            except NoSandboxError as error:
                errors.append(error)

        await asyncio.to_thread(elsewhere)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert "another event loop" in str(errors[0])
    assert "no sandbox" in str(errors[1])


async def test_a_dry_and_a_live_sandbox_on_one_loop_only_on_request() -> None:
    async with Sandbox(dry_run=True):
        with pytest.raises(ConfigurationError, match="allow_mixed"):
            await Sandbox(dry_run=False).initialize()
    async with Sandbox(dry_run=True, allow_mixed=True) as dry, Sandbox(dry_run=False, allow_mixed=True) as live:
        assert await send("a@example.org") == "sent to a@example.org with 32"
    assert not dry.get_actions()
    assert [r.state for r in live.get_actions()] == ["done"]


async def test_a_host_without_a_sandbox_is_no_sandbox() -> None:
    host = Host(name="a runtime of its own", dry_run=True)
    register_host(host)
    with pytest.raises(NoSandboxError, match="belongs to no Sandbox"):
        current_sandbox()
    unregister_host(host)


def test_to_initialize_twice_is_to_initialize_once() -> None:
    log: list[str] = []

    async def main() -> None:
        sandbox = Sandbox(extra=[Recording("one", log)])
        await sandbox.initialize()
        assert await sandbox.initialize() is sandbox
        await sandbox.cleanup()
        await sandbox.cleanup()

    run_virtual(main())
    assert log == ["+one", "-one"]


async def test_a_full_ledger_is_refused_and_reported() -> None:
    async with Sandbox(ledger=LedgerSettings(max_rows=1)) as sandbox:
        assert (await sandbox.readiness.run_all_checks()).verdict == "GO"
        await send("a@example.org")
        with pytest.raises(LedgerFullError):
            await send("b@example.org")
        (check,) = [c for c in (await sandbox.readiness.run_all_checks()).checks if c.name == "ledger"]
        assert (check.status, check.critical) == ("fail", False)


# ---------------------------------------------------------------- rehearsing


async def test_rehearse_returns_the_plan_and_passes_the_sandbox() -> None:
    async def program(count: int, *, sandbox: Sandbox) -> None:
        assert current_sandbox() is sandbox
        for i in range(count):
            await send(f"{i}@example.org")

    async with Sandbox() as sandbox:
        plan = await sandbox.rehearse(program, 3)
        assert (
            await sandbox.make_plan(entry=plan.entry)
            == dataclasses.replace(plan, planned_at=(await sandbox.make_plan()).planned_at)
            or plan.digest == (await sandbox.make_plan()).digest
        )
    assert [a.key for a in plan.actions] == ["0@example.org", "1@example.org", "2@example.org"]
    assert plan.entry is not None
    assert plan.entry.target.endswith("program")
    assert plan.entry.arguments == (3,)


async def test_a_program_that_raises_raises() -> None:
    async def program() -> None:
        raise KeyError("invoice")

    async with Sandbox() as sandbox:
        with pytest.raises(KeyError):
            await sandbox.rehearse(program)


async def test_arguments_without_a_meaning_are_told_by_their_type() -> None:
    async with Sandbox() as sandbox:
        plan = await sandbox.rehearse(lambda thing, *, other: None, object(), other=object())
    assert plan.entry is not None
    assert plan.entry.arguments == ({"$opaque": "object"},)
    assert plan.entry.keywords == {"other": {"$opaque": "object"}}


async def test_only_a_running_dry_sandbox_makes_plans() -> None:
    with pytest.raises(LifecycleError, match="async with"):
        await Sandbox().make_plan()
    async with Sandbox(dry_run=False) as sandbox:
        with pytest.raises(LifecycleError, match="live"):
            await sandbox.rehearse(lambda: None)


async def test_live_then_unknown_then_recovered() -> None:
    calls: list[str] = []

    @irreversible("card.charge", key=lambda invoice: invoice)
    async def charge(invoice: str) -> str:
        calls.append(invoice)
        if len(calls) == 1:
            raise ConnectionResetError("reply lost")
        return f"ch_{len(calls)}"

    async with Sandbox(dry_run=False) as sandbox:
        with pytest.raises(ConnectionResetError):
            await charge("inv-1")
        with pytest.raises(OutcomeUnknownError):
            await charge("inv-1")
        with pytest.raises(ActionNotFoundError):
            await sandbox.recover("card.charge", "inv-2", happened=True)
        await sandbox.recover("card.charge", "inv-1", happened=False)
        assert await charge("inv-1") == "ch_2"
        with pytest.raises(ActionStateError):
            await sandbox.recover("card.charge", "inv-1", happened=True)
        assert sandbox.get_status().actions == {"done": 1}
        assert [r.attempts for r in sandbox.get_actions(name="card.charge", key="inv-1", state="done")] == [2]
    assert calls == ["inv-1", "inv-1"]


async def test_a_failed_saga_is_undone_in_reverse() -> None:
    log: list[str] = []

    @reversible("stock.reserve", key=lambda item: item, undo=lambda item, result: log.append(f"-{item} {result}"))
    async def reserve(item: str) -> int:
        log.append(f"+{item}")
        return len(log)

    async def order(sandbox: Sandbox) -> None:
        async with sandbox.saga("order"):
            await reserve("bolt")
            await reserve("nut")
            raise ValueError("sold out")

    async with Sandbox(dry_run=False) as sandbox:
        with pytest.raises(ValueError, match="sold out"):
            await order(sandbox)
    assert log == ["+bolt", "+nut", "-nut 2", "-bolt 1"]


async def test_live_actions_end_before_the_sandbox_has_stopped() -> None:
    ended: list[str] = []

    @irreversible("slow.call", key=lambda key: key)
    async def slow(key: str) -> None:
        await asyncio.sleep(0.02)
        ended.append(key)

    sandbox = await Sandbox(dry_run=False).initialize()
    task = asyncio.get_running_loop().create_task(slow("k"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sandbox.get_status().in_flight == 1
    await sandbox.cleanup()
    assert ended == ["k"]
    await task


async def test_live_without_a_store_is_degraded_but_ready() -> None:
    async with Sandbox(dry_run=False) as sandbox:
        report = await sandbox.readiness.run_all_checks()
        assert report.verdict == "DEGRADED"
        assert await sandbox.is_ready()


async def test_reads_run_for_real_and_are_counted() -> None:
    @read_only("fx.rate")
    async def rate(pair: str) -> float:
        return 1.1

    async with Sandbox() as sandbox:
        assert await rate("EURUSD") == 1.1
        assert (await sandbox.make_plan()).reads == {"fx.rate": 1}


# ---------------------------------------------------------------- settings


def test_environment_sets_and_keywords_beat_it() -> None:
    environ = {
        "ASYNCSANDBOX_DRY_RUN": "no",
        "ASYNCSANDBOX_NAMESPACE": "shop",
        "ASYNCSANDBOX_DATABASE__ISOLATION": "rollback",
        "ASYNCSANDBOX_LEDGER__MAX_ROWS": "7",
        "PATH": "/bin",
    }
    assert not Sandbox.from_env(environ).dry_run
    assert Sandbox.from_env(environ, dry_run=True).dry_run
    assert Sandbox.from_env({}).dry_run


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ASYNCSANDBOX_DRYRUN", "true"),
        ("ASYNCSANDBOX_DRY_RUN", "perhaps"),
        ("ASYNCSANDBOX_LEDGER__MAX_ROWS", "many"),
        ("ASYNCSANDBOX_LEDGER__MAX_ROWS", "0"),
        ("ASYNCSANDBOX_LEDGER__MAX_ROW", "5"),
        ("ASYNCSANDBOX_SHUTDOWN_SECONDS", "-1"),
    ],
)
def test_a_wrong_variable_is_refused(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError):
        Sandbox.from_env({variable: text})


def test_from_env_reads_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCSANDBOX_DRY_RUN", "false")
    assert not Sandbox.from_env().dry_run


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": ""},
        {"shutdown_seconds": -1},
        {"shutdown_seconds": float("nan")},
        {"use_memory_db": True, "database_url": "sqlite:///shop.db"},
    ],
)
def test_a_wrong_keyword_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(ConfigurationError):
        Sandbox(**wrong)


def test_settings_reach_their_components() -> None:
    sandbox = Sandbox(dry_run_lock=DryRunSettings(dry_run=False), database=DatabaseSettings(isolation="none"))
    assert not sandbox.dry_run
    assert "live" in repr(sandbox)
    assert "new" in repr(sandbox)
