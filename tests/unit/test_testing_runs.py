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

    def leftover() -> list[str]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            run_once(test, Scenario(), {})
            gc.collect()
            return [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    leftover()  # the first one imports
    assert min((leftover() for _ in range(5)), key=len) == []  # other threads may leave something, but not each time
