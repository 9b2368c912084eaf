"""Of the bugs in `retry_mutants.py` nearly all are found, and right code raises no alarm."""

from pathlib import Path

import pytest
from simulation.mutants import MOST_RUNS
from simulation.retry_mutants import RETRY_CHECKS, RETRY_MUTANTS


def test_seeded_bugs_are_found_and_right_code_raises_no_alarm(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def folder() -> Path:
        return tmp_path_factory.mktemp("source")

    alarms = {name: found for name, check in RETRY_CHECKS.items() if (found := check.hunt(folder()))}
    assert alarms == {}
    survivors = []
    for mutant in RETRY_MUTANTS:
        with mutant.applied():
            found = RETRY_CHECKS[mutant.check].hunt(folder())
        if found is None or found.runs > MOST_RUNS:
            survivors.append(mutant.name)
    assert len(survivors) <= 0.05 * len(RETRY_MUTANTS), f"not found: {', '.join(survivors)}"
