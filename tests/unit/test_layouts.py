"""Files that earlier versions left on devices: each opens with today's library, with all that was in it, and goes on.

The files are made by ``tests/fixtures/make_layout.py``, one for each layout that was ever released.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from localstore import wire
from localstore.changes import Op
from localstore.store.apply import Applied
from localstore.store.file import Store
from localstore.store.layout import LAYOUTS
from localstore.store.migrations.versions.layout_0001_first import TABLES as SYSTEM_TABLES
from tests.fixtures.make_layout import LAYOUTS as FOLDER
from tests.fixtures.make_layout import TABLES, WIDE_TABLES, make
from tests.unit.store_kit import (
    Device,
    changes_of,
    changesets_in,
    close_devices,
    is_clean,
    open_store,
    query,
    rows_of,
    write,
)

HASHES = {
    "layout_0001": "6b1d19a03a214a3c0f634facdfd5a0285e36b9ecf960f6f6767694ae29fbf6be",
}
"""What each file has been since its layout was released. Never to be changed then; a new layout gets a new file."""

NOTES = {
    ("old",): {"title": "from before sync", "stars": 7},
    ("ours",): {"title": "ours", "stars": 1},
    ("a",): {"title": "near", "stars": 1},
    ("b",): {"title": "unsent", "stars": 2},
    ("fought",): {"title": "near", "stars": 6},
    ("twin",): {"title": "of device, again", "stars": 2},
    ("w",): {"title": "wide", "stars": 1},
    ("refused",): {"title": "by the remote", "stars": 1},
}
LINKS = {("a", 1): {"label": "one"}, ("a", 2): {"label": "replaced"}, ("shell", 1): {"label": "logged"}}


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a layout's file."""
    return Path(shutil.copy(FOLDER / f"{request.param}.db", tmp_path / "device.db"))


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = open_store(path, TABLES)
    yield opened
    opened.close()


def test_each_layout_has_a_file_that_never_changes() -> None:
    assert set(HASHES) == set(LAYOUTS), "python -m tests.fixtures.make_layout makes the file of a new layout"
    for layout in LAYOUTS:
        assert hashlib.sha256((FOLDER / f"{layout}.db").read_bytes()).hexdigest() == HASHES[layout]
        assert (FOLDER / f"{layout}.db").stat().st_size < 200_000
    assert {file.name for file in FOLDER.iterdir()} == {f"{layout}.db" for layout in LAYOUTS}


def test_the_file_of_todays_layout_is_what_today_makes(tmp_path: Path) -> None:
    """If not, the layout was changed after its file was made, and files of either kind are out there under one name.

    Triggers may change, as opening makes them anew.
    """
    fresh, kept = make(tmp_path), FOLDER / f"{LAYOUTS[-1]}.db"
    schema = "SELECT type, name, sql FROM sqlite_master WHERE type = 'table' AND name LIKE 'localstore%' ORDER BY name"
    assert query(fresh, schema) == query(Path(shutil.copy(kept, tmp_path / "kept.db")), schema)


def test_each_file_holds_every_kind_of_content(path: Path) -> None:
    tables = [
        name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE name LIKE 'localstore_%' AND type = 'table'")
    ]
    assert {f"localstore_{name}" for name in SYSTEM_TABLES} <= set(tables)
    assert [table for table in tables if query(path, f"SELECT count(*) FROM {table}") == [(0,)]] == []
    assert query(path, "SELECT count(*) FROM localstore_clock WHERE detail IS NOT NULL AND born IS NOT NULL") != [(0,)]
    assert query(path, "SELECT count(*) FROM localstore_clock WHERE died IS NOT NULL AND born IS NULL") != [(0,)]
    assert query(path, "SELECT count(*) FROM localstore_aside") == [(2,)]
    assert query(path, "SELECT remote_id, cursor IS NULL FROM localstore_state") == [("remote of the fixture", 0)]


def test_unsent_changesets_can_be_read(path: Path) -> None:
    changesets = changesets_in(path)
    assert [changeset.number for changeset in changesets] == list(range(changesets[0].number, changesets[-1].number + 1))
    assert changes_of(changesets[-1:]) == {("note", ("b",)): (Op.UPDATE, {"title": "unsent"})}
    assert [changeset.groups for changeset in changesets].count(()) == 1  # in the place of one that was refused


