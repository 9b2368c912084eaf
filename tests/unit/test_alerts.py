"""The alert system: what it promises, and that each promise's test catches a system that breaks it."""

import asyncio
import dataclasses
import functools
import json
import pickle
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import make_runtime, must_catch
from simulation.mutants import Mutant
from virtual_time import run_virtual

from asyncsandbox._core.component import Services
from asyncsandbox._core.context import bound_host, correlation, get_correlation_id, register_host, unregister_host
from asyncsandbox._core.journal import Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox.components.alerts import (
    ALERT_RULES,
    Alert,
    AlertRule,
    AlertSettings,
    AlertSystem,
    AppriseSubscriber,
    Severity,
    SubscriberStatus,
    delivery,
)
from asyncsandbox.components.alerts.audience import Audience
from asyncsandbox.components.alerts.delivery import Subscriber
from asyncsandbox.components.alerts.history import Firing, Firings, History, Record
from asyncsandbox.components.alerts.plain import CUT, LONGEST_TEXT, MOST_VALUES, freeze, thaw, to_text
from asyncsandbox.errors import ConfigurationError

INFO, WARNING, ERROR, CRITICAL = Severity
REPEAT = 10.0
TIMEOUT = 4.0
NAMES = ("mail", "pay")
SMALL = AlertSettings(repeat_seconds=REPEAT, timeout_seconds=TIMEOUT, drain_seconds=1, max_queued=2)

Step = tuple[Any, ...]


# ------------------------------------------------------------------ drawn programs

BEHAVIOURS = ("good", "slow", "raise", "hang", "cancelled", "clings", "leaves")
EVENTS = st.sampled_from(["*", "warning", "critical", "mail", "pay"])
# Few of each, so that one alert is raised again, at another severity, when its time has come.
RAISE = st.tuples(
    st.just("raise"),
    st.sampled_from(["pay", "pay", "mail"]),
    st.sampled_from([INFO, WARNING, WARNING, CRITICAL]),
    st.sampled_from("aaab"),
)
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 10.0, 10.0]))
RESOLVE = st.tuples(st.just("resolve"), st.sampled_from(NAMES))
SILENCE = st.tuples(st.just("silence"), st.sampled_from(["*", "mail"]), st.sampled_from([0, 4, 12]))
LEAVE = st.tuples(st.just("leave"), st.integers(0, 3))
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 3))
STEPS = st.lists(RAISE | RAISE | WAIT | WAIT | RESOLVE | SILENCE | LEAVE | CANCEL, max_size=25)
CALM_STEPS = st.lists(RAISE | RAISE | WAIT | RESOLVE, max_size=25)
SUBSCRIBERS = st.lists(st.tuples(EVENTS, st.sampled_from(BEHAVIOURS)), min_size=1, max_size=4)


@dataclass
class Ear:
    """A subscriber with a behaviour, and what it was told when."""

    event: str
    behaviour: str
    told: list[tuple[float, Alert]] = field(default_factory=list)
    returned: int = 0
    leave: Callable[[], None] = lambda: None  # replaced once it has subscribed
    subscriber: Subscriber = None  # type: ignore[assignment]

    async def __call__(self, alert: Alert) -> None:
        self.told.append((asyncio.get_running_loop().time(), alert))
        await getattr(self, f"_{self.behaviour}")()
        self.returned += 1

    async def _good(self) -> None:
        pass

    async def _slow(self) -> None:
        await asyncio.sleep(1)

    async def _raise(self) -> None:
        raise OSError("broken")

    async def _hang(self) -> None:
        await asyncio.sleep(1e6)

    async def _cancelled(self) -> None:
        raise asyncio.CancelledError

    async def _clings(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1e6)
        await asyncio.sleep(0.5)
        raise OSError("late")

    async def _leaves(self) -> None:
        await asyncio.sleep(0.5)
        self.leave()


class World:
    """An alert system with drawn subscribers, and a program for it."""

    def __init__(self, subscribers: list[tuple[str, str]], settings: AlertSettings = SMALL) -> None:
        self.system = AlertSystem(settings=settings)
        self.ears = [Ear(*each) for each in subscribers]
        for ear in self.ears:
            ear.leave = self.system.subscribe(ear.event, ear)
            ear.subscriber = list(self.system._audience)[-1]

    async def run(self, steps: list[Step], after: Callable[[Step], object] = lambda step: None) -> None:
        for step in steps:
            await getattr(self, step[0])(*step[1:])
            after(step)

    async def settle(self) -> None:
        """Wait until everything is delivered."""
        await self.system._audience.drain(1e9)

    async def raise_(self, name: str, severity: Severity, fingerprint: str) -> None:
        await self.system.alert(name, f"{severity} of {name}", severity, fingerprint=fingerprint)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def resolve(self, name: str) -> None:
        await self.system.resolve(name)

    async def silence(self, name: str, seconds: float) -> None:
        self.system.silence(name, seconds=seconds)

    async def leave(self, number: int) -> None:
        if number < len(self.ears):
            self.ears[number].leave()

    async def cancel(self, number: int) -> None:
        if number < len(self.ears) and self.ears[number].subscriber.task is not None:
            self.ears[number].subscriber.task.cancel()


setattr(World, "raise", World.raise_)  # the step's name is a keyword


