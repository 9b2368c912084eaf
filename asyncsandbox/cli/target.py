"""What to rehearse: `FILE.py:FUNC` or `MODULE:FUNC`, imported, its arguments converted by its annotations.

>>> load("nowhere.py:main")
Traceback (most recent call last):
    ...
asyncsandbox.cli.trouble.Trouble: nowhere.py: no such file; give FILE.py:FUNC or MODULE:FUNC
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..sandbox import Sandbox
from .trouble import ExitCode, Trouble, suggest, trouble_with_import

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import ModuleType

_FORM: Final = "give FILE.py:FUNC or MODULE:FUNC"
_SANDBOX: Final = "sandbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A coroutine function to rehearse.

    Attributes:
        text: How it was given.
        module: Where it is defined.
        function: It.
    """

    text: str
    module: ModuleType
    function: Callable[..., Coroutine[Any, Any, Any]]

    def convert(self, texts: Sequence[str]) -> inspect.BoundArguments:
        """Return the arguments of the function, made from texts as its annotations say.

        Raises:
            CycloptsError: They do not fit.
            Trouble: An annotation means nothing.
        """
        from cyclopts import App

        def stand_in() -> None:
            """Carry the signature, without the parameter that is filled in."""

        stand_in.__signature__ = self._signature()  # type: ignore[attr-defined]
        stand_in.__annotations__ = {p.name: p.annotation for p in stand_in.__signature__.parameters.values()}  # type: ignore[attr-defined]
        app = App(name=self.text, help_flags=(), version_flags=())
        app.default(stand_in)
        _, bound, _ = app.parse_args(list(texts), exit_on_error=False, print_error=False)
        return bound

    def make_sandbox(self) -> Sandbox:
        """Return the sandbox to rehearse in: from the module's ``make_sandbox(**overrides)``, or a plain one.

        Raises:
            Trouble: What the module makes is none, or is live.
        """
        make = getattr(self.module, "make_sandbox", Sandbox)
        sandbox = make(dry_run=True)
        if not isinstance(sandbox, Sandbox):
            raise Trouble(f"{self.text}: make_sandbox() returned {type(sandbox).__name__}; let it return a Sandbox")
        if not sandbox.dry_run:
            raise Trouble(f"{self.text}: make_sandbox(dry_run=True) is live; let it pass **overrides on to Sandbox")
        return sandbox

    def _signature(self) -> inspect.Signature:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name == _SANDBOX:
                continue
            annotation = parameter.annotation
            if isinstance(annotation, str):
                try:
                    annotation = eval(annotation, inspect.unwrap(self.function).__globals__)  # noqa: S307 - the user's
                except NameError as error:
                    problem = f"{self.text}: annotation of {parameter.name!r}: {error}; import it at run time"
                    raise Trouble(problem) from None
            parameters.append(parameter.replace(annotation=annotation))
        return inspect.Signature(parameters)


def load(text: str) -> Target:
    """Import what a target names.

    Raises:
        Trouble: There is no such file, module or function, it cannot be imported, or is no coroutine function.

    Concurrency: call it inside a running loop: then ``asyncio.run`` at the file's top level fails instead of going
    live. Cancellation: nothing here waits.
    """
    module, function = find(text, _FORM, kind="function", is_near=inspect.iscoroutinefunction)
    if not inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise Trouble(f"{text}: is no coroutine function; write `async def {text.rpartition(':')[2]}(...)`")
    return Target(text=text, module=module, function=function)


def find(
    text: str, form: str, *, kind: str = "sandbox", is_near: Callable[[object], bool] = callable
) -> tuple[ModuleType, Any]:
    """Import the module that a target names, and return it and what the target names in it.

    Args:
        text: The target.
        form: How a target is written.
        kind: What it names.
        is_near: Tells what could have been meant by a name that is not there.

    Raises:
        Trouble: There is no such file, module or name, or it cannot be imported.

    Concurrency: as of `load`. Cancellation: nothing here waits.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise Trouble(f"{text}: says no {kind}; {form}", ExitCode.USAGE)
    module = _import_file(Path(place), form) if place.endswith(".py") else _import_module(place, form)
    found = getattr(module, name, None)
    if found is None:
        known = (n for n, value in vars(module).items() if is_near(value))
        raise Trouble(f"{place}: has no {kind} {name!r}; {suggest(name, known)}")
    return module, found


def _import_file(path: Path, form: str) -> ModuleType:
    if not path.is_file():
        raise Trouble(f"{path}: no such file; {form}")
    path = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) != str(path):
        raise Trouble(f"{path.name}: a module named {path.stem!r} is loaded already; rename the file")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:  # pragma: no cover - a name that ends in .py always has a loader
        raise Trouble(f"{path.name}: no Python file; {form}")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        raise trouble_with_import(error, path.name) from None
    return module


def _import_module(name: str, form: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Trouble(f"{name}: no such module; {form}") from None
        raise trouble_with_import(error, name) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        raise trouble_with_import(error, name) from None
