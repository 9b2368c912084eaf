"""Programs with a planted race each; all of them pass on stock asyncio.

`planted` and `generated` give one race each. `silent` gives two in one program that must both happen for it to fail,
and neither of which changes how many steps anything takes. Of these, the kinds in `LOOKED_AT` were looked at while the
search was written; those in `HELD_OUT` were run once before it had its last form, and those in `NEW` were written after
that. All pairs of pauses were tried on the programs of the benchmark: each has a pair that makes it fail, and no single
pause does.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

Program = Callable[[], Coroutine[Any, Any, None]]


class PlantedError(Exception):
    """The planted bug happened."""


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


# ---------------------------------------------------------------- races that show only in what they break


async def lost_update(start: int, gap: int) -> bool:
    """Lose one of two deposits."""
    balance = 0

    async def deposit(delay: int) -> None:
        nonlocal balance
        await turns(delay)
        before = balance
        await turns(1)
        balance = before + 1

    await asyncio.gather(deposit(start), deposit(start + gap))
    return balance != 2


async def double_charge(start: int, gap: int) -> bool:
    """Charge twice, where the second looks before the first has noted it."""
    paid: set[str] = set()
    charges = 0

    async def charge(delay: int) -> None:
        nonlocal charges
        await turns(delay)
        is_new = "order" not in paid
        await turns(1)
        charges += is_new
        await turns(1)
        paid.add("order")

    await asyncio.gather(charge(start), charge(start + gap))
    return charges != 1


async def torn_read(start: int, gap: int) -> bool:
    """Read one half before and the other half after they are written."""
    left = right = 0
    seen = (0, 0)

    async def write() -> None:
        nonlocal left, right
        await turns(start)
        left = 1
        await turns(1)
        right = 1

    async def read() -> None:
        nonlocal seen
        await turns(start + gap)
        first = left
        await turns(1)
        seen = (first, right)

    await asyncio.gather(write(), read())
    return seen[0] != seen[1]


async def late_use(start: int, gap: int) -> bool:
    """Use what was open when it was looked at and is closed by now."""
    closed = late = False

    async def use() -> None:
        nonlocal late
        await turns(start)
        is_open = not closed
        await asyncio.sleep(0.01)
        late = is_open and closed

    async def close() -> None:
        nonlocal closed
        await turns(start)
        await asyncio.sleep(0.01)
        await turns(gap)
        closed = True

    await asyncio.gather(use(), close())
    return late


async def wrong_order(start: int, gap: int) -> bool:
    """Get from a queue in another order than was meant."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    got: list[int] = []

    async def put(delay: int, number: int) -> None:
        await turns(delay)
        await queue.put(number)

    async def take() -> None:
        for _ in range(2):
            got.append(await queue.get())  # noqa: PERF401 - a loop of awaits

    await asyncio.gather(put(start, 1), put(start + gap, 2), take())
    return got != [1, 2]


async def stale_cache(start: int, gap: int) -> bool:
    """Put an old value into a cache after it was cleared."""
    database = {"price": 1}
    cache: dict[str, int] = {}

    async def load() -> None:
        await turns(start)
        price = database["price"]
        await turns(2)
        cache["price"] = price

    async def update() -> None:
        await turns(start + gap)
        database["price"] = 2
        await turns(1)
        cache.pop("price", None)

    await asyncio.gather(load(), update())
    return cache.get("price") == 1


async def lock_gap(start: int, gap: int) -> bool:
    """Let go of a lock between reading and writing."""
    lock = asyncio.Lock()
    count = 0

    async def step(delay: int) -> None:
        nonlocal count
        await turns(delay)
        async with lock:
            seen = count
        await turns(1)
        async with lock:
            count = seen + 1

    await asyncio.gather(step(start), step(start + gap))
    return count != 2


async def early_ready(start: int, gap: int) -> bool:
    """Say that something is ready a moment before it is."""
    ready = False
    value = 0
    got = 7

    async def produce() -> None:
        nonlocal ready, value
        await turns(start)
        ready = True
        await turns(1)
        value = 7

    async def consume() -> None:
        nonlocal got
        await turns(start + gap)
        got = value if ready else 7

    await asyncio.gather(produce(), consume())
    return got != 7


async def phantom_sum(start: int, gap: int) -> bool:
    """Add up two accounts while money is on its way between them."""
    accounts = [1, 0]
    total = 0

    async def move() -> None:
        await turns(start)
        accounts[0] -= 1
        await turns(1)
        accounts[1] += 1

    async def audit() -> None:
        nonlocal total
        await turns(start + gap)
        total += accounts[0]
        await turns(1)
        total += accounts[1]

    await asyncio.gather(move(), audit())
    return total != 1


async def over_booked(start: int, gap: int) -> bool:
    """Give the last seat away twice."""
    free = 1

    async def book(delay: int) -> None:
        nonlocal free
        await turns(delay)
        is_free = free > 0
        await turns(1)
        free -= is_free

    await asyncio.gather(book(start), book(start + gap))
    return free < 0


Race = Callable[[int, int], Awaitable[bool]]
LOOKED_AT: tuple[Race, ...] = (lost_update, double_charge, torn_read)
HELD_OUT: tuple[Race, ...] = (late_use, wrong_order, stale_cache, lock_gap)
NEW: tuple[Race, ...] = (early_ready, phantom_sum, over_booked)


@dataclass(frozen=True)
class Silent:
    """A program that fails only if both of two races happen.

    Attributes:
        races: Each with its start and gap.
        noise: Turns each of the others takes.
        noise_first: Whether the others are started first.
        how: Whether the races are a second apart, at the same time, or one after the other.
    """

    races: tuple[tuple[Race, int, int], ...]
    noise: tuple[int, ...]
    noise_first: bool
    how: str

    async def __call__(self) -> None:
        """Run it."""
        happened: list[bool] = []

        async def run(number: int) -> None:
            if self.how == "apart":
                await asyncio.sleep(number)
            race, start, gap = self.races[number]
            happened.append(await race(start, gap))

        async def main() -> None:
            if self.how == "in turn":
                for number in range(len(self.races)):
                    await run(number)
            else:
                await asyncio.gather(*map(run, range(len(self.races))))

        noise = [turns(count) for count in self.noise]
        await asyncio.gather(*((*noise, main()) if self.noise_first else (main(), *noise)))
        require(not all(happened), "one of them holds")


def silent(races: tuple[Race, ...], seed: int, count: int) -> list[Program]:
    """Return drawn programs of two silent races each."""
    source = random.Random(seed)  # noqa: S311 - of programs

    def draw() -> Silent:
        parts = tuple((source.choice(races), source.randrange(6), source.randrange(2, 8)) for _ in range(2))
        noise = tuple(source.randrange(2, 14) for _ in range(source.randrange(6)))
        return Silent(parts, noise, source.random() < 0.5, source.choice(("apart", "at once", "in turn")))

    return [draw() for _ in range(count)]
