"""Reading blocks: several queries on one state of the file, which nothing in them can change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, delete, func, insert, select, text, update

from localstore import LocalConfiguration, Realm
from localstore.errors import ReadOnlyRealm, RealmClosed
from tests.unit.session_kit import PATIENCE, Note, World, add, in_background, in_thread, is_let_go, joined, sql, texts


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Realm]:
    """Each kind of realm in turn."""
    if request.param == "local":
        with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note})) as local:
            yield local
    else:
        world.remote.go_offline()
        synced = world.device(busy_timeout=5).open(stop_policy="immediately")
        world.at_rest()
        yield synced


def seen(session: Session) -> list[str]:
    return sorted(session.exec(select(Note.text)).all())


def one_note(session: Session) -> Note:
    return session.exec(select(Note)).one()


def test_a_block_sees_one_state_whatever_is_written_meanwhile(realm: Realm) -> None:
    add(realm, "a")
    with realm.read() as snapshot:
        add(realm, "b")
        assert seen(snapshot) == ["a"]
        sql(realm.path, "INSERT INTO note VALUES ('0123456789abcdef0123456789abcdef', 'c')")
        assert seen(snapshot) == ["a"]
        assert snapshot.exec(select(func.count()).select_from(Note)).one() == 1
    assert texts(realm) == ["a", "b", "c"]


def test_the_state_is_that_of_the_blocks_beginning_not_of_its_first_query(realm: Realm) -> None:
    with realm.read() as snapshot:
        add(realm, "a")
        assert seen(snapshot) == []


def test_a_new_block_sees_what_was_written(realm: Realm) -> None:
    with realm.read() as snapshot:
        assert seen(snapshot) == []
    add(realm, "a")
    with realm.read() as snapshot:
        assert seen(snapshot) == ["a"]


def test_blocks_may_be_nested_and_each_keeps_its_own_state(realm: Realm) -> None:
    with realm.read() as outer:
        add(realm, "a")
        with realm.read() as inner:
            add(realm, "b")
            assert (seen(outer), seen(inner), texts(realm)) == ([], ["a"], ["a", "b"])


def test_inside_a_write_it_sees_the_state_before_it(realm: Realm) -> None:
    add(realm, "a")
    with realm.write() as tx:
        tx.add(Note(text="b"))
        tx.flush()
        with realm.read() as snapshot:
            assert seen(snapshot) == ["a"]
    assert texts(realm) == ["a", "b"]


def test_objects_stay_readable_after_the_block_and_after_the_realm(realm: Realm) -> None:
    (id_,) = add(realm, "a")
    with realm.read() as snapshot:
        note = snapshot.get_one(Note, id_)
    realm.close()
    assert (note.id, note.text) == (id_, "a")
    assert isinstance(note.id, UUID)


def test_objects_may_be_changed_after_the_block_and_written(realm: Realm) -> None:
    add(realm, "a")
    with realm.read() as snapshot:
        note = one_note(snapshot)
    note.text = "b"
    with realm.write() as tx:
        tx.add(note)
    assert texts(realm) == ["b"]


def test_many_threads_may_be_in_blocks_at_once(realm: Realm) -> None:
    add(realm, "a", "b")

    def read() -> list[list[str]]:
        with realm.read() as snapshot:
            return [seen(snapshot) for _ in range(10)]

    readers = [in_background(read) for _ in range(8)]
    assert [reader.result(PATIENCE) for reader in readers] == [[["a", "b"]] * 10] * 8


WRITES: dict[str, Callable[[Session], Any]] = {
    "flush of a new object": lambda session: (session.add(Note(text="x")), session.flush()),
    "query after a new object": lambda session: (session.add(Note(text="x")), session.exec(select(Note))),
    "flush of a changed object": lambda session: (setattr(one_note(session), "text", "x"), session.flush()),
    "flush of a deleted object": lambda session: (session.delete(one_note(session)), session.flush()),
    "commit of a new object": lambda session: (session.add(Note(text="x")), session.commit()),
    "bulk": lambda session: session.bulk_save_objects([Note(text="x")]),
    "insert": lambda session: session.exec(insert(Note).values(text="x")),
    "update": lambda session: session.exec(update(Note).values(text="x")),
    "delete": lambda session: session.exec(delete(Note)),
    "text": lambda session: session.connection().execute(text("UPDATE note SET text = 'x'")),
    "driver SQL": lambda session: session.connection().exec_driver_sql("DELETE FROM note"),
    "table": lambda session: session.connection().exec_driver_sql("CREATE TABLE t (x)"),
    "drop": lambda session: session.connection().exec_driver_sql("DROP TABLE note"),
    "user_version": lambda session: session.connection().exec_driver_sql("PRAGMA user_version = 7"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_whatever_writes_is_refused_where_it_does(realm: Realm, write: Callable[[Session], Any]) -> None:
    add(realm, "a")
    refused = pytest.raises(ReadOnlyRealm, match=r"read.*realm\.write\(\)")
    with suppress(ReadOnlyRealm), realm.read() as snapshot, refused:  # leaving the block tells of pending objects once more
        write(snapshot)
    assert texts(realm) == ["a"]
    assert sql(realm.path, "PRAGMA user_version") == [(0,)]
    add(realm, "b")


PENDING: dict[str, Callable[[Session], Any]] = {
    "added": lambda session: session.add(Note(text="x")),
    "changed": lambda session: setattr(one_note(session), "text", "x"),
    "deleted": lambda session: session.delete(one_note(session)),
}


@pytest.mark.parametrize("change", PENDING.values(), ids=PENDING)
def test_what_nobody_flushed_is_not_dropped_in_silence(realm: Realm, change: Callable[[Session], Any]) -> None:
    add(realm, "a")
    with pytest.raises(ReadOnlyRealm, match="Nothing was written"), realm.read() as snapshot:
        change(snapshot)
    assert texts(realm) == ["a"]


def test_an_attribute_set_to_the_value_it_has_is_no_change(realm: Realm) -> None:
    add(realm, "a")
    with realm.read() as snapshot:
        one_note(snapshot).text = "a"


def test_an_exception_of_the_block_is_raised_and_not_what_else_was_wrong(realm: Realm) -> None:
    def fail() -> None:
        with realm.read() as snapshot:
            snapshot.add(Note(text="x"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()


def test_commit_would_exchange_the_state_and_is_refused(realm: Realm) -> None:
    with realm.read() as snapshot, pytest.raises(ReadOnlyRealm, match="nothing to commit"):
        snapshot.commit()


def test_sqls_own_errors_pass_as_they_are(realm: Realm) -> None:
    with realm.read() as snapshot, pytest.raises(OperationalError, match="no such column"):
        snapshot.connection().exec_driver_sql("SELECT absent FROM note")


def test_what_is_wrong_with_another_database_is_not_blamed_on_this_one(realm: Realm, tmp_path: Path) -> None:
    def read_another() -> None:
        with realm.read(), closing(connect(tmp_path / "missing" / "other.db")):
            pass

    with pytest.raises(Exception, match="unable to open") as caught:
        read_another()
    assert str(realm.path) not in str(caught.value)


def test_closing_waits_for_a_block_in_progress(realm: Realm) -> None:
    add(realm, "a")
    with realm.read() as snapshot:
        closing_thread = in_thread(realm.close)
        assert seen(snapshot) == ["a"]
    joined(closing_thread)
    assert is_let_go(realm.path)


def test_a_closed_realm_says_so(realm: Realm) -> None:
    realm.close()
    with pytest.raises(RealmClosed):
        realm.read()