class Oracle:
    """Who is told of what, the slow way."""

    def __init__(self, subscribers: list[tuple[str, str]], repeat: float = REPEAT) -> None:
        self.events = [event for event, _ in subscribers]
        self.repeat = repeat
        self.gone: set[int] = set()
        self.firing: dict[tuple[str, str], dict[str, Any]] = {}
        self.silences: dict[str, float] = {}
        self.published: list[list[tuple[str, Severity, bool, int]]] = [[] for _ in subscribers]

    def hears(self, number: int, name: str, severity: Severity) -> bool:
        event = self.events[number]
        if number in self.gone:
            return False
        if event in list(Severity):
            return list(Severity).index(severity) >= list(Severity).index(Severity(event))
        return event in ("*", name)

    def apply(self, step: Step, now: float) -> None:
        getattr(self, f"_{step[0]}", lambda now, *_: None)(now, *step[1:])

    def _raise(self, now: float, name: str, severity: Severity, fingerprint: str) -> None:
        silenced = any(now < self.silences.get(each, -1) for each in ("*", name))
        rank = list(Severity).index(severity)
        state = self.firing.setdefault((name, fingerprint), {"told": set(), "count": 0, "last": None})
        state["count"] += 1
        last = state["last"]  # rank, time, heard
        due = last is None or rank > last[0] or now - last[1] >= self.repeat or (not last[2] and not silenced)
        if not due:
            return
        state["last"] = (rank, now, not silenced)
        state["severity"] = severity
        for number in range(len(self.events)):
            if not silenced and self.hears(number, name, severity):
                state["told"].add(number)
                self.published[number].append((fingerprint, severity, False, state["count"]))

    def _resolve(self, now: float, name: str) -> None:
        for key in [key for key in self.firing if key[0] == name]:
            state = self.firing.pop(key)
            for number in state["told"] - self.gone:
                self.published[number].append((key[1], state["severity"], True, state["count"]))

    def _silence(self, now: float, name: str, seconds: float) -> None:
        self.silences[name] = now + seconds

    def _leave(self, now: float, number: int) -> None:
        self.gone.add(number)


# ------------------------------------------------------------------ P1: delivered + dropped + queued = published


def keep_accounts(case: tuple[list[tuple[str, str]], list[Step], bool]) -> None:
    """P1, at every step, whatever subscribers do, under cancellation and stop."""
    subscribers, steps, started = case

    async def main() -> None:
        world, oracle = World(subscribers), Oracle(subscribers)
        if started:
            await world.system.start()

        def check(step: Step | None = None) -> None:
            if step is not None:
                oracle.apply(step, asyncio.get_running_loop().time())
            for number, ear in enumerate(world.ears):
                status = ear.subscriber.get_status()
                left = number in oracle.gone or ear.behaviour == "leaves"
                assert status.published == len(oracle.published[number]) or left
                assert status.delivered + status.dropped + status.queued == status.published
                assert status.delivered == ear.returned
                assert status.failed <= status.dropped
                assert sum(map(len, ear.subscriber.lanes)) <= SMALL.max_queued

        await world.run(steps, check)
        stopping = asyncio.create_task(world.system.stop())
        while not stopping.done():
            await asyncio.sleep(0.25)
            check()
        await stopping
        for ear in world.ears:
            assert ear.subscriber.queued == 0
            assert ear.subscriber.task is None or ear.subscriber.task.done()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


ACCOUNTS = st.tuples(SUBSCRIBERS, STEPS, st.booleans())


@given(ACCOUNTS)
def test_delivered_and_dropped_and_queued_are_what_was_published(case: Any) -> None:
    keep_accounts(case)


@pytest.mark.parametrize(
    "wrong",
    [
        Mutant("overflow not counted", "", Subscriber.give_one_up, "self._drop(FULL)", "pass"),
        Mutant("one too many", "", delivery.put, ".published > sub", ".published > 1 + sub"),
        Mutant("cancelled is delivered", "", Subscriber.run, '"the delivery was cancelled"', "None"),
        Mutant("failure is delivered", "", Subscriber._settle, "failure is None", "True"),
        Mutant("delivery not queued", "", Subscriber.run, "self._current = item", "pass"),
        Mutant("stop forgets", "", Audience.drop_all, "subscriber.drop_all(STOPPED)", "pass"),
    ],
    ids=lambda wrong: wrong.name,
)
def test_accounts_catch(wrong: Mutant) -> None:
    with wrong.applied():
        must_catch(keep_accounts, ACCOUNTS)


# ------------------------------------------------------------------ P2: isolation


def hear_the_same(case: tuple[list[tuple[str, str]], str, list[Step]]) -> None:
    """P2: what one gets, and when, is the same whether the others are there or not, and whatever they do.

    Nor does it miss anything because it failed at what it got before.
    """
    others, event, steps = case

    async def listen(subscribers: list[tuple[str, str]]) -> list[tuple[float, Alert]]:
        world = World(subscribers, dataclasses.replace(SMALL, max_queued=100))
        await world.run(steps)
        await asyncio.sleep(PATIENCE)
        await world.system.stop()
        assert asyncio.get_running_loop().time() <= sum(step[1] for step in steps if step[0] == "wait") + PATIENCE + 7
        return world.ears[-1].told

    def shorten(told: list[tuple[float, Alert]]) -> list[tuple[object, ...]]:
        return [(at, a.number, a.message, a.severity, a.resolved, a.count) for at, a in told]

    alone = shorten(run_virtual(listen([(event, "good")])))
    assert shorten(run_virtual(listen([*others, (event, "good")]))) == alone
    for behaviour in ("raise", "cancelled"):
        assert shorten(run_virtual(listen([(event, behaviour)]))) == alone
    for behaviour in ("slow", "hang"):
        told = shorten(run_virtual(listen([(event, behaviour)])))
        assert [each[1:] for each in told] == [each[1:] for each in alone]


PATIENCE = 25 * TIMEOUT + 1
ISOLATION = st.tuples(SUBSCRIBERS, EVENTS, CALM_STEPS)


@given(ISOLATION)
def test_what_one_subscriber_does_changes_nothing_for_another(case: Any) -> None:
    hear_the_same(case)


@pytest.mark.parametrize(
    "wrong",
    [
        Mutant("no timeout", "", Subscriber._deliver, "self._timeout_seconds)\n", "None)\n"),
        Mutant("an error ends it", "", Subscriber._deliver, "except Exception", "except KeyError"),
        Mutant("a cancellation ends it", "", Subscriber._deliver, "if task and", "if True or"),
        Mutant(
            "one at a time",
            "",
            Audience.start_tasks,
            "if subscriber.needs_task(loop):",
            "if subscriber.needs_task(loop) and not any(s.task and not s.task.done() for s in self._subscribers):",
        ),
    ],
    ids=lambda wrong: wrong.name,
)
def test_isolation_catches(wrong: Mutant) -> None:
    with wrong.applied():
        must_catch(hear_the_same, ISOLATION)


