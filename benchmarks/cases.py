"""The cases: each does the same work with localstore and without it, on fresh files with the same pragmas."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from sqlmodel import select

from benchmarks import applying, databases, first_sync, folders, hub, sessions, snapshots, waiting
from benchmarks.kit import (
    INSERT,
    UPDATE,
    Case,
    Reading,
    Stopwatch,
    check_point,
    new_objects,
    new_rows,
    new_values,
    plain_bulk_insert,
    plain_objects,
    plain_select,
    plain_single_writes,
    plain_updates,
)
from localstore import App, Credentials, Realm, SyncConfiguration

__all__ = ["CASES"]

WAIT_SECONDS = 300
_MANY = "sqlite3 executemany"


@contextmanager
def _paused_realm(directory: Path, name: str = "device") -> Iterator[Realm]:
    """A synced realm whose session does nothing in the background."""
    remote = (directory / "remote").as_uri().replace("file:", "folder:", 1)
    with closing(App.create("benchmarks", remote=remote)) as app:
        config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Reading}, path=directory / f"{name}.db")
        with Realm.open(config) as realm:
            realm.sync_session.pause()
            yield realm


def _insert(realm: Realm, count: int) -> float:
    rows, watch = new_rows(count), Stopwatch()
    with watch, realm.write() as tx:
        tx.connection().exec_driver_sql(INSERT, rows)
    return watch.seconds


def captured_bulk_insert(directory: Path, count: int) -> float:
    with _paused_realm(directory) as realm:
        return _insert(realm, count)


def captured_updates(directory: Path, count: int) -> float:
    with _paused_realm(directory) as realm:
        rows = new_rows(count)
        with realm.write() as tx:
            tx.connection().exec_driver_sql(INSERT, rows)
        check_point(realm.path)
        changes, watch = new_values(rows), Stopwatch()
        with watch, realm.write() as tx:
            tx.connection().exec_driver_sql(UPDATE, changes)
    return watch.seconds


def captured_objects(directory: Path, count: int) -> float:
    objects, watch = new_objects(count), Stopwatch()
    with _paused_realm(directory) as realm, watch, realm.write() as tx:
        tx.add_all(objects)
    return watch.seconds


def captured_single_writes(directory: Path, count: int) -> float:
    watch = Stopwatch()
    with _paused_realm(directory) as realm, watch:
        for number in range(count):
            with realm.write() as tx:
                tx.add(Reading(sensor="sensor", value=number / 7, count=number))
    return watch.seconds


def realm_select(directory: Path, count: int) -> float:
    watch = Stopwatch()
    with _paused_realm(directory) as realm:
        _insert(realm, count)
        with watch:
            found = realm.exec(select(Reading)).all()
    assert len(found) == count
    return watch.seconds


def receive(directory: Path, count: int) -> float:
    """Pull, decode, merge and commit what another device uploaded, through a folder."""
    watch = Stopwatch()
    with _paused_realm(directory, "sender") as sender:
        _insert(sender, count)
        sender.sync_session.resume()
        assert sender.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
    with _paused_realm(directory, "receiver") as receiver:
        with watch:
            receiver.sync_session.resume()
            assert receiver.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        assert len(receiver.exec(select(Reading.id)).all()) == count
    return watch.seconds


def exchange_single_writes(directory: Path, count: int) -> float:
    """As many changesets as rows, from one realm's outbox through a folder into another realm's table."""
    rows, watch = new_rows(count), Stopwatch()
    with _paused_realm(directory, "sender") as sender, _paused_realm(directory, "receiver") as receiver:
        for row in rows:
            with sender.write() as tx:
                tx.connection().exec_driver_sql(INSERT, row)
        with watch:
            sender.sync_session.resume()
            assert sender.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
            receiver.sync_session.resume()
            assert receiver.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        assert len(receiver.exec(select(Reading.id)).all()) == count
    return watch.seconds


def opening_a_full_file(directory: Path, count: int) -> float:
    return _opening(_full_file(count))


def opening_an_empty_file(directory: Path, count: int) -> float:
    with _paused_realm(directory):
        pass
    return _opening(directory / "device.db")


def _opening(file: Path) -> float:
    """With a remote that cannot be reached, so that nothing is sent meanwhile."""
    remote = (file.parent / "missing" / "remote").as_uri().replace("file:", "folder:", 1)
    watch = Stopwatch()
    with closing(App.create("benchmarks", remote=remote)) as app:
        user = app.login(Credentials.anonymous())
        config = SyncConfiguration(user, schema={Reading}, path=file, stop_policy="immediately")
        with watch:
            realm = Realm.open(config)
        realm.close()
    return watch.seconds


@cache
def _full_file(count: int) -> Path:
    """A file with so many rows and, for each 50 of them, an unsent changeset. Made once, as that takes a while."""
    directory = Path(tempfile.mkdtemp(prefix="localstore-benchmark-"))
    atexit.register(shutil.rmtree, directory)
    with _paused_realm(directory) as realm:
        for start in range(0, count, 100_000):
            _insert(realm, min(100_000, count - start))
        for number in range(count // 50):
            with realm.write() as tx:
                tx.connection().exec_driver_sql("UPDATE reading SET count = -1 WHERE rowid = ?", (number + 1,))
    return directory / "device.db"


def import_localstore(directory: Path, count: int) -> float:
    return _import("localstore")


def import_sqlmodel(directory: Path, count: int) -> float:
    return _import("sqlmodel")


def _import(module: str) -> float:
    """Importing in a fresh interpreter, without its own start."""
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8").stdout)


CASES = (
    Case("rows in one write()", _MANY, 100_000, captured_bulk_insert, plain_bulk_insert),
    Case("single-column updates in one write()", _MANY, 100_000, captured_updates, plain_updates),
    Case("objects by tx.add_all", "SQLModel session", 20_000, captured_objects, plain_objects),
    Case("one-row write()s", "SQLModel sessions", 2_000, captured_single_writes, plain_single_writes),
    Case("rows selected", "SQLModel session", 100_000, realm_select, plain_select),
    Case("rows received through a folder", _MANY, 100_000, receive, plain_bulk_insert),
    Case("one-row write()s through a folder", _MANY, 10_000, exchange_single_writes, plain_bulk_insert, aim="2,000 ms"),
    Case("rows, a 50th of it unsent: open", "open an empty file", 1_000_000, opening_a_full_file, opening_an_empty_file),
    *folders.CASES,
    *databases.CASES,
    *hub.CASES,
    *applying.CASES,
    *snapshots.CASES,
    *first_sync.CASES,
    *sessions.CASES,
    *waiting.CASES,
    Case("import of localstore", "import of sqlmodel", 1, import_localstore, import_sqlmodel),
)
