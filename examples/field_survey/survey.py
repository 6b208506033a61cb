"""Runs the survey: starts one process an island, takes all of them through the phases, and collects what they report."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from examples.field_survey.data import ISLANDS
from examples.field_survey.reports import Failed, Finished, Phase, Report, Result, Status, decode

__all__ = ["Survey", "SurveyError", "View"]

PHASE_SECONDS = 60  # more than a device waits for anything
END_SECONDS = 5


class View(Protocol):
    """Where the survey can be watched."""

    def headline(self, text: str) -> None:
        """What happens from now on."""
        ...

    def status(self, island: str, status: Status) -> None:
        """How a device is right now."""
        ...


class SurveyError(Exception):
    """A device did not do what it should; the message says which and where its log is."""


@dataclass
class _DeviceProcess:
    process: subprocess.Popen[str]
    reader: threading.Thread
    log: Path


class Survey:
    """Three devices and the disk that they share. Leaving the ``with`` block ends every process.

    Args:
        directory: an empty directory for databases, logs and the disk.
        view: where to show what happens.
        pace: seconds that a device rests after each day's data, for the eye; between phases all rest longer.
    """

    def __init__(self, directory: Path, view: View, *, pace: float) -> None:
        self.disk = directory / "shared-disk"
        self._directory = directory
        self._view = view
        self._reports: queue.Queue[tuple[str, Report | None]] = queue.Queue()
        self._rest_seconds = 10 * pace
        self._results: dict[str, Result] = {}
        self._devices = {island: self._start(island, pace) for island in ISLANDS}

    def run(self) -> dict[str, Result]:
        """Offline, online, offline with conflicting edits, online again; what each device holds at the end."""
        self._headline("The shared disk is not plugged in. Each island enters what it measured.")
        self._phase(Phase.ENTER)
        self._headline("The disk is plugged in.")
        self.disk.mkdir()
        self._phase(Phase.UPLOAD)
        self._phase(Phase.DOWNLOAD)
        self._headline("All pause sync and change the same things, one island after the other.")
        for island in ISLANDS:
            self._phase(Phase.EDIT, [island])
        self._headline("All resume.")
        self._phase(Phase.UPLOAD)
        self._phase(Phase.DOWNLOAD)
        self._phase(Phase.RESULT)
        return {island: self._results[island] for island in ISLANDS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for device in self._devices.values():
            if device.process.stdin and not device.process.stdin.closed:
                device.process.stdin.close()  # the device closes its realm and ends
        deadline = time.monotonic() + END_SECONDS
        for device in self._devices.values():
            try:
                device.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                device.process.kill()
                device.process.wait()
            device.reader.join()

    def _start(self, island: str, pace: float) -> _DeviceProcess:
        log = self._directory / f"{island.lower()}.log"
        remote = (self.disk / "survey").as_uri().replace("file:", "folder:", 1)
        options = ["--database", str(self._directory / f"{island.lower()}.db"), "--remote", remote, "--pace", str(pace)]
        sources = str(Path(__file__).parents[2])
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "examples.field_survey.device", island, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))},
                start_new_session=True,  # ctrl-C is for us; we end the devices in order
            )
        reader = threading.Thread(target=self._read, args=(island, process))
        reader.start()
        return _DeviceProcess(process, reader, log)

    def _read(self, island: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._reports.put((island, decode(line)))
        self._reports.put((island, None))

    def _headline(self, text: str) -> None:
        """Say what comes next, after time enough to see how things are."""
        deadline = time.monotonic() + self._rest_seconds
        while (seconds := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                self._take(*self._reports.get(timeout=seconds))
        self._view.headline(text)

    def _phase(self, phase: Phase, islands: Sequence[str] = ISLANDS) -> None:
        """Have some devices do a phase, and return when all of them are done."""
        for island in islands:
            stdin = self._devices[island].process.stdin
            assert stdin is not None
            try:
                print(phase.name, file=stdin, flush=True)
            except BrokenPipeError as error:
                raise self._failure(island, "its process has ended") from error
        waiting = set(islands)
        deadline = time.monotonic() + PHASE_SECONDS
        while waiting:
            try:
                island, report = self._reports.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty as error:
                raise self._failure(min(waiting), f"not done with {phase.value!r} after {PHASE_SECONDS} seconds") from error
            self._take(island, report)
            if isinstance(report, Finished):
                waiting.discard(island)

    def _take(self, island: str, report: Report | None) -> None:
        match report:
            case None:
                raise self._failure(island, "its process has ended")
            case Failed(reason):
                raise self._failure(island, reason)
            case Status():
                self._view.status(island, report)
            case Result():
                self._results[island] = report
            case Finished():
                pass

    def _failure(self, island: str, reason: str) -> SurveyError:
        return SurveyError(f"{island}: {reason}. Its log: {self._devices[island].log}")
