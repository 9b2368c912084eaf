"""The checks of the checks: of the seeded bugs nearly all are found, and right code raises no alarm."""

import dataclasses

import pytest
from simulation.all_bugs import ALL_BUGS
from simulation.mutants import MOST_RUNS, Mutant

from asyncsandbox.components.database.turns import Turns


@pytest.mark.long
@pytest.mark.parametrize("seeded_into", ALL_BUGS)
def test_right_code_raises_no_alarm(seeded_into: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    checks, _ = ALL_BUGS[seeded_into]
    folder = tmp_path_factory.mktemp
    alarms = {name: found for name, check in checks.items() if (found := check.raise_alarm(folder("source")))}
    assert alarms == {}


@pytest.mark.long
@pytest.mark.parametrize("seeded_into", ALL_BUGS)
def test_seeded_bugs_are_found(seeded_into: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    checks, mutants = ALL_BUGS[seeded_into]
    found = {mutant.name: mutant.hunt(checks, tmp_path_factory.mktemp("source")) for mutant in mutants}
    assert len(found) == len(mutants)
    survivors = [name for name, each in found.items() if each is None or each.runs > MOST_RUNS]
    assert len(survivors) <= 0.05 * len(mutants), f"not found: {', '.join(survivors)}"


def test_a_mutant_is_one_place_of_the_source_and_gone_afterwards() -> None:
    right = Turns.give_back.__code__
    mutant = Mutant("example", "turns", Turns.give_back, "self._waiting.popleft()", "self._waiting.pop()")
    with mutant.applied():
        assert Turns.give_back.__code__.co_names != right.co_names
    assert Turns.give_back.__code__ is right
    with pytest.raises(ValueError, match="0 times"), dataclasses.replace(mutant, old="not there").applied():
        pass
