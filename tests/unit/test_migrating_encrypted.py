"""Migrations of encrypted synced files, through SQLCipher's driver: the same as for plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.changes import Op
from localstore.errors import UnsafeMigration
from localstore.store.driver import connect
from localstore.store.file import Store
from localstore.wire import unseal
from tests.unit.store_kit import NOTE, UNLIMITED, changes_of, open_store, write

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

KEY = b"k" * 32
TRIGGERS = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'note'"


def note(*columns: sa.Column[Any]) -> sa.Table:
    return sa.Table("note", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An encrypted file with two notes, nothing of them sent."""
    store = opened(tmp_path / "app.db", NOTE)
    write(store, "INSERT INTO note VALUES ('a', 'one', 1), ('b', 'two', 2)")
    store.close()
    return store.path


@pytest.fixture(params=["explicit", "as generated"])
def operations(path: Path, request: pytest.FixtureRequest) -> Iterator[Operations]:
    """Alembic's operations on the file in one transaction, through an engine as ``docs/encryption.md`` shows it."""
    import sqlcipher3.dbapi2

    def creator() -> Any:
        connection = sqlcipher3.dbapi2.connect(str(path))
        connection.execute(f"PRAGMA key = \"x'{KEY.hex()}'\"")
        if request.param == "explicit":
            connection.isolation_level = None
        return connection

    engine = sa.create_engine("sqlite://", module=sqlcipher3.dbapi2, creator=creator, poolclass=sa.NullPool)
    if request.param == "explicit":
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.connect() as connection:
        yield Operations(MigrationContext.configure(connection))
        assert path.read_bytes()[:6] != b"SQLite"


def opened(path: Path, table: sa.Table) -> Store:
    return open_store(path, [table], encryption_key=KEY)


def finish(operations: Operations) -> None:
    operations.get_bind().commit()


def look(path: Path, sql: str) -> list[Any]:
    connection = connect(path, KEY)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def captured(path: Path, table: sa.Table, statement: str) -> dict[Any, Any]:
    """What becomes of a write after the migration."""
    store = opened(path, table)
    try:
        write(store, statement)
        return changes_of([unseal(store.batch(max_bytes=UNLIMITED, max_count=UNLIMITED)[-1])])
    finally:
        store.close()


def test_a_column_is_added(path: Path, operations: Operations) -> None:
    operations.add_column("note", sa.Column("due", sa.String))
    finish(operations)
    schema = note(sa.Column("title", sa.String), sa.Column("stars", sa.Integer), sa.Column("due", sa.String))
    change = captured(path, schema, "UPDATE note SET due = 'now' WHERE id = 'a'")
    assert change == {("note", ("a",)): (Op.UPDATE, {"due": "now"})}
    assert look(path, "SELECT id, title, due FROM note") == [("a", "one", "now"), ("b", "two", None)]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_a_table_is_made_anew_with_its_triggers_and_indexes(path: Path, operations: Operations) -> None:
    operations.execute("CREATE TABLE audit (what TEXT)")
    operations.execute("CREATE TRIGGER theirs AFTER UPDATE ON note BEGIN INSERT INTO audit VALUES (NEW.title); END")
    operations.execute("CREATE INDEX upper_title ON note (upper(title))")
    with operations.batch_alter_table("note") as batch:
        batch.alter_column("stars", type_=sa.String)
    finish(operations)
    schema = note(sa.Column("title", sa.String), sa.Column("stars", sa.String))
    change = captured(path, schema, "UPDATE note SET stars = 'many' WHERE id = 'a'")
    assert change == {("note", ("a",)): (Op.UPDATE, {"stars": "many"})}
    assert look(path, "SELECT what FROM audit") == [("one",)]
    assert look(path, "SELECT name FROM sqlite_master WHERE name = 'upper_title'") == [("upper_title",)]


def test_what_does_not_fit_the_new_table_is_named_and_nothing_is_changed(path: Path, operations: Operations) -> None:
    operations.execute("CREATE TRIGGER theirs AFTER UPDATE ON note BEGIN DELETE FROM note WHERE title = NEW.title; END")
    finish(operations)
    with (
        pytest.raises(UnsafeMigration, match="The trigger theirs does not fit the table note"),
        operations.batch_alter_table("note") as batch,
    ):
        batch.drop_column("title")
    operations.get_bind().rollback()
    assert look(path, "SELECT id, title FROM note") == [("a", "one"), ("b", "two")]
    assert look(path, "SELECT count(*) FROM localstore_unknown") == [(0,)]


def test_a_failed_migration_leaves_capture_as_it_was(path: Path, operations: Operations) -> None:
    before = look(path, TRIGGERS)
    operations.alter_column("note", "title", new_column_name="heading")
    operations.get_bind().rollback()
    assert look(path, TRIGGERS) == before
    change = captured(path, NOTE, "UPDATE note SET title = 'x' WHERE id = 'a'")
    assert change == {("note", ("a",)): (Op.UPDATE, {"title": "x"})}
