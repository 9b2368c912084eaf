"""Beats in the store: a name that is expected in one process and beats in another."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from children import Child
from hypothesis import given
from hypothesis import strategies as st
from postgres import with_schema
from runtimes import must_catch

from asyncsandbox import HeartbeatSettings, Sandbox, open_store
from asyncsandbox.components.heartbeat import BeatStatus
from asyncsandbox.components.heartbeat.beats import Beats, Expectation
from asyncsandbox.components.heartbeat.store_beats import READ, STORE_BEATS, WRITE, StoreBeats
from asyncsandbox.errors import StoreError


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = with_schema(request.getfixturevalue("postgres_url"))
    return url


def live(place: Any, seconds: float = 0.01) -> Sandbox:
    return Sandbox(store=place, dry_run=False, heartbeat=HeartbeatSettings(store_seconds=seconds))


def get_beat(sandbox: Sandbox, name: str = "mail") -> BeatStatus:
    (beat,) = [beat for beat in sandbox.heartbeat.get_health_status().beats if beat.name == name]
    return beat


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.002)


async def watch_another(place: str) -> None:
    async with live(place) as web, live(place) as worker:
        web.heartbeat.expect("mail", expect_every_seconds=0.15, grace_seconds=0.15)
        worker.heartbeat.beat("mail")
        await asyncio.wait_for(until(lambda: get_beat(web).beats == 1), 0.25)
        assert get_beat(web).state == "healthy"
        await until(lambda: get_beat(web).state == "dead")
        worker.heartbeat.beat("mail")
        await until(lambda: get_beat(web).state == "healthy")
        names = [event.name for event in web._services.journal.get_events() if event.name.startswith("heartbeat.")]
        assert names == ["heartbeat.dead", "heartbeat.recovered"]
        assert get_beat(web).beats == 2, "each once, however often it is read"


async def test_a_name_may_be_expected_here_and_beat_elsewhere(place: str) -> None:
    await watch_another(place)


async def test_beats_that_nobody_writes_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreBeats, "note", lambda *_: None)
    with pytest.raises(TimeoutError):
        await watch_another(str(tmp_path / "store.sqlite"))


class BelievesTheDead(Beats):
    def is_news(self, name: str, at: float, now: float) -> bool:
        line = self._expected.get(name)
        return line is not None and at > line.since


def check_news(drawn: tuple[float, list[tuple[float, float]]], make: type[Beats] = Beats) -> None:
    """Whatever is heard from elsewhere makes no state worse, and no dead one healthy without being young enough."""
    patience, heard = drawn
    beats = make(10)
    beats.start(0)
    beats.expect("mail", Expectation(expect_every_seconds=patience, grace_seconds=0.0), 0)
    now, youngest = 0.0, 0.0
    for step, age in heard:
        now += step
        beats.pop_dead(now)
        at = now - age
        if beats.is_news("mail", at, now):
            assert at > youngest
            youngest = at
            beats.beat("mail", at)
            assert beats.judge("mail", now) == "healthy", "what is heard is either old news or a sign of life"
        beats.pop_dead(now)
    assert not beats.is_news("nobody", 1.0, 1.0)


NEWS = st.tuples(st.floats(0.5, 5), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 8)), max_size=8))


@given(NEWS)
def test_old_news_makes_no_difference(drawn: Any) -> None:
    check_news(drawn)


def test_believing_old_news_is_caught() -> None:
    must_catch(lambda drawn: check_news(drawn, BelievesTheDead), NEWS)


async def test_it_costs_a_write_and_a_read_now_and_then_and_nothing_while_nothing_beats(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store.sqlite") as store, live(store, 0.01) as sandbox:
        elsewhere = sandbox.heartbeat._elsewhere
        assert elsewhere is not None
        counts = {"read": 0, "write": 0}
        mine = elsewhere._store
        read, write_all = mine.read, mine.write_all

        async def count_read(operation: Any, **more: Any) -> Any:
            counts["read"] += operation.name.startswith("beats.")
            return await read(operation, **more)

        async def count_write(*bounds: Any) -> Any:
            counts["write"] += bounds[0].operation.name.startswith("beats.")
            return await write_all(*bounds)

        mine.read, mine.write_all = count_read, count_write  # type: ignore[method-assign]
        await asyncio.sleep(0.04)
        assert counts == {"read": 0, "write": 0}
        for _ in range(1000):
            sandbox.heartbeat.beat("mail")
            sandbox.heartbeat.beat("news")
        await until(lambda: counts["write"])
        await asyncio.sleep(0.02)
        assert counts == {"read": 0, "write": 1}, "nobody expects anything here"
        sandbox.heartbeat.expect("other", expect_every_seconds=60)
        await until(lambda: counts["read"] >= 2)
        assert counts["write"] == 1


async def test_schedules_are_each_processs_own_and_the_last_beats_are_told_at_the_end(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    async with live(place, 3600) as sandbox:
        await asyncio.sleep(0.02)
        sandbox.heartbeat.beat("schedule tick")
        sandbox.heartbeat.beat("mail")
        sandbox.heartbeat._beats.expect("schedule tick", Expectation(expect_every_seconds=60), 0.0)
        sandbox.heartbeat._hear_of("schedule tick", -1.0)
        assert get_beat(sandbox, "schedule tick").beats == 1
    async with open_store(place) as store:
        await store.attach(STORE_BEATS)
        assert [row["name"] for row in await store.read(READ, owner="")] == ["mail"]
        assert (await store.prune(older_than_seconds=0))["beats"] in (0, 1)


async def test_an_older_beat_changes_nothing_in_the_store(place: str) -> None:
    async with open_store(place) as store:
        await store.attach(STORE_BEATS)
        await store.write(WRITE, name="mail", owner="a", age=1.0)
        await store.write(WRITE, name="mail", owner="b", age=5.0)
        assert await store.read(READ, owner="a") == ()
        (row,) = await store.read(READ, owner="b")
        assert 0.9 < row["age"] < 3


async def test_a_store_that_does_not_answer_is_told_of_once_and_beats_are_kept(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store.sqlite") as store, live(store, 0.005) as sandbox:
        elsewhere = sandbox.heartbeat._elsewhere
        assert elsewhere is not None
        mine, tried = elsewhere._store, []
        write_all = mine.write_all

        async def fail(*bounds: Any) -> Any:
            tried.append(len(bounds))
            raise StoreError("beats.write", "it does not answer")

        mine.write_all = fail  # type: ignore[method-assign]
        sandbox.heartbeat.beat("mail")
        await until(lambda: len(tried) >= 3)
        assert len(sandbox._services.journal.get_events("heartbeat.store_silent")) == 1
        mine.write_all = write_all  # type: ignore[method-assign]
        ends = asyncio.get_running_loop().time() + 20
        while [row["name"] for row in await mine.read(READ, owner="")] != ["mail"]:
            assert asyncio.get_running_loop().time() < ends
            await asyncio.sleep(0.002)
        mine.write_all = fail  # type: ignore[method-assign]
        sandbox.heartbeat.beat("mail")
        await until(lambda: len(sandbox._services.journal.get_events("heartbeat.store_silent")) == 2)


async def test_a_dry_run_exchanges_nothing(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    async with Sandbox(store=place, heartbeat=HeartbeatSettings(store_seconds=0.01)) as sandbox:
        sandbox.heartbeat.beat("mail")
        assert sandbox.heartbeat._elsewhere is None


CHILD = """
import asyncio, sys
from asyncsandbox import HeartbeatSettings, Sandbox

async def main():
    async with Sandbox(store=sys.argv[1], dry_run=False, heartbeat=HeartbeatSettings(store_seconds=0.02)) as sandbox:
        print("up", flush=True)
        while True:
            sandbox.heartbeat.beat("mail")
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_a_process_that_is_killed_turns_dead_elsewhere(place: str) -> None:
    child = await asyncio.to_thread(Child, CHILD, place)
    async with live(place, 0.02) as web:
        web.heartbeat.expect("mail", expect_every_seconds=0.5, grace_seconds=0.5)
        await until(lambda: get_beat(web).beats >= 2)
        assert web.heartbeat.is_healthy()
        await asyncio.to_thread(child.kill)
        await until(lambda: get_beat(web).state == "dead")
        assert not web.heartbeat.is_healthy()