# ------------------------------------------------------------------ P3: who is told of what


def follow_the_model(case: tuple[list[tuple[str, str]], list[Step]]) -> None:
    """P3: repetitions, escalations, silences and resolutions are told to exactly those the model names."""
    subscribers, steps = case
    subscribers = [(event, "good") for event, _ in subscribers]

    async def main() -> None:
        world = World(subscribers, dataclasses.replace(SMALL, max_queued=1000))
        oracle = Oracle(subscribers)
        await asyncio.sleep(1)
        await world.run(steps, lambda step: oracle.apply(step, asyncio.get_running_loop().time()))
        await world.settle()
        for ear, expected in zip(world.ears, oracle.published, strict=True):
            told = [(a.fingerprint, a.severity, a.resolved, a.count) for _, a in ear.told]
            assert sorted(told) == sorted(expected)
            assert [a.number for _, a in ear.told] == sorted({a.number for _, a in ear.told}), "in order, once"
        status = world.system.get_status()
        assert status.raised == sum(step[0] == "raise" for step in steps)
        assert status.firing == len(oracle.firing)
        counts = {key: state["count"] for key, state in oracle.firing.items()}
        newest = {(a.task_name, a.fingerprint): a for a in world.system.get_alerts()}
        assert {key: newest[key].count for key in counts} == counts

    run_virtual(main())


STAYING = st.lists(RAISE | RAISE | WAIT | RESOLVE | SILENCE, min_size=8, max_size=25)
MODEL = st.tuples(SUBSCRIBERS, STAYING)


@given(MODEL)
def test_people_are_told_what_the_model_says(case: Any) -> None:
    follow_the_model(case)


@pytest.mark.parametrize(
    "wrong",
    [
        Mutant("no dedup", "", Firing.is_due, "return rank > self.rank or", "return True or"),
        Mutant("no escalation", "", Firing.is_due, "rank > self.rank or", ""),
        Mutant("no repetition", "", Firing.is_due, ">= repeat_seconds", "< 0"),
        Mutant("repeats late", "", Firing.is_due, ">= repeat_seconds", "> repeat_seconds"),
        Mutant("rank kept", "", Firings.mark, "firing.rank = rank", "firing.rank = max(rank, firing.rank)"),
        Mutant("time kept", "", Firings.mark, "firing.marked_at = now", "firing.marked_at = firing.marked_at or now"),
        Mutant("silence deaf", "", Firings.mark, "unheard = unheard", "unheard = False"),
        Mutant("silence tells", "", AlertSystem._raise, "if silenced:", "if False:"),
        Mutant("silence of others", "", AlertSystem._is_silenced, "(task_name, EVERYTHING)", "self._silences"),
        Mutant("resolve for the newest", "", Firing.add_told, "self.told + receivers", "receivers"),
        Mutant("resolve for all", "", AlertSystem._resolve, "publish_to(alert, firing.told)", "publish(alert)"),
        Mutant("resolve twice", "", AlertSystem._resolve, "self._firings.remove(firing)", "pass"),
        Mutant("resolve another", "", AlertSystem.resolve, "f.key[0] == task_name", "True"),
        Mutant("count lost", "", Record.repeat, "self.count += 1", "pass"),
        Mutant("severity below", "", Audience._sort, "by_rank[least:]", "by_rank[: least + 1]"),
        Mutant("order lost", "", Subscriber._take, "min(lanes, key=_number_of_first)", "lanes[-1]"),
    ],
    ids=lambda wrong: wrong.name,
)
def test_the_model_catches(wrong: Mutant) -> None:
    with wrong.applied():
        must_catch(follow_the_model, MODEL, examples=1000)


def escalate(case: tuple[list[tuple[Severity, float]], float]) -> None:
    """P4, without a model: every rise is told at once, and without one nothing is told twice within the interval."""
    raised, repeat = case

    async def main() -> None:
        world = World([("*", "good")], dataclasses.replace(SMALL, repeat_seconds=repeat, max_queued=1000))
        (ear,) = world.ears
        last: tuple[int, float] | None = None
        for severity, wait in raised:
            before = len(ear.told)
            await world.system.alert("pay", "declined", severity)
            await world.settle()
            now = asyncio.get_running_loop().time()
            told = len(ear.told) - before
            if last is None or severity.rank > last[0]:
                assert told == 1
            elif now - last[1] < repeat:
                assert told == 0
            if told:
                last = (severity.rank, now)
            await asyncio.sleep(wait)

    run_virtual(main())


RISES = st.tuples(
    st.lists(st.tuples(st.sampled_from(Severity), st.sampled_from([0, 1, 7])), max_size=12),
    st.sampled_from([0, 5, 300]),
)


@given(RISES)
def test_a_rise_in_severity_is_always_told(case: Any) -> None:
    escalate(case)


@pytest.mark.parametrize("old", ["rank > self.rank or", "rank > self.rank"], ids=["never", "any change"])
def test_escalation_catches(old: str) -> None:
    with Mutant("", "", Firing.is_due, old, "" if old.endswith("or") else "rank != self.rank").applied():
        must_catch(escalate, RISES)


# ------------------------------------------------------------------ P5: history and memory


def keep_the_gravest(raised: list[tuple[Severity, bool]]) -> None:
    """P5: the newest of each severity are kept, whatever came in of others; nothing grows without bound."""

    async def main() -> None:
        system = AlertSystem(settings=AlertSettings(max_history=3, max_firing=2))
        for number, (severity, _) in enumerate(raised):
            await system.alert(f"task {number}", "unique", severity)
        kept = [a.task_name for a in system.get_alerts()]
        expected: list[int] = []
        for severity in Severity:
            expected += [number for number, (each, _) in enumerate(raised) if each is severity][-3:]
        assert kept == [f"task {number}" for number in sorted(expected)]
        assert system.get_status().firing == sum(min(2, [s for s, _ in raised].count(each)) for each in Severity)
        for severity in Severity:
            newest = [f"task {number}" for number, (each, _) in enumerate(raised) if each is severity][-2:]
            assert [await system.resolve(name) for name in newest] == [1] * len(newest)

    run_virtual(main())


