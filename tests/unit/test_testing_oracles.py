"""What every simulation checks, asked directly."""

import pytest

from asyncsandbox import GovernorSettings, Limit, Sandbox
from asyncsandbox.testing.oracles import Oracles


@pytest.mark.parametrize(
    ("begun", "broken"),
    [
        ([0.0, 1.0, 10.0], False),
        ([0.0, 1.0, 9.5], True),
        ([0.0, 0.0, 0.0], True),
        ([0.0, 10.0, 20.0, 20.0], False),
    ],
)
def test_attempts_beyond_a_limit_are_told_with_their_number(begun: list[float], broken: bool) -> None:
    limits = {"card": (Limit(2, 10.0), Limit(max_concurrent=1))}
    sandbox = Sandbox(dry_run=False, governor=GovernorSettings(limits=limits))
    oracles = Oracles([])
    found = [oracles.judge_attempt(sandbox._runtime, "card", None, at) for at in begun]
    assert found[:-1] == [None] * (len(begun) - 1)
    assert (found[-1] is not None) is broken
    if broken:
        assert "3 attempts within 10 s under 'card'" in str(found[-1])


def test_two_keys_two_sandboxes_and_dry_runs_are_not_mixed_up() -> None:
    settings = GovernorSettings(limits={"card": Limit(1, 10.0, per="user")})
    live, other, dry = (Sandbox(dry_run=dry_run, governor=settings)._runtime for dry_run in (False, False, True))
    oracles = Oracles([])
    for runtime, per in ((live, "ada"), (live, "grace"), (other, "ada"), (dry, "ada"), (dry, "ada")):
        assert oracles.judge_attempt(runtime, "card", per, 0.0) is None
    assert oracles.judge_attempt(live, "card", "ada", 1.0) is not None
