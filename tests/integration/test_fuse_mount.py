"""A folder that is mounted through FUSE (bindfs) and written from elsewhere as well, as a share of another computer is.

It needs Linux, ``bindfs``, and the right to mount.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from localstore.environment import Environment
from localstore_adapters._folder_inotify import Listener, is_local_disk
from tests.integration.device_kit import check_converged, device
from tests.integration.real_tools import PATIENCE_SECONDS, lacks, needs, until

pytestmark = pytest.mark.slow


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One folder seen in another place, until it is taken away."""
    process = subprocess.Popen(["bindfs", "-f", str(source), str(target)], stderr=subprocess.PIPE)
    try:
        until(lambda: target.is_mount() or process.poll() is not None, "a mount")
        if process.poll() is not None:
            assert process.stderr is not None
            lacks(f"bindfs cannot mount here: {process.stderr.read().decode().strip()}")
        yield process
    finally:
        unmount(target)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        process.kill()
        process.communicate()


def unmount(target: Path) -> None:
    """Take a mount away, also one whose process has died, and also while it is in use."""
    subprocess.run(["fusermount", "-q", "-u", "-z", str(target)], check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the files really are."""
    needs(bindfs="bindfs", fusermount="fuse")
    path = tmp_path / "disk"
    path.mkdir()
    return path


@pytest.fixture
def place(disk: Path) -> Path:
    """Where they are seen as soon as they are mounted."""
    path = disk.with_name("share")
    path.mkdir()
    return path


def test_the_system_does_not_tell_of_what_comes_behind_the_mount(disk: Path, place: Path) -> None:
    async def heard() -> set[Path]:
        listener = Listener(Environment().run_blocking)
        await listener.add(place)
        (disk / "behind").touch()
        (place / "through").touch()
        await asyncio.wait_for(listener.heard.wait(), PATIENCE_SECONDS)
        paths: list[Any] = listener.take()
        listener.close()
        return set(paths)

    with mounted(disk, place):
        assert asyncio.run(heard()) == {place / "through"}
        assert (place / "behind").exists()
        assert not is_local_disk(place)


def test_devices_on_both_sides_of_the_mount_come_into_step(tmp_path: Path, disk: Path, place: Path) -> None:
    files = [tmp_path / "behind.db", tmp_path / "through.db"]
    with mounted(disk, place), device(files[0], disk / "shared", 20) as behind:
        behind.do("upload")
        with device(files[1], place / "shared", 20) as through:
            for process in (behind, through):
                process.do("rows 40")
            behind.do("write 40")
            through.do("rows 60")  # nobody tells it, and nothing but the clock makes it look
            through.do("write 40")
            for process in (behind, through):
                process.do("rows 80")
                process.do("upload")
            for process in (behind, through):
                process.do("download")
    check_converged(files, behind.written + through.written)


@pytest.mark.parametrize("ending", ["taken away", "dead"])
def test_a_mount_that_went_away_is_waited_for(tmp_path: Path, disk: Path, place: Path, ending: str) -> None:
    files = [tmp_path / "behind.db", tmp_path / "through.db"]
    with ExitStack() as running:
        behind = running.enter_context(device(files[0], disk / "shared", 10))
        behind.do("upload")
        with mounted(disk, place) as mount:
            through = running.enter_context(device(files[1], place / "shared", 10))
            through.do("rows 20")
            if ending == "dead":  # the place is there, and everything in it is an error
                mount.kill()
                mount.wait()
                through.do("write 20")
        through.do("write 30")
        assert list(place.iterdir()) == []  # nothing is written where the mount should be
        behind.do("write 30")
        with mounted(disk, place):
            for process in (behind, through):
                process.do("rows 60")
                process.do("upload")
            for process in (behind, through):
                process.do("download")
            through.close()
    check_converged(files, behind.written + through.written)
