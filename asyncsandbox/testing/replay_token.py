"""Replay tokens: one failing run as a word that fits into a command line.

A token names the test and the version of Python, because steps are counted differently in another one. Reading one
imports and runs nothing: inputs are literals, and errors must be exception classes that are already loaded.

>>> token = make_token("test_shop.py::test_once", Scenario(crashes=(13,)), {"amount": 3})
>>> read_token(token, "test_shop.py::test_once")
(Scenario(crashes=(13,)), {'amount': 3})
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import sys
import zlib
from typing import TYPE_CHECKING, Any

from .errors import ReplayTokenError
from .scenario import Fault, Jump, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_START = "as1."
_TRY = "copy it whole from the report of the failing test"


def make_token(test: str, scenario: Scenario, inputs: Mapping[str, Any]) -> str:
    """Return the token of a run; an empty string where an input or error cannot be written down."""
    try:
        content = {
            "python": _python(),
            "test": test,
            "inputs": {name: literal(value) for name, value in inputs.items()},
            "pauses": scenario.pauses,
            "crashes": scenario.crashes,
            "duplicates": scenario.duplicates,
            "jumps": [(jump.step, jump.seconds) for jump in scenario.jumps],
            "faults": [(each.action, _name(each.error), each.after, each.nth) for each in scenario.faults],
        }
    except ValueError:
        return ""
    packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
    return _START + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def named_test(token: str) -> str:
    """Return the name of the test a token belongs to.

    Raises:
        ReplayTokenError: It is no token.
    """
    return str(_open(token)["test"])


def read_token(token: str, test: str) -> tuple[Scenario, dict[str, Any]]:
    """Return scenario and inputs.

    Raises:
        ReplayTokenError: It is no token, or one of another test, of another Python, or of an error that is gone.
    """
    content = _open(token)
    if content["test"] != test:
        raise ReplayTokenError(token, f"belongs to {content['test']}, not to {test}", "run that test with it")
    if content["python"] != _python():
        wanted, mine = content["python"], _python()
        raise ReplayTokenError(token, f"was made by {wanted}, this is {mine}", f"run it with {wanted}")
    scenario = Scenario(
        pauses=tuple(content["pauses"]),
        faults=tuple(Fault(action, _find(token, error), after, nth) for action, error, after, nth in content["faults"]),
        crashes=tuple(content["crashes"]),
        duplicates=tuple(content["duplicates"]),
        jumps=tuple(Jump(*jump) for jump in content["jumps"]),
    )
    return scenario, {name: ast.literal_eval(text) for name, text in content["inputs"].items()}


def _open(token: str) -> dict[str, Any]:
    text = token.removeprefix(_START)
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        content = json.loads(zlib.decompress(packed))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ReplayTokenError(token, "is damaged", _TRY) from error
    if text == token or not isinstance(content, dict) or "test" not in content:
        raise ReplayTokenError(token, "is no replay token", _TRY)
    return content


def _python() -> str:
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def literal(value: object) -> str:
    """Return a value as Python text.

    Raises:
        ValueError: It has no literal form.
    """
    text = repr(value)
    try:
        same = ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError) as error:
        raise ValueError(text) from error
    if type(same) is not type(value) or repr(same) != text:
        raise ValueError(text)
    return text


def _name(error: Callable[[], Exception]) -> str:
    if not (isinstance(error, type) and "<locals>" not in error.__qualname__):
        raise ValueError(error)
    return f"{error.__module__}:{error.__qualname__}"


def _find(token: str, name: str) -> type[Exception]:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ReplayTokenError(
            token, f"names {qualname} of {module}, which is not there", "run the test it was made by"
        )
    return found
