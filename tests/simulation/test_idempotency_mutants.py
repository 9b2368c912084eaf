"""The checks of the checks of idempotency: seeded bugs are found, and right code raises no alarm."""

from pathlib import Path

import pytest
from simulation.idempotency_bugs import IDEMPOTENCY_CHECKS, IDEMPOTENCY_MUTANTS
from simulation.mutants import MOST_RUNS


def test_seeded_bugs_in_idempotency_are_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    def folder() -> Path:
        return tmp_path_factory.mktemp("source")

    alarms = {name: found for name, check in IDEMPOTENCY_CHECKS.items() if (found := check.hunt(folder()))}
    assert alarms == {}
    survivors = []
    for mutant in IDEMPOTENCY_MUTANTS:
        with mutant.applied():
            found = IDEMPOTENCY_CHECKS[mutant.check].hunt(folder())
        if found is None or found.runs > MOST_RUNS:
            survivors.append(mutant.name)
    assert survivors == []
