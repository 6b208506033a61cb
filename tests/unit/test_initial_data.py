"""First data: written once, in the transaction that makes a file, or there is no file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlmodel import Field, Session, select

from localstore import LocalConfiguration, Realm
from localstore.errors import ChangesetTooLarge, CommitInsideWrite, SchemaMismatch
from localstore.store.engine import driver_connection
from tests.unit.session_kit import (
    PATIENCE,
    Note,
    Seat,
    Table,
    World,
    add,
    eventually,
    in_background,
    numbers,
    sql,
    texts,
)


class Shelf(Table, table=True):
    """Named by people, so that the first data of two devices is the same row."""

    name: str = Field(primary_key=True)
    books: int = 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


Open = Callable[..., Realm]


@pytest.fixture(params=["local", "synced"])
def open_realm(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Open]:
    """Opens ``one.db`` as each kind of realm; what a test leaves open is closed."""
    opened: list[Realm] = []
    device = world.device("one", max_changeset_bytes=10_000)
    world.remote.go_offline()

    def open_one(**options: Any) -> Realm:
        options = {"schema": {Note, Seat}, **options}
        if request.param == "local":
            opened.append(Realm.open(LocalConfiguration(path=device.path, **options)))
        else:
            opened.append(device.open(stop_policy="immediately", **options))
        return opened[-1]

    yield open_one
    for realm in opened:
        realm.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.db"


def two_notes(session: Session) -> None:
    session.add(Note(text="a"))
    session.flush()
    session.add(Note(text="b"))


async def two_notes_later(session: Session) -> None:
    two_notes(session)


def swallowed(call: Callable[[], object]) -> None:
    with suppress(DatabaseError):
        call()


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_new_file_gets_it(open_realm: Open) -> None:
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]


def test_a_second_opening_does_not_run_it(open_realm: Open) -> None:
    realm = open_realm(initial_data=two_notes)
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]
    realm.close()
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]


def test_nor_does_one_when_everything_was_deleted_since(open_realm: Open) -> None:
    realm = open_realm(initial_data=two_notes)
    with realm.write() as tx:
        tx.connection().exec_driver_sql("DELETE FROM note")
    realm.close()
    assert texts(open_realm(initial_data=two_notes)) == []


def test_nor_does_one_with_a_larger_schema(open_realm: Open) -> None:
    open_realm(schema={Seat}).close()
    assert texts(open_realm(initial_data=two_notes)) == []


def test_a_file_that_had_the_tables_before_is_not_new(open_realm: Open, path: Path) -> None:
    with Realm.open(LocalConfiguration(path=path, schema={Note})) as before:
        add(before, "mine")
    assert texts(open_realm(initial_data=two_notes)) == ["mine"]


@pytest.mark.parametrize("open_realm", ["local"], indirect=True)
def test_a_local_file_with_any_tables_is_not_new(open_realm: Open, path: Path) -> None:
    sql(path, "CREATE TABLE something (x)")
    assert texts(open_realm(initial_data=two_notes)) == []


@pytest.mark.parametrize("open_realm", ["synced"], indirect=True)
def test_a_synced_file_may_have_had_tables_that_are_not_the_apps(open_realm: Open, path: Path) -> None:
    sql(path, "CREATE TABLE something (x)")
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]


def test_an_empty_file_is_new(open_realm: Open, path: Path) -> None:
    path.touch()
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]


def test_it_may_use_the_session_in_every_way(open_realm: Open) -> None:
    def fill(session: Session) -> None:
        session.add(Seat(room="A", number=1))
        assert session.exec(select(Seat.room)).all() == ["A"]
        session.connection().exec_driver_sql("INSERT INTO seat VALUES ('A', 2, NULL)")
        with suppress(ZeroDivisionError), session.begin_nested():
            session.add(Seat(room="B", number=1))
            session.flush()
            _ = 1 / 0
        session.get_one(Seat, ("A", 2)).guest = "Emma"

    realm = open_realm(initial_data=fill)
    seats = realm.exec(select(Seat.room, Seat.number, Seat.guest).order_by(Seat.number)).all()
    assert seats == [("A", 1, None), ("A", 2, "Emma")]


def test_a_rollback_inside_takes_back_the_data_and_not_the_tables(open_realm: Open) -> None:
    def fill(session: Session) -> None:
        session.add(Note(text="x"))
        session.flush()
        session.rollback()
        session.add(Note(text="a"))

    assert texts(open_realm(initial_data=fill)) == ["a"]


def test_objects_stay_readable_afterwards(open_realm: Open) -> None:
    note = Note(text="a")
    open_realm(initial_data=lambda session: session.add(note))
    assert note.text == "a"


def test_nobody_sees_the_tables_without_it(open_realm: Open, path: Path) -> None:
    def fill(session: Session) -> None:
        two_notes(session)
        session.flush()
        with closing(connect(path)) as other:
            assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)

    assert texts(open_realm(initial_data=fill)) == ["a", "b"]


FAILURES: dict[str, tuple[Callable[[Session], Any], type[BaseException]]] = {
    "an exception": (lambda session: (two_notes(session), session.flush(), 1 / 0), ZeroDivisionError),
    "what the database refuses": (
        lambda session: session.add_all([Seat(room="A", number=1), Seat(room="A", number=1, guest="x")]),
        IntegrityError,
    ),
    "commit": (lambda session: (two_notes(session), session.commit()), CommitInsideWrite),
    "COMMIT": (lambda session: (two_notes(session), session.connection().exec_driver_sql("COMMIT")), CommitInsideWrite),
    "the connection's commit": (lambda session: (two_notes(session), session.connection().commit()), CommitInsideWrite),
    "the connection's rollback": (lambda session: (two_notes(session), session.connection().rollback()), CommitInsideWrite),
    "the driver's commit": (
        lambda session: (two_notes(session), session.flush(), driver_connection(session.connection()).commit()),
        CommitInsideWrite,
    ),
    "a commit whose error is swallowed": (lambda session: swallowed(session.connection().commit), CommitInsideWrite),
    "a statement that rolls back": (
        lambda session: swallowed(
            lambda: session.connection().exec_driver_sql("INSERT OR ROLLBACK INTO note VALUES (NULL, NULL)")
        ),
        CommitInsideWrite,
    ),
    "a function that returns a coroutine": (lambda session: two_notes_later(session), TypeError),
}


@pytest.mark.parametrize(("fill", "error"), FAILURES.values(), ids=FAILURES)
@pytest.mark.filterwarnings("ignore:New instance.*conflicts with persistent instance")
def test_when_it_fails_there_is_no_file(
    open_realm: Open, tmp_path: Path, fill: Callable[[Session], Any], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        open_realm(initial_data=fill)
    assert left_in(tmp_path) == []
    assert texts(open_realm(initial_data=two_notes)) == ["a", "b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_nor_when_the_program_is_ended_meanwhile(open_realm: Open, tmp_path: Path, error: type[BaseException]) -> None:
    raised = error()

    def fail(session: Session) -> None:
        session.add(Note(text="a"))
        session.flush()
        raise raised

    with pytest.raises(error) as caught:
        open_realm(initial_data=fail)
    assert caught.value is raised
    assert left_in(tmp_path) == []


def test_an_empty_file_that_was_there_before_stays(open_realm: Open, path: Path, tmp_path: Path) -> None:
    path.touch()
    with pytest.raises(ZeroDivisionError):
        open_realm(initial_data=lambda session: 1 / 0)
    assert left_in(tmp_path) == ["one.db"]


def test_a_file_of_others_is_never_removed(open_realm: Open, path: Path) -> None:
    sql(path, "CREATE TABLE note (id INTEGER)")
    with pytest.raises(SchemaMismatch):
        open_realm(initial_data=two_notes)
    assert sql(path, "SELECT count(*) FROM note") == [(0,)]


def test_one_that_fails_while_another_opens_leaves_the_file_to_the_other(world: World, path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def fail(session: Session) -> None:
        inside.set()
        assert go_on.wait(PATIENCE)
        raise ZeroDivisionError

    first = in_background(lambda: Realm.open(LocalConfiguration(path=path, schema={Note}, initial_data=fail)))
    assert inside.wait(PATIENCE)
    second = in_background(lambda: Realm.open(LocalConfiguration(path=path, schema={Note}, initial_data=two_notes)))
    go_on.set()
    assert isinstance(first.exception(PATIENCE), ZeroDivisionError)
    with second.result(PATIENCE) as realm:
        assert texts(realm) == ["a", "b"]
        add(realm, "c")
    assert sql(path, "SELECT count(*) FROM note") == [(3,)]


def test_threads_that_open_at_once_run_it_once(open_realm: Open) -> None:
    runs = []

    def fill(session: Session) -> None:
        runs.append(threading.get_ident())
        two_notes(session)

    opening = [in_background(lambda: texts(open_realm(initial_data=fill))) for _ in range(6)]
    assert [future.result(PATIENCE) for future in opening] == [["a", "b"]] * 6
    assert len(runs) == 1


class TestSynced:
    @pytest.fixture
    def offline(self, world: World) -> World:
        world.remote.go_offline()
        return world

    def test_it_is_one_changeset_like_any_other(self, offline: World) -> None:
        realm = offline.device().open(initial_data=two_notes)
        (changeset,) = realm.pending()
        assert (changeset.number, changeset.rows) == (1, 2)
        add(realm, "c")
        assert numbers(realm) == [1, 2]

    def test_nothing_written_is_no_changeset(self, offline: World) -> None:
        realm = offline.device().open(initial_data=lambda session: None)
        assert realm.pending() == []

    def test_it_reaches_other_devices(self, world: World) -> None:
        world.device("one").open(initial_data=two_notes)
        other = world.open("other")
        eventually(lambda: texts(other) == ["a", "b"])

    def test_first_data_with_the_same_keys_is_the_same_rows_on_all_devices(self, world: World) -> None:
        def shelves(session: Session) -> None:
            session.add_all([Shelf(name="cooking"), Shelf(name="travel")])

        realms = [world.device(name).open(schema={Shelf}, initial_data=shelves) for name in ("one", "other")]
        for realm in realms:
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        for realm in realms:
            assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
            assert realm.exec(select(Shelf.name).order_by(Shelf.name)).all() == ["cooking", "travel"]

    def test_more_than_a_changeset_holds_is_refused_and_leaves_no_file(self, offline: World, tmp_path: Path) -> None:
        device = offline.device(max_changeset_bytes=1000)
        with pytest.raises(ChangesetTooLarge):
            device.open(initial_data=lambda session: session.add(Note(text="x" * 2000)))
        assert left_in(tmp_path) == []


class TestConfiguration:
    def test_it_is_a_function(self, world: World, path: Path) -> None:
        for make in (
            (lambda: LocalConfiguration(path=path, schema={Note}, initial_data=[Note(text="a")])),
            (  # type: ignore[arg-type]
                lambda: world.device().configuration(initial_data="a")
            ),
        ):
            with pytest.raises(TypeError, match="initial_data"):
                make()

    def test_it_is_a_function_that_runs_when_it_is_called(self, world: World, path: Path) -> None:
        def one_by_one(session: Session) -> Iterator[None]:
            yield session.add(Note(text="a"))

        class Later:
            async def __call__(self, session: Session) -> None:
                two_notes(session)

        for never_run in (two_notes_later, partial(two_notes_later), one_by_one, Later()):
            with pytest.raises(TypeError, match="plain function"):
                LocalConfiguration(path=path, schema={Note}, initial_data=never_run)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="plain function"):
                world.device().configuration(initial_data=never_run)
        LocalConfiguration(path=path, schema={Note}, initial_data=partial(two_notes))

    def test_it_needs_tables(self, path: Path) -> None:
        with pytest.raises(ValueError, match="schema"):
            LocalConfiguration(path=path, initial_data=two_notes)
