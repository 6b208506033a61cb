"""Devices as processes (``device_process.py``), and what their files hold in the end."""

from __future__ import annotations

import os
import queue
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["DeviceProcess", "check_converged", "contents", "device", "identity"]

SCRIPT = Path(__file__).with_name("device_process.py")
SILENCE_SECONDS = 150  # more than a device waits for anything
PAGE_COUNT = 5  # many transactions while downloading, so that a kill lands among them


class DeviceProcess:
    """A running ``device_process.py``, and what it has said, as far as it was listened to.

    Args:
        database: its file.
        remote: its remote, a folder or a URL.
        count: how many readings it writes before it takes commands.
        may_err: whether errors are kept; else the first one fails the test.
        keep_seconds: how long it keeps history behind a snapshot.
        namespace: the network namespace that it runs in; None for the system's.
        environment: variables for it, besides the settings.
        settings: of the library.

    Attributes:
        written: the ids of the readings that it said were committed.
        errors: what its error handler was given.
    """

    def __init__(
        self,
        database: Path,
        remote: Path | str,
        count: int,
        *,
        may_err: bool,
        keep_seconds: float | None,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        url = remote if isinstance(remote, str) else remote.as_uri().replace("file:", "folder:", 1)
        keep = [] if keep_seconds is None else [str(keep_seconds)]
        chosen = {f"LOCALSTORE_{name.upper()}": str(value) for name, value in settings.items()}
        inside = [] if namespace is None else ["ip", "netns", "exec", namespace]
        self._process = subprocess.Popen(
            [*inside, sys.executable, str(SCRIPT), str(database), url, database.stem, str(count), *keep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **(environment or {}), **chosen},
        )
        self.written: list[str] = []
        self.errors: list[str] = []
        self._may_err = may_err
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                if line.endswith("\n"):
                    self._lines.put(line.strip())
        self._lines.put(None)

    def _heard(self) -> Iterator[list[str]]:
        """Line by line what the process says, as words, until it ends."""
        while (line := self._lines.get(timeout=SILENCE_SECONDS)) is not None:
            words = line.split()
            if words[0] == "written":
                self.written.append(words[2])
            elif words[0] == "error":
                assert self._may_err, line
                self.errors.append(line)
            yield words

    def write(self, count: int) -> None:
        """Wait until it has said so many more committed readings."""
        wanted = len(self.written) + count
        for _ in self._heard():
            if len(self.written) == wanted:
                return
        raise AssertionError(f"ended after {len(self.written)} of {wanted} writes")

    def tell(self, command: str) -> None:
        """Have it do a command, and do not wait."""
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)

    def finish(self, command: str) -> None:
        """Wait until it is done with a command, which must have come to a good end."""
        for words in self._heard():
            if words[0] == "done":
                assert words[1:] == [*command.split(), "True"]
                return
        raise AssertionError(f"ended before it was done with {command}")

    def do(self, command: str) -> None:
        """Have it do a command, which must come to a good end."""
        self.tell(command)
        self.finish(command)

    def complain(self, text: str) -> None:
        """Wait until its error handler was given an error that says this."""
        if any(text in error for error in self.errors):
            return
        for _ in self._heard():
            if self.errors and text in self.errors[-1]:
                return
        raise AssertionError(f"ended without a word about {text}")

    def kill(self) -> None:
        """End it with no chance to tidy up, and hear what it had said."""
        self._process.kill()
        for _ in self._heard():
            pass
        self._end()

    def close(self) -> None:
        """End it in order, if it has not ended."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(SILENCE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()


@contextmanager
def device(
    database: Path,
    remote: Path | str,
    count: int = 0,
    *,
    may_err: bool = False,
    keep_seconds: float | None = None,
    page_count: int = PAGE_COUNT,
    namespace: str | None = None,
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[DeviceProcess]:
    """A device that is ended whatever happens."""
    process = DeviceProcess(
        database,
        remote,
        count,
        may_err=may_err,
        keep_seconds=keep_seconds,
        namespace=namespace,
        environment=environment,
        **{"page_count": page_count, **settings},
    )
    try:
        yield process
    finally:
        process.close()


def contents(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """What a device's file holds, read without localstore, after a check that the file is sound."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM localstore_outbox").fetchone() == (0,)
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("reading", "latest")}


def identity(database: Path) -> str:
    """The name of a device's directory at the remote; a client reset gives it another."""
    with closing(sqlite3.connect(database)) as connection:
        device: bytes = connection.execute("SELECT device FROM localstore_state").fetchone()[0]
        return device.hex()


def check_converged(databases: Iterable[Path], acknowledged: Iterable[str]) -> None:
    """All devices hold the same, and all of what was acknowledged."""
    first, *others = [contents(database) for database in databases]
    assert all(other == first for other in others)
    readings = {row[0] for row in first["reading"]}
    assert not [key for key in acknowledged if key.replace("-", "") not in readings]
