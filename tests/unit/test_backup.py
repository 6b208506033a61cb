"""Backups of a store: whole, consistent, under the same key, and never half a file under their name."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localstore.errors import RealmClosed, StoreUnusable, TargetExists
from localstore.store import memory
from localstore.store.backup import write_backup
from localstore.store.driver import connect
from tests.unit.store_kit import Device, close_devices, open_store, query, rows_of, sealed_in, write

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device(tmp_path, "x")
    device.write(INSERT_A)
    return device


def test_a_backup_holds_all_that_the_file_holds(device: Device, tmp_path: Path) -> None:
    write_backup(device.store, tmp_path / "backup.db")
    for sql in ("SELECT * FROM note", "SELECT * FROM localstore_state", "SELECT * FROM localstore_outbox"):
        assert query(tmp_path / "backup.db", sql) == query(device.path, sql) != []
    assert query(tmp_path / "backup.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_backup_can_be_opened_in_the_place_of_the_file(device: Device, tmp_path: Path) -> None:
    write_backup(device.store, tmp_path / "backup.db")
    before = device.sealed()
    with closing(open_store(tmp_path / "backup.db", seed=99)) as restored:
        assert restored.state().device == device.id
        assert sealed_in(restored.path) == before


def test_a_backup_is_alone_in_its_folder(device: Device, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    write_backup(device.store, tmp_path / "backups" / "backup.db")
    assert [path.name for path in (tmp_path / "backups").iterdir()] == ["backup.db"]


def test_nothing_is_written_over(device: Device, tmp_path: Path) -> None:
    (tmp_path / "backup.db").write_text("mine")
    with pytest.raises(TargetExists, match="left as it is"):
        write_backup(device.store, tmp_path / "backup.db")
    assert (tmp_path / "backup.db").read_text() == "mine"


def test_a_missing_folder_is_said(device: Device, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="untouched"):
        write_backup(device.store, tmp_path / "nowhere" / "backup.db")


def test_a_closed_store_is_not_backed_up(device: Device, tmp_path: Path) -> None:
    device.close()
    with pytest.raises(RealmClosed):
        write_backup(device.store, tmp_path / "backup.db")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_nobody_reads_a_backup_who_may_not_read_the_file(device: Device, tmp_path: Path) -> None:
    device.path.chmod(0o600)
    write_backup(device.store, tmp_path / "backup.db")
    assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600


def test_a_backup_of_an_encrypted_file_has_its_key(tmp_path: Path) -> None:
    pytest.importorskip("sqlcipher3")
    device = Device(tmp_path, "x", encryption_key=KEY)
    write(device.store, INSERT_A)
    write_backup(device.store, tmp_path / "backup.db")
    assert b"first" not in (tmp_path / "backup.db").read_bytes()
    with closing(connect(tmp_path / "backup.db", KEY)) as connection:
        assert connection.execute("SELECT * FROM note").fetchall() == [("a", "first", 1)]
        assert connection.execute("SELECT count(*) FROM localstore_outbox").fetchone() == (1,)
    with closing(open_store(tmp_path / "backup.db", seed=99, encryption_key=KEY)) as restored:
        assert restored.state().device == device.id


def test_a_realm_in_memory_has_a_backup_on_the_disk(tmp_path: Path) -> None:
    with memory.place(Path("notes")) as path, closing(open_store(path)) as store:
        write(store, INSERT_A)
        write_backup(store, tmp_path / "backup.db")
    assert rows_of(tmp_path / "backup.db") == {("a",): {"title": "first", "stars": 1}}


def test_a_backup_shows_one_moment_while_others_write(device: Device, tmp_path: Path) -> None:
    written, is_over = threading.Event(), threading.Event()

    def go_on() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            write(device.store, f"UPDATE note SET stars = {number}", f"INSERT INTO note VALUES ('n{number}', 't', {number})")
            written.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        assert written.wait(10)
        write_backup(device.store, tmp_path / "backup.db")
    finally:
        is_over.set()
        writer.join()
    counted = (
        "SELECT count(*) - 1, (SELECT stars FROM note WHERE id = 'a'), (SELECT count(*) - 1 FROM localstore_outbox) FROM note"
    )
    ((rows, stars, changesets),) = query(tmp_path / "backup.db", counted)
    assert rows == stars == changesets > 0
