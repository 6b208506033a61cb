"""Real processes on one folder, one of them killed in the middle: all converge, and nothing acknowledged is lost."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.device_kit import check_converged, contents, device

READINGS = 60

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_a_writer_killed_again_and_again_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    remote = tmp_path / "remote"
    files = [tmp_path / f"{name}.db" for name in ("one", "two", "victim")]
    acknowledged: list[str] = []
    with ExitStack() as running:
        everybody = [running.enter_context(device(file, remote, READINGS)) for file in files[:2]]
        for third in (1, 2, 3):  # each leaves more to write than is waited for, however late the kill comes
            with device(files[2], remote, third * READINGS // 3) as victim:
                victim.write(chance.randint(1, 15))
                victim.kill()
                acknowledged += victim.written
        everybody.append(running.enter_context(device(files[2], remote, READINGS)))
        for process in everybody:
            process.do("upload")
            acknowledged += process.written
        for process in everybody:
            process.do("download")
    assert len(set(acknowledged)) == len(acknowledged) > 2 * READINGS
    check_converged(files, acknowledged)
    assert len(contents(files[0])["reading"]) == 3 * READINGS


@pytest.mark.parametrize("seed", [3])
def test_a_reader_killed_while_it_downloads_ends_up_with_everything(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    remote = tmp_path / "remote"
    files = [tmp_path / f"{name}.db" for name in ("writer", "victim")]
    with device(files[0], remote, READINGS) as writer:
        writer.do("upload")
    rows_at_kill = sorted(chance.sample(range(1, READINGS), 3))
    for rows in rows_at_kill:
        with device(files[1], remote) as victim:
            victim.do(f"rows {rows}")
            victim.kill()
    with device(files[1], remote) as victim:
        victim.do("download")
    check_converged(files, writer.written)
