"""The SQL log against the contract, in an SQLite file and in a PostgreSQL that is started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from localstore.testing.conformance import AdapterConformance
from localstore_adapters.sql import SqlAdapter, SqlStore


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
    powers = frozenset({"offline", "wipe", "refuse"})
    skips = frozenset({"trim", "ping", "watch", "snapshots"})

    @pytest.fixture
    def remote(self, tmp_path: Path) -> SqliteUnderTest:
        return SqliteUnderTest(tmp_path / "log.db")
