"""The pytest plugin: it costs nothing unused, works beside pytest-asyncio and anyio, and replays by token."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SHOP = """
    import asyncio
    from hypothesis import settings
    from asyncsandbox.testing import fault, scenarios, simulate

    class Till:
        sold = 0
        async def sell(self):
            before = self.sold
            await asyncio.sleep(0)
            self.sold = before + 1

    @settings(database=None, deadline=None)
    @simulate(scenarios())
    async def test_lost(sim):
        till = Till()
        async def late():
            for _ in range(4):
                await asyncio.sleep(0)
            await till.sell()
        await asyncio.gather(till.sell(), late(), *(asyncio.sleep(0) for _ in range(3)))
        assert till.sold == 2, "an update was lost"

    @simulate(scenarios())
    async def test_fine(sim):
        pass
"""


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_shop=SHOP)
    return pytester


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    scope = () if "no:asyncio" in arguments else ("-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:sybil", *scope, *arguments)


def token_in(result: pytest.RunResult) -> str:
    found = re.search(r"--sim-replay=(\S+)", result.stdout.str())
    assert found is not None, result.stdout.str()
    return found[1]


def test_loading_the_plugin_loads_neither_hypothesis_nor_sqlalchemy() -> None:
    code = "import sys, asyncsandbox.testing.plugin; print(sorted({'hypothesis', 'sqlalchemy'} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ------------------------------------------------------------------ replay


def test_a_token_runs_the_failing_scenario_alone(shop: pytest.Pytester) -> None:
    failed = run(shop)
    failed.assert_outcomes(failed=1, passed=1)
    again = run(shop, "--sim-replay", token_in(failed))
    again.assert_outcomes(failed=1, deselected=1)
    again.stdout.fnmatch_lines(["*an update was lost*", "*1 pause; found in run 1*"])


def test_a_token_works_for_a_method_with_fixtures_and_inputs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from hypothesis import settings, strategies as st
        from asyncsandbox.testing import scenarios, simulate

        @pytest.fixture(scope="module")
        def tariff():
            return 3

        class TestShop:
            @settings(database=None, deadline=None)
            @simulate(scenarios(), amount=st.integers(0, 9))
            async def test_amount(self, sim, amount, tariff):
                assert isinstance(self, TestShop)
                assert amount <= tariff
        """
    )
    failed = run(pytester)
    failed.assert_outcomes(failed=1)
    again = run(pytester, "--sim-replay", token_in(failed))
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*amount = 4*"])


def test_a_token_passes_once_the_bug_is_mended(shop: pytest.Pytester) -> None:
    token = token_in(run(shop))
    shop.makepyfile(test_shop=SHOP.replace("await asyncio.sleep(0)\n            self.sold", "self.sold"))
    run(shop, "--sim-replay", token).assert_outcomes(passed=1, deselected=1)


def test_a_token_of_a_test_that_is_not_there_is_a_usage_error(shop: pytest.Pytester) -> None:
    token = token_in(run(shop))
    shop.makepyfile(test_shop="def test_other(): pass")
    result = run(shop, "--sim-replay", token)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*belongs to test_shop.py::test_lost, which was not collected: run: pytest *"])


def test_nonsense_is_a_usage_error(shop: pytest.Pytester) -> None:
    result = run(shop, "--sim-replay", "nonsense")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*replay token 'nonsense' *copy it whole*"])


# ------------------------------------------------------------------ reports and coverage


def test_reports_are_written_for_failures(shop: pytest.Pytester) -> None:
    run(shop, "--sim-report", "out").assert_outcomes(failed=1, passed=1)
    folder = Path(shop.path, "out")
    assert sorted(path.name for path in folder.iterdir()) == ["test_lost.html", "test_lost.json", "test_lost_again.py"]
    assert json.loads((folder / "test_lost.json").read_text())["test"] == "test_shop.py::test_lost"


def test_the_exported_test_knows_parameters_and_asks_for_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_shop="""
        import pytest
        from asyncsandbox.testing import scenarios, simulate

        class Till:
            pass

        @pytest.mark.parametrize(("kind", "count"), [(Till, 3)])
        @simulate(scenarios())
        async def test_till(sim, kind, count, pytestconfig):
            assert kind is not Till or count != 3 or pytestconfig is None, "found again"
        """
    )
    run(pytester, "--sim-report", ".").assert_outcomes(failed=1)
    exported = next(Path(pytester.path).glob("*_again.py"))
    assert "def test_till_again(pytestconfig):" in exported.read_text()
    result = run(pytester, str(exported))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*found again*"])


def test_a_failure_without_a_scenario_writes_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from asyncsandbox.testing import scenarios, simulate

        @simulate(scenarios(crashes=1))
        async def test_no_app(sim):
            pass
        """
    )
    result = run(pytester, "--sim-report", "out")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no app to cut the power of*"])
    assert not Path(pytester.path, "out").exists()


def test_required_coverage_fails_a_test_that_passed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from hypothesis import settings
        from asyncsandbox.testing import fault, scenarios, simulate

        @settings(database=None, max_examples=5, deadline=None)
        @simulate(scenarios(faults=[fault("card.charge", OSError)], pauses=0), require_coverage=True)
        async def test_nothing_is_charged(sim):
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*never happened in any run: fault('card.charge', OSError)*"])


# ------------------------------------------------------------------ fixtures

FIXTURES = """
    import asyncio, pytest
    from asyncsandbox import current_sandbox, irreversible

    pytestmark = {mark}

    @irreversible("mail.send", key=lambda to: to)
    async def send(to: str) -> None:
        raise AssertionError("a dry run never comes here")

    async def test_mail(sandbox):
        assert current_sandbox() is sandbox
        await asyncio.sleep(3600)
        await send("ada")
        assert (await sandbox.make_plan()).count == 1

    async def test_an_hour(virtual_time):
        await asyncio.sleep(3600)
        assert virtual_time.elapsed_seconds == 3600

    def test_by_hand(virtual_time):
        assert virtual_time.elapsed_seconds == 0
        assert virtual_time.run(asyncio.sleep(3600, "done")) == "done"

    async def test_a_left_task(virtual_time):
        asyncio.get_running_loop().create_task(asyncio.sleep(5))
"""


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("[]", ["-p", "no:asyncio", "-p", "no:anyio"]),
        ("[]", ["-o", "asyncio_mode=auto"]),
        ("pytest.mark.asyncio", []),
        ("pytest.mark.anyio", ["-p", "no:asyncio"]),
    ],
    ids=["alone", "auto", "asyncio", "anyio"],
)
def test_fixtures_run_the_test_in_virtual_time(pytester: pytest.Pytester, mark: str, options: list[str]) -> None:
    pytester.makepyfile(FIXTURES.format(mark=mark))
    result = run(pytester, *options, "-W", "ignore")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*leaves no task behind*"])


def test_a_fixture_of_the_same_name_is_the_users(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def sandbox():
            return "mine"

        def test_mine(sandbox):
            assert sandbox == "mine"
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize("options", [["-o", "asyncio_mode=auto"], ["-o", "anyio_mode=auto", "-p", "no:asyncio"]])
def test_simulated_tests_are_nobody_elses(shop: pytest.Pytester, options: list[str]) -> None:
    run(shop, *options).assert_outcomes(failed=1, passed=1)
