"""The accounts' tables in a database: made, checked, upgraded."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.errors import StoreUnusable
from localstore.hub.accounts import layout, tables
from localstore.hub.accounts.database import Database
from localstore.testing.clock import ManualClock, environment
from tests.postgres_server import PostgresServer, running
from tests.unit.accounts_kit import database_url

MIGRATE = """
import sys
from localstore.environment import Environment
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.layout import upgrade
sys.stdin.read()
with Database(sys.argv[1], Environment()).writing() as connection:
    print(upgrade(connection))
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return database_url(request.param, request)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url, environment(ManualClock()))
    yield database
    database.close()


def test_a_fresh_database_gets_the_tables_that_the_code_knows(database: Database) -> None:
    with database.writing() as connection:
        assert layout.layout_of(connection) is None
        layout.check(connection)
    with database.writing() as connection:
        assert layout.layout_of(connection) == layout.LAYOUT
        assert not layout.upgrade(connection)
        inspected = sa.inspect(connection)
        for table in tables.user.metadata.sorted_tables:
            columns = {column["name"]: column for column in inspected.get_columns(table.name)}
            assert list(columns) == [column.name for column in table.columns]
            for column in table.columns:
                is_key = column.name in inspected.get_pk_constraint(table.name)["constrained_columns"]
                assert is_key == column.primary_key
                assert is_key or columns[column.name]["nullable"] == column.nullable


def test_tables_that_could_not_be_made_to_the_end_are_not_there_at_all(database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE localstore_accounts_device (name TEXT)")
    with pytest.raises(sa.exc.DBAPIError), database.writing() as connection:
        layout.check(connection)
    with database.reading() as connection:
        assert layout.layout_of(connection) is None
        assert not sa.inspect(connection).has_table("localstore_accounts_user")


def test_a_newer_layout_is_refused_and_left_alone(database: Database) -> None:
    with database.writing() as connection:
        layout.upgrade(connection)
        connection.exec_driver_sql("UPDATE localstore_accounts_version SET version_num = 'accounts_0999'")
    for act in (layout.check, layout.upgrade):
        with (
            pytest.raises(StoreUnusable, match=r"accounts_0999.*up to accounts_0001.*pip install -U"),
            database.writing() as it,
        ):
            act(it)


def test_an_older_layout_waits_until_somebody_says_that_it_may_be_upgraded(database: Database) -> None:
    with database.writing() as connection:
        layout.upgrade(connection)
    with pytest.raises(StoreUnusable, match="localstore hub migrate"), database.writing() as connection:
        layout.check(connection, [*layout.LAYOUTS, "accounts_0999"])


@pytest.mark.slow
def test_many_processes_may_migrate_at_once(url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(answers) == ["False", "False", "False", "True"]


def test_accounts_and_a_log_share_a_database_without_meeting(tmp_path: Path) -> None:
    from localstore_adapters.sql import migrate

    url = f"sqlite:///{tmp_path}/hub.db"
    migrate(url)
    database = Database(url, environment(ManualClock()))
    with database.writing() as connection:
        layout.check(connection)
    database.close()
    migrate(url)
    with sqlite3.connect(tmp_path / "hub.db") as plain:
        names = [name for (name,) in plain.execute("SELECT name FROM sqlite_master WHERE name LIKE '%version'")]
    plain.close()
    assert sorted(names) == ["localstore_accounts_version", "localstore_log_version"]
