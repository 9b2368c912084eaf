"""A plan says the same as text, in colours and as Markdown, and what came from outside is never markup."""

import html
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from asyncsandbox import ActionKind, CodeManifest, EntryPoint, Plan, PlannedAction, TableChange
from asyncsandbox.rehearsal import fold
from asyncsandbox.rehearsal.outliers import find_outliers
from asyncsandbox.rehearsal.render import code_span, print_terminal, render_markdown, render_text
from asyncsandbox.rehearsal.view import Fit, Outside, make_view, outside, span

FIXED = {
    "planned_at": datetime(2026, 11, 1, 2, 0, tzinfo=UTC),
    "code": CodeManifest(python="3.13", modules={}, distributions={}),
}
WIDE = 1_000_000
HOSTILE = "\x1b[31m[bold]*_`a``|<b>&amp;@team #1 \u202e\r\n\u2028\x00\\[x](http://e.org)"


def call(action: str = "card.charge", key: str = "inv-1", amount: str | None = None, **fields) -> PlannedAction:
    defaults = {"kind": ActionKind.IRREVERSIBLE, "keyed": True, "facts": {"to": "ada"}, "facts_digest": "ff"}
    return PlannedAction(
        **{
            **defaults,
            "identity": f"{action}/{key}".replace("/", "_"),
            "action": action,
            "key": key,
            "amount": amount,
            **fields,
        }
    )


def make(*calls: PlannedAction, **fields) -> Plan:
    return Plan(**FIXED, actions=fold(calls), **fields)


def in_colours(plan: Plan, *, width: int = WIDE, **options) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width)
    print_terminal(plan, console, **options)
    return console.file.getvalue()


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


texts = st.text(max_size=12) | st.sampled_from(
    [HOSTILE, "`", " ", "``a", "[red]x[/red]", "<script>", "| a |", "- a\n# b"]
)
names = texts.filter(bool)
calls = st.builds(
    call,
    action=st.sampled_from(["card.charge", "mail.send", HOSTILE]),
    key=names,
    amount=st.none() | st.decimals(-100, 10_000, places=2),
    kind=st.sampled_from([ActionKind.IRREVERSIBLE, ActionKind.REVERSIBLE]),
    facts=st.dictionaries(names.filter(lambda name: not name.startswith("$")), texts, max_size=2),
    keyed=st.booleans(),
    compared=st.booleans(),
    destroys=st.booleans(),
    site=texts,
    count=st.just(1),
)
plans = st.builds(
    make,
    calls,
    calls,
    calls,
    calls,
    calls,
    calls,
    reads=st.dictionaries(names, st.integers(1, 5000), max_size=2),
    rows=st.lists(
        st.builds(TableChange, table=names, inserted=st.integers(0, 5000), updated=st.just(0), deleted=st.just(0))
    ).map(tuple),
    entry=st.none()
    | st.builds(
        EntryPoint, target=names, arguments=st.tuples(texts), keywords=st.dictionaries(names, texts, max_size=1)
    ),
)
files = st.none() | names


def cells_of(lines):
    for line in lines:
        yield from line.cells
        yield from cells_of(line.under)


def code_spans(line: str) -> tuple[list[str], str]:
    """Take a line of Markdown apart as CommonMark does: its code spans, and what is left."""
    spans, rest, position = [], [], 0
    while position < len(line):
        fence = re.compile("`+").match(line, position)
        if fence is None:
            rest.append(line[position])
            position += 1
            continue
        closing = re.compile(f"(?<!`){fence[0]}(?!`)").search(line, fence.end())
        assert closing is not None, f"an open code span in {line!r}"
        content = line[fence.end() : closing.start()]
        if content[:1] == content[-1:] == " " and content.strip():
            content = content[1:-1]
        spans.append(content)
        position = closing.end()
    return spans, "".join(rest)


