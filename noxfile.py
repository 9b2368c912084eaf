"""All chores. Needs Python 3.11 or newer and nothing else: it sets itself up under `.nox/`.

    python3 noxfile.py              every gate: lint types contracts tests coverage docs
    python3 noxfile.py -s tests     the test suite, against the built wheel, on every Python found
    python3 noxfile.py -s demo      the demonstration
    python3 noxfile.py -l           what else there is

Words after `--` go to the tool: `python3 noxfile.py -s tests -- -k retry`. With nox installed,
`nox -s tests` does the same.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NOX = "nox[uv]>=2025.5"
PYTEST = ("pytest", "-n", "auto", "--dist", "worksteal")
WHOLE = ("--hypothesis-profile=ci",)
BRIEF = ("--hypothesis-profile=brief", "-m", "not long")


def bootstrap() -> None:
    """Give this script a nox of its own in `.nox/.bootstrap`, then become it."""
    home = Path(__file__).resolve().parent / ".nox" / ".bootstrap"
    python = str(home / "bin" / "python")
    if not (home / "bin" / "nox").exists():
        say("setting up nox in .nox/.bootstrap (once)")
        if find_spec("ensurepip") is None:
            add_venv_package(f"python3.{sys.version_info[1]}-venv")
        run(sys.executable, "-m", "venv", "--clear", str(home), remedy="Install Python's venv module.")
        run(python, "-m", "pip", "install", "-q", NOX, remedy="Check the network, or set PIP_INDEX_URL.")
    settings = output(python, "-m", "pip", "config", "list")  # uv does not read pip's settings
    for option, variable in {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}.items():
        found = re.search(rf"\.{option}='(.+)'", settings)
        if found:
            os.environ.setdefault(variable, found[1])
    os.execv(python, [python, "-m", "nox", "-f", __file__, *sys.argv[1:]])


def add_venv_package(package: str) -> None:
    """Debian's Python comes without ensurepip; without it no virtual environment gets a pip."""
    remedy = f"Install {package}, then try again."
    if not shutil.which("apt-get"):
        sys.exit(f"noxfile.py: this Python has no ensurepip. {remedy}")
    say(f"this Python has no ensurepip, so apt-get installs {package}")
    apt = ["apt-get"] if os.geteuid() == 0 else ["sudo", "apt-get"]
    run(*apt, "update", "-qq", remedy=remedy)
    run(*apt, "install", "-qq", "--yes", "--no-install-recommends", package, remedy=remedy)


def run(*command: str, remedy: str) -> None:
    """Run one set-up command; when it fails, stop with the remedy."""
    if not shutil.which(command[0]) or subprocess.run(command, check=False).returncode:
        sys.exit(f"noxfile.py: `{' '.join(command)}` failed. {remedy}")


def output(*command: str) -> str:
    """What a command prints; nothing when it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ended.returncode else ended.stdout


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"noxfile.py: {text}", flush=True)


if sys.version_info < (3, 11):
    sys.exit(f"noxfile.py: asyncsandbox needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
if __name__ == "__main__":
    bootstrap()

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "contracts", "tests", "coverage", "docs"]

PROJECT = nox.project.load_toml("pyproject.toml")


def pythons() -> list[str]:
    """The supported Pythons that start on this machine (a pyenv shim may be there and refuse to)."""
    supported = nox.project.python_versions(PROJECT)
    if shutil.which("pyenv"):
        chosen = os.environ.get("PYENV_VERSION", "").split(":")
        installed = output("pyenv", "versions", "--bare").split()
        chosen += [name for name in installed if name.rpartition(".")[0] in supported]
        os.environ["PYENV_VERSION"] = ":".join(filter(None, chosen))
    starting = [v for v in supported if shutil.which(f"python{v}") and output(f"python{v}", "-V")]
    return starting or [sys.executable]


def dependencies(session: nox.Session, *groups: str) -> None:
    """Install dependency groups."""
    session.install(*nox.project.dependency_groups(PROJECT, *groups))


def wheel(session: nox.Session) -> str:
    """Build the wheel that users get, and return where it is."""
    session.install(*PROJECT["build-system"]["requires"])
    # Not in create_tmp(): that makes it TMPDIR, and tests that make projects of their own would make them inside ours.
    folder = Path(session.virtualenv.location) / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("hatchling", "build", "-t", "wheel", "-d", str(folder), silent=True)
    (built,) = folder.glob("*.whl")
    return str(built)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and spelling."""
    dependencies(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Type checkers at their strictest, on the package and tests/typing."""
    dependencies(session, "types")
    session.install("-e", ".[all]")
    session.run("mypy", *(path for path in ("asyncsandbox", "tests/typing") if Path(path).is_dir()))
    session.run("pyright", *session.posargs)


@nox.session
def contracts(session: nox.Session) -> None:
    """Layers point down; components never import each other."""
    dependencies(session, "lint")
    session.install("-e", ".[all]")
    session.run("lint-imports", "--no-logo", *session.posargs)


@nox.session(python=pythons())
def tests(session: nox.Session) -> None:
    """The test suite against the built wheel, on every Python found; what takes long on the newest alone."""
    dependencies(session, "test")
    session.install(f"{wheel(session)}[all]")
    extent = WHOLE if session.python == pythons()[-1] else BRIEF
    session.run(*PYTEST, *extent, *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Every branch taken by a plain test; simulations, which `tests` runs as well, add none."""
    dependencies(session, "test")
    session.install("-e", ".[all]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", *PYTEST, *BRIEF, "tests/unit", "tests/contract", *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages build without a warning; every example in them and in the docstrings runs."""
    dependencies(session, "docs")
    session.install("-e", ".[all]")
    session.run("sphinx-build", "-nqW", "--keep-going", "docs", "docs/_build")
    session.run("pytest", "asyncsandbox", "docs", "README.md", *session.posargs)


@nox.session(python=pythons()[-1])
def bench(session: nox.Session) -> None:
    """The benchmarks, beside their peers; docs/benchmarks.md is written anew unless some are named after `--`."""
    dependencies(session, "bench", "bench-testing")
    session.install(f"{wheel(session)}[all]")
    session.run("python", "benchmarks/report.py", *(session.posargs or ["--write", "docs/benchmarks.md"]))


@nox.session
def demo(session: nox.Session) -> None:
    """Install asyncsandbox as a user does, and run its demonstration."""
    session.install(f"{wheel(session)}[cli]")
    session.run("asyncsandbox", "demo", *session.posargs)