FLOOD = st.lists(st.tuples(st.sampled_from(Severity), st.booleans()), max_size=25)


@given(FLOOD)
def test_a_flood_of_one_severity_pushes_out_no_other(raised: Any) -> None:
    keep_the_gravest(raised)


@pytest.mark.parametrize(
    "wrong",
    [
        Mutant("one ring", "", History.add, "RANKS[alert.severity]", "0"),
        Mutant("no bound", "", Firings.mark, "> self._most", "> 1000"),
        Mutant("newest forgotten", "", Firings.mark, "next(iter(firings))", "firing.key"),
        Mutant("by severity", "", History.get_alerts, "records.sort(", "sorted((), "),
    ],
    ids=lambda wrong: wrong.name,
)
def test_floods_catch(wrong: Mutant) -> None:
    with wrong.applied():
        must_catch(keep_the_gravest, FLOOD)


# ------------------------------------------------------------------ P6: contents


class Hostile:
    """Raises whatever it is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__
    __bool__ = __len__ = __iter__ = __repr__  # type: ignore[assignment]


class Endless(dict[str, object]):
    def items(self) -> Any:
        number = 0
        while True:
            yield f"key {number}", number
            number += 1


class Broken(dict[str, object]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Named(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


CYCLE: dict[str, object] = {}
CYCLE["again"] = [CYCLE]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(), st.datetimes(),
    st.decimals(), st.uuids(), st.sampled_from(Severity), st.just(OSError("x")),
    st.builds(Hostile), st.builds(Endless), st.builds(Broken), st.builds(Named, st.text()), st.just(CYCLE),
    st.just("x" * 10_000), st.just(2**70), st.just(float("nan")), st.just("\ud800"), st.just([[[[[[[[[1]]]]]]]]]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.builds(Hostile), inner)
    | st.tuples(inner, inner) | st.sets(st.integers()),
    max_leaves=10,
)  # fmt: skip


def report_anything(case: tuple[object, object, object]) -> None:
    """P6: whatever is reported, alert() does not raise, and what comes out is frozen and fits into JSON."""
    name, message, context = case

    async def main() -> None:
        world = World([("*", "good")])
        await world.system.alert(name, message, context=context, fingerprint=message)  # type: ignore[arg-type]
        await world.settle()
        ((_, told),) = world.ears[0].told
        text = json.dumps(told.to_dict(), allow_nan=False)
        text.encode()
        assert len(text) <= MOST_VALUES * (2 * 6 * LONGEST_TEXT + 100)
        assert world.system.get_alerts(task_name=told.task_name) == (told,)
        check_frozen(told.context)

    run_virtual(main())


def check_frozen(value: object) -> None:
    if isinstance(value, Mapping):
        assert isinstance(value, MappingProxyType)
        for each in value.values():
            check_frozen(each)
    else:
        assert isinstance(value, (str, int, float, tuple, type(None)))
        for each in value if isinstance(value, tuple) else ():
            check_frozen(each)


ANYTHING = st.tuples(st.text() | LEAVES, st.text() | LEAVES, VALUES)


@given(ANYTHING)
def test_an_alert_may_report_anything(case: Any) -> None:
    report_anything(case)


@pytest.mark.parametrize(
    "wrong",
    [
        ("visit", "except Exception", "except OSError"),
        ("_copy_mapping", "return MappingProxyType(copied)", "return copied"),
        ("_copy_sequence", "return tuple(copied)", "return copied"),
        ("_copy", "return _copy_number(value, kind)", "return value"),
    ],
    ids=lambda wrong: wrong[0],
)
def test_contents_catch(wrong: tuple[str, str, str]) -> None:
    from asyncsandbox.components.alerts.plain import _Copy

    with Mutant("", "", getattr(_Copy, wrong[0]), *wrong[1:]).applied():
        must_catch(report_anything_or_fail, ANYTHING.map(Sealed))


class Sealed:
    """Keeps Hypothesis from asking a hostile value for its repr."""

    def __init__(self, case: tuple[object, object, object]) -> None:
        self.case = case


def report_anything_or_fail(sealed: Sealed) -> None:
    try:
        report_anything(sealed.case)
    except Exception as error:
        raise AssertionError from error


# ------------------------------------------------------------------ P7: what subscribers raise comes to an end


def come_to_an_end(case: tuple[int, bool]) -> None:
    """P7: n subscribers that answer each alert by a new one are told of n + n(n-1) alerts, then nothing more comes."""
    count, with_rule = case

    async def main() -> None:
        system = AlertSystem(
            settings=AlertSettings(rules=(AlertRule(event="oops", severity="error", message="oops", by=("number",)),))
        )
        heard = 0

        def make() -> Callable[[Alert], Any]:
            async def answer(alert: Alert) -> None:
                nonlocal heard
                heard += 1
                assert heard <= 1000
                if with_rule:
                    system.services.journal.publish("oops", component="test", number=heard)
                else:
                    await system.alert("answer", f"answer {heard}")
                    await system.resolve("answer", "answer 1")

            return answer

        for _ in range(count):
            system.subscribe("*", make())
        async with system:
            await system.alert("question", "question")
        resolved = 0 if with_rule or count < 2 else count - 1
        assert heard == count + count * (count - 1) + resolved

    run_virtual(main())


ANSWERS = st.tuples(st.integers(1, 5), st.booleans())


@given(ANSWERS)
def test_what_subscribers_raise_comes_to_an_end(case: Any) -> None:
    come_to_an_end(case)


@pytest.mark.parametrize(
    "wrong",
    [
        Mutant("no chain", "", Subscriber._deliver, "(*chain, self)", "()"),
        Mutant("long chains", "", delivery.reachable, "_LONGEST_CHAIN", "3"),
        Mutant("to itself", "", delivery.reachable, " if receiver not in chain", ""),
    ],
    ids=lambda wrong: wrong.name,
)
def test_ends_catch(wrong: Mutant) -> None:
    with wrong.applied():
        must_catch(come_to_an_end, ANSWERS)


# ------------------------------------------------------------------ what publishing costs


def test_publishing_takes_no_step_of_the_loop() -> None:
    async def main() -> None:
        world = World([("*", "hang")] * 10)
        for number in range(5):
            raising = world.system.alert("pay", f"declined {number}")
            with pytest.raises(StopIteration):
                raising.send(None)
            with pytest.raises(StopIteration):
                world.system.resolve("pay").send(None)
        assert all(ear.told == [] for ear in world.ears)
        await world.system.stop()

    run_virtual(main())


def test_without_work_there_is_no_task() -> None:
    async def main() -> None:
        world = World([("*", "good")] * 3)
        async with world.system:
            await world.system.alert("pay", "declined")
            await world.settle()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


# ------------------------------------------------------------------ subscribing


async def test_an_event_is_a_severity_a_task_or_everything() -> None:
    world = World(
        [("warning", "good"), (CRITICAL, "good"), ("mail", "good"), ("*", "good"), ("other", "good")], AlertSettings()
    )
    async with world.system as system:
        await system.alert("mail", "low", "info")
        await system.alert("mail", "high", CRITICAL)
        await system.alert("pay", "some")
    told = [[alert.message for _, alert in ear.told] for ear in world.ears]
    assert told == [["high", "some"], ["high"], ["low", "high"], ["low", "high", "some"], []]


async def test_the_end_of_a_subscription_drops_what_waits_and_may_come_twice() -> None:
    world = World([("*", "good")])
    (ear,) = world.ears
    async with world.system as system:
        await system.alert("pay", "declined")
        ear.leave()
        ear.leave()
        await system.alert("pay", "declined", "error")
        assert await system.resolve("pay") == 1
        assert system.get_status().subscribers == ()
    assert ear.told == []
    assert (ear.subscriber.dropped, ear.subscriber.last_drop) == (1, "it was unsubscribed")
    assert system.services.journal.get_events() == (), "it was asked for"


async def test_a_plain_function_runs_in_a_thread_with_the_correlation_id_of_the_alert() -> None:
    seen: list[object] = []
    async with AlertSystem() as system:
        system.subscribe("*", lambda alert: seen.extend([threading.current_thread(), get_correlation_id(), alert]))
        with correlation("req-1"):
            await system.alert("pay", "declined")
    thread, correlation_id, alert = seen
    assert thread is not threading.main_thread()
    assert correlation_id == "req-1"
    assert isinstance(alert, Alert)
    assert alert.correlation_id == "req-1"


async def test_a_plain_function_may_return_something_to_await() -> None:
    ear = Ear("*", "good")
    async with AlertSystem() as system:
        system.subscribe("*", functools.partial(lambda heard, alert: heard(alert), ear))
        await system.alert("pay", "declined")
    assert ear.returned == 1


async def test_a_thread_that_hangs_is_given_up_and_not_called_again_before_it_returns() -> None:
    release, calls = threading.Event(), []

    def hang(alert: Alert) -> None:
        calls.append(alert.number)
        release.wait(5)

    system = AlertSystem(settings=AlertSettings(timeout_seconds=0.02))
    system.subscribe("*", hang)
    async with system:
        for number in range(2):
            await system.alert("pay", f"declined {number}")
        await system._audience.drain(60)
        (status,) = system.get_status().subscribers
        assert (status.failed, status.dropped, calls) == (2, 2, [1])
        assert status.last_drop == "TimeoutError: an earlier call has not returned yet"
        release.set()
        while system.get_status().subscribers[0].delivered == 0:
            await system.alert("pay", f"declined {system.get_status().raised}")
            await system._audience.drain(60)
    assert len(calls) == 2


async def test_a_thread_given_up_before_it_began_never_calls() -> None:
    called: list[Alert] = []
    call = delivery._InThread(called.append)
    for steps in range(6):
        delivering = asyncio.ensure_future(call(None))  # type: ignore[arg-type]
        for _ in range(steps):
            await asyncio.sleep(0)
        delivering.cancel()
        await asyncio.wait([delivering])
        if delivering.cancelled() and call._hung is None:
            assert called == []
    await call(None)  # type: ignore[arg-type]
    assert called


async def test_a_ticket_taken_back_in_time_keeps_the_function_from_being_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import anyio.to_thread

    late: list[Callable[[], object]] = []

    async def run_late(call: Callable[[], object], **options: object) -> None:
        late.append(call)
        await asyncio.sleep(3600)

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_late)
    called: list[Alert] = []
    call = delivery._InThread(called.append)
    delivering = asyncio.ensure_future(call(None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    delivering.cancel()
    await asyncio.wait([delivering])
    assert late[0]() is None
    assert called == []
    assert call._hung is None


class Sandboxed:
    """An alert system in a hand-made sandbox."""

    def __init__(self, *, dry_run: bool, settings: AlertSettings | None = None) -> None:
        self.host = make_runtime(dry_run=dry_run)
        self.system = AlertSystem(settings=settings)
        self.system.bind(
            Services(clock=self.host.clock, journal=self.host.journal, ledger=Ledger(self.host.clock), host=self.host)
        )


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_delivery_belongs_to_the_sandbox_of_the_system(dry_run: bool) -> None:
    from asyncsandbox._core.context import current_host

    here, other = Sandboxed(dry_run=dry_run), make_runtime(dry_run=dry_run)
    hosts: list[object] = []

    async def note(alert: Alert) -> None:
        hosts.extend([current_host("test"), alert.dry_run])

    register_host(here.host)
    register_host(other)
    try:
        here.system.subscribe("*", note)
        async with here.system:
            with bound_host(other):
                await here.system.alert("pay", "declined")
    finally:
        unregister_host(here.host)
        unregister_host(other)
    assert hosts == [here.host, dry_run]


def test_an_alert_raised_in_one_loop_may_be_delivered_in_the_next() -> None:
    world = World([("*", "slow"), ("*", "good")])
    (slow, good) = world.ears
    coroutine = world.system.alert("pay", "without a loop")
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert slow.subscriber.queued == 1

    async def first() -> None:
        await world.system.alert("pay", "in the first loop")
        await asyncio.sleep(0.1)

    async def second() -> None:
        await world.system.alert("pay", "in the second loop")
        await world.settle()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    abandoned = slow.subscriber.task
    run_virtual(second())
    assert [a.message for _, a in good.told] == ["without a loop", "in the first loop", "in the second loop"]
    assert [a.message for _, a in slow.told] == ["without a loop", "in the first loop", "in the second loop"]
    status = slow.subscriber.get_status()
    assert (status.delivered, status.dropped, status.last_drop) == (2, 1, "its event loop is gone")
    abandoned.cancel()
    loop.run_until_complete(asyncio.wait([abandoned]))
    loop.close()
    assert slow.subscriber.get_status() == status


# ------------------------------------------------------------------ failures and drops


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("gone"), "OSError: gone"),
        (TimeoutError("mine"), "TimeoutError: mine"),
        (asyncio.CancelledError("x"), "CancelledError: x"),
        (UnprintableError(), "<UnprintableError that cannot be shown: RuntimeError>"),
    ],
)
async def test_a_failure_is_counted_and_named(error: BaseException, why: str) -> None:
    async def fail(alert: Alert) -> None:
        raise error

    async with AlertSystem() as system:
        system.subscribe("pay", fail)
        await system.alert("pay", "declined")
        await system._audience.drain(60)
        (status,) = system.get_status().subscribers
        (event,) = system.services.journal.get_events("alerts.undelivered")
    assert status == SubscriberStatus(
        event="pay",
        callback="test_a_failure_is_counted_and_named.<locals>.fail",
        published=1,
        delivered=0,
        dropped=1,
        failed=1,
        queued=0,
        last_drop=why,
    )
    assert (event.level, event.component) == (Level.WARNING, "alerts")
    assert event.fields == {"subscriber": status.callback, "subscribed_to": "pay", "why": why, "dropped": 1}


def test_the_journal_hears_of_drops_now_and_then_only() -> None:
    async def main() -> list[object]:
        world = World([("*", "raise"), ("*", "raise")], AlertSettings(repeat_seconds=0))
        async with world.system as system:
            for _ in range(100):
                await system.alert("pay", "declined")
                await asyncio.sleep(1)
            return [event.fields["dropped"] for event in system.services.journal.get_events()]

    dropped = run_virtual(main())
    assert len(dropped) == 4
    assert dropped[:2] == [1, 1]
    assert all(60 <= each <= 62 for each in dropped[2:])  # type: ignore[operator]


async def test_a_full_queue_gives_up_what_is_least_severe_and_the_oldest_of_that() -> None:
    world = World([("*", "good")], AlertSettings(max_queued=3))
    for severity in ("critical", "info", "warning", "info", "error", "critical"):
        await world.system.alert("pay", f"{severity} {world.system.get_status().raised}", severity)
    await world.settle()
    assert [alert.message for _, alert in world.ears[0].told] == ["critical 0", "error 4", "critical 5"]
    assert world.ears[0].subscriber.last_drop == "the queue was full"


def test_a_delivery_that_takes_too_long_is_given_up() -> None:
    async def main() -> None:
        world = World([("*", "hang"), ("*", "clings")])
        await world.system.alert("pay", "first")
        await world.system.alert("pay", "second")
        await world.settle()
        (hang, clings) = world.ears
        assert [at for at, _ in hang.told] == [0, TIMEOUT]
        assert [at for at, _ in clings.told] == [0, TIMEOUT + 0.5]
        assert {ear.subscriber.last_drop for ear in world.ears} == {"it took longer than 4 s"}

    run_virtual(main())


def test_stop_delivers_for_a_time_and_drops_the_rest() -> None:
    async def main() -> None:
        world = World([("*", "good"), ("*", "hang")], dataclasses.replace(SMALL, drain_seconds=2))
        async with world.system as system:
            await system.alert("pay", "first")
            await system.alert("pay", "second")
        assert asyncio.get_running_loop().time() == 2
        (good, hang) = (ear.subscriber.get_status() for ear in world.ears)
        assert (good.delivered, good.dropped) == (2, 0)
        assert (hang.delivered, hang.dropped, hang.failed) == (0, 2, 1)
        await system.alert("pay", "after the end")
        await asyncio.sleep(1)
        assert system.get_alerts()[-1].message == "after the end"
        (good, hang) = system.get_status().subscribers
        assert (good.delivered, good.dropped, good.queued) == (2, 1, 0)
        async with system:
            await system.alert("pay", "again")
        assert world.ears[0].told[-1][1].message == "again"

    run_virtual(main())


def test_a_cancelled_stop_ends_the_deliveries() -> None:
    async def main() -> None:
        world = World([("*", "hang")])
        await world.system.start()
        await world.system.alert("pay", "first")
        stopping = asyncio.create_task(world.system.stop())
        await asyncio.sleep(0.5)
        stopping.cancel()
        await asyncio.wait([stopping])
        assert stopping.cancelled()
        assert world.ears[0].subscriber.task.done()  # type: ignore[union-attr]
        assert world.ears[0].subscriber.dropped == 1

    run_virtual(main())


async def test_a_system_that_did_nothing_and_was_stopped_delivers_nothing() -> None:
    world = World([("*", "good")])
    await world.system.stop()
    await world.system.alert("pay", "declined")
    assert (world.ears[0].subscriber.dropped, len(world.system.get_alerts())) == (1, 1)


# ------------------------------------------------------------------ what an alert says


async def test_an_alert_fits_into_json_and_says_how_often_since_when() -> None:
    system = AlertSystem()
    with correlation("req-9"):
        await system.alert(
            "pay", "order 1", "error", context={"amount": Decimal("1.5"), "to": ("a", 2)}, fingerprint="f"
        )
    await system.alert("pay", "order 2", "info", fingerprint="f")
    (alert,) = system.get_alerts()
    assert alert.first_at <= alert.at <= datetime.now(UTC)
    assert json.loads(json.dumps(alert.to_dict())) == {
        "number": 1,
        "task_name": "pay",
        "message": "order 1",
        "severity": "error",
        "fingerprint": "f",
        "at": alert.at.isoformat(),
        "first_at": alert.first_at.isoformat(),
        "count": 2,
        "resolved": False,
        "dry_run": False,
        "correlation_id": "req-9",
        "context": {"amount": "1.5", "to": ["a", 2]},
    }
    with pytest.raises(AttributeError):
        alert.count = 3  # type: ignore[misc]
    assert await system.resolve("pay", "f") == 1
    assert await system.resolve("pay", "f") == 0
    over = system.get_alerts()[-1]
    assert (over.number, over.resolved, over.count, over.message) == (2, True, 2, "order 1")
    assert over.correlation_id is None


async def test_one_fingerprint_of_a_task_is_resolved_alone() -> None:
    system = AlertSystem()
    for message in ("declined", "late"):
        await system.alert("pay", message)
    await system.alert("mail", "late")
    assert await system.resolve("pay", "late") == 1
    assert await system.resolve("pay") == 1
    assert system.get_status().firing == 1


async def test_get_alerts_selects_and_limits() -> None:
    system = AlertSystem()
    for name, severity in (("a", "info"), ("b", "error"), ("a", "critical"), ("b", "warning")):
        await system.alert(name, severity, severity)

    def get(**selection: Any) -> list[str]:
        return [alert.message for alert in system.get_alerts(**selection)]

    assert get() == ["info", "error", "critical", "warning"]
    assert get(severity="warning") == ["error", "critical", "warning"]
    assert get(severity=ERROR, task_name="b") == ["error"]
    assert get(limit=2) == ["critical", "warning"]
    assert get(task_name="a", limit=1) == ["critical"]
    assert get(limit=0) == []
    assert get(limit=99) == get()


async def test_silences_end_early_and_are_forgotten() -> None:
    system = AlertSystem()
    system.silence("pay", seconds=60)
    system.silence("mail", seconds=0)
    assert list(system._silences) == ["pay"]
    system.silence("pay", seconds=0)
    assert system._silences == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("caf\u00e9", "caf\u00e9"),
        ("\ud800", "\\ud800"),
        ("x" * (LONGEST_TEXT + 1), "x" * LONGEST_TEXT + CUT),
        (Severity.INFO, "info"),
        (7, "7"),
        (timedelta(seconds=1), "0:00:01"),
        (OSError("gone"), "OSError: gone"),
        (Hostile(), "<Hostile that cannot be shown: RuntimeError>"),
        (Named("x"), "x"),
    ],
)
def test_text(value: object, text: str) -> None:
    assert to_text(value) == text
    assert type(to_text(value)) is str


@pytest.mark.parametrize(
    ("value", "copy"),
    [
        (None, {}),
        ({}, {}),
        ([1, {2}], {"value": [1, [2]]}),
        ({1: 1, "1": 2}, {"1": 1, "1_": 2}),
        ({"big": 2**63, "nan": float("nan"), "yes": True}, {"big": hex(2**63), "nan": "nan", "yes": True}),
        ({"level": Level.INFO, "kind": st.just}, {"level": "info", "kind": to_text(st.just)}),
        ({"deep": {"a": {"a": {"a": {"a": {"a": {}}}}}}}, {"deep": {"a": {"a": {"a": {"a": {"a": CUT}}}}}}),
        ({"broken": Broken()}, {"broken": "<Broken that cannot be shown: RuntimeError>"}),
    ],
)
def test_copies(value: object, copy: object) -> None:
    assert thaw(freeze(value)) == copy


def test_copies_are_bounded() -> None:
    assert len(thaw(freeze(Endless()))) == MOST_VALUES + 1
    assert len(thaw(freeze(range(10_000)))["value"]) < 100, "shown by its repr"
    assert thaw(freeze([*range(10_000)]))["value"][-1] == CUT
    deep = thaw(freeze({"cycle": CYCLE, "lists": [[[[[[[]]]]]]]}))
    assert json.dumps(deep).count(CUT) == 2


# ------------------------------------------------------------------ rules


EVENTS_AND_ALERTS = [
    ("action.unknown", {"action": "card.charge", "key": "k"}, CRITICAL, "(action: card.charge)"),
    ("governor.denied", {"resource": "payment"}, WARNING, "(resource: payment)"),
    ("heartbeat.dead", {"beat": "cron"}, CRITICAL, "(beat: cron)"),
    ("heartbeat.stall", {"seconds": 3}, WARNING, "blocked"),
    ("idempotency.conflict", {"function": "charge"}, ERROR, "(function: charge)"),
    ("job.dead", {"job": "import"}, ERROR, "(job: import)"),
    ("readiness.verdict_changed", {"group": "readiness", "to": "NO-GO"}, CRITICAL, "(group: readiness)"),
    ("retry.exhausted", {"call": "api"}, ERROR, "(call: api)"),
]


@pytest.mark.parametrize(("event", "fields", "severity", "ending"), EVENTS_AND_ALERTS, ids=lambda each: str(each)[:20])
async def test_built_in_rules(event: str, fields: dict[str, object], severity: Severity, ending: str) -> None:
    async with AlertSystem() as system:
        with correlation("req-2"):
            for _ in range(3):
                system.services.journal.publish(event, component="test", **fields)
    (alert,) = system.get_alerts()
    assert (alert.task_name, alert.severity, alert.count) == (event, severity, 3)
    assert alert.message.endswith(ending)
    assert alert.context == fields
    assert alert.correlation_id == "req-2"
    system.services.journal.publish(event, component="test", **fields)
    assert system.get_status().raised == 3, "rules listen while it runs"


def test_every_built_in_rule_is_tested() -> None:
    assert [event for event, *_ in EVENTS_AND_ALERTS] == [rule.event for rule in ALERT_RULES]
    assert pickle.loads(pickle.dumps(AlertSettings())) == AlertSettings()


async def test_events_resolve_what_they_raised() -> None:
    world = World([("*", "good")], AlertSettings())
    async with world.system as system:
        publish = system.services.journal.publish
        publish("readiness.verdict_changed", component="test", group="readiness", to="DEGRADED")
        publish("readiness.verdict_changed", component="test", group="readiness", to="NO-GO")
        publish("readiness.verdict_changed", component="test", group="startup", to="GO")
        publish("heartbeat.dead", component="test", beat="cron")
        publish("heartbeat.recovered", component="test", beat="other")
        publish("readiness.verdict_changed", component="test", group="readiness", to="GO")
        publish("heartbeat.recovered", component="test", beat="cron")
    told = [(alert.task_name, alert.resolved) for _, alert in world.ears[0].told]
    assert told == [
        ("readiness.verdict_changed", False),
        ("heartbeat.dead", False),
        ("readiness.verdict_changed", True),
        ("heartbeat.dead", True),
    ]


async def test_rules_may_be_added_and_left_out() -> None:
    rule = AlertRule(event="door.opened", severity="info", message="a door is open")
    mine = (*(each for each in ALERT_RULES if each.event != "job.dead"), rule)
    async with AlertSystem(settings=AlertSettings(rules=mine)) as system:
        for event in ("door.opened", "job.dead"):
            system.services.journal.publish(event, component="test")
    assert [alert.message for alert in system.get_alerts()] == ["a door is open"]


# ------------------------------------------------------------------ bad input


async def test_mistakes_are_refused_at_once() -> None:
    system = AlertSystem()
    for severity in ("loud", 3, None, [], Level.DEBUG):
        with pytest.raises(ConfigurationError, match=r"^severity=.*give one of info, warning, error, critical"):
            await system.alert("pay", "declined", severity)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="callback"):
        system.subscribe("*", "not callable")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="event"):
        system.subscribe("", print)
    with pytest.raises(ConfigurationError, match="task_name"):
        system.silence(" ", seconds=1)
    with pytest.raises(ConfigurationError, match="seconds"):
        system.silence("*", seconds=-1)
    with pytest.raises(ConfigurationError, match="severity"):
        system.get_alerts("loud")
    with pytest.raises(ConfigurationError, match="limit"):
        system.get_alerts(limit=-1)
    assert system.get_alerts() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"repeat_seconds": -1},
        {"timeout_seconds": 0},
        {"drain_seconds": float("nan")},
        {"max_queued": 0},
        {"max_history": 1.5},
        {"max_firing": True},
        {"rules": [*ALERT_RULES[:1]]},
        {"rules": ("job.dead",)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"^AlertSettings.{name}="):
        AlertSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": ""},
        {"message": " "},
        {"severity": "debug"},
        {"by": "limit"},
        {"by": ("",)},
        {"when": ("to",)},
        {"when": "to"},
        {"resolved_by": "door.opened"},
        {"resolved_by": 3},
        {"event": "alerts.undelivered"},
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    right = {"event": "door.opened", "severity": "info", "message": "a door is open"}
    with pytest.raises(ConfigurationError, match=f"^AlertRule.{name}="):
        AlertRule(**(right | wrong))


# ------------------------------------------------------------------ apprise


class Sender:
    """Stands in for `apprise.Apprise`."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []

    def add(self, url: object) -> bool:
        return isinstance(url, str) and "://" in url

    def notify(self, **message: str) -> bool:
        self.sent.append(message)
        return "refused" not in message["body"]


