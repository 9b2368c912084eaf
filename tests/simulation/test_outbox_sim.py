"""The shipped demo: the outbox that mails twice, the fix that is none, and the one that is."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings

from asyncsandbox.testing import PromiseBrokenError, scenarios, simulate
from asyncsandbox.testing.simulated import simulated_of

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "outbox.py"


@pytest.fixture(scope="module")
def outbox() -> ModuleType:
    spec = importlib.util.spec_from_file_location("outbox_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def simulated(outbox: ModuleType, name: str, max_examples: int) -> Any:
    body = simulated_of(outbox.test_outbox).function
    kind = getattr(outbox, name)

    @settings(
        database=None, deadline=None, derandomize=True, max_examples=max_examples, phases=set(Phase) - {Phase.explain}
    )
    @simulate(scenarios(pauses=1, crashes=2))
    async def test(sim: Any) -> None:
        await body(sim, kind)

    return test


@pytest.mark.parametrize(("name", "crashes"), [("Outbox", 1), ("IntentFirst", 2)])
def test_the_outbox_and_its_wrong_fix_mail_twice(outbox: ModuleType, name: str, crashes: int) -> None:
    test = simulated(outbox, name, 500)
    with pytest.raises(PromiseBrokenError, match="at most once"):
        test()
    report = simulated_of(test).report
    assert report is not None
    assert len(report.scenario.crashes) == report.scenario.size == crashes


def test_the_right_fix_holds(outbox: ModuleType) -> None:
    test = simulated(outbox, "Asking", 100)
    test()
    assert simulated_of(test).fired["crash"] > 50
