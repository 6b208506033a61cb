"""Sending what a damaged file has not sent: what can be read of it, what goes out, and that twice does no harm."""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from localstore import Realm, wire
from localstore.errors import DiskFailed, Offline, ResetRequired, StoreDamaged, StoreUnusable
from localstore.testing.faulty import Raise
from tests.unit.failing_disk import FailingDisk, failing
from tests.unit.session_kit import PATIENCE, Device, Line, World, add, in_loop, sql, texts

PAGE = 4096
KEY = b"k" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def synced(realm: Realm) -> list[str]:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    return texts(realm)


def moved_away(world: World, unsent: int, *, sizes: Sequence[int] = (10,), **changes: object) -> Path:
    """The file of a device that sent "sent" and has not sent so many notes, one changeset each."""
    device = world.device("old")
    with device.open(**changes) as realm:
        add(realm, "sent")
        synced(realm)
        realm.sync_session.pause()
        for number in range(unsent):
            add(realm, f"unsent {number:03} " + random.Random(number).randbytes(sizes[number % len(sizes)]).hex())
    device.app.close()
    damaged = device.path.with_name("damaged.db")
    device.path.rename(damaged)
    return damaged


def new(world: World, line: Line | None = None, **changes: object) -> tuple[Device, Realm]:
    device = world.device("new", remote=line)
    realm = device.open(**changes)
    synced(realm)
    return device, realm


def unsent_in(found: list[str]) -> list[int]:
    """Numbers of the notes that were unsent."""
    return [int(text.split()[1]) for text in found if text.startswith("unsent")]


def spoil(damaged: Path, number: int) -> None:
    """Turn a bit of an unsent changeset."""
    ((data,),) = sql(damaged, "SELECT sealed FROM localstore_outbox WHERE number = ?", number)
    sql(damaged, "UPDATE localstore_outbox SET sealed = ? WHERE number = ?", data[:-1] + bytes([data[-1] ^ 1]), number)


def blank_page_of(damaged: Path, number: int) -> None:
    """Lose the page that a changeset lies on."""
    ((sealed,),) = sql(damaged, "SELECT sealed FROM localstore_outbox WHERE number = ?", number)
    data = damaged.read_bytes()
    at = data.index(wire.decode(sealed).digest) // PAGE * PAGE
    damaged.write_bytes(data[:at] + bytes(PAGE) + data[at + PAGE :])


class TestWhatIsSent:
    def test_all_of_it_from_a_file_whose_outbox_is_whole(self, world: World) -> None:
        damaged = moved_away(world, 5)
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known, dict(report.lost)) == (5, 0, {})
        assert unsent_in(synced(realm)) == [0, 1, 2, 3, 4]
        assert world.remote_texts() == texts(realm)

    def test_it_is_the_damaged_files_device_that_wrote_it(self, world: World) -> None:
        damaged = moved_away(world, 1)
        (device,) = sql(damaged, "SELECT device FROM localstore_state")[0]
        _, realm = new(world)
        assert realm.sync_session.salvage(damaged).device == device.hex() != realm.device_id
        assert realm.pending() == []

    def test_twice_sends_nothing_twice(self, world: World) -> None:
        damaged = moved_away(world, 3)
        _, realm = new(world)
        realm.sync_session.salvage(damaged)
        before = synced(realm)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known, dict(report.lost)) == (0, 3, {})
        assert synced(realm) == before

    def test_what_was_written_since_is_later(self, world: World) -> None:
        damaged = moved_away(world, 1)
        _, realm = new(world)
        realm.sync_session.salvage(damaged)
        synced(realm)
        with realm.write() as tx:
            tx.connection().exec_driver_sql("UPDATE note SET text = 'corrected' WHERE text LIKE 'unsent%'")
        synced(realm)
        realm.sync_session.salvage(damaged)
        assert synced(realm) == ["corrected", "sent"] == world.remote_texts()

    def test_of_a_file_that_had_sent_everything_nothing(self, world: World) -> None:
        damaged = moved_away(world, 0)
        line = world.line()
        _, realm = new(world, line)
        connects = line.count("connect")
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known, dict(report.lost)) == (0, 0, {})
        assert line.count("connect") == connects

    def test_in_batches_that_the_remote_takes(self, world: World) -> None:
        damaged = moved_away(world, 7)
        line = world.line(max_batch_count=3)
        _, realm = new(world, line)
        pushes = line.count("push")
        assert realm.sync_session.salvage(damaged).sent == 7
        assert line.count("push") - pushes == 3

    def test_from_an_event_loop_as_well(self, world: World) -> None:
        damaged = moved_away(world, 2)
        _, realm = new(world)
        assert in_loop(realm.sync_session.salvage_async(damaged)).sent == 2

    def test_of_an_encrypted_file_with_its_key(self, world: World) -> None:
        damaged = moved_away(world, 2, encryption_key=KEY)
        _, realm = new(world, encryption_key=KEY)
        assert realm.sync_session.salvage(damaged).sent == 2

    def test_of_a_file_whose_identity_is_damaged_as_well(self, world: World) -> None:
        damaged = moved_away(world, 2)
        ((device,),) = sql(damaged, "SELECT device FROM localstore_state")
        sql(damaged, "UPDATE localstore_state SET device = ?, last_number = 1 << 60", bytes([device[0] ^ 1]) + device[1:])
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert (report.device, report.sent) == (device.hex(), 2)
        assert unsent_in(synced(realm)) == [0, 1]


