"""What the worker should do, worked out event by event, and a run of the real one beside it in virtual time.

Every job's times are whole seconds and a little more of its own, so no two events fall on the same moment.
"""

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st
from virtual_time import run_virtual

from asyncsandbox import Services
from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.journal import Journal
from asyncsandbox._core.ledger import Ledger
from asyncsandbox.components.worker import JobState, WorkerProcess, WorkerSettings

QUEUED, RUNNING, SUCCEEDED = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED
FAILED, CANCELLED, DEAD = JobState.FAILED, JobState.CANCELLED, JobState.DEAD
CONCURRENCY = 2
GRACE = 4.0
BASE, CAP, CHANCE = 2.0, 3.0, 0.5


PRIMES = [n for n in range(2, 400) if all(n % d for d in range(2, n))]


def a_little(which: int) -> float:
    """Return a fraction of a second that no sum of others equals."""
    return math.sqrt(PRIMES[which]) / 1000


class EvenClock(SystemClock):
    """Chance that is no chance."""

    def random(self) -> float:
        return CHANCE


@dataclass(frozen=True)
class Submit:
    """Submit a job: how long an attempt takes, how many attempts fail, and its options."""

    takes: int = 1
    fails: int = 0
    retries: int = 0
    timeout: int | None = None
    delay: int = 0
    priority: int = 0
    key: str | None = None


@dataclass(frozen=True)
class Cancel:
    """Cancel one of the jobs submitted so far."""

    which: int


@dataclass(frozen=True)
class Wait:
    """Let time pass."""

    seconds: int


@dataclass(frozen=True)
class Restart:
    """Stop the worker and start it again."""


Command = Submit | Cancel | Wait | Restart

submissions = st.builds(
    Submit,
    takes=st.integers(1, 4),
    fails=st.integers(0, 3),
    retries=st.integers(0, 2),
    timeout=st.none() | st.integers(1, 3),
    delay=st.sampled_from([0, 0, 0, 1, 5]),
    priority=st.sampled_from([0, 0, 0, 0, 1, -1]),
    key=st.sampled_from([None, None, None, None, "a", "b"]),
)
steps = st.one_of(
    submissions,
    submissions,
    submissions,
    st.builds(Cancel, st.integers(0, 20)),
    st.builds(Wait, st.integers(1, 4)),
    st.just(Restart()),
)
commands = st.lists(steps, max_size=16) | st.lists(steps, min_size=8, max_size=16)


@dataclass
class ModelJob:
    """A job as the model sees it."""

    what: Submit
    number: int
    due: float
    state: JobState = QUEUED
    attempt: int = 0
    ends: float = 0.0

    @property
    def takes(self) -> float:
        return self.what.takes + a_little(3 * self.number)

    @property
    def timeout(self) -> float | None:
        return None if self.what.timeout is None else self.what.timeout + 0.5 + a_little(3 * self.number + 1)

    @property
    def delay(self) -> float:
        return self.what.delay + a_little(3 * self.number + 2) if self.what.delay else 0.0


@dataclass
class Model:
    """What should be."""

    now: float = 0.0
    jobs: list[ModelJob] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)

    def of(self, state: JobState) -> list[ModelJob]:
        return [job for job in self.jobs if job.state is state]

    def submit(self, what: Submit) -> int:
        for job in self.jobs:
            if what.key is not None and job.what.key == what.key and not job.state.has_ended:
                return job.number
        job = ModelJob(what, len(self.jobs), self.now)
        job.due += job.delay
        self.jobs.append(job)
        self.fill()
        return job.number

    def ready(self) -> list[ModelJob]:
        due = [job for job in self.of(QUEUED) if job.due <= self.now]
        return sorted(due, key=lambda job: (-job.what.priority, job.number))

    def fill(self) -> None:
        while len(self.of(RUNNING)) < CONCURRENCY and (ready := self.ready()):
            job = ready[0]
            job.state = RUNNING
            job.attempt += 1
            job.ends = self.now + min(job.takes, job.timeout or job.takes)
            self.begun.append((job.number, job.attempt))

    def end(self, job: ModelJob) -> None:
        timed_out = job.timeout is not None and job.timeout < job.takes
        if not timed_out and job.attempt > job.what.fails:
            job.state = SUCCEEDED
        elif not job.what.retries:
            job.state = FAILED
        elif job.attempt > job.what.retries:
            job.state = DEAD
        else:
            job.state = QUEUED
            job.due = self.now + CHANCE * min(CAP, BASE * 2 ** (job.attempt - 1))

    def advance(self, until: float, *, is_stopping: bool = False) -> None:
        """Go from event to event; a worker that stops goes no further than to its last running job."""
        while True:
            if is_stopping and not self.of(RUNNING) and not self.ready():
                return
            running = self.of(RUNNING)
            waiting = [job for job in self.of(QUEUED) if job.due > self.now]
            event = min([job.ends for job in running] + [job.due for job in waiting], default=until)
            if event > until or (event == until and not running):
                break
            self.now = event
            for job in running:
                if job.ends <= event:
                    self.end(job)
            self.fill()
        self.now = until

    def cancel(self, number: int) -> bool:
        job = self.jobs[number]
        if job.state.has_ended:
            return False
        job.state = CANCELLED
        self.fill()
        return True

    def stop(self) -> None:
        self.advance(self.now + GRACE, is_stopping=True)
        for job in self.jobs:
            if not job.state.has_ended:
                job.state = CANCELLED


