"""How soon `simulate` finds planted races, how small it makes them, and what Hypothesis costs; one peer beside it.

Every program (see planted.py) passes on stock asyncio. Sizes do not compare: ours counts pauses, detangle counts picks
out of turn.
"""

import asyncio
import contextlib
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from planted import HELD_OUT, LOOKED_AT, NEW, Bugs, Program, generated, planted, require, silent, turns

from asyncsandbox.testing import Simulation, Sweep, scenarios, simulate
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.simulated import simulated_of

GENERATED = 120
SILENT = 30
SEEDS = {"looked at": (LOOKED_AT, 1), "held out": (HELD_OUT, 2), "new": (NEW, 3)}
PEER_RUNS = 2_000
PEER_SEEDS = 10
ROUNDS = 5
ROUND_SECONDS = 0.4

Row = tuple[str, float, str]


@dataclass(frozen=True)
class Found:
    """What it took to find a bug.

    Attributes:
        runs: Runs up to the first that failed.
        size: How many things go wrong in the scenario that is shown.
        seconds: Real time to find and to shrink.
    """

    runs: int
    size: int
    seconds: float


# ---------------------------------------------------------------- measuring


def find(program: Program, *, examples: int = 1_000, pairs: bool = True) -> Found | None:
    """Have `simulate` find and shrink the bug of a program, without a seed; None where it does not."""
    runs = 0
    failed_at: int | None = None

    @settings(
        database=None, deadline=None, derandomize=True, max_examples=examples, phases=[Phase.generate, Phase.shrink]
    )
    @simulate(scenarios() if pairs else st.just(Sweep(pauses=1)))
    async def test(_sim: Simulation) -> None:
        nonlocal runs, failed_at
        runs += 1
        number = runs
        try:
            await program()
        except BaseException:  # a deadlocked program is cancelled
            failed_at = failed_at or number
            raise

    began = time.perf_counter()
    with contextlib.suppress(Exception):
        test()
    report = simulated_of(test).report
    if report is None or failed_at is None:
        return None
    return Found(failed_at, report.scenario.size, time.perf_counter() - began)


def find_with_detangle(program: Program, seed: int) -> Found | None:
    """Have detangle do the same, with what it does by default and more runs."""
    detangle = importlib.import_module("detangle")
    began = time.perf_counter()
    try:
        detangle.explore(program, runs=PEER_RUNS, seed=seed, database=False)
    except detangle.BugFound as found:
        return Found(found.report.runs, found.report.deviations, time.perf_counter() - began)
    return None


async def schedule() -> None:
    """Run five tasks on one lock, in any order well."""
    lock = asyncio.Lock()
    value = 0

    async def add(delay: int) -> None:
        nonlocal value
        await turns(delay)
        async with lock:
            seen = value
            await turns(1)
            value = seen + 1

    await asyncio.gather(add(0), add(4), turns(8), turns(8), turns(8))
    require(value == 2, "a lock locks")


def rate(run: Callable[[], int]) -> float:
    """Return how many runs there are in a second of processor time, where each call says how many it made."""
    began, count = time.process_time(), 0
    while (elapsed := time.process_time() - began) < ROUND_SECONDS:
        count += run()
    return count / elapsed


def hypothesis_share() -> tuple[float, float, float]:
    """Return the rate of runs through Hypothesis, as a share of the loop's.

    In sweeps of single pauses, in sweeps with second ones, and as scenarios are drawn.
    """

    def through(what: Any) -> Callable[[], int]:
        @settings(database=None, deadline=None, derandomize=True, max_examples=100)
        @simulate(what, number=st.integers())
        async def test(_sim: Simulation, number: int) -> None:  # noqa: ARG001 - so that there are many examples
            await schedule()

        def run() -> int:
            before = simulated_of(test).runs
            test()
            return simulated_of(test).runs - before

        return run

    def raw() -> int:
        SimLoop().run(schedule())
        return 1

    sources = (st.just(Sweep(pauses=1)), st.just(Sweep(pauses=3)), scenarios())
    ways = (raw, *map(through, sources))
    rates = [[rate(way) for way in ways] for _ in range(ROUNDS)]
    alone, swept, paired, drawn = (max(each) for each in zip(*rates, strict=True))
    return swept / alone, paired / alone, drawn / alone


def summary(who: str, founds: list[Found | None], goals: tuple[str, ...]) -> list[Row]:
    """Return rows on what was found of the generated programs."""
    found = [each for each in founds if each is not None]
    runs, sizes, times = ([getattr(each, name) for each in found] for name in ("runs", "size", "seconds"))
    figures = {
        "found": len(found) / len(founds),
        "runs, median": statistics.median(runs),
        "runs, max": max(runs),
        "size, median": statistics.median(sizes),
        "size, max": max(sizes),
        "find + shrink, median s": statistics.median(times),
    }
    label = f"{who}, {len(founds)} programs:"
    return [(f"{label} {name}", figure, goal) for (name, figure), goal in zip(figures.items(), goals, strict=True)]


def compare(programs: dict[str, Program]) -> list[Row]:
    """Return rows on what a peer makes of the planted bugs, where it is installed."""
    rows: list[Row] = []
    for name, program in programs.items():
        founds = [find_with_detangle(program, seed) for seed in range(PEER_SEEDS)]
        found = [each for each in founds if each is not None]
        rows.append((f"detangle, {name}: found of {PEER_SEEDS} seeds", len(found), ""))
        if found:
            rows.append((f"detangle, {name}: runs, median", statistics.median(each.runs for each in found), ""))
            rows.append((f"detangle, {name}: size, median", statistics.median(each.size for each in found), ""))
    return rows


def run() -> list[Row]:
    """Return label, figure and goal of each measurement."""
    bugs = planted()
    rows: list[Row] = []
    for name, program in bugs.items():
        found = find(program)
        goals = ("<= 300", "2") if name == "second_try" else ("<= 50", "1")
        rows.append((f"{name}: runs", found.runs if found else float("inf"), goals[0]))
        rows.append((f"{name}: size", found.size if found else float("inf"), goals[1]))
    both = find(Bugs().two_races)
    rows.append(("two_races: runs", both.runs if both else float("inf"), ""))
    sets = {f"silent, {name}": silent(*drawn, SILENT) for name, drawn in SEEDS.items()}
    programs = generated(GENERATED)
    rows += summary("ours", [find(each) for each in programs], ("1", "", "", "1", "<= 2", "< 0.1"))
    for name, each in sets.items():
        rows += summary(f"ours, {name}", [find(program, examples=100) for program in each], ("",) * 6)
    names = ("in sweeps", "in sweeps with second pauses", "as drawn")
    for name, share, goal in zip(names, hypothesis_share(), (">= 0.5", "", ""), strict=True):
        rows.append((f"through Hypothesis, x raw loop, {name}", share, goal))
    with contextlib.suppress(ImportError):
        rows += compare({**bugs, "two_races": Bugs().two_races})
        for name, each in {"": programs, **sets}.items():
            who = f"detangle{name and f', {name}'}"
            rows += summary(who, [find_with_detangle(program, seed) for seed, program in enumerate(each)], ("",) * 6)
    return rows


if __name__ == "__main__":
    for label, figure, goal in run():
        print(f"{label:62} {figure:8.2f}" + (f"   goal {goal}" if goal else ""))