class TestWhatIsLost:
    @pytest.mark.parametrize("value", [7, "text", b"", b"rubbish"], ids=repr)
    def test_what_is_no_changeset(self, world: World, value: object) -> None:
        damaged = moved_away(world, 3)
        sql(damaged, "UPDATE localstore_outbox SET sealed = ? WHERE number = 3", value)
        _, realm = new(world)
        assert list(realm.sync_session.salvage(damaged).lost) == [3]

    def test_what_has_the_number_of_another(self, world: World) -> None:
        damaged = moved_away(world, 3)
        sql(damaged, "UPDATE localstore_outbox SET number = 70 WHERE number = 3")
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, list(report.lost)) == (2, [70])
        assert unsent_in(synced(realm)) == [0, 2]

    def test_a_file_with_values_of_other_types(self, world: World) -> None:
        damaged = moved_away(world, 1)
        sql(damaged, "UPDATE localstore_state SET device = 7")
        _, realm = new(world)
        with pytest.raises(StoreDamaged, match="not even whose"):
            realm.sync_session.salvage(damaged)

    @pytest.mark.parametrize("lost", [[2], [3, 4], [6], [2, 6]], ids=str)
    def test_all_but_what_is_not_as_it_was_written(self, world: World, lost: list[int]) -> None:
        damaged = moved_away(world, 5)
        for number in lost:
            spoil(damaged, number)
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, sorted(report.lost)) == (5 - len(lost), lost)
        assert unsent_in(synced(realm)) == [note for note in range(5) if note + 2 not in lost]
        assert world.remote_texts() == texts(realm)

    def test_twice_with_a_hole_in_it(self, world: World) -> None:
        damaged = moved_away(world, 5)
        spoil(damaged, 3)
        _, realm = new(world)
        realm.sync_session.salvage(damaged)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known, dict(report.lost)) == (0, 4, {})
        assert len(synced(realm)) == 5

    @pytest.mark.parametrize("at", [2, 3, 60, 149, 150, 151])
    def test_a_page_that_is_gone_takes_its_own_changesets_along(self, world: World, at: int) -> None:
        damaged = moved_away(world, 150, sizes=[500])
        blank_page_of(damaged, at)
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert 150 - 7 <= report.sent < 150
        assert min(report.lost) <= at
        found = unsent_in(synced(realm))
        assert len(found) == report.sent
        assert report.is_whole is (149 in found)
        assert at - 2 not in found
        assert world.remote_texts() == texts(realm)

    def test_what_was_at_the_end_of_a_file_that_was_cut_off(self, world: World) -> None:
        damaged = moved_away(world, 150, sizes=[500])
        data = damaged.read_bytes()
        damaged.write_bytes(data[: len(data) - 10 * PAGE - 100])
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert 50 < report.sent < 150
        assert len(unsent_in(synced(realm))) == report.sent

    def test_all_of_it_where_the_first_page_is_gone(self, world: World) -> None:
        damaged = moved_away(world, 150, sizes=[500])
        ((root,),) = sql(damaged, "SELECT rootpage FROM sqlite_master WHERE name = 'localstore_outbox'")
        data = damaged.read_bytes()
        damaged.write_bytes(data[: (root - 1) * PAGE] + bytes(PAGE) + data[root * PAGE :])
        _, realm = new(world)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known, list(report.lost), report.is_whole) == (0, 0, [1], False)

    def test_what_the_remote_refuses(self, world: World) -> None:
        damaged = moved_away(world, 3, sizes=[10, 9000, 10])
        _, realm = new(world)
        world.remote.max_changeset_bytes = 5000
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, list(report.lost)) == (2, [3])
        assert "5000" in report.lost[3]
        assert unsent_in(synced(realm)) == [0, 2]


