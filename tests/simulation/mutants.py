"""Seeded bugs in our own code, each one line wrong, and the simulated tests that must find them.

A `Mutant` names a function and what to replace in its source. While it is applied, the function runs the changed code,
whoever calls it by whatever name.
"""

import inspect
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from simulation import (
    test_attempts_sim,
    test_database_sim,
    test_dry_run_sim,
    test_ledger_sim,
    test_logs_sim,
    test_readiness_sim,
    test_saga_sim,
    test_sandbox_sim,
)
from sqlalchemy.exc import SQLAlchemyError

from asyncsandbox.errors import SandboxError
from asyncsandbox.testing import NondeterminismError, Scenario, simulate
from asyncsandbox.testing.scenario import Sweep
from asyncsandbox.testing.simulated import simulated_of

MOST_RUNS = 300
_MOST_EXAMPLES = 60
# Right code has simulated tests of its own; here it need only be seen that the hunt itself raises no alarm.
_EXAMPLES_OF_RIGHT_CODE = 2

# What says that a promise was broken. Anything else is a mutant that does not even run.
_ALARMS = (AssertionError, pytest.fail.Exception, SandboxError, SQLAlchemyError, sqlite3.Error)


@dataclass(frozen=True)
class Found:
    """How a bug was found: after how many runs, what had to go wrong for it, and what was said."""

    runs: int
    scenario: Scenario
    error: BaseException


