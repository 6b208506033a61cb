"""What a process does that is killed on the way, phase by phase, and what the one after it does to recover.

There is a remote in a folder, a ``victim``, another device that nothing happens to, and what a phase makes: copies, newcomers.
Rows are written in batches, one transaction each, of which a device shows all or nothing. ``tell`` goes to who kills:
``committed`` and ``acknowledged`` come after the fact, so that what was told must be there for ever.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, select

from localstore import (
    App,
    Credentials,
    LocalConfiguration,
    Realm,
    RecoverOrDiscard,
    SessionState,
    Settings,
    SyncConfiguration,
    uuid7,
)
from localstore.errors import LocalStoreError
from localstore.store.driver import connect, driver_module
from localstore.testing.memory_users import MemoryRemoteWithUsers
from localstore_adapters.folder import FolderAdapter

__all__ = ["PHASES", "PREPARATIONS", "ROWS", "World"]

ROWS = 4  # of a batch
WAIT_SECONDS = 60
LOOK_SECONDS = 1
SNAPSHOT_EVERY = 10
SOON = {"backoff_initial": 0.05, "backoff_max": 0.5, "page_count": 5}
Tell = Callable[..., None]


class Base(SQLModel, registry=registry()):
    """Tables of these processes, apart from those that other tests declare."""


class Entry(Base, table=True):
    """One of a batch."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    batch: str = Field(index=True)
    place: int
    text: str


