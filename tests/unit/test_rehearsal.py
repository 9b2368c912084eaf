"""A plan is the same for every schedule, survives its file, and holds no secret."""

import asyncio
import os
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from asyncsandbox import (
    ActionKind,
    EntryPoint,
    IdempotencyConflictError,
    LifecycleError,
    Plan,
    PlanFileError,
    Sandbox,
    irreversible,
    read_only,
)
from asyncsandbox._core.codec import digest
from asyncsandbox._core.declaration import Declaration
from asyncsandbox._core.planned import PlannedAction, Planner
from asyncsandbox.rehearsal import CodeManifest, entry_point, fold
from asyncsandbox.rehearsal.manifest import take_manifest
from asyncsandbox.rehearsal.render import render_markdown, render_text

MOMENT = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
CODE = CodeManifest(python="3.13", modules={"bill": "aa"}, distributions={"sqlalchemy": "2.1"})
CANARY = "4242-canary-4242"


def body(key: str, text: str, cents: int, card: str = CANARY) -> str:
    raise AssertionError("a rehearsal never comes here")


KEYED, KEYLESS, PURGE, UNMASKED = (
    Declaration(
        name=name,
        kind=ActionKind.IRREVERSIBLE,
        key=(lambda key: key) if keyed else None,
        amount=lambda cents: Decimal(cents) / 100,
        redact=redact,
        destroys=destroys,
    ).spec(body)
    for name, keyed, redact, destroys in [
        ("card.charge", True, ("card",), False),
        ("mail.send", False, ("card",), False),
        ("storage.purge", False, ("card",), True),
        ("card.leak", True, (), False),
    ]
)

keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u27e6\u27e7"), min_size=1, max_size=4)
payloads = st.tuples(st.sampled_from(["a", "b"]), st.integers(-500, 500))
keyed_calls = st.dictionaries(keys, payloads, max_size=5).map(
    lambda by_key: [(KEYED, k, *p) for k, p in by_key.items()]
)
keyless_calls = st.lists(
    st.tuples(st.sampled_from([KEYLESS, PURGE]), st.just("-"), st.sampled_from("ab"), st.integers(0, 1)), max_size=6
)
call_lists = st.builds(lambda *parts: [*parts[0], *parts[1]], keyed_calls, keyless_calls)
orders = call_lists.flatmap(lambda calls: st.tuples(st.just(calls), st.permutations(calls)))


def plan_calls(calls, *, secret=None) -> list[PlannedAction]:
    planner = Planner(secret=secret)
    return [planner.plan(spec, spec.arguments.bind(args, {}), "bill.py:9") for spec, *args in calls]


def make(calls, **fields) -> Plan:
    return Plan(planned_at=MOMENT, code=CODE, actions=fold(plan_calls(calls)), **fields)


entries = st.none() | st.builds(
    EntryPoint,
    target=st.just("bill.py:main"),
    arguments=st.lists(keys, max_size=2).map(tuple),
    keywords=st.dictionaries(keys, keys, max_size=2),
)
plans = st.builds(make, call_lists, entry=entries, reads=st.dictionaries(keys, st.integers(1, 9), max_size=2))


class TestDigest:
    @staticmethod
    def depends_on_order(make_digest, order) -> bool:
        first, second = (make_digest(make(calls)) for calls in order)
        return first != second

    @given(orders)
    def test_is_equal_for_every_order_of_the_calls(self, order) -> None:
        assert not self.depends_on_order(lambda plan: plan.digest, order)
        assert make(order[0]) == make(order[1])

    def test_a_digest_over_a_list_would_be_caught(self) -> None:
        def of_list(calls) -> str:
            return digest([call.identity for call in plan_calls(calls)])

        find(orders, lambda order: of_list(order[0]) != of_list(order[1]))

    @given(call_lists, call_lists)
    def test_is_equal_only_for_equal_calls(self, first, second) -> None:
        def ignore_order(calls) -> Counter[tuple[str, ...]]:
            return Counter((spec.name, *map(repr, args)) for spec, *args in calls)

        assert (make(first).digest == make(second).digest) == (ignore_order(first) == ignore_order(second))

    @given(plans)
    def test_covers_neither_time_nor_place_nor_rows(self, plan: Plan) -> None:
        moved = tuple(msgspec.structs.replace(action, site="elsewhere.py:1") for action in plan.actions)
        later = replace(plan, planned_at=datetime.now(UTC), actions=moved, entry=None, reads={})
        assert later.digest == plan.digest

    def test_real_programs_have_it_under_every_schedule(self) -> None:
        @irreversible("mail.send", key=lambda to: to)
        async def send(to: str) -> str:
            raise AssertionError

        async def program(delays: list[int]) -> None:
            async def one(number: int, delay: int) -> None:
                for _ in range(delay):
                    await asyncio.sleep(0)
                await send(f"user-{number}")

            await asyncio.gather(*(one(number, delay) for number, delay in enumerate(delays)))

        async def rehearse(delays: list[int]) -> str:
            async with Sandbox() as sandbox:
                return (await sandbox.rehearse(program, delays)).digest

        assert len({asyncio.run(rehearse(delays)) for delays in ([0, 1, 2], [2, 1, 0], [1, 5, 0])}) == 1


