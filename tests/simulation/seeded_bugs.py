"""Bugs for the simulated tests to find, each one place of our own code made wrong."""

from simulation.mutants import Mutant

from asyncsandbox._core import attempts, body, pipeline
from asyncsandbox._core.checks import CheckResult, ReadinessReport
from asyncsandbox._core.component import Component
from asyncsandbox._core.context import CallScope, _Scope
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.lifecycle import start_order, stop_all
from asyncsandbox._core.planned import Planner
from asyncsandbox._core.runtime import Flight, Runtime
from asyncsandbox._core.saga import Saga
from asyncsandbox._core.tasks import outlast
from asyncsandbox.components.database import isolated
from asyncsandbox.components.database.outer import OuterTransaction, _SharedSeat
from asyncsandbox.components.database.turns import Turns
from asyncsandbox.components.dry_run import DryRunLock
from asyncsandbox.components.governor.line import Line
from asyncsandbox.components.logs import JsonSink, StructuredLogger
from asyncsandbox.components.readiness import SandboxReadinessChecker as Checker
from asyncsandbox.components.readiness import _Run
from asyncsandbox.sandbox import Sandbox

MUTANTS: tuple[Mutant, ...] = (
    # ledger and pipeline
    Mutant("row forgotten", "ledger", Ledger.look_up, "self._rows.get(call.identity)", "None"),
    Mutant("facts not compared", "dry run", Ledger.look_up, "row is not None and ", "False and "),
    Mutant("fence not moved", "fence", Ledger.claim, "row.fence += 1", "row.fence += 0"),
    Mutant("start without fence", "fence", Ledger._begin, "if row.fence != fence:", "if False:"),
    Mutant("outcome without fence", "fence", Ledger.finish, "row.fence != fence or ", ""),
    Mutant("release without fence", "fence", Ledger.release, "row.fence == fence and ", ""),
    Mutant("generation not moved", "refused", Ledger._renew, "row.generation += 1", "pass"),
    Mutant("one generation too many", "limits", Ledger._renew, ">= self", "> self"),
    Mutant("one row too many", "limits", Ledger.plan, ">=", ">"),
    Mutant("result not kept", "joined", Ledger.finish, "row.result = result", "pass"),
    Mutant("running body resolved", "late", Ledger.resolve, "row.left_running and not happened", "False"),
    Mutant("attempt not counted", "joined", Ledger._begin, "row.attempts += 1", "pass"),
    Mutant(
        "DONE before the body",
        "ledger",
        pipeline._run,
        "    result = await make_attempts(run)\n",
        "    run.row.state = ActionState.DONE; result = await make_attempts(run)\n",
    ),
    Mutant(
        "body before STARTED",
        "ledger",
        pipeline._begin,
        "await (ledger.restart(row, fence) if is_unknown else ledger.start(row, fence))\n",
        "row.state = ActionState.APPROVED\n",
    ),
    Mutant(
        "lost reply not delivered",
        "ledger",
        attempts._attempt,
        "else ActionEvent.LOSE",
        "else ActionEvent.NOT_DELIVERED",
    ),
    Mutant("rejected as lost", "refused", attempts._attempt, "ActionEvent.REJECT if", "ActionEvent.LOSE if"),
    Mutant("in-flight call not joined", "joined", pipeline.perform, "runtime.flights.get(call.identity)", "None"),
    Mutant(
        "joined with other facts", "joined", pipeline._follow, "flight.call.facts_digest != call.facts_digest", "False"
    ),
    Mutant(
        "follower dies with leader",
        "joined",
        pipeline._lead,
        "        flight.give_up_unwanted()\n",
        "        flight.task.cancel()\n",
    ),
    Mutant(
        "caller told too early",
        "cancelled",
        pipeline._lead,
        "await outlast(task, on_cancel=leave, until=flight.ended)",
        "await flight.ended()",
    ),
    Mutant("started call given up", "cancelled", Flight.give_up_unwanted, " and not self.busy", ""),
    Mutant("wanted call given up", "unwanted", Flight.is_unwanted, " and not self.followers", ""),
    Mutant(
        "unwanted call not given up", "unwanted", Flight.give_up_unwanted, "if self.is_unwanted and", "if False and"
    ),
    Mutant("waiters not woken", "joined", Runtime.land, "        flight.wake()\n", "        pass\n"),
    Mutant("one waiter woken", "joined", Flight.wake, "while self._waiters", "if self._waiters"),
    Mutant(
        "changed facts run",
        "shown",
        attempts._refuse_changed,
        ".facts_digest(spec, bound) != call.facts_digest",
        ".facts_digest(spec, bound) is None",
    ),
    Mutant(
        "claim kept after refusal",
        "shown",
        pipeline._begin,
        "        await ledger.release(row, fence, forget=found is None)\n",
        "        pass\n",
    ),
    Mutant("late result lost", "late", body._settle_late, "if returned and", "if not returned and"),
    Mutant("late body not noted", "late", body._leave_behind, "run.row.left_running = True", "pass"),
    Mutant("timeout not kept", "late", body._time_left, "else spec.attempt_timeout_seconds", "else None"),
    Mutant("nested action", "refused", pipeline.perform, "if outer is not None:", "if False:"),
    Mutant(
        "landed for another",
        "refused",
        Runtime.land,
        "if not flight.landed:\n            flight.landed = True\n            self.flights.pop(flight.call.identity)",
        "self.flights.pop(flight.call.identity, None)",
    ),
    Mutant("follower given up", "unwanted", pipeline.perform, "if not task.cancelled():", "if True:"),
    Mutant(
        "unknown taken for done",
        "unknown",
        pipeline._find_out,
        "if found is not None and found is not False:",
        "if True:",
    ),
    Mutant(
        "unknown runs again",
        "unknown",
        pipeline._run,
        "await _find_out(runtime, spec, row, flight.bound)",
        "row.state = ActionState.APPROVED",
    ),
    Mutant("settled meanwhile", "unknown", pipeline._find_out, "if row.state is not ActionState.UNKNOWN:", "if False:"),
    # attempts
    Mutant("repeated blindly", "attempts", attempts._may_retry, "harmless and ", ""),
    Mutant("never repeated", "attempts", attempts._may_retry, "return harmless", "return False and harmless"),
    Mutant(
        "lost, then not delivered",
        "attempts",
        attempts._attempt,
        "if not isinstance(error, run.spec.not_",
        "if isinstance(error, run.spec.not_",
    ),
    Mutant(
        "no permit for a retry",
        "attempts",
        attempts._wait_for_next,
        "            await _take_permit(run, run.spec.limit)\n",
        "            pass\n",
    ),
    Mutant("history not kept", "attempts", attempts.make_attempts, "_history(run, run.retry)", "()"),
    Mutant("no permit", "permits", attempts.take_what_it_needs, "if spec.limit is not None:", "if False:"),
    Mutant("row kept after a denial", "permits", Ledger.release, "if forget and not row.attempts:", "if False:"),
    Mutant("admitted in spite of the log", "permits", Line.take, "self.spare < cost", "False"),
    # dry run
    Mutant("dry run runs", "dry run", DryRunLock.judge, "if self._settings.dry_run", "if not call.keyed"),
    Mutant("planned twice", "dry run", pipeline._hold_back, "await runtime.ledger.look_up(call)", "None"),
    Mutant("ordinal not counted", "dry run", Planner.plan, ", 0) + 1", ", 0)"),
    # saga
    Mutant("undone in order", "saga", Saga._undo_all, "self._done.pop()", "self._done.pop(0)"),
    Mutant("inner saga forgotten", "saga", Saga.__aexit__, "self._outer._done.extend(self._done)", "pass"),
    Mutant(
        "undo stops at failure",
        "saga",
        Saga._undo,
        "            cause.add_note(",
        "            self._done.clear(); cause.add_note(",
    ),
    Mutant(
        "undone although well",
        "saga well",
        Saga.__aexit__,
        "if exc is None:",
        "if exc is None and self._outer is not None:",
    ),
    Mutant(
        "undo dies with block",
        "saga",
        Saga.__aexit__,
        "cancellation = await outlast(undoing)",
        "cancellation = await undoing",
    ),
    Mutant("saga not left", "saga well", Saga.__aexit__, "_current.reset(self._token)", "pass"),
    Mutant(
        "cancellation swallowed", "saga", Saga.__aexit__, "            raise cancellation", "            return True"
    ),
    Mutant("undone without result", "saga", pipeline._run, '"result": result', '"result": None'),
    # readiness
    Mutant("each caller its own run", "run", Checker._join_run, "self._runs.get(group)", "None"),
    Mutant("GO cached", "go", Checker._get_kept, "if self.services.clock.monotonic() < until", "if until"),
    Mutant("failure kept like a pass", "go", Checker._call, "else self._settings.fail_ttl_seconds", "else 100.0"),
    Mutant("run dies with one caller", "run", Checker._wait_for, "if not run.callers:", "if run.callers:"),
    Mutant("callers not counted", "run", Checker._wait_for, "            run.callers -= 1\n", "            pass\n"),
    Mutant("dependency ignored", "run", _Run.skip, "if result.blocks:", "if False:"),
    Mutant("asked before its turn", "run", Checker._ask, "if check.depends_on:", "if False:"),
    Mutant(
        "skipped forgiven",
        "run",
        CheckResult.forbids,
        "self.critical and self.blocks",
        "self.critical and self.status == 'fail'",
    ),
    Mutant("critical forgotten", "go", ReadinessReport.on, "any(check.forbids for", "all(check.forbids for"),
    Mutant("timeout ignored", "run", Checker._get_answer, "asyncio.timeout(seconds)", "asyncio.timeout(None)"),
    Mutant("permits ignored", "go", Checker._ask, "async with run.permits:", "if True:"),
    Mutant("no deadline", "deadline", Checker._execute, "timeout=settings.deadline_seconds", "timeout=None"),
    Mutant("waits for who clings", "deadline", Checker._execute, "timeout=settings.cleanup_seconds", "timeout=None"),
    Mutant("joins a dying run", "dying", Checker._join_run, "run.callers and ", ""),
    Mutant("stale run joined", "go", Checker._join_run, "not run.main.done() and ", ""),
    # logs
    Mutant("correlation id leaked", "logs", CallScope.__exit__, "_reset(_correlation_id, self._correlation)", "pass"),
    Mutant("block's id leaked", "logs", _Scope.__exit__, "_reset(self._variable, self._token)", "pass"),
    Mutant(
        "id of the event lost", "logs", Journal.publish, "correlation_id=get_correlation_id()", "correlation_id=None"
    ),
    Mutant("id made anew", "logs", StructuredLogger.log_request, "if correlation_id is None:", "if True:"),
    Mutant(
        "id not set",
        "logs",
        StructuredLogger.log_request,
        "            set_correlation_id(correlation_id)\n",
        "            pass\n",
    ),
    Mutant("events not told", "logs", StructuredLogger._log_event, ">= self._rank", "> self._rank + 2"),
    Mutant("rest of a line lost", "sink", JsonSink.flush, "self._rest[written:]", 'b""'),
    Mutant(
        "rest overtaken",
        "sink",
        JsonSink.flush,
        "self._rest = self._rest or self._take()",
        "self._rest = self._take() if self._queue else self._rest",
    ),
    Mutant("lost lines not counted", "sink", JsonSink._give_up, "self._lost += ", "self._lost += 0 * "),
    Mutant(
        "not flushed in time",
        "sink",
        StructuredLogger._flush_regularly,
        "                sink.flush()\n",
        "                pass\n",
    ),
    # database
    Mutant("no turns", "turns", Turns.take, "if self._holder is None:", "if True:"),
    Mutant("last come first served", "turns", Turns.give_back, "self._waiting.popleft()", "self._waiting.pop()"),
    Mutant("turn lost with its waiter", "turns", Turns.take, "            self.give_back(who)\n", "            pass\n"),
    Mutant(
        "cancelled waiter stays", "turns", Turns.take, "            if entry in self._waiting:", "            if False:"
    ),
    Mutant("turn of another given back", "turns", Turns.give_back, "if self._holder != who:", "if False:"),
    Mutant("impatient queue", "queue", Turns._wait, "if self._handed_over == seen:", "if True:"),
    Mutant("waits for itself", "turns", Turns.take, "task is not None and task is self._task", "False"),
    Mutant("waits after the end", "turns", Turns.close, "self._closed = True", "pass"),
    Mutant("seat takes no turn", "sessions", _SharedSeat.enter, "        await self._turns.take(self)\n", ""),
    Mutant(
        "rollback undoes nothing",
        "sessions",
        _SharedSeat.rollback,
        '            await self._seat_of.execute(f"ROLLBACK TO {self._savepoint}")\n',
        "",
    ),
    Mutant(
        "outer transaction kept",
        "sessions",
        OuterTransaction.close,
        "await self._shared.rollback()",
        "await self._shared.commit()",
    ),
    Mutant("turn kept after commit", "sessions", _SharedSeat.commit, "        self.leave()", "        pass"),
    Mutant("works on the source", "sessions", isolated.open_sqlite, 'case "none", path', 'case "clone", path'),
    # sandbox
    Mutant(
        "dependencies ignored", "start", start_order, "            place(needed, (*path, name))\n", "            pass\n"
    ),
    Mutant("stopped in order", "stop", stop_all, "reversed(tuple(components))", "tuple(components)"),
    Mutant(
        "stop ends at failure",
        "stop",
        stop_all,
        "            await stop_one(component)\n",
        "            await component.stop()\n",
    ),
    Mutant(
        "stop dies with caller",
        "stop",
        stop_all,
        "cancellation = await outlast(stopping)",
        "cancellation = await stopping",
    ),
    Mutant(
        "actions not drained", "stop", Sandbox._end_actions, "await self._runtime.drain(self._shutdown_seconds)", "pass"
    ),
    Mutant("new actions while stopping", "stop", Sandbox._end_actions, "unregister_host(self._runtime)", "pass"),
    Mutant("failed start leaves parts", "start", Sandbox.initialize, "                await stop_all(started)\n", ""),
    Mutant(
        "failed start stays registered",
        "start",
        Sandbox.initialize,
        "                unregister_host(self._runtime)\n",
        "",
    ),
    Mutant("two starts at once", "start", Sandbox.initialize, "async with self._turn:", "if True:"),
    Mutant("tasks not awaited", "start", Component._wind_down, "            if tasks:", "            if False:"),
    Mutant(
        "failed part not undone",
        "start",
        Component.start,
        "                    await self._wind_down()",
        "                    pass",
    ),
    Mutant("spawned task forgotten", "start", Component.spawn, "self._tasks.add(task)", "pass"),
    Mutant("stop gives up at the first cancellation", "stop", outlast, "while not task.done():", "if not task.done():"),
    Mutant("late calls not ended", "stop", Runtime.drain, "            task.cancel()\n", "            pass\n"),
)