def is_quiet(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


class TestSafety:
    @given(plans, files)
    def test_no_render_holds_a_character_that_a_terminal_acts_on(self, plan: Plan, file: str | None) -> None:
        for text in (
            render_text(plan, file=file),
            render_text(plan, file=file, action=plan.actions[0].action, width=WIDE),
            render_markdown(plan, file=file),
            without_styles(in_colours(plan, file=file)),
        ):
            assert is_quiet(text)

    def test_showing_text_as_it_is_would_be_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make(call(key=HOSTILE))
        assert is_quiet(render_text(plan))
        monkeypatch.setattr("asyncsandbox.rehearsal.view.outside", Outside)
        assert not is_quiet(render_text(plan))

    @given(plans, files)
    def test_markdown_holds_text_from_outside_in_code_spans_alone(self, plan: Plan, file: str | None) -> None:
        for line in render_markdown(plan, file=file).splitlines():
            _, rest = code_spans(line)
            assert re.fullmatch(r"(#{2,3} [A-Z][\w (),]*|( {2})?- [\w :,.()-]*|)", rest), rest

    @given(texts.filter(str.strip).map(outside))
    @example(Outside("`"))
    @example(Outside(" a "))
    def test_a_code_span_gives_back_its_text(self, text: str) -> None:
        assert code_spans(code_span(text)) == ([text], "")

    def test_a_fence_of_one_backtick_would_be_caught(self) -> None:
        assert code_spans("`a `b` c`") != (["a `b` c"], "")

    @given(st.text())
    def test_printable_text_stays_as_it_is(self, text: str) -> None:
        made = outside(text)
        assert made.isprintable()
        assert (made == text) == text.isprintable()


class TestNoDrift:
    @given(plans, files)
    def test_everything_in_the_view_is_in_every_render(self, plan: Plan, file: str | None) -> None:
        action = plan.actions[0].action
        for options in ({"file": file}, {"file": file, "action": action}):
            text = render_text(plan, width=WIDE, **options)
            colours = without_styles(in_colours(plan, **options))
            markdown = render_markdown(plan, **options)
            shown = [code_spans(line) for line in markdown.splitlines()]
            spans = {span for found, _ in shown for span in found}
            words = "\n".join(rest for _, rest in shown)
            assert colours.splitlines() == text.splitlines()
            for section in make_view(plan, **options):
                assert section.title in text
                assert section.title in words
                for cell in filter(str.strip, cells_of(section.lines)):
                    assert cell.rstrip() in text
                    if isinstance(cell, Outside):
                        assert any(span.startswith(cell[:97].rstrip()) for span in spans)
                    else:
                        assert cell.strip() in words

    @given(plans, st.integers(1, 200))
    def test_no_line_but_a_command_is_wider_than_asked_for(self, plan: Plan, width: int) -> None:
        for line in render_text(plan, file=None, width=width).splitlines():
            assert len(line) <= max(width, 40)

    def test_colours_are_as_wide_as_the_terminal(self) -> None:
        plan = make(call(facts={"text": "x" * 500}))
        assert without_styles(in_colours(plan, width=60)) == render_text(plan, width=60)


PLAN = make(
    *(
        call(key=f"inv-{n}", amount=Decimal("4980.00" if n == 6 else "9.90"), facts={"total": n}, site="bill.py:18")
        for n in range(1, 13)
    ),
    *(
        call(
            "mail.receipt",
            f"inv-{n}",
            facts={"charge": {"$after_apply": f"card.charge[inv-{n}].id"}},
            site=f"bill.py:{n}",
        )
        for n in (1, 2)
    ),
    *(
        call("mail.news", f"~{n}", keyed=False, compared=False, identity=f"id/{n}", facts={"card": {"$masked": None}})
        for n in (1, 2)
    ),
    call("storage.purge", "exports/2026-10", destroys=True),
    call("stock.hold", "s-1", kind=ActionKind.REVERSIBLE),
    reads={"fx.rate": 3},
    rows=(TableChange(table="Payment", inserted=1200, updated=3, deleted=1),),
    entry=EntryPoint(target="bill.py:main", arguments=("shop.sqlite",), keywords={"day": {"$date": "2026-11-01"}}),
)


class TestText:
    def test_a_plan_reads_well(self) -> None:
        digests = f"{PLAN.digest[:12]}, code {PLAN.code.digest[:12]}"
        assert (
            render_text(PLAN, file="my plan.json").splitlines()
            == f"""\
DRY RUN, nothing was sent

  ran    bill.py:main shop.sqlite day=2026-11-01
  when   2026-11-01 02:00:00 UTC
  plan   {digests}
  file   my plan.json
  count  18 actions (1 destroy, 16 irreversible, 1 reversible), 1,204 rows changed, 3 reads ran for
      real

Look at
  ! storage.purge  destroys, 1 call:            exports/2026-10
  ! card.charge    1 of 12 amounts stands out:  inv-6 4,980.00
  ! mail.news      masked values of 2 calls are not compared: give a masking_key
  ! mail.news      2 calls without a key: after a crash somebody must look what was sent

Actions
  - storage.purge  x 1
      exports/2026-10  to=ada
  > card.charge    x 12  9.90 .. 4,980.00  total 5,088.90  bill.py:18
      inv-1      9.90  total=1
      inv-2      9.90  total=2
      inv-3      9.90  total=3
      inv-6  4,980.00  largest  total=6
      ... 8 more (asyncsandbox show 'my plan.json' --action card.charge)
  > mail.news      x 2
      ~1  x 2  card=******
  > mail.receipt   x 2   bill.py:1 and 1 other place
      inv-1  charge=(known after apply: card.charge[inv-1].id)
      inv-2  charge=(known after apply: card.charge[inv-2].id)
  ~ stock.hold     x 1
      s-1  to=ada

Rows (isolated copy, dropped)
  Payment  +1,200 ~3 -1

Reads that ran for real
  . fx.rate  x 3

Next
  asyncsandbox show 'my plan.json' --action storage.purge  every call of one action
  asyncsandbox show 'my plan.json' --markdown  for a pull request
""".splitlines()
        )

    def test_one_action_shows_all_of_its_calls_in_full(self) -> None:
        long = make(
            *(call(key=f"inv-{n}", facts={"text": f"{n} {'word ' * 60}end"}) for n in range(9)), call("mail.send")
        )
        shown = render_text(long, file="p.json", action="card.charge")
        assert shown.count("end") == 9
        assert "mail.send" not in shown
        assert "asyncsandbox show p.json  the whole plan" in shown

    def test_an_action_that_is_not_there(self) -> None:
        with pytest.raises(LookupError):
            render_text(PLAN, action="mail.sendd")

    def test_a_forecast_stands_under_the_count(self) -> None:
        plan = replace(PLAN, forecast_seconds=1020.0)
        assert "  limits  all of it takes at least 17 min" in render_text(plan).splitlines()
        assert not any(line[:1] == ["limits"] for line in map(str.split, render_text(PLAN).splitlines()))

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (0, "0 s"),
            (0.2, "1 s"),
            (59.5, "1 min"),
            (61, "1 min 1 s"),
            (3605, "1 h"),
            (7500, "2 h 5 min"),
            (90_061, "1 d 1 h"),
        ],
    )
    def test_a_span_has_its_two_largest_units(self, seconds: float, said: str) -> None:
        assert span(seconds) == said

    def test_an_empty_plan_reads_well(self) -> None:
        shown = render_text(make())
        assert shown.startswith("DRY RUN, nothing was sent\n")
        assert "count  0 actions\n" in shown
        assert shown.endswith(
            "Nothing would be sent. Calls show up here once they are declared irreversible or reversible.\n"
        )
        assert "Look at" not in shown

    def test_equal_amounts_have_no_largest(self) -> None:
        assert "largest" not in render_text(make(*(call(key=f"k{n}", amount=Decimal(5)) for n in range(20))))

    def test_the_largest_among_the_first_is_not_shown_twice(self) -> None:
        shown = render_text(make(*(call(key=f"k{n}", amount=Decimal(100 - n)) for n in range(20))))
        assert shown.count("largest") == 1
        assert "... 17 more" in shown

    def test_ten_thousand_actions_take_no_more_than_their_share(self) -> None:
        import time

        def seconds(count: int) -> float:
            plan = make(*(call(key=f"inv-{n}", amount=Decimal(n % 97), facts={"n": n}) for n in range(count)))
            began = time.perf_counter()
            render_text(plan)
            render_markdown(plan, action="card.charge")
            return time.perf_counter() - began

        # Generous: linear is 10, quadratic 100.
        assert seconds(10_000) < 40 * min(seconds(1_000) for _ in range(3)) + 0.2


