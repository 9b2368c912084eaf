"""What type checkers see of alerts: checked by mypy --strict and pyright strict, never run."""

from collections.abc import Callable, Mapping
from typing import Any, assert_type

from asyncsandbox.components.alerts import (
    ALERT_RULES,
    Alert,
    AlertRule,
    AlertSettings,
    AlertStatus,
    AlertSystem,
    AppriseSubscriber,
    Severity,
)


async def page(alert: Alert) -> None:
    assert_type(alert.severity, Severity)
    assert_type(alert.context, Mapping[str, object])
    assert_type(alert.to_dict(), dict[str, Any])


def write_down(alert: Alert) -> int:
    return alert.number


async def right() -> None:
    alerts = AlertSystem(settings=AlertSettings(repeat_seconds=60, rules=(*ALERT_RULES, rule)))
    assert_type(alerts.subscribe("warning", page), Callable[[], None])
    assert_type(alerts.subscribe(Severity.ERROR, write_down), Callable[[], None])
    alerts.subscribe("*", lambda alert: alert.message)
    alerts.subscribe("payment", AppriseSubscriber("json://localhost"))
    await alerts.alert("payment", "Insufficient funds", severity="warning", context={"amount": 100})
    await alerts.alert("payment", "Insufficient funds", Severity.ERROR, fingerprint="funds")
    assert_type(await alerts.resolve("payment"), int)
    alerts.silence("payment", seconds=60)
    assert_type(alerts.get_alerts(severity="error", task_name="payment", limit=10), tuple[Alert, ...])
    assert_type(alerts.get_status(), AlertStatus)


rule = AlertRule(event="door.opened", severity="info", message="a door is open", by=("side",))


async def wrong() -> None:
    alerts = AlertSystem()
    alerts.subscribe("*", lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    await alerts.alert("payment")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    alerts.silence("payment")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
