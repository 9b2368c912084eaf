"""How soon `simulate` finds the planted bugs of benchmarks/bench_finding.py, and how small it makes them."""

import asyncio
import importlib.util
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_finding.py"
SIMPLE = ["lost_update", "crossed_locks", "missed_wakeup", "double_charge"]
DEEP = "second_try"


@pytest.fixture(scope="module")
def finding() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARK.parent))
    spec = importlib.util.spec_from_file_location("bench_finding", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARK.parent))


@pytest.mark.parametrize("name", [*SIMPLE, DEEP])
def test_a_planted_bug_does_not_show_in_stock_order(finding: ModuleType, name: str) -> None:
    asyncio.run(finding.planted()[name]())


@pytest.mark.parametrize("name", SIMPLE)
def test_a_simple_bug_is_found_within_50_runs(finding: ModuleType, name: str) -> None:
    found = finding.find(finding.planted()[name])
    assert found.runs <= 50
    assert found.size == 1


def test_the_deep_bug_is_found_within_300_runs(finding: ModuleType) -> None:
    found = finding.find(finding.planted()[DEEP])
    assert found.runs <= 300
    assert found.size == 2


def test_single_pauses_alone_do_not_find_the_deep_bug(finding: ModuleType) -> None:
    assert finding.find(finding.planted()[DEEP], pairs=False) is None


@pytest.mark.long
def test_generated_bugs_are_found_and_made_small(finding: ModuleType) -> None:
    founds = [finding.find(program) for program in finding.generated(30)]
    assert all(founds)
    assert statistics.median(found.size for found in founds) == 1
    assert max(found.size for found in founds) <= 2


def test_a_program_without_a_bug_raises_no_alarm(finding: ModuleType) -> None:
    assert finding.find(finding.schedule, examples=50) is None


def test_two_races_that_show_nothing_of_themselves_are_found(finding: ModuleType) -> None:
    found = finding.find(finding.Bugs().two_races, examples=100)
    assert found.runs <= 200
    assert found.size == 2


@pytest.mark.parametrize(("name", "most"), [("looked at", 5), ("held out", 5), ("new", 5)])
@pytest.mark.long
def test_most_silent_races_are_found(finding: ModuleType, name: str, most: int) -> None:
    founds = [finding.find(program, examples=100) for program in finding.silent(*finding.SEEDS[name], 10)]
    assert founds.count(None) <= most
    assert all(found.size <= 3 for found in founds if found)
