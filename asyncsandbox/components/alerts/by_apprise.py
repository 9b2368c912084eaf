"""Alerts sent on by apprise, to mail, chat, or whatever else it knows.

Needs the extra ``alerts``: ``pip install 'asyncsandbox[alerts]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from .values import Severity

if TYPE_CHECKING:
    from .values import Alert

_KINDS = {
    Severity.INFO: "info",
    Severity.WARNING: "warning",
    Severity.ERROR: "failure",
    Severity.CRITICAL: "failure",
}
_MISSING = "apprise is not installed: pip install 'asyncsandbox[alerts]'"


class AppriseSubscriber:
    """A callback for `AlertSystem.subscribe` that sends each alert to all given addresses.

    Alerts of a dry run are not sent but counted in `suppressed`. Addresses hold secrets, so no error shows them.

    Concurrency: it is a plain function, so the alert system calls it in a thread. Cancellation: a call under way goes
        on in its thread until apprise gives up.

    Args:
        *urls: Where to, in apprise's notation: ``"mailto://..."``, ``"slack://..."``.

    Raises:
        ConfigurationError: apprise is not installed, or does not understand an address.
    """

    def __init__(self, *urls: str) -> None:
        try:
            import apprise  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise ConfigurationError("AppriseSubscriber", "apprise", _MISSING) from None
        self.suppressed = 0
        self._urls = len(urls)
        self._sender: Any = apprise.Apprise()
        if not urls:
            raise ConfigurationError("AppriseSubscriber.urls", urls, "give at least one address")
        for number, url in enumerate(urls, 1):
            if not self._sender.add(url):
                allowed = "give an address that apprise understands, such as mailto://user:password@example.org"
                raise ConfigurationError("AppriseSubscriber.urls", f"<address {number}>", allowed)

    def __repr__(self) -> str:
        return f"<AppriseSubscriber of {self._urls} addresses>"

    def __call__(self, alert: Alert) -> None:
        """Send one alert.

        Raises:
            ConnectionError: Not every address took it.
        """
        if alert.dry_run:
            self.suppressed += 1
            return
        state = "resolved" if alert.resolved else alert.severity.value
        kind = "success" if alert.resolved else _KINDS[alert.severity]
        lines = [alert.message, *(f"{name}: {value}" for name, value in alert.to_dict()["context"].items())]
        if alert.count > 1:
            lines.append(f"raised {alert.count} times since {alert.first_at.isoformat()}")
        if alert.correlation_id is not None:
            lines.append(f"correlation id: {alert.correlation_id}")
        title = f"[{state}] {alert.task_name}"
        if not self._sender.notify(title=title, body="\n".join(lines), notify_type=kind):
            raise ConnectionError("apprise could not deliver everywhere: look at the log of `apprise`")
