"""Many small checks at once, and one word: GO, DEGRADED or NO-GO.

$ python 10_readiness.py
GO: database pass, mail pass
DEGRADED: database pass, mail warn (312 mails are waiting)
NO-GO: database fail (ConnectionError: refused), mail skipped (not asked, because of database)
required: not ready, because of database
for a load balancer: {"status": "fail"}
"""

import asyncio
from dataclasses import dataclass

from asyncsandbox import NotReadyError, ReadinessReport, SandboxReadinessChecker


@dataclass
class Shop:
    database_is_up: bool = True
    waiting_mails: int = 0


shop = Shop()
checker = SandboxReadinessChecker()


@checker.check("database")
async def ask_database() -> None:
    if not shop.database_is_up:
        raise ConnectionError("refused")


@checker.check("mail", critical=False, depends_on=("database",))
async def look_at_mail() -> str:
    return f"{shop.waiting_mails} mails are waiting" if shop.waiting_mails > 100 else ""


def show(report: ReadinessReport) -> None:
    checks = (f"{check.name} {check.status}{f' ({check.output})' if check.output else ''}" for check in report.checks)
    print(f"{report.verdict}: {', '.join(checks)}")


async def main() -> None:
    show(await checker.run_all_checks())
    shop.waiting_mails = 312
    show(await checker.run_all_checks())
    shop.database_is_up = False
    report = await checker.run_all_checks()
    show(report)
    try:
        await checker.require_ready()
    except NotReadyError as error:
        print("required: not ready, because of", ", ".join(error.failed))
    print("for a load balancer:", report.to_health_json(details=False))


if __name__ == "__main__":
    asyncio.run(main())
