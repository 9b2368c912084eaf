"""How many seeded bugs in our own code the simulated tests find, and after how many runs."""

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation.all_bugs import ALL_BUGS
from simulation.mutants import MOST_RUNS


def run() -> list[tuple[str, float, str]]:
    """Return label, value and goal of each measurement."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run(Path(folder))


def _run(folder: Path) -> list[tuple[str, float, str]]:
    def fresh() -> Path:
        return Path(tempfile.mkdtemp(dir=folder))

    alarms = sum(check.hunt(fresh()) is not None for checks, _ in ALL_BUGS.values() for check in checks.values())
    began = time.perf_counter()
    found = [mutant.hunt(checks, fresh()) for checks, mutants in ALL_BUGS.values() for mutant in mutants]
    seconds = time.perf_counter() - began
    killed = [each for each in found if each is not None and each.runs <= MOST_RUNS]
    subtle = [each for each in killed if each.runs > 1]
    return [
        ("seeded bugs", len(found), ">= 40"),
        ("found within 300 runs, %", 100 * len(killed) / len(found), ">= 95"),
        ("false alarms on right code", alarms, "0"),
        ("runs to find one, median", statistics.median(each.runs for each in killed), "as few as possible"),
        ("runs to find one, most", max(each.runs for each in killed), f"<= {MOST_RUNS}"),
        ("not found by the plain run, %", 100 * len(subtle) / len(killed), "what the harness adds"),
        (
            "runs to find one of these, median",
            statistics.median(each.runs for each in subtle),
            "as few as possible",
        ),
        ("seconds per bug", seconds / len(found), "< 0.4"),
    ]


if __name__ == "__main__":
    for label, value, goal in run():
        print(f"{label:40} {value:8.2f}   goal {goal}")
