"""Copies between plain and encrypted files: everything is in them, and nothing can be read on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from localstore import LocalConfiguration, Realm
from localstore.errors import StoreDamaged, StoreUnusable, TargetExists
from localstore.store.copy import copy_plain
from localstore.store.driver import connect
from localstore.store.file import Store
from localstore.store.transfer import transfer
from tests.unit.session_kit import Note, add, texts
from tests.unit.store_kit import NOTE, exactly, open_store, write

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
MARKER = b"distinctive-marker"

WAYS = {
    "plain to encrypted": (None, KEY),
    "encrypted to plain": (KEY, None),
    "to another key": (KEY, OTHER_KEY),
    "to the same key": (KEY, KEY),
    "plain to plain": (None, None),
}
every_way = pytest.mark.parametrize(("source_key", "target_key"), WAYS.values(), ids=WAYS.keys())

EVERYTHING_SQLITE_HAS = """
PRAGMA synchronous = OFF;
CREATE TABLE kinds (id INTEGER PRIMARY KEY, value);
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE COLLATE NOCASE);
CREATE TABLE keyed (a TEXT, b INTEGER, c REAL, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE generated (a INTEGER, early INTEGER AS (a + 1) STORED, b TEXT, late TEXT AS (b || '!') VIRTUAL);
CREATE TABLE [it's; a "name"] ("select" TEXT, "ä 💾" TEXT);
CREATE TABLE hides_the_rowid (rowid TEXT, _rowid_ TEXT);
CREATE TABLE keyless (value TEXT);
CREATE TABLE checked (value INTEGER CHECK (value > 0));
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent ON DELETE CASCADE);
CREATE TABLE empty (value TEXT);
CREATE INDEX by_value ON kinds (value);
CREATE INDEX by_expression ON counted (length(name) DESC);
CREATE UNIQUE INDEX partial ON keyed (c) WHERE c > 0;
CREATE VIEW names AS SELECT name FROM counted;
CREATE TRIGGER reacts AFTER INSERT ON counted BEGIN INSERT INTO keyless VALUES ('reacted'); END;
CREATE TRIGGER instead INSTEAD OF INSERT ON names BEGIN INSERT INTO counted (name) VALUES (NEW.name); END;
CREATE VIRTUAL TABLE words USING fts5 (body);
INSERT INTO counted (name) VALUES ('a'), ('gone'), ('c'), ('gone too');
DELETE FROM counted WHERE name LIKE 'gone%';
INSERT INTO keyed VALUES ('x', 1, 1.5), ('x', 2, -1.5), ('y', 1, -1.5);
INSERT INTO generated (a, b) VALUES (1, 'one'), (NULL, NULL);
INSERT INTO [it's; a "name"] VALUES ('s', 'ä');
INSERT INTO hides_the_rowid VALUES ('r', 's');
INSERT INTO keyless VALUES ('first'), ('second'), ('third');
DELETE FROM keyless WHERE value = 'second';
PRAGMA ignore_check_constraints = ON;
INSERT INTO checked VALUES (-1);
PRAGMA foreign_keys = OFF;
INSERT INTO child VALUES (1, 99);
INSERT INTO words VALUES ('the quick brown fox'), ('jumps over');
PRAGMA user_version = 42;
PRAGMA application_id = 4711;
ANALYZE;
"""
VALUES = ["ä 💾", "a\0b", "", b"", b"\0\xff", -(2**63), 2**63 - 1, 5e-324, -0.0, 0.1, float("inf"), None, "x" * 1_000_000]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.db"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, key: bytes | None) -> None:
    with closing(connect(path, key)) as connection:
        connection.executescript(EVERYTHING_SQLITE_HAS)
        connection.executemany("INSERT INTO kinds (value) VALUES (?)", [(value,) for value in VALUES])
        for broken in (b"\xff", b"a\xed\xa0\x80z", b"\0\xc3"):
            connection.execute("INSERT INTO kinds (value) VALUES (CAST(? AS TEXT))", (broken,))
        connection.execute("INSERT INTO kinds (id, value) VALUES (5000, 'after a gap')")


def contents(path: Path, key: bytes | None, *, rowids: bool) -> dict[str, Any]:
    """Everything in a file that a person could miss."""
    with closing(connect(path, key)) as connection:
        connection.text_factory = bytes
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name"
        ).fetchall()
        found: dict[str, Any] = {"schema": schema}
        for pragma in ("user_version", "application_id", "encoding", "auto_vacuum", "integrity_check"):
            found[pragma] = connection.execute(f"PRAGMA {pragma}").fetchall()
        for type_, name, _, sql in schema:
            if type_ != b"table":
                continue
            rowid = "rowid, " if rowids and b"WITHOUT ROWID" not in sql and b"words_" not in name else ""
            quoted = '"' + name.decode().replace('"', '""') + '"'
            rows = connection.execute(f"SELECT {rowid}* FROM {quoted}").fetchall()
            found[name.decode()] = exactly(sorted(rows, key=repr))
        found["types"] = connection.execute("SELECT id, typeof(value) FROM kinds ORDER BY id").fetchall()
        found["search"] = connection.execute("SELECT rowid FROM words WHERE words MATCH 'quick'").fetchall()
        found["analysed"] = connection.execute("SELECT count(*) FROM sqlite_stat1").fetchall() != [(0,)]
    return found


@every_way
def test_a_copy_holds_everything(source: Path, target: Path, source_key: bytes | None, target_key: bytes | None) -> None:
    fill(source, source_key)
    before = source.read_bytes()
    copy_plain(source, target, source_key=source_key, target_key=target_key)
    rowids = bool(source_key or target_key)  # VACUUM numbers rows without a key of their own anew
    expected, found = contents(source, source_key, rowids=rowids), contents(target, target_key, rowids=rowids)
    assert expected["integrity_check"] != [(b"ok",)]  # it notes the row that breaks its CHECK
    assert found == expected
    assert source.read_bytes() == before
    assert files_in(target.parent) == ["copy.db"]


@every_way
@pytest.mark.parametrize("pragma", ["encoding='UTF-16le'", "auto_vacuum=FULL"])
def test_what_can_only_be_said_of_a_new_file_is_kept(
    source: Path, target: Path, source_key: bytes | None, target_key: bytes | None, pragma: str
) -> None:
    with closing(connect(source, source_key)) as connection:
        connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE t (value TEXT)")
        connection.execute("INSERT INTO t VALUES ('ä 💾')")
        expected = connection.execute(f"PRAGMA {pragma.split('=')[0]}").fetchone()
    copy_plain(source, target, source_key=source_key, target_key=target_key)
    with closing(connect(target, target_key)) as connection:
        assert connection.execute(f"PRAGMA {pragma.split('=')[0]}").fetchone() == expected
        assert connection.execute("SELECT value FROM t").fetchall() == [("ä 💾",)]


@every_way
def test_the_next_counted_key_follows_the_highest_there_ever_was(
    source: Path, target: Path, source_key: bytes | None, target_key: bytes | None
) -> None:
    fill(source, source_key)
    copy_plain(source, target, source_key=source_key, target_key=target_key)
    with closing(connect(target, target_key)) as connection:
        assert connection.execute("INSERT INTO counted (name) VALUES ('new') RETURNING id").fetchone() == (5,)
        assert connection.execute("SELECT count(*) FROM keyless WHERE value = 'reacted'").fetchone() == (5,)


@pytest.fixture
def open_synced(source: Path) -> Iterator[Callable[[bytes | None], Store]]:
    """Opens a synced store with a note in it."""
    stores: list[Store] = []

    def open_(key: bytes | None) -> Store:
        store = open_store(source, [NOTE], encryption_key=key)
        stores.append(store)
        write(store, "INSERT INTO note VALUES ('a', 'first', 1)")
        return store

    yield open_
    for store in stores:
        store.close()


@every_way
def test_nothing_of_sync_is_in_a_copy(
    open_synced: Callable[[bytes | None], Store],
    source: Path,
    target: Path,
    source_key: bytes | None,
    target_key: bytes | None,
) -> None:
    open_synced(source_key)
    copy_plain(source, target, source_key=source_key, target_key=target_key)
    with closing(connect(target, target_key)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        assert names == [("note",)]
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT * FROM note").fetchall() == [("a", "first", 1)]


@every_way
def test_an_open_write_is_not_in_the_copy(
    open_synced: Callable[[bytes | None], Store],
    source: Path,
    target: Path,
    source_key: bytes | None,
    target_key: bytes | None,
) -> None:
    store = open_synced(source_key)
    with store.write() as tx:
        tx.connection().exec_driver_sql("INSERT INTO note VALUES ('b', 'second', 2)")
        copy_plain(source, target, source_key=source_key, target_key=target_key)
    with closing(connect(target, target_key)) as connection:
        assert connection.execute("SELECT id FROM note").fetchall() == [("a",)]


@every_way
def test_a_realm_is_copied_to_the_key_of_the_target(
    source: Path, target: Path, source_key: bytes | None, target_key: bytes | None
) -> None:
    with Realm.open(LocalConfiguration(path=source, schema={Note}, encryption_key=source_key)) as realm:
        add(realm, "a", "b")
        realm.write_copy_to(LocalConfiguration(path=target, encryption_key=target_key))
        assert texts(realm) == ["a", "b"]
    with Realm.open(LocalConfiguration(path=target, schema={Note}, encryption_key=target_key)) as realm:
        assert texts(realm) == ["a", "b"]
    assert target.read_bytes().startswith(b"SQLite format 3") is (target_key is None)
    wrong = KEY if target_key is None else None
    with pytest.raises(StoreUnusable):
        Realm.open(LocalConfiguration(path=target, schema={Note}, encryption_key=wrong))


@every_way
def test_a_target_that_exists_is_left_as_it_is(
    source: Path, target: Path, source_key: bytes | None, target_key: bytes | None
) -> None:
    fill(source, source_key)
    target.write_bytes(b"precious")
    with pytest.raises(TargetExists):
        copy_plain(source, target, source_key=source_key, target_key=target_key)
    assert target.read_bytes() == b"precious"


@every_way
def test_a_missing_folder_is_said_and_nothing_is_left(
    source: Path, tmp_path: Path, source_key: bytes | None, target_key: bytes | None
) -> None:
    fill(source, source_key)
    with pytest.raises(StoreUnusable, match="folder"):
        copy_plain(source, tmp_path / "missing" / "copy.db", source_key=source_key, target_key=target_key)
    assert files_in(tmp_path) == ["source.db"]


@every_way
def test_a_copy_that_fails_leaves_nothing_behind(
    source: Path, target: Path, source_key: bytes | None, target_key: bytes | None
) -> None:
    with closing(connect(source, source_key)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (value TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 1000)
        connection.execute("COMMIT")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v')")
    with pytest.raises(StoreDamaged, match=r"source\.db is damaged"):
        copy_plain(source, target, source_key=source_key, target_key=target_key)
    assert files_in(target.parent) == []


@pytest.mark.parametrize(("target_key", "is_seen"), [(KEY, False), (None, True)], ids=["encrypted", "plain"])
def test_the_half_made_copy_can_be_read_by_nobody_without_the_key(
    source: Path, target: Path, target_key: bytes | None, is_seen: bool
) -> None:
    """Looks at all files beside the target again and again while the copy is made."""
    with closing(connect(source, None)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (value TEXT)")
        connection.execute("CREATE INDEX by_value ON t (value)")
        connection.executemany("INSERT INTO t VALUES (?)", [(f"{MARKER.decode()} {n}" * 20,) for n in range(10_000)])
        connection.execute("COMMIT")
    sizes: list[int] = []
    seen: list[str] = []

    def look() -> int:
        for path in target.parent.iterdir():
            content = path.read_bytes()
            sizes.append(len(content))
            if MARKER in content:
                seen.append(path.name)
        return 0

    with closing(connect(source, None)) as reading, closing(connect(target, target_key)) as writing:
        writing.set_progress_handler(look, 20_000)
        transfer(reading, writing)
        writing.set_progress_handler(None, 0)
        look()
    assert len([size for size in sizes if size > 100_000]) > 3
    assert bool(seen) is is_seen
