"""What tests of a hub's misfortunes share: hubs and devices as processes, and what the log holds in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

from localstore.adapter import Cursor, Hello, Limit
from localstore.testing.conformance import new_device
from localstore_adapters.sql import SqlAdapter
from tests.integration.device_kit import DeviceProcess, check_converged, device
from tests.integration.real_tools import until
from tests.postgres_server import PostgresServer

__all__ = [
    "APP",
    "EMAIL",
    "SEEDS",
    "HubProcess",
    "PostgresStore",
    "SqliteStore",
    "Store",
    "converge",
    "devices",
    "free_port",
    "grow",
    "hub",
    "numbers",
]

APP = "readings"
EMAIL, PASSWORD = "emma@example.com", "correct horse battery"
SEEDS = {"DEVICE_SEEDS": "yes"}
LOGGED_IN = {"DEVICE_EMAIL": EMAIL, "DEVICE_PASSWORD": PASSWORD}
_ROOT = Path(__file__).parents[2]
_HURRIED = {"backoff_initial": 0.05, "backoff_max": 0.5, "snapshot_every": 0, "page_count": 5000}
_PATIENCE = 120.0
_PORTS = range(21_000, 31_000)  # none that a system gives to clients: a hub comes back to its own


class Store(Protocol):
    """A database that a hub keeps its log in."""

    @property
    def url(self) -> str: ...

    def count(self) -> int:
        """How many changesets there are."""
        ...

    def back_up(self) -> None:
        """Keep a copy of it as it is now."""

    def restore(self) -> None:
        """Put the copy in its place."""

    def empty(self) -> None:
        """Put an empty one in its place."""


class SqliteStore:
    """A file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "hub.db"
        self._copy = folder / "hub.backup"

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    def count(self) -> int:
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
                return int(connection.execute("SELECT count(*) FROM localstore_log_changeset").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0

    def back_up(self) -> None:
        with closing(sqlite3.connect(self._path)) as connection, closing(sqlite3.connect(self._copy)) as copy:
            connection.backup(copy)

    def restore(self) -> None:
        self.empty()
        shutil.copyfile(self._copy, coming := self._path.with_suffix(".coming"))
        coming.rename(self._path)  # at once: somebody may be looking

    def empty(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


class PostgresStore:
    """A database of a server."""

    def __init__(self, server: PostgresServer, name: str = "faults") -> None:
        self._server = server
        self._name = name
        self.empty()

    @property
    def url(self) -> str:
        return self._server.url(self._name)

    def count(self) -> int:
        import psycopg

        try:
            with psycopg.connect(self.url) as connection:
                row = connection.execute("SELECT count(*) FROM localstore_log_changeset").fetchone()
                return 0 if row is None else int(row[0])
        except psycopg.Error:  # not made yet, or being restarted
            return 0

    def back_up(self) -> None:
        self._server.execute(f"DROP DATABASE IF EXISTS {self._name}_copy WITH (FORCE)")
        self._server.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")  # a template must not be in use
        self._server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")
        self._server.execute(f"CREATE DATABASE {self._name}_copy TEMPLATE {self._name}")
        self._server.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def restore(self) -> None:
        self._drop()
        self._server.execute(f"CREATE DATABASE {self._name} TEMPLATE {self._name}_copy")

    def empty(self) -> None:
        self._drop()
        self._server.execute(f"CREATE DATABASE {self._name}")

    def _drop(self) -> None:
        self._server.execute(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")


class HubProcess:
    """``localstore hub serve``, or another program that serves one, at one port for good.

    Args:
        store: URL of its log.
        folder: where it complains, in a file.
        program: arguments of the interpreter.
        host: where it listens.
        namespace: the network namespace that it runs in; None for the system's.
        settings: of the hub.
    """

    def __init__(
        self,
        store: str,
        folder: Path,
        *,
        program: Sequence[str] = ("-m", "localstore.cli", "hub", "serve"),
        host: str = "127.0.0.1",
        namespace: str | None = None,
        **settings: object,
    ) -> None:
        inside = [] if namespace is None else ["ip", "netns", "exec", namespace]
        self.host, self.port = host, free_port()
        self._command = [*inside, sys.executable, *program]
        given = {"store": store, "app": APP, "host": host, "port": self.port, "user_rate": 0, "address_rate": 0, **settings}
        self._environment = {f"LOCALSTORE_HUB_{name.upper()}": str(value) for name, value in given.items()}
        self._complaints = folder / f"hub-{self.port}.log"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        with self._complaints.open("a") as complaints:
            self._process = process = subprocess.Popen(
                self._command,
                cwd=_ROOT,
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
            )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving"), self.complaints()

    def tell(self, line: str) -> None:
        """Say something to a program that listens, and wait until it says that it is done."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == f"done {line}\n", self.complaints()

    def command(self, *words: str, say: str = "") -> None:
        """``localstore hub …`` on the same database."""
        done = subprocess.run(
            [sys.executable, "-m", "localstore.cli", "hub", *words],
            cwd=_ROOT,
            env={**os.environ, **self._environment},
            input=say,
            capture_output=True,
            encoding="utf-8",
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stderr

    def add_user(self) -> None:
        self.command("user", "add", EMAIL, "--password-file", "-", say=PASSWORD)

    def answered(self, call: str, status: int = 200) -> int:
        """How many requests of a kind were answered so since it was started."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=_PATIENCE) as response:
            lines = response.read().decode().splitlines()
        begin = f'localstore_hub_request_seconds_count{{call="{call}",status="{status}"}}'
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(begin))

    def complaints(self) -> str:
        return self._complaints.read_text()

    def kill(self) -> None:
        """With no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """As on a computer that has fallen asleep: its connections stay open, and nobody is at the other end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """In order."""
        if self._process is not None:
            self._process.terminate()
            self._wait()

    def _wait(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextmanager
def hub(store: str, folder: Path, *, users: bool = False, add_user: bool = True, **arguments: object) -> Iterator[HubProcess]:
    """A hub that is ended whatever happens. What it did not expect fails the test."""
    program = ["-m", "localstore.cli", "hub", "serve", *([] if users else ["--open"])]
    process = HubProcess(store, folder, **{"program": program, **arguments})  # type: ignore[arg-type]
    try:
        if users and add_user:
            process.add_user()
        yield process
        process.stop()
        assert "A request failed" not in process.complaints(), process.complaints()
    finally:
        process.kill()


@contextmanager
def devices(
    folder: Path,
    address: str,
    count: int,
    *,
    first: int = 0,
    users: bool = False,
    options: str = "",
    environment: Mapping[str, str] | None = None,
    may_err: bool = False,
    namespace: str | None = None,
    **settings: object,
) -> Iterator[list[DeviceProcess]]:
    """Devices of one hub, all in step with it; ``file_of(folder, number)`` is the file of each."""
    folder.mkdir(exist_ok=True)
    url = f"{address}?users={'yes' if users else 'no'}{options}"
    with ExitStack() as stack:
        running = []
        for number in range(first, first + count):
            given = {**_HURRIED, "directory": folder / f"logged-in-{number}", **settings}
            variables = {**(LOGGED_IN if users else {}), **(environment or {})}
            process = device(
                file_of(folder, number),
                url,
                may_err=may_err,
                namespace=namespace,
                environment=variables,
                **given,  # type: ignore[arg-type]
            )
            running.append(stack.enter_context(process))
        for one in running:
            one.do("synced")
        yield running


def file_of(folder: Path, number: int) -> Path:
    return folder / f"device{number}.db"


def converge(running: Sequence[DeviceProcess], files: Iterable[Path], *, store: Store | None = None) -> list[str]:
    """End the writing, and see that all devices come to hold all that was ever written.

    Returns:
        The ids of what was written.
    """
    for one in running:
        one.tell("end")
    for one in running:
        one.finish("end")
    written = [key for one in running for key in one.written]
    for command in ("upload", f"rows {len(written)}", "download", "synced"):
        for one in running:
            one.tell(command)
        for one in running:
            one.finish(command)
    check_converged(files, written)
    if store is not None:
        assert sum(numbers(store.url).values()) == store.count() == len(written), "each is there once"
    return written


def numbers(url: str) -> dict[bytes, int]:
    """The last number of each device in a log, which has each number before it once and in order."""

    async def read() -> dict[bytes, int]:
        adapter, last, cursor = SqlAdapter.from_url(url), dict[bytes, int](), None
        await adapter.connect(Hello(app=APP, partition="default", device=new_device()))
        try:
            while True:
                page = await adapter.pull(cursor, Limit())
                for sealed in page.changesets:
                    assert sealed.number == last.get(sealed.device, 0) + 1, "missed, or there twice"
                    last[sealed.device] = sealed.number
                cursor = Cursor(page.cursor)
                if not page.more:
                    return last
        finally:
            await adapter.close()

    return asyncio.run(read())


def grow(store: Store, count: int) -> None:
    """Wait until a log has so many changesets more."""
    goal = store.count() + count
    until(lambda: store.count() >= goal, f"a log of {goal} changesets")


def free_port() -> int:
    """A port that nobody listens on."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
