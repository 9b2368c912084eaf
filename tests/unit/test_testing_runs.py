"""One run: the collector sleeps meanwhile, and is left as it was found."""

import gc

import pytest

from asyncsandbox.testing import Scenario, Simulation
from asyncsandbox.testing.runs import _collector_asleep, run_once


@pytest.mark.parametrize("awake", [True, False])
def test_the_collector_is_left_as_it_was_found(awake: bool) -> None:
    (gc.enable if awake else gc.disable)()
    try:
        with _collector_asleep():
            assert not gc.isenabled()
        assert gc.isenabled() is awake
    finally:
        gc.enable()


def test_a_run_leaves_nothing_to_the_collector() -> None:
    async def test(_sim: Simulation) -> None:
        pass

    def leftover() -> int:
        gc.collect()
        gc.disable()
        try:
            run_once(test, Scenario(), {})
            return gc.collect()
        finally:
            gc.enable()

    leftover()  # the first one imports
    assert min(leftover() for _ in range(5)) == 0  # other threads may leave something, but not each time
