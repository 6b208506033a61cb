"""Snapshots in a shared folder: whole or passed over, and history that goes behind them, never under anybody's feet."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localstore.adapter import Cursor, Hello, Limit
from localstore.errors import Offline, ResetRequired, SnapshotUnusable
from localstore.reasons import ResetReason
from localstore.testing.clock import environment
from localstore_adapters import _folder_snapshots
from localstore_adapters._folder_files import Unpublished
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import READER, A, B, make, replace
from tests.unit.folder_snapshot_kit import NEW, NEWEST, OLD, Shared, chunks, content, latest, numbers, pull


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared")


# -- whole or passed over


def test_a_snapshot_is_a_file_that_holds_nothing_but_what_was_written(shared: Shared) -> None:
    shared.push(A, 1, 2)
    shared.write(A, OLD)
    (file,) = shared.snapshots()
    assert file.read_bytes() == OLD


def test_a_snapshot_also_covers_what_its_writer_sent(shared: Shared) -> None:
    shared.push(A, 1, 2)
    shared.push(B, 1, 3)
    cursor = shared.write(A, OLD)
    shared.push(A, 3, 3)
    page = pull(shared.line(READER), cursor)
    assert (numbers(page, A), numbers(page, B)) == ([3], [])


@pytest.mark.parametrize("damage", ["missing", "half copied", "bit flipped"])
def test_one_that_is_not_whole_is_passed_over_for_the_one_before(shared: Shared, damage: str) -> None:
    shared.push(A, 1, 1)
    shared.write(A, OLD)
    shared.write(A, NEW)
    file = shared.snapshots()[-1]
    if damage == "missing":
        file.unlink()
    else:
        replace(file, NEW[:-1] if damage == "half copied" else b"?" + NEW[1:])
    line = shared.line()
    if damage == "bit flipped":
        with pytest.raises(SnapshotUnusable, match="does not match its hash"):
            content(line)
    assert content(line) == OLD


def test_one_that_becomes_whole_is_taken_again(shared: Shared) -> None:
    shared.push(A, 1, 1)
    shared.write(A, OLD)
    file = shared.snapshots()[-1]
    replace(file, b"?" + OLD[1:])
    line = shared.line()
    with pytest.raises(SnapshotUnusable):
        content(line)
    assert latest(line) is None
    replace(file, OLD)
    assert content(line) == OLD


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_note_that_is_not_whole_is_passed_over(shared: Shared, size: int) -> None:
    shared.push(A, 1, 1)
    shared.write(A, OLD)
    (note,) = shared.snapshots(".snapshot.json")
    replace(note, note.read_bytes()[:size])
    assert latest(shared.line()) is None


def test_what_a_crash_left_half_written_is_removed_by_its_own_device_alone(shared: Shared) -> None:
    shared.push(A, 1, 1)
    shared.write(A, OLD)
    directory = shared.snapshots()[0].parent
    ours, others = directory / f".{A.hex()}.012345.tmp", directory / f".{B.hex()}.012345.tmp"
    for path in (ours, others):
        path.write_bytes(b"half")
    shared.line(A)
    assert not ours.exists()
    assert others.exists()


# -- what goes, and what does not


def test_nothing_goes_within_the_horizon(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.write_and_trim(A, OLD)
    for _ in range(9):
        shared.pass_days(3)
        cursor = shared.write_and_trim(A, NEW, cursor)
    assert shared.names(A) == [1, 2, 3]


def test_the_horizon_is_what_devices_say(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.write_and_trim(A, OLD)
    for _ in range(3):
        shared.pass_days(3)
        asyncio.run(shared.line(A, horizon_days=2.0).trim(cursor))
    assert shared.names(A) == []


def test_what_is_in_a_snapshot_older_than_the_horizon_goes_and_nothing_else(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.forget()
    assert shared.names(A) == [4, 5]
    assert shared.names(B) == []


def test_it_is_said_a_day_before_it_goes(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.write_and_trim(A, OLD)
    shared.pass_days(31)
    shared.trim(A, cursor)
    assert len(shared.snapshots(".trimmed.json")) == 1
    assert shared.names(A) == [1, 2, 3]
    shared.trim(A, cursor)
    assert shared.names(A) == [1, 2, 3]
    shared.pass_days(1.1)
    shared.trim(A, cursor)
    assert shared.names(A) == []


def test_nothing_goes_for_a_snapshot_that_is_damaged(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.write_and_trim(A, OLD)
    (file,) = shared.snapshots()
    replace(file, b"?" + OLD[1:])
    for _ in range(3):
        shared.pass_days(31)
        shared.trim(A, cursor)
    assert shared.names(A) == [1, 2, 3]


def test_what_only_one_of_two_snapshots_holds_stays(shared: Shared) -> None:
    """B has not seen what A sent last; who begins with B's snapshot needs that."""
    shared.push(A, 1, 3)
    shared.push(B, 1, 1)
    behind = shared.head(B)
    shared.push(A, 4, 6)
    cursor = shared.write(A, OLD)
    asyncio.run(shared.line(B).write_snapshot(behind, chunks(NEW)))
    for _ in range(3):
        shared.pass_days(31)
        shared.trim(A, cursor)
    assert shared.names(A) == [4, 5, 6]


