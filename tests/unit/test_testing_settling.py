"""The fixture's sandbox lets virtual time pass, and is a sandbox in everything else."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox.errors import ConfigurationError
from asyncsandbox.testing import SettlingSandbox
from asyncsandbox.testing.runs import run_in_world


def check_that_what_was_begun_goes_on(kind: type[SettlingSandbox], seconds: float) -> None:
    async def main() -> bool:
        async with kind() as sandbox:
            begun = asyncio.create_task(asyncio.sleep(seconds))
            await sandbox.settle(seconds + 1)
            ended = begun.done()
            await begun
            return ended

    assert run_in_world(lambda _loop: main())


@given(st.floats(0, 1e6))
def test_what_was_begun_goes_on_while_a_sandbox_settles(seconds: float) -> None:
    check_that_what_was_begun_goes_on(SettlingSandbox, seconds)


def test_the_check_catches_a_sandbox_that_only_yields() -> None:
    class Hasty(SettlingSandbox):
        async def settle(self, seconds: float = 60.0) -> None:
            await asyncio.sleep(0)

    with pytest.raises(AssertionError):
        check_that_what_was_begun_goes_on(Hasty, 5)


async def test_a_negative_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="settle"):
        await SettlingSandbox().settle(-1)


async def test_the_fixture_settles(sandbox: SettlingSandbox) -> None:
    await sandbox.settle(3600)
    assert asyncio.get_running_loop().time() >= 3600
