"""Opening: new files, known files, other people's files, and files that are not quite what the schema says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.changes import Op
from localstore.errors import SchemaError, SchemaMismatch, StoreBusy, StoreUnusable
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_local, prepare
from localstore.testing.clock import ManualClock, environment
from tests.unit.store_kit import (
    APP,
    LINK,
    NOTE,
    Device,
    changes_of,
    changesets_in,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    sealed_in,
    write,
)

ROOT = Path(__file__).parents[2]
TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name NOT LIKE 'localstore%' ORDER BY name"
EVERYTHING = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
PLAIN_NOTE = "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def table(name: str, *columns: sa.Column[str] | sa.Column[int]) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns)


def note_with(*columns: sa.Column[str] | sa.Column[int]) -> sa.Table:
    """The table ``note`` as a later version of the application has it."""
    return table("note", sa.Column("title", sa.String), sa.Column("stars", sa.Integer), *columns)


def open_plain(path: Path, *tables: sa.Table) -> Store:
    return open_local(path, tables or (NOTE,), options=StoreOptions(), environment=environment(ManualClock()))


def open_and_close(path: Path, *tables: sa.Table) -> None:
    open_store(path, tables or (NOTE,)).close()


# -- new and known files


def test_a_new_file_gets_the_declared_tables_and_an_identity(path: Path) -> None:
    store = open_store(path, [NOTE, LINK])
    state = store.state()
    store.close()
    assert rows_of(path, "note") == rows_of(path, "link") == {}
    assert (len(state.device), state.app, state.last_number, state.cursor, state.remote_id) == (16, APP, 0, None, None)
    assert sealed_in(path) == []


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    store = open_store(path)
    write(store, "INSERT INTO note (id) VALUES ('a')")
    store.close()
    assert len(sealed_in(path)) == 1


def test_rows_outbox_and_identity_are_the_same_after_reopening(path: Path) -> None:
    store = open_store(path, seed=1)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    before = store.state(), rows_of(path), sealed_in(path)
    store.close()
    store = open_store(path, seed=2)
    assert (store.state(), rows_of(path), sealed_in(path)) == before
    write(store, "UPDATE note SET stars = 2")
    store.close()
    assert [changeset.number for changeset in changesets_in(path)] == [1, 2]


def test_every_new_file_is_another_device(tmp_path: Path) -> None:
    found = set()
    for seed in range(3):
        store = open_store(tmp_path / f"{seed}.db", seed=seed)
        found.add(store.state().device)
        store.close()
    assert len(found) == 3


def test_reopening_changes_nothing_at_all_in_the_file(path: Path) -> None:
    open_and_close(path, NOTE, LINK)
    before = query(path, EVERYTHING), query(path, "PRAGMA schema_version")
    with other_program(path) as watching:
        data_version = watching.execute("PRAGMA data_version").fetchone()
        open_and_close(path, NOTE, LINK)
        open_and_close(path, NOTE)
        assert watching.execute("PRAGMA data_version").fetchone() == data_version
    assert (query(path, EVERYTHING), query(path, "PRAGMA schema_version")) == before


IMPORTS = """
import sys
from pathlib import Path
from tests.unit.store_kit import open_store

