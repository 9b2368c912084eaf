"""Alerts in the store: of other processes and earlier lives, written soon, and never waited for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from children import PATIENCE_SECONDS
from postgres import with_schema

from asyncsandbox import Alert, AlertSettings, AlertSystem, Sandbox, Severity, correlation
from asyncsandbox._core.store import Store, open_store
from asyncsandbox.components.alerts.archive import Archive
from asyncsandbox.errors import ConfigurationError, StoreUnavailableError


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "memory": lambda: ":memory:",
        "sqlite": lambda: str(tmp_path / "store.sqlite"),
        "postgres": lambda: with_schema(request.getfixturevalue("postgres_url")),
    }[request.param]()


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    async with open_store(place) as opened:
        yield opened


def live(store: Store, **settings: Any) -> Sandbox:
    return Sandbox(dry_run=False, store=store, allow_mixed=True, alerts=AlertSettings(rules=(), **settings))


def without_number(alert: Alert) -> dict[str, Any]:
    return {**alert.to_dict(), "number": 0}


async def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        await asyncio.sleep(0.002)


async def tell_a_few(sandbox: Sandbox) -> None:
    alerts = sandbox.alerts
    with correlation("req-1"):
        await alerts.alert("payment", "declined \ud800", "error", context={"amount": 9.5, "ids": [1, 2]})
    for _ in range(3):
        await alerts.alert("mail", "slow", fingerprint="slow")
    await alerts.resolve("mail")
    await alerts.alert("disk", "full", "critical")


async def come_back_equal(store: Store) -> None:
    async with live(store) as sandbox:
        await tell_a_few(sandbox)
        here = sandbox.alerts.get_alerts()
        assert [without_number(each) for each in await sandbox.alerts.get_history()] == [
            without_number(each) for each in sorted(here, key=lambda alert: alert.at)
        ]
    async with live(store) as sandbox:
        assert sandbox.alerts.get_alerts() == ()
        history = await sandbox.alerts.get_history()
        assert sorted(map(repr, map(without_number, history))) == sorted(map(repr, map(without_number, here)))
        assert (await sandbox.alerts.get_history("critical"))[0].task_name == "disk"
        assert [each.resolved for each in await sandbox.alerts.get_history(task_name="mail")] == [False, True]
        assert len(await sandbox.alerts.get_history(limit=2)) == 2
        (payment,) = await sandbox.alerts.get_history(Severity.ERROR, "payment")
        assert (payment.correlation_id, payment.context["amount"]) == ("req-1", 9.5)
        for wrong in ({"severity": "loud"}, {"limit": -1}):
            with pytest.raises(ConfigurationError):
                await sandbox.alerts.get_history(**wrong)  # type: ignore[arg-type]


async def test_they_come_back_equal_in_the_next_life(store: Store) -> None:
    await come_back_equal(store)


async def test_a_process_sees_those_of_others_soon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsandbox.components.alerts.archive._SECONDS", 0.005)
    async with live(store) as one, live(store) as other:
        await one.alerts.alert("mail", "slow")
        ends = time.monotonic() + PATIENCE_SECONDS
        while not await other.alerts.get_history():
            assert time.monotonic() < ends
            await asyncio.sleep(0.005)
        await one.alerts.alert("mail", "slow")
        while (await other.alerts.get_history())[0].count != 2:
            assert time.monotonic() < ends
            await asyncio.sleep(0.005)
        assert other.alerts.get_alerts() == ()


async def test_old_ones_are_pruned(store: Store) -> None:
    async with live(store) as sandbox:
        await tell_a_few(sandbox)
        before = len(await sandbox.alerts.get_history())
        assert (await store.prune(older_than_seconds=3600)).get("alerts") == 0
        assert (await store.prune(older_than_seconds=0))["alerts"] == before


async def test_without_a_store_it_is_what_is_kept_here() -> None:
    async with AlertSystem() as alerts:
        await alerts.alert("mail", "slow")
        assert await alerts.get_history() == alerts.get_alerts()


async def test_a_dry_run_reads_and_writes_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store.sqlite") as store:
        async with live(store) as sandbox:
            await sandbox.alerts.alert("mail", "slow")
        async with Sandbox(dry_run=True, store=store, alerts=AlertSettings(rules=())) as rehearsal:
            await rehearsal.alerts.alert("mail", "rehearsed")
            assert [each.message for each in await rehearsal.alerts.get_history()] == ["slow"]
        async with live(store) as sandbox:
            assert [each.message for each in await sandbox.alerts.get_history()] == ["slow"]


async def test_a_store_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsandbox.components.alerts.archive._SECONDS", 0.002)
    async with open_store(":memory:") as store:
        sandbox = live(store, max_history=3)
        async with sandbox:
            archive = sandbox.alerts._archive
            assert archive is not None
            right, fails = archive._store.write_all, [True]

            async def write_all(*bounds: Any) -> Any:
                if fails[0]:
                    raise StoreUnavailableError("alerts.keep", "it is gone")
                return await right(*bounds)

            monkeypatch.setattr(archive._store, "write_all", write_all)
            for number in range(5):
                await sandbox.alerts.alert("mail", f"{number}")
            await until(lambda: any(e.name == "alerts.store_silent" for e in sandbox._services.journal.get_events()))
            with pytest.raises(StoreUnavailableError):
                await sandbox.alerts.get_history()
            fails[0] = False
            await until(lambda: not archive._new)
            assert [each.message for each in await sandbox.alerts.get_history()] == ["2", "3", "4"], "the newest"
            fails[0] = True
            await sandbox.alerts.alert("mail", "lost")
            await sandbox.alerts.stop()
            fails[0] = False


async def test_lost_repetitions_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: set[int] = set()
    right = Archive.note

    def once(self: Archive, record: Any) -> None:
        if record.alert.number not in noted:
            noted.add(record.alert.number)
            right(self, record)
            self._new[record.alert.number] = type(record)(record.alert)

    monkeypatch.setattr(Archive, "note", once)
    async with open_store(tmp_path / "store.sqlite") as store:
        with pytest.raises(AssertionError):
            await come_back_equal(store)
