r"""A plan as text that changes only when the plan does, a line for each value; and what differs between two such texts.

It promises that equal plans have equal texts, whatever the time, the order of tasks, the place of a call in the code
and the code that was loaded; that different facts have different ones, but for masked values; and that it shows none
of these.

>>> print(difference("card.charge [inv-1]\n  total = 9\n", "card.charge [inv-1]\n  total = 10\n"))
  card.charge [inv-1]
-   total = 9
+   total = 10
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from .._core.codec import MASKED_TEXT
from .._core.tokens import show_marks
from ..rehearsal.view import outside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core.planned import PlannedAction
    from ..rehearsal import Plan

_MOST_LINES: Final = 60

Block = tuple[str, ...]  # a line that says of what, and the lines under it


def render(plan: Plan) -> str:
    """Return a plan as text: a block for each action and for each table that was changed, sorted."""
    blocks = sorted(map(_action, plan.actions))
    blocks += [
        (f"rows of {outside(change.table)}", f"  +{change.inserted} ~{change.updated} -{change.deleted}")
        for change in sorted(plan.rows, key=lambda change: change.table)
    ]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks or [("no actions",)])


def difference(before: str, after: str) -> str:
    """Return what was added, removed and changed, block by block, as lines marked ``+`` and ``-``."""
    lines = list(_differences(_blocks(before), _blocks(after)))
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"  ... {len(lines) - _MOST_LINES} more lines"]
    return "\n".join(lines)


def _action(action: PlannedAction) -> Block:
    key = f"[{outside(action.key)}]" if action.keyed else "(no key)"
    lines = [f"{action.action} {key} {action.kind}{', destroys' if action.destroys else ''}"]
    if action.count > 1:
        lines.append(f"  times: {action.count}")
    if action.amount is not None:
        lines.append(f"  amount: {action.amount:f}")
    lines += [f"  needs: {outside(label)}" for label in action.references]
    for name in sorted(action.facts):
        lines += [f"  {path} = {value}" for path, value in _leaves(_name(name), action.facts[name])]
    return tuple(lines)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Give the path and the text of each value inside a canonical one, so that one that changes is one line."""
    if isinstance(value, list) and value:
        for position, item in enumerate(value):
            yield from _leaves(f"{path}[{position}]", item)
    elif isinstance(value, dict) and value and _tag(value) in {"", "type"}:
        if "$type" in value:
            yield path, value["$type"]
        for name in sorted(value.keys() - {"$type"}):
            yield from _leaves(f"{path}.{_name(name)}", value[name])
    else:
        yield path, _say(value)


def _say(value: Any) -> str:
    """Return a canonical value in one line; values of different types look different."""
    if isinstance(value, str):
        return outside(json.dumps(show_marks(value), ensure_ascii=False))
    if isinstance(value, list):
        return f"[{', '.join(map(_say, value))}]"
    if not isinstance(value, dict):
        return json.dumps(value)
    tag = _tag(value)
    if tag in {"", "type"}:
        fields = (f"{_name(name)}: {_say(value[name])}" for name in sorted(value.keys() - {"$type"}))
        return f"{value.get('$type', '')}{{{', '.join(fields)}}}"
    return _say_tagged(tag, value[f"${tag}"])


def _say_tagged(tag: str, inner: Any) -> str:
    if tag == "masked":
        return MASKED_TEXT
    if tag == "after_apply":
        return f"(known after apply: {outside(inner)})"
    if tag == "set":
        return f"{{{', '.join(map(_say, inner))}}}" if inner else "set()"
    if tag == "dict":
        return f"{{{', '.join(f'{_say(key)}: {_say(item)}' for key, item in inner)}}}"
    return f"{tag} {outside(inner)}"


def _tag(value: dict[str, Any]) -> str:
    """Return what kind of value stands behind a mapping, or an empty string where it is one."""
    first = next(iter(value), "")
    return first[1:] if first[:1] == "$" else ""


def _name(name: str) -> str:
    return name if name.isidentifier() else outside(json.dumps(name, ensure_ascii=False))


def _blocks(text: str) -> list[Block]:
    return [tuple(block.split("\n")) for block in text.rstrip("\n").split("\n\n")]


def _differences(before: list[Block], after: list[Block]) -> Iterator[str]:
    gone, come = Counter(before) - Counter(after), Counter(after) - Counter(before)
    for head in dict.fromkeys(block[0] for block in (*gone, *come)):
        pairs = zip_longest(*([block for block in blocks.elements() if block[0] == head] for blocks in (gone, come)))
        for old, new in pairs:
            if old and new:
                yield f"  {head}"
                yield from (line for line in difflib.ndiff(old[1:], new[1:]) if line[0] in "+-")
            else:
                yield from (f"{'-' if old else '+'} {line}" for line in old or new)