class Last(Base, table=True):
    """The last batch of all, in a row that every device keeps changing."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    batch: str
    total: int = 0


class World:
    """A folder with everything in it.

    Args:
        folder: where.
        chance: decides details; the same numbers for the same phase of a seed.
        tell: says a line to who kills.
        key: of all files, if they are encrypted.
    """

    def __init__(self, folder: Path, chance: random.Random, tell: Tell, key: bytes | None = None) -> None:
        self.folder = folder
        self.chance = chance
        self.tell = tell
        self.key = key

    @property
    def remote(self) -> Path:
        return self.folder / "remote"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    @contextmanager
    def app(self, *, keep_days: float | None = None, snapshot_every: int = 0) -> Iterator[App]:
        make = functools.partial(FolderAdapter, self.remote, keep_days=keep_days, poll_seconds=0.5)
        with App.create("crashes", remote=make, settings=Settings(snapshot_every=snapshot_every, **SOON)) as app:
            yield app

    def configuration(self, app: App, name: str) -> SyncConfiguration:
        user = app.login(Credentials.anonymous())
        return SyncConfiguration(
            user,
            schema={Entry, Last},
            path=self.file(name),
            client_reset=RecoverOrDiscard(),
            encryption_key=self.key,
            error_handler=lambda _, error: self.tell("heard", type(error).__name__, str(error)),
        )

    @contextmanager
    def realm(self, name: str, **options: object) -> Iterator[Realm]:
        """A device that syncs."""
        with self.app(**options) as app, Realm.open(self.configuration(app, name)) as realm:  # type: ignore[arg-type]
            yield realm

    def write(self, realm: Realm, count: int, *, size: int = 200) -> list[str]:
        """Write so many batches, and tell of each."""
        return [self._write_batch(realm, size) for _ in range(count)]

    def _write_batch(self, realm: Realm, size: int) -> str:
        batch = uuid7().hex
        try:
            with realm.write() as tx:
                tx.add_all(entries(batch, size))
                last = tx.get(Last, 1)
                if last is None:
                    tx.add(Last(id=1, batch=batch))
                else:
                    last.batch, last.total = batch, last.total + 1
        except BaseException:
            self.tell("rolled-back", batch)
            raise
        self.tell("committed", realm.path.stem, batch)
        return batch

    def settle(self, realm: Realm) -> None:
        """Send and receive all; a session that stopped before it was waited for says why as well."""
        session, deadline = realm.sync_session, time.monotonic() + WAIT_SECONDS
        for wait in (session.upload_all_local_changes, session.download_all_server_changes):
            while not wait(timeout=LOOK_SECONDS):
                if session.state is SessionState.INACTIVE and session.last_error is not None:
                    raise session.last_error
                assert time.monotonic() < deadline, session.status

    # -- phases, which are killed

    def writing(self) -> None:
        """Without a word to the remote."""
        with self.realm("victim") as realm:
            realm.sync_session.pause()
            self.write(realm, 25, size=self.chance.choice([50, 200, 5000]))

    def syncing(self) -> None:
        """There is something to send, something to receive, and more comes."""
        with self.realm("victim") as realm:
            batches = self.write(realm, 5)
            assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
            self.tell("acknowledged", *batches)
            self.settle(realm)

    def making_snapshots(self) -> None:
        with self.realm("victim", snapshot_every=1) as realm:
            before = self._snapshots()
            for _ in range(4):
                self.write(realm, 3)
                self.settle(realm)
            deadline = time.monotonic() + 2
            while self._snapshots() == before and time.monotonic() < deadline:
                time.sleep(0.005)

    def _snapshots(self) -> set[Path]:
        return set(self.remote.glob("*/snapshots/*.snapshot.json"))

    def beginning(self) -> None:
        """A new device, which begins with a snapshot."""
        with self.realm("newcomer") as realm:
            self.settle(realm)

    def opening(self) -> None:
        """New files, with first data, which are there whole or not at all."""
        with self.app() as app:
            for number in itertools.count(1):
                local = LocalConfiguration(path=self.file("local"), schema={Entry, Last}, initial_data=first_data)
                Realm.open(local).close()
                if number == 3:
                    return
                Realm.open(self.configuration(app, "opened")).close()
                Realm.delete_files(local)

    def migrating(self) -> None:
        """Alembic's batch mode makes the table anew, row by row, and drops the old one."""
        for _ in range(3):
            engine = sa.create_engine(
                "sqlite://",
                module=driver_module(self.key),
                creator=functools.partial(connect, self.file("victim"), self.key),
                poolclass=sa.NullPool,
            )
            sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            with engine.begin() as connection:
                operations = Operations(MigrationContext.configure(connection))
                with operations.batch_alter_table("entry", recreate="always"):
                    pass

    def copying(self) -> None:
        with self.app() as app, Realm.open(self.configuration(app, "victim")) as realm:
            local = LocalConfiguration(path=self.file("copy-local"), schema={Entry, Last}, encryption_key=self.key)
            for target in (local, self.configuration(app, "copy-synced")):
                if not self.file(Path(str(target.path)).stem).exists():  # else it was made before something failed
                    self._copy(realm, target)

    def _copy(self, realm: Realm, target: LocalConfiguration | SyncConfiguration) -> None:
        try:
            realm.write_copy_to(target, with_unsent=True)
        except LocalStoreError:
            assert not Path(str(target.path)).exists(), "there is an error and a copy"
            raise

    def compacting(self) -> None:
        with self.app() as app:
            for _ in range(3):
                assert Realm.compact(self.configuration(app, "victim"))

    def resetting(self) -> None:
        """The remote has let go of what this device has not seen, and there is something unsent."""
        with self.realm("victim") as realm:
            self.settle(realm)
            if realm.sync_session.last_reset is not None:
                self.tell("reset")

    def logging_in(self) -> None:
        """New users, all in one file; every other one leaves again."""
        names = [uuid7().hex for _ in range(6)]
        with self.users(*names) as app:
            for number, name in enumerate(names):
                user = app.login(credentials(name))
                self.tell("logged-in", name)
                if number % 2:
                    user.log_out()
                    self.tell("logged-out", name)

    def salvaging(self) -> None:
        """What a file in whose place is another one had not sent."""
        with self.realm("victim") as realm:
            self._salvage(realm)

    def _salvage(self, realm: Realm) -> None:
        self.settle(realm)
        report = realm.sync_session.salvage(self.file("damaged"))
        assert report.is_whole, report
        assert not report.lost, report
        self.settle(realm)

    @contextmanager
    def users(self, *names: str) -> Iterator[App]:
        """An application whose remote knows them."""
        remote = MemoryRemoteWithUsers()
        for name in names:
            remote.add_user(name, credentials(name))
        with App.create("crashes", remote=remote.adapter, settings=Settings(directory=str(self.folder / "users"))) as app:
            yield app

    # -- what comes before a phase

    def prepare_syncing(self) -> None:
        with self.realm("other") as other:
            self.write(other, 12)
            self.settle(other)
        self.writing()

    def prepare_resetting(self) -> None:
        """Others go on, and make snapshots, until the remote has let go of something that the victim has not seen."""
        with self.realm("victim") as victim:
            self.settle(victim)
            victim.sync_session.pause()
            self.write(victim, 5)
        with self.realm("other", keep_days=0.0, snapshot_every=SNAPSHOT_EVERY) as other:
            self.settle(other)
            self._trim(other)

    def _trim(self, other: Realm) -> None:
        """Write until what was written first is not in the history any more."""
        before = self._history()
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self.write(other, 5, size=20)
            self.settle(other)
            new = self._history() - before
            if first := min(new, default=None):
                break
        while first.exists():
            assert time.monotonic() < deadline, "nothing was let go of"
            self.write(other, 5, size=20)
            self.settle(other)

    def _history(self) -> set[Path]:
        return set(self.remote.glob("*/*/*.changes"))

    def prepare_salvaging(self) -> None:
        with self.realm("damaged") as realm:
            self.settle(realm)
            realm.sync_session.pause()
            self.write(realm, 8)

    def prepare_in_step(self) -> None:
        with self.realm("victim") as victim:
            self.settle(victim)

    # -- recovery

    def begin(self) -> None:
        """A world in which there is something, and a snapshot of it."""
        with self.realm("other", snapshot_every=SNAPSHOT_EVERY) as other:
            self.write(other, 30)
            self.settle(other)
            deadline = time.monotonic() + WAIT_SECONDS
            while not self._snapshots():
                assert time.monotonic() < deadline, "no snapshot came"
                time.sleep(0.01)
        with self.realm("victim") as victim:
            self.settle(victim)
            self.write(victim, 10)
            self.settle(victim)

    def looking(self) -> None:
        """Whether this device notices that its file is damaged, and what it shows."""
        with self.realm("victim") as realm:
            found: list[Entry | None] = list(realm.exec(select(Entry)).all())
            entries = [entry for entry in found if entry is not None]  # what SQLAlchemy makes of a row whose key is gone
            counts = Counter(entry.batch for entry in entries)
            self.tell("shows", json.dumps(sorted(counts)))
            self.tell("wrong", json.dumps([str(entry) for entry in found if entry is None or not is_right(entry)]))
            self.tell("short", json.dumps([batch for batch, count in counts.items() if count != ROWS]))
            self.settle(realm)

    def replacing(self) -> None:
        """As documented for a damaged file: it was moved away, and a new one is filled by the remote, and by what the old one
        had not sent, as far as it can be read. To salvage it twice does no harm."""
        with self.realm("victim") as realm:
            self.settle(realm)
            self.tell("remote-has", json.dumps(sorted(shown(realm))))
            try:
                report = realm.sync_session.salvage(self.file("damaged"))
                again = realm.sync_session.salvage(self.file("damaged"))
            except LocalStoreError as error:
                self.tell("beyond-reading", type(error).__name__, error.message, error.hint)
            else:
                assert (again.sent, again.known) == (0, report.sent + report.known), (report, again)
                told = [str(report.sent), str(report.known), str(len(report.lost))]
                self.tell("salvaged", *told, *([] if report.is_whole else ["or more"]))
            self.settle(realm)
            self.tell("shows", json.dumps(sorted(shown(realm))))

    def recovering(self) -> None:
        """First the other device sees what the remote has, then the victim comes back; then they and the newcomer agree."""
        with self.users() as app:
            for user in app.all_users():
                self.tell("user", user.id, user.state.name)
        with self.app() as app:
            with Realm.open(self.configuration(app, "other")) as other:
                assert other.sync_session.download_all_server_changes(timeout=WAIT_SECONDS), other.sync_session.status
                self.tell("remote-has", json.dumps(sorted(shown(other))))
                names = ["victim", *(name for name in ("newcomer", "opened", "copy-synced") if self.file(name).exists())]
                for name in names:
                    with Realm.open(self.configuration(app, name)) as realm:
                        self.settle(realm)
                        if name == "victim" and self.file("damaged").exists():
                            self._salvage(realm)
                        self.tell("shows", name, json.dumps(sorted(shown(realm))))
                self.settle(other)
                with Realm.open(self.configuration(app, "victim")) as victim:
                    self.settle(victim)
                    self.tell("both-show", json.dumps(sorted(shown(victim))), json.dumps(sorted(shown(other))))
            assert app.sync.wait_for_sessions_to_terminate(WAIT_SECONDS)


