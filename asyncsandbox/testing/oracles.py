"""What every simulation checks of the sandboxes that run in it: each call that reached the world, and every step.

An oracle on calls that reached the world (at most once per key, nothing in a dry run) belongs into `Oracles.judge`,
one on attempts that set out for it (within limits) into `Oracles.judge_attempt`, one on what a running sandbox must
never show into `Oracles.find_wrong`, one on what must have come true at the end (no acknowledged job is lost) into
`Oracles.find_lost`.

>>> Oracles([]).find_wrong() is None
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.checks import CheckStatus, Verdict
from ..sandbox import Sandbox
from .errors import CrashedError, PromiseBrokenError
from .world import Hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from .._core.checks import ReadinessReport
    from .._core.context import Host
    from .._core.runtime import Runtime
    from .calls import ActionCall

__all__ = ["Oracles", "ask"]


class Oracles:
    """Judges each call of an action that is not read-only, and each readiness report, once.

    A report is judged by its checks as they were registered and not by what it says of them.

    Args:
        hosts: What runs on the loop; read anew at every look.

    Concurrency: for one loop. Cancellation: nothing here waits.
    """

    __slots__ = ("_attempts", "_happened", "_hosts", "_judged")

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._judged: dict[Host, ReadinessReport] = {}
        self._happened: set[tuple[str, str, int]] = set()
        self._attempts: dict[tuple[Runtime, str, Hashable], list[float]] = {}

    def judge(self, runtime: Runtime, call: ActionCall, label: str) -> PromiseBrokenError | None:
        """Return what is wrong with a call that has reached the world, or None."""
        round_of_key = call.action, call.key, call.generation
        again = round_of_key in self._happened
        self._happened.add(round_of_key)
        if runtime.dry_run:
            return PromiseBrokenError("a dry run applies nothing", f"{label} happened")
        if again and not call.key.startswith("~"):
            return PromiseBrokenError("an action happens at most once per key", f"{label} happened twice")
        return None

    def judge_attempt(self, runtime: Runtime, resource: str, per: Hashable, now: float) -> PromiseBrokenError | None:
        """Return which limit an attempt breaks that sets out now, or None.

        Args:
            runtime: The sandbox it belongs to; limits in memory do not outlive it.
            resource: Name of the limit.
            per: Whose permit it took.
            now: Virtual seconds.
        """
        box = runtime.sandbox
        if runtime.dry_run or not isinstance(box, Sandbox):
            return None
        begun = self._attempts.setdefault((runtime, resource, per), [])
        begun.append(now)
        for limit in box.governor.get_status(resource).limits:
            if limit.max_requests is not None and limit.window_seconds is not None:
                count = sum(now - at < limit.window_seconds for at in begun)
                if count > limit.max_requests:
                    happened = f"{count} attempts within {limit.window_seconds:g} s under {resource!r}"
                    return PromiseBrokenError(f"never more than {limit.max_requests} in any window", happened)
        return None

    def find_wrong(self) -> PromiseBrokenError | None:
        """Return what is wrong with a report made since the last look, or None. Cheap: it is asked at every step."""
        for host in self._hosts:
            box = host.sandbox
            if not isinstance(box, Sandbox):
                continue
            report = box.readiness._report  # noqa: SLF001 - get_status() would sort names at every step
            if report is not None and report is not self._judged.get(host):
                self._judged[host] = report
                if failed := _forbidden(box, report):
                    happened = f"{report.verdict} though {', '.join(failed)} failed"
                    return PromiseBrokenError("the verdict is NO-GO while a critical check fails", happened)
        return None

    async def find_lost(self) -> PromiseBrokenError | None:
        """Return which acknowledged job is lost now that everything has settled, or None."""
        jobs = self._hosts.jobs if isinstance(self._hosts, Hosts) else None
        return None if jobs is None else await jobs.find_lost()


def _forbidden(box: Sandbox, report: ReadinessReport) -> list[str]:
    if report.verdict is Verdict.NO_GO:
        return []
    checks = box.readiness._checks  # noqa: SLF001 - as above
    going = {CheckStatus.PASS, CheckStatus.WARN}
    return [
        each.name
        for each in report.checks
        if each.status not in going and (each.name not in checks or checks[each.name].critical)
    ]


def ask(holds: Callable[[], object], *, otherwise: bool) -> bool:
    """Ask whether a promise holds; where the app is down and cannot say, give the other answer."""
    try:
        return bool(holds())
    except CrashedError:
        return otherwise
