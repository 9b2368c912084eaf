"""Alerts under every single pause: the accounts add up, nobody waits for a subscriber, and nobody is told twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox._core.context import correlation, get_correlation_id
from asyncsandbox.components.alerts import Alert, AlertRule, AlertSettings, AlertSystem
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=100)
PUBLISHERS, EACH = 3, 3
TAKES = (0.0, 0.2, 50.0)
FAILURES = {"raises": OSError("broken"), "cancelled": asyncio.CancelledError()}
# Subscribers in each kind of trouble stand side by side; what changes the accounts of all of them is drawn.
TROUBLE = {"visitor": st.sampled_from(["none", "answers", "leaves"]), "most": st.sampled_from([100, 1, 2])}
STOPS = {"stops_after": st.sampled_from([0.0, 0.1, 0.25])}
plain = settings(database=None, deadline=None)


def add_up(system: AlertSystem) -> bool:
    subscribers = system.get_status().subscribers
    return all(each.delivered + each.dropped + each.queued == each.published for each in subscribers)


class Troubled:
    """Makes subscribers that do badly, and counts what becomes of their calls."""

    def __init__(self, system: AlertSystem) -> None:
        self.called: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.told_of_answers = 0
        self._system = system

    def subscribe(self, trouble: str) -> None:
        async def callback(alert: Alert) -> None:
            self.called[trouble] += 1
            if trouble in FAILURES:
                raise FAILURES[trouble]
            if trouble == "hangs":
                await asyncio.sleep(100)
            if trouble == "leaves":
                leave()
            if trouble == "answers":
                self.told_of_answers += alert.task_name == "answer"
                await self._system.alert("answer", f"{alert.number}")
            self.returned[trouble] += 1

        leave = self._system.subscribe("*", callback)


@settings(plain, max_examples=30)
@simulate(PAUSES, **TROUBLE)
async def test_one_subscriber_in_trouble_costs_another_nothing(sim: Simulation, visitor: str, most: int) -> None:
    system = AlertSystem(settings=AlertSettings(max_queued=most, timeout_seconds=2, drain_seconds=90, rules=()))
    heard: list[Alert] = []
    troubled = Troubled(system)
    longest = 0.0

    async def good(alert: Alert) -> None:
        assert get_correlation_id() == alert.correlation_id
        await asyncio.sleep(0)
        heard.append(alert)

    async def publish(who: int) -> None:
        nonlocal longest
        for number in range(EACH):
            began = asyncio.get_running_loop().time()
            with correlation(f"{who}"):
                await system.alert(f"p{who}", f"{number}", "critical" if (number + who) % 2 else "warning")
            longest = max(longest, asyncio.get_running_loop().time() - began)
            await asyncio.sleep(0.1)

    for trouble in (visitor, "hangs", *FAILURES):
        troubled.subscribe(trouble)
    system.subscribe("warning", good)
    sim.always(lambda: add_up(system), "delivered + dropped + queued = published")
    alerts = 18 if visitor == "answers" else 9
    async with system:
        await asyncio.gather(*(publish(who) for who in range(PUBLISHERS)))
        await asyncio.sleep(1)
        if most == 100:
            assert len(heard) >= 9, "soon, not only at the end"
            assert all(troubled.called[trouble] == alerts for trouble in FAILURES), "a failure costs one alert"
    assert longest == 0, "a publisher waits for nobody"
    numbers = [alert.number for alert in heard]
    assert numbers == sorted(set(numbers)), "in order, once"
    *others, status = system.get_status().subscribers
    assert (status.delivered, status.queued) == (len(heard), 0)
    assert [each.delivered for each in others[-3:]] == [0, 0, 0], "what failed was not delivered"
    assert [each.delivered for each in others[:-3]] == ([] if visitor == "leaves" else [troubled.returned[visitor]])
    if most == 100:
        assert Counter(alert.task_name for alert in heard if alert.task_name != "answer") == {"p0": 3, "p1": 3, "p2": 3}
        assert len(heard) == alerts
        assert troubled.told_of_answers == 0
        assert troubled.called["hangs"] == alerts, "a call that hangs is given up"
        assert troubled.called[visitor] == 9 or visitor == "leaves"


@settings(plain, max_examples=30)
@simulate(PAUSES, **STOPS)
async def test_what_is_published_around_a_stop_is_accounted_for(sim: Simulation, stops_after: float) -> None:
    system = AlertSystem(settings=AlertSettings(drain_seconds=0.1, rules=()))
    returned = Counter[float]()

    def listener(takes: float) -> Callable[[Alert], Awaitable[None]]:
        async def listen(alert: Alert) -> None:
            calls_after_stop.extend([alert] * stopped)
            try:
                await asyncio.sleep(takes)
            except asyncio.CancelledError:
                await asyncio.sleep(0.15)
                raise
            returned[takes] += 1

        return listen

    async def publish(who: int) -> None:
        for number in range(4):
            await system.alert(f"p{who}", f"{number}")
            await asyncio.sleep(0.1)

    stopped, calls_after_stop = False, list[Alert]()
    for takes in TAKES:
        system.subscribe("*", listener(takes))
    sim.always(lambda: add_up(system), "delivered + dropped + queued = published")
    await system.start()
    publishing = [asyncio.create_task(publish(who)) for who in range(2)]
    await asyncio.sleep(stops_after)
    before = system.get_status().subscribers[0].published
    await system.stop()
    stopped = True
    assert all(task.done() for task in system._tasks)
    await asyncio.gather(*publishing)
    for status, takes in zip(system.get_status().subscribers, TAKES, strict=True):
        assert (status.published, status.queued) == (8, 0)
        assert status.delivered == returned[takes]
    assert calls_after_stop == []
    assert len(system.get_alerts()) == 8, "what nobody is told is kept"
    assert system.get_status().subscribers[0].delivered >= before, "what was published before the stop is delivered"


@settings(plain, max_examples=40)
@simulate(PAUSES)
async def test_many_who_raise_one_alert_tell_it_once_and_its_end_once(sim: Simulation) -> None:
    rule = AlertRule(
        event="limit.denied", severity="warning", message="denied", by=("limit",), resolved_by="limit.free"
    )
    system = AlertSystem(settings=AlertSettings(repeat_seconds=60, rules=(rule,)))
    told: list[tuple[str, bool, int]] = []

    async def listen(alert: Alert) -> None:
        await asyncio.sleep(0)
        told.append((alert.severity, alert.resolved, alert.number))

    async def deny() -> None:
        for _ in range(3):
            system.services.journal.publish("limit.denied", component="test", limit="payment")
            await asyncio.sleep(0.1)

    system.subscribe("limit.denied", listen)
    async with system:
        await asyncio.gather(*(deny() for _ in range(4)))
        assert [alert.count for alert in system.get_alerts()] == [12]
        await asyncio.gather(*(system.resolve("limit.denied") for _ in range(2)))
        system.services.journal.publish("limit.free", component="test", limit="payment")
    assert told == [("warning", False, 1), ("warning", True, 2)]


@settings(plain, max_examples=40)
@simulate(PAUSES)
async def test_a_subscriber_may_come_and_go_at_any_time(sim: Simulation) -> None:
    system = AlertSystem(settings=AlertSettings(rules=()))
    heard: dict[int, list[int]] = {}
    left: set[int] = set()
    late: list[Alert] = []

    async def visit(who: int) -> None:
        heard[who] = []

        async def listen(alert: Alert) -> None:
            late.extend([alert] * (who in left))
            heard[who].append(alert.number)
            await asyncio.sleep(0.2)

        leave = system.subscribe("*", listen)
        first = system.get_status().raised
        await asyncio.sleep(0.15 * (who + 1))
        leave()
        left.add(who)
        assert heard[who] == [*range(first + 1, first + 1 + len(heard[who]))], "without a gap"

    async def publish() -> None:
        for number in range(6):
            await system.alert("p", f"{number}")
            await asyncio.sleep(0.1)

    sim.always(lambda: add_up(system), "delivered + dropped + queued = published")
    async with system:
        await asyncio.gather(publish(), *(visit(who) for who in range(3)))
        assert system.get_status().subscribers == ()
        await asyncio.sleep(1)
        assert late == [], "nothing more after the end of a subscription"
        assert all(not firing.told for firing in system._firings)