PHASES = {
    function.__name__: function
    for function in (
        World.writing,
        World.syncing,
        World.making_snapshots,
        World.beginning,
        World.opening,
        World.migrating,
        World.copying,
        World.compacting,
        World.resetting,
        World.salvaging,
        World.logging_in,
    )
}
PREPARATIONS = {
    "syncing": World.prepare_syncing,
    "resetting": World.prepare_resetting,
    "salvaging": World.prepare_salvaging,
    "making_snapshots": World.prepare_in_step,
    "copying": World.prepare_in_step,
}


def credentials(name: str) -> Credentials:
    return Credentials.email_password(f"{name}@example.com", "a password")


def entries(batch: str, size: int) -> list[Entry]:
    return [Entry(batch=batch, place=place, text=f"{batch} {place} " + "x" * size) for place in range(ROWS)]


def first_data(session: Session) -> None:
    session.add_all(entries("first", 100))


def is_right(entry: Entry) -> bool:
    """Whether a row is as it was written."""
    start = f"{entry.batch} {entry.place} "
    return entry.text.startswith(start) and not entry.text[len(start) :].strip("x")


def shown(realm: Realm) -> set[str]:
    """The batches that a realm shows, each of them whole."""
    counts = realm.exec(select(Entry.batch, sa.func.count()).group_by(Entry.batch)).all()
    halves = [batch for batch, count in counts if count != ROWS]
    assert not halves, f"shown in part: {halves}"
    return {batch for batch, _ in counts}