def test_snapshots_and_their_notes_do_not_pile_up(shared: Shared) -> None:
    shared.push(A, 1, 1)
    cursor: Cursor | None = None
    for number in range(2, 12):
        shared.pass_days(20)
        shared.push(A, number, number)
        cursor = shared.write_and_trim(A, number.to_bytes(4), cursor)
    assert len(shared.snapshots()) == 2
    assert len(shared.snapshots(".snapshot.json")) <= 4
    assert len(shared.snapshots(".trimmed.json")) <= 2
    assert len(shared.names(A)) <= 4


# -- who reads meanwhile


def test_who_has_read_less_is_told_so(shared: Shared) -> None:
    shared.push(A, 1, 3)
    behind = shared.head(READER)
    shared.push(A, 4, 5)
    shared.forget()
    for cursor in (None, behind):
        with pytest.raises(ResetRequired) as told:
            pull(shared.line(READER), cursor)
        assert told.value.kind is ResetReason.HISTORY_TRIMMED
    new = shared.line(READER)
    info = latest(new)
    assert info is not None
    assert content(new, info) == NEWEST
    assert pull(new, info.cursor).changesets == ()


def test_the_writer_knows_what_it_had_stored(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.forget()
    line = FolderAdapter(shared.folder)
    welcome = asyncio.run(line.connect(Hello(app="todo", partition="default", device=B)))
    assert welcome.last_number == 2
    assert asyncio.run(line.push(make(B, 1, 4))).acknowledged == 4
    with pytest.raises(Offline, match="up to 4 only"):
        asyncio.run(line.push(make(B, 6, 6)))


def test_who_was_there_all_the_time_goes_on(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.head(READER)
    shared.write_and_trim(A, OLD)
    shared.pass_days(31)
    shared.push(A, 4, 4)
    page = pull(shared.line(READER), cursor)
    assert numbers(page, A) == [4]
    shared.trim(A, shared.write(A, NEW))
    shared.pass_days(2)
    shared.trim(A, shared.write(A, NEWEST))
    shared.push(A, 5, 5)
    assert numbers(pull(shared.line(READER), page.cursor), A) == [5]


def test_a_reader_that_meets_a_file_that_goes_just_now_lists_anew(shared: Shared) -> None:
    shared.push(A, 1, 3)
    line = shared.line(READER)
    history = line._line.history if line._line else None
    assert history is not None
    scan = history.scan

    def scan_and_trim() -> None:
        scan()
        history.scan = scan  # type: ignore[method-assign]
        shared.forget()

    history.scan = scan_and_trim  # type: ignore[method-assign]
    with pytest.raises(ResetRequired, match="history trimmed"):
        pull(line)


def test_a_folder_whose_snapshot_has_not_arrived_yet_is_waited_for(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.forget()
    for file in shared.snapshots():
        file.unlink()
    with pytest.raises(Offline, match="still being copied"):
        pull(shared.line(READER))


def test_a_trimmed_folder_without_its_identity_is_not_taken_for_an_empty_one(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.forget()
    shutil.rmtree(shared.folder / "p-default" / A.hex())
    (shared.folder / "remote.json").unlink()
    with pytest.raises(Offline, match="still being copied"):
        shared.line(READER)


# -- who trims


@pytest.mark.parametrize("order", ["as removed", "as carried"])
def test_one_that_dies_at_any_step_leaves_a_folder_with_which_all_can_go_on(shared: Shared, tmp_path: Path, order: str) -> None:
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.write_and_trim(A, OLD)
    shared.pass_days(31)
    shared.push(A, 4, 4)
    cursor = shared.write_and_trim(A, NEW)
    shared.pass_days(2)
    shared.push(A, 5, 5)
    cursor = shared.write(A, NEWEST, cursor)
    files = sorted(path for path in shared.folder.rglob("*") if path.is_file())
    whole = tmp_path / "whole"
    shutil.copytree(shared.folder, whole)
    shared.trim(A, cursor)
    gone = [path.relative_to(shared.folder) for path in files if not path.exists()]
    assert gone
    for count in range(len(gone) + 1):
        for removed in [gone[:count]] if order == "as removed" else list(combinations(gone, count))[:4]:
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            for path in removed:
                (copy / path).unlink()
            check_all_go_on(shared, copy, cursor)
            shutil.rmtree(copy)


def check_all_go_on(shared: Shared, folder: Path, cursor: Cursor) -> None:
    """Who is new, who is behind, who wrote; and whoever trims next."""
    new = shared.line(READER, folder=folder)
    info = latest(new)
    assert info is not None
    assert content(new, info) == NEWEST
    assert pull(new, info.cursor).changesets == ()
    assert all_of_it_or_trimmed(new)
    for device, last in ((A, 5), (B, 2)):
        adapter = FolderAdapter(folder)
        assert asyncio.run(adapter.connect(Hello(app="todo", partition="default", device=device))).last_number == last
    asyncio.run(shared.line(B, folder=folder).trim(cursor))
    assert content(shared.line(READER, folder=folder)) == NEWEST


def all_of_it_or_trimmed(line: FolderAdapter) -> bool:
    """By a new device without the snapshot; as a reader that is told there is more looks again."""
    page = None
    try:
        while page is None or page.more:
            page = pull(line, None if page is None else page.cursor)
    except ResetRequired as error:
        return error.kind is ResetReason.HISTORY_TRIMMED
    return (numbers(page, A), numbers(page, B)) == ([1, 2, 3, 4, 5], [1, 2])


def test_two_that_make_snapshots_and_trim_at_once_leave_what_either_would_have(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.write_and_trim(A, OLD)
    shared.pass_days(31)

    async def at_once() -> None:
        lines = [FolderAdapter(shared.folder, environment=environment(shared.clock, seed)) for seed in (7, 8)]
        for line, device in zip(lines, (A, B), strict=True):
            await line.connect(Hello(app="todo", partition="default", device=device))
        for made in (NEW, NEWEST):
            cursors = [(await line.pull(None, Limit())).cursor for line in lines]
            writes = (line.write_snapshot(at, chunks(made)) for line, at in zip(lines, cursors, strict=True))
            await asyncio.gather(*writes)
            await asyncio.gather(*(line.trim(at) for line, at in zip(lines, cursors, strict=True)))

    asyncio.run(at_once())
    assert content(shared.line(READER)) == NEWEST
    shared.pass_days(2)
    cursor = latest(shared.line(READER))
    assert cursor is not None
    shared.trim(A, cursor.cursor)
    assert shared.names(A) == []
    assert content(shared.line(READER)) == NEWEST


# -- at random


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_nobody_ever_gets_a_gap(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Devices push, read, make snapshots and trim at any time: each reads all of the others', or is told to begin anew."""
    shared = Shared(tmp_path_factory.mktemp("folder") / "shared")
    devices = [A, B, READER]
    sent = dict.fromkeys(devices, 0)
    cursors: dict[bytes, Cursor | None] = dict.fromkeys(devices)
    known = {device: dict.fromkeys(devices, 0) for device in devices}
    stored: dict[str, dict[bytes, int]] = {}
    shared.push(A, 1, 1)
    sent[A] = 1
    for _ in range(data.draw(st.integers(5, 20))):
        device = data.draw(st.sampled_from(devices))
        step = data.draw(st.sampled_from(["push", "read", "read", "snapshot", "days"]))
        line = shared.line(device, cursor=cursors[device])
        if step == "push":
            sent[device] += 1
            asyncio.run(line.push(make(device, sent[device], sent[device])))
        elif step == "days":
            shared.pass_days(data.draw(st.sampled_from([0.5, 2, 16, 31])))
        else:
            cursors[device] = read(line, device, cursors[device], known[device], stored)
        if step == "snapshot":
            cursor = cursors[device]
            assert cursor is not None
            asyncio.run(line.write_snapshot(cursor, chunks(random.randbytes(64))))
            info = latest(line)
            assert info is not None
            stored[info.name] = {**known[device], device: sent[device]}
            asyncio.run(line.trim(cursor))
    for device in devices:
        read(shared.line(device), device, cursors[device], known[device], stored)
        assert {other: known[device][other] for other in devices if other != device} == {
            other: sent[other] for other in devices if other != device
        }


def read(
    line: FolderAdapter,
    device: bytes,
    cursor: Cursor | None,
    known: dict[bytes, int],
    stored: dict[str, dict[bytes, int]],
) -> Cursor:
    """Read to the head, by way of the latest snapshot when history was trimmed."""
    try:
        page = pull(line, cursor)
    except ResetRequired:
        info = latest(line)
        assert info is not None
        for other, number in stored[info.name].items():
            known[other] = number
        page = pull(line, info.cursor)
    for sealed in page.changesets:
        assert sealed.number <= known[sealed.device] + 1, "a gap"
        known[sealed.device] = max(known[sealed.device], sealed.number)
    assert not page.more
    return page.cursor


def test_names_of_files_are_safe_everywhere(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.forget()
    for path in (shared.folder / "p-default" / _folder_snapshots.SNAPSHOTS).iterdir():
        assert path.name == path.name.lower()
        assert not set(path.name) & set('<>:"/\\|?* ')


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_who_is_broken_off_while_it_writes_a_snapshot_leaves_no_open_file(tmp_path: Path) -> None:
    written = Unpublished(tmp_path / "partition" / "snapshots" / "half.tmp")
    written.write(b"half of it")
    assert written.path.read_bytes() == b"half of it"
    opened = set()
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what lists them is one of them
            opened.add(name.readlink())
    assert written.path not in opened
