"""The Alembic plugin: what migrations do to synced files, run by Alembic's own commands from scripts on disk.

Each environment below is one that applications have: with explicit transactions, as SQLAlchemy and sqlite3 are out of the box,
in AUTOCOMMIT, and with all revisions in one transaction.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.changes import Op
from localstore.errors import StoreDamaged, UnsafeMigration
from localstore.store.capture import attach, captured_tables
from localstore.store.failures import A_WAY_OUT
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_local
from localstore.store.renames import RENAMED, read_renames
from localstore.testing.clock import ManualClock, environment
from localstore.types import ExactDecimal, TextOf
from tests.unit.store_kit import (
    LINK,
    NOTE,
    Device,
    changes_of,
    changesets_in,
    close_devices,
    exchange,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    sealed_in,
    write,
)

EXPLICIT = """
def connected(driver, record):
    driver.isolation_level = None
    driver.execute("PRAGMA foreign_keys = {foreign_keys}")

def begun(connection):
    connection.exec_driver_sql("BEGIN IMMEDIATE")

engine = sa.create_engine(url, poolclass=sa.NullPool)
sa.event.listen(engine, "connect", connected)
sa.event.listen(engine, "begin", begun)
options = dict(transactional_ddl=True, transaction_per_migration={per_migration})
"""
PLAIN = """
engine = sa.create_engine(url, poolclass=sa.NullPool{engine_options})
options = dict()
"""
RUN = """
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None, **options)
    with context.begin_transaction():
        context.run_migrations()
"""
ENVIRONMENTS = {
    "explicit": EXPLICIT.format(foreign_keys="OFF", per_migration=True),
    "one transaction": EXPLICIT.format(foreign_keys="OFF", per_migration=False),
    "as generated": PLAIN.format(engine_options=""),
    "autocommit": PLAIN.format(engine_options=', isolation_level="AUTOCOMMIT"'),
}
WITH_FOREIGN_KEYS = EXPLICIT.format(foreign_keys="ON", per_migration=True)
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{number:04}"
down_revision = {previous!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
"""
PAGE = 4096
TRIGGERS = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


class Application:
    """A folder with a synced file ``app.db`` and Alembic scripts."""

    def __init__(self, folder: Path, env: str = "explicit") -> None:
        self.folder = folder
        self.path = folder / "app.db"
        self.scripts = folder / "scripts"
        (self.scripts / "versions").mkdir(parents=True)
        self.set_environment(ENVIRONMENTS[env])
        self._revisions = 0

    @property
    def config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.scripts))
        config.set_main_option("path_separator", "os")
        return config

    def set_environment(self, source: str) -> None:
        start = f"import sqlalchemy as sa\nfrom alembic import context\n\nurl = {f'sqlite:///{self.path.as_posix()}'!r}\n"
        (self.scripts / "env.py").write_text(start + source + RUN)

    def add_revision(self, upgrade: str, downgrade: str = "pass") -> None:
        self._revisions += 1
        source = REVISION.format(
            number=self._revisions,
            previous=f"{self._revisions - 1:04}" if self._revisions > 1 else None,
            upgrade=indent(dedent(upgrade), "    "),
            downgrade=indent(dedent(downgrade), "    "),
        )
        (self.scripts / "versions" / f"{self._revisions:04}.py").write_text(source)

    def upgrade(self, *revisions: str) -> None:
        for revision in revisions:
            self.add_revision(revision)
        command.upgrade(self.config, "head")

    def downgrade(self) -> None:
        command.downgrade(self.config, "-1")


@pytest.fixture(params=ENVIRONMENTS)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Application:
    """An application in each of the environments, with two notes and nothing captured."""
    return filled(Application(tmp_path, request.param))


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return filled(Application(tmp_path))


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    close_devices()


def filled(app: Application) -> Application:
    store = open_store(app.path, [NOTE, LINK])
    write(store, "INSERT INTO note VALUES ('a', 'one', 1), ('b', 'two', 2)", "INSERT INTO link VALUES ('a', 1, 'l')")
    write(store, "UPDATE note SET title = 'eins' WHERE id = 'a'")
    store.close()
    return app


def triggers_are_as_attached_anew(path: Path) -> bool:
    """Whether the capture triggers are those that the tables would get if they had none."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with other_program(copy) as connection:
        captured = list(captured_tables(connection))
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'localstore_capture%'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        attach(connection, captured)
    fresh = query(copy, TRIGGERS)
    copy.unlink()
    return query(path, TRIGGERS) == fresh


def no_rows_are_logged(path: Path) -> bool:
    """Whether nothing of the application's data lies in the capture log."""
    return query(path, "SELECT * FROM localstore_log WHERE tbl <> 0") == []


