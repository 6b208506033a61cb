"""The SQL log against the contract, in an SQLite file and in a PostgreSQL that is started here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.testing.conformance import AdapterConformance
from localstore_adapters._sql_tables import LOG_TABLES
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.postgres_server import PostgresServer


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


class TestSqlite(AdapterConformance):
    powers = frozenset({"offline", "wipe", "refuse", "watch", "snapshots"})
    skips = frozenset({"trim", "ping"})
    """History is let go of when it is in a snapshot and old, never only in words; a file has no line that could be dead."""

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


class TestPostgres(AdapterConformance):
    powers = TestSqlite.powers | {"ping"}
    skips = frozenset({"trim"})

    @pytest.fixture
    def remote(self, postgres: PostgresServer) -> Iterator[PostgresUnderTest]:
        under_test = PostgresUnderTest(postgres)
        under_test.store.hold()  # keeps connections between lines, as a hub does
        yield under_test
        under_test.store.let_go()
