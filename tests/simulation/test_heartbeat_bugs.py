"""Each of the bugs in `heartbeat_bugs.py` is found, and right code raises no alarm."""

from pathlib import Path

import pytest
from simulation.heartbeat_bugs import CHECKS, MUTANTS
from simulation.mutants import MOST_RUNS, Mutant


@pytest.mark.parametrize("name", CHECKS)
def test_right_code_raises_no_alarm(name: str, tmp_path: Path) -> None:
    assert CHECKS[name].hunt(tmp_path) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_bug_is_found(mutant: Mutant, tmp_path: Path) -> None:
    with mutant.applied():
        found = CHECKS[mutant.check].hunt(tmp_path)
    assert found is not None
    assert found.runs <= MOST_RUNS
