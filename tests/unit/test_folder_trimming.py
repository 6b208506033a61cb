"""What a shared folder lets go of, and never lets go of: in folders that are damaged, partly copied, or used for years."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
from pathlib import Path

import pytest

from localstore.adapter import Cursor, Hello
from localstore.errors import Offline, ResetRequired
from localstore.reasons import ResetReason
from localstore_adapters._folder_files import write_changes
from localstore_adapters._folder_snapshots import FolderSnapshots
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import READER, A, B, make, replace
from tests.unit.folder_snapshot_kit import DAY, NEW, NEWEST, OLD, Shared, chunks, content, latest, numbers, pull


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared")


def last_number(shared: Shared, device: bytes, cursor: Cursor | None = None) -> int:
    line = FolderAdapter(shared.folder)
    return asyncio.run(line.connect(Hello(app="todo", partition="default", device=device, cursor=cursor))).last_number


def lose(shared: Shared, *ends: str) -> None:
    """Notes that did not arrive, or were deleted."""
    for end in ends:
        for path in shared.snapshots(end):
            path.unlink()


def test_what_may_go_at_once_goes_whenever_the_clock_ticks(tmp_path: Path) -> None:
    written_by = tmp_path / A.hex()
    written_by.mkdir()
    write_changes(written_by, make(A, 1, 1), os.urandom)
    ticks = itertools.count(1_000).__next__
    snapshots = FolderSnapshots(tmp_path, "remote", B, now_ms=ticks, random_bytes=os.urandom, keep_ms=0)
    written = snapshots.unpublished()
    written.write(b"state")
    snapshots.publish(written, {A: 1})
    snapshots.trim({A: 1})
    assert not list(tmp_path.rglob("*.changes"))


# -- what must not go


def test_a_changeset_that_is_damaged_in_the_copy_of_who_makes_snapshots_stays(shared: Shared) -> None:
    shared.push(A, 1, 3)
    damaged = sorted((shared.folder / "p-default" / A.hex()).glob("*.changes"))[1]
    whole = damaged.read_bytes()
    replace(damaged, whole[:-1])
    cursor: Cursor | None = None
    for number in range(1, 6):
        shared.push(B, number, number)
        cursor = shared.write_and_trim(B, os.urandom(9), cursor)
        shared.pass_days(31)
    assert shared.names(A) == [2, 3]
    replace(damaged, whole)
    new = shared.line()
    info = latest(new)
    assert info is not None
    assert numbers(pull(new, info.cursor), A) == [2, 3]


def test_who_lacks_what_others_said_may_go_lets_nothing_go(shared: Shared) -> None:
    """In its copy, the only snapshot that makes up for that may be damaged."""
    shared.push(A, 1, 3)
    shared.push(B, 1, 1)
    behind = shared.head(B)
    shared.push(A, 4, 6)
    shared.write_and_trim(A, OLD)
    shared.pass_days(31)
    shared.write_and_trim(A, NEW)
    assert len(shared.snapshots(".trimmed.json")) == 1
    shared.snapshots()[0].unlink()
    replace(shared.snapshots()[0], b"?" + NEW[1:])  # as long as it should be
    shared.pass_days(31)
    asyncio.run(shared.line(B).write_snapshot(behind, chunks(NEWEST)))
    shared.trim(B, behind)
    assert shared.names(A) == [1, 2, 3, 4, 5, 6]


def test_what_cannot_be_removed_keeps_nothing_else(shared: Shared) -> None:
    """Such as what belongs to another user of a network share."""
    shared.push(A, 1, 3)
    shared.push(B, 1, 3)
    stubborn = shared.folder / "p-default" / A.hex() / "000000000001-000000000001-0123456789abcdef.changes"
    stubborn.mkdir()
    (shared.folder / "p-default" / "0".zfill(32)).write_bytes(b"a file with a device's name")
    shared.forget()
    assert shared.names(B) == []
    assert [path.read_bytes() for path in shared.snapshots()] == [NEW, NEWEST]


# -- who comes back


@pytest.mark.parametrize("lost", [[".trimmed.json"], [".sqlite", ".trimmed.json"]], ids=str)
def test_who_wrote_what_went_knows_it_by_any_snapshot(shared: Shared, lost: list[str]) -> None:
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    shared.forget()
    lose(shared, *lost)
    assert last_number(shared, B) == 2
    line = shared.line(B)
    assert asyncio.run(line.push(make(B, 1, 4))).acknowledged == 4
    assert shared.names(B) == [3]


def test_who_wrote_what_went_goes_on_though_all_snapshots_were_deleted(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.forget()
    lose(shared, ".sqlite", ".snapshot.json", ".trimmed.json")
    assert shared.names(A) == [4, 5]
    assert last_number(shared, A, cursor) == 5
    line = shared.line(A, cursor=cursor)
    assert asyncio.run(line.push(make(A, 1, 6))).acknowledged == 6
    shared.write(A, b"again", cursor)
    assert content(shared.line()) == b"again"


def test_a_folder_that_went_back_to_a_backup_is_known_by_its_end(shared: Shared) -> None:
    shared.push(A, 1, 3)
    cursor = shared.head(A)
    for path in sorted((shared.folder / "p-default" / A.hex()).iterdir())[1:]:
        path.unlink()
    assert last_number(shared, A, cursor) == 1


def test_who_was_away_finds_the_changesets_it_had_sent_last(shared: Shared) -> None:
    """B is behind the horizon, and what it sent last comes only now."""
    shared.push(A, 1, 3)
    shared.push(B, 1, 2)
    cursor = shared.head(B)
    shared.forget()
    shared.push(B, 3, 4)
    with pytest.raises(ResetRequired) as told:
        pull(shared.line(B, cursor=cursor), None)
    assert told.value.kind is ResetReason.HISTORY_TRIMMED
    new = shared.line(READER)
    info = latest(new)
    assert info is not None
    assert numbers(pull(new, info.cursor), B) == [3, 4]


def test_files_that_come_back_do_no_harm(shared: Shared) -> None:
    shared.push(A, 1, 3)
    shared.write_and_trim(A, OLD)
    files = {path: path.read_bytes() for path in shared.folder.rglob("*") if path.is_file()}
    shared.pass_days(31)
    shared.push_one_more(A)
    cursor = shared.write_and_trim(A, NEW)
    shared.pass_days(2)
    shared.push_one_more(A)
    cursor = shared.write_and_trim(A, NEWEST, cursor)
    there = set(shared.folder.rglob("*"))
    for path, data in files.items():
        path.write_bytes(data)
    assert set(shared.folder.rglob("*")) > there
    assert content(shared.line()) == NEWEST
    assert numbers(pull(shared.line()), A) == [1, 2, 3, 4, 5]
    assert numbers(pull(shared.line(), cursor), A) == []
    assert last_number(shared, A) == 5
    shared.trim(A, cursor)
    assert shared.names(A) == [4, 5]


# -- clocks


@pytest.mark.parametrize("days", [-400, 400])
def test_one_clock_that_is_wrong_does_not_keep_a_folder_from_forgetting(shared: Shared, days: float) -> None:
    shared.push(A, 1, 3)
    cursor = shared.write_and_trim(A, OLD)
    now_ms = shared.clock.now_ms()
    shared.clock.set(int(now_ms + days * DAY * 1000))
    shared.push(B, 1, 1)
    shared.write(B, b"by B", None)
    shared.clock.set(now_ms)
    for _ in range(5):
        shared.pass_days(20)
        shared.push_one_more(A)
        cursor = shared.write_and_trim(A, os.urandom(9), cursor)
    assert len(shared.names(A)) <= 4
    assert len(shared.snapshots()) == 2
    assert len(shared.snapshots(".snapshot.json")) <= 4


# -- what is told


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "not whole yet"), (b'{"format": 1', "not whole yet"), (None, "newer localstore")]
)
def test_a_note_that_cannot_be_read_is_told(shared: Shared, data: bytes | None, words: str) -> None:
    shared.push(A, 1, 3)
    shared.write(A, OLD)
    (note,) = shared.snapshots(".snapshot.json")
    if data is None:
        newer_note(note)
    else:
        replace(note, data)
    (warning,) = pull(shared.line()).warnings
    assert words in warning
    assert numbers(pull(shared.line()), A) == [1, 2, 3]


def newer_note(note: Path) -> None:

    data = b'{"format": 2, "everything": "else is new"}'
    note.with_name(f"000000000009-{hashlib.sha256(data).hexdigest()[:16]}.snapshot.json").write_bytes(data)


def test_two_halves_that_were_apart_for_too_long_are_told_and_skip_nothing(shared: Shared) -> None:
    """Each let go of what the other never saw: no snapshot makes up for both."""
    shared.push(A, 1, 1)
    other = Shared(shared.folder.with_name("other"))
    other.clock = shared.clock

    shutil.copytree(shared.folder, other.folder)
    shared.push(A, 2, 2)
    other.push(B, 1, 1)
    cursors = {A: shared.forget(), B: forget_by_b(other)}
    for path in other.folder.rglob("*"):
        target = shared.folder / path.relative_to(other.folder)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for device, cursor in cursors.items():
        with pytest.raises(Offline, match="no snapshot"):
            pull(shared.line(device, cursor=cursor), cursor)


def forget_by_b(shared: Shared) -> Cursor:
    cursor = shared.write_and_trim(B, b"1")
    shared.pass_days(31)
    shared.push_one_more(B)
    cursor = shared.write_and_trim(B, b"22", cursor)
    shared.pass_days(2)
    shared.push_one_more(B)
    return shared.write_and_trim(B, b"333", cursor)


# -- years


@pytest.mark.slow
def test_a_folder_does_not_grow_with_the_years(shared: Shared) -> None:
    """Each device is another one after a while, and dies in the middle of something."""
    sizes = []
    cursor: Cursor | None = None
    for month in range(40):
        device = bytes([month]) * 16
        for number in range(1, 4):
            shared.push(device, number, number)
            cursor = shared.write_and_trim(device, os.urandom(month + 1), cursor)
            shared.pass_days(10)
        for directory, name in (
            (device.hex(), "000000000001-000000000001-0123456789abcdef.changes"),
            ("snapshots", device.hex()),
        ):
            aside = shared.folder / "p-default" / directory / f".{name}.0123456789ab.tmp"
            aside.write_bytes(b"half")
            os.utime(aside, (shared.clock.now_ms() / 1000,) * 2)
        sizes.append(len(list(shared.folder.rglob("*"))))
    assert sizes[-1] <= sizes[10]
