"""The sandbox of the fixture `sandbox`: one that can let virtual time pass.

>>> from asyncsandbox.testing.loop import SimLoop
>>> async def main() -> float:
...     async with SettlingSandbox() as sandbox:
...         await sandbox.settle(3600)
...     return asyncio.get_running_loop().time()
>>> SimLoop().run(main())
3600.0
"""

from __future__ import annotations

import asyncio

from .._core.settings import require_number
from ..sandbox import Sandbox

__all__ = ["SettlingSandbox"]


class SettlingSandbox(Sandbox):
    """A `Sandbox` for tests in virtual time."""

    async def settle(self, seconds: float = 60.0) -> None:
        """Let time pass, so that whatever was begun goes on; in virtual time it takes none.

        Args:
            seconds: How long (>= 0).

        Raises:
            ConfigurationError: ``seconds`` is negative.

        Concurrency: at any time. Cancellation: it stops waiting.
        """
        require_number("sandbox.settle: seconds", seconds, at_least=0)
        await asyncio.sleep(seconds)
