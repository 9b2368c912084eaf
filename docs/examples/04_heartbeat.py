"""A loop that stands still is told of with the line that blocks it, and a beat that stays out with its name.

$ python 04_heartbeat.py
healthy: True
stall: 'import invoices' in load_file, more than 0.1 s: True
mail: dead after 1 beat, last error ConnectionError: no route to host
healthy: False
back again: healthy
events: heartbeat.stall, heartbeat.dead, heartbeat.recovered
"""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from asyncsandbox import BeatStatus, HeartbeatSettings, SchedulerHeartbeat


def load_file(path: Path) -> None:
    time.sleep(0.4)  # a blocking call, in a coroutine: nothing else runs meanwhile


async def import_invoices() -> None:
    load_file(Path("invoices.csv"))


async def send_mails(heartbeat: SchedulerHeartbeat, *, server_is_up: bool) -> None:
    async with heartbeat.watch("mail"):
        if not server_is_up:
            raise ConnectionError("no route to host")


def get_mail(heartbeat: SchedulerHeartbeat) -> BeatStatus:
    return next(beat for beat in heartbeat.get_health_status().beats if beat.name == "mail")


async def main() -> None:
    async with SchedulerHeartbeat(settings=HeartbeatSettings(stall_seconds=0.1)) as heartbeat:
        print("healthy:", heartbeat.is_healthy())

        await asyncio.create_task(import_invoices(), name="import invoices")
        await asyncio.sleep(0.1)
        stall = heartbeat.get_health_status().stalls[0]
        print(f"stall: {stall.task!r} in {stall.stack[-1].function}, more than 0.1 s: {stall.duration_seconds > 0.1}")

        heartbeat.expect("mail", expect_every_seconds=0.1, grace_seconds=0.1)
        await send_mails(heartbeat, server_is_up=True)
        with suppress(ConnectionError):  # a loop that goes on after every error looks alive, and sends nothing
            await send_mails(heartbeat, server_is_up=False)
        await asyncio.sleep(0.3)
        mail = get_mail(heartbeat)
        print(f"mail: {mail.state} after {mail.beats} beat, last error {mail.last_error}")
        print("healthy:", heartbeat.is_healthy())

        await send_mails(heartbeat, server_is_up=True)
        print("back again:", get_mail(heartbeat).state)
        events = dict.fromkeys(event.name for event in heartbeat.services.journal.get_events())
        print("events:", ", ".join(events))


if __name__ == "__main__":
    asyncio.run(main())
