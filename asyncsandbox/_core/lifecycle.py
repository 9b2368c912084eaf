"""The order in which components start, and stopping all of them whatever happens.

>>> from asyncsandbox._core.component import Component
>>> class Pump(Component):
...     name = "pump"
...     depends_on = ("power",)
>>> class Power(Component):
...     name = "power"
>>> [component.name for component in start_order([Pump(), Power()])]
['power', 'pump']
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..errors import ComponentStartError, ComponentStopError, ConfigurationError
from .tasks import outlast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from .component import Component, Services


def start_order(components: Iterable[Component]) -> tuple[Component, ...]:
    """Sort components so that each stands after those it depends on; otherwise they keep their order.

    Raises:
        ConfigurationError: Two have the same name, one depends on a name that is not there, or they go in a circle.
    """
    by_name: dict[str, Component] = {}
    for component in components:
        if component.name in by_name:
            raise ConfigurationError("extra", component, f"another component is already called {component.name!r}")
        by_name[component.name] = component
    ordered: dict[str, Component] = {}

    def place(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ConfigurationError("depends_on", " -> ".join((*path, name)), "components must not go in a circle")
        for needed in by_name[name].depends_on:
            if needed not in by_name:
                raise ConfigurationError(f"{name}.depends_on", needed, f"known components: {', '.join(by_name)}")
            place(needed, (*path, name))
        ordered.setdefault(name, by_name[name])

    for name in by_name:
        place(name, ())
    return tuple(ordered.values())


async def start_component(component: Component, services: Services) -> None:
    """Bind and start one component.

    Raises:
        ComponentStartError: It did not start; the cause says why.
    """
    phase = "bind"
    try:
        component.bind(services)
        phase = "start"
        await component.start()
    except Exception as error:
        raise ComponentStartError(component.name, phase) from error


async def stop_all(
    components: Iterable[Component],
    *,
    first: Component | None = None,
    then: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Stop components in reverse, all of them whatever happens, also when the caller is cancelled meanwhile.

    Args:
        components: In the order they started.
        first: The one to stop before ``then``.
        then: Called after that; it must end before any other of them stops.

    Raises:
        ComponentStopError: One did not stop cleanly; notes name any further ones.
    """
    failed: list[tuple[str, Exception]] = []

    async def stop_one(component: Component) -> None:
        try:
            await component.stop()
        except Exception as error:  # noqa: BLE001 - the others must be stopped all the same
            failed.append((component.name, error))

    async def stop() -> None:
        if first is not None:
            await stop_one(first)
        if then is not None:
            await then()
        for component in reversed(tuple(components)):
            await stop_one(component)

    stopping = asyncio.get_running_loop().create_task(stop(), name="stop sandbox")
    cancellation = await outlast(stopping)
    stopping.result()
    if failed:
        (name, cause), *others = failed
        error = ComponentStopError(name)
        for other, another in others:
            error.add_note(f"component {other!r} did not stop cleanly either: {another!r}")
        raise error from cause
    if cancellation is not None:
        raise cancellation
