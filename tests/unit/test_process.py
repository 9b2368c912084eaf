"""A process is proven dead only if it is."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch

from asyncsandbox._core import process
from asyncsandbox._core.process import Process, is_proven_dead, parse_process, this_process

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nothing is proven elsewhere")
FREE = 2**22 + 1  # above the kernel's highest pid_max, so no process ever has this number


@dataclass(frozen=True)
class World:
    """What the kernel shows of the process that is asked for, and how that process was written down."""

    same_boot: bool
    same_namespace: bool
    shown: str  # "running", "zombie", "later" (its number was used again), "hidden", "garbled" or "none"
    own_mount: bool


WORLDS = st.builds(
    World,
    same_boot=st.sampled_from([True, True, False]),
    same_namespace=st.sampled_from([True, True, False]),
    shown=st.sampled_from(["running", "zombie", "later", "hidden", "garbled", "none"]),
    own_mount=st.sampled_from([True, True, False]),
)


def build(folder: Path, world: World) -> tuple[Path, Process]:
    """Draw such a /proc, and return the process to ask for."""
    proc = folder / f"proc{len(list(folder.iterdir()))}"
    (proc / "sys/kernel/random").mkdir(parents=True)
    (proc / "sys/kernel/random/boot_id").write_text("boot-1\n")
    me = proc / str(os.getpid())
    (me / "ns").mkdir(parents=True)
    (me / "ns/pid").touch()
    write_stat(me, "S", 5)
    (proc / "self").symlink_to(str(os.getpid()))
    other = replace(this_process(proc), pid=os.getppid() if world.shown == "hidden" else FREE, ticks=77)
    if world.shown not in ("hidden", "none"):
        there = proc / str(other.pid)
        there.mkdir()
        write_stat(there, "Z" if world.shown == "zombie" else "R", 78 if world.shown == "later" else 77)
        if world.shown == "garbled":
            (there / "stat").write_text("no brackets")
    if not world.same_boot:
        (proc / "sys/kernel/random/boot_id").write_text("boot-2\n")
    if not world.same_namespace:
        (me / "ns/pid").rename(me / "ns/old")
        (me / "ns/pid").touch()
    if not world.own_mount:
        (proc / "self").unlink()
        (proc / "1").mkdir(exist_ok=True)
        (proc / "self").symlink_to("1")
    return proc, other


def write_stat(folder: Path, state: str, ticks: int) -> None:
    numbers = ["0"] * 18
    (folder / "stat").write_text(f"7 (a ) b( c) {state} {' '.join(numbers)} {ticks} 0 0\n")


def judge(folder: Path, world: World) -> None:
    proc, other = build(folder, world)
    if world.shown == "garbled" and not Path("/proc").exists():  # pragma: no cover - Linux has one
        return
    here = world.same_boot and world.same_namespace and world.own_mount
    dead = world.shown in ("zombie", "later", "none", "garbled")  # garbled: the kernel knows no such number
    assert is_proven_dead(other, proc) == (here and dead)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


@given(world=WORLDS)
def test_dead_is_who_is_not_there_any_more_in_the_same_place(folder: Path, world: World) -> None:
    judge(folder, world)


def looks_at_numbers_only(proc: Path, pid: int, right: Any = process._look_at) -> tuple[str, int] | None:
    found = right(proc, pid)
    return None if found is None else (found[0], 77)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_place", lambda proc: "everywhere the same"),
        ("_look_at", looks_at_numbers_only),
        ("_may_exist", lambda pid: False),
        ("_DEAD_STATES", frozenset()),
    ],
)  # fmt: skip
def test_the_property_catches(folder: Path, name: str, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, name, wrong)
    must_catch(lambda world: judge(folder, world), WORLDS)


def test_a_number_used_again_is_another_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, other = build(folder, World(same_boot=True, same_namespace=True, shown="later", own_mount=True))
    assert is_proven_dead(other, proc)
    assert not is_proven_dead(replace(other, ticks=78), proc)


@linux
def test_a_real_process_lives_is_a_zombie_and_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = process._look_at(process.PROC, child.pid)
        assert found is not None
        written = parse_process(str(replace(this_process(), pid=child.pid, ticks=found[1])))
        assert not is_proven_dead(written)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has fetched it
    assert is_proven_dead(written)
    child.communicate()
    assert is_proven_dead(written)


@linux
def test_who_asks_is_alive_and_a_fork_is_somebody_else() -> None:
    me = this_process()
    assert not is_proven_dead(me)
    assert (me.place != "", me.pid, me.ticks > 0) == (True, os.getpid(), True)
    assert is_proven_dead(replace(me, ticks=me.ticks + 1))


@pytest.mark.parametrize("missing", ["self", "sys/kernel/random/boot_id", "everything"])
def test_where_nothing_can_be_seen_nothing_is_proven(folder: Path, missing: str) -> None:
    proc, other = build(folder, World(same_boot=True, same_namespace=True, shown="none", own_mount=True))
    if missing == "everything":
        proc = folder / "nowhere"
    else:
        (proc / missing).unlink()
    assert not is_proven_dead(other, proc)
    me = this_process(proc)
    assert me == Process("", os.getpid(), 0)
    assert not is_proven_dead(me)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "a/1", "a/1/2/3", "a/-1/2", "a/²/2"])
def test_what_is_no_process_is_never_dead(text: str) -> None:
    assert parse_process(text) == Process("", 0, 0)
    assert not is_proven_dead(parse_process(text))


def test_a_number_no_process_can_have_proves_nothing() -> None:
    assert process._may_exist(2**80)
    assert process._may_exist(os.getpid())
    assert not process._may_exist(FREE)
