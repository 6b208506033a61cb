"""How much one changeset may hold, in bytes and in rows: refused at commit with the limit and the ways out, and rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore.changes import Op
from localstore.errors import ChangesetTooLarge
from localstore.wire import MAX_CHANGESET_BYTES
from tests.unit.session_kit import World, add, texts
from tests.unit.store_kit import (
    LINK,
    NOTE,
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

FIVE = "INSERT INTO note (id, stars) VALUES ('a', 1), ('b', 2), ('c', 3), ('d', 4), ('e', 5)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.db"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_changeset_rows": 4}, ["6 rows", "may hold 4 rows (max_changeset_rows)", "to 67108864 at most"]),
        ({"max_changeset_bytes": 50}, ["6 rows", "may hold 50 bytes (max_changeset_bytes)", "to 67108864 at most"]),
    ],
    ids=["rows", "bytes"],
)
def test_what_is_above_a_limit_is_rolled_back_with_the_limit_and_the_ways_out(
    path: Path, options: dict[str, Any], words: list[str]
) -> None:
    store = open_store(path, **options)
    write(store, "INSERT INTO note (id) VALUES ('before')")
    with pytest.raises(ChangesetTooLarge) as caught:
        write(store, FIVE, "DELETE FROM note WHERE id = 'before'", "INSERT INTO note (id) VALUES ('before')")
    for said in [*words, "It was rolled back.", "Write in several transactions, or raise the setting"]:
        assert said in str(caught.value)
    assert rows_of(path).keys() == {("before",)}
    assert is_clean(path)
    write(store, "UPDATE note SET stars = 1")
    assert [sealed.number for sealed in sealed_in(path)] == [1, 2]
    store.close()


def test_a_limit_that_cannot_be_raised_is_not_to_be_raised(path: Path) -> None:
    store = open_store(path)
    with pytest.raises(ChangesetTooLarge, match=r"Write in several transactions\.$"):
        write(store, f"INSERT INTO note (id, title) VALUES ('a', zeroblob({MAX_CHANGESET_BYTES}))")
    assert rows_of(path) == {}
    store.close()


def test_as_many_rows_as_the_limit_says_are_taken_and_each_counts_once(path: Path) -> None:
    store = open_store(path, max_changeset_rows=5)
    write(
        store,
        FIVE,
        *["UPDATE note SET stars = stars + 1"] * 3,
        "INSERT INTO note (id) VALUES ('f')",
        "DELETE FROM note WHERE id = 'f'",
    )
    assert [sealed.rows for sealed in sealed_in(path)] == [5]
    with pytest.raises(ChangesetTooLarge):
        write(store, "DELETE FROM note", "INSERT INTO note (id) VALUES ('f')")
    write(store, "DELETE FROM note")
    assert rows_of(path) == {}
    store.close()


@pytest.mark.parametrize("max_rows", [1, 2, 3, 10, 1000])
def test_what_another_program_wrote_is_sent_in_changesets_within_the_limit(path: Path, max_rows: int) -> None:
    store = open_store(path, [NOTE, LINK], max_changeset_rows=max_rows)
    with other_program(path) as program:
        program.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25) INSERT INTO note (id) SELECT i FROM n"
        )
        program.execute("INSERT INTO link SELECT id, 1, 'x' FROM note")
    store.seal()
    assert max(sealed.rows for sealed in sealed_in(path)) <= max_rows
    changes = changes_of(changesets_in(path))
    assert len(changes) == 50
    assert {op for op, _ in changes.values()} == {Op.INSERT}
    assert store.take_unsealed() == []
    assert is_clean(path)
    store.close()


def test_rows_of_two_tables_that_are_too_large_together_both_travel(path: Path) -> None:
    store = open_store(path, [NOTE, LINK], max_changeset_bytes=1500)
    with other_program(path) as program:
        program.execute("INSERT INTO note (id, title) VALUES ('a', hex(zeroblob(500)))")
        program.execute("INSERT INTO link VALUES ('b', 1, hex(zeroblob(500)))")
    store.seal()
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",)), ("link", ("b", 1))}
    assert query(path, "SELECT * FROM localstore_unsealed") == []
    store.close()


def test_rows_from_before_sync_are_sent_in_changesets_within_the_limit(path: Path) -> None:
    with other_program(path) as program:
        program.execute("CREATE TABLE note (id VARCHAR NOT NULL PRIMARY KEY, title VARCHAR, stars INTEGER)")
        program.execute(FIVE)
    open_store(path, max_changeset_rows=4).close()
    assert [sealed.rows for sealed in sealed_in(path)] == [2, 2, 1]
    assert {op for op, _ in changes_of(changesets_in(path)).values()} == {Op.SEED}


def test_the_setting_is_a_realms_limit(world: World) -> None:
    device = world.device("one", max_changeset_rows=2)
    realm = device.open()
    with pytest.raises(ChangesetTooLarge, match="max_changeset_rows"):
        add(realm, "a", "b", "c")
    assert texts(realm) == []
    add(realm, "a", "b")
    assert len(texts(realm)) == 2
