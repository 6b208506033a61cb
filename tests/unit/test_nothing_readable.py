"""What lies on the disk of an encrypted realm, while it is used hard: nothing that could be read without the key.

Every scan is made of a plain realm as well, where it has to find what it looks for, or it would prove nothing. The files are
read by another process: to open and close one here would drop the locks that SQLite has on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import Field

from localstore import LocalConfiguration, Realm, uuid7
from localstore.errors import Offline
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, Table, World

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

KEY = b"secret-key-marker".ljust(32, b"!")
TEXT, BLOB, NAME, COLUMN = "readable-text-marker", b"readable\0blob\xffmarker", "table_name_marker", "column_name_marker"
MARKERS = [TEXT.encode(), BLOB, NAME.encode(), COLUMN.encode(), KEY, KEY.hex().encode(), KEY.hex().upper().encode()]

SCAN = """
import os, sys
from pathlib import Path

markers = [bytes.fromhex(marker) for marker in sys.argv[3:]]
files = [path for folder in sys.argv[1].split("|") for path in Path(folder).rglob("*") if path.is_file()]
opened = Path("/proc", sys.argv[2], "fd")  # temporary files have no name any more when SQLite writes them
if opened.is_dir():
    files += [path for path in opened.iterdir() if os.readlink(path).endswith(" (deleted)")]
for path in files:
    content = path.read_bytes()
    name = "temporary" if path.parent == opened else path.name
    print(name, len(content), *(number for number, marker in enumerate(markers) if marker in content))
"""


class Diary(Table, table=True):
    __tablename__ = NAME

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    column_name_marker: str
    photo: bytes | None = None


class Disk:
    """The realm's folder, the folder for temporary files, and what of the markers was found in them."""

    def __init__(self, realm_folder: Path, temporary_folder: Path) -> None:
        self._folders = f"{realm_folder}|{temporary_folder}"
        self.sizes: dict[str, int] = {}  # the largest there was
        self.found: dict[str, set[bytes]] = {}

    def scan(self) -> None:
        arguments = [self._folders, str(os.getpid()), *(marker.hex() for marker in MARKERS)]
        done = subprocess.run([sys.executable, "-c", SCAN, *arguments], capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            name, size, *numbers = line.split()
            self.sizes[name] = max(int(size), self.sizes.get(name, 0))
            self.found.setdefault(name, set()).update(MARKERS[int(number)] for number in numbers)

    @property
    def found_anywhere(self) -> set[bytes]:
        return set().union(*self.found.values())


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    realm_folder, temporary_folder = tmp_path / "realm", tmp_path / "temporary"
    realm_folder.mkdir()
    temporary_folder.mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(temporary_folder))
    return Disk(realm_folder, temporary_folder)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "realm") as opened:
        yield opened


def use_hard(realm: Realm, disk: Disk) -> None:
    """Everything that makes SQLite write, with a look at the disk wherever it may have: small writes, a transaction that does
    not fit the cache, sorts and groupings that do not fit it either, and savepoints."""
    for _ in range(3):
        with realm.write() as tx:
            tx.add(Diary(column_name_marker=TEXT, photo=BLOB))
    disk.scan()
    with realm.write() as tx:
        connection = tx.connection()
        connection.exec_driver_sql("PRAGMA cache_size = 10")
        tx.add_all([Diary(column_name_marker=f"{TEXT} {n} " * 40, photo=BLOB * 20) for n in range(4000)])
        tx.flush()
        disk.scan()
        with tx.begin_nested():
            connection.exec_driver_sql(f"UPDATE {NAME} SET {COLUMN} = {COLUMN} || 'x'")
            disk.scan()
    with realm._store.read() as session:
        connection = session.connection()
        connection.exec_driver_sql("PRAGMA cache_size = 10")
        if realm.configuration.encryption_key is None:  # however this SQLite was built: there must be something to find
            connection.exec_driver_sql("PRAGMA temp_store = FILE")
        for sql in (
            f"SELECT * FROM {NAME} ORDER BY {COLUMN} DESC, photo",
            f"SELECT DISTINCT {COLUMN}, photo FROM {NAME} ORDER BY photo, {COLUMN}",
            f"SELECT * FROM (SELECT {COLUMN} AS c FROM {NAME} UNION SELECT {COLUMN} || 'y' FROM {NAME}) ORDER BY c",
        ):
            result = connection.exec_driver_sql(sql)
            assert result.fetchone() is not None
            disk.scan()
            result.close()


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_nothing_of_a_synced_realm_can_be_read(world: World, disk: Disk, key: bytes | None) -> None:
    line = world.line()
    line.break_down(connect=Raise(Offline("no network")))
    with world.device("diary", remote=line).open(schema={Diary}, encryption_key=key) as realm:
        use_hard(realm, disk)
        assert len(realm.pending()) == 4
        line.recover()
        realm.sync_session.reconnect()
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        disk.scan()
        realm.write_copy_to(LocalConfiguration(path=world.directory / "copy.db", encryption_key=key))
        disk.scan()
    disk.scan()
    assert min(disk.sizes[name] for name in ("diary.db", "diary.db-wal", "copy.db")) > 1_000_000
    assert disk.sizes["diary.db-shm"] > 0
    if key is not None:
        assert disk.found_anywhere == set()
        return
    assert disk.found["diary.db"] >= {TEXT.encode(), BLOB, NAME.encode(), COLUMN.encode()}
    assert disk.found["diary.db-wal"] >= {TEXT.encode(), BLOB}
    if Path("/proc/self/fd").is_dir():
        assert disk.sizes["temporary"] > 1_000_000
        assert disk.found["temporary"] >= {TEXT.encode(), BLOB}
    assert disk.found_anywhere.isdisjoint({KEY, KEY.hex().encode()})
