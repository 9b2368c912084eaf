"""An ASGI app in a simulation: its lifespan, its answers, its errors, and its power cuts."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox import Sandbox, irreversible
from asyncsandbox.testing import CrashedError, PromiseBrokenError, Scenario, Simulation, StepKind
from asyncsandbox.testing.asgi import AsgiClient, is_asgi
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.runs import Run, run_in_world, run_once


@irreversible("card.charge", key=lambda order: order)
async def charge(order: str) -> None:
    raise AssertionError("a simulation never comes here")


class Shop:
    """An ASGI app written by hand: echoes, counts, charges, fails, and takes its time."""

    def __init__(self, log: list[str] | None = None, fail_at: str = "") -> None:
        self.log = [] if log is None else log
        self.fail_at = fail_at
        self.seen = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(scope, receive, send)
            return
        self.seen += 1
        message = await receive()
        path = scope["path"]
        if path == "/fail":
            raise ValueError("no")
        if path == "/charge":
            await charge("1")
        if path == "/hang":
            message = await receive()
            self.log.append(message["type"])
            return
        told = {
            "method": scope["method"],
            "query": scope["query_string"].decode(),
            "type": dict(scope["headers"]).get(b"content-type", b"").decode(),
            "body": message["body"].decode(),
            "state": scope["state"],
            "seen": self.seen,
        }
        await send({"type": "http.response.start", "status": 201, "headers": [(b"A", b"1"), (b"a", b"2")]})
        if path == "/half":
            return
        body = json.dumps(told).encode()
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})
        await asyncio.sleep(5)
        self.log.append("after")

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        for what in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{what}"
            if self.fail_at == what:
                await send({"type": f"lifespan.{what}.failed", "message": "no disk"})
                return
            if self.fail_at == f"{what} loudly":
                raise OSError(what)
            scope["state"]["disk"] = "open"
            self.log.append(what)
            await send({"type": f"lifespan.{what}.complete"})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Have no lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


def run(test: Any, scenario: Scenario | None = None) -> Run:
    return run_once(test, scenario or Scenario(), {})


def passes(test: Any, scenario: Scenario | None = None) -> Run:
    done = run(test, scenario)
    if done.error is not None:
        raise done.error
    return done


def test_a_request_is_answered_between_startup_and_shutdown() -> None:
    log: list[str] = []

    async def test(sim: Simulation) -> None:
        app = await sim.start(Shop(log))
        answer = await app.post("/orders?open=1", json={"id": 1}, headers={"X-Of": "ada"})
        assert (answer.status, answer.headers) == (201, {"a": "1, 2"})
        assert answer.json() == {
            "method": "POST",
            "query": "open=1",
            "type": "application/json",
            "body": '{"id": 1}',
            "state": {"disk": "open"},
            "seen": 1,
        }
        assert (await app.get("/")).json()["method"] == "GET"
        assert (await app.request("PUT", "/", body=b"text")).json()["body"] == "text"
        assert log == ["startup"]  # an answer does not wait for what comes after it

    passes(test)
    assert log == ["startup", "after", "after", "after", "shutdown"]


@given(st.binary().filter(bool), st.integers(1, 5))
def test_what_is_sent_arrives_whole_however_it_is_cut(body: bytes, parts: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = (await receive())["body"]
        size = -(-len(got) // parts)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for at in range(0, len(got), size):
            await send({"type": "http.response.body", "body": got[at : at + size], "more_body": True})
        await send({"type": "http.response.body"})

    loop = SimLoop()
    assert loop.run(AsgiClient(app).post("/", body=body)).body == body


def test_an_app_without_a_lifespan_answers_too() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(silent)
        assert (await app.get("/")).status == 204

    passes(test)


@pytest.mark.parametrize("path", ["/fail", "/half"])
def test_an_app_that_fails_has_answered_500_and_the_timeline_says_why(path: str) -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(Shop)
        assert (await app.get(path)).status == 500

    notes = [step.note for step in passes(test).trace.steps if step.kind is StepKind.MARK]
    assert notes == (["GET /fail raises ValueError('no')"] if path == "/fail" else [])


@pytest.mark.parametrize(
    ("fail_at", "error", "said"),
    [
        ("startup", PromiseBrokenError, "startup of the app: no disk"),
        ("shutdown", PromiseBrokenError, "shutdown of the app: no disk"),
        ("startup loudly", OSError, "startup"),
        ("shutdown loudly", OSError, "shutdown"),
    ],
)
def test_an_app_that_cannot_start_or_stop_fails_the_test(fail_at: str, error: type[Exception], said: str) -> None:
    async def test(sim: Simulation) -> None:
        await sim.start(lambda: Shop(fail_at=fail_at))

    found = run(test).error
    assert isinstance(found, error)
    assert said in str(found)


def test_a_client_that_goes_away_hangs_up() -> None:
    log: list[str] = []

    async def test(sim: Simulation) -> None:
        app = await sim.start(Shop(log))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await app.get("/hang")

    passes(test)
    assert "http.disconnect" in log


def check_a_power_cut(factory: Any) -> None:
    """Check that a power cut ends a request and runs the lifespan again, of an app that has forgotten everything."""

    async def test(sim: Simulation) -> None:
        log: list[str] = []
        app = await sim.start(lambda: factory(log))
        assert (await app.get("/")).json()["seen"] == 1
        waiting = asyncio.create_task(app.get("/hang"))
        await asyncio.sleep(1)
        sim.crash()
        with pytest.raises(CrashedError):
            await waiting
        await sim.restart()
        assert log == ["startup", "startup"]
        assert (await app.get("/")).json()["seen"] == 1

    passes(test)


def test_a_power_cut_starts_the_app_again() -> None:
    check_a_power_cut(Shop)


def test_the_check_catches_an_app_that_remembers() -> None:
    made: list[Shop] = []

    def once(log: list[str]) -> Shop:
        made.append(made[0] if made else Shop(log))
        return made[-1]

    with pytest.raises(AssertionError):
        check_a_power_cut(once)


class LiveShop(Shop):
    """Opens a sandbox in its lifespan, which its requests find."""

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        async with Sandbox(dry_run=False):
            await super().live(scope, receive, send)


@given(st.integers(0, 60))
def test_a_request_is_charged_once_or_lost_whenever_the_power_goes(step: int) -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(LiveShop)
        sim.always(lambda: sim.actions.count("card.charge") <= 1, "once")
        answer = await app.get("/charge")
        assert answer.status == 201
        assert sim.actions.count("card.charge") == 1

    passes(test, Scenario(crashes=(step,)))


def test_only_what_takes_three_arguments_is_an_app() -> None:
    assert is_asgi(silent)
    assert is_asgi(Shop())
    assert not is_asgi(Shop)
    assert not is_asgi(lambda a, b, c=1: None)
    assert not is_asgi(type)
    assert not is_asgi("app")


def test_the_client_is_one_for_any_loop() -> None:
    async def main() -> int:
        async with AsgiClient(Shop()) as client:
            return (await client.get("/")).status

    assert run_in_world(lambda _loop: main()) == 201
