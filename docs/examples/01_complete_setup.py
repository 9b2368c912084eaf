"""All components under one lifecycle: start, use, look, stop.

$ python 01_complete_setup.py
components: alerts, database, dry_run_lock, governor, heartbeat, idempotency_manager, logger, readiness, retry, worker
ready: True
guests: Ada, Grace
state: running, dry run: True
afterwards: stopped
"""

import asyncio

from sqlalchemy import text

from asyncsandbox import SandboxOrchestrator


async def main() -> None:
    sandbox = SandboxOrchestrator(use_memory_db=True)
    await sandbox.initialize()
    try:
        names = sorted(component.name for component in sandbox.get_status().components)
        print("components:", ", ".join(names))
        print("ready:", await sandbox.is_ready())

        async with sandbox.database.get_session() as session, session.begin():
            await session.execute(text("CREATE TABLE guest (name TEXT)"))
            await session.execute(text("INSERT INTO guest VALUES ('Ada'), ('Grace')"))
        async with sandbox.database.get_session() as session:
            guests = await session.scalars(text("SELECT name FROM guest ORDER BY name"))
            print("guests:", ", ".join(guests))

        status = sandbox.get_status()
        print(f"state: {status.state}, dry run: {status.dry_run}")
    finally:
        await sandbox.cleanup()  # what `async with SandboxOrchestrator(...)` does by itself
    print("afterwards:", sandbox.get_status().state)


if __name__ == "__main__":
    asyncio.run(main())
