"""The journal: every listener is told of every event, in order, whatever the others do."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.context import correlation
from asyncsandbox._core.journal import Event, Journal, Level

KINDS = ["good", "raises", "answers", "leaves"]


def tell_everybody_in_order(make: type[Journal], kinds: list[str], names: list[str]) -> None:
    journal = make(SystemClock(), max_events=10_000)
    heard: list[list[str]] = []
    leave: dict[int, object] = {}

    def make_listener(number: int, kind: str) -> object:
        def listen(event: Event) -> None:
            heard[number].append(event.name)
            if kind == "raises":
                raise ValueError(event.name)
            if kind == "answers" and not event.name.startswith("re:"):
                journal.publish(f"re:{event.name}", component="test")
            if kind == "leaves":
                leave[number]()

        return listen

    for number, kind in enumerate(kinds):
        heard.append([])
        leave[number] = journal.subscribe(make_listener(number, kind))
    for name in names:
        journal.publish(name, component="test")
    told = [event.name for event in journal.get_events()]
    assert len(told) == len(names) * (1 + kinds.count("answers"))
    for kind, seen in zip(kinds, heard, strict=True):
        assert seen == (told[:1] if kind == "leaves" else told)
    assert journal.listener_errors == kinds.count("raises") * len(told)


CASES = {
    "kinds": st.lists(st.sampled_from(KINDS), max_size=5),
    "names": st.lists(st.text("ab", max_size=2), max_size=4),
}


@given(**CASES)
def test_everybody_is_told_of_everything_in_order(kinds: list[str], names: list[str]) -> None:
    tell_everybody_in_order(Journal, kinds, names)


class TellsNestedEventsFirst(Journal):
    def publish(self, *args: object, **kwargs: object) -> Event:
        self._is_telling, before = False, self._is_telling
        try:
            return super().publish(*args, **kwargs)
        finally:
            self._is_telling = before


class FailsWithItsListeners(Journal):
    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners.values()):
            listener(event)


@pytest.mark.parametrize(
    ("broken", "kinds"),
    [
        (TellsNestedEventsFirst, ["answers", "good"]),
        (FailsWithItsListeners, ["raises", "good"]),
    ],
)
def test_a_journal_that_breaks_its_word_is_caught(broken: type[Journal], kinds: list[str]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        tell_everybody_in_order(broken, kinds, ["a"])


@given(st.integers(1, 5), st.integers(0, 12))
def test_it_keeps_the_newest_events_only(max_events: int, published: int) -> None:
    journal = Journal(SystemClock(), max_events=max_events)
    kept: deque[Event] = deque(maxlen=max_events)
    for number in range(published):
        kept.append(journal.publish(f"e{number % 2}", component="test", number=number))
    assert journal.get_events() == tuple(kept)
    assert journal.get_events("e1") == tuple(event for event in kept if event.name == "e1")


def test_an_event_is_frozen_and_carries_the_correlation_id() -> None:
    with correlation("req-1"):
        event = Journal(SystemClock()).publish("door.opened", component="house", side="north")
    assert (event.correlation_id, event.level, dict(event.fields)) == ("req-1", Level.INFO, {"side": "north"})
    with pytest.raises(AttributeError):
        event.name = "x"
    with pytest.raises(TypeError):
        event.fields["side"] = "south"


def test_leaving_twice_is_leaving_once() -> None:
    journal = Journal(SystemClock())
    heard: list[Event] = []
    leave, _ = journal.subscribe(heard.append), journal.subscribe(heard.append)
    leave()
    leave()
    journal.publish("a", component="test")
    assert len(heard) == 1


def test_levels_are_ordered() -> None:
    assert [level.rank for level in Level] == [0, 1, 2, 3, 4]
