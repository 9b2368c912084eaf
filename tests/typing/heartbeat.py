"""What type checkers see of the heartbeat: checked by mypy --strict and pyright strict, never run."""

from contextlib import AbstractAsyncContextManager
from typing import assert_type

from asyncsandbox.components.heartbeat import (
    BeatState,
    BeatStatus,
    HealthStatus,
    HeartbeatSettings,
    LagSummary,
    SchedulerHeartbeat,
    StackLine,
    Stall,
)


async def right() -> None:
    async with SchedulerHeartbeat(settings=HeartbeatSettings(tick_seconds=1)) as heartbeat:
        assert_type(heartbeat, SchedulerHeartbeat)
        heartbeat.expect("billing", expect_every_seconds=60, grace_seconds=30, critical=False)
        heartbeat.beat("billing")
        heartbeat.stop_expecting("billing")
        assert_type(heartbeat.watch("billing"), AbstractAsyncContextManager[None])
        async with heartbeat.watch("billing") as nothing:
            assert_type(nothing, None)
        assert_type(heartbeat.is_healthy(), bool)
        assert_type(heartbeat.get_status(), HealthStatus)
        status = heartbeat.get_health_status()
        assert_type(status, HealthStatus)
        assert_type(status.lag, LagSummary)
        assert_type(status.current_stall, Stall | None)
        assert_type(status.stalls[0].stack, tuple[StackLine, ...])
        assert_type(status.beats, tuple[BeatStatus, ...])
        assert_type(status.beats[0].state, BeatState)


async def wrong() -> None:
    SchedulerHeartbeat(HeartbeatSettings())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    heartbeat = SchedulerHeartbeat()
    heartbeat.expect("billing", 60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    heartbeat.beat(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with heartbeat.watch("billing"):  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue,reportGeneralTypeIssues]
        pass
    heartbeat.get_health_status().healthy = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
