"""What every simulation watches of the sandboxes that run in it: their readiness verdicts.

>>> Verdicts([]).find_wrong() is None
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.checks import CheckStatus, Verdict
from ..sandbox import Sandbox
from .errors import PromiseBrokenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core.checks import ReadinessReport
    from .._core.context import Host

__all__ = ["Verdicts"]


class Verdicts:
    """Judges each readiness report once, by its checks as they were registered and not by what the report says of them.

    Args:
        hosts: What runs on the loop; read anew at every look.

    Concurrency: for one loop. Cancellation: nothing here waits.
    """

    __slots__ = ("_hosts", "_judged")

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._judged: dict[Host, ReadinessReport] = {}

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
