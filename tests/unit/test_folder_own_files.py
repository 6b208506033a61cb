"""A device's own files in a shared folder that are damaged, or gone for a while or for good, after they were acknowledged."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from localstore import Realm, ResetReason
from localstore.adapter import Hello
from localstore.errors import Offline, RemoteDamage, ResetRequired
from localstore.testing.clock import ManualClock, environment
from localstore.testing.conformance import make_changeset
from localstore.wire import SealedChangeset
from localstore_adapters._folder_files import write_changes
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import READER, A, connect, files, make, numbers, pull, push, replace
from tests.unit.session_kit import PATIENCE, World, add, eventually, texts

LONG = 61.0  # more than a device waits for its files
ALL = [(A, number) for number in range(1, 7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


class Line:
    """One device's line to a folder, under a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.adapter = FolderAdapter(folder, environment=environment(self.clock))

    def connect(self, acknowledged: int) -> int:
        hello = Hello(app="todo", partition="default", device=A, acknowledged=acknowledged)
        return asyncio.run(self.adapter.connect(hello)).last_number

    def push(self, batch: list[SealedChangeset]) -> int:
        return asyncio.run(self.adapter.push(batch)).acknowledged


@pytest.fixture
def line(folder: Path) -> Line:
    """A device whose changesets 1 to 4 are in two files."""
    push(folder, A, 1, 2)
    push(folder, A, 3, 4)
    return Line(folder)


@pytest.fixture
def end(line: Line, folder: Path) -> Path:
    """The last of these files."""
    return files(folder)[-1]


class TestADamagedEnd:
    def test_is_told_and_counts_by_its_name(self, line: Line, end: Path, folder: Path) -> None:
        whole = end.read_bytes()
        replace(end, whole[:-10])
        assert line.connect(acknowledged=4) == 4
        assert str(end) in pull(line.adapter).warnings[0]
        assert line.push(make(A, 5, 6)) == 6
        reader, _ = connect(folder, READER)
        assert numbers(pull(reader)) == ALL[:2]
        replace(end, whole)
        assert numbers(pull(reader)) == ALL
        assert pull(line.adapter).warnings == ()

    def test_is_mended_by_what_the_device_still_has(self, line: Line, end: Path) -> None:
        whole = end.read_bytes()
        replace(end, whole[:-10])
        line.connect(acknowledged=2)
        assert line.push(make(A, 3, 4)) == 4
        assert end.read_bytes() == whole

    def test_is_mended_by_a_larger_batch_as_well(self, line: Line, end: Path, folder: Path) -> None:
        replace(end, b"")
        line.connect(acknowledged=2)
        assert line.push(make(A, 3, 6)) == 6
        assert numbers(pull(connect(folder, READER)[0])) == ALL

    def test_that_promises_other_content_is_another_devices(self, line: Line, end: Path) -> None:
        """It may become whole at any time, and then there would be two of one number."""
        end.unlink()
        others = [make_changeset(A, number, "written after the file was copied") for number in (3, 4)]
        name = write_changes(end.parent, others, lambda count: bytes(count))
        replace(end.parent / str(name), b"")
        line.connect(acknowledged=2)
        with pytest.raises(ResetRequired, match="device forked"):
            line.push(make(A, 3, 4))


class TestAnEndThatIsGone:
    def test_is_waited_for(self, line: Line, end: Path) -> None:
        whole = end.read_bytes()
        end.unlink()
        for seconds in (0, 1, LONG - 3):
            line.clock.advance(seconds)
            with pytest.raises(Offline, match="up to 2 only"):
                line.connect(acknowledged=4)
        replace(end, whole)
        assert line.connect(acknowledged=4) == 4
        end.unlink()
        with pytest.raises(Offline):  # for as long again
            line.connect(acknowledged=4)

    def test_is_missed_at_last(self, line: Line, end: Path) -> None:
        end.unlink()
        with pytest.raises(Offline):
            line.connect(acknowledged=4)
        line.clock.advance(LONG)
        assert line.connect(acknowledged=4) == 2

    def test_is_waited_for_as_long_as_others_arrive(self, line: Line, folder: Path) -> None:
        contents = {file: file.read_bytes() for file in files(folder)}
        for file in contents:
            file.unlink()
        for file, whole in contents.items():
            with pytest.raises(Offline):
                line.connect(acknowledged=4)
            line.clock.advance(LONG - 2)
            replace(file, whole)
        assert line.connect(acknowledged=4) == 4

    def test_is_waited_for_by_a_push_too(self, line: Line, end: Path, folder: Path) -> None:
        line.connect(acknowledged=4)
        whole = end.read_bytes()
        end.unlink()
        with pytest.raises(Offline):
            line.push(make(A, 5, 6))
        line.clock.advance(LONG)
        with pytest.raises(ResetRequired, match="remote restored"):
            line.push(make(A, 5, 6))
        replace(end, whole)
        assert line.push(make(A, 5, 6)) == 6
        assert numbers(pull(connect(folder, READER)[0])) == ALL


class TestASession:
    """Of a device whose last file is not what it was."""

    @pytest.fixture
    def world(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Any:
        caplog.set_level(logging.ERROR, "localstore.sync")
        with World(tmp_path) as made:
            yield made

    def begin(self, world: World, folder: Path, **changes: Any) -> Realm:
        """A device with two files, paused."""
        clock = environment(world.clock, seed=77)
        self.device = world.device(remote=lambda: FolderAdapter(folder, environment=clock, listens=False))
        realm = self.device.open(**changes)
        for text in ("first", "last"):
            add(realm, text)
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm.sync_session.pause()
        self.end = max(folder.glob("p-default/*/*.changes"))
        self.whole = self.end.read_bytes()
        return realm

    def go_on(self, realm: Realm) -> None:
        realm.sync_session.resume()
        add(realm, "new")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_goes_on_behind_a_damaged_file_and_tells_it(self, world: World, folder: Path) -> None:
        realm = self.begin(world, folder)
        self.end.write_bytes(self.whole[:-1])
        self.go_on(realm)
        eventually(lambda: self.device.told)
        assert [(type(error), str(self.end) in str(error)) for error in self.device.told] == [(RemoteDamage, True)]
        assert realm.sync_session.last_reset is None

    def test_waits_for_a_file_that_is_gone(self, world: World, folder: Path) -> None:
        realm = self.begin(world, folder)
        self.end.unlink()
        realm.sync_session.resume()
        eventually(lambda: isinstance(realm.sync_session.last_error, Offline))
        replace(self.end, self.whole)
        self.device.app.sync.reconnect()
        self.go_on(realm)
        assert realm.sync_session.last_reset is None
        assert self.device.told == []

    def test_is_reset_when_the_file_stays_away_and_tells_no_damage_again(self, world: World, folder: Path) -> None:
        realm = self.begin(world, folder)
        foreign = self.end.with_name("holiday.jpg")
        foreign.touch()
        self.go_on(realm)
        eventually(lambda: self.device.kinds == ["RemoteDamage"])
        for file in self.end.parent.glob("*.changes"):
            file.unlink()
        self.device.app.sync.reconnect()
        add(realm, "newer")
        world.await_reset(realm)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert realm.sync_session.last_reset is not None
        assert realm.sync_session.last_reset.kind is ResetReason.REMOTE_RESTORED
        assert texts(realm) == ["newer"]
        assert self.device.kinds == ["RemoteDamage"]
