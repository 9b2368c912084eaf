"""What a simulation says when it cannot go on.

    SimulationError(SandboxError)
    ├── DeadlockError         every task waits for another; nothing will ever happen again
    ├── LivelockError         the program is busy for ever without time passing
    ├── EscapedError          the program reached for the real world: network, processes, threads
    ├── NestedWorldError      a simulation inside a simulation
    ├── NondeterminismError   the same scenario ran differently the second time
    ├── CrashedError(ConnectionError)          the app lost power while the test waited for it
    ├── NothingToRestartError                  a power cut without an app
    ├── PromiseBrokenError(AssertionError)     what must always, or eventually, hold did not
    ├── UncoveredError(AssertionError)         something that may go wrong never did
    └── ReplayTokenError(ValueError)           a token of another test or Python, or no token at all
    PlanSnapshotError(SandboxError, AssertionError)   a plan is not the one that was snapshot

>>> str(DeadlockError(("main#1 waits at shop.py:12",)))
'nothing can happen any more: main#1 waits at shop.py:12; something must set, release or cancel what they wait for'
"""

from __future__ import annotations

from ..errors import SandboxError

__all__ = [
    "CrashedError",
    "DeadlockError",
    "EscapedError",
    "LivelockError",
    "NestedWorldError",
    "NondeterminismError",
    "NothingToRestartError",
    "PlanSnapshotError",
    "PromiseBrokenError",
    "ReplayTokenError",
    "SimulationError",
    "UncoveredError",
]


class SimulationError(SandboxError):
    """Something about a simulated run, raised on purpose."""


class DeadlockError(SimulationError):
    """No task can go on and no timer is set: on a real loop the program would hang.

    Attributes:
        waiting: One ``task waits at file:line`` for each unfinished task, oldest first.
    """

    def __init__(self, waiting: tuple[str, ...]) -> None:
        super().__init__(waiting)
        self.waiting = waiting

    def __str__(self) -> str:
        return (
            f"nothing can happen any more: {', '.join(self.waiting) or 'no task is left'}; "
            f"something must set, release or cancel what they wait for"
        )


class LivelockError(SimulationError):
    """The run took more steps than it may.

    Attributes:
        steps: How many it took.
        busy: One ``task at file:line`` for each unfinished task, oldest first.
    """

    def __init__(self, steps: int, busy: tuple[str, ...]) -> None:
        super().__init__(steps, busy)
        self.steps = steps
        self.busy = busy

    def __str__(self) -> str:
        return (
            f"still running after {self.steps} steps: {', '.join(self.busy)}; a loop that polls must sleep for "
            f"longer than 0 and come to an end, and a program that is really this long must be simulated in parts"
        )


class EscapedError(SimulationError):
    """The program reached for something real that a simulation does not have. It was refused, not done.

    Attributes:
        what: What was tried.
        remedy: What to do instead.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} is refused inside a simulation: {self.remedy}"


class NestedWorldError(SimulationError):
    """A simulated world was entered while another one is governing this process."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return (
            "a simulation is already running in this process: end it first; inside a simulated test, call what is to "
            "be tested and no other simulated test"
        )


class NestedTestExit(BaseException):
    """Carries a `NestedWorldError` past Hypothesis, which would try the inner test hundreds of times."""

    def __str__(self) -> str:
        return str(NestedWorldError())


class NondeterminismError(SimulationError):
    """The same scenario ran twice and went differently, so nothing found in it could be replayed.

    Attributes:
        difference: The first step at which the two runs differ.
    """

    def __init__(self, difference: str) -> None:
        super().__init__(difference)
        self.difference = difference

    def __str__(self) -> str:
        return (
            f"the same scenario ran differently the second time, first at {self.difference}: look there for what "
            f"a simulation does not govern (datetime.now, state kept between runs, `from time import time`)"
        )


class CrashedError(SimulationError, ConnectionError):
    """The app lost power while the test waited for it, or before: the test does not know what became of its call.

    Attributes:
        call: What the test had called.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return (
            f"the app lost power during {self.call}: catch CrashedError where the test can go on, and say by "
            f"sim.always() and sim.eventually() what must hold whatever happens"
        )


class NothingToRestartError(SimulationError):
    """A power cut or a restart was asked for and no app was started."""

    def __str__(self) -> str:
        return (
            "there is no app to cut the power of: start it in the test by `app = await sim.start(factory)`, or take "
            "crashes= out of scenarios()"
        )


class PromiseBrokenError(SimulationError, AssertionError):
    """Something that must always hold did not, or something that must happen eventually did not happen.

    Attributes:
        promise: What was promised.
        happened: What was seen instead.
    """

    def __init__(self, promise: str, happened: str) -> None:
        super().__init__(promise, happened)
        self.promise = promise
        self.happened = happened

    def __str__(self) -> str:
        return f"{self.promise}: {self.happened}; follow the timeline to see how it came to this"


class UncoveredError(SimulationError, AssertionError):
    """Something that may go wrong never did in the whole test, so nothing is known about it.

    Attributes:
        kinds: What never happened.
    """

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__(kinds)
        self.kinds = kinds

    def __str__(self) -> str:
        return (
            f"never happened in any run: {', '.join(self.kinds)}; have the test reach it, or take it out of scenarios()"
        )


class ReplayTokenError(SimulationError, ValueError):
    """A replay token cannot be used here.

    Attributes:
        token: The token.
        problem: Why not.
        remedy: What to do instead.
    """

    def __init__(self, token: str, problem: str, remedy: str) -> None:
        super().__init__(token, problem, remedy)
        self.token = token
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"replay token {self.token!r} {self.problem}: {self.remedy}"


class PlanSnapshotError(SandboxError, AssertionError):
    """A plan is not the one of its snapshot, or there is no usable one.

    Attributes:
        path: The file.
        problem: What is wrong.
        remedy: What to do.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}{'' if self.problem.endswith(chr(10)) else '; '}{self.remedy}"
