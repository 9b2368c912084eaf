"""What holds for every test: Hypothesis' profiles, and that nothing is left running."""

import asyncio
import logging
import signal
import threading
from collections.abc import Generator

import postgres
import pytest
from hypothesis import settings

# No deadline: it would measure the machine. "ci" draws the same examples every time, "brief" fewer.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("brief", settings.get_profile("ci"), max_examples=30)
settings.load_profile("default")

THREAD_GRACE_SECONDS = 2.0

_threads_before = pytest.StashKey[set[threading.Thread]]()
_unfinished_tasks: list[str] = []


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep asyncio's reports of what nobody awaited from rendering a traceback inside the garbage collector.

    Python 3.11 parses source for it, and when the collector ran inside the parser, that ends in a SystemError in
    whichever test comes along. Broken variants leave such tasks behind on purpose.
    """
    if "never retrieved" in record.getMessage():
        record.exc_info = None
    return True


def pytest_configure() -> None:
    """Have asyncio's runners (pytest's and `asyncio.run`) note the unfinished tasks they cancel silently."""
    logging.getLogger("asyncio").addFilter(_without_traceback)
    # A shell has its background jobs ignore it, and so would the processes that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before its first test pytest-asyncio asks for the current loop, and asyncio would make one that nobody closes.
    asyncio.set_event_loop(None)
    cancel_all = asyncio.runners._cancel_all_tasks

    def note_and_cancel_all(loop: asyncio.AbstractEventLoop) -> None:
        _unfinished_tasks.extend(repr(task) for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    asyncio.runners._cancel_all_tasks = note_and_cancel_all


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_threads_before] = set(threading.enumerate())
    _unfinished_tasks.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """After every fixture is torn down, fail a test that leaves tasks or non-daemon threads behind."""
    yield
    new_threads = [t for t in threading.enumerate() if t not in item.stash[_threads_before] and not t.daemon]
    for thread in new_threads:
        thread.join(THREAD_GRACE_SECONDS)
    left = [*_unfinished_tasks, *(repr(thread) for thread in new_threads if thread.is_alive())]
    _unfinished_tasks.clear()
    if left:
        pytest.fail("left running: " + ", ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """Give the URL of a PostgreSQL database that lasts as long as the tests."""
    with postgres.server_url() as url:
        yield url
