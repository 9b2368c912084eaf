"""Run the benchmarks, each in a process of its own, print one table, and write it as a page of the docs.

python benchmarks/report.py                      every bench_*.py
python benchmarks/report.py retry governor       only these
python benchmarks/report.py --write docs/benchmarks.md
"""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
Row = tuple[str, float, str]
HEAD = """# Benchmarks

Written by `python3 noxfile.py -s bench`; nobody types a number here. Every figure is a ratio, or a count, from one run
in which ours and its peers took turns on the same machine. A row without a goal is there to compare. Times alone would
say more about the machine than about the code, so there are few of them and none of them is a gate; the gates are
counts of loop steps, timers and allocations in the tests.

"""


def rows_of(script: Path) -> list[Row]:
    """Run one script in a process of its own and return its rows."""
    code = f"import json, {script.stem} as script; print('rows', json.dumps(script.run()))"
    ended = subprocess.run(  # noqa: S603 - the code is ours
        [sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True
    )
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("rows ")]
    return [(label, value, goal) for label, value, goal in json.loads(line.removeprefix("rows "))]


def judge(value: float, goal: str) -> str:
    """Tell whether a goal such as ``<= 4`` is reached; nothing for a row that only compares."""
    sign, _, bound = goal.rpartition(" ")
    try:
        limit = float(bound)
    except ValueError:
        return ""
    reached = {"<=": value <= limit, "<": value < limit, ">=": value >= limit, "": value == limit}[sign]
    return "reached" if reached else "NOT REACHED"


def write_page(path: Path, tables: dict[str, list[Row]]) -> None:
    """Write the page."""
    version = platform.python_version()
    text = [HEAD, f"Python {version}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs.\n"]
    for script, rows in tables.items():
        text.append(f"\n## {script.removeprefix('bench_')}\n\n| what | measured | goal | |\n|---|--:|---|---|\n")
        text += [f"| {label} | {shown(value)} | {goal} | {judge(value, goal)} |\n" for label, value, goal in rows]
    path.write_text("".join(text), encoding="utf-8")


def shown(value: float) -> str:
    """Return a figure with three digits that mean something."""
    if not math.isfinite(value):
        return "none"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def print_rows(rows: Iterable[Row]) -> None:
    """Print rows as they come."""
    for label, value, goal in rows:
        said = f"goal {goal}" if judge(value, goal) else goal
        print(f"  {label:58} {shown(value):>10}   {said:14} {judge(value, goal)}".rstrip(), flush=True)


def main(arguments: list[str]) -> None:
    target = None
    if "--write" in arguments:
        at = arguments.index("--write")
        target = Path(arguments[at + 1]).resolve()
        arguments = arguments[:at] + arguments[at + 2 :]
    scripts = [HERE / f"bench_{name}.py" for name in arguments] or sorted(HERE.glob("bench_*.py"))
    tables: dict[str, list[Row]] = {}
    for script in scripts:
        print(script.stem, flush=True)
        tables[script.stem] = rows_of(script)
        print_rows(tables[script.stem])
    if target is not None:
        write_page(target, tables)


if __name__ == "__main__":
    main(sys.argv[1:])