class _Mended(FailingDisk):
    """What was damaged is whole from the moment on at which somebody reads the file through."""

    def __init__(self, path: Path, whole: bytes) -> None:
        super().__init__(path, at=0)
        self._whole = whole

    def check(self, event: str, path: object, flags: object) -> None:
        if event == "open" and path == str(self.folder) and not self.count:
            self.count += 1
            self.folder.write_bytes(self._whole)


class TestADiskThatCannotBeRead:
    """SQLite takes it for damage."""

    def test_for_a_moment_is_no_reason_to_give_anything_up(self, world: World) -> None:
        damaged = moved_away(world, 150, sizes=[500])
        whole = damaged.read_bytes()
        blank_page_of(damaged, 60)
        _, realm = new(world)
        with failing(_Mended(damaged, whole)) as disk:
            report = realm.sync_session.salvage(damaged)
        assert disk.has_failed, "nobody read it through"
        assert (report.sent, dict(report.lost), report.is_whole) == (150, {}, True)
        assert len(unsent_in(synced(realm))) == 150

    def test_is_told_as_that_and_nothing_is_sent(self, world: World) -> None:
        damaged = moved_away(world, 150, sizes=[500])
        blank_page_of(damaged, 60)
        _, realm = new(world)
        with failing(FailingDisk(damaged, at=0, error=errno.EIO)), pytest.raises(DiskFailed, match="Nothing was sent") as told:
            realm.sync_session.salvage(damaged)
        assert "copy what can be read" in told.value.hint
        assert unsent_in(world.remote_texts()) == []
        assert realm.sync_session.salvage(damaged).sent > 140


class TestWhatIsNotTaken:
    def test_a_file_that_is_nothing_but_rubbish(self, world: World) -> None:
        damaged = moved_away(world, 1)
        data = damaged.read_bytes()
        damaged.write_bytes(data[:PAGE] + bytes(len(data) - PAGE))
        _, realm = new(world)
        with pytest.raises(StoreDamaged, match="not even whose"):
            realm.sync_session.salvage(damaged)

    def test_a_file_that_is_no_database(self, world: World, tmp_path: Path) -> None:
        damaged = tmp_path / "letter.db"
        damaged.write_text("Dear all, " * 1000)
        _, realm = new(world)
        with pytest.raises(StoreDamaged):
            realm.sync_session.salvage(damaged)

    def test_a_file_that_is_not_there(self, world: World, tmp_path: Path) -> None:
        _, realm = new(world)
        with pytest.raises(FileNotFoundError):
            realm.sync_session.salvage(tmp_path / "missing.db")
        assert not (tmp_path / "missing.db").exists()

    def test_a_file_that_does_not_sync(self, world: World, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "local.db")) as connection:
            connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)")
        _, realm = new(world)
        with pytest.raises(StoreUnusable, match="no synced file"):
            realm.sync_session.salvage(tmp_path / "local.db")

    def test_the_file_itself(self, world: World) -> None:
        _, realm = new(world)
        with pytest.raises(StoreUnusable, match="same device"):
            realm.sync_session.salvage(realm.path)

    def test_a_file_of_another_partition(self, world: World) -> None:
        damaged = moved_away(world, 1, partition="another")
        _, realm = new(world)
        with pytest.raises(StoreUnusable, match="another"):
            realm.sync_session.salvage(damaged)


class TestWhenTheRemote:
    def test_cannot_be_reached_it_may_be_tried_again(self, world: World) -> None:
        damaged = moved_away(world, 4)
        line = world.line(max_batch_count=2)
        _, realm = new(world, line)
        line.break_next("push", None, Raise(Offline("out of reach")))
        with pytest.raises(Offline):
            realm.sync_session.salvage(damaged)
        report = realm.sync_session.salvage(damaged)
        assert (report.sent, report.known) == (2, 2)
        assert len(synced(realm)) == 5

    def test_is_another_by_now_nothing_is_sent(self, world: World) -> None:
        damaged = moved_away(world, 1)
        world.remote.wipe()
        _, realm = new(world)
        with pytest.raises(ResetRequired, match="replaced"):
            realm.sync_session.salvage(damaged)
        assert synced(realm) == []

    def test_has_others_by_these_numbers_nothing_is_sent(self, world: World) -> None:
        damaged = moved_away(world, 2)
        copy = damaged.with_name("copy.db")
        copy.write_bytes(damaged.read_bytes())
        _, realm = new(world)
        realm.sync_session.salvage(damaged)
        sql(copy, "DELETE FROM localstore_outbox")
        sql(copy, "UPDATE localstore_state SET last_number = 1")
        with world.device("copy").open() as copied:
            copied.sync_session.pause()
            add(copied, "of the copy")
        with pytest.raises(ResetRequired, match="forked"):
            realm.sync_session.salvage(copy)