def test_a_file_opens_with_all_that_was_in_it(store: Store, path: Path) -> None:
    assert rows_of(path) == NOTES
    assert rows_of(path, "link") == LINKS
    assert rows_of(path, "tally") == {(1,): {"count": 11}}
    assert rows_of(path, "reply") == {("loose",): {"note": None, "must": "a"}}
    assert query(path, 'SELECT * FROM "größe ""in"" cm" WHERE "schlüssel" = ?', "ñ") == [("ñ", b"\x00\xff", 0.1)]
    lost = [(found.key, found.column, found.lost_value, found.won_value) for found in store.conflicts()]
    assert (("fought",), "stars", 5, 6) in lost
    assert store.state().remote_id == "remote of the fixture"
    assert [pending.number for pending in store.pending()] == [changeset.number for changeset in changesets_in(path)]
    assert [table for table, _ in store.take_unsealed()] == ['größe "in" cm']


def test_what_another_program_had_written_is_sealed(path: Path) -> None:
    before = len(changesets_in(path))
    store = open_store(path, TABLES)
    assert changes_of(changesets_in(path)[before:]) == {
        ("note", ("old",)): (Op.UPDATE, {"stars": 7}),
        ("link", ("shell", 1)): (Op.INSERT, {"label": "logged"}),
    }
    assert is_clean(path)
    store.close()


def test_a_file_can_be_written(store: Store, path: Path) -> None:
    before = len(changesets_in(path))
    write(
        store,
        "UPDATE note SET stars = 9 WHERE id = 'twin'",
        "DELETE FROM link WHERE source = 'a'",
        "INSERT INTO tally VALUES (9, 9)",
    )
    assert changes_of(changesets_in(path)[before:]) == {
        ("note", ("twin",)): (Op.UPDATE, {"stars": 9}),
        ("link", ("a", 1)): (Op.DELETE, {}),
        ("link", ("a", 2)): (Op.DELETE, {}),
        ("tally", (9,)): (Op.INSERT, {"count": 9}),
    }
    store.acknowledge(store.state().last_number)
    assert store.pending() == []


def test_what_was_set_aside_comes_back_with_what_it_refers_to(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('gone', 'again', 1)")
    assert rows_of(path, "reply") == {("loose",): {"note": "gone", "must": "a"}, ("lost",): {"note": "a", "must": "gone"}}


def test_what_had_waited_is_applied_when_what_it_waited_for_comes(store: Store, path: Path) -> None:
    ((data,),) = query(path, "SELECT sealed FROM kept_for_the_test")
    cursor = store.state().cursor
    assert store.apply([wire.decode(data)], after=cursor, cursor=b"next") == Applied(changesets=2, rows=2)
    assert rows_of(path) == NOTES | {
        ("missing",): {"title": "came late", "stars": 1},
        ("waiting",): {"title": "waited", "stars": 1},
    }
    assert query(path, "SELECT * FROM localstore_waiting") == []


def test_a_delete_of_one_of_two_rows_under_a_key_lets_the_other_come_forward(store: Store, path: Path) -> None:
    """Its values are among what the clocks keep; the delete is by a device that knew only the older row."""
    near = Device(path.parent, "new", TABLES)
    older = next(c for c in store.conflicts() if c.key == ("twin",))
    assert (older.column, older.lost_value, older.won_value) == ("stars", 1, 2)
    near.clock.set(older.lost_stamp >> 16)
    near.write("INSERT INTO note VALUES ('twin', 't', 1)")
    near.clock.advance(5)
    store.apply([*near.sealed(), near.write("DELETE FROM note WHERE id = 'twin'")], after=store.state().cursor, cursor=b"next")
    assert rows_of(path)["twin",] == {"title": "of near", "stars": 2}


def test_what_came_for_a_newer_schema_is_taken_in_when_the_file_grows(path: Path) -> None:
    store = open_store(path, WIDE_TABLES)
    assert rows_of(path)["w",] == {"title": "wide", "stars": 1, "due": "tomorrow"}
    assert rows_of(path, "photo") == {("p",): {"data": b"\x01\x02"}}
    assert query(path, "SELECT * FROM localstore_unknown") == []
    store.close()


def test_a_new_device_that_receives_what_is_unsent_holds_it(store: Store, path: Path) -> None:
    """Not all of it: what was acknowledged would have come from the remote."""
    new = Device(path.parent, "new", TABLES)
    sealed = new.write("INSERT INTO note VALUES ('new', 'from a new device', 1)")
    store.apply([sealed], after=store.state().cursor, cursor=b"next")
    assert rows_of(path)["new",] == {"title": "from a new device", "stars": 1}
    assert is_clean(path)


def test_files_of_different_apps_are_made_at_the_same_time(tmp_path: Path) -> None:
    """Alembic calls what it works on by one name in the whole process."""

    def make_one(number: int) -> bytes:
        with closing(open_store(tmp_path / f"{number}.db", app=str(number), seed=number)) as store:
            return store.state().device

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make_one, range(24)))) == 24
