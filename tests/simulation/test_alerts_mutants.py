"""The checks of the alerts' checks: every seeded bug is found, and right code raises no alarm."""

from pathlib import Path

import pytest
from simulation import mutants
from simulation.seeded_bugs_alerts import ALERT_CHECKS, ALERT_MUTANTS


def test_seeded_bugs_in_the_alerts_are_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder() -> Path:
        return tmp_path_factory.mktemp("source")

    for name, check in ALERT_CHECKS.items():
        monkeypatch.setitem(mutants.CHECKS, name, check)
        assert check.hunt(folder()) is None
    found = {mutant.name: mutant.hunt(folder()) for mutant in ALERT_MUTANTS}
    survivors = [name for name, each in found.items() if each is None or each.runs > mutants.MOST_RUNS]
    assert survivors == []
