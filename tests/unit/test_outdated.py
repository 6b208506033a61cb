"""A file that is migrated while a store has it open: statements that do not fit any more say what happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from localstore.errors import SchemaError, SchemaMismatch
from localstore.store.driver import connect
from localstore.store.file import Store
from tests.unit.store_kit import LINK, NOTE, open_store, write


@pytest.fixture(params=[None, b"k" * 32], ids=["plain", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    found: bytes | None = request.param
    if found is not None:
        pytest.importorskip("sqlcipher3", reason="needs the extra cipher")
    return found


@pytest.fixture
def store(tmp_path: Path, key: bytes | None) -> Iterator[Store]:
    with closing(open_store(tmp_path / "app.db", [NOTE, LINK], encryption_key=key)) as opened:
        write(opened, "INSERT INTO note VALUES ('a', 'one', 1)")
        yield opened


def migrate(store: Store, key: bytes | None, statement: str) -> None:
    with closing(connect(store.path, key)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'localstore_capture%'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


def read(store: Store, sql: str) -> None:
    with store.read() as session:
        session.connection().exec_driver_sql(sql)


MIGRATIONS = {
    "ALTER TABLE note RENAME COLUMN title TO heading": "it has no column title in note any more",
    "ALTER TABLE note DROP COLUMN title": "it has no column title in note any more",
    "ALTER TABLE note RENAME TO memo": "it has no table note any more",
}


@pytest.mark.parametrize(("statement", "what"), MIGRATIONS.items(), ids=MIGRATIONS)
def test_reading_and_writing_say_that_the_file_was_migrated(store: Store, key: bytes | None, statement: str, what: str) -> None:
    migrate(store, key, statement)
    with pytest.raises(SchemaMismatch, match=f"was migrated while this realm had it open: {what}"):
        write(store, "UPDATE note SET title = 'x'")
    with pytest.raises(SchemaMismatch, match=what):
        write(store, "INSERT INTO note (id, title) VALUES ('b', 'x')")
    with pytest.raises(SchemaMismatch, match=what):
        read(store, "SELECT title FROM note")


def test_what_was_never_there_is_not_laid_on_a_migration(store: Store) -> None:
    with pytest.raises(OperationalError, match="no such column: nonsense"):
        read(store, "SELECT nonsense FROM note")
    with pytest.raises(OperationalError, match="has no column named nonsense"):
        write(store, "INSERT INTO note (id, nonsense) VALUES ('b', 'x')")
    with pytest.raises(SchemaError, match="no table nonsense") as caught:
        read(store, "SELECT * FROM nonsense")
    assert not isinstance(caught.value, SchemaMismatch)