open_store(Path(sys.argv[1])).close()
print("alembic" in sys.modules)
"""


def test_alembic_is_imported_only_when_there_is_something_to_do(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = [
        subprocess.run([sys.executable, "-c", IMPORTS, str(path)], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [each.stdout.strip() for each in said] == ["True", "False"]


def test_a_file_can_be_open_twice_at_a_time(path: Path) -> None:
    one, two = open_store(path), open_store(path)
    write(one, "INSERT INTO note (id) VALUES ('a')")
    write(two, "INSERT INTO note (id) VALUES ('b')")
    write(one, "UPDATE note SET stars = 1")
    assert one.state() == two.state()
    one.close()
    two.close()
    assert [changeset.number for changeset in changesets_in(path)] == [1, 2, 3]


# -- files that cannot be opened


@pytest.mark.parametrize("kind", ["synced", "local"])
def test_a_file_that_is_no_database_is_left_alone(path: Path, kind: str) -> None:
    path.write_text("Dear diary, " * 1000)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"store\.db is not a usable SQLite database"):
        open_store(path) if kind == "synced" else open_plain(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_left_alone(path: Path) -> None:
    open_and_close(path)
    damaged = path.read_bytes()
    damaged = damaged[:100] + b"\xff" * 4000 + damaged[4100:]
    path.write_bytes(damaged)
    with pytest.raises(StoreUnusable, match=r"store\.db"):
        open_store(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("kind", ["synced", "local"])
def test_a_missing_folder_is_said_and_not_made(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "missing" / "store.db"
    with pytest.raises(StoreUnusable, match="folder"):
        open_store(path) if kind == "synced" else open_plain(path)
    assert not path.parent.exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        open_store(tmp_path)


def test_a_newer_layout_is_refused_with_both_versions(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as connection:
        connection.execute("UPDATE localstore_version SET version_num = 'layout_9999'")
        before = connection.execute("PRAGMA data_version").fetchone()
        with pytest.raises(StoreUnusable, match=r"layout_9999.*layout_0001.*[Uu]pgrade"):
            open_store(path)
        with pytest.raises(StoreUnusable, match="layout_9999"):
            open_plain(path)
        assert connection.execute("PRAGMA data_version").fetchone() == before


def test_another_applications_file_is_refused_with_both_names(path: Path) -> None:
    open_and_close(path)
    with pytest.raises(StoreUnusable, match=r"'notes'.*'chess'"):
        open_store(path, [LINK], app="chess")
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'link'") == []
    open_and_close(path)


def test_a_file_of_another_partition_is_refused_with_both_names(path: Path) -> None:
    open_and_close(path)
    with pytest.raises(StoreUnusable, match=r"'default'.*'garden'"):
        open_store(path, [LINK], partition="garden")
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'link'") == []


def test_a_synced_file_cannot_be_opened_as_a_local_one(path: Path) -> None:
    open_and_close(path)
    with pytest.raises(StoreUnusable, match="SyncConfiguration"):
        open_plain(path, LINK)
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'link'") == []


def test_a_file_that_another_program_keeps_locked_is_said_to_be_busy(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="busy_timeout"):
            open_store(path, busy_timeout=0.1)
        connection.execute("ROLLBACK")
    open_and_close(path)


# -- plain files that become synced


def test_rows_of_a_plain_file_become_a_changeset(path: Path) -> None:
    store = open_plain(path, NOTE, LINK)
    write(store, "INSERT INTO note VALUES ('a', 't', 1), ('b', NULL, NULL)", "INSERT INTO link VALUES ('a', 1, 'l')")
    store.close()
    open_and_close(path, NOTE, LINK)
    assert changes_of(changesets_in(path)) == {
        ("note", ("a",)): (Op.SEED, {"title": "t", "stars": 1}),
        ("note", ("b",)): (Op.SEED, {"title": None, "stars": None}),
        ("link", ("a", 1)): (Op.SEED, {"label": "l"}),
    }
    open_and_close(path, NOTE, LINK)
    assert len(sealed_in(path)) == 2  # one for each table


def test_a_file_made_by_any_program_can_become_a_synced_one(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(PLAIN_NOTE)
        connection.execute("INSERT INTO note VALUES ('a', 't', 1)")
    open_and_close(path)
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",))}


def test_many_rows_of_a_plain_file_become_several_changesets(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(PLAIN_NOTE)
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO note VALUES (?, 't', ?)", ((f"{n:05}", n) for n in range(25_000)))
        connection.execute("COMMIT")
    open_and_close(path)
    changesets = changesets_in(path)
    assert [changeset.row_count for changeset in changesets] == [10_000, 10_000, 5_000]
    other = Device(path.parent, "other")
    other.receive(*sealed_in(path))
    assert other.rows() == rows_of(path)
    other.close()


def test_a_failed_opening_of_a_plain_file_leaves_it_plain(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(PLAIN_NOTE)
        connection.execute("INSERT INTO note VALUES ('a', 't', 1)")
    before = query(path, EVERYTHING)
    with pytest.raises(SchemaMismatch):
        open_store(path, [LINK, note_with(sa.Column("due", sa.String, nullable=False))])
    assert query(path, EVERYTHING) == before
    assert rows_of(path) == {("a",): {"title": "t", "stars": 1}}


def test_rows_of_a_table_that_joins_the_schema_later_are_synced(path: Path) -> None:
    open_and_close(path, NOTE)
    with other_program(path) as connection:
        connection.execute("CREATE TABLE link (source TEXT, target INTEGER, label TEXT, PRIMARY KEY (source, target))")
        connection.execute("INSERT INTO link VALUES ('a', 1, 'l')")
    open_and_close(path, NOTE, LINK)
    assert changes_of(changesets_in(path)) == {("link", ("a", 1)): (Op.SEED, {"label": "l"})}


# -- schemas that differ


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("title TEXT, stars TEXT", "column stars of type TEXT"),
        ("title TEXT, stars REAL", "column stars of type REAL"),
        ("title TEXT, stars INTEGER, place TEXT NOT NULL", "column place, which must have a value"),
    ],
)
def test_a_file_that_does_not_fit_the_classes_is_refused_with_the_command_to_run(path: Path, stored: str, problem: str) -> None:
    with other_program(path) as program:
        program.execute(f"CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, {stored})")
    before = query(path, EVERYTHING)
    for attempt in (open_store, open_plain):
        with pytest.raises(SchemaMismatch, match=problem) as caught:
            attempt(path)
        assert "alembic upgrade head" in caught.value.hint
    assert query(path, EVERYTHING) == before


def test_columns_of_a_later_version_and_other_spellings_of_a_type_do_no_harm(path: Path) -> None:
    with other_program(path) as program:
        program.execute("CREATE TABLE note (id NVARCHAR(9) NOT NULL PRIMARY KEY, title CLOB, stars BIGINT, place TEXT)")
    open_and_close(path)
    assert query(path, "SELECT name FROM localstore_table WHERE id > 0") == [("note",)]


def test_an_insert_into_a_column_that_was_just_added_is_sealed_with_it(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as program:
        program.execute("ALTER TABLE note ADD COLUMN due TEXT")
        program.execute("INSERT INTO note (id, due) VALUES ('a', 'today')")
    open_and_close(path)
    assert changes_of(changesets_in(path))["note", ("a",)] == (Op.INSERT, {"title": None, "stars": None, "due": "today"})


# -- schemas that grow


HARMLESS: dict[str, Callable[[], sa.Column[str]]] = {  # a column belongs to one table only, so each test makes its own
    "nullable": lambda: sa.Column("due", sa.String),
    "defaulted": lambda: sa.Column("due", sa.String, server_default="never"),
    "defaulted and not nullable": lambda: sa.Column("due", sa.String, server_default="never", nullable=False),
}


@pytest.mark.parametrize("column", HARMLESS.values(), ids=HARMLESS.keys())
@pytest.mark.parametrize("kind", ["synced", "local"])
def test_a_new_column_that_cannot_go_wrong_is_added(path: Path, column: Callable[[], sa.Column[str]], kind: str) -> None:
    store = open_store(path) if kind == "synced" else open_plain(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    wider = note_with(column())
    store = open_store(path, [wider]) if kind == "synced" else open_plain(path, wider)
    write(store, "INSERT INTO note (id, due) VALUES ('b', 'now')")
    write(store, "UPDATE note SET due = 'soon' WHERE id = 'a'")
    store.close()
    assert rows_of(path)["a",]["due"] == "soon"
    if kind == "synced":
        assert changes_of(changesets_in(path)[1:]) == {
            ("note", ("b",)): (Op.INSERT, {"title": None, "stars": None, "due": "now"}),
            ("note", ("a",)): (Op.UPDATE, {"due": "soon"}),
        }


def test_a_new_column_in_the_middle_does_not_confuse_what_the_log_means(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as connection:
        connection.execute("INSERT INTO note VALUES ('a', 't', 1)")
        connection.execute("UPDATE note SET stars = 2")
    wider = table("note", sa.Column("due", sa.String), sa.Column("title", sa.String), sa.Column("stars", sa.Integer))
    open_and_close(path, wider)
    assert changes_of(changesets_in(path)) == {("note", ("a",)): (Op.INSERT, {"title": "t", "stars": 2})}


def test_a_new_table_is_made_and_captured(path: Path) -> None:
    open_and_close(path)
    store = open_store(path, [NOTE, LINK])
    write(store, "INSERT INTO link VALUES ('a', 1, 'l')")
    store.close()
    assert changes_of(changesets_in(path)).keys() == {("link", ("a", 1))}


def test_a_file_that_is_open_can_take_a_wider_schema(path: Path) -> None:
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    wider = note_with(sa.Column("due", sa.String))
    prepare(store, [wider, LINK], app=APP, options=StoreOptions(), environment=environment(ManualClock()))
    write(store, "UPDATE note SET due = 'now'", "INSERT INTO link VALUES ('a', 1, 'l')")
    store.close()
    assert changes_of(changesets_in(path)[1:]) == {
        ("note", ("a",)): (Op.UPDATE, {"due": "now"}),
        ("link", ("a", 1)): (Op.INSERT, {"label": "l"}),
    }


def test_a_table_that_leaves_the_schema_stays_and_is_captured(path: Path) -> None:
    open_and_close(path, NOTE, LINK)
    store = open_store(path, [NOTE])
    write(store, "INSERT INTO link VALUES ('a', 1, 'l')")
    store.close()
    assert changes_of(changesets_in(path)).keys() == {("link", ("a", 1))}


def mismatches(path: Path, *tables: sa.Table, says: str, kind: str = "synced") -> None:
    """Opening is refused with a message that names the table, what is wrong and the command, and changes nothing."""
    before = query(path, EVERYTHING), rows_of(path)
    with pytest.raises(SchemaMismatch, match=says) as caught:
        open_store(path, tables) if kind == "synced" else open_plain(path, *tables)
    assert "alembic upgrade head" in str(caught.value)
    assert "Table note" in str(caught.value)
    assert (query(path, EVERYTHING), rows_of(path)) == before


@pytest.mark.parametrize("kind", ["synced", "local"])
def test_a_new_column_that_needs_a_value_is_left_to_a_migration(path: Path, kind: str) -> None:
    (open_store(path) if kind == "synced" else open_plain(path)).close()
    wider = note_with(sa.Column("first", sa.String), sa.Column("due", sa.String, nullable=False))
    mismatches(path, LINK, wider, says="due.*Give it a server_default", kind=kind)


@pytest.mark.parametrize("attempt", [lambda path, table: open_store(path, (table,)), open_plain], ids=["synced", "local"])
def test_a_column_without_a_type_is_refused_with_its_name(path: Path, attempt: Callable[..., Store]) -> None:
    with pytest.raises(SchemaError, match=r"Table note has the column due without a type.*Give it one"):
        attempt(path, note_with(sa.Column("due")))
    assert not path.exists()
    attempt(path, note_with()).close()
    before = query(path, EVERYTHING)
    with pytest.raises(SchemaError, match="Table note has the column due without a type"):
        attempt(path, note_with(sa.Column("due")))
    assert query(path, EVERYTHING) == before


def test_a_column_without_a_type_that_is_there_is_as_good_as_any(path: Path) -> None:
    with other_program(path) as program:
        program.execute("CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER, due)")
    open_plain(path, note_with(sa.Column("due"))).close()


IMPOSSIBLE: dict[str, Callable[[], sa.Column[str]]] = {
    "its default is the time": lambda: sa.Column("due", sa.String, server_default=sa.func.now()),
    "it is computed and stored": lambda: sa.Column("due", sa.String, sa.Computed("title || '!'", persisted=True)),
    "its default is null, which it must not be": lambda: sa.Column(
        "due", sa.String, nullable=False, server_default=sa.text("NULL")
    ),
    "its name differs from another only in case": lambda: sa.Column("STARS", sa.String),
    "no row there is passes its check": lambda: sa.Column(
        "due", sa.String, sa.CheckConstraint("due > 'x'"), server_default="a"
    ),
}


@pytest.mark.parametrize("column", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_new_column_that_sqlite_cannot_add_is_left_to_a_migration(path: Path, column: Callable[[], sa.Column[str]]) -> None:
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    added = column()
    mismatches(path, note_with(added), says=added.name)


def test_another_key_is_left_to_a_migration(path: Path) -> None:
    open_and_close(path)
    by_title = sa.Table("note", sa.MetaData(), sa.Column("title", sa.String, primary_key=True))
    mismatches(path, by_title, says=r"key \(id\).*\(title\)")
    mismatches(path, note_with(sa.Column("other", sa.String, primary_key=True)), says=r"key \(id\).*\(id, other\)")


def test_a_table_without_a_key_is_left_to_a_migration(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("CREATE TABLE note (id TEXT, title TEXT, stars INTEGER)")
    before = query(path, EVERYTHING)
    with pytest.raises(SchemaMismatch, match=r"key \(\).*\(id\)"):
        open_store(path)
    assert query(path, EVERYTHING) == before


# -- triggers


def test_triggers_that_somebody_dropped_come_back(path: Path) -> None:
    open_and_close(path, NOTE, LINK)
    before = query(path, TRIGGERS)
    assert len(before) == 9  # three a table, and one for each of note's columns and link's
    with other_program(path) as connection:
        for name, _ in before[:5]:
            connection.execute(f"DROP TRIGGER {name}")
    open_and_close(path, NOTE, LINK)
    assert query(path, TRIGGERS) == before


def test_triggers_that_somebody_altered_are_put_right(path: Path) -> None:
    open_and_close(path)
    before = query(path, TRIGGERS)
    with other_program(path) as connection:
        connection.execute("DROP TRIGGER localstore_capture_1_insert")
        connection.execute("CREATE TRIGGER localstore_capture_1_insert AFTER INSERT ON note BEGIN SELECT 1; END")
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    assert query(path, TRIGGERS) == before
    assert len(sealed_in(path)) == 1


def test_triggers_come_back_with_a_table_that_was_made_anew(path: Path) -> None:
    """What a batch migration does: a new table takes the old one's place, without its triggers."""
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    before = query(path, TRIGGERS)
    with other_program(path) as connection:
        connection.execute(PLAIN_NOTE.replace("note", "replacement"))
        connection.execute("INSERT INTO replacement SELECT * FROM note")
        connection.execute("DROP TABLE note")
        connection.execute("ALTER TABLE replacement RENAME TO note")
    store = open_store(path)
    write(store, "UPDATE note SET stars = 2")
    store.close()
    assert query(path, TRIGGERS) == before
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.UPDATE, {"stars": 2})}