@pytest.fixture
def apprise(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("apprise")
    module.Apprise = Sender  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apprise", module)
    return module


async def test_apprise_sends_what_an_alert_says(apprise: ModuleType) -> None:
    subscriber = AppriseSubscriber("json://localhost", "mailto://me:secret@example.org")
    system = AlertSystem(settings=AlertSettings(repeat_seconds=0))
    system.subscribe("*", subscriber)
    async with system:
        with correlation("req-3"):
            await system.alert("pay", "declined", "error", context={"amount": 3})
        await system.alert("pay", "declined", "warning")
        await system.resolve("pay")
    sent = subscriber._sender.sent
    assert [(each["title"], each["notify_type"]) for each in sent] == [
        ("[error] pay", "failure"),
        ("[warning] pay", "warning"),
        ("[resolved] pay", "success"),
    ]
    assert sent[0]["body"] == "declined\namount: 3\ncorrelation id: req-3"
    assert sent[1]["body"].startswith("declined\nraised 2 times since 20")
    assert repr(subscriber) == "<AppriseSubscriber of 2 addresses>"


async def test_what_apprise_cannot_deliver_is_counted(apprise: ModuleType) -> None:
    async with AlertSystem() as system:
        system.subscribe("*", AppriseSubscriber("json://localhost"))
        await system.alert("pay", "refused")
        await system._audience.drain(60)
        (status,) = system.get_status().subscribers
    assert (status.callback, status.failed) == ("AppriseSubscriber", 1)
    assert status.last_drop.startswith("ConnectionError: apprise could not deliver")


async def test_apprise_sends_nothing_in_a_dry_run(apprise: ModuleType) -> None:
    here, subscriber = Sandboxed(dry_run=True), AppriseSubscriber("json://localhost")
    here.system.subscribe("*", subscriber)
    async with here.system:
        await here.system.alert("pay", "declined")
    assert (subscriber.suppressed, subscriber._sender.sent) == (1, [])


def test_apprise_refuses_addresses_without_showing_them(apprise: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        AppriseSubscriber()
    with pytest.raises(ConfigurationError, match="address 2") as caught:
        AppriseSubscriber("json://localhost", "secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="address 1"):
        AppriseSubscriber(3)  # type: ignore[arg-type]


def test_without_apprise_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'asyncsandbox\[alerts\]'"):
        AppriseSubscriber("json://localhost")
