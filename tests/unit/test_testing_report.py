"""A report tells what happened in a terminal, as JSON, as a picture and as a plain test that fails again."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncsandbox.testing
from asyncsandbox.testing import Jump, ReplayTokenError, Report, Scenario, Step, StepKind, fault, scenarios
from asyncsandbox.testing.replay_token import make_token, named_test, read_token


class LocalError(Exception):
    pass


LOST = fault("card.charge", TimeoutError, after=True)
VOID = {"meta", "br"}


def step(number: int, kind: StepKind = StepKind.RUN, **known: Any) -> Step:
    given = {"at": 0.0, "task": "main#1", "where": "shop.py:3", "source": "await charge()", "note": "", **known}
    return Step(number, None, kind=kind, **given)


def story() -> tuple[Step, ...]:
    told = [
        step(0),
        step(1, task="pump#2", source="await pump()"),
        step(2, StepKind.PAUSED, task="pump#2"),
        step(3),
        step(4, task="callback", where=""),
        step(5, StepKind.RESUMED, task="pump#2", at=1.0),
        step(6, task="pump#2", at=1.0),
        step(7, StepKind.ACTION, note="card.charge[1]", at=1.0, where=""),
        step(8, StepKind.FAULT, note="lost", at=1.0),
        step(9, StepKind.JUMP, note="+5 s", at=2.0),
        step(10, StepKind.CRASH, task="", note="power cut of life 1", where="", at=2.0),
        step(11, StepKind.RESTART, task="", note="life 2", where="", at=2.0),
        *(step(number, at=2.0) for number in range(12, 40)),
        step(40, StepKind.VIOLATION, task="", note="<never> twice & more", where="", at=70.0),
    ]
    return tuple(told)


def report(**known: Any) -> Report:
    given: dict[str, Any] = {
        "test": "tests/test_shop.py::test_once",
        "scenario": Scenario(crashes=(13,)),
        "error": "PromiseBrokenError: <never> twice",
        "runs": 14,
        "inputs": {"amount": "3"},
        "token": "as1.xyz",
        "unhandled": ("OSError('x')",),
        "steps": story(),
    }
    return Report(**{**given, **known})


# ------------------------------------------------------------------ terminal and JSON


def test_the_terminal_shows_marks_and_where_their_tasks_stood() -> None:
    lines = report().render().splitlines()
    assert lines[:5] == [
        "PromiseBrokenError: <never> twice",
        "1 crash; found in run 14",
        "  scenario: Scenario(crashes=(13,))",
        "  amount = 3",
        "  nobody looked at OSError('x')",
    ]
    assert "  t=0.000    pump#2  shop.py:3  await pump()" in lines
    assert "  t=0.000    pump#2  shop.py:3  PAUSED" in lines
    assert "  t=70.000                      VIOLATION <never> twice & more" in lines
    assert any("more" in line and "..." in line for line in lines)
    assert lines[-2:] == [
        "again: pytest 'tests/test_shop.py::test_once' --sim-replay=as1.xyz",
        "for good: @example(scenario=Scenario(crashes=(13,)), amount=3)",
    ]


@given(st.integers(1, 60))
def test_the_timeline_keeps_to_its_length(lines: int) -> None:
    shown = [line for line in report().render(lines).splitlines() if line.startswith("  t=")]
    assert len(shown) <= lines
    assert "VIOLATION" in shown[-1]


def test_json_holds_everything() -> None:
    told = json.loads(report().to_json())
    assert told["steps"][-1]["kind"] == "violation"
    assert len(told["steps"]) == 41
    assert told["scenario"] == "Scenario(crashes=(13,))"


# ------------------------------------------------------------------ picture


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def draw(**known: Any) -> Page:
    page = Page()
    page.feed(report(**known).to_html())
    assert not page.open
    return page


def test_the_picture_is_one_page_with_a_lane_per_task() -> None:
    page = draw()
    assert not [attrs for tag, attrs in page.seen if {"src", "href"} & attrs.keys() or tag == "script"]
    assert "http" not in page.text
    lanes = re.findall(r"main#1|pump#2|the simulation|callback", page.text)
    assert lanes[:3] == ["main#1", "pump#2", "the simulation"]
    assert "callback" not in lanes
    kinds = {attrs.get("class") for _, attrs in page.seen}
    assert {"run", "wait", "paused", "action", "fault", "jump", "cut", "born", "violation"} <= kinds
    assert "<never> twice & more" in page.text
    assert "1 steps of the loop itself" in page.text


def test_a_picture_of_nothing_is_a_page_too() -> None:
    page = draw(steps=(), token="", inputs={})
    assert "again" not in page.text


def test_a_pause_that_never_ended_is_no_line() -> None:
    page = draw(steps=(step(0), step(1, StepKind.PAUSED), step(2, StepKind.RESUMED, task="other#9")))
    assert "wait" not in {attrs.get("class") for _, attrs in page.seen}


# ------------------------------------------------------------------ a test that fails again


def test_the_exported_test_fails_again(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(
        "from asyncsandbox.testing import scenarios, simulate\n\n"
        "@simulate(scenarios())\n"
        "async def test_once(sim, amount, rate):\n"
        "    assert sim.scenario.size == 0 or rate != 2, 'sold twice'\n"
    )
    exported = report(fixtures={"rate": "2", "sold": ""}, inputs={"amount": "3"}).export_test()
    assert "def test_once_again(sold):" in exported
    exported = report(fixtures={"rate": "2"}, scenario=Scenario(faults=(LOST,), jumps=(Jump(1, 2),))).export_test()
    assert "from asyncsandbox.testing import Jump, Scenario, fault, replay" in exported
    (tmp_path / "test_again.py").write_text(exported)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_again.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    assert "sold twice" in ran.stdout


def test_the_exported_test_imports_the_errors_it_needs() -> None:
    exported = report(
        scenario=Scenario(faults=(fault("a", LocalError), fault("b", json.JSONDecodeError)))
    ).export_test()
    assert "from json.decoder import JSONDecodeError" in exported
    assert f"from {__name__} import LocalError" in exported


# ------------------------------------------------------------------ tokens

everything = scenarios(pauses=3, crashes=2, faults=[LOST], duplicates=2, jumps=1).filter(
    lambda drawn: isinstance(drawn, Scenario)
)
literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(everything, st.dictionaries(st.sampled_from(["amount", "name"]), literals))
def test_a_token_brings_scenario_and_inputs_back(scenario: Any, inputs: dict[str, Any]) -> None:
    token = make_token("test_shop.py::test_once", scenario, inputs)
    assert read_token(token, "test_shop.py::test_once") == (scenario, inputs)
    assert named_test(token) == "test_shop.py::test_once"


def local_error() -> type[Exception]:
    class InnerError(Exception):
        pass

    return InnerError


@pytest.mark.parametrize(
    ("scenario", "inputs"),
    [
        (Scenario(), {"value": object()}),
        (Scenario(), {"value": float("nan")}),
        (Scenario(), {"value": type("Text", (str,), {})("a")}),
        (Scenario(faults=(fault("a", local_error()),)), {}),
        (Scenario(faults=(fault("a", lambda: OSError(5)),)), {}),
    ],
    ids=["object", "nan", "subclass", "local", "function"],
)
def test_what_cannot_be_written_down_makes_no_token(scenario: Scenario, inputs: dict[str, Any]) -> None:
    assert not make_token("t", scenario, inputs)


def test_a_token_of_another_python_or_test_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    token = make_token("t", Scenario(), {})
    with pytest.raises(ReplayTokenError, match="belongs to t, not to other: run that test"):
        read_token(token, "other")
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(ReplayTokenError, match=r"was made by cpython 3\.\d+, this is cpython 3\.99: run it with"):
        read_token(token, "t")


def test_a_token_whose_error_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    token = make_token("t", Scenario(faults=(fault("a", LocalError),)), {})
    assert read_token(token, "t")[0].faults[0].error is LocalError
    monkeypatch.delitem(globals(), "LocalError")
    with pytest.raises(ReplayTokenError, match="LocalError"):
        read_token(token, "t")


@given(st.text() | st.text(alphabet="abcXYZ019_-").map("as1.".__add__))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ReplayTokenError, match="copy it whole"):
        named_test(text)


def test_a_token_without_its_start_is_refused() -> None:
    token = make_token("t", Scenario(), {}).removeprefix("as1.")
    with pytest.raises(ReplayTokenError, match="is no replay token"):
        named_test(token)


def test_a_report_of_nothing_promises_no_replay() -> None:
    told = report(token="", steps=()).render()
    assert "again:" not in told
    assert "for good:" not in told


def test_a_name_the_harness_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncsandbox.testing.no_such_name