def note(*columns: sa.Column[Any], name: str = "note") -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns)


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String)


def number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer)


@dataclass(frozen=True)
class Case:
    """A migration there and back, the notes after it, its schema, and a write with what has to be captured of it."""

    upgrade: str
    downgrade: str
    rows: dict[tuple[str], dict[str, Any]]
    schema: Callable[[], list[sa.Table]]
    write: str
    captured: dict[str, Any]
    table: str = "note"


PLAIN_ROWS: dict[tuple[str], dict[str, Any]] = {
    ("a",): {"title": "eins", "stars": 1},
    ("b",): {"title": "two", "stars": 2},
}


def rows_with(**columns: Any) -> dict[tuple[str], dict[str, Any]]:
    return {key: {**row, **columns} for key, row in PLAIN_ROWS.items()}


RENAMED_ROWS: dict[tuple[str], dict[str, Any]] = {
    ("a",): {"heading": "eins", "stars": 1},
    ("b",): {"heading": "two", "stars": 2},
}
CASES = {
    "add column, native": Case(
        'op.add_column("note", sa.Column("due", sa.String, server_default="never"))',
        'op.drop_column("note", "due")',
        rows_with(due="never"),
        lambda: [note(text("title"), number("stars"), text("due")), LINK],
        "UPDATE note SET due = 'now' WHERE id = 'a'",
        {"due": "now"},
    ),
    "add column in the middle, batch": Case(
        """
        with op.batch_alter_table("note", recreate="always") as batch:
            batch.add_column(sa.Column("due", sa.String), insert_after="id")
        """,
        """
        with op.batch_alter_table("note") as batch:
            batch.drop_column("due")
        """,
        rows_with(due=None),
        lambda: [note(text("due"), text("title"), number("stars")), LINK],
        "UPDATE note SET due = 'now' WHERE id = 'a'",
        {"due": "now"},
    ),
    "rename column, native": Case(
        'op.alter_column("note", "title", new_column_name="heading")',
        'op.alter_column("note", "heading", new_column_name="title")',
        RENAMED_ROWS,
        lambda: [note(text("heading"), number("stars")), LINK],
        "UPDATE note SET heading = 'x' WHERE id = 'a'",
        {"heading": "x"},
    ),
    "rename column, batch": Case(
        """
        with op.batch_alter_table("note") as batch:
            batch.alter_column("title", new_column_name="heading")
        """,
        """
        with op.batch_alter_table("note") as batch:
            batch.alter_column("heading", new_column_name="title")
        """,
        RENAMED_ROWS,
        lambda: [note(text("heading"), number("stars")), LINK],
        "UPDATE note SET heading = 'x' WHERE id = 'a'",
        {"heading": "x"},
    ),
    "rename column, SQL": Case(
        "op.execute('alter table \"Note\" rename title to [heading];')",
        'op.execute("ALTER TABLE main.note RENAME COLUMN `heading` TO title")',
        RENAMED_ROWS,
        lambda: [note(text("heading"), number("stars")), LINK],
        "UPDATE note SET heading = 'x' WHERE id = 'a'",
        {"heading": "x"},
    ),
    "drop column, native": Case(
        'op.drop_column("note", "title")',
        'op.add_column("note", sa.Column("title", sa.String))',
        {("a",): {"stars": 1}, ("b",): {"stars": 2}},
        lambda: [note(number("stars")), LINK],
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
    ),
    "drop column, batch": Case(
        """
        with op.batch_alter_table("note") as batch:
            batch.drop_column("title")
        """,
        """
        with op.batch_alter_table("note") as batch:
            batch.add_column(sa.Column("title", sa.String))
        """,
        {("a",): {"stars": 1}, ("b",): {"stars": 2}},
        lambda: [note(number("stars")), LINK],
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
    ),
    "type change, batch": Case(
        """
        with op.batch_alter_table("note") as batch:
            batch.alter_column("stars", type_=sa.String)
        """,
        """
        with op.batch_alter_table("note") as batch:
            batch.alter_column("stars", type_=sa.Integer)
        """,
        {("a",): {"title": "eins", "stars": "1"}, ("b",): {"title": "two", "stars": "2"}},
        lambda: [note(text("title"), text("stars")), LINK],
        "UPDATE note SET stars = 'many' WHERE id = 'b'",
        {"stars": "many"},
    ),
    "rename table": Case(
        'op.rename_table("note", "memo")',
        'op.rename_table("memo", "note")',
        PLAIN_ROWS,
        lambda: [note(text("title"), number("stars"), name="memo"), LINK],
        "UPDATE memo SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
        table="memo",
    ),
    "rename table and column": Case(
        """
        op.rename_table("note", "memo")
        with op.batch_alter_table("memo") as batch:
            batch.alter_column("title", new_column_name="heading", type_=sa.Text)
        op.add_column("memo", sa.Column("title", sa.String))
        """,
        """
        with op.batch_alter_table("memo") as batch:
            batch.drop_column("title")
        op.alter_column("memo", "heading", new_column_name="title")
        op.rename_table("memo", "note")
        """,
        {key: {**row, "title": None} for key, row in RENAMED_ROWS.items()},
        lambda: [note(text("heading"), number("stars"), text("title"), name="memo"), LINK],
        "UPDATE memo SET heading = 'x' WHERE id = 'a'",
        {"heading": "x"},
        table="memo",
    ),
    "new table": Case(
        'op.create_table("tag", sa.Column("id", sa.String, primary_key=True))',
        'op.drop_table("tag")',
        PLAIN_ROWS,
        lambda: [NOTE, LINK, sa.Table("tag", sa.MetaData(), sa.Column("id", sa.String, primary_key=True))],
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
    ),
    "data fix through another way in": Case(
        """
        connection = op.get_bind()
        connection.execute(sa.text("UPDATE note SET stars = stars + 10"))
        """,
        'op.execute("UPDATE note SET stars = stars - 10")',
        {("a",): {"title": "eins", "stars": 11}, ("b",): {"title": "two", "stars": 12}},
        lambda: [NOTE, LINK],
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
    ),
    "made anew by hand": Case(
        """
        op.rename_table("note", "old_note")
        op.create_table("note", sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String),
                        sa.Column("stars", sa.Integer))
        op.execute("INSERT INTO note SELECT * FROM old_note")
        op.drop_table("old_note")
        """,
        """
        op.execute("CREATE TABLE new_note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, stars INTEGER)")
        op.execute("INSERT INTO new_note SELECT * FROM note")
        op.execute("DROP TABLE note")
        op.execute("ALTER TABLE new_note RENAME TO note")
        """,
        PLAIN_ROWS,
        lambda: [NOTE, LINK],
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        {"stars": 9},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_migration_is_not_captured_and_capture_goes_on_after_it(anywhere: Application, case: Case) -> None:
    app, outbox = anywhere, sealed_in(anywhere.path)
    app.add_revision(case.upgrade, case.downgrade)
    app.upgrade()
    assert rows_of(app.path, case.table) == case.rows
    assert triggers_are_as_attached_anew(app.path)
    assert sealed_in(app.path) == outbox
    assert no_rows_are_logged(app.path)
    with other_program(app.path) as program:
        program.execute(case.write)
    store = open_store(app.path, case.schema())
    store.close()
    groups = changes_of(changesets_in(app.path)[len(outbox) :])
    captured = {key: change for key, change in groups.items() if key[0] != "localstore_renamed"}
    key = "b" if "'b'" in case.write else "a"
    assert captured == {(case.table, (key,)): (Op.UPDATE, case.captured)}
    assert is_clean(app.path)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_downgrade_is_not_captured_either(anywhere: Application, case: Case) -> None:
    app, outbox = anywhere, sealed_in(anywhere.path)
    app.add_revision(case.upgrade, case.downgrade)
    app.upgrade()
    app.downgrade()
    dropped = "title" not in case.rows["a",] and "heading" not in case.rows["a",]  # its values cannot come back
    assert rows_of(app.path) == (rows_with(title=None) if dropped else PLAIN_ROWS)
    assert triggers_are_as_attached_anew(app.path)
    assert no_rows_are_logged(app.path)
    store = open_store(app.path, [NOTE, LINK])
    write(store, "UPDATE note SET title = 'x' WHERE id = 'a'")
    store.close()
    assert changes_of(changesets_in(app.path)[-1:]) == {("note", ("a",)): (Op.UPDATE, {"title": "x"})}
    assert sealed_in(app.path)[: len(outbox)] == outbox


def test_a_table_that_is_dropped_is_forgotten(anywhere: Application) -> None:
    anywhere.upgrade('op.drop_table("note")')
    assert query(anywhere.path, "SELECT name FROM localstore_table WHERE id > 0") == [("link",)]
    assert query(anywhere.path, "SELECT count(*) FROM localstore_clock WHERE tbl = 1") == [(0,)]
    assert no_rows_are_logged(anywhere.path)
    store = open_store(anywhere.path, [LINK])
    write(store, "UPDATE link SET label = 'm'")
    store.close()
    assert changes_of(changesets_in(anywhere.path)[-1:]) == {("link", ("a", 1)): (Op.UPDATE, {"label": "m"})}


def test_rows_of_a_table_that_a_data_fix_filled_are_sent_when_the_schema_declares_it(anywhere: Application) -> None:
    anywhere.upgrade(
        """
        op.create_table("rating", sa.Column("id", sa.String, primary_key=True), sa.Column("stars", sa.Integer))
        op.execute("INSERT INTO rating SELECT id, stars FROM note")
        with op.batch_alter_table("note") as batch:
            batch.drop_column("stars")
        """
    )
    before = len(sealed_in(anywhere.path))
    assert no_rows_are_logged(anywhere.path)
    open_store(anywhere.path, [note(text("title")), note(number("stars"), name="rating"), LINK]).close()
    assert changes_of(changesets_in(anywhere.path)[before:]) == {
        ("rating", ("a",)): (Op.SEED, {"stars": 1}),
        ("rating", ("b",)): (Op.SEED, {"stars": 2}),
    }


def test_another_key_begins_the_table_anew(anywhere: Application) -> None:
    anywhere.upgrade(
        """
        op.execute("CREATE TABLE other (source VARCHAR NOT NULL PRIMARY KEY, label VARCHAR)")
        op.execute("INSERT INTO other SELECT source || target, label FROM link")
        op.drop_table("link")
        op.rename_table("other", "link")
        """
    )
    key = sa.Column("source", sa.String, primary_key=True)
    store = open_store(anywhere.path, [NOTE, sa.Table("link", sa.MetaData(), key, text("label"))])
    store.close()
    assert changes_of(changesets_in(anywhere.path)[-1:]) == {("link", ("a1",)): (Op.SEED, {"label": "l"})}


def test_revisions_that_change_the_same_table_one_after_the_other_are_all_followed(anywhere: Application) -> None:
    outbox = sealed_in(anywhere.path)
    anywhere.upgrade(
        'op.alter_column("note", "title", new_column_name="heading")',
        "op.get_bind().execute(sa.text(\"UPDATE note SET heading = heading || '!'\"))",
        'op.rename_table("note", "memo")',
        'op.alter_column("memo", "heading", new_column_name="caption")',
    )
    assert rows_of(anywhere.path, "memo")["a",] == {"caption": "eins!", "stars": 1}
    assert no_rows_are_logged(anywhere.path)
    sealed = changesets_in(anywhere.path)[len(outbox) :]
    assert {group.table for changeset in sealed for group in changeset.groups} <= {RENAMED}
    assert triggers_are_as_attached_anew(anywhere.path)
    with other_program(anywhere.path) as connection:
        renames = read_renames(connection)
    assert renames.table("note", {"memo"}) == "memo"
    assert renames.column("memo", "title", {"caption"}) == "caption"


# -- what was captured before


def test_what_lay_in_the_log_goes_out_under_the_names_it_was_written_with(anywhere: Application) -> None:
    with other_program(anywhere.path) as program:
        program.execute("UPDATE note SET title = 'left behind' WHERE id = 'b'")
    outbox = sealed_in(anywhere.path)
    anywhere.upgrade('op.alter_column("note", "title", new_column_name="heading")')
    assert sealed_in(anywhere.path)[: len(outbox)] == outbox
    assert changes_of(changesets_in(anywhere.path)[len(outbox) :]) == {("note", ("b",)): (Op.UPDATE, {"title": "left behind"})}


def test_clocks_go_by_the_new_names(tmp_path: Path) -> None:
    clock = ManualClock()
    app = Application(tmp_path)
    mine, other = Device(tmp_path, "app", clock=clock), Device(tmp_path, "other", clock=clock)
    other.receive(mine.write("INSERT INTO note VALUES ('a', 'one', 1)"))
    clock.advance(1)
    earlier = other.write("UPDATE note SET title = 'theirs', stars = 5")
    clock.advance(1)
    mine.write("UPDATE note SET title = 'mine' WHERE id = 'a'")
    mine.close()
    app.upgrade('op.alter_column("note", "title", new_column_name="heading")')
    mine.reopen([note(text("heading"), number("stars"))])
    mine.receive(earlier)
    assert mine.row("a") == {"heading": "mine", "stars": 5}


def test_what_was_written_before_a_name_had_another_meaning_keeps_its_meaning(tmp_path: Path) -> None:
    """A change that is in the outbox, but not yet in the clocks when its column's name goes to another column."""
    renames = """
        op.alter_column("note", "title", new_column_name="heading")
        op.alter_column("note", "stars", new_column_name="title")
    """
    clock = ManualClock()
    mine, other = Device(tmp_path, "mine", clock=clock), Device(tmp_path, "app", clock=clock)
    other.receive(mine.write("INSERT INTO note VALUES ('a', 'one', 1)"))
    other.close()
    Application(tmp_path).upgrade(renames)
    schema = note(text("heading"), number("title"))
    other.reopen([schema])
    clock.advance(1)
    other.write("UPDATE note SET heading = 'theirs'")
    clock.advance(1)
    mine.write("UPDATE note SET title = 'mine'")
    mine.close()
    app = Application(tmp_path / "mine")
    app.path = mine.path
    app.set_environment(ENVIRONMENTS["explicit"])
    app.upgrade(renames)
    mine.reopen([schema])
    mine.receive(*other.sealed())
    assert mine.row("a") == {"heading": "mine", "title": 1}


def test_what_newer_devices_wrote_is_filled_in_after_the_migrations(anywhere: Application) -> None:
    """Their values win over those of a data fix, in a column and in a table that were unknown before."""
    newer = Device(anywhere.folder, "newer", [note(text("title"), number("stars"), text("due")), note(name="tag"), LINK])
    newer.receive(*sealed_in(anywhere.path))
    newer.write("UPDATE note SET due = 'theirs' WHERE id = 'a'", "INSERT INTO tag VALUES ('t')")
    store = open_store(anywhere.path, [NOTE, LINK])
    store.apply(newer.sealed(), after=None, cursor=b"1")
    store.close()
    anywhere.upgrade(
        'op.add_column("note", sa.Column("due", sa.String))',
        "op.execute(\"UPDATE note SET due = 'fixed'\")",
        'op.create_table("tag", sa.Column("id", sa.String, primary_key=True))',
    )
    assert {row["due"] for row in rows_of(anywhere.path).values()} == {"fixed"}
    open_store(anywhere.path, [note(text("title"), number("stars"), text("due")), LINK]).close()
    assert rows_of(anywhere.path)["a",]["due"] == "theirs"
    open_store(anywhere.path, [note(text("title"), number("stars"), text("due")), note(name="tag"), LINK]).close()
    assert {key: row["due"] for key, row in rows_of(anywhere.path).items()} == {("a",): "theirs", ("b",): "fixed"}
    assert rows_of(anywhere.path, "tag") == {("t",): {}}
    assert query(anywhere.path, "SELECT * FROM localstore_unknown") == []


def test_an_insert_from_before_a_column_was_there_does_not_outweigh_its_first_value(tmp_path: Path) -> None:
    """Two devices insert the same key; the later of them has no such column yet."""
    clock = ManualClock()
    wider = note(text("title"), number("stars"), text("due"))
    older, newer = Device(tmp_path, "app", clock=clock), Device(tmp_path, "newer", [wider], clock=clock)
    newer.write("INSERT INTO note VALUES ('a', 'newer', 1, 'today')")
    clock.advance(1)
    older.write("INSERT INTO note VALUES ('a', 'older', 2)")
    exchange(older, newer)
    older.close()
    Application(tmp_path).upgrade('op.add_column("note", sa.Column("due", sa.String))')
    older.reopen([wider])
    assert older.row("a") == newer.row("a") == {"title": "older", "stars": 2, "due": "today"}
    assert older.clocks() == newer.clocks()


def test_columns_that_swap_their_names_are_not_taken_for_one_another(tmp_path: Path) -> None:
    app = filled(Application(tmp_path))
    app.upgrade(
        """
        op.alter_column("note", "title", new_column_name="other")
        op.alter_column("note", "stars", new_column_name="title")
        op.alter_column("note", "other", new_column_name="stars")
        """
    )
    assert rows_of(app.path)["a",] == {"stars": "eins", "title": 1}
    assert query(app.path, "SELECT * FROM localstore_renamed") == []
    assert triggers_are_as_attached_anew(app.path)


def test_a_realm_that_is_open_during_a_migration_fills_in_at_the_next_page(app: Application) -> None:
    wider = [note(text("title"), number("stars"), text("due")), LINK]
    newer = Device(app.folder, "newer", wider)
    newer.receive(*sealed_in(app.path))
    newer.write("UPDATE note SET due = 'theirs' WHERE id = 'a'")
    store = open_store(app.path, [NOTE, LINK])
    store.apply(newer.sealed(), after=None, cursor=b"1")
    app.upgrade('op.add_column("note", sa.Column("due", sa.String))')
    newer.write("UPDATE note SET stars = 5 WHERE id = 'b'")
    store.apply(newer.sealed()[1:], after=b"1", cursor=b"2")
    store.close()
    assert rows_of(app.path)["a",]["due"] == "theirs"
    assert rows_of(app.path)["b",]["stars"] == 5


def test_conflicts_go_by_the_new_names(tmp_path: Path) -> None:
    clock = ManualClock()
    app = Application(tmp_path)
    mine, other = Device(tmp_path, "app", clock=clock), Device(tmp_path, "other", clock=clock)
    other.receive(mine.write("INSERT INTO note VALUES ('a', 'one', 1)"))
    mine.write("UPDATE note SET title = 'mine'")
    clock.advance(1)
    mine.receive(other.write("UPDATE note SET title = 'theirs'"))
    mine.close()
    app.upgrade('op.rename_table("note", "memo")', 'op.alter_column("memo", "title", new_column_name="heading")')
    found = query(app.path, 'SELECT tbl, "column", lost_value FROM localstore_conflict')
    assert found == [("memo", "heading", "mine")]


# -- failing and crashing


FAILING = """
op.rename_table("note", "memo")
with op.batch_alter_table("memo") as batch:
    batch.alter_column("title", new_column_name="heading")
op.execute("DELETE FROM memo")
raise RuntimeError("no luck")
"""


def test_a_failing_migration_leaves_everything_as_it_was(anywhere: Application) -> None:
    before = query(anywhere.path, SCHEMA), rows_of(anywhere.path), sealed_in(anywhere.path)
    with pytest.raises(RuntimeError, match="no luck"):
        anywhere.upgrade(FAILING)
    after = [row for row in query(anywhere.path, SCHEMA) if "alembic_version" not in row[2]]
    assert (after, rows_of(anywhere.path), sealed_in(anywhere.path)) == before
    assert query(anywhere.path, "SELECT name FROM localstore_table WHERE id > 0") == [("note",), ("link",)]
    store = open_store(anywhere.path, [NOTE, LINK])
    write(store, "UPDATE note SET title = 'x' WHERE id = 'a'")
    store.close()
    assert changes_of(changesets_in(anywhere.path)[-1:]) == {("note", ("a",)): (Op.UPDATE, {"title": "x"})}


def test_damage_that_is_met_before_a_migration_is_named_with_what_to_do(anywhere: Application) -> None:
    before = query(anywhere.path, SCHEMA), rows_of(anywhere.path), sealed_in(anywhere.path)
    ((page,),) = query(anywhere.path, "SELECT rootpage FROM sqlite_master WHERE name = 'localstore_clock'")
    whole = anywhere.path.read_bytes()
    anywhere.path.write_bytes(whole[: (page - 1) * PAGE] + b"\xff" * PAGE + whole[page * PAGE :])
    with pytest.raises(StoreDamaged, match=r"app\.db is damaged") as raised:
        anywhere.upgrade('op.alter_column("note", "title", new_column_name="heading")')
    assert raised.value.hint == A_WAY_OUT
    damaged = anywhere.path.read_bytes()
    anywhere.path.write_bytes(damaged[: (page - 1) * PAGE] + whole[(page - 1) * PAGE : page * PAGE] + damaged[page * PAGE :])
    after = [row for row in query(anywhere.path, SCHEMA) if "alembic_version" not in row[2]]
    assert (after, rows_of(anywhere.path), sealed_in(anywhere.path)) == before


def test_a_rollback_to_a_savepoint_inside_a_migration_brings_no_trigger_back(app: Application) -> None:
    app.upgrade("pass")  # with the version table there, the savepoint comes before anything is written
    app.upgrade(
        """
        connection = op.get_bind()
        savepoint = connection.begin_nested()
        op.alter_column("note", "title", new_column_name="heading")
        savepoint.rollback()
        op.execute("UPDATE note SET stars = 7")
        """
    )
    assert {row["stars"] for row in rows_of(app.path).values()} == {7}
    assert query(app.path, "SELECT * FROM localstore_log") == query(app.path, "SELECT * FROM localstore_renamed") == []
    assert triggers_are_as_attached_anew(app.path)


def test_an_autocommit_block_inside_a_migration_can_do_what_needs_no_transaction(app: Application) -> None:
    app.set_environment(ENVIRONMENTS["autocommit"])
    app.upgrade(
        """
        op.execute("UPDATE note SET stars = 7")
        op.execute("VACUUM")
        op.execute("UPDATE note SET stars = 8")
        """
    )
    assert {row["stars"] for row in rows_of(app.path).values()} == {8}
    assert query(app.path, "SELECT * FROM localstore_log") == []
    assert triggers_are_as_attached_anew(app.path)


# -- what a table that is made anew would lose


CHILDREN = "CREATE TABLE child (id INTEGER PRIMARY KEY, note VARCHAR REFERENCES note (id) ON DELETE CASCADE)"
BATCH = """
with op.batch_alter_table("note") as batch:
    batch.alter_column("stars", type_=sa.String)
"""


def test_making_a_table_anew_with_foreign_keys_on_is_refused_and_keeps_all_rows(app: Application) -> None:
    with other_program(app.path) as program:
        program.execute(CHILDREN)
        program.execute("INSERT INTO child VALUES (1, 'a'), (2, 'b')")
    before = query(app.path, SCHEMA)
    app.set_environment(WITH_FOREIGN_KEYS)
    with pytest.raises(UnsafeMigration, match=r"note anew while foreign keys are on.*PRAGMA foreign_keys=OFF"):
        app.upgrade(BATCH)
    assert query(app.path, "SELECT count(*) FROM child") == [(2,)]
    assert rows_of(app.path) == PLAIN_ROWS
    assert [row for row in query(app.path, SCHEMA) if "alembic_version" not in row[2]] == before
    app.set_environment(ENVIRONMENTS["explicit"])
    app.upgrade()
    assert query(app.path, "SELECT count(*) FROM child") == [(2,)]


def test_native_changes_with_foreign_keys_on_are_not_refused(app: Application) -> None:
    app.set_environment(WITH_FOREIGN_KEYS)
    app.upgrade('op.add_column("note", sa.Column("due", sa.String))')
    assert rows_of(app.path) == rows_with(due=None)


def test_other_files_may_be_migrated_with_foreign_keys_on(tmp_path: Path) -> None:
    app = Application(tmp_path)
    with other_program(app.path) as program:
        program.execute("CREATE TABLE note (id VARCHAR PRIMARY KEY, stars INTEGER)")
    app.set_environment(WITH_FOREIGN_KEYS)
    app.upgrade(BATCH)
    assert query(app.path, "SELECT type FROM pragma_table_info('note') WHERE name = 'stars'") == [("VARCHAR",)]


USERS_OWN = (
    "CREATE TABLE audit (what TEXT)",
    "CREATE TRIGGER theirs AFTER UPDATE ON note BEGIN INSERT INTO audit VALUES (NEW.title); END",
    "CREATE INDEX plain ON note (stars)",
    "CREATE UNIQUE INDEX part ON note (title) WHERE stars > 1",
    "CREATE INDEX upper_title ON note (upper(title))",
)
OWN_THINGS = (
    "SELECT type, name, tbl_name FROM sqlite_master WHERE name IN ('theirs', 'plain', 'part', 'upper_title') ORDER BY name"
)


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_the_applications_triggers_and_indexes_outlive_a_table_made_anew(anywhere: Application) -> None:
    with other_program(anywhere.path) as program:
        for statement in USERS_OWN:
            program.execute(statement)
    before = query(anywhere.path, OWN_THINGS)
    anywhere.upgrade(BATCH)
    assert query(anywhere.path, OWN_THINGS) == before
    assert len(before) == 4
    with other_program(anywhere.path) as program:
        program.execute("UPDATE note SET stars = 9 WHERE id = 'a'")
    assert query(anywhere.path, "SELECT what FROM audit") == [("eins",)]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.parametrize(("thing", "name"), [(1, "trigger theirs"), (4, "index upper_title")])
def test_what_does_not_fit_the_new_table_is_named(app: Application, thing: int, name: str) -> None:
    with other_program(app.path) as program:
        program.execute(USERS_OWN[0])
        program.execute(USERS_OWN[thing])
    with pytest.raises(UnsafeMigration, match=f"The {name} does not fit the table note") as caught:
        app.upgrade(
            """
            with op.batch_alter_table("note") as batch:
                batch.drop_column("title")
            """
        )
    assert "DROP" in caught.value.hint
    assert rows_of(app.path) == PLAIN_ROWS


# -- where it has no business


def test_reading_commands_change_nothing_in_the_file(app: Application) -> None:
    app.upgrade("pass")
    with other_program(app.path) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        command.current(app.config)
        command.upgrade(app.config, "head")
        command.history(app.config, indicate_current=True)
        assert watching.execute("PRAGMA data_version").fetchone() == before


def test_sql_mode_only_prints(app: Application, capsys: pytest.CaptureFixture[str]) -> None:
    offline = (
        "context.configure(url=url, literal_binds=True)\nwith context.begin_transaction():\n    context.run_migrations()\n"
    )
    (app.scripts / "env.py").write_text(f"from alembic import context\nurl = 'sqlite:///{app.path.as_posix()}'\n{offline}")
    app.add_revision('op.rename_table("note", "memo")')
    before = app.path.read_bytes()
    command.upgrade(app.config, "head", sql=True)
    assert app.path.read_bytes() == before


def test_a_file_without_our_tables_is_migrated_as_ever(tmp_path: Path) -> None:
    app = Application(tmp_path, "as generated")
    open_local(app.path, [NOTE], options=StoreOptions(), environment=environment(ManualClock())).close()
    with other_program(app.path) as program:
        program.execute("CREATE TRIGGER localstore_capture_theirs AFTER INSERT ON note BEGIN SELECT 1; END")
    app.upgrade('op.rename_table("note", "memo")', 'op.create_table("tag", sa.Column("id", sa.String, primary_key=True))')
    names = {name for (name,) in query(app.path, "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")}
    assert names == {"memo", "tag", "alembic_version", "localstore_capture_theirs"}


def test_what_a_connection_writes_before_any_migration_is_captured(app: Application) -> None:
    engine = sa.create_engine(f"sqlite:///{app.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        assert MigrationContext.configure(connection).get_current_revision() is None
        connection.exec_driver_sql("UPDATE note SET stars = 9 WHERE id = 'a'")
    assert query(app.path, "SELECT tbl, op & 3 FROM localstore_log") == [(1, 2)]


def test_operations_without_scripts_are_followed_too(app: Application) -> None:
    engine = sa.create_engine(f"sqlite:///{app.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        operations.alter_column("note", "title", new_column_name="heading")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE note SET heading = 'x' WHERE id = 'a'")
    assert query(app.path, "SELECT tbl, bits FROM localstore_log WHERE tbl = 1") == [(1, 1)]
    assert triggers_are_as_attached_anew(app.path)


def test_a_connection_in_autocommit_keeps_operations_that_nobody_commits(app: Application) -> None:
    engine = sa.create_engine(f"sqlite:///{app.path}", poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        Operations(MigrationContext.configure(connection)).add_column("note", sa.Column("due", sa.String))
    assert rows_of(app.path) == rows_with(due=None)
    assert triggers_are_as_attached_anew(app.path)


def test_autogenerate_does_not_see_what_is_ours(app: Application) -> None:
    metadata = sa.MetaData()
    NOTE.to_metadata(metadata)
    LINK.to_metadata(metadata)
    engine = sa.create_engine(f"sqlite:///{app.path}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        seen: list[str | None] = []
        options = {"include_name": lambda name, kind, _: bool(seen.append(name)) or name != "link"}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    assert [(kind, table.name) for kind, table in found] == [("add_table", "link")]
    assert not any(name and name.startswith("localstore_") for name in seen)


def test_a_revision_names_our_types_so_that_it_can_be_run(app: Application) -> None:
    item = sa.Table(
        "item",
        sa.MetaData(),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("price", ExactDecimal(places=2)),
        sa.Column("file", TextOf(Path)),
        sa.Column("address", TextOf(IPv4Address, 15)),
    )
    NOTE.to_metadata(item.metadata)
    LINK.to_metadata(item.metadata)
    engine = sa.create_engine(f"sqlite:///{app.path}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        found = produce_migrations(context, item.metadata).upgrade_ops
        assert found is not None
        code = render_python_code(found, migration_context=context)
    for rendered in (
        "localstore.types.ExactDecimal(places=2)",
        "sqlmodel.sql.sqltypes.AutoString()",
        "sqlmodel.sql.sqltypes.AutoString(length=15)",
    ):
        assert rendered in code
    app.upgrade("import localstore.types\nimport sqlmodel.sql.sqltypes\n" + dedent(f"    {code.strip()}"))
    assert query(app.path, "SELECT name, type FROM pragma_table_info('item') WHERE name <> 'id'") == [
        ("price", "VARCHAR"),
        ("file", "VARCHAR"),
        ("address", "VARCHAR(15)"),
    ]
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), item.metadata) == []


def test_autogenerate_sees_tables_of_that_name_in_other_files(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE localstore_stock (id INTEGER PRIMARY KEY)")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), sa.MetaData())
    assert [(kind, table.name) for kind, table in found] == [("remove_table", "localstore_stock")]


def test_a_realm_finds_a_file_that_was_migrated_half_and_repairs_it(app: Application) -> None:
    """What is left when something without the plugin drops triggers and stops."""
    with other_program(app.path) as program:
        for name, table, _ in query(app.path, TRIGGERS):
            if not table.startswith("localstore"):
                program.execute(f"DROP TRIGGER {name}")
        program.execute("ALTER TABLE note RENAME COLUMN title TO heading")
    open_store(app.path, [note(text("heading"), number("stars")), LINK]).close()
    assert triggers_are_as_attached_anew(app.path)
    assert is_clean(app.path)