class TestFold:
    @given(call_lists)
    def test_counts_every_call(self, calls) -> None:
        self.check_counts(fold, calls)

    @staticmethod
    def check_counts(folding, calls) -> None:
        folded = folding(plan_calls(calls))
        assert sum(action.count for action in folded) == len(calls)
        assert len({action.identity for action in folded}) == len(folded)

    def test_forgetting_equal_calls_would_be_caught(self) -> None:
        def forgetful(calls):
            return tuple(msgspec.structs.replace(action, count=1) for action in fold(calls))

        def is_caught(calls) -> bool:
            try:
                self.check_counts(forgetful, calls)
            except AssertionError:
                return True
            return False

        assert find(call_lists, is_caught)

    def test_sorts_numbers_in_keys_as_people_do(self) -> None:
        plan = make([(KEYED, f"inv-{number}", "a", 1) for number in (10, 9, 1)])
        assert [action.key for action in plan.actions] == ["inv-1", "inv-9", "inv-10"]

    def test_one_key_with_two_sets_of_facts_is_refused_in_a_rehearsal(self) -> None:
        @irreversible("mail.send", key=lambda to: to)
        async def send(to: str, text: str) -> str:
            raise AssertionError

        async def main() -> None:
            async with Sandbox():
                await send("ada", "one")
                with pytest.raises(IdempotencyConflictError):
                    await send("ada", "two")

        asyncio.run(main())


class TestTotals:
    @given(call_lists)
    def test_add_up(self, calls) -> None:
        totals = make(calls).get_totals()
        for total in totals:
            amounts = [Decimal(cents) / 100 for spec, _, _, cents in calls if spec.name == total.action]
            assert (total.count, total.amount) == (len(amounts), sum(amounts))
            assert (total.lowest, total.highest) == (min(amounts), max(amounts))
        assert {total.action for total in totals} == {spec.name for spec, *_ in calls}
        assert [total.destroys for total in totals] == sorted((t.destroys for t in totals), reverse=True)

    def test_an_action_without_amounts_has_none(self) -> None:
        plain = msgspec.structs.replace(make([(KEYED, "k", "a", 1)]).actions[0], amount=None)
        (total,) = Plan(planned_at=MOMENT, code=CODE, actions=(plain,)).get_totals()
        assert (total.amount, total.lowest, total.highest) == (None, None, None)


class TestJson:
    @given(plans)
    def test_round_trip_is_equal(self, plan: Plan) -> None:
        again = Plan.from_json(plan.to_json())
        assert again == plan
        assert again.to_json() == plan.to_json()

    @staticmethod
    def survives(read, plan: Plan, position: int, byte: int) -> bool:
        """Whether a changed document is read as if it were whole and yet says something else."""
        text = bytearray(plan.to_json())
        text[position % len(text)] = byte
        try:
            return read(bytes(text)) != plan
        except PlanFileError:
            return False

    @given(plans, st.integers(0, 100_000), st.integers(0, 255))
    def test_no_changed_byte_goes_unnoticed(self, plan: Plan, position: int, byte: int) -> None:
        assert not self.survives(Plan.from_json, plan, position, byte)

    def test_reading_without_checksum_would_be_caught(self) -> None:
        def gullible(text: bytes) -> Plan:
            try:
                return msgspec.convert(msgspec.json.decode(text)["plan"], Plan)
            except (ValueError, KeyError, TypeError):
                raise PlanFileError("plan", "broken", "") from None

        plan = make([(KEYED, "k", "a", 1)])
        position = plan.to_json().index(b'"amount": "0.01"') + len('"amount": "')
        assert self.survives(gullible, plan, position, ord("9"))
        assert not self.survives(Plan.from_json, plan, position, ord("9"))

    @given(plans, st.floats(0, 0.999))
    def test_a_truncated_document_is_refused(self, plan: Plan, share: float) -> None:
        text = plan.to_json().rstrip()
        with pytest.raises(PlanFileError, match="not complete JSON"):
            Plan.from_json(text[: int(len(text) * share)])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda d: d | {"asyncsandbox_plan": 2}, "upgrade asyncsandbox"),
            (lambda d: {"plan": d["plan"]}, "it is not a plan"),
            (lambda _: [], "it is not a plan"),
            (lambda d: d | {"plan": None}, "changed after it was written"),
            (lambda d: d | {"plan": d["plan"] | {"reads": {"fx": 1}}}, "changed after it was written"),
        ],
        ids=["newer", "unmarked", "a list", "empty", "edited"],
    )
    def test_what_is_no_plan_of_ours_is_refused_with_a_remedy(self, change, said: str) -> None:
        document = msgspec.json.decode(make([]).to_json())
        with pytest.raises(PlanFileError, match=said):
            Plan.from_json(msgspec.json.encode(change(document)), source="x.json")

    def test_a_body_that_is_no_plan_is_refused_even_with_its_checksum(self) -> None:
        from asyncsandbox.rehearsal import _checksum

        document = {"asyncsandbox_plan": 1, "checksum": _checksum({}), "plan": {}}
        with pytest.raises(PlanFileError, match="does not hold a whole plan"):
            Plan.from_json(msgspec.json.encode(document))