@dataclass(frozen=True, kw_only=True)
class Check:
    """A simulated test of a component, and what it draws."""

    test: Callable[..., object]
    what: SearchStrategy[Scenario | Sweep]
    inputs: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    needs_source: bool = False
    most_examples: int = _MOST_EXAMPLES

    def hunt(self, folder: Path, *, most_examples: int | None = None) -> Found | None:
        """Run the test until it fails."""
        most_examples = most_examples or self.most_examples
        logging.disable()  # wrong code says much
        try:
            with test_database_sim.make_source(folder) as source:
                return self._hunt(most_examples, {"source": st.just(source)} if self.needs_source else {})
        finally:
            logging.disable(logging.NOTSET)

    def raise_alarm(self, folder: Path) -> Found | None:
        """Run the test on right code: what it finds is a false alarm."""
        return self.hunt(folder, most_examples=_EXAMPLES_OF_RIGHT_CODE)

    def _hunt(self, most_examples: int, fixtures: Mapping[str, SearchStrategy[Any]]) -> Found | None:
        body = simulated_of(self.test).function
        hunting: Callable[..., None] = settings(
            max_examples=most_examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(simulate(self.what, **fixtures, **self.inputs)(body))
        try:
            hunting()
        except _ALARMS as error:
            simulated = simulated_of(hunting)
            if isinstance(error, NondeterminismError) or simulated.report is None:
                raise
            # Hypothesis runs the example that failed once more.
            return Found(simulated.runs - simulated.report.runs, simulated.report.scenario, error)
        return None


@dataclass(frozen=True)
class Mutant:
    """One wrong line."""

    name: str
    check: str
    function: Any
    old: str
    new: str

    def hunt(self, checks: Mapping[str, Check], folder: Path) -> Found | None:
        """Run its check on the wrong code until it fails."""
        with self.applied():
            return checks[self.check].hunt(folder)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the function run the wrong line.

        Raises:
            ValueError: What is to be replaced is not there, or several times.
        """
        function: FunctionType = getattr(self.function, "fget", getattr(self.function, "__func__", self.function))
        right = function.__code__
        function.__code__ = self._compile(right)
        try:
            yield
        finally:
            function.__code__ = right

    def _compile(self, right: CodeType) -> CodeType:
        lines = Path(right.co_filename).read_text("utf-8").splitlines(keepends=True)
        body, first = inspect.getblock(lines[right.co_firstlineno - 1 :]), right.co_firstlineno - 1
        source = "".join(body)
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: {self.old!r} is there {source.count(self.old)} times in {right.co_qualname}"
            )
        changed = "".join(lines[:first]) + source.replace(self.old, self.new) + "".join(lines[first + len(body) :])
        # Coverage must not take it for the file's own code.
        module = compile(changed, "<mutant>", "exec", dont_inherit=True)
        return next(code for code in _inside(module) if code.co_qualname == right.co_qualname)


def _inside(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _inside(each)


CHECKS: dict[str, Check] = {
    "ledger": Check(
        test=test_ledger_sim.test_a_key_is_charged_at_most_once_whatever_happens,
        what=test_ledger_sim.EVERYTHING,
    ),
    "dry run": Check(
        test=test_dry_run_sim.test_a_dry_run_applies_nothing_and_plans_each_call_once_in_any_order,
        what=test_dry_run_sim.PAUSES,
        inputs={"orders": st.integers(1, 3)},
    ),
    "joined": Check(
        test=test_dry_run_sim.test_a_live_call_happens_once_and_everybody_gets_its_outcome,
        what=test_dry_run_sim.FAULTS,
    ),
    "attempts": Check(
        test=test_attempts_sim.test_a_fault_is_retried_where_that_does_no_harm_and_nowhere_else,
        what=test_attempts_sim.LOST,
    ),
    "permits": Check(
        test=test_attempts_sim.test_limits_hold_for_those_who_wait_and_those_who_leave,
        what=test_attempts_sim.PAUSES,
        inputs=test_attempts_sim.INPUTS,
    ),
    "shown": Check(test=test_dry_run_sim.test_what_was_shown_is_what_runs, what=test_dry_run_sim.PAUSES),
    "cancelled": Check(
        test=test_dry_run_sim.test_a_cancelled_caller_is_told_after_the_outcome_is_recorded,
        what=test_dry_run_sim.PAUSES,
    ),
    "late": Check(
        test=test_dry_run_sim.test_an_answer_after_the_timeout_still_counts,
        what=test_dry_run_sim.PAUSES,
        inputs={"takes": st.integers(1, 4)},
    ),
    "unwanted": Check(
        test=test_dry_run_sim.test_a_call_that_has_not_started_goes_on_only_for_those_who_still_want_it,
        what=test_dry_run_sim.PAUSES,
        inputs=test_dry_run_sim.FOLLOWED,
    ),
    "unknown": Check(
        test=test_dry_run_sim.test_an_unknown_outcome_stays_unknown_until_somebody_finds_out,
        what=test_dry_run_sim.LOST,
        inputs=test_dry_run_sim.FOUND,
    ),
    "fence": Check(test=test_dry_run_sim.test_an_old_fence_moves_no_row, what=test_dry_run_sim.PAUSES),
    "limits": Check(
        test=test_dry_run_sim.test_a_ledger_keeps_its_limits,
        what=test_dry_run_sim.PAUSES,
        inputs={"most": st.integers(1, 4)},
    ),
    "refused": Check(
        test=test_dry_run_sim.test_a_refused_call_may_be_made_again_and_an_action_inside_an_action_may_not,
        what=test_dry_run_sim.REFUSALS,
    ),
    "saga": Check(
        test=test_saga_sim.test_what_was_done_is_undone_in_reverse,
        what=test_saga_sim.TROUBLE,
        inputs=test_saga_sim.INPUTS,
    ),
    "saga well": Check(test=test_saga_sim.test_a_block_that_ends_well_undoes_nothing, what=test_saga_sim.PAUSES),
    "logs": Check(test=test_logs_sim.test_correlation_ids_never_mix_between_tasks, what=test_logs_sim.PAUSES),
    "sink": Check(test=test_logs_sim.test_a_buffered_sink_keeps_every_line_in_order, what=test_logs_sim.PAUSES),
    "run": Check(
        test=test_readiness_sim.test_all_who_ask_share_one_run_and_nobody_elses_cancellation,
        what=test_readiness_sim.PAUSES,
        inputs=test_readiness_sim.INPUTS,
    ),
    "dying": Check(
        test=test_readiness_sim.test_a_run_that_nobody_wants_any_more_is_not_joined,
        what=test_readiness_sim.PAUSES,
    ),
    "go": Check(
        test=test_readiness_sim.test_go_is_never_said_while_a_critical_check_fails,
        what=test_readiness_sim.PAUSES,
        inputs=test_readiness_sim.KEPT,
    ),
    "deadline": Check(
        test=test_readiness_sim.test_a_run_ends_at_its_deadline_and_when_the_checker_stops,
        what=test_readiness_sim.PAUSES,
        inputs=test_readiness_sim.STOPS,
    ),
    "start": Check(
        test=test_sandbox_sim.test_a_start_that_fails_or_is_cancelled_leaves_nothing_running,
        what=test_sandbox_sim.PAUSES,
        inputs=test_sandbox_sim.STARTS,
    ),
    "stop": Check(
        test=test_sandbox_sim.test_a_stop_lets_live_actions_end_and_stops_everything,
        what=test_sandbox_sim.PAUSES,
        inputs=test_sandbox_sim.STOPS,
    ),
    "sessions": Check(
        test=test_database_sim.test_sessions_that_read_and_then_write_lose_nothing,
        what=test_database_sim.SESSIONS,
        inputs=test_database_sim.INPUTS,
        needs_source=True,
    ),
    "turns": Check(
        test=test_database_sim.test_turns_are_one_at_a_time_and_first_come_first_served,
        what=test_database_sim.TURNS,
        inputs=test_database_sim.TURN_INPUTS,
    ),
    "queue": Check(
        test=test_database_sim.test_a_long_queue_that_moves_is_no_reason_to_give_up,
        what=test_database_sim.TURNS,
    ),
}
