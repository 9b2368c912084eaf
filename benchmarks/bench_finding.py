"""How soon `simulate` finds planted races, how small it makes them, and what Hypothesis costs; one peer beside it.

Every program passes on stock asyncio. Sizes do not compare: ours counts pauses, detangle counts picks out of turn.
"""

import asyncio
import contextlib
import importlib
import random
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st

from asyncsandbox.testing import Simulation, Sweep, scenarios, simulate
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.simulated import simulated_of

GENERATED = 120
PEER_RUNS = 2_000
PEER_SEEDS = 10
ROUNDS = 5
ROUND_SECONDS = 0.4

Row = tuple[str, float, str]
Program = Callable[[], Coroutine[Any, Any, None]]


class PlantedError(Exception):
    """The planted bug happened."""


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


# ---------------------------------------------------------------- bugs everybody has met


async def turns(count: int) -> None:
    """Let the others run, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def require(holds: object, promise: str) -> None:
    if not holds:
        raise PlantedError(promise)


@dataclass(frozen=True)
class Bugs:
    """Programs of two tasks beside others that have nothing to do with them; each shows its bug only out of turn.

    Attributes:
        start: Turns before the first task begins.
        gap: Turns from there until the second does.
        noise: Turns each of the others takes.
        noise_first: Whether the others are started first.
    """

    start: int = 0
    gap: int = 5
    noise: tuple[int, ...] = (8, 8, 8)
    noise_first: bool = False

    async def _beside_noise(self, *tasks: Coroutine[Any, Any, None]) -> None:
        noise = [turns(count) for count in self.noise]
        await asyncio.gather(*((*noise, *tasks) if self.noise_first else (*tasks, *noise)))

    async def lost_update(self) -> None:
        """Lose one of two deposits."""
        balance = 0

        async def deposit(delay: int) -> None:
            nonlocal balance
            await turns(delay)
            before = balance
            await turns(1)
            balance = before + 1

        await self._beside_noise(deposit(self.start), deposit(self.start + self.gap))
        require(balance == 2, "no deposit is lost")

    async def crossed_locks(self) -> None:
        """Take two locks in opposite order."""
        ours, theirs = asyncio.Lock(), asyncio.Lock()

        async def transfer(source: asyncio.Lock, target: asyncio.Lock, delay: int) -> None:
            await turns(delay)
            async with source:
                await turns(1)
                async with target:
                    await turns(1)

        await self._beside_noise(transfer(ours, theirs, self.start), transfer(theirs, ours, self.start + self.gap))

    async def missed_wakeup(self) -> None:
        """Forget a signal that came between the look and the wait."""
        items: list[str] = []
        arrived = asyncio.Event()

        async def consume() -> None:
            await turns(self.start)
            if not items:
                await turns(1)
                arrived.clear()
                await arrived.wait()
            items.pop()

        async def produce() -> None:
            await turns(self.start + self.gap)
            items.append("order")
            arrived.set()

        await self._beside_noise(consume(), produce())

    async def double_charge(self) -> None:
        """Charge twice, where the second looks before the first has noted it."""
        paid: dict[str, bool] = {}
        charges: list[str] = []

        async def charge(delay: int) -> None:
            await turns(delay)
            if "order" not in paid:
                await turns(1)
                charges.append("order")
                await turns(1)
                paid["order"] = True

        await self._beside_noise(charge(self.start), charge(self.start + self.gap))
        require(len(charges) == 1, "an order is charged once")

    async def second_try(self) -> None:
        """Lose an update only if the second try, after a conflict, is disturbed too: two pauses, a second apart."""
        balance = version = 0

        async def deposit(at: float, delay: int) -> None:
            nonlocal balance, version
            await asyncio.sleep(at)
            await turns(delay)
            for is_last in (False, True):
                before, seen = balance, version
                await turns(1)
                if is_last or version == seen:
                    balance, version = before + 1, version + 1
                    return
                await asyncio.sleep(1)

        early, late = deposit(0, self.start), deposit(0, self.start + self.gap)
        await self._beside_noise(early, late, deposit(1, self.gap))
        require(balance == 3, "no deposit is lost")

    async def two_races(self) -> None:
        """Lose an update in each of two places, a second apart, neither of which changes how far the run goes."""
        lost = 0

        async def race(at: float) -> None:
            nonlocal lost
            balance = 0

            async def deposit(delay: int) -> None:
                nonlocal balance
                await asyncio.sleep(at)
                await turns(delay)
                before = balance
                await turns(1)
                balance = before + 1

            await asyncio.gather(deposit(self.start), deposit(self.start + self.gap))
            lost += balance != 2

        await self._beside_noise(race(0), race(1))
        require(lost < 2, "one of them holds")


def planted() -> dict[str, Program]:
    """Return the simple bugs, and the deep one last."""
    bugs = Bugs()
    programs = (bugs.lost_update, bugs.crossed_locks, bugs.missed_wakeup, bugs.double_charge, bugs.second_try)
    return {program.__name__: program for program in programs}


def generated(count: int) -> list[Program]:
    """Return programs with a simple bug each, of drawn kind, place and noise, which pass in stock order."""
    source = random.Random(20)  # noqa: S311 - of programs
    programs: list[Program] = []
    while len(programs) < count:
        bugs = Bugs(
            start=source.randrange(6),
            gap=source.randrange(2, 10),
            noise=tuple(source.randrange(2, 14) for _ in range(source.randrange(7))),
            noise_first=source.random() < 0.5,
        )
        name = source.choice(["lost_update", "crossed_locks", "missed_wakeup", "double_charge"])
        program: Program = getattr(bugs, name)
        with contextlib.suppress(PlantedError):
            asyncio.run(program())
            programs.append(program)
    return programs


# ---------------------------------------------------------------- measuring


def find(program: Program, *, examples: int = 1_000, pairs: bool = True) -> Found | None:
    """Have `simulate` find and shrink the bug of a program, without a seed."""
    runs = 0
    failed_at: int | None = None

    @settings(
        database=None, deadline=None, derandomize=True, max_examples=examples, phases=[Phase.generate, Phase.shrink]
    )
    @simulate(scenarios() if pairs else st.just(Sweep(pauses=True)))
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
    """Have detangle do the same, with what it does by default."""
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
    """Return how many runs a second there are, where each call says how many it made."""
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < ROUND_SECONDS:
        count += run()
    return count / elapsed


def hypothesis_share() -> tuple[float, float]:
    """Return the rate of runs through Hypothesis, as a share of the loop's: in sweeps, and as scenarios are drawn."""

    def through(what: Any) -> Callable[[], int]:
        @settings(database=None, deadline=None, derandomize=True, max_examples=50)
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

    ways = (through(st.just(Sweep(pauses=True))), through(scenarios()), raw)
    rates = [[rate(way) for way in ways] for _ in range(ROUNDS)]
    swept, drawn, alone = (max(each) for each in zip(*rates, strict=True))
    return swept / alone, drawn / alone


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
    silent = find(Bugs().two_races, examples=PEER_RUNS)
    rows.append(("two_races (no pause shows it is on the way): runs", silent.runs if silent else float("inf"), ""))
    programs = generated(GENERATED)
    rows += summary("ours", [find(each) for each in programs], ("1", "", "", "1", "<= 2", "< 0.1"))
    swept, drawn = hypothesis_share()
    rows.append(("through Hypothesis, x raw loop, in sweeps", swept, ">= 0.5"))
    rows.append(("through Hypothesis, x raw loop, as drawn", drawn, ""))
    with contextlib.suppress(ImportError):
        rows += compare({**bugs, "two_races": Bugs().two_races})
        rows += summary("detangle", [find_with_detangle(*each[::-1]) for each in enumerate(programs)], ("",) * 6)
    return rows


if __name__ == "__main__":
    for label, figure, goal in run():
        print(f"{label:50} {figure:8.2f}" + (f"   goal {goal}" if goal else ""))
