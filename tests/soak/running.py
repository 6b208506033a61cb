"""Devices under churn for a while, each a process, and what they take all the time."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tests.integration.fault_kit import free_port
from tests.soak.device import NO_LEAK
from tests.soak.figures import ALLOWANCES, Verdict, judge, of_files, of_process, of_remote

__all__ = ["REMOTES", "Soak", "same_rows", "soak"]

REMOTES = ("folder", "sql", "hub")
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300
PAUSE_SECONDS = 1.2
SAMPLES = 1500  # in a run
SAMPLE_SECONDS_MIN = 0.5
KEEP_PART = 0.05  # of a run, for which history is kept behind a snapshot, so that a run trims many times
SNAPSHOTS = 20  # in a run, by what one device does: so each window that is judged holds several teeth of the remote's saw
UNFIT = {"hub": {"remote bytes", "remote files"}}
"""What must grow: a hub keeps history for a day at least."""
Series = dict[tuple[str, str], list[tuple[float, float]]]


@dataclass
class Soak:
    """A run: what was measured of whom, and what each device said that it did."""

    series: Series = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, seconds: float, who: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.series.setdefault((who, name), []).append((seconds, value))

    def verdicts(self, remote: str) -> Iterator[tuple[str, str, Verdict]]:
        """One of each figure that has to be flat."""
        for (who, name), samples in self.series.items():
            if not (who == "remote" and name in UNFIT.get(remote, ())):
                yield who, name, judge(samples, ALLOWANCES[name])

    def now(self) -> str:
        """The last of each figure, in a line for a person."""
        parts: dict[str, list[str]] = {}
        for (who, name), samples in self.series.items():
            parts.setdefault(who, []).append(f"{samples[-1][1] / ALLOWANCES[name].unit:.4g} {name}")
        return "; ".join(f"{who}: {', '.join(figures)}" for who, figures in parts.items())


class _Process:
    """A process that is ended whatever happens."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> str:
        """The next line that it says; empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self) -> None:
        """Have it take the next step, with an empty line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def check_alive(self) -> None:
        assert self._process.poll() is None, f"ended with {self._process.returncode}: {self._log.read_text()}"

    def said(self) -> str:
        """What it says in the end, a good one."""
        said, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        assert self._process.returncode == 0, f"ended with {self._process.returncode}: {self._log.read_text()}"
        return said

    def kill(self) -> None:
        self._process.kill()
        with suppress(ValueError):  # its pipes are closed
            self._process.communicate()


@contextmanager
def _process(arguments: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[_Process]:
    process = _Process(arguments, environment or {}, log)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def _remote(kind: str, folder: Path) -> Iterator[tuple[str, _Process | None]]:
    """Its URL, and the process that serves it, if any."""
    place = folder / "remote"
    place.mkdir()
    if kind == "folder":
        yield (place / "shared").as_uri().replace("file:", "folder:", 1), None
    elif kind == "sql":
        yield f"sqlite:///{place / 'log.db'}", None
    else:
        port = free_port()
        given = {"store": f"sqlite:///{place / 'log.db'}", "app": "soak", "host": "127.0.0.1", "port": port, "horizon_days": 1}
        given |= {"devices_write_snapshots": "true", "user_rate": 0, "address_rate": 0}
        environment = {f"LOCALSTORE_HUB_{name.upper()}": str(value) for name, value in given.items()}
        arguments = ["-m", "localstore.cli", "hub", "serve", "--open"]
        with _process(arguments, folder / "hub.log", environment) as hub:
            assert hub.hear().startswith("Serving"), (folder / "hub.log").read_text()
            yield f"http://127.0.0.1:{port}?users=no", hub


def soak(
    folder: Path,
    *,
    seconds: float,
    devices: int,
    remote: str,
    seed: int,
    tell: Callable[[float, Soak], object],
    pause_seconds: float = PAUSE_SECONDS,
    leaks: Mapping[int, str] = MappingProxyType({}),
) -> Soak:
    """Run devices under churn, and measure all the time.

    Args:
        folder: an empty one, for all files.
        seconds: how long.
        devices: how many.
        remote: one of ``REMOTES``.
        seed: of what the devices do.
        tell: called after each sample, with the seconds that have passed.
        pause_seconds: between two transactions of a device, on average.
        leaks: what leaks in which device, to see that it is told: see ``device.Leak``.

    Raises:
        AssertionError: a device failed.
    """
    run, keep_seconds = Soak(), max(5.0, KEEP_PART * seconds)
    every = int(min(150, max(15, seconds / pause_seconds / SNAPSHOTS)))  # changesets
    files = {f"device {number}": folder / f"device-{number}.db" for number in range(1, devices + 1)}
    with ExitStack() as stack:
        url, hub = stack.enter_context(_remote(remote, folder))
        running = {"hub": hub} if hub is not None else {}
        begun = time.monotonic()
        for number, (name, file) in enumerate(files.items()):
            said = [file, url, keep_seconds, every, seed * 1000 + number, pause_seconds, leaks.get(number + 1, NO_LEAK)]
            arguments = ["-m", "tests.soak.device", *map(str, said)]
            running[name] = stack.enter_context(_process(arguments, folder / f"{file.stem}.log"))
        while (passed := time.monotonic() - begun) < seconds:
            time.sleep(min(max(seconds / SAMPLES, SAMPLE_SECONDS_MIN), max(0.01, seconds - passed)))
            _measure(run, time.monotonic() - begun, running, files, folder / "remote")
            tell(time.monotonic() - begun, run)
        for name in files:
            running[name].tell()
        for name in files:
            assert running[name].hear() == "settled\n", running[name].said()
        for name in files:
            running[name].tell()
        run.counts = {name: json.loads(running[name].said()) for name in files}
    return run


def _measure(run: Soak, passed: float, running: Mapping[str, _Process], files: Mapping[str, Path], remote: Path) -> None:
    for name, process in running.items():
        process.check_alive()
        run.take(passed, name, of_process(process.pid))
    for name, file in files.items():
        run.take(passed, name, of_files(file))
    run.take(passed, "remote", of_remote(remote))


def same_rows(folder: Path, devices: int) -> int:
    """How many rows each device has in the end, all of them the same in sound files."""
    contents = [_rows(folder / f"device-{number}.db") for number in range(1, devices + 1)]
    assert all(other == contents[0] for other in contents), "the devices differ"
    return sum(map(len, contents[0]))


def _rows(file: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in ("place", "parcel")]