class TestSecrets:
    @staticmethod
    def shown(plan: Plan) -> str:
        forms = [plan.to_json().decode()]
        for action in (None, plan.actions[0].action):
            forms += [render_text(plan, action=action, width=10_000), render_markdown(plan, action=action)]
        return "\n".join(forms)

    @pytest.mark.parametrize("secret", [None, b"a secret of the operator"])
    def test_masked_values_are_written_nowhere(self, secret: bytes | None) -> None:
        calls = plan_calls([(KEYED, "k", "a", 1), (KEYLESS, "-", "b", 2)], secret=secret)
        shown = self.shown(Plan(planned_at=MOMENT, code=CODE, actions=fold(calls)))
        assert CANARY not in shown
        assert secret is None or secret.decode() not in shown
        assert all(call.compared == (secret is not None) for call in calls)

    def test_an_unmasked_value_would_be_caught(self) -> None:
        assert CANARY in self.shown(make([(UNMASKED, "k", "a", 1)]))


class TestFile:
    def test_is_written_whole_and_read_back(self, tmp_path: Path) -> None:
        plan = make([(KEYED, "k", "a", 1)])
        path = plan.write(tmp_path / "new" / "bill.plan.json")
        assert Plan.read(path) == plan
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_failed_write_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make([]).write(tmp_path / "bill.plan.json")
        before = path.read_bytes()

        def full_disk(_handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            make([(KEYED, "k", "a", 1)]).write(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_a_missing_file_is_told_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(PlanFileError, match="give the path that `asyncsandbox plan` printed"):
            Plan.read(tmp_path / "none.json")


class TestEntryPoint:
    def test_tells_canonical_arguments_and_the_type_of_others(self) -> None:
        entry = entry_point(body, ("a", Decimal("1.5"), object()), {"day": MOMENT.date()})
        assert entry.target.endswith(":body")
        assert entry.arguments == ("a", {"$decimal": "1.5"}, {"$opaque": "object"})
        assert entry.keywords == {"day": {"$date": "2026-11-01"}}

    def test_a_rehearsal_tells_its_own_and_counts_reads(self) -> None:
        @read_only("fx.rate")
        async def rate(pair: str) -> float:
            return 1.1

        async def program(pair: str, *, sandbox: Sandbox) -> None:
            assert sandbox.dry_run
            await rate(pair)
            await rate(pair)

        async def main() -> Plan:
            async with Sandbox() as sandbox:
                return await sandbox.rehearse(program, "EURUSD")

        plan = asyncio.run(main())
        assert plan.entry is not None
        assert (plan.entry.arguments, plan.reads, plan.count) == (("EURUSD",), {"fx.rate": 2}, 0)

    def test_a_live_sandbox_makes_no_plan(self) -> None:
        async def main() -> None:
            async with Sandbox(dry_run=False) as sandbox:
                with pytest.raises(LifecycleError, match="a live sandbox makes no plan"):
                    await sandbox.make_plan()

        asyncio.run(main())


class TestManifest:
    def test_tells_the_users_modules_apart_from_installed_ones(self) -> None:
        manifest = take_manifest()
        assert "hypothesis" not in manifest.modules
        assert "asyncio" not in manifest.modules
        assert manifest.distributions["msgspec"] == msgspec.__version__

    def test_changes_with_the_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys
        from types import ModuleType

        file = tmp_path / "shop.py"
        module = ModuleType("shop_for_the_manifest")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        seen = []
        for text in (None, "a = 1", "a = 2"):
            if text is not None:
                file.write_text(text)
            seen.append(take_manifest())
        assert len({manifest.digest for manifest in seen}) == 3
        assert seen[0].modules[module.__name__] == "unreadable"