class TestMarkdown:
    def test_is_made_of_lists_and_code_spans(self) -> None:
        lines = render_markdown(PLAN, file="p.json").splitlines()
        assert lines[0] == "## DRY RUN, nothing was sent"
        assert "- `!` `storage.purge` destroys, 1 call: `exports/2026-10`" in lines
        assert "- `>` `card.charge` x 12 9.90 .. 4,980.00 total 5,088.90 `bill.py:18`" in lines
        assert "  - `inv-6` 4,980.00 largest `total=6`" in lines

    def test_html_stands_in_code(self) -> None:
        spans, rest = code_spans(render_markdown(make(call(key="<img src=x>"))).replace("\n", " "))
        assert "<img src=x>" in spans
        assert html.escape(rest) == rest


class TestOutliers:
    @given(st.lists(st.integers(0, 100), min_size=12, max_size=40), st.integers(0, 39))
    def test_one_amount_far_beyond_the_others_is_always_found(self, amounts: list[int], position: int) -> None:
        position %= len(amounts)
        amounts[position] = 1_000_000
        assert find_outliers(amounts)[0] == position

    def test_a_mean_would_hide_it(self) -> None:
        amounts = [10.0] * 9 + [1000.0]
        mean = sum(amounts) / len(amounts)
        deviation = (sum((amount - mean) ** 2 for amount in amounts) / len(amounts)) ** 0.5
        assert abs(amounts[-1] - mean) / deviation < 3.5
        assert find_outliers(amounts) == [9]

    @given(st.lists(st.floats(allow_nan=False), max_size=9))
    def test_few_amounts_say_nothing(self, amounts: list[float]) -> None:
        assert find_outliers(amounts) == []

    @given(st.floats(0.01, 1e6), st.integers(10, 50))
    def test_equal_amounts_say_nothing(self, amount: float, count: int) -> None:
        assert find_outliers([amount] * count) == []

    def test_matches_a_worked_example(self) -> None:
        # Median 12.5, median deviation 1.5: the score of 17 is 0.6745 * 4.5 / 1.5 = 2.02, that of 25 is 5.62.
        amounts = [10.0, 11.0, 11.0, 12.0, 12.0, 13.0, 13.0, 14.0, 17.0, 25.0]
        assert find_outliers(amounts) == [9]

    def test_an_amount_beyond_floats_does_not_break_a_plan(self) -> None:
        plan = make(*(call(key=f"k{n}", amount=Decimal("1E+400" if n == 5 else str(n))) for n in range(12)))
        assert "k5 1E+400" in render_text(plan)
        assert Decimal("1E+400") == plan.get_totals()[0].highest


def test_lines_are_cut_unless_they_say_otherwise() -> None:
    assert make_view(make())[0].lines[0].fit is Fit.CUT
