"""The checks of the checks: of the bugs in `seeded_bugs.py`, nearly all are found, and right code raises no alarm."""

import dataclasses
from pathlib import Path

import pytest
from simulation.mutants import CHECKS, MOST_RUNS, Mutant
from simulation.seeded_bugs import MUTANTS

from asyncsandbox.components.database.turns import Turns


def test_seeded_bugs_are_found_and_right_code_raises_no_alarm(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def folder() -> Path:
        return tmp_path_factory.mktemp("source")

    alarms = {name: found for name, check in CHECKS.items() if (found := check.hunt(folder()))}
    assert alarms == {}
    found = {mutant.name: mutant.hunt(folder()) for mutant in MUTANTS}
    survivors = [name for name, each in found.items() if each is None or each.runs > MOST_RUNS]
    assert len(found) == len(MUTANTS) >= 40
    assert len(survivors) <= 0.05 * len(MUTANTS), f"not found: {', '.join(survivors)}"


def test_a_mutant_is_one_place_of_the_source_and_gone_afterwards() -> None:
    right = Turns.give_back.__code__
    mutant = Mutant("example", "turns", Turns.give_back, "self._waiting.popleft()", "self._waiting.pop()")
    with mutant.applied():
        assert Turns.give_back.__code__.co_names != right.co_names
    assert Turns.give_back.__code__ is right
    with pytest.raises(ValueError, match="0 times"), dataclasses.replace(mutant, old="not there").applied():
        pass
