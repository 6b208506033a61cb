"""Real processes on one folder, killed again and again while they make a snapshot, or begin with one: all converge, nothing
acknowledged is lost, and nothing is left lying about."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.device_kit import SILENCE_SECONDS, check_converged, contents, device

EVERY = 5
READINGS = 40
ROUNDS = 5
A_WHILE = 10.0
A_MOMENT = 0.03  # seconds, in which a snapshot of that size is made or taken

pytestmark = pytest.mark.slow


def comes(seen: Callable[[], object], seconds: float = SILENCE_SECONDS) -> bool:
    """Whether something is seen in that time. What is there for a moment only may be missed on a busy machine."""
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def places(file: Path) -> list[Path]:
    """Where snapshots of a file lie that are on their way."""
    return list(file.parent.glob(f"{file.name}.snapshot-*"))


@pytest.mark.parametrize("seed", [1])
def test_who_is_killed_while_it_makes_a_snapshot_loses_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    remote = tmp_path / "remote"
    files = [tmp_path / f"{name}.db" for name in ("victim", "other", "new")]
    acknowledged: list[str] = []
    killed_at_it = 0
    for number in range(1, ROUNDS + 1):
        with device(files[0], remote, number * READINGS, snapshot_every=EVERY) as victim:
            killed_at_it += comes(lambda: places(files[0]), A_WHILE)
            time.sleep(chance.random() * A_MOMENT)
            victim.kill()
            acknowledged += victim.written
    assert killed_at_it
    for file in files:
        with device(file, remote, READINGS if file.stem == "other" else 0, snapshot_every=EVERY) as process:
            process.do("upload")
            process.do("download")
            acknowledged += process.written
    for file in files[:2]:
        with device(file, remote, snapshot_every=EVERY) as process:
            process.do("download")
    with device(files[2], remote, snapshot_every=EVERY) as process:
        process.do("download")
    check_converged(files, acknowledged)
    assert list(remote.rglob("*.sqlite"))
    assert not [place for file in files for place in places(file)]


@pytest.mark.parametrize("seed", [3])
def test_who_is_killed_while_it_begins_with_a_snapshot_ends_up_with_everything(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    remote = tmp_path / "remote"
    files = [tmp_path / "writer.db"]
    with device(files[0], remote, READINGS, snapshot_every=EVERY) as writer:
        writer.do("upload")
        assert comes(lambda: list(remote.rglob("*.snapshot.json")))
    killed_at_it = 0
    for number in range(ROUNDS):
        file = tmp_path / f"victim-{number}.db"
        with device(file, remote) as victim:
            killed_at_it += comes(lambda file=file: places(file), A_WHILE)
            time.sleep(chance.random() * A_MOMENT)
            victim.kill()
        numbers = sorted(row[2] for row in contents(file)["reading"])  # the snapshot may be older than the last of them
        assert numbers == list(range(1, len(numbers) + 1))
        assert not 0 < len(numbers) < EVERY
        files.append(file)
    assert killed_at_it
    for file in files[1:]:
        with device(file, remote) as victim:
            victim.do("download")
        assert not places(file)
    check_converged(files, writer.written)
