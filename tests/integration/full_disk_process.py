"""A folder on a disk that fills up and becomes read-only: ``full_disk_process.py DIRECTORY``, in a mount namespace.

It mounts a small disk at ``DIRECTORY/disk`` and keeps the databases beside it. Its exit code says whether all went well.
"""

import secrets
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, Realm, Reason, Settings, SyncConfiguration, uuid7

SECONDS = 30
TEXT_BYTES = 150_000


class Note(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


def main() -> None:
    directory = Path(sys.argv[1])
    disk = directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "disk", str(disk)], check=True)
    with closing(app_of(disk)) as writing, closing(app_of(disk)) as reading:
        writer = opened(writing, directory / "writer.db")
        on_a_full_disk(disk, writing, writer)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        reader = opened(reading, directory / "reader.db")
        on_a_read_only_disk(writer, reader)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        writing.sync.reconnect()
        upload(writer)
        download(reader)
        assert count(reader) == 3
        with_snapshots(directory, disk, writer)


def with_snapshots(directory: Path, disk: Path, writer: Realm) -> None:
    """A snapshot for which there is no room, then no right, then both."""
    before = files(disk)
    with closing(app_of(disk, snapshot_every=1)) as making:
        maker = opened(making, directory / "maker.db")
        told_by(maker, "no room left")
        assert files(disk) == before, "something was left half written"
        assert count(maker) == 3
        subprocess.run(["mount", "-o", "remount,ro,size=8m", str(disk)], check=True)
    with closing(app_of(disk, snapshot_every=1)) as making:
        maker = opened(making, directory / "maker.db")
        told_by(maker, "read-only")
        assert files(disk) == before
        assert count(maker) == 3
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with closing(app_of(disk, snapshot_every=1)) as making:
        maker = opened(making, directory / "maker.db")
        download(maker)
        end = time.monotonic() + SECONDS
        while not (found := list(disk.glob("shared/*/snapshots/*.json"))):
            assert time.monotonic() < end, "no snapshot came"
            time.sleep(0.01)
    (snapshot,) = found[0].parent.glob("*.sqlite")
    with closing(sqlite3.connect(snapshot)) as db:
        assert {text for (text,) in db.execute("SELECT text FROM note")} == set(writer.exec(select(Note.text)).all())


def told_by(realm: Realm, words: str) -> None:
    for status in realm.sync_session.status_changes():
        if status.why is Reason.OFFLINE and words in str(status.last_error):
            return


def on_a_full_disk(disk: Path, app: App, writer: Realm) -> None:
    add(writer)
    upload(writer)
    before = files(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1024 * 1024 - sum(file.stat().st_size for file in before) - TEXT_BYTES))
    add(writer)
    stopped_by(writer, "no room left")
    assert files(disk) == sorted([*before, ballast]), "something was left half written"
    ballast.unlink()
    app.sync.reconnect()
    upload(writer)


def on_a_read_only_disk(writer: Realm, reader: Realm) -> None:
    add(writer)
    stopped_by(writer, "read-only")
    download(reader)
    assert count(reader) == 2, "who only reads does not mind, not even at the first connect"


def stopped_by(realm: Realm, words: str) -> None:
    for status in realm.sync_session.status_changes():
        if status.why is Reason.OFFLINE and words in str(status.last_error):
            assert status.pending_changesets == 1
            assert status.next_attempt is not None
            return


def app_of(disk: Path, *, snapshot_every: int = 5000) -> App:
    settings = Settings(backoff_initial=3600, backoff_max=3600, snapshot_every=snapshot_every)
    return App.create("disks", remote=f"folder://{disk}/shared", settings=settings)


def opened(app: App, path: Path) -> Realm:
    return Realm.open(SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=path))


def add(realm: Realm) -> None:
    with realm.write() as tx:
        tx.add(Note(text=secrets.token_hex(TEXT_BYTES)))


def count(realm: Realm) -> int:
    return len(realm.exec(select(Note.id)).all())


def upload(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=SECONDS)


def download(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(timeout=SECONDS)


def files(disk: Path) -> list[Path]:
    return sorted(path for path in disk.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
