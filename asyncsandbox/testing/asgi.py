"""A small server and client in one: an ASGI app in a simulation, without a network.

>>> async def app(scope, receive, send) -> None:
...     await send({"type": "http.response.start", "status": 200, "headers": []})
...     await send({"type": "http.response.body", "body": scope["path"].encode()})
>>> async def main() -> Response:
...     async with AsgiClient(app) as client:
...         return await client.get("/orders")
>>> SimLoop().run(main()).body
b'/orders'
"""

from __future__ import annotations

import asyncio
import inspect
import json as jsons
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeGuard

from .errors import PromiseBrokenError
from .loop import SimLoop
from .trace import StepKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping
    from types import TracebackType

__all__ = ["AsgiClient", "Response"]

_VERSION = {"version": "3.0", "spec_version": "2.3"}
_SERVER_ERROR = 500
_ARGUMENTS = 3


class Asgi(Protocol):
    """An ASGI 3 app."""

    def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
        /,
    ) -> Awaitable[None]:
        """Take one connection."""
        ...


def is_asgi(thing: object) -> TypeGuard[Asgi]:
    """Return whether something wants to be called as an ASGI app is: with three arguments and not with none.

    Example:
        >>> is_asgi(lambda scope, receive, send: None), is_asgi(dict)
        (True, False)
    """
    if not callable(thing):
        return False
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):  # of some built-in classes nobody knows
        return False
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [each.kind in positional and each.default is each.empty for each in parameters] == [True] * _ARGUMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What an app answered.

    Attributes:
        status: The status code.
        headers: By name in lower case; those that come several times are joined by commas.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, read as JSON.

        Raises:
            ValueError: It is none.
        """
        return jsons.loads(self.body)


class AsgiClient:
    """Runs an app's lifespan for a block and sends it requests.

    An app that raises, or ends without an answer, has answered 500, as with any server; the timeline has the error.
    The answer is there when its last part is; what the app still does goes on, and the block waits for it at its end.

    Concurrency: any number of requests at once. Cancellation: the client hangs up, and the app hears of it.

    Args:
        app: The app.
    """

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._lifespan = _Lifespan(app, self._state)
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._lifespan.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._running:
            await asyncio.wait(self._running)
        await self._lifespan.stop()

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """Send a GET request; see `request`."""
        return await self.request("GET", path, headers=headers)

    async def post(
        self, path: str, *, json: object = None, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a POST request; see `request`."""
        return await self.request("POST", path, json=json, body=body, headers=headers)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request.

        Args:
            method: Such as ``"PUT"``.
            path: With its query, if any: ``"/orders?open=1"``.
            json: To be sent as JSON; None for nothing.
            body: To be sent as it is, where ``json`` is None.
            headers: By name.

        Returns:
            The answer.
        """
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if json is not None:
            body = jsons.dumps(json).encode()
            given.setdefault("content-type", "application/json")
        given = {"host": "sim", "content-length": str(len(body)), **given}
        exchange = _Exchange(body)
        task = asyncio.create_task(
            exchange.run(self._app, {**_scope(method, path, given), "state": dict(self._state)}),
            name=f"{method} {path}",
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            await exchange.over.wait()
        finally:
            exchange.over.set()
        return exchange.response()


class _Exchange:
    """One request and its answer."""

    def __init__(self, body: bytes) -> None:
        self.over = asyncio.Event()
        self._unsent: bytes | None = body
        self._start: Mapping[str, Any] | None = None
        self._parts: list[bytes] = []
        self._complete = False

    async def run(self, app: Asgi, scope: dict[str, Any]) -> None:
        """Have the app answer; its errors end here, as in a server."""
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - a server outlives its app's errors
            loop = asyncio.get_running_loop()
            if isinstance(loop, SimLoop):  # pragma: no branch - there is no other use for it
                loop.mark(StepKind.MARK, f"{scope['method']} {scope['path']} raises {error!r}")
        finally:
            self.over.set()

    def response(self) -> Response:
        """Return the answer."""
        if self._start is None or not self._complete:
            return Response(status=_SERVER_ERROR, headers={}, body=b"")
        headers: dict[str, str] = {}
        for name, value in self._start.get("headers", ()):
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return Response(status=self._start["status"], headers=headers, body=b"".join(self._parts))

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._unsent is None:
            await self.over.wait()
            return {"type": "http.disconnect"}
        body, self._unsent = self._unsent, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            self._complete = True
            self.over.set()


class _Lifespan:
    """Tells an app when it starts and stops, where it wants to know."""

    def __init__(self, app: Asgi, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self._answers: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._listens = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the app.

        Raises:
            PromiseBrokenError: It says that it cannot start.
            Exception: What it raised; one that raises before it listens has no lifespan.
        """
        scope = {"type": "lifespan", "asgi": _VERSION, "state": self._state}
        self._task = asyncio.ensure_future(self._app(scope, self._receive, self._answers.put))
        await self._tell(self._task, "startup")
        if self._task.done():
            error = self._task.exception()
            self._task = None
            if error is not None and self._listens:
                raise error

    async def stop(self) -> None:
        """Stop the app and wait until it has.

        Raises:
            PromiseBrokenError: It says that it cannot stop in good order.
            Exception: What it raised.
        """
        if self._task is not None:
            await self._tell(self._task, "shutdown")
            await self._task

    async def _tell(self, task: asyncio.Task[None], what: str) -> None:
        self._told.put_nowait(what)
        answer = asyncio.create_task(self._answers.get(), name=f"lifespan {what}")
        await asyncio.wait({task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await asyncio.wait({answer})
        elif answer.result()["type"] == f"lifespan.{what}.failed":
            await task  # what it raises says more
            raise PromiseBrokenError(f"{what} of the app", answer.result().get("message") or "it failed")

    async def _receive(self) -> MutableMapping[str, Any]:
        self._listens = True
        return {"type": f"lifespan.{await self._told.get()}"}


def _scope(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    bare, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": _VERSION,
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": bare,
        "raw_path": bare.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("sim", 1),
        "server": ("sim", 80),
    }
