"""One run: the collector sleeps meanwhile, and is left as it was found."""

import gc

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
