"""One run: the collector sleeps meanwhile, and is left as it was found."""

import gc

import children
import pytest

from asyncsandbox.testing.runs import _collector_asleep


@pytest.mark.parametrize("awake", [True, False])
def test_the_collector_is_left_as_it_was_found(awake: bool) -> None:
    (gc.enable if awake else gc.disable)()
    try:
        with _collector_asleep():
            assert not gc.isenabled()
        assert gc.isenabled() is awake
    finally:
        gc.enable()


RUNS = """
import gc

import children
from asyncsandbox.testing import Scenario
from asyncsandbox.testing.runs import run_once

async def test(sim):
    pass

def leftover():
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    run_once(test, Scenario(), {})
    gc.collect()
    gc.set_debug(0)
    return [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]

leftover()  # the first one imports
gc.garbage.clear()
print(leftover())
"""


def test_a_run_leaves_nothing_to_the_collector() -> None:
    # In a process of its own: whatever other tests have left may be at work in this one.
    assert children.run(RUNS).strip() == "[]"
