"""The command line: exit codes, one clear line for bad input, and nothing written then."""

import hashlib
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest

from asyncsandbox import Plan
from asyncsandbox.cli import ExitCode, main, run

PROGRAM = """
import asyncio, sys
from asyncsandbox import Check, CheckResult, NotReadyError, Sandbox, irreversible, read_only

@irreversible("mail.send", key=lambda to: to)
async def send(to: str) -> str:
    raise AssertionError("a rehearsal never comes here")

async def greet(to: str = "ada", times: int = 1, *, loud: bool = False) -> None:
    print("hello from the program")
    for number in range(times):
        await send(f"{to.upper() if loud else to}-{number}")

async def quiet() -> None: ...
def plain() -> None: ...

async def crash() -> None:
    def inner() -> None:
        raise ValueError("no luck \\x1b[31m")
    await asyncio.sleep(0)
    inner()

async def chained() -> None:
    try:
        await crash()
    except ValueError as error:
        raise KeyError("second") from error

async def foreign() -> None:
    import json
    json.loads("{")

async def look() -> None:
    async def one(number: int) -> None:
        if await send(f"user-{number}") == "sent": ...
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(one(number))

async def leave() -> None: raise SystemExit(7)
async def stop() -> None: raise asyncio.CancelledError
async def insist() -> None: raise NotReadyError(("disk",))
async def open_database(path: str, *, sandbox: Sandbox) -> None:
    await sandbox.database.use(path)
    async with sandbox.database.get_session() as session:
        await session.connection()

async def hang() -> None:
    print("hanging", flush=True)
    await send("ada")
    await asyncio.sleep(3600)

async def chatter(sandbox: Sandbox) -> None:
    sandbox.database.services.journal.publish("something.else", component="program")
    await send("ada")

async def odd(when: "Nonsense") -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one; what commands import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    (tmp_path / "program.py").write_text(PROGRAM)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(EXAMPLES))):
            del sys.modules[name]


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"program.py", "__pycache__"}


def spawn(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asyncsandbox", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


class TestPlan:
    def test_shows_the_plan_and_writes_it(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", "program.py:greet", "--", "grace", "--times", "3", "--loud"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("hello from the program\nDRY RUN, nothing was sent\n")
        assert "> mail.send  x 3" in out
        plan = Plan.read("greet.plan.json")
        assert plan.entry is not None
        assert plan.entry.target == "program.py:greet"
        assert plan.entry.arguments == ("grace", "--times", "3", "--loud")
        assert [action.key for action in plan.actions] == ["GRACE-0", "GRACE-1", "GRACE-2"]
        assert written(folder) == {"greet.plan.json"}

    def test_a_module_is_found_in_the_current_folder(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", "program:greet", "--out", "deep/down.json"]) == 0
        assert "file   deep/down.json" in capsys.readouterr().out
        assert Plan.read("deep/down.json").count == 1

    def test_json_leaves_standard_output_to_the_plan(
        self, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        assert run(["plan", "program.py:greet", "--json"]) == 0
        out, err = capfdbinary.readouterr()
        assert Plan.from_json(out) == Plan.read("greet.plan.json")
        assert b"hello from the program" in err
        assert b"asyncsandbox: wrote greet.plan.json" in err

    def test_markdown(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", "program.py:greet", "--markdown"]) == 0
        assert capsys.readouterr().out.startswith("## DRY RUN, nothing was sent\n")

    @pytest.mark.parametrize(("function", "code"), [("greet", 6), ("quiet", 0)])
    def test_detailed_exit_code_tells_whether_there_are_actions(self, folder: Path, function: str, code: int) -> None:
        assert run(["plan", f"program.py:{function}", "--detailed-exitcode"]) == code
        assert run(["plan", f"program.py:{function}"]) == 0

    def test_uses_make_sandbox(self, folder: Path) -> None:
        maker = "\ndef make_sandbox(**overrides): return Sandbox(namespace='billing', **overrides)\n"
        (folder / "program.py").write_text(PROGRAM + maker)
        assert run(["plan", "program.py:greet"]) == 0
        assert Plan.read("greet.plan.json").namespace == "billing"

    def test_a_no_go_rehearses_nothing(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "program.py").write_text(
            PROGRAM
            + "\ndef make_sandbox(**overrides):\n    sandbox = Sandbox(**overrides)\n"
            + "    sandbox.readiness.register(Check.failing('disk', 'no room'))\n    return sandbox\n"
        )
        assert run(["plan", "program.py:greet"]) == ExitCode.NO_GO
        out, err = capsys.readouterr()
        assert "NO-GO: disk: no room" in err
        assert "hello" not in out
        assert written(folder) == set()

    def test_a_program_that_is_not_ready_is_a_no_go(self, folder: Path) -> None:
        assert run(["plan", "program.py:insist"]) == ExitCode.NO_GO

    def test_a_real_database_is_left_byte_for_byte(self, folder: Path) -> None:
        with closing(sqlite3.connect("shop.sqlite")) as shop, shop:
            shop.execute("CREATE TABLE Customer (CustomerId INTEGER PRIMARY KEY, FirstName, LastName, Email)")
            shop.execute("CREATE TABLE Invoice (InvoiceId INTEGER PRIMARY KEY, CustomerId, Total NUMERIC(10,2))")
            shop.execute("INSERT INTO Customer VALUES (1, 'Ada', 'L', 'ada@example.org')")
            shop.executemany("INSERT INTO Invoice VALUES (?, 1, 9.9)", [(number,) for number in range(1, 31)])
        before = hashlib.sha256(Path("shop.sqlite").read_bytes()).digest()
        assert run(["plan", f"{EXAMPLES / 'billing.py'}:main", "--", "shop.sqlite"]) == 0
        assert hashlib.sha256(Path("shop.sqlite").read_bytes()).digest() == before
        plan = Plan.read("main.plan.json")
        assert [(total.action, total.count) for total in plan.get_totals()] == [
            ("card.charge", 30),
            ("mail.receipt", 30),
        ]
        assert [(change.table, change.inserted) for change in plan.rows] == [("Payment", 30)]
        assert written(folder) == {"shop.sqlite", "main.plan.json"}


BAD = {
    "no file": (["nowhere.py:main"], 1, "nowhere.py: no such file; give FILE.py:FUNC or MODULE:FUNC"),
    "no module": (["nowhere:main"], 1, "nowhere: no such module; give FILE.py:FUNC or MODULE:FUNC"),
    "no function": (["program.py:gret"], 1, "program.py: has no function 'gret'; did you mean greet?"),
    "not even a near one": (["empty.py:main"], 1, "empty.py: has no function 'main'; there is none"),
    "plain function": (
        ["program.py:plain"],
        1,
        "program.py:plain: is no coroutine function; write `async def plain(...)`",
    ),
    "only a file": (["program.py"], 2, "program.py: says no function; give FILE.py:FUNC or MODULE:FUNC"),
    "missing target": ([], 2, "requires an argument. See asyncsandbox --help"),
    "unknown option": (["program.py:greet", "--loudly"], 2, "Unknown option: --loudly."),
    "wrong argument": (["program.py:greet", "--", "ada", "many"], 2, 'unable to convert "many" into int'),
    "two formats": (["program.py:greet", "--json", "--markdown"], 2, "exclude each other; give one"),
    "import error": (
        ["imports.py:main"],
        1,
        "imports.py:2: ModuleNotFoundError: No module named 'nosuch'; mend it and try again",
    ),
    "import error of a module": (["imports:main"], 1, "imports cannot be imported: "),
    "error in a module": (["raises:main"], 1, "raises.py:1: ZeroDivisionError: division by zero; mend it"),
    "syntax error": (["syntax.py:main"], 1, "syntax.py:1: SyntaxError: "),
    "leaves at import": (["leaves.py:main"], 1, "leaves.py:1: SystemExit: 3; mend it"),
    "live at import": (["live.py:main"], 1, "asyncio.run() cannot be called from a running event loop"),
    "taken name": (["json.py:main"], 1, "json.py: a module named 'json' is loaded already; rename the file"),
    "annotation": (
        ["program.py:odd"],
        1,
        "annotation of 'when': name 'Nonsense' is not defined; import it at run time",
    ),
    "no sandbox": (["none.py:main"], 1, "make_sandbox() returned int; let it return a Sandbox"),
    "live sandbox": (["golive.py:main"], 1, "make_sandbox(dry_run=True) is live; let it pass **overrides on"),
    "bad setting": (["setting.py:main"], 1, "shutdown_seconds=-1 is not allowed"),
    "looked at": (
        ["program.py:look"],
        1,
        "give 'mail.send' a dry_result= that makes up this value for dry runs (and 2 more like it)",
    ),
    "crash": (
        ["program.py:crash"],
        1,
        "the program raised ValueError under rehearsal; nothing was sent and no plan was written",
    ),
    "sys.exit": (["program.py:leave"], 1, "the program ended itself with sys.exit(7); nothing was sent"),
    "cancelled": (["program.py:stop"], 1, "the program raised CancelledError under rehearsal"),
    "missing database": (["program.py:open_database", "--", "no.sqlite"], 1, "no.sqlite: "),
    "no database": (["program.py:open_database", "--", "program.py"], 1, "program.py: "),
    "database at start": (["atstart.py:main"], 1, "no.sqlite: "),
    "out is a folder": (
        ["program.py:greet", "--out", "."],
        1,
        "cannot be written there (it is a folder); give another place",
    ),
    "out below a file": (
        ["program.py:greet", "--out", "program.py/x"],
        1,
        "is no folder that can be written to); give another",
    ),
}
MAKER = "from program import *\nasync def main(): ...\n"
FILES = {
    "empty.py": "",
    "imports.py": "x = 1\nimport nosuch\n",
    "raises.py": "1 / 0\n",
    "syntax.py": "def (\n",
    "leaves.py": "raise SystemExit(3)\n",
    "live.py": "import asyncio\nmain = asyncio.sleep\nasyncio.run(None)\n",
    "json.py": "",
    "none.py": "async def main(): ...\ndef make_sandbox(**_): return 1\n",
    "golive.py": MAKER + "def make_sandbox(dry_run): return Sandbox(dry_run=False)\n",
    "setting.py": MAKER + "def make_sandbox(**_): return Sandbox(shutdown_seconds=-1)\n",
    "atstart.py": MAKER + "def make_sandbox(**o): return Sandbox(database_url='sqlite:///no.sqlite', **o)\n",
}


class TestBadInput:
    @pytest.mark.parametrize("case", BAD)
    def test_ends_in_one_clear_line_and_writes_nothing(
        self, folder: Path, capsys: pytest.CaptureFixture[str], case: str
    ) -> None:
        arguments, code, said = BAD[case]
        for name, text in FILES.items():
            (folder / name).write_text(text)
        before = written(folder)
        assert run(["plan", *arguments]) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("asyncsandbox: ")]
        assert len(lines) == 1
        assert said in lines[0]
        assert "DRY RUN" not in out
        assert written(folder) == before

    def test_a_traceback_holds_the_users_frames_alone(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", "program.py:chained"]) == 1
        err = capsys.readouterr().err
        places = [line.split('"')[1] for line in err.splitlines() if line.startswith('  File "')]
        assert set(places) == {str(folder / "program.py")}
        assert "in inner" in err
        assert "KeyError: 'second'" in err
        assert "\x1b" not in err

    def test_an_error_from_a_library_is_told_from_the_users_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["plan", "program.py:foreign"]) == 1
        err = capsys.readouterr().err
        assert "json.loads" in err
        assert "decoder.py" not in err
        assert "JSONDecodeError: Expecting property name" in err

    def test_an_error_outside_the_users_code_keeps_its_last_frame(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["plan", "program.py:stop"]) == 1
        (folder / "calls.py").write_text("import asyncio\nasync def main(path): ...\nmain = asyncio.sleep\n")
        assert run(["plan", "calls.py:main", "--", "x"]) == 1
        assert capsys.readouterr().err.count("asyncsandbox: the program raised") == 2

    def test_a_disk_that_is_full_is_told(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full_disk(_handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        assert run(["plan", "program.py:greet"]) == 1
        assert "greet.plan.json: the plan cannot be written there (No space left on device)" in capsys.readouterr().err
        assert written(folder) == set()

    def test_a_locked_database_is_told(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "impatient.py").write_text(
            "from program import *\nfrom asyncsandbox import DatabaseSettings\n"
            "def make_sandbox(**o): return Sandbox(database=DatabaseSettings(busy_timeout_seconds=0.01), **o)\n"
        )
        with closing(sqlite3.connect("shop.sqlite", isolation_level=None)) as shop:
            shop.execute("CREATE TABLE t (x)")
            shop.execute("BEGIN EXCLUSIVE")
            assert run(["plan", "impatient.py:open_database", "--", "shop.sqlite"]) == 1
            shop.execute("ROLLBACK")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("asyncsandbox: shop.sqlite: ")

    def test_a_missing_extra_is_told_in_one_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "asyncsandbox.cli.commands", raising=False)
        monkeypatch.setitem(sys.modules, "cyclopts", None)
        assert run(["demo"]) == 1
        assert capsys.readouterr().err == (
            "asyncsandbox: the command line needs an extra: pip install 'asyncsandbox[cli]'\n"
        )

    def test_a_broken_package_is_not_mistaken_for_a_missing_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "asyncsandbox.cli.commands", raising=False)
        monkeypatch.setitem(sys.modules, "asyncsandbox.cli.target", None)
        with pytest.raises(ModuleNotFoundError):
            run(["demo"])


class TestPages:
    @pytest.mark.parametrize("page", ["docs/how-to/rehearse.md"])
    def test_what_a_page_shows_is_what_comes_out(
        self, folder: Path, capsys: pytest.CaptureFixture[str], page: str
    ) -> None:
        shutil.copy(EXAMPLES / "billing.py", folder)
        text = (EXAMPLES.parents[1] / page).read_text()
        blocks = re.findall(
            r"^```console\n\$ asyncsandbox ([^\n]+)\n((?!```).+?)^```$", text, flags=re.MULTILINE | re.DOTALL
        )
        assert len(blocks) >= 3
        for command, shown in blocks:
            run(shlex.split(command))
            assert without_moments("".join(capsys.readouterr())) == without_moments(shown)


def without_moments(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "MOMENT", text)
    return re.sub(r"\b[0-9a-f]{12}\b", "DIGEST", text)


class TestShow:
    @pytest.fixture(autouse=True)
    def _a_plan(self, folder: Path) -> None:
        with redirect_stdout(io.StringIO()):
            run(["plan", "program.py:greet", "--", "--times", "9"])

    def test_shows_what_plan_showed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", "greet.plan.json"]) == 0
        assert "... 6 more (asyncsandbox show greet.plan.json --action mail.send)" in capsys.readouterr().out

    def test_shows_one_action(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", "greet.plan.json", "--action", "mail.send", "--markdown"]) == 0
        assert capsys.readouterr().out.count("`to=ada-") == 9

    def test_json_is_the_file(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        assert run(["show", "greet.plan.json", "--json"]) == 0
        assert capfdbinary.readouterr().out == Path("greet.plan.json").read_bytes()

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["none.json"], 1, "none.json: No such file or directory; give the path"),
            (["program.py"], 1, "program.py: it is not complete JSON"),
            (["greet.plan.json", "--action", "mail.sent"], 1, "has no action 'mail.sent'; did you mean mail.send?"),
            (
                ["greet.plan.json", "--action", "x", "--json"],
                2,
                "--json always shows the whole plan; leave out --action",
            ),
        ],
        ids=["missing", "no plan", "no action", "json and action"],
    )
    def test_bad_input(self, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str) -> None:
        assert run(["show", *arguments]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda text: text[: len(text) // 2], "it is not complete JSON"),
            (lambda text: text.replace(b"ada-0", b"eve-0"), "it was changed after it was written"),
            (lambda text: text.replace(b'"asyncsandbox_plan": 1', b'"asyncsandbox_plan": 9'), "upgrade asyncsandbox"),
        ],
        ids=["truncated", "edited", "newer"],
    )
    def test_a_damaged_file(self, capsys: pytest.CaptureFixture[str], change, said: str) -> None:
        path = Path("greet.plan.json")
        path.write_bytes(change(path.read_bytes()))
        assert run(["show", str(path)]) == 1
        assert said in capsys.readouterr().err


class Screen(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class TestTerminal:
    @pytest.mark.parametrize(
        ("environ", "coloured"),
        [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
        ids=["yes", "no", "dumb"],
    )
    def test_colours_unless_they_are_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, coloured: bool
    ) -> None:
        for name, value in ({"NO_COLOR": "", "TERM": "xterm", "COLUMNS": "60"} | environ).items():
            monkeypatch.setenv(name, value)
        screen = Screen()
        monkeypatch.setattr(sys, "stdout", screen)
        assert run(["plan", "program.py:greet", "--", "x" * 200]) == 0
        shown = screen.getvalue()
        assert ("\x1b[" in shown) == coloured
        assert max(len(line) for line in shown.splitlines() if "xxx" in line and "ran" not in line) <= 70

    def test_progress_is_told_on_a_terminal_and_wiped(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncsandbox.cli.commands._PROGRESS_SECONDS", 0)
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        assert run(["plan", "program.py:greet", "--", "--times", "1200"]) == 0
        *_, last, wiped, end = screen.getvalue().split("\r")
        assert last == "rehearsing ... 1,200 actions held back"
        assert (wiped, end) == (" " * len(last), "")

    def test_a_quick_rehearsal_tells_no_progress(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncsandbox.cli.commands._PROGRESS_SECONDS", 3600)
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        assert run(["plan", "program.py:chatter"]) == 0
        assert screen.getvalue() == ""


class TestProcess:
    def test_version_and_help(self) -> None:
        assert spawn("--version").stdout.startswith("0.")
        shown = spawn("plan", "--help")
        assert (shown.returncode, "--detailed-exitcode" in shown.stdout) == (0, True)

    def test_main_ends_the_process_with_the_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["asyncsandbox", "nothing"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == ExitCode.USAGE

    def test_exit_codes_and_streams(self, folder: Path) -> None:
        ended = spawn("plan", "program.py:greet", "--json", "--detailed-exitcode")
        assert ended.returncode == 6
        assert json.loads(ended.stdout)["asyncsandbox_plan"] == 1
        assert spawn("plan", "program.py:missing").returncode == 1
        assert spawn("plan").returncode == 2

    def test_the_demonstration_runs(self, folder: Path) -> None:
        ended = spawn("demo")
        assert ended.returncode == 0
        assert ended.stderr == ""
        assert "ran    billing.py:main" in ended.stdout
        assert "1 of 12 amounts stands out:  inv-7 890.10" in ended.stdout
        assert "Payment  +12 ~0 -0" in ended.stdout
        assert written(folder) == set()

    def test_a_name_the_terminal_cannot_show_is_escaped(self, folder: Path) -> None:
        ended = spawn("plan", "program.py:greet", "--", "Zoë", env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert ended.returncode == 0
        assert "Zo\\xeb" in ended.stdout

    def test_a_reader_that_leaves_early_is_no_disaster(self, folder: Path) -> None:
        run(["plan", "program.py:greet", "--", "--times", "5000"])
        command = [sys.executable, "-m", "asyncsandbox", "show", "greet.plan.json", "--action", "mail.send"]
        # Unbuffered, Python itself does not notice that a pipe took only a part.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 1
            assert process.stderr.read() == b""

    def test_ctrl_c_is_quiet_and_writes_nothing(self, folder: Path) -> None:
        command = [sys.executable, "-m", "asyncsandbox", "plan", "program.py:hang"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"hanging\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == ExitCode.INTERRUPTED
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""
        assert written(folder) == set()

    def test_a_real_terminal_gets_colours(self, folder: Path) -> None:
        ours, theirs = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "90"}
        environ.pop("NO_COLOR", None)
        command = [sys.executable, "-m", "asyncsandbox", "plan", "program.py:greet"]
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environ) as process:
            os.close(theirs)
            shown = b""
            try:
                while part := os.read(ours, 4096):
                    shown += part
            except OSError:  # Linux says so when the other side has closed
                pass
            assert process.wait(60) == 0
        os.close(ours)
        assert b"\x1b[1mDRY RUN, nothing was sent" in shown

    def test_the_example_runs_for_real(self, tmp_path: Path) -> None:
        ended = subprocess.run(
            [sys.executable, str(EXAMPLES / "billing.py")],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=60,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.count("provider: ") == ended.stdout.count("your charge is ch_") == 12