def test_a_table_that_a_migration_renamed_starts_anew(path: Path) -> None:
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    with other_program(path) as connection:
        connection.execute("UPDATE note SET stars = 2")
        connection.execute("ALTER TABLE note RENAME TO memo")
    memo = table("memo", sa.Column("title", sa.String), sa.Column("stars", sa.Integer))
    store = open_store(path, [memo])
    write(store, "UPDATE memo SET stars = 3")
    store.close()
    assert [changes_of([changeset]) for changeset in changesets_in(path)[1:]] == [
        {("memo", ("a",)): (Op.SEED, {"title": "t", "stars": 2})},
        {("memo", ("a",)): (Op.UPDATE, {"stars": 3})},
    ]
    assert len(query(path, TRIGGERS)) == 5


def test_a_table_that_a_migration_dropped_is_forgotten(path: Path) -> None:
    store = open_store(path, [NOTE, LINK])
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    with other_program(path) as connection:
        connection.execute("UPDATE note SET stars = 2")
        connection.execute("DROP TABLE note")
    store = open_store(path, [LINK])
    write(store, "INSERT INTO link VALUES ('a', 1, 'l')")
    other = Device(path.parent, "other")
    sealed = other.write("INSERT INTO note VALUES ('b', 't', 1)")
    applied = store.apply([sealed], after=None, cursor=b"1")
    assert applied is not None
    assert applied.changesets == 1
    store.acknowledge(2)
    store.close()
    other.close()
    open_and_close(path, NOTE, LINK)
    assert rows_of(path) == {("b",): {"title": "t", "stars": 1}}  # what others still write there comes when it is back


