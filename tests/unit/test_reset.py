"""Resetting a store to what the remote holds: with its unsent changes on top, or without (realm-semantics 4.2 to 4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.reset_kit import DISCARD, RECOVER, began
from tests.unit.store_kit import check_equal, close_devices, is_clean, query, write

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"
INSERT_C = "INSERT INTO note VALUES ('c', 'third', 3)"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def test_discarding_leaves_exactly_what_the_remote_has(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    x.write("UPDATE note SET title = 'unsent' WHERE id = 'a'", INSERT_C, "DELETE FROM note WHERE id = 'b'")
    y.write("UPDATE note SET stars = 9 WHERE id = 'b'")
    remote.push(y)
    remote.pull(y)
    outcome = remote.reset(x, DISCARD)
    assert outcome.discarded == 1
    assert x.rows() == y.rows()
    assert x.sealed() == []
    check_equal(x, y)


def test_recovering_puts_unsent_changes_on_top(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    old = x.id
    x.write("UPDATE note SET title = 'unsent' WHERE id = 'a'")
    x.write(INSERT_C, "DELETE FROM note WHERE id = 'b'")
    y.write("UPDATE note SET stars = 9")
    remote.exchange(y)
    outcome = remote.reset(x, RECOVER)
    assert outcome.recovered == 2
    assert outcome.device == x.id != old
    assert [sealed.number for sealed in x.sealed()] == [1, 2]
    assert x.rows() == {("a",): {"title": "unsent", "stars": 9}, ("c",): {"title": "third", "stars": 3}}
    remote.exchange(x, y)
    third = remote.fresh("third")
    check_equal(x, y, third)
    assert y.rows() == x.rows()


def test_a_store_goes_on_after_its_reset(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'unsent'")
    remote.reset(x, RECOVER)
    assert is_clean(x.path)
    write(x.store, INSERT_B)
    assert [sealed.number for sealed in x.sealed()] == [1, 2]
    x.reopen()
    remote.exchange(x, y)
    check_equal(x, y)
    assert query(x.path, "PRAGMA integrity_check") == [("ok",)]
