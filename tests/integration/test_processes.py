"""Real processes on one folder, one of them killed in the middle: all converge, and nothing acknowledged is lost."""

import os
import queue
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("device_process.py")
READINGS = 60
SILENCE_SECONDS = 90  # more than a device waits for anything
SMALL_PAGES = {"LOCALSTORE_PAGE_COUNT": "5"}  # many transactions while downloading, so that a kill lands among them


class DeviceProcess:
    """A running ``device_process.py`` and the lines it has said, as far as they are whole."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        remote = (folder / "remote").as_uri().replace("file:", "folder:", 1)
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder / f"{name}.db"), remote, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **SMALL_PAGES},
        )
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

    def heard(self) -> Iterator[list[str]]:
        """Line by line what the process says, as words, until it ends."""
        while (line := self._lines.get(timeout=SILENCE_SECONDS)) is not None:
            assert not line.startswith("error"), line
            yield line.split()

    def written(self, count: int) -> list[str]:
        """Wait for so many acknowledged writes; their ids."""
        ids: list[str] = []
        for words in self.heard():
            if words[0] == "written":
                ids.append(words[2])
            if len(ids) == count:
                return ids
        raise AssertionError(f"ended after {len(ids)} of {count} writes")

    def do(self, command: str) -> list[str]:
        """Have it do a command, which must come to an end; the writes it acknowledged before."""
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        ids: list[str] = []
        for words in self.heard():
            if words[0] == "written":
                ids.append(words[2])
            if words[0] == "done":
                assert words[1:] == [*command.split(), "True"]
                return ids
        raise AssertionError(f"ended before it was done with {command}")

    def kill(self) -> list[str]:
        """End it with no chance to tidy up; the writes it still had acknowledged."""
        self._process.kill()
        ids = [words[2] for words in self.heard() if words[0] == "written"]
        self._end()
        return ids

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
def device(folder: Path, name: str, count: int = READINGS) -> Iterator[DeviceProcess]:
    """A device that is ended whatever happens."""
    process = DeviceProcess(folder, name, count)
    try:
        yield process
    finally:
        process.close()


def contents(folder: Path, name: str) -> dict[str, list[tuple[object, ...]]]:
    """What a device's file holds, read without localstore, after a check that the file is sound."""
    with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM localstore_outbox").fetchone() == (0,)
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("reading", "latest")}


def check_converged(folder: Path, names: list[str], acknowledged: list[str]) -> None:
    """All devices hold the same, and all of what was acknowledged."""
    held = {name: contents(folder, name) for name in names}
    assert all(content == held[names[0]] for content in held.values())
    readings = {row[0] for row in held[names[0]]["reading"]}
    lost = [key for key in acknowledged if key.replace("-", "") not in readings]
    assert not lost


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_writer_killed_again_and_again_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: list[str] = []
    with ExitStack() as running:
        others = [running.enter_context(device(tmp_path, name)) for name in ("one", "two")]
        for _ in range(3):
            with device(tmp_path, "victim") as victim:
                acknowledged += victim.written(chance.randint(1, 15))
                acknowledged += victim.kill()
        everybody = [*others, running.enter_context(device(tmp_path, "victim"))]
        for process in everybody:
            acknowledged += process.do("upload")
        for process in everybody:
            process.do("download")
    assert len(set(acknowledged)) == len(acknowledged) > 2 * READINGS
    check_converged(tmp_path, ["one", "two", "victim"], acknowledged)
    assert len(contents(tmp_path, "one")["reading"]) == 3 * READINGS


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
def test_a_reader_killed_while_it_downloads_ends_up_with_everything(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with device(tmp_path, "writer") as writer:
        acknowledged = writer.do("upload")
    rows_at_kill = sorted(chance.sample(range(1, READINGS), 3))
    for rows in rows_at_kill:
        with device(tmp_path, "victim", count=0) as victim:
            victim.do(f"rows {rows}")
            victim.kill()
    with device(tmp_path, "victim", count=0) as victim:
        victim.do("download")
    check_converged(tmp_path, ["writer", "victim"], acknowledged)