def test_a_column_that_a_migration_renamed_goes_on_under_its_new_name(path: Path) -> None:
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1), ('b', 't', 1), ('c', 't', 1)")
    store.close()
    with other_program(path) as connection:
        connection.execute("UPDATE note SET title = 'left' WHERE id = 'a'")
        connection.execute("UPDATE note SET title = 'left' WHERE id = 'b'")
        connection.execute("DELETE FROM note WHERE id = 'b'")
        connection.execute("ALTER TABLE note RENAME COLUMN title TO heading")
    store = open_store(path, [table("note", sa.Column("heading", sa.String), sa.Column("stars", sa.Integer))])
    write(store, "UPDATE note SET heading = 'new' WHERE id = 'c'")
    store.close()
    left, new = (changes_of([changeset]) for changeset in changesets_in(path)[1:])
    assert left["note", ("a",)][1] == {"heading": "left", "stars": 1}
    assert left["note", ("b",)] == (Op.DELETE, {})
    assert new == {("note", ("c",)): (Op.UPDATE, {"heading": "new"})}


def test_a_key_that_a_migration_replaced_makes_new_rows(path: Path) -> None:
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    store.close()
    with other_program(path) as connection:
        connection.execute("CREATE TABLE replacement (name TEXT NOT NULL PRIMARY KEY, stars INTEGER)")
        connection.execute("INSERT INTO replacement SELECT 'name of ' || id, stars FROM note")
        connection.execute("DROP TABLE note")
        connection.execute("ALTER TABLE replacement RENAME TO note")
    key, stars = sa.Column("name", sa.String, primary_key=True), sa.Column("stars", sa.Integer)
    store = open_store(path, [sa.Table("note", sa.MetaData(), key, stars)])
    write(store, "UPDATE note SET stars = 2")
    store.close()
    assert [changes_of([changeset]) for changeset in changesets_in(path)[1:]] == [
        {("note", ("name of a",)): (Op.SEED, {"stars": 1})},
        {("note", ("name of a",)): (Op.UPDATE, {"stars": 2})},
    ]


def test_an_applications_own_triggers_are_left_alone(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as connection:
        connection.execute("CREATE TRIGGER theirs AFTER INSERT ON note BEGIN SELECT 1; END")
    before = query(path, TRIGGERS)
    open_and_close(path, note_with(sa.Column("due", sa.String)))
    assert len(query(path, TRIGGERS)) == len(before) + 1  # the new column's
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name = 'theirs'") == [(1,)]


def test_what_was_written_while_the_file_was_closed_is_sealed_at_opening(path: Path) -> None:
    open_and_close(path)
    with other_program(path) as connection:
        connection.execute("INSERT INTO note VALUES ('a', 't', 1)")
    open_and_close(path)
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",))}
    assert is_clean(path)
