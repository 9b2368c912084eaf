"""An outbox that mails twice after a crash, the fix that is none, and the one that is.

$ pytest outbox.py                the first two fail, and say why
$ pytest outbox.py -k Asking      the third holds under every single crash and hundreds of double ones
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import settings

from asyncsandbox import Sandbox, irreversible, read_only
from asyncsandbox.testing import Simulation, scenarios, simulate


@irreversible("mail.send", key=lambda mail: mail)
async def send(mail: str) -> None:
    raise NotImplementedError("here the real thing talks to a mail server")


@read_only("mail.find")
async def was_sent(mail: str) -> bool:
    raise NotImplementedError("here the real thing asks the mail server")


class Disk:
    """What a power cut leaves: each mail and its state. It stands for a table of a database."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    async def write(self, mail: str, state: str) -> None:
        await asyncio.sleep(0.01)
        self.states[mail] = state

    def find(self, *states: str) -> list[str]:
        return [mail for mail, state in self.states.items() if state in states]


class Outbox:
    """Sends what is new, then writes down that it did."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def post(self, mail: str) -> None:
        await self.disk.write(mail, "new")

    async def run(self) -> None:
        await self.recover()
        while True:
            for mail in self.disk.find("new"):
                await self.deliver(mail)
            await asyncio.sleep(1)

    async def recover(self) -> None:
        pass

    async def deliver(self, mail: str) -> None:
        await send(mail)
        await self.disk.write(mail, "sent")


class IntentFirst(Outbox):
    """Writes down what it is about to do; what a crash left half done waits for a person."""

    async def recover(self) -> None:
        for mail, state in list(self.disk.states.items()):
            if state != "sent":
                await self.disk.write(mail, "unknown" if state == "sending" else "new")

    async def deliver(self, mail: str) -> None:
        await self.disk.write(mail, "sending")
        await super().deliver(mail)


class Asking(IntentFirst):
    """Asks the mail server about what a crash left half done."""

    async def recover(self) -> None:
        for mail in self.disk.find("sending"):
            await self.disk.write(mail, "sent" if await was_sent(mail) else "new")


@asynccontextmanager
async def start(outbox: Outbox) -> AsyncIterator[Outbox]:
    async with Sandbox(dry_run=False):
        running = asyncio.create_task(outbox.run())
        yield outbox
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("kind", [Outbox, IntentFirst, Asking])
@settings(max_examples=500, deadline=None)
@simulate(scenarios(pauses=1, crashes=2))
async def test_outbox(sim: Simulation, kind: type[Outbox]) -> None:
    disk = Disk()
    sim.stub("mail.find", lambda mail: sim.actions.count("mail.send", key=mail) > 0)
    sim.always(lambda: sim.actions.count("mail.send") <= 1, "a mail is sent at most once")
    outbox = await sim.start(lambda: start(kind(disk)))
    await outbox.post("welcome")
    sim.eventually(lambda: disk.find("sent", "unknown"), "a mail that was accepted is sent, or known to be in doubt")
