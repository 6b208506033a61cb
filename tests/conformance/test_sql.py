"""The SQL log against the contract, in an SQLite file and in a PostgreSQL that is started here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.testing.conformance import AdapterConformance
from localstore.testing.conformance.converging import Note
from localstore_adapters._sql_tables import CHANGESET, LOG_TABLES
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.postgres_server import PostgresServer

_SECONDS = 30.0


def trim_history(url: str) -> None:
    """By one more device, that makes a snapshot of all there is and keeps no history behind it."""
    store = SqlStore(url, keep_days=0)
    app = App.create("conformance", remote=lambda: SqlAdapter(store), settings=Settings(snapshot_every=1))
    with tempfile.TemporaryDirectory() as directory, app:
        configuration = SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=Path(directory) / "r.db")
        with Realm.open(configuration) as realm:
            assert realm.sync_session.download_all_server_changes(_SECONDS)
            end = time.monotonic() + _SECONDS
            while _has_history(store):
                assert time.monotonic() < end, "history was not let go of"
                time.sleep(0.01)


def _has_history(store: SqlStore) -> bool:
    with store.reading() as connection:
        return connection.execute(sa.select(CHANGESET.c.position).limit(1)).first() is not None


class SqliteUnderTest:
    """A file that goes out of reach as on a disk that is unplugged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SqlStore(f"sqlite:///{path}")

    def make_adapter(self) -> SqlAdapter:
        return SqlAdapter(self.store)

    def go_offline(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    def go_online(self) -> None:
        self.path.with_suffix(".away").rename(self.path)

    def wipe(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    def refuse_larger_than(self, byte_count: int) -> None:
        self.store.max_changeset_bytes = byte_count

    def trim_history(self) -> None:
        trim_history(f"sqlite:///{self.path}")


class TestSqlite(AdapterConformance):
    powers = frozenset({"offline", "wipe", "refuse", "trim", "watch", "snapshots"})
    skips = frozenset({"ping"})
    """A file has no line that could be dead."""

    @pytest.fixture
    def remote(self, tmp_path: Path) -> SqliteUnderTest:
        return SqliteUnderTest(tmp_path / "log.db")


class PostgresUnderTest:
    """A database that lets nobody in while it is offline."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.database = server.database
        self.go_online()
        self.wipe()  # much quicker than a database of its own
        self.store = SqlStore(server.url(self.database))

    def make_adapter(self) -> SqlAdapter:
        return SqlAdapter(self.store)

    def go_offline(self) -> None:
        self.server.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS false")
        self.server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.database}'")

    def go_online(self) -> None:
        self.server.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS true")

    def wipe(self) -> None:
        tables = ", ".join(table.name for table in LOG_TABLES)
        self.server.execute(f"TRUNCATE {tables} RESTART IDENTITY", self.database)

    def refuse_larger_than(self, byte_count: int) -> None:
        self.store.max_changeset_bytes = byte_count

    def trim_history(self) -> None:
        trim_history(self.server.url(self.database))


class TestPostgres(AdapterConformance):
    powers = TestSqlite.powers | {"ping"}

    @pytest.fixture
    def remote(self, postgres: PostgresServer) -> Iterator[PostgresUnderTest]:
        under_test = PostgresUnderTest(postgres)
        under_test.store.hold()  # keeps connections between lines, as a hub does
        yield under_test
        under_test.store.let_go()
