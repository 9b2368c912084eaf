"""Starting and stopping a sandbox under every single pause, with components that are slow, broken or cancelled."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import Sandbox, irreversible
from asyncsandbox._core.component import Component, ComponentState
from asyncsandbox._core.ledger import ActionState
from asyncsandbox.errors import ComponentStartError, ComponentStopError, NoSandboxError
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=150)
STARTS = {"broken": st.sampled_from(["", "pump", "tap"]), "cancel_after": st.integers(0, 8)}
STOPS = {
    "broken": st.sampled_from(["", "tank", "tap"]),
    "cancelled": st.booleans(),
    "takes": st.sampled_from([1, 3]),
}
plain = settings(database=None, deadline=None)


sent: list[str] = []


@irreversible("mail.send", key=lambda to: to)
async def send(to: str, takes: int = 0) -> None:
    raise NotImplementedError


async def deliver(to: str, takes: int) -> None:
    await asyncio.sleep(takes)
    sent.append(to)


class Part(Component):
    """A component that takes its time, works in a task of its own, and notes what happens to it."""

    def __init__(self, log: list[str], broken: str) -> None:
        super().__init__()
        self.log = log
        self.broken = broken

    async def _start(self) -> None:
        await asyncio.sleep(0.2)
        self.spawn(self._work(), name="work")
        if self.broken == f"start {self.name}":
            raise OSError(self.name)
        self.log.append(f"start {self.name}")

    async def _stop(self) -> None:
        await asyncio.sleep(0.2)
        self.log.append(f"stop {self.name}")
        if self.broken == f"stop {self.name}":
            raise OSError(self.name)

    async def _work(self) -> None:
        self.log.append(f"work {self.name}")
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)
            self.log.append(f"rest {self.name}")


class Tank(Part):
    name = "tank"


class Pump(Part):
    name = "pump"
    depends_on = ("tank",)


class Tap(Part):
    name = "tap"
    depends_on = ("pump",)


ORDER = ["tank", "pump", "tap"]


def make(log: list[str], broken: str, **more: float) -> Sandbox:
    return Sandbox(dry_run=False, extra=(Tap(log, broken), Pump(log, broken), Tank(log, broken)), **more)  # type: ignore[arg-type]


def require_order(log: list[str], began: list[str]) -> None:
    """Check that what began was stopped, the last first, and its work had ended before the next was stopped."""
    stops = [entry.partition(" ")[2] for entry in log if entry.startswith("stop ")]
    assert stops == began[::-1]
    for name, following in zip(began, ["", *began], strict=False):
        if f"work {name}" in log:
            assert f"rest {name}" in log, "what a component spawned ends with it"
            assert not following or log.index(f"rest {name}") < log.index(f"stop {following}")


@settings(plain, max_examples=80)
@simulate(PAUSES, **STARTS)
async def test_a_start_that_fails_or_is_cancelled_leaves_nothing_running(
    sim: Simulation, broken: str, cancel_after: int
) -> None:
    log: list[str] = []
    sandbox = make(log, f"start {broken}")
    start = asyncio.create_task(sandbox.initialize())
    again = asyncio.create_task(sandbox.initialize()) if not broken else None
    timer = asyncio.get_running_loop().call_later(cancel_after / 10, start.cancel) if cancel_after else None
    (outcome,) = await asyncio.gather(start, return_exceptions=True)
    if timer is not None:
        timer.cancel()
    if again is None:
        assert isinstance(outcome, (ComponentStartError, asyncio.CancelledError))
        assert sandbox.get_status().state is ComponentState.FAILED
        require_order(log, [name for name in ORDER if f"stop {name}" in log])
        assert all(f"stop {name}" in log for name in ORDER if f"start {name}" in log)
        assert isinstance(outcome, asyncio.CancelledError) or f"stop {broken}" in log, "also the one that broke"
        with pytest.raises(NoSandboxError):
            await send("nobody")
        return
    await again
    assert sandbox.get_status().state is ComponentState.RUNNING
    # A first start that was cancelled has undone itself before the second one.
    first = len(log) - 1 - log[::-1].index("start tank")
    require_order(log[:first], [name for name in ORDER if f"stop {name}" in log])
    del log[:first]
    assert [entry for entry in log if entry.startswith("start ")] == [f"start {name}" for name in ORDER]
    await sandbox.cleanup()
    await sandbox.cleanup()
    require_order(log, ORDER)
    assert {part.state for part in sandbox.get_status().components} == {ComponentState.STOPPED}


@settings(plain, max_examples=60)
@simulate(PAUSES, **STOPS)
async def test_a_stop_lets_live_actions_end_and_stops_everything(
    sim: Simulation, broken: str, cancelled: bool, takes: int
) -> None:
    sim.stub("mail.send", deliver)
    sent.clear()
    log: list[str] = []
    sandbox = await make(log, f"stop {broken}", shutdown_seconds=2).initialize()
    call = asyncio.create_task(send("ada", takes))
    call.add_done_callback(lambda _: log.append("call ended"))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(sandbox.cleanup())
    await asyncio.sleep(0.1)
    with pytest.raises(NoSandboxError):
        await send("bob")
    if cancelled:
        stop.cancel()
    (outcome,) = await asyncio.gather(stop, return_exceptions=True)
    at = asyncio.get_running_loop().time()
    assert sandbox.get_status().state is ComponentState.STOPPED
    assert sandbox.get_status().in_flight == 0
    assert isinstance(outcome, ComponentStopError if broken else asyncio.CancelledError if cancelled else type(None))
    require_order(log, ORDER)
    await asyncio.gather(call, return_exceptions=True)
    (record,) = sandbox.get_actions(key="ada")
    if takes < 2:
        assert record.state is ActionState.DONE
        assert sent == ["ada"]
        assert log.index("call ended") < log.index("stop tap"), "components stop after the actions that use them"
    else:
        assert record.state is ActionState.UNKNOWN
    await sim.settle(20)
    assert at <= takes + 3.1
