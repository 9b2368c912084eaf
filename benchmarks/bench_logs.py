"""One log line of five fields and a correlation id, and one that the level holds back, beside structlog with orjson."""

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from asyncsandbox.components.logs import JsonSink, LogSettings, StructuredLogger

CALLS = 3000
ROUNDS = 9
ID = "0af7651916cd43dd8448eb211c80319c"
FIELDS = {"job": "send_invoice", "attempt": 3, "ok": True, "ms": 12.75, "tenant": "acme-42"}

Call = Callable[[], object]


@contextlib.contextmanager
def loggers(target: str) -> Iterator[dict[str, Call]]:
    """Give one call per contender, all writing to ``target``."""
    import orjson
    import structlog

    with ExitStack() as stack:
        ours = {}
        for name, buffered in (("ours", False), ("ours, buffered", True)):
            sink = JsonSink(target, buffered=buffered)
            sink.hold(on=True)
            stack.callback(sink.close)
            ours[name] = StructuredLogger(settings=LogSettings(sinks=(sink,)))
            ours[name].set_correlation_id(ID)
        structlog.contextvars.bind_contextvars(correlation_id=ID)
        theirs = structlog.wrap_logger(
            structlog.BytesLogger(stack.enter_context(Path(target).open("ab"))),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            cache_logger_on_first_use=True,
        ).bind()
        yield {
            "structlog": lambda: theirs.info("job.done", **FIELDS),
            "ours": lambda: ours["ours"].log_action("job.done", **FIELDS),
            "ours, buffered": lambda: ours["ours, buffered"].log_action("job.done", **FIELDS),
            "structlog, held back": lambda: theirs.debug("job.done", **FIELDS),
            "ours, held back": lambda: ours["ours"].log_action("job.done", level="debug", **FIELDS),
        }


def best_of(contenders: dict[str, Call]) -> dict[str, float]:
    """Return seconds per call, each the best of its rounds, taken in turn."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            gc.collect()
            gc.disable()
            began = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS)
            gc.enable()
    return best


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement; a ratio of 2 is twice as fast as structlog with orjson."""
    with tempfile.TemporaryDirectory() as folder, loggers(str(Path(folder) / "lines.log")) as contenders:
        took = best_of(contenders)
    return [
        ("a line to a file, buffered", took["structlog"] / took["ours, buffered"], ">= 2"),
        ("a line to a file, written at once", took["structlog"] / took["ours"], ">= 1.2"),
        ("a line held back by its level", took["structlog, held back"] / took["ours, held back"], ">= 0.5"),
    ]


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:40} {ratio:6.2f}   goal {goal}")
