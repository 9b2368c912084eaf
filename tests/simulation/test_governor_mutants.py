"""The simulated tests of the governor find its seeded bugs, and raise no alarm over the right code."""

from pathlib import Path

import pytest
from simulation.governor_mutants import GOVERNOR_CHECKS, GOVERNOR_MUTANTS
from simulation.mutants import MOST_RUNS, Mutant


@pytest.mark.parametrize("name", GOVERNOR_CHECKS)
def test_right_code_raises_no_alarm(name: str, tmp_path: Path) -> None:
    assert GOVERNOR_CHECKS[name].hunt(tmp_path) is None


@pytest.mark.parametrize("mutant", GOVERNOR_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_bug_is_found(mutant: Mutant, tmp_path: Path) -> None:
    with mutant.applied():
        found = GOVERNOR_CHECKS[mutant.check].hunt(tmp_path)
    assert found is not None
    assert found.runs <= MOST_RUNS
