"""`PlanSnapshot`: the plan of a rehearsal as a file beside the test, to be reviewed like code.

>>> import tempfile
>>> from pathlib import Path
>>> from asyncsandbox.rehearsal import UTC, CodeManifest, Plan, datetime
>>> plan = Plan(planned_at=datetime.now(UTC), code=CodeManifest(python="", modules={}, distributions={}))
>>> folder = tempfile.TemporaryDirectory()
>>> snapshot = PlanSnapshot(Path(folder.name, "test_shop.py"), "test_shop.py::test_bill", update=True)
>>> snapshot.check(plan)
>>> print(Path(folder.name, "plan_snapshots", "test_shop", "test_bill.plan").read_text())
asyncsandbox plan snapshot 1
test_shop.py::test_bill
<BLANKLINE>
no actions
<BLANKLINE>
>>> folder.cleanup()
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError
from .errors import PlanSnapshotError
from .plan_text import difference, render

if TYPE_CHECKING:
    from pathlib import Path

    from ..rehearsal import Plan

__all__ = ["PlanSnapshot"]

FORMAT: Final = 1
"""Version of the files; a reader refuses newer ones."""
_FIRST_LINE: Final = "asyncsandbox plan snapshot"
_FOLDER: Final = "plan_snapshots"
_NAME: Final = re.compile(r"\w[\w -]*", re.ASCII)
_UNSAFE: Final = re.compile(r'[^ -~]|["*/:<>?\\|]')  # in the name of a file, on some system
_LONGEST: Final = 100


class PlanSnapshot:
    """What the fixture `plan_snapshot` gives: it compares plans with the files beside a test.

    It promises that a file is written whole or not at all, and only on demand, and that no value that was declared as
    to be masked gets into one.

    Args:
        test_file: The file of the test; snapshots are kept in the folder ``plan_snapshots`` beside it.
        test: The test, as pytest calls it: ``tests/test_shop.py::test_bill[eur]``.
        update: Whether to write a snapshot that is missing or differs, instead of failing.

    Attributes:
        written: The files it wrote.

    Concurrency: for one test; tests may run in parallel. Cancellation: nothing here waits.
    """

    def __init__(self, test_file: Path, test: str, *, update: bool = False) -> None:
        self.written: list[Path] = []
        self._test = test
        self._inside = test.partition("::")[2]
        self._file = test_file.name
        self._folder = test_file.parent / _FOLDER / test_file.stem
        self._update = update
        self._checked: dict[str, str] = {}

    def check(self, plan: Plan, name: str = "") -> None:
        """Compare a plan with its snapshot. Blocks for as long as the disk takes.

        Args:
            plan: What a rehearsal gave.
            name: Tells the snapshots of one test apart: letters, digits, blanks, ``_`` and ``-``.

        Raises:
            PlanSnapshotError: There is no snapshot, or it is of another plan, or cannot be read.
            ConfigurationError: The name cannot be part of the name of a file.
            OSError: The file cannot be read or written.
        """
        __tracebackhide__ = True
        if name and not _NAME.fullmatch(name):
            raise ConfigurationError("plan_snapshot.check: name", name, "use letters, digits, blanks, _ and -")
        text = render(plan)
        path = self._folder / f"{_file_name(self._inside)}{f'.{name}' if name else ''}.plan"
        shown = os.path.relpath(path)
        before = self._checked.setdefault(name, text)
        if before != text:
            problem = f"the same test checked another plan before:\n{difference(before, text)}\n"
            raise PlanSnapshotError(shown, problem, 'give each a name: plan_snapshot.check(plan, "after the refund")')
        title = f"{self._file}::{self._inside}{f', {name}' if name else ''}"
        stored = self._read(path, shown, title)
        if stored == text:
            return
        if self._update:
            _write(path, f"{_FIRST_LINE} {FORMAT}\n{title}\n\n{text}")
            self.written.append(path)
        elif stored is None:
            raise PlanSnapshotError(shown, "there is no snapshot yet", f"write it by: {self._command}")
        else:
            problem = f"the plan is another one now:\n{difference(stored, text)}\n"
            raise PlanSnapshotError(shown, problem, f"if that is right, renew the snapshot by: {self._command}")

    @property
    def _command(self) -> str:
        return f"pytest {shlex.quote(self._test)} --plan-snapshot-update"

    def _read(self, path: Path, shown: str, title: str) -> str | None:
        """Return what a file says of its plan; None where there is none, or only one to be written over.

        Raises:
            PlanSnapshotError: It is no snapshot, or a newer one, or of another test.
        """
        try:
            first, _, rest = path.read_text("utf-8").partition("\n")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            first, rest = "", ""
        found = re.fullmatch(rf"{_FIRST_LINE} (\d+)", first)
        if found is None:
            if self._update:
                return None
            raise PlanSnapshotError(shown, "it is no plan snapshot", f"write it anew by: {self._command}")
        if int(found[1]) > FORMAT:
            problem = f"it has format {found[1]} and this version reads up to {FORMAT}"
            raise PlanSnapshotError(shown, problem, "upgrade asyncsandbox")
        owner, _, text = rest.partition("\n\n")
        if owner != title:
            problem = f"it belongs to {owner}, not to {title}"
            remedy = "delete it, and have names differ in more than upper and lower case"
            raise PlanSnapshotError(shown, problem, remedy)
        return text


def _file_name(test: str) -> str:
    """Return a name that every system takes; what cannot stand in it is told apart by a digest."""
    name = test.replace("::", ".")
    safe = _UNSAFE.sub("_", name)[:_LONGEST]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
