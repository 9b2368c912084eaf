"""Of the bugs seeded into the worker, nearly all are found, and right code raises no alarm."""

from pathlib import Path

import pytest
from simulation.mutants import MOST_RUNS
from simulation.worker_mutants import WORKER_CHECKS, WORKER_MUTANTS


def test_bugs_seeded_into_the_worker_are_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    def folder() -> Path:
        return tmp_path_factory.mktemp("source")

    alarms = {name: found for name, check in WORKER_CHECKS.items() if (found := check.hunt(folder()))}
    assert alarms == {}
    survivors = []
    for mutant in WORKER_MUTANTS:
        with mutant.applied():
            found = WORKER_CHECKS[mutant.check].hunt(folder())
        if found is None or found.runs > MOST_RUNS:
            survivors.append(mutant.name)
    assert len(survivors) <= 0.05 * len(WORKER_MUTANTS), f"not found: {', '.join(survivors)}"
