"""What part of the processor waiting for news takes, in a folder with many files: told by the system, or looking now and then.

An empty folder that is told of is among the cases of ``sessions``.
"""

import asyncio
import dataclasses
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from benchmarks.device import WAIT_SECONDS, at_rest, bare_watch, device
from benchmarks.kit import Case
from benchmarks.processes import number_of
from benchmarks.snapshots import kept_directory
from localstore import Realm
from localstore.adapter import Capabilities, Hello
from localstore.testing.conformance import make_changeset
from localstore_adapters._folder_files import write_changes
from localstore_adapters.folder import FolderAdapter

__all__ = ["CASES", "wait_in_a_way"]

FILES, DEVICES = 10_000, 10
POLL_SECONDS = 5.0  # what the adapter chooses for network shares
_READER = b"R" * 16
_MEMORY = "/dev/shm"


class _Polled(FolderAdapter):
    """Is told of nothing, as on a network share."""

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, watch=False, poll_seconds=POLL_SECONDS)


@cache
def _folder(files: int) -> Path:
    """A folder to which ten devices have written so many one-row changesets, each in a file of its own."""
    folder = kept_directory() / f"waiting-{files}"
    asyncio.run(FolderAdapter(folder).connect(Hello(app="benchmarks", partition="default", device=_READER)))
    with tempfile.TemporaryDirectory(dir=_MEMORY) as made:  # where making files durable takes no time
        for number in range(files):
            device_id = bytes([1 + number % DEVICES]) * 16
            written = Path(made) / device_id.hex()
            written.mkdir(exist_ok=True)
            write_changes(written, [make_changeset(device_id, 1 + number // DEVICES)], os.urandom)
        shutil.copytree(made, folder / "p-default")
    return folder


def wait_in_a_way(directory: Path, folder: Path, way: str, seconds: float) -> float:
    """The part of the processor's time that this process takes."""
    match way:
        case "watch":
            return asyncio.run(bare_watch(folder, seconds))["cpu"]
        case "list":
            return _listing(folder, seconds)
        case "polled":
            return _with_a_realm(directory, _Polled(folder), seconds)
        case _:
            return _with_a_realm(directory, FolderAdapter(folder), seconds)


def _with_a_realm(directory: Path, adapter: FolderAdapter, seconds: float) -> float:
    with device(directory, "idle", remote=lambda: adapter) as (_, configuration), Realm.open(configuration) as realm:
        assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        return at_rest(seconds)["cpu"]


def _listing(folder: Path, seconds: float) -> float:
    over = threading.Event()

    def list_names() -> None:
        while not over.wait(POLL_SECONDS):
            for written in (folder / "p-default").iterdir():
                os.listdir(written)  # noqa: PTH208 - the quickest there is

    thread = threading.Thread(target=list_names)
    thread.start()
    found = at_rest(seconds)["cpu"]
    over.set()
    thread.join()
    return found


def _share(way: str, files: int) -> Callable[[Path, int], float]:
    return partial(_share_of, way, files)


def _share_of(way: str, files: int, directory: Path, measured_ms: int) -> float:
    fitting = min(files, measured_ms)  # a quick look at next to nothing is not to spend its time on making files
    return number_of("idle_over", directory, _folder(fitting), way, measured_ms)


_ALL = tuple(
    Case(f"ms idle, {files:,} files, {way}", named, ms, _share(way, files), _share(baseline, files), unit="%", aim="0.2 %")
    for way, baseline, named, files, ms in (
        ("told", "watch", "a bare watch of the folder", FILES, 60_000),  # in which it looks once for itself
        ("polled", "list", "listing the names as often", FILES, 30_000),
        ("polled", "list", "listing the names as often", DEVICES, 30_000),
    )
)
CASES = tuple(case for case in _ALL if sys.platform == "linux")
"""Linux alone tells a process what it has used."""
