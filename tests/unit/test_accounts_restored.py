"""Accounts whose database is emptied or put back while a hub runs on it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

pytest.importorskip("argon2", reason="needs the extra hub")

from localstore.errors import Busy
from localstore.hub.accounts import changes, layout
from localstore.hub.accounts.database import Database
from localstore.testing.clock import ManualClock, environment
from tests.unit.accounts_kit import database_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(database_url(request.param, request), environment(ManualClock()))
    with database.writing() as connection:
        layout.check(connection)
    yield database
    database.close()


def test_accounts_that_are_not_there_are_waited_for(database: Database) -> None:
    with database.writing() as connection:
        for table in sa.inspect(connection).get_table_names():
            cascade = " CASCADE" if connection.dialect.name == "postgresql" else ""
            connection.exec_driver_sql(f"DROP TABLE {table}{cascade}")
    with pytest.raises(Busy, match="not there"), database.reading() as connection:
        changes.latest(connection)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_that_was_exchanged_is_the_one_that_is_asked(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        source.backup(copy)
    with database.writing() as connection:
        changes.tell(connection)
    with database.reading() as connection:
        after = changes.latest(connection)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.move(tmp_path / "copy.db", path)
    with database.reading() as connection:
        assert changes.latest(connection) == after - 1
