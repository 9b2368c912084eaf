"""A loop that may pass over a pause: as if that pause were not there, and the next ones where they were."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox.testing.choosing import ChoosyLoop
from asyncsandbox.testing.loop import SimLoop

PLANS = st.lists(st.integers(0, 5), min_size=1, max_size=5)
PAUSES = st.lists(st.integers(0, 30), max_size=4)


async def program(plan: list[int]) -> list[tuple[int, int]]:
    """Run a task that yields, for each number."""
    log: list[tuple[int, int]] = []

    async def work(name: int, steps: int) -> None:
        for step in range(steps):
            await asyncio.sleep(step == 2)
            log.append((name, step))

    await asyncio.gather(*(work(name, steps) for name, steps in enumerate(plan)))
    return log


class Counting(ChoosyLoop):
    """Makes the pauses at some points, and passes over the others."""

    def __init__(self, *, pauses: list[int], wanted: set[int]) -> None:
        super().__init__(pauses=pauses)
        self.wanted = wanted

    def may_pause(self, _handle: Any) -> bool:
        return self.points - 1 in self.wanted


class Forgetful(Counting):
    """Takes no pause back."""

    def pass_over(self, handle: Any) -> None:
        self._ready.append(handle)


def check_that_what_is_passed_over_was_never_there(
    plan: list[int], pauses: list[int], wanted: set[int], kind: type[Counting] = Counting
) -> None:
    choosy = kind(pauses=pauses, wanted=wanted)
    plain = SimLoop(pauses=wanted & set(pauses), record=False)
    assert choosy.run(program(plan)) == plain.run(program(plan))
    assert (choosy.steps, choosy.points) == (plain.steps, plain.points)


@given(PLANS, PAUSES, st.sets(st.integers(0, 30)))
def test_what_is_passed_over_was_never_there(plan: list[int], pauses: list[int], wanted: set[int]) -> None:
    check_that_what_is_passed_over_was_never_there(plan, pauses, wanted)


def test_the_check_catches_one_that_takes_nothing_back() -> None:
    with pytest.raises(AssertionError):
        check_that_what_is_passed_over_was_never_there([2, 2], [0, 1], set(), Forgetful)
