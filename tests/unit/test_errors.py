"""Errors: the tree that is drawn is the tree there is, and each of them travels and says what to do."""

import inspect
import pickle
import re

import pytest

from asyncsandbox import errors
from asyncsandbox.errors import ComponentStartError, ComponentStopError, KnownAfterApplyError, SandboxError

CLASSES = [getattr(errors, name) for name in errors.__all__]
GROUPS = {errors.SandboxError, errors.LifecycleError, errors.ActionError, errors.JobError, errors.StoreError}
LEAVES = [error for error in CLASSES if error not in GROUPS]
MADE_UP = {
    "str": lambda name: f"the {name} in question",
    "object": lambda name: 17,
    "float": lambda name: 2.5,
    "float | None": lambda name: 2.5,
    "int": lambda name: 4711,
    "tuple[str, ...]": lambda name: (f"one {name}", f"another {name}"),
}
REMEDY_GIVEN_BY_CALLER = ("allowed", "remedy")


def make(error: type[SandboxError]) -> tuple[SandboxError, dict[str, object]]:
    parameters = inspect.signature(error).parameters.values()
    values = {p.name: MADE_UP[p.annotation](p.name) for p in parameters}
    return error(*values.values()), values


def draw_tree(error: type, indent: str = "    ") -> list[str]:
    """Draw the classes below one as the docstring does: name, builtin mixins, in the docstring's order."""
    lines: list[str] = []
    children = sorted(
        (child for child in error.__subclasses__() if child.__module__.startswith(errors.__name__)),
        key=lambda child: (child.__module__, inspect.getsourcelines(child)[1]),
    )
    for number, child in enumerate(children):
        mixins = ", ".join(base.__name__ for base in child.__bases__ if base.__module__ == "builtins")
        last = number == len(children) - 1
        lines.append(f"{indent}{'└── ' if last else '├── '}{child.__name__}{f'({mixins})' if mixins else ''}")
        lines += draw_tree(child, indent + ("    " if last else "│   "))
    return lines


def get_drawn() -> list[str]:
    lines = [line for line in errors.__doc__.splitlines() if "─" in line]
    return [re.match(r"[ │├└─]*[\w(), ]*?(?=  |$)", line)[0].rstrip() for line in lines]


def test_the_drawn_tree_is_the_tree() -> None:
    assert sorted(get_drawn()) == sorted(draw_tree(SandboxError))


def test_every_error_is_exported_under_one_root() -> None:
    defined = {value for value in vars(errors).values() if inspect.isclass(value)}
    assert set(CLASSES) == defined
    assert all(issubclass(error, SandboxError) for error in CLASSES)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("error", LEAVES)
def test_attributes_are_what_was_given_and_the_message_tells_them(error: type[SandboxError]) -> None:
    made, values = make(error)
    for name, value in values.items():
        assert getattr(made, name) == value
        for part in value if isinstance(value, tuple) else (value,):
            assert str(part) in str(made)


@pytest.mark.parametrize("error", LEAVES)
def test_the_message_ends_with_what_to_do(error: type[SandboxError]) -> None:
    made, values = make(error)
    said = re.split(r"[;:] ", str(made))[-1]
    given = [values[name] for name in REMEDY_GIVEN_BY_CALLER if name in values]
    assert len(re.split(r"[;:] ", str(made))) > 1
    assert said in given if given else len(said.split()) >= 4


@pytest.mark.parametrize("error", LEAVES)
def test_every_error_survives_pickling(error: type[SandboxError]) -> None:
    made, _ = make(error)
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is error
    assert (back.args, vars(back), str(back)) == (made.args, vars(made), str(made))


@pytest.mark.parametrize("error", [ComponentStartError, ComponentStopError])
def test_a_lifecycle_error_names_its_cause(error: type[SandboxError]) -> None:
    made, _ = make(error)
    made.__cause__ = OSError("port taken")
    assert "(OSError: port taken)" in str(made)


def test_a_value_not_known_yet_names_the_line_where_there_is_one() -> None:
    assert " at " not in str(KnownAfterApplyError("card.charge[1].id", "formatting it"))
    made = KnownAfterApplyError("card.charge[1].id", "formatting it", "bill.py:7")
    assert " at bill.py:7" in str(made)
    assert "'card.charge'" in str(made)
