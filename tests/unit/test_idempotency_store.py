"""Idempotency keys of a sandbox with a store: they outlive it, and a dry run leaves them alone."""

from pathlib import Path

from asyncsandbox import Sandbox


async def test_results_outlive_the_sandbox(tmp_path: Path) -> None:
    ran: list[int] = []

    async def double(number: int) -> int:
        ran.append(number)
        return number * 2

    for _ in range(2):
        async with Sandbox(store=tmp_path / "store.sqlite", dry_run=False) as sandbox:
            assert await sandbox.idempotency_manager.process_idempotent("k", double, 4) == 8
    assert ran == [4]
    async with Sandbox(store=tmp_path / "store.sqlite", dry_run=True) as sandbox:
        assert await sandbox.idempotency_manager.get_cached_result("k") is None
