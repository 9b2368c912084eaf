"""What holds for every component: those of the package, and any that joins it."""

import asyncio
import dataclasses
import importlib
import json
import pickle
import pkgutil

import pytest
from virtual_time import run_virtual

import asyncsandbox.components
from asyncsandbox import Component, ComponentState, Services
from asyncsandbox.environment import SETTINGS
from asyncsandbox.errors import LifecycleError


def component_classes() -> list[type[Component]]:
    for module in pkgutil.iter_modules(asyncsandbox.components.__path__, "asyncsandbox.components."):
        importlib.import_module(module.name)
    found, todo = [], [Component]
    while todo:
        todo.extend(subclasses := todo.pop().__subclasses__())
        found.extend(c for c in subclasses if c.__module__.startswith("asyncsandbox.components."))
    return sorted(found, key=lambda kind: kind.name)


every_component = pytest.mark.parametrize("kind", component_classes(), ids=lambda kind: kind.name)


class StuckStop(Component):
    """Broken: a cancelled start leaves its task running."""

    name = "stuck"

    async def _start(self) -> None:
        self.left = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        await asyncio.sleep(1)


def cancelled_at_every_step(kind: type[Component]) -> int:
    """Cancel a start before each step of the loop in turn; return after how many steps it had started."""
    for step in range(1, 200):

        async def main(step: int = step) -> bool:
            component = kind()
            starting = asyncio.get_running_loop().create_task(component.start())
            for _ in range(step):
                await asyncio.sleep(0)
            finished = starting.done()
            starting.cancel()
            await asyncio.wait((starting,))
            if not finished and starting.cancelled():
                assert component.get_status().state in (ComponentState.FAILED, ComponentState.NEW)
            await component.start()
            assert component.get_status().state is ComponentState.RUNNING
            await component.stop()
            return finished

        if run_virtual(main()):
            return step
    raise AssertionError("it never starts")


def test_the_package_has_components() -> None:
    assert {kind.name for kind in component_classes()} >= {"database", "dry_run_lock", "logger", "readiness"}


@every_component
async def test_start_and_stop_are_idempotent(kind: type[Component]) -> None:
    component = kind()
    await component.stop()
    await component.start()
    await component.start()
    assert component.get_status().state is ComponentState.RUNNING
    await component.stop()
    await component.stop()
    await component.cleanup()
    assert component.get_status().state is ComponentState.STOPPED


@every_component
async def test_concurrent_starts_and_stops_take_turns(kind: type[Component]) -> None:
    component = kind()
    await asyncio.gather(*(component.start() for _ in range(5)))
    await asyncio.gather(*(component.stop() for _ in range(5)))
    assert component.get_status().state is ComponentState.STOPPED


@every_component
async def test_a_stopped_component_starts_again(kind: type[Component]) -> None:
    component = kind()
    for _ in range(2):
        async with component:
            assert component.get_status().state is ComponentState.RUNNING
    assert component.get_status().state is ComponentState.STOPPED


@every_component
def test_a_start_cancelled_at_any_step_leaves_nothing_behind(kind: type[Component]) -> None:
    assert cancelled_at_every_step(kind) >= 1


def test_a_component_that_leaves_a_task_behind_is_caught() -> None:
    with pytest.raises(AssertionError):
        cancelled_at_every_step(StuckStop)


@every_component
async def test_stop_works_after_a_failed_start(kind: type[Component]) -> None:
    class Failing(kind):  # type: ignore[misc,valid-type]
        async def _start(self) -> None:
            await super()._start()
            raise ConnectionError("no network")

    component = Failing()
    with pytest.raises(ConnectionError):
        await component.start()
    assert component.get_status().state is ComponentState.FAILED
    await component.stop()
    assert component.get_status().state is ComponentState.STOPPED


@every_component
async def test_status_is_frozen_and_json_able(kind: type[Component]) -> None:
    component = kind()
    for status in (component.get_status(), await in_between(component), component.get_status()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            status.name = "other"
        assert json.loads(json.dumps(dataclasses.asdict(status)))["name"] == kind.name


async def in_between(component: Component) -> object:
    async with component:
        return component.get_status()


@every_component
async def test_repr_says_what_it_is_and_how_it_is(kind: type[Component]) -> None:
    component = kind()
    assert kind.__name__ in repr(component)
    assert "new" in repr(component)
    async with component:
        assert "running" in repr(component)


@every_component
async def test_a_running_component_cannot_be_bound_again(kind: type[Component]) -> None:
    async with kind() as component:
        with pytest.raises(LifecycleError):
            component.bind(Services.alone())


@every_component
async def test_its_tasks_end_with_it(kind: type[Component]) -> None:
    async with kind() as component:
        task = component.spawn(asyncio.sleep(3600), name="nap")
    assert task.cancelled()


@every_component
async def test_a_failing_task_reaches_the_journal_and_nobody_else(kind: type[Component]) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async with kind() as component:
        task = component.spawn(fail(), name="job")
        await asyncio.wait((task,))
        (event,) = component.services.journal.get_events("component.task_failed")
    assert event.component == kind.name
    assert "broken" in str(event.fields["error"])


@every_component
def test_its_settings_say_what_is_allowed(kind: type[Component]) -> None:
    first_line = (kind.__doc__ or "").splitlines()[0]
    assert first_line.endswith((".", ":")), "the first docstring line says what the component is"


@pytest.mark.parametrize("kind", SETTINGS.values(), ids=lambda kind: kind.__name__)
def test_settings_are_frozen_pickle_and_document_every_field(kind: type) -> None:
    settings = kind()
    copy = pickle.loads(pickle.dumps(settings))
    for field in dataclasses.fields(kind):
        assert type(getattr(copy, field.name)) is type(getattr(settings, field.name))
        assert f"{field.name}:" in (kind.__doc__ or ""), f"{field.name} has no line in the docstring"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, None)
