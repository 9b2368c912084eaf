"""Plan snapshots: written on demand and whole, compared otherwise, each test's its own, whatever its name."""

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox.errors import ConfigurationError
from asyncsandbox.rehearsal import UTC, CodeManifest, Plan, datetime
from asyncsandbox.testing import PlanSnapshotError, plan_snapshot
from asyncsandbox.testing.plan_snapshot import PlanSnapshot

pytest_plugins = ["pytester"]

SHOP = """
    import asyncio
    import pytest
    from asyncsandbox import Sandbox, irreversible

    @irreversible("card.charge", key=lambda order: order, amount=lambda euros: euros, redact=("card",))
    async def charge(order: str, euros: int, card: str = "4242-4242") -> str: ...

    @irreversible("mail.send")
    async def send(to: str) -> None: ...

    async def main(euros=3):
        await charge("order-1", euros)
        await send("ada")

    async def test_bill(sandbox, plan_snapshot):
        plan_snapshot.check(await sandbox.rehearse(main))

    def test_plain(plan_snapshot):
        async def rehearse():
            async with Sandbox() as sandbox:
                return await sandbox.rehearse(main)
        plan_snapshot.check(asyncio.run(rehearse()))
"""
BILL = """asyncsandbox plan snapshot 1
test_shop.py::test_bill

card.charge [order-1] irreversible
  amount: 3
  card = ******
  euros = 3
  order = "order-1"

mail.send (no key) irreversible
  to = "ada"
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:sybil", "-W", "ignore", *arguments)


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_shop=SHOP)
    return pytester


def files(pytester: pytest.Pytester) -> dict[str, str]:
    folder = pytester.path / "plan_snapshots"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- as a user meets it


def test_a_missing_snapshot_fails_and_says_how_to_write_it(shop: pytest.Pytester) -> None:
    result = run(shop)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*bill.plan: there is no snapshot yet; write it by: pytest test_shop.py::test_bill --plan-snapshot-update"]
    )
    assert files(shop) == {}, "nothing is written unasked"


def test_an_update_writes_and_says_so_and_then_they_are_equal(shop: pytest.Pytester) -> None:
    updated = run(shop, "--plan-snapshot-update")
    updated.assert_outcomes(passed=2)
    updated.stdout.fnmatch_lines(["*plan snapshots written*", "*test_bill.plan", "*test_plain.plan"])
    written = files(shop)
    assert written.keys() == {"test_shop/test_bill.plan", "test_shop/test_plain.plan"}
    assert written["test_shop/test_bill.plan"] == BILL
    run(shop).assert_outcomes(passed=2)
    again = run(shop, "--plan-snapshot-update")
    again.assert_outcomes(passed=2)
    again.stdout.no_fnmatch_line("*plan snapshots written*")
    assert files(shop) == written


def test_another_plan_fails_with_what_changed_until_it_is_renewed(shop: pytest.Pytester) -> None:
    run(shop, "--plan-snapshot-update")
    shop.makepyfile(test_shop=SHOP.replace("euros=3", "euros=4").replace('"ada"', '"bob"'))
    before = files(shop)
    changed = run(shop)
    changed.assert_outcomes(failed=2)
    changed.stdout.fnmatch_lines(
        [
            "*test_bill.plan: the plan is another one now:",
            "E *  card.charge [[]order-1[]] irreversible",
            "E *-   amount: 3",
            "E *+   amount: 4",
            "E *-   euros = 3",
            "E *+   euros = 4",
            "E *  mail.send (no key) irreversible",
            'E *-   to = "ada"',
            'E *+   to = "bob"',
            "*renew the snapshot by: pytest test_shop.py::test_bill --plan-snapshot-update",
        ]
    )
    assert files(shop) == before
    run(shop, "--plan-snapshot-update").assert_outcomes(passed=2)
    assert files(shop) != before
    run(shop).assert_outcomes(passed=2)


def test_tests_of_the_same_name_in_other_files_and_classes_have_their_own(pytester: pytest.Pytester) -> None:
    bill = SHOP.partition("async def test_bill")[0]
    same = """
    async def test_bill(sandbox, plan_snapshot):
        plan_snapshot.check(await sandbox.rehearse(main, {}))

    class TestShop:
        async def test_bill(self, sandbox, plan_snapshot):
            plan_snapshot.check(await sandbox.rehearse(main, {}))
    """
    pytester.makepyfile(test_one=bill + same.format(1, 2), test_two=bill + same.format(3, 4))
    run(pytester, "--plan-snapshot-update").assert_outcomes(passed=4)
    run(pytester).assert_outcomes(passed=4)
    assert len(set(files(pytester).values())) == len(files(pytester)) == 4


def test_parameters_and_names_make_file_names_that_every_system_takes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_shop="""
    import pytest
    from asyncsandbox.rehearsal import UTC, CodeManifest, Plan, datetime

    @pytest.mark.parametrize("euros", [1, 2], ids=["one", "two"])
    @pytest.mark.parametrize("what", ["plain", "a/b", "a:b", "../../up", "x" * 300, "\\xfc", "", "a\\nb"])
    def test_bill(plan_snapshot, euros, what):
        code = CodeManifest(python="", modules={}, distributions={})
        plan = Plan(planned_at=datetime.now(UTC), code=code)
        plan_snapshot.check(plan)
        plan_snapshot.check(plan, "after it")
    """
    )
    run(pytester, "--plan-snapshot-update").assert_outcomes(passed=16)
    run(pytester).assert_outcomes(passed=16)
    names = [Path(name).name for name in files(pytester)]
    assert len(names) == 32
    assert all(name.isascii() and name.isprintable() and len(name) < 140 for name in names)
    assert not set("".join(names)) & set('/\\:*?"<>|')
    assert {"test_bill[plain-one].plan", "test_bill[plain-one].after it.plan"} <= set(names)


def test_a_simulated_test_may_check_the_same_plan_in_every_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_shop=SHOP.partition("async def test_bill")[0]
        + """
    from hypothesis import HealthCheck, settings
    from asyncsandbox.testing import scenarios, simulate

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5, database=None, deadline=None)
    @simulate(scenarios())
    async def test_bill(sim, plan_snapshot):
        async def two(sandbox):
            await asyncio.gather(charge("order-1", 1), charge("order-2", 2))
        async with Sandbox() as sandbox:
            plan_snapshot.check(await sandbox.rehearse(two))
    """
    )
    run(pytester, "--plan-snapshot-update").assert_outcomes(passed=1)
    run(pytester).assert_outcomes(passed=1)


# ---------------------------------------------------------------- files that are not as they should be


@pytest.fixture
def written(shop: pytest.Pytester) -> Path:
    run(shop, "--plan-snapshot-update")
    return shop.path / "plan_snapshots" / "test_shop" / "test_bill.plan"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is no plan snapshot; write it anew by: pytest test_shop.py::test_bill --plan-snapshot-update"),
        (b"\xff\xfe\x00", "it is no plan snapshot; write it anew by: "),
        (b"<<<<<<< ours\n" + BILL.encode(), "it is no plan snapshot; write it anew by: "),
        (BILL.encode()[:57], "the plan is another one now:\n"),
        (BILL.encode(), '-   order = "order-1"\n'),
        (BILL.encode() + b"\n", "the plan is another one now:\n"),
    ],
    ids=["empty", "no text", "a merge conflict", "cut off", "of another plan", "longer"],
)
def test_a_broken_file_fails_and_can_be_renewed(tmp_path: Path, content: bytes, problem: str) -> None:
    plan = rehearsed()
    of_test = partial(PlanSnapshot, tmp_path / "test_shop.py", "test_shop.py::test_bill")
    of_test(update=True).check(plan)
    (file,) = (tmp_path / "plan_snapshots").rglob("*.plan")
    right = file.read_text()
    file.write_bytes(content)
    with pytest.raises(PlanSnapshotError, match=re.escape(problem)):
        of_test().check(plan)
    assert file.read_bytes() == content
    of_test(update=True).check(plan)
    assert file.read_text() == right


def rehearsed() -> Plan:
    code = CodeManifest(python="", modules={}, distributions={})
    return Plan(planned_at=datetime(2026, 1, 1, tzinfo=UTC), code=code)


@pytest.mark.parametrize("option", [[], ["--plan-snapshot-update"]], ids=["plain", "update"])
def test_a_file_of_a_newer_version_is_left_alone(shop: pytest.Pytester, written: Path, option: list[str]) -> None:
    newer = BILL.replace("snapshot 1", "snapshot 2")
    written.write_text(newer)
    result = run(shop, *option)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*it has format 2 and this version reads up to 1; upgrade asyncsandbox"])
    assert written.read_text() == newer


@pytest.mark.parametrize("option", [[], ["--plan-snapshot-update"]], ids=["plain", "update"])
def test_a_file_of_another_test_is_left_alone(shop: pytest.Pytester, written: Path, option: list[str]) -> None:
    other = BILL.replace("::test_bill", "::test_Bill")  # the same file, where upper and lower case are the same
    written.write_text(other)
    result = run(shop, *option)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*it belongs to test_shop.py::test_Bill, not to test_shop.py::test_bill; delete it*"])
    assert written.read_text() == other


def test_line_ends_of_another_system_are_no_difference(shop: pytest.Pytester, written: Path) -> None:
    written.write_bytes(BILL.replace("\n", "\r\n").encode())
    run(shop).assert_outcomes(passed=2)


def check_that_a_failed_write_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_file = folder / "test_shop.py"
    PlanSnapshot(test_file, "test_shop.py::test_bill", update=True).check(rehearsed())
    (file,) = (folder / "plan_snapshots").rglob("*.plan")
    stood = BILL.encode()
    file.write_bytes(stood)

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        PlanSnapshot(test_file, "test_shop.py::test_bill", update=True).check(rehearsed())
    assert file.read_bytes() == stood
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_a_failed_write_changes_nothing(tmp_path, monkeypatch)


def test_the_check_catches_one_who_writes_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text:
            os.replace(path, path)  # noqa: PTH105 - fails late, as a disk does

    monkeypatch.setattr(plan_snapshot, "_write", in_place)
    with pytest.raises(AssertionError):
        check_that_a_failed_write_changes_nothing(tmp_path, monkeypatch)


# ---------------------------------------------------------------- names


def test_two_plans_under_one_name_are_refused_with_what_to_do(tmp_path: Path) -> None:
    snapshot = PlanSnapshot(tmp_path / "test_shop.py", "test_shop.py::test_bill", update=True)
    snapshot.check(rehearsed())
    snapshot.check(rehearsed())
    changed = Plan.from_json(rehearsed().to_json())
    object.__setattr__(changed, "rows", (_change(),))
    with pytest.raises(PlanSnapshotError, match="checked another plan before") as caught:
        snapshot.check(changed)
    assert 'plan_snapshot.check(plan, "after the refund")' in str(caught.value)
    snapshot.check(changed, "after the refund")
    assert len(snapshot.written) == 2


def _change() -> Any:
    from asyncsandbox.components.database import TableChange

    return TableChange(table="payment", inserted=1)


@pytest.mark.parametrize("name", ["a/b", "..", "é", " ", "-x", "a.b", "a\nb"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="letters, digits"):
        PlanSnapshot(tmp_path / "test_shop.py", "test_shop.py::test_bill", update=True).check(rehearsed(), name)


IDS = st.text(max_size=130) | st.text("a/:]_.\\", max_size=4)


def check_that_names_differ(ids: tuple[str, str]) -> None:
    one, other = (plan_snapshot._file_name(f"TestShop::test_bill[{each}]") for each in ids)
    assert (one == other) is (ids[0] == ids[1])
    assert len(one) < 120
    assert not set('/\\:*?"<>|\n') & set(one)


@given(st.tuples(IDS, IDS) | IDS.map(lambda one: (one, one)))
def test_different_tests_have_different_files(ids: tuple[str, str]) -> None:
    check_that_names_differ(ids)


def test_the_check_catches_names_without_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = plan_snapshot._UNSAFE
    monkeypatch.setattr(plan_snapshot, "_file_name", lambda test: unsafe.sub("_", test)[:100])
    must_catch(check_that_names_differ, st.tuples(IDS, IDS))
