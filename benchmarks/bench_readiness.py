"""20 checks that wait 10 ms each, asked by the checker and by a bare `asyncio.gather` of the same."""

import asyncio
import time

from asyncsandbox.components.readiness import SandboxReadinessChecker

CHECKS = 20
ROUNDS = 30


async def check() -> bool:
    """Wait as a ping to a database would."""
    await asyncio.sleep(0.01)
    return True


async def measure() -> float:
    """Return checker's time / gather's, each the best of its rounds, taken in turn."""
    checker = SandboxReadinessChecker()
    for number in range(CHECKS):
        checker.register_check(f"check {number}", check)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await asyncio.gather(*(check() for _ in range(CHECKS)))
        between = time.perf_counter()
        await checker.run_all_checks()
        theirs.append(between - began)
        ours.append(time.perf_counter() - between)
    return min(ours) / min(theirs)


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement."""
    return [("20 checks of 10 ms, x gather", asyncio.run(measure()), "<= 1.1")]


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:40} {ratio:6.2f}   goal {goal}")
