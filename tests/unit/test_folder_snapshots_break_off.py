"""Writing snapshots and letting go of history on disks that fail, and by devices that die, at every single call."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localstore.adapter import Cursor, Hello
from localstore.errors import Offline, ResetRequired
from localstore.reasons import ResetReason
from localstore_adapters.folder import FolderAdapter
from tests.unit.failing_disk import Died, FailingDisk, failing
from tests.unit.folder_lines import READER, A, B
from tests.unit.folder_snapshot_kit import NEW, NEWEST, OLD, Shared, content, latest, numbers, pull

_CALLS_MAX = 200


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared")


def prepare(shared: Shared) -> Cursor:
    """A folder in which the next trim removes history and a snapshot, and says that more may go: where A has read up to."""
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.write_and_trim(A, OLD)
    shared.pass_days(31)
    shared.push(A, 4, 4)
    cursor = shared.write_and_trim(A, NEW)
    shared.pass_days(31)
    shared.push(A, 5, 5)
    return shared.head(A, cursor)


def at_every_call(
    shared: Shared, tmp_path: Path, disk: FailingDisk, cursor: Cursor
) -> list[tuple[Shared, BaseException | None]]:
    """What comes of a snapshot and a trim whose first, second, … call fails; each in a folder of its own."""
    found = []
    for at in range(_CALLS_MAX):
        copy = Shared(tmp_path / f"copy-{at}")
        copy.clock = shared.clock
        shutil.copytree(shared.folder, copy.folder)
        line = copy.line(A, cursor=cursor)
        outcome = None
        with failing(FailingDisk(copy.folder, at, disk.error, disk.only_once, disk.only_changes)) as broken:
            try:
                asyncio.run(write_and_trim(line, cursor))
            except (Died, Offline) as error:
                outcome = error
        if not broken.has_failed:
            return found
        found.append((copy, outcome))
    pytest.fail("It comes to no end.")


async def write_and_trim(line: FolderAdapter, cursor: Cursor) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(NEWEST), 1000):
            yield NEWEST[start : start + 1000]

    await line.write_snapshot(cursor, chunks())
    await line.trim(cursor)


def leftovers(shared: Shared, before: set[str] | None = None) -> list[str]:
    """What is half written, and snapshots without a note that were not there before."""
    notes = "".join(path.read_text() for path in shared.snapshots(".snapshot.json"))
    asides = [path.name for path in shared.folder.rglob("*.tmp")]
    return asides + [path.name for path in shared.snapshots() if path.name not in notes and path.name not in (before or ())]


def there(shared: Shared) -> set[str]:
    return {path.name for path in shared.snapshots()}


def check_all_go_on(shared: Shared) -> None:
    """Who is new, who is behind, and who wrote."""
    new = shared.line(READER)
    info = latest(new)
    assert info is not None
    assert content(new, info) in (NEW, NEWEST)
    page = pull(new, info.cursor)
    assert numbers(page, A) in ([], [5])
    assert not page.more
    behind = None
    try:
        while behind is None or behind.more:
            behind = pull(new, None if behind is None else behind.cursor)
        assert (numbers(behind, A), numbers(behind, B)) == ([1, 2, 3, 4, 5], [1, 2])
    except ResetRequired as error:
        assert error.kind is ResetReason.HISTORY_TRIMMED  # noqa: PT017 - or it gives all
    for device, last in ((A, 5), (B, 2)):
        welcome = asyncio.run(FolderAdapter(shared.folder).connect(Hello(app="todo", partition="default", device=device)))
        assert welcome.last_number == last


def finish(shared: Shared, cursor: Cursor) -> None:
    """The next that makes snapshots does what was left undone, and sweeps."""
    for path in shared.folder.rglob("*"):
        os.utime(path, (shared.clock.now_ms() / 1000,) * 2)
    for _ in range(3):
        shared.pass_days(31)
        cursor = shared.write_and_trim(B, os.urandom(100), cursor)
    assert shared.names(A) == shared.names(B) == []
    assert len(shared.snapshots()) == 2
    assert leftovers(shared) == []


@pytest.mark.slow
def test_one_that_dies_at_any_change_leaves_a_folder_with_which_all_go_on(shared: Shared, tmp_path: Path) -> None:
    cursor = prepare(shared)
    found = at_every_call(shared, tmp_path, FailingDisk(shared.folder, 0, only_changes=True), cursor)
    assert len(found) > 10
    for copy, outcome in found:
        assert isinstance(outcome, Died)
        check_all_go_on(copy)
        finish(copy, cursor)


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_call_that_fails_leaves_nothing_half_written(shared: Shared, tmp_path: Path, error: int) -> None:
    cursor = prepare(shared)
    found = at_every_call(shared, tmp_path, FailingDisk(shared.folder, 0, error, only_once=True), cursor)
    assert len(found) > 20
    for copy, _ in found:
        assert leftovers(copy, there(shared)) == []
        check_all_go_on(copy)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fills_up_says_so_and_keeps_nothing_half_written(shared: Shared, tmp_path: Path, error: int) -> None:
    cursor = prepare(shared)
    words = "no room left" if error == errno.ENOSPC else "read-only"
    found = at_every_call(shared, tmp_path, FailingDisk(shared.folder, 0, error, only_changes=True), cursor)
    for copy, outcome in found:
        assert outcome is None or words in str(outcome)
        assert leftovers(copy, there(shared)) == []
        check_all_go_on(copy)
    assert any(outcome for _, outcome in found)
