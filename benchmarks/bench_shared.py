"""What idempotency keys and limits cost in a store: against the bare reads and writes they make, on the same disk."""

import time
from pathlib import Path

from bench_durable import BENCH, CALLERS, CALLS, PUT, ROUNDS, bare, best, calls_per_second

from asyncsandbox import GovernorSettings, Limit, Sandbox, open_store

ADMISSIONS = 20_000


async def work(key: str) -> str:
    return key


async def keys(folder: Path, callers: int) -> float:
    """Return how many new idempotency keys a second can be used."""
    async with Sandbox(dry_run=False, store=folder / "store.sqlite") as sandbox:
        process = sandbox.idempotency_manager.process_idempotent
        return await calls_per_second(lambda key: process(key, work, key), callers)


async def writes(folder: Path) -> float:
    """Return how many bare writes a second one caller can make."""
    async with open_store(folder / "bare.sqlite") as store:
        await store.attach(BENCH)
        return await calls_per_second(lambda key: store.write(PUT, key=key, value="x"), 1)


async def admissions(folder: Path) -> float:
    """Return how many calls a second a shared limit admits to one caller, who never waits."""
    limits = {"api": Limit(10 * ADMISSIONS, 3600.0, shared=True)}
    governor = GovernorSettings(limits=limits)
    async with Sandbox(dry_run=False, store=folder / "store.sqlite", governor=governor) as sandbox:
        check = sandbox.governor.check_limit
        began = time.perf_counter()
        for _ in range(ADMISSIONS):
            await check("api")
        return ADMISSIONS / (time.perf_counter() - began)


def run() -> list[tuple[str, float, str]]:
    """Return label, value and goal of each measurement."""
    found: dict[str, list[float]] = {name: [] for name in ("bare", "keys", "lone bare", "lone", "writes", "admitted")}
    for _ in range(ROUNDS):
        found["bare"].append(best(lambda folder: bare(folder, CALLERS)))
        found["keys"].append(best(lambda folder: keys(folder, CALLERS)))
        found["lone bare"].append(best(lambda folder: bare(folder, 1)))
        found["lone"].append(best(lambda folder: keys(folder, 1)))
        found["writes"].append(best(writes))
        found["admitted"].append(best(admissions))
    top = {name: max(values) for name, values in found.items()}
    return [
        (f"keys in a store, {CALLERS} callers x {CALLS}, of bare writes", top["keys"] / top["bare"], "told"),
        ("one key in a store at a time, of bare writes", top["lone"] / top["lone bare"], "told"),
        ("shared limit, admissions per bare write", top["admitted"] / top["writes"], "told"),
    ]


if __name__ == "__main__":
    for label, value, goal in run():
        print(f"{label:60} {value:10.2f}   goal {goal}")
