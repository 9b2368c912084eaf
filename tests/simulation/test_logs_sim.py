"""The logger under every single pause: a line belongs to its own request, whatever runs in between."""

import asyncio
import re

from hypothesis import settings

from asyncsandbox import Sandbox, correlation, irreversible
from asyncsandbox.components.logs import JsonSink, LogSettings, MemorySink
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=120)


@irreversible("mail.send", key=lambda to: to)
async def send(to: str) -> None:
    raise NotImplementedError


@settings(database=None, deadline=None, max_examples=60)
@simulate(PAUSES)
async def test_correlation_ids_never_mix_between_tasks(sim: Simulation) -> None:
    memory = MemorySink()
    ids: dict[str, str] = {}

    async def child(sandbox: Sandbox, user: str) -> None:
        await asyncio.sleep(0)
        sandbox.logger.log_action("child", user=user)

    async def request(sandbox: Sandbox, user: str) -> None:
        given = f"id-{user}" if user == "ada" else None
        sandbox.logger.set_correlation_id(given)
        ids[user] = sandbox.logger.log_request("/mail", "POST", user_id=user, user=user)
        assert given in (None, ids[user])
        await asyncio.sleep(0)
        spawned = asyncio.create_task(child(sandbox, user))
        await send(user)
        sandbox.logger.log_action("sent", user=user)
        assert sandbox.logger.get_correlation_id() == ids[user]
        with correlation(f"part of {ids[user]}"):
            await asyncio.sleep(0)
        await spawned
        sandbox.logger.log_action("answered", user=user)

    async with Sandbox(dry_run=False, logger=LogSettings(sinks=(memory,), level="debug")) as sandbox:
        await asyncio.gather(*(request(sandbox, user) for user in ("ada", "bob", "cyd")))
        await send("nobody")
        assert sandbox.logger.get_correlation_id() is None, "an action leaves no id behind"
    assert len(set(ids.values())) == 3
    for user, correlation_id in ids.items():
        lines = [line for line in memory.get_lines() if user in (line.get("user"), line.get("key"))]
        assert sorted(line["event"] for line in lines) == [
            "action.done",
            "answered",
            "child",
            "request",
            "sent",
        ]
        assert {line["correlation_id"] for line in lines} == {correlation_id}
    (orphan,) = [line for line in memory.get_lines() if line.get("key") == "nobody"]
    assert orphan["correlation_id"] not in {None, *ids.values()}


class Pipe:
    """A stream that takes a few bytes at a time, and at times none."""

    def __init__(self) -> None:
        self.data = b""
        self.calls = 0

    def write(self, data: bytes) -> int:
        self.calls += 1
        if self.calls % 3 == 0:
            raise BlockingIOError
        self.data += data[:40]
        return min(len(data), 40)

    def flush(self) -> None:
        pass


@settings(database=None, deadline=None, max_examples=30)
@simulate(PAUSES)
async def test_a_buffered_sink_keeps_every_line_in_order(sim: Simulation) -> None:
    pipe = Pipe()
    sink = JsonSink(pipe, buffered=True)

    async with Sandbox(logger=LogSettings(sinks=(sink,))) as sandbox:

        async def say(who: int) -> None:
            for number in range(3):
                sandbox.logger.log_action(f"{who}.{number}")
                await asyncio.sleep(0.05)

        await asyncio.gather(say(0), say(1))
        await sim.settle(2)
        events = re.findall(rb'"event":"([^"]*)"', pipe.data)
        assert sorted(events) == [b"0.0", b"0.1", b"0.2", b"1.0", b"1.1", b"1.2"], "what waits is written in time"
        for who in (b"0", b"1"):
            assert [event for event in events if event.startswith(who)] == [who + b".%d" % n for n in range(3)]
        for number in range(3):
            sandbox.logger.log_action(f"2.{number}")
    status = sandbox.logger.get_status()
    assert pipe.data.count(b"\n") + status.lost == status.lines