class Beside:
    """A worker that does what the model says it should, or else fails."""

    def __init__(self) -> None:
        clock = EvenClock()
        self.worker = WorkerProcess(
            settings=WorkerSettings(
                concurrency=CONCURRENCY, grace_seconds=GRACE, retry_base_seconds=BASE, retry_cap_seconds=CAP
            )
        )
        self.worker.bind(Services(clock=clock, journal=Journal(clock), ledger=Ledger(clock)))
        self.model = Model()
        self.ids: dict[int, str] = {}
        self.begun: list[tuple[int, int]] = []
        self.attempts: dict[int, int] = {}

    async def run(self, given: list[Command]) -> None:
        await self.worker.start()
        for command in given:
            await self.do(command)
            await self.compare(command)
        await self.worker.drain()
        self.model.advance(float("inf"))
        await self.compare("drain")
        await self.worker.stop()

    async def do(self, command: Command) -> None:
        match command:
            case Submit():
                await self.submit(command)
            case Cancel() if self.ids:
                number = command.which % len(self.ids)
                assert await self.worker.cancel(self.ids[number]) == self.model.cancel(number)
            case Wait():
                await asyncio.sleep(command.seconds)
                self.model.advance(self.model.now + command.seconds)
            case Restart():
                await self.worker.stop()
                self.model.stop()
                assert abs(self.model.now - asyncio.get_running_loop().time()) < 1e-6
                await self.compare(command)
                await self.worker.start()

    async def submit(self, what: Submit) -> None:
        job = ModelJob(what, len(self.model.jobs), 0.0)

        async def body(number: int) -> int:
            self.attempts[number] = attempt = self.attempts.get(number, 0) + 1
            self.begun.append((number, attempt))
            await asyncio.sleep(job.takes)
            if attempt <= what.fails:
                raise ValueError(f"attempt {attempt}")
            return number

        options = self.worker.with_options(
            timeout_seconds=job.timeout,
            delay_seconds=job.delay,
            priority=what.priority,
            unique_key=what.key,
            max_retries=what.retries,
        )
        job_id = await options.submit_job("job", body, job.number)
        number = self.model.submit(what)
        assert self.ids.setdefault(number, job_id) == job_id

    async def compare(self, after: object) -> None:
        for _ in range(6):  # what is ready now happens now
            await asyncio.sleep(0)
        seen = {number: await self.worker.get_job_status(job_id) for number, job_id in self.ids.items()}
        assert {n: (s.state, s.attempt) for n, s in seen.items()} == {
            job.number: (job.state, job.attempt) for job in self.model.jobs
        }, after
        assert self.begun == self.model.begun, "in order"
        counts = self.worker.get_status().jobs
        assert {state: getattr(counts, state.value) for state in JobState} == {
            state: len(self.model.of(state)) for state in JobState
        }
        assert self.model.now == float("inf") or abs(self.model.now - asyncio.get_running_loop().time()) < 1e-6


def play(given: list[Command]) -> None:
    """Run commands on a worker and on the model."""
    run_virtual(Beside().run(given))
