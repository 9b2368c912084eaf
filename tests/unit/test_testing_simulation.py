"""What a simulated test holds: an app that survives power cuts, stubs, faults, promises, and a liveness phase."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from asyncsandbox import (
    FILLED_IN,
    CheckResult,
    Component,
    GovernorSettings,
    Level,
    Limit,
    LogSettings,
    MemorySink,
    RetrySettings,
    Sandbox,
    StdlibSink,
    irreversible,
    read_only,
)
from asyncsandbox._core.context import Host
from asyncsandbox.errors import ConfigurationError
from asyncsandbox.testing import (
    CrashedError,
    Jump,
    NothingToRestartError,
    PromiseBrokenError,
    Scenario,
    Simulation,
    fault,
)
from asyncsandbox.testing.oracles import Oracles
from asyncsandbox.testing.runs import Run, run_in_world, run_once

Body = Callable[..., Coroutine[Any, Any, object]]


@irreversible("card.charge", key=lambda invoice: invoice, dry_result="held back")
async def charge(invoice: str) -> str:
    raise AssertionError("a simulation never comes here")


@irreversible("mail.send")
async def send(to: str) -> None:
    raise AssertionError("a simulation never comes here")


@read_only("fx.rate")
async def rate(currency: str) -> float:
    return 1.5


class Counter:
    """An app: what it counts is lost in a power cut, what is in the list is not."""

    def __init__(self, disk: list[str] | None = None) -> None:
        self.disk = [] if disk is None else disk
        self.seen = 0

    async def add(self, name: str) -> int:
        self.seen += 1
        await asyncio.sleep(1)
        self.disk.append(name)
        await asyncio.sleep(1)
        return self.seen

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    def peek(self) -> int:
        return self.seen


def run(test: Body, scenario: Scenario | None = None, **inputs: Any) -> Run:
    return run_once(test, scenario or Scenario(), inputs)


def passes(test: Body, scenario: Scenario | None = None) -> Run:
    done = run(test, scenario)
    if done.error is not None:
        raise done.error
    return done


@asynccontextmanager
async def live() -> AsyncIterator[Sandbox]:
    async with Sandbox(dry_run=False) as sandbox:
        yield sandbox


# ------------------------------------------------------------------ the app


def test_a_handle_speaks_to_the_app() -> None:
    async def test(sim: Simulation) -> None:
        disk: list[str] = []
        app = await sim.start(lambda: Counter(disk))
        assert await app.add("a") == 1
        assert app.peek() == app.seen == 1
        app.seen = 7
        assert app.peek() == 7
        with pytest.raises(ValueError, match="no"):
            await app.fail()
        assert disk == ["a"]
        assert sim.started

    assert passes(test).extent.requests == 2


def test_a_factory_may_be_a_coroutine_function() -> None:
    async def make() -> Counter:
        await asyncio.sleep(1)
        return Counter()

    async def test(sim: Simulation) -> None:
        app = await sim.start(make)
        assert await app.add("a") == 1

    passes(test)


@pytest.mark.parametrize("steps", range(12))
def test_a_drawn_crash_loses_memory_and_keeps_the_disk(steps: int) -> None:
    lives = []

    async def test(sim: Simulation) -> None:
        disk: list[str] = []
        lives.clear()

        def make() -> Counter:
            lives.append(sim.clock.monotonic())
            return Counter(disk)

        app = await sim.start(make)
        answered = False
        try:
            answered = await app.add("a") == 1
        except CrashedError as error:
            assert error.call == "add"  # noqa: PT017 - only some of the scenarios come here
        assert disk == ["a"] if answered else len(disk) <= 1
        await sim.settle(5)
        assert await app.add("b") == app.peek() <= 2
        assert disk[-1] == "b"

    done = passes(test, Scenario(crashes=(steps,)))
    assert done.fired["crash"] == len(lives) - 1


def test_a_test_that_a_drawn_crash_ends_must_keep_its_promises() -> None:
    async def test(sim: Simulation) -> None:
        disk: list[str] = []
        app = await sim.start(lambda: Counter(disk))
        sim.eventually(lambda: "a" in disk, "it is written")
        await app.add("a")

    assert run(test).error is None
    lost = run(test, Scenario(crashes=(2,)))
    assert isinstance(lost.error, PromiseBrokenError)
    assert "it is written: not within 60 s" in str(lost.error)
    assert run(test, Scenario(crashes=(12,))).error is None


def test_no_finally_runs_in_a_power_cut() -> None:
    ran: list[str] = []

    class App:
        async def work(self) -> None:
            try:
                await asyncio.sleep(10)
            finally:
                ran.append("finally")

    async def test(sim: Simulation) -> None:
        app = await sim.start(App)
        working = asyncio.create_task(app.work())
        await sim.settle(1)
        sim.crash()
        with pytest.raises(CrashedError):
            await working
        with pytest.raises(CrashedError):
            await sim.call(asyncio.sleep, 1)
        with pytest.raises(CrashedError):
            app.work()
        await sim.settle(20)
        assert not ran
        await sim.restart()
        await app.work()
        assert ran == ["finally"]
        await sim.restart()

    passes(test)


def test_a_crash_that_the_test_made_is_its_own() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(Counter)
        sim.crash()
        await app.add("a")

    assert isinstance(run(test).error, CrashedError)


def test_crash_and_restart_need_an_app() -> None:
    async def crash(sim: Simulation) -> None:
        sim.crash()

    async def restart(sim: Simulation) -> None:
        await sim.restart()

    async def call(sim: Simulation) -> None:
        await sim.call(asyncio.sleep, 1)

    for test in (crash, restart, call):
        assert isinstance(run(test).error, NothingToRestartError)
        assert "sim.start(factory)" in str(run(test).error)


def test_one_app_per_simulation() -> None:
    async def test(sim: Simulation) -> None:
        await sim.start(Counter)
        await sim.start(Counter)

    assert isinstance(run(test).error, ConfigurationError)


@pytest.mark.parametrize("crashes", [(), (3,)])
def test_a_factory_that_fails_ends_the_run_with_its_own_error(crashes: tuple[int, ...]) -> None:
    lives = []

    def make() -> Counter:
        lives.append(1)
        if len(lives) > len(crashes):
            raise ZeroDivisionError("no such app")
        return Counter()

    async def test(sim: Simulation) -> None:
        lives.clear()
        app = await sim.start(make)
        await app.add("a")

    assert isinstance(run(test, Scenario(crashes=crashes)).error, ZeroDivisionError)


def test_a_call_inside_the_app_dies_with_it() -> None:
    async def forever() -> None:
        await asyncio.sleep(10**6)

    async def test(sim: Simulation) -> None:
        await sim.start(Counter)
        assert await sim.call(asyncio.sleep, 1, "result") == "result"
        calling = asyncio.create_task(sim.call(forever))
        await sim.settle(1)
        sim.crash()
        with pytest.raises(CrashedError):
            await calling

    passes(test)


def test_a_cancelled_call_is_cancelled_in_the_app() -> None:
    ended: list[str] = []

    class App:
        async def work(self) -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async def test(sim: Simulation) -> None:
        app = await sim.start(App)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.work(), 1)
        await sim.settle(1)
        assert ended == ["cancelled"]

    passes(test)


def test_a_power_cut_leaves_a_call_alone_that_was_given_up() -> None:
    class App:
        async def linger(self) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(100)

    async def test(sim: Simulation) -> None:
        app = await sim.start(App)
        calling = asyncio.create_task(app.linger())
        await sim.settle(1)
        calling.cancel()
        await sim.settle(1)
        assert calling.cancelled()
        sim.crash()
        sim.crash()

    passes(test)


def test_a_call_waits_for_an_app_that_is_starting() -> None:
    async def make() -> Counter:
        await asyncio.sleep(1)
        return Counter()

    async def test(sim: Simulation) -> None:
        app = await sim.start(make)
        restarting = asyncio.create_task(sim.restart())
        add = app.add
        await sim.settle(0.5)
        assert await add("a") == 1
        await restarting

    passes(test)


def test_a_task_that_is_cancelled_inside_reaches_the_caller() -> None:
    class App:
        async def give_up(self) -> None:
            raise asyncio.CancelledError

    async def test(sim: Simulation) -> None:
        app = await sim.start(App)
        with pytest.raises(asyncio.CancelledError):
            await app.give_up()

    passes(test)


@pytest.mark.parametrize("name", ["add", "fail"])
def test_a_duplicate_arrives_twice_and_is_answered_once(name: str) -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(Counter)
        if name == "fail":
            with pytest.raises(ValueError, match="no"):
                await app.fail()
        else:
            assert await app.add("a") == 2
            assert await app.add("b") == 3

    assert passes(test, Scenario(duplicates=(1, 9))).fired["duplicate"] == 1


def test_an_app_must_leave_no_task_behind() -> None:
    @asynccontextmanager
    async def careless() -> AsyncIterator[None]:
        asyncio.create_task(asyncio.sleep(10**6), name="left")  # noqa: RUF006 - that is the mistake
        yield

    async def test(sim: Simulation) -> None:
        await sim.start(careless)

    error = run(test).error
    assert isinstance(error, PromiseBrokenError)
    assert "leaves no task behind" in str(error)
    assert "left" in str(error)


def test_an_app_that_is_entered_may_be_its_own_handle() -> None:
    class App:
        async def __aenter__(self) -> None:
            self.open = True

        async def __aexit__(self, *_: object) -> None:
            self.open = False

    apps = [App()]

    async def test(sim: Simulation) -> None:
        app = await sim.start(lambda: apps[0])
        assert app.open

    passes(test)
    assert not apps[0].open


# ------------------------------------------------------------------ actions


def test_bodies_are_replaced_and_counted() -> None:
    async def test(sim: Simulation) -> None:
        await sim.start(live)
        assert await sim.call(charge, "inv-1") == "held back"
        assert await charge("inv-2") == "held back"
        assert await charge("inv-2") == "held back"
        await send("ada")
        await send("ada")
        assert await rate("CHF") == 1.5
        assert [call.key for call in sim.actions][:2] == ["inv-1", "inv-2"]
        assert len(sim.actions) == sim.actions.count("card.charge") + sim.actions.count("mail.send") == 4
        assert sim.actions.count("card.charge", key="inv-2") == 1
        first = next(iter(sim.actions))
        assert (first.action, first.arguments, first.life, first.generation) == (
            "card.charge",
            {"invoice": "inv-1"},
            1,
            1,
        )

    assert passes(test).extent.calls == {"card.charge": 2, "mail.send": 2, "fx.rate": 1}


def test_stubs_stand_in_for_bodies() -> None:
    async def ask(currency: str) -> float:
        await asyncio.sleep(1)
        return len(currency)

    async def test(sim: Simulation) -> None:
        sim.stub("card.charge", lambda invoice: f"paid {invoice}")
        sim.stub("fx.rate", ask)
        await sim.start(live)
        assert await charge("inv-1") == "paid inv-1"
        assert await rate("CHF") == 3
        assert sim.actions.count("fx.rate") == 1

    passes(test)


def test_what_a_stub_refuses_did_not_happen() -> None:
    def refuse() -> None:
        raise ValueError("declined")

    async def test(sim: Simulation) -> None:
        sim.stub("card.charge", refuse)
        await sim.start(live)
        with pytest.raises(ValueError, match="declined"):
            await charge("inv-1")
        assert sim.actions.count("card.charge") == 0

    passes(test)


def test_a_key_that_the_provider_gets_happens_once_however_often_it_is_sent() -> None:
    @irreversible("card.pay", key=lambda invoice: invoice, retry=RetrySettings(max_retries=1), limit="card")
    async def pay(invoice: str, *, idempotency_key: str = FILLED_IN) -> str:
        raise AssertionError("a simulation never comes here")

    def shop() -> Sandbox:
        return Sandbox(dry_run=False, governor=GovernorSettings(limits={"card": Limit(9, 60.0)}))

    async def test(sim: Simulation) -> None:
        sim.stub("card.pay", lambda invoice, idempotency_key: f"paid {invoice}")
        sandbox = await sim.start(shop)
        assert await pay("inv-1") == "paid inv-1"
        assert sim.actions.count("card.pay", key="inv-1") == 1
        (record,) = sandbox.get_actions(name="card.pay")
        assert record.attempts == 2

    passes(test, Scenario(faults=(fault("card.pay", TimeoutError, after=True),)))


@pytest.mark.parametrize(("after", "count"), [(False, 0), (True, 1)])
def test_a_fault_comes_before_or_after_the_body(after: bool, count: int) -> None:
    lost = fault("card.charge", TimeoutError, after=after, nth=2)

    async def test(sim: Simulation) -> None:
        await sim.start(live)
        await charge("inv-1")
        with pytest.raises(TimeoutError):
            await charge("inv-2")
        assert sim.actions.count("card.charge", key="inv-2") == count

    assert passes(test, Scenario(faults=(lost,))).fired == {repr(lost.anywhere): 1}


def test_a_dry_run_applies_nothing() -> None:
    async def test(sim: Simulation) -> None:
        await sim.start(Sandbox)
        await charge("inv-1")
        assert len(sim.actions) == 0

    passes(test)


def test_a_dry_run_that_lets_a_body_through_is_found() -> None:
    async def test(sim: Simulation) -> None:
        sandbox = Sandbox(dry_run=False)
        await sim.start(lambda: sandbox)
        sandbox._runtime.dry_run = True
        await charge("inv-1")
        await sim.settle(1)

    error = run(test).error
    assert isinstance(error, PromiseBrokenError)
    assert "a dry run applies nothing" in str(error)


def test_the_same_key_happening_twice_is_found() -> None:
    async def test(sim: Simulation) -> None:
        await sim.start(live)
        await sim.call(charge, "inv-1")
        await sim.restart()
        await sim.call(charge, "inv-1")

    error = run(test).error
    assert isinstance(error, PromiseBrokenError)
    assert "card.charge[inv-1] happened twice" in str(error)


def test_another_generation_may_happen_again() -> None:
    class DeclinedError(Exception):
        pass

    @irreversible("stock.order", key=lambda: "k", rejected=(DeclinedError,))
    async def order() -> None:
        raise NotImplementedError

    async def test(sim: Simulation) -> None:
        answers = [DeclinedError(), None]

        def answer() -> None:
            now = answers.pop(0)
            if now is not None:
                raise now

        sim.stub("stock.order", answer)
        await sim.start(live)
        with pytest.raises(DeclinedError):
            await order()
        await order()
        assert [call.generation for call in sim.actions] == [2]

    passes(test)


# ------------------------------------------------------------------ promises, phases, time


def test_what_always_holds_is_checked_after_every_step() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(Counter)
        sim.always(lambda: app.seen <= 1, "never more than one")
        await app.add("a")
        await app.add("b")

    done = run(test)
    assert isinstance(done.error, PromiseBrokenError)
    assert "never more than one" in str(done.error)
    assert done.steps[-1].kind == "violation"


def test_a_promise_about_an_app_that_is_down_is_neither_kept_nor_broken() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(Counter)
        sim.always(lambda: app.seen == 0, "it counts nothing")
        sim.eventually(lambda: app.seen == 0, "it counts nothing in the end")
        sim.crash()
        await sim.settle(5)

    passes(test)


def test_an_always_that_breaks_in_the_last_step_is_found() -> None:
    state = []

    async def test(sim: Simulation) -> None:
        state.clear()
        sim.always(lambda: not state, "it stays empty")
        state.append(1)

    assert isinstance(run(test).error, PromiseBrokenError)


def test_eventually_counts_from_the_healing() -> None:
    async def test(sim: Simulation, seconds: float) -> None:
        done = []
        waking = asyncio.get_running_loop().call_later(100, done.append, 1)
        sim.eventually(lambda: done, "it wakes", within_seconds=seconds)
        await sim.heal()
        if waking.cancelled():
            raise AssertionError

    assert run(test, seconds=99).error is not None
    assert run(test, seconds=101).error is None


def test_healing_ends_all_trouble() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(live)
        del app
        await sim.heal()
        await sim.heal()
        await charge("inv-1")
        await asyncio.gather(*(asyncio.sleep(1) for _ in range(5)))

    trouble = Scenario(
        pauses=(30,), faults=(fault("card.charge", OSError),), crashes=(500,), duplicates=(1,), jumps=(Jump(500, 60),)
    )
    assert not passes(test, trouble).fired


def test_the_clock_jumps_and_timers_do_not_notice() -> None:
    async def test(sim: Simulation) -> None:
        before = sim.clock.now()
        app = await sim.start(Counter)
        await app.add("a")
        assert (sim.clock.now() - before).total_seconds() == 2 - 3600
        assert sim.clock.monotonic() == 2

    assert passes(test, Scenario(jumps=(Jump(1, -3600), Jump(10**6, 5)))).fired == {"jump": 1}


def test_pauses_count_only_where_they_hit() -> None:
    async def test(sim: Simulation) -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    assert passes(test, Scenario(pauses=(0, 10**6))).fired == {"pause": 1}


def test_nonsense_is_refused() -> None:
    async def within(sim: Simulation) -> None:
        sim.eventually(lambda: True, "it", within_seconds=0)

    async def settle(sim: Simulation) -> None:
        await sim.settle(-1)

    async def start(sim: Simulation) -> None:
        await sim.start(3)  # type: ignore[call-overload]

    async def stub(sim: Simulation) -> None:
        sim.stub("card.charge", "paid")  # type: ignore[arg-type]

    async def always(sim: Simulation) -> None:
        sim.always(True, "it")  # type: ignore[arg-type]

    async def eventually(sim: Simulation) -> None:
        sim.eventually("it", lambda: True)  # type: ignore[arg-type]

    for test in (within, settle, start, stub, always, eventually):
        assert isinstance(run(test).error, ConfigurationError)


# ------------------------------------------------------------------ one run


def test_a_task_that_is_left_behind_is_found() -> None:
    async def test(sim: Simulation) -> None:
        asyncio.create_task(asyncio.sleep(10**6), name="left")  # noqa: RUF006 - that is the mistake

    error = run(test).error
    assert isinstance(error, PromiseBrokenError)
    assert "left" in str(error)


def test_an_error_that_nobody_looked_at_is_found() -> None:
    async def broken() -> None:
        raise KeyError("nobody looks")

    async def test(sim: Simulation) -> None:
        asyncio.create_task(broken())  # noqa: RUF006 - that is the mistake
        await asyncio.sleep(1)

    done = run(test)
    assert isinstance(done.error, KeyError)
    assert done.unhandled == (done.error,)


def test_whoever_ends_the_process_ends_it() -> None:
    async def test(sim: Simulation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(test)


def test_a_run_without_trouble_in_a_world_of_its_own() -> None:
    async def leave() -> None:
        asyncio.create_task(asyncio.sleep(5))  # noqa: RUF006 - that is the mistake

    async def hour() -> str:
        await asyncio.sleep(3600)
        return "done"

    assert run_in_world(lambda _loop: hour()) == "done"
    gc.disable()
    try:
        assert run_in_world(lambda _loop: hour()) == "done"
        assert not gc.isenabled(), "it was asleep before"
    finally:
        gc.enable()
    with pytest.raises(PromiseBrokenError):
        run_in_world(lambda _loop: leave())


# ------------------------------------------------------------------ the dead are silent


class Pump(Component):
    """Says goodbye in every way there is."""

    name = "pump"

    async def _start(self) -> None:
        _ = self.spawn(self._pump(), name="pump")

    async def _pump(self) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            logging.getLogger("shop").error("goodbye")
            self.services.journal.publish("pump.stopped", component=self.name, level=Level.ERROR)


def speak_of_the_dead(caplog: pytest.LogCaptureFixture, *, cut: bool) -> None:
    """Check that a life which loses power, or is up when its run fails, writes no line after that."""
    sink = MemorySink()

    async def test(sim: Simulation) -> None:
        sim.stub("card.charge", lambda: asyncio.sleep(500))
        log = LogSettings(sinks=(sink, StdlibSink()))
        await sim.start(lambda: Sandbox(dry_run=False, extra=(Pump(),), logger=log))
        calling = asyncio.create_task(sim.call(charge, "1"))
        await asyncio.sleep(1)
        if not cut:
            raise ZeroDivisionError
        sim.crash()
        with pytest.raises(CrashedError):
            await calling

    assert type(run(test).error) is (type(None) if cut else ZeroDivisionError)
    said = " ".join([*caplog.messages, *(line["event"] for line in sink.get_lines())])
    # Only the second life says goodbye, which stops in good order.
    assert [said.count(each) for each in ("goodbye", "pump.stopped", "unknown")] == ([1, 2, 0] if cut else [0, 0, 0])


@pytest.mark.parametrize("cut", [True, False])
def test_a_dead_life_does_not_speak(caplog: pytest.LogCaptureFixture, cut: bool) -> None:
    speak_of_the_dead(caplog, cut=cut)


@pytest.mark.parametrize(
    ("fence", "without"),
    [
        ("ending._logging_muted", nullcontext),
        ("world._forget", lambda _host: None),
        ("loop.SimLoop.power_cut", lambda *_: None),
    ],
)
def test_the_check_catches_a_missing_fence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fence: str, without: Any
) -> None:
    monkeypatch.setattr(f"asyncsandbox.testing.{fence}", without)
    with pytest.raises(AssertionError):
        speak_of_the_dead(caplog, cut=False)


# ------------------------------------------------------------------ the verdict


def go_while_a_check_fails(**check: Any) -> Run:
    """Run a sandbox whose check passes, fails, and passes again."""

    async def test(sim: Simulation) -> None:
        async with Sandbox() as box:
            answers = iter([True, False, True])
            box.readiness.register_check("disk", lambda: next(answers), **check)
            for _ in range(3):
                await box.is_ready()

    return run(test)


@pytest.mark.parametrize("critical", [True, False])
def test_a_right_verdict_is_no_false_alarm(critical: bool) -> None:
    assert go_while_a_check_fails(critical=critical).error is None


@pytest.mark.parametrize("name", ["forbids", "blocks"])
def test_go_is_never_true_while_a_critical_check_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckResult, name, False)
    error = go_while_a_check_fails().error
    assert isinstance(error, PromiseBrokenError)
    assert "while a critical check fails: DEGRADED though disk failed" in str(error)
    assert go_while_a_check_fails(critical=False).error is None


def test_the_verdicts_of_other_hosts_are_not_ours() -> None:
    assert Oracles([Host(name="other", dry_run=True)]).find_wrong() is None


def test_a_check_that_is_missing_counts_as_critical(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckResult, "forbids", False)
    error = go_while_a_check_fails(depends_on=("network",)).error
    assert "disk, network failed" in str(error)
