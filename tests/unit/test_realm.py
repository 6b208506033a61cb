"""The realm: opening and closing a file, reading it, writing it from threads and tasks, and copying it out of sync."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, MultipleResultsFound, NoResultFound, OperationalError
from sqlmodel import Field, SQLModel, delete, func, insert, select, text, update

from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration, uuid7
from localstore.errors import (
    LocalStoreError,
    NestedWrite,
    ReadOnlyRealm,
    RealmClosed,
    SchemaError,
    SchemaMismatch,
    StoreBusy,
    StoreUnusable,
    TargetExists,
)
from tests.unit.session_kit import (
    PATIENCE,
    Note,
    Seat,
    Table,
    World,
    add,
    eventually,
    in_background,
    in_loop,
    in_thread,
    is_let_go,
    joined,
    numbers,
    sql,
    texts,
)


class Tally(Table, table=True):
    """A counter that the application names itself."""

    name: str = Field(primary_key=True)
    count: int = 0


class Numbered(Table, table=True):
    """Cannot be synced: two devices would give out the same numbers."""

    id: int | None = Field(default=None, primary_key=True)


class Plain(SQLModel):
    """Has no table."""

    name: str


class DeclinedError(Exception):
    """What a block of these tests raises."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Realm]:
    with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note, Seat, Tally})) as realm:
        yield realm


@pytest.fixture
def synced(world: World) -> Realm:
    """A synced realm on a remote that cannot be reached, so that nothing but the test touches the file."""
    world.remote.go_offline()
    realm = world.device(busy_timeout=5).open(schema={Note, Seat, Tally})
    world.at_rest()
    return realm


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest) -> Realm:
    """Each kind of realm in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Realm)
    return found


def open_files(directory: Path) -> list[str]:
    """Files below a directory that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):  # empty where the system has no such list
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(str(directory))]


class TestReading:
    def test_a_model_comes_as_objects(self, realm: Realm) -> None:
        add(realm, "a", "b")
        notes = realm.exec(select(Note).order_by(Note.text)).all()
        assert [type(note) for note in notes] == [Note, Note]
        assert [note.text for note in notes] == ["a", "b"]

    def test_a_column_comes_as_values(self, realm: Realm) -> None:
        add(realm, "a", "b")
        assert sorted(realm.exec(select(Note.text))) == ["a", "b"]
        assert realm.exec(select(func.count()).select_from(Note)).one() == 2

    def test_several_columns_come_as_tuples(self, realm: Realm) -> None:
        ids = add(realm, "a", "b")
        assert realm.exec(select(Note.id, Note.text).order_by(Note.text)).all() == [(ids[0], "a"), (ids[1], "b")]

    def test_models_and_columns_may_be_mixed(self, realm: Realm) -> None:
        add(realm, "a")
        note, words = realm.exec(select(Note, Note.text)).one()
        assert note.text == words == "a"

    def test_plain_sqlalchemy_statements_and_text_come_as_rows(self, realm: Realm) -> None:
        add(realm, "a")
        assert realm.exec(sa.select(Note.text)).all() == [("a",)]  # type: ignore[call-overload]
        assert realm.exec(text("SELECT text FROM note")).all() == [("a",)]  # type: ignore[call-overload]

    def test_the_usual_ways_to_take_a_result_work(self, realm: Realm) -> None:
        add(realm, "a", "b", "c")
        everything = select(Note.text).order_by(Note.text)
        assert realm.exec(everything).first() == "a"
        assert list(realm.exec(everything)) == ["a", "b", "c"]
        assert [list(part) for part in realm.exec(everything).partitions(2)] == [["a", "b"], ["c"]]
        assert realm.exec(everything.where(Note.text == "x")).first() is None
        assert realm.exec(everything.where(Note.text == "x")).one_or_none() is None
        with pytest.raises(NoResultFound):
            realm.exec(everything.where(Note.text == "x")).one()
        with pytest.raises(MultipleResultsFound):
            realm.exec(everything).one()

    def test_a_result_is_one_state_of_the_file(self, realm: Realm) -> None:
        add(realm, "a")
        result = realm.exec(select(Note.text))
        add(realm, "b")
        assert result.all() == ["a"]

    def test_results_and_objects_outlive_the_realm(self, realm: Realm) -> None:
        (id_,) = add(realm, "a")
        result, note = realm.exec(select(Note)), realm.get(Note, id_)
        realm.close()
        assert [found.text for found in result] == ["a"]
        assert note is not None
        assert note.text == "a"

    def test_an_object_is_got_by_its_key(self, realm: Realm) -> None:
        (id_,) = add(realm, "a")
        note = realm.get(Note, id_)
        assert note is not None
        assert note.text == "a"
        assert realm.get(Note, uuid7()) is None

    def test_a_composite_key_is_a_tuple(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Seat(room="A", number=1, guest="Emma"))
        seat = realm.get(Seat, ("A", 1))
        assert seat is not None
        assert seat.guest == "Emma"
        assert realm.get(Seat, ("A", 2)) is None
        assert realm.get(Seat, {"room": "A", "number": 1}) is not None

    @pytest.mark.parametrize(
        "statement",
        [
            insert(Tally).values(name="x", count=1),
            update(Tally).values(count=2),
            delete(Tally),
            text("INSERT INTO tally VALUES ('y', 1)"),
            text("DELETE FROM tally"),
        ],
        ids=str,
    )
    def test_a_read_cannot_write(self, realm: Realm, statement: Any) -> None:
        with realm.write() as tx:
            tx.add(Tally(name="a", count=1))
        with pytest.raises(ReadOnlyRealm, match=r"realm\.write"):
            realm.exec(statement)
        assert realm.exec(select(Tally.name, Tally.count)).all() == [("a", 1)]

    @pytest.mark.parametrize("statement", ["SELECT 1", None, Note, 1])
    def test_what_is_no_statement_is_refused(self, realm: Realm, statement: Any) -> None:
        with pytest.raises(TypeError, match="takes a statement"):
            realm.exec(statement)

    def test_sqls_own_errors_pass_as_they_are(self, realm: Realm) -> None:
        with pytest.raises(OperationalError, match="no such column"):
            realm.exec(text("SELECT absent FROM note"))  # type: ignore[call-overload]
        assert texts(realm) == []

    def test_reads_do_not_wait_for_a_writer_and_see_what_was_before(self, realm: Realm) -> None:
        add(realm, "a")
        with realm.write() as tx:
            tx.add(Note(text="b"))
            tx.flush()
            assert texts(realm) == ["a"]
            assert in_background(lambda: texts(realm)).result(PATIENCE) == ["a"]
        assert texts(realm) == ["a", "b"]

    def test_many_threads_may_read_at_once(self, realm: Realm) -> None:
        add(realm, *map(str, range(100)))
        readers = [in_background(lambda: [len(texts(realm)) for _ in range(10)]) for _ in range(10)]
        assert [reader.result(PATIENCE) for reader in readers] == [[100] * 10] * 10


class TestWriting:
    def test_a_block_commits_at_its_end(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Note(text="a"))
            assert texts(realm) == []
        assert texts(realm) == ["a"]

    def test_an_exception_rolls_everything_back_and_is_raised_again(self, realm: Realm) -> None:
        declined = DeclinedError()

        def decline() -> None:
            with realm.write() as tx:
                tx.add(Note(text="a"))
                tx.flush()
                raise declined

        with pytest.raises(DeclinedError) as caught:
            decline()
        assert caught.value is declined
        assert texts(realm) == []
        assert realm.pending() == []
        add(realm, "b")
        assert texts(realm) == ["b"]

    @pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_so_does_one_that_is_meant_to_end_the_program(self, realm: Realm, exception: type[BaseException]) -> None:
        def end() -> None:
            with realm.write() as tx:
                tx.add(Note(text="a"))
                raise exception

        with pytest.raises(exception):
            end()
        assert texts(realm) == []
        add(realm, "b")

    def test_what_the_database_refuses_rolls_everything_back(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Tally(name="a"))
        with pytest.raises(IntegrityError), realm.write() as tx:
            tx.add_all([Note(text="n"), Tally(name="a")])
        assert texts(realm) == []
        add(realm, "b")

    def test_objects_stay_readable_after_the_block(self, realm: Realm) -> None:
        note = Note(text="a")
        with realm.write() as tx:
            tx.add(note)
        assert note.text == "a"
        assert isinstance(note.id, UUID)

    def test_objects_that_were_read_can_be_changed_in_a_write(self, realm: Realm) -> None:
        (id_,) = add(realm, "a")
        note = realm.get(Note, id_)
        assert note is not None
        note.text = "b"
        with realm.write() as tx:
            tx.add(note)
        assert texts(realm) == ["b"]

    def test_a_block_may_read_what_it_wrote(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Note(text="a"))
            assert tx.exec(select(Note.text)).all() == ["a"]

    def test_a_part_of_a_block_may_be_taken_back(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Note(text="a"))
            with suppress(DeclinedError), tx.begin_nested():
                tx.add(Note(text="b"))
                raise DeclinedError
            tx.add(Note(text="c"))
        assert texts(realm) == ["a", "c"]

    def test_an_empty_block_writes_nothing(self, realm: Realm) -> None:
        with realm.write():
            pass
        assert realm.pending() == []

    def test_writers_in_many_threads_take_turns(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Tally(name="a"))

        def count() -> None:
            for _ in range(10):
                with realm.write() as tx:
                    tally = tx.get_one(Tally, "a")
                    tally.count += 1

        for thread in [in_thread(count) for _ in range(8)]:
            joined(thread)
        assert realm.exec(select(Tally.count)).one() == 80

    def test_a_write_inside_a_write_is_refused_instead_of_waiting_for_itself(self, realm: Realm) -> None:
        with realm.write() as outer:
            with pytest.raises(NestedWrite), realm.write():
                pass
            outer.add(Note(text="a"))
        assert texts(realm) == ["a"]

    def test_also_through_another_realm_on_the_same_file(self, world: World) -> None:
        device = world.device()
        one, other = device.open(), device.open()
        with one.write(), pytest.raises(NestedWrite), other.write():
            pass

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_also_through_local_realms_which_share_no_session(self, tmp_path: Path, in_memory: bool) -> None:
        configuration = LocalConfiguration(path=tmp_path / "one.db", schema={Note}, in_memory=in_memory)
        with Realm.open(configuration) as one:
            with Realm.open(configuration) as other, one.write() as tx:
                with pytest.raises(NestedWrite), other.write():
                    pass
                with pytest.raises(NestedWrite):
                    Realm.open(configuration)
                tx.add(Note(text="a"))
                other.close()
            assert texts(one) == ["a"]

    def test_writing_two_files_at_once_is_not_nesting(self, synced: Realm, local: Realm) -> None:
        with synced.write() as one, local.write() as other:
            one.add(Note(text="a"))
            other.add(Note(text="b"))
        assert (texts(synced), texts(local)) == (["a"], ["b"])

    def test_a_writer_that_waits_too_long_is_told_so(self, world: World) -> None:
        realm = world.device(busy_timeout=0.05).open()
        with realm.write():
            error = in_background(lambda: add(realm, "a")).exception(PATIENCE)
        assert isinstance(error, StoreBusy)
        assert texts(realm) == []
        add(realm, "b")

    def test_another_program_that_writes_too_long_is_named_as_the_reason(self, world: World) -> None:
        realm = world.device(busy_timeout=0.05).open()
        with closing(connect(realm.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                add(realm, "a")
            other.execute("ROLLBACK")
        add(realm, "b")
        assert texts(realm) == ["b"]


class TestWritingInAnEventLoop:
    def test_a_block_commits_at_its_end(self, realm: Realm) -> None:
        async def write() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))
                await asyncio.sleep(0)
                tx.add(Note(text="b"))

        in_loop(write())
        assert texts(realm) == ["a", "b"]

    def test_an_exception_rolls_everything_back_and_is_raised_again(self, realm: Realm) -> None:
        async def write() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))
                tx.flush()
                raise DeclinedError

        with pytest.raises(DeclinedError):
            in_loop(write())
        assert texts(realm) == []
        add(realm, "b")

    def test_a_commit_is_announced_to_the_session(self, world: World) -> None:
        realm = world.open()
        world.at_rest()

        async def write() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))

        in_loop(write())
        eventually(lambda: numbers(realm) == [])

    def test_tasks_take_turns(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Tally(name="a"))

        async def count() -> None:
            async with realm.write_async() as tx:
                tally = tx.get_one(Tally, "a")
                before = tally.count
                await asyncio.sleep(0)
                tally.count = before + 1

        async def count_all() -> None:
            await asyncio.gather(*(count() for _ in range(100)))

        in_loop(count_all())
        assert realm.exec(select(Tally.count)).one() == 100

    def test_waiting_tasks_leave_threads_for_others(self, realm: Realm) -> None:
        """However many wait for their turn, the one whose turn it is can use threads, as can the rest of the program."""

        async def write(name: str) -> None:
            async with realm.write_async() as tx:
                await asyncio.to_thread(tx.add, Note(text=name))

        async def write_all() -> None:
            await asyncio.gather(*(write(str(number)) for number in range(60)))

        in_loop(write_all())
        assert len(texts(realm)) == 60

    def test_tasks_and_threads_take_turns(self, realm: Realm) -> None:
        async def write() -> None:
            for _ in range(10):
                async with realm.write_async() as tx:
                    tx.add(Note(text="task"))
                    await asyncio.sleep(0)

        async def write_all() -> None:
            await asyncio.gather(*(write() for _ in range(4)))

        def write_in_thread() -> None:
            for _ in range(10):
                add(realm, "thread")

        threads = [in_thread(write_in_thread) for _ in range(4)]
        in_loop(write_all())
        for thread in threads:
            joined(thread)
        assert len(texts(realm)) == 80

    def test_waiting_for_a_turn_does_not_stop_the_event_loop(self, realm: Realm) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            with realm.write():
                inside.set()
                assert go_on.wait(PATIENCE)

        async def write() -> None:
            waiting = asyncio.create_task(write_one())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            go_on.set()
            await waiting

        async def write_one() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))

        thread = in_thread(write_slowly)
        assert inside.wait(PATIENCE)
        in_loop(write())
        joined(thread)
        assert texts(realm) == ["a"]

    @pytest.mark.parametrize("loop_after", ["goes on", "ends"])
    def test_a_task_that_gives_up_waiting_leaves_the_lock_to_others(self, realm: Realm, loop_after: str) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            with realm.write():
                inside.set()
                assert go_on.wait(PATIENCE)

        async def write_one() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="never"))

        async def give_up() -> None:
            waiting = asyncio.create_task(write_one())
            for _ in range(10):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if loop_after == "goes on":
                go_on.set()
                async with realm.write_async() as tx:
                    tx.add(Note(text="another task"))

        thread = in_thread(write_slowly)
        assert inside.wait(PATIENCE)
        loop = asyncio.new_event_loop()  # closed without waiting for its threads, as not everybody uses asyncio.run
        loop.run_until_complete(asyncio.wait_for(give_up(), PATIENCE))
        loop.close()
        go_on.set()
        joined(thread)
        add(realm, "a thread")
        assert "never" not in texts(realm)
        assert "a thread" in texts(realm)

    def test_tasks_that_are_cancelled_at_any_moment_never_lose_the_lock(self, realm: Realm) -> None:
        async def write(steps: int) -> None:
            async with realm.write_async() as tx:
                for _ in range(steps):
                    await asyncio.sleep(0)
                tx.add(Note(text="a"))

        async def cancel_in_between() -> int:
            done = 0
            for turns in range(40):
                tasks = [asyncio.create_task(write(steps)) for steps in (0, 3, 10)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
                done += results.count(None)
                async with realm.write_async() as tx:
                    tx.add(Note(text="b"))
            return done

        done = in_loop(cancel_in_between())
        found = texts(realm)
        assert found.count("b") == 40
        assert found.count("a") >= done  # a cancellation that came during the commit came too late
        add(realm, "c")

    def test_a_cancellation_inside_the_block_rolls_back(self, realm: Realm) -> None:
        async def write(inside: asyncio.Event) -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))
                tx.flush()
                inside.set()
                await asyncio.Event().wait()

        async def cancel() -> None:
            inside = asyncio.Event()
            task = asyncio.create_task(write(inside))
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        in_loop(cancel())
        assert texts(realm) == []
        add(realm, "b")
        assert texts(realm) == ["b"]

    def test_a_cancellation_while_another_program_keeps_the_file_leaves_nothing_half_open(self, realm: Realm) -> None:
        """The transaction is about to begin in a thread, which cannot be cancelled."""

        async def write() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))

        async def cancel() -> None:
            task = asyncio.create_task(write())
            while not len(realm._store.lock):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            task.cancel()
            releasing = asyncio.get_running_loop().call_later(0.05, other.execute, "ROLLBACK")
            with pytest.raises(asyncio.CancelledError):
                await task
            releasing.cancel()
            if other.in_transaction:
                other.execute("ROLLBACK")

        with closing(connect(realm.path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            in_loop(cancel())
        assert texts(realm) == []
        add(realm, "b")
        assert texts(realm) == ["b"]
        with closing(connect(realm.path, isolation_level=None, timeout=0.1)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody kept a transaction open
            other.execute("ROLLBACK")

    def test_a_write_inside_a_write_of_the_same_task_is_refused(self, realm: Realm) -> None:
        async def nest() -> None:
            async with realm.write_async() as tx:
                with pytest.raises(NestedWrite):
                    async with realm.write_async():
                        pass
                tx.add(Note(text="a"))

        in_loop(nest())
        assert texts(realm) == ["a"]

    def test_a_plain_write_in_the_loops_thread_is_refused_while_a_task_writes(self, realm: Realm) -> None:
        """It would stop the very task that it waits for."""

        async def nest() -> None:
            inside, go_on = asyncio.Event(), asyncio.Event()

            async def write() -> None:
                async with realm.write_async() as tx:
                    inside.set()
                    await go_on.wait()
                    tx.add(Note(text="a"))

            task = asyncio.create_task(write())
            await inside.wait()
            with pytest.raises(NestedWrite):
                add(realm, "b")
            await asyncio.gather(asyncio.to_thread(add, realm, "c"), in_a_moment(go_on), task)

        async def in_a_moment(event: asyncio.Event) -> None:
            await asyncio.sleep(0)
            event.set()

        in_loop(nest())
        assert texts(realm) == ["a", "c"]

    def test_a_task_write_inside_a_plain_write_is_refused(self, realm: Realm) -> None:
        async def nest() -> None:
            with realm.write() as tx:
                with pytest.raises(NestedWrite):
                    async with realm.write_async():
                        pass
                tx.add(Note(text="a"))

        in_loop(nest())
        assert texts(realm) == ["a"]

    def test_a_task_that_waits_too_long_is_told_so(self, world: World) -> None:
        realm = world.device(busy_timeout=0.05).open()

        async def write() -> None:
            async with realm.write_async():
                pass

        with realm.write():
            error = in_background(lambda: in_loop(write())).exception(PATIENCE)
        assert isinstance(error, StoreBusy)
        in_loop(write())

    def test_a_realm_that_was_closed_meanwhile_is_not_written(self, realm: Realm) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            with realm.write():
                inside.set()
                assert go_on.wait(PATIENCE)

        async def write() -> None:
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))

        thread = in_thread(write_slowly)
        assert inside.wait(PATIENCE)
        closer = in_background(realm.close)
        writer = in_background(lambda: in_loop(write()))
        go_on.set()
        joined(thread)
        closer.result(PATIENCE)
        error = writer.exception(PATIENCE)
        assert error is None or isinstance(error, RealmClosed)
        if error:  # else the session still has something to upload
            assert is_let_go(realm.path)

    def test_opening_copying_and_closing_have_their_twins(self, world: World, tmp_path: Path) -> None:
        configuration = world.device().configuration()

        async def use() -> None:
            realm = await Realm.open_async(configuration)
            async with realm.write_async() as tx:
                tx.add(Note(text="a"))
            await realm.write_copy_to_async(LocalConfiguration(path=tmp_path / "copy.db"))
            await realm.close_async()
            assert realm.is_closed

        in_loop(use())
        assert sql(tmp_path / "copy.db", "SELECT text FROM note") == [("a",)]


class TestOpening:
    def test_a_file_is_made_with_its_tables(self, realm: Realm) -> None:
        assert realm.path.is_file()
        tables = {name for (name,) in sql(realm.path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"note", "seat", "tally"} <= tables

    def test_a_realm_knows_what_it_was_opened_with(self, tmp_path: Path) -> None:
        configuration = LocalConfiguration(path=tmp_path / "a.db", schema={Note})
        with Realm.open(configuration) as realm:
            assert realm.configuration is configuration
            assert realm.path == tmp_path / "a.db"
            assert not realm.is_closed

    def test_a_path_may_be_relative_or_start_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        with Realm.open(LocalConfiguration(path="a.db")) as realm:
            assert realm.path == tmp_path / "a.db"
        with Realm.open(LocalConfiguration(path="~/b.db")) as realm:
            assert realm.path == tmp_path / "b.db"

    def test_what_was_written_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        configuration = LocalConfiguration(path=tmp_path / "a.db", schema={Note})
        with Realm.open(configuration) as realm:
            add(realm, "a")
        with Realm.open(configuration) as realm:
            assert texts(realm) == ["a"]

    @pytest.mark.parametrize("name", ["two words.db", "ä ö ü 漢字.db", "100%.db", "q?a#b;c.db", 'it\'s "quoted".db', "none"])
    def test_any_file_name_will_do(self, world: World, tmp_path: Path, name: str) -> None:
        device = world.device(path=tmp_path / name)
        with device.open() as realm:
            add(realm, "a")
        with device.open() as realm:
            assert texts(realm) == ["a"]
            realm.write_copy_to(LocalConfiguration(path=tmp_path / f"copy of {name}"))
        assert sql(tmp_path / f"copy of {name}", "SELECT text FROM note") == [("a",)]

    def test_closing_lets_go_of_the_file(self, realm: Realm) -> None:
        add(realm, "a")
        realm.close()
        realm.close()
        assert realm.is_closed

    def test_a_with_block_closes_it_also_after_an_exception(self, tmp_path: Path) -> None:
        opened: list[Realm] = []

        def decline() -> None:
            with Realm.open(LocalConfiguration(path=tmp_path / "a.db", schema={Note})) as realm:
                opened.append(realm)
                add(realm, "a")
                raise DeclinedError

        with pytest.raises(DeclinedError):
            decline()
        assert opened[0].is_closed
        assert open_files(tmp_path) == []

    def test_a_realm_may_be_closed_by_many_threads_at_once(self, world: World) -> None:
        device = world.device()
        stays = device.open()
        for _ in range(20):
            realm = device.open()
            for thread in [in_thread(realm.close) for _ in range(4)]:
                joined(thread)
        add(stays, "a")
        assert stays.sync_session.upload_all_local_changes(timeout=PATIENCE)
        stays.close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)

    @pytest.mark.parametrize(
        "use",
        [
            lambda realm: realm.exec(select(Note)),
            lambda realm: realm.get(Note, uuid4()),
            lambda realm: realm.write(),
            lambda realm: in_loop(realm.write_async().__aenter__()),
            lambda realm: realm.pending(),
            lambda realm: realm.conflicts(),
            lambda realm: realm.sync_session,
            lambda realm: realm.device_id,
            lambda realm: realm.write_copy_to(LocalConfiguration(path="copy.db")),
            lambda realm: in_loop(realm.write_copy_to_async(LocalConfiguration(path="copy.db"))),
        ],
    )
    def test_a_closed_realm_says_so(self, realm: Realm, use: Callable[[Realm], object]) -> None:
        realm.close()
        with pytest.raises(RealmClosed, match=r"Realm\.open"):
            use(realm)

    def test_a_closed_realm_still_knows_where_its_file_lies(self, realm: Realm) -> None:
        path = realm.path
        realm.close()
        assert realm.path == path
        assert realm.configuration is not None

    def test_closing_inside_a_write_is_refused_and_changes_nothing(self, realm: Realm) -> None:
        with realm.write() as tx:
            with pytest.raises(NestedWrite):
                realm.close()
            tx.add(Note(text="a"))
        assert not realm.is_closed
        assert texts(realm) == ["a"]
        realm.close()
        assert realm.is_closed

    def test_many_openings_leave_no_file_open(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        for _ in range(5):
            with device.open() as realm:
                add(realm, "a")
                assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
            with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note})) as realm:
                add(realm, "a")
        device.app.close()
        assert open_files(tmp_path) == []


class TestOpeningInVain:
    """What cannot be opened is refused with a message that helps, and nothing of it stays open or is changed."""

    def refused(self, configuration: LocalConfiguration | SyncConfiguration, error: type[Exception], match: str) -> None:
        directory = Path(configuration.path).parent
        with pytest.raises(error, match=match) as caught:
            Realm.open(configuration)
        del caught
        gc.collect()  # a connection that nobody closed would warn here, and warnings are errors
        if isinstance(configuration, SyncConfiguration):
            assert not configuration.user.app.sync.has_sync_sessions
        assert open_files(directory) == []

    def both(self, world: World, path: Path, **changes: Any) -> list[LocalConfiguration | SyncConfiguration]:
        return [
            LocalConfiguration(path=path, schema=changes.get("schema", {Note})),
            world.device().configuration(path=path, **changes),
        ]

    def test_a_folder_that_does_not_exist(self, world: World, tmp_path: Path) -> None:
        for configuration in self.both(world, tmp_path / "missing" / "a.db"):
            self.refused(configuration, StoreUnusable, "folder exists")
        assert not (tmp_path / "missing").exists()

    def test_a_folder_in_the_files_place(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "a.db").mkdir()
        for configuration in self.both(world, tmp_path / "a.db"):
            self.refused(configuration, StoreUnusable, "cannot be opened")

    def test_a_file_that_is_no_database(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        content = b"Dear diary, " * 1000
        path.write_bytes(content)
        for configuration in self.both(world, path):
            self.refused(configuration, StoreUnusable, "not a usable SQLite database")
        assert path.read_bytes() == content
        path.unlink()
        with Realm.open(self.both(world, path)[1]) as realm:
            add(realm, "a")

    def test_a_synced_file_as_a_local_one(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        device.open().close()
        self.refused(LocalConfiguration(path=device.path, schema={Note}), StoreUnusable, "SyncConfiguration")
        device.open().close()

    def test_another_applications_file(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        device.open().close()
        with App.create("another", remote=world.remote.adapter) as other:
            user = other.login(Credentials.anonymous())
            self.refused(SyncConfiguration(user, {Note}, device.path), StoreUnusable, "belongs to the application 'kit'")
        device.open().close()

    def test_a_class_that_cannot_be_synced(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        self.refused(device.configuration(schema={Note, Numbered}), SchemaError, "uuid7")
        assert not device.path.exists()
        with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Numbered})) as realm, realm.write() as tx:
            tx.add(Numbered())

    def test_a_class_without_a_table(self, world: World, tmp_path: Path) -> None:
        for configuration in self.both(world, tmp_path / "a.db", schema={Plain}):
            self.refused(configuration, SchemaError, "table=True")
        assert not (tmp_path / "a.db").exists()

    @pytest.mark.parametrize("thing", ["Note", 1, Note(text="an object")], ids=["name", "number", "object"])
    def test_what_is_no_class(self, world: World, tmp_path: Path, thing: Any) -> None:
        for configuration in self.both(world, tmp_path / "a.db", schema=[thing]):
            self.refused(configuration, TypeError, "SQLModel classes")

    def test_a_file_whose_table_has_another_key(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        sql(path, "CREATE TABLE note (id TEXT, text TEXT PRIMARY KEY)")
        for configuration in self.both(world, path):
            self.refused(configuration, SchemaMismatch, "alembic")
        assert sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("note",)]

    def test_a_file_that_another_program_keeps_locked(self, world: World, tmp_path: Path) -> None:
        device = world.device(busy_timeout=0.05)
        device.open().close()
        with closing(connect(device.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreBusy):
                device.open()
            assert not device.app.sync.has_sync_sessions
            other.execute("ROLLBACK")
        with device.open() as realm:
            add(realm, "a")

    def test_what_failed_can_be_deleted_and_opened_anew(self, world: World) -> None:
        device = world.device()
        device.path.write_text("not a database, " * 100)
        with pytest.raises(StoreUnusable):
            device.open()
        device.path.unlink()
        with device.open() as realm:
            add(realm, "a")
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_a_configuration_is_checked_when_it_is_made(self, world: World) -> None:
        device = world.device()
        with pytest.raises(ValueError, match="schema"):
            device.configuration(schema=())
        with pytest.raises(ValueError, match="partition"):
            device.configuration(partition="")
        with pytest.raises(ValueError, match="stop_policy"):
            device.configuration(stop_policy="never")
        with pytest.raises(TypeError, match=r"login"):
            SyncConfiguration("emma", {Note})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"error_handler is a function of \(session, error\), not 3"):
            device.configuration(error_handler=3)
        with pytest.raises(TypeError, match="partition is a str, not 3"):
            device.configuration(partition=3)
        for path in (3, b"a.db"):
            with pytest.raises(TypeError, match="path is a str or a Path, not"):
                device.configuration(path=path)
            with pytest.raises(TypeError, match="path is a str or a Path, not"):
                LocalConfiguration(path=path)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="in_memory is True or False, not 'yes'"):
            device.configuration(in_memory="yes")
        with pytest.raises(TypeError, match="in_memory is True or False, not 'yes'"):
            LocalConfiguration(path=device.path, in_memory="yes")  # type: ignore[arg-type]

    @pytest.mark.parametrize("given", [3, "a.db", None], ids=str)
    def test_what_is_no_configuration_is_refused_by_name(self, local: Realm, given: Any) -> None:
        for use in (Realm.open, Realm.compact, Realm.delete_files, local.write_copy_to):
            with pytest.raises(TypeError, match="A configuration is a SyncConfiguration or a LocalConfiguration"):
                use(given)

    def test_an_app_has_a_name(self) -> None:
        with pytest.raises(TypeError, match="app_id is a str, not of type int"):
            App.create(3, remote="memory://names")  # type: ignore[arg-type]

    def test_a_callback_is_a_function(self, world: World) -> None:
        with world.device().open() as realm:
            for listen in (realm.sync_session.on_connection_state_change, realm.sync_session.on_status_change):
                with pytest.raises(TypeError, match="The callback is a function of one argument, not 3"):
                    listen(3)  # type: ignore[arg-type]

    @pytest.mark.parametrize("settings", [{}, {"remote": "https://emma:s3cret@hub"}], ids=["none", "some"])
    def test_settings_are_settings_and_not_what_they_are_made_of(self, tmp_path: Path, settings: Any) -> None:
        for make in (
            lambda: LocalConfiguration(path=tmp_path / "a.db", settings=settings),
            lambda: App.create("kit", remote="memory://settings", settings=settings),
        ):
            with pytest.raises(TypeError, match=r"settings takes Settings\(\.\.\.\), not of type dict") as caught:
                make()
            assert "s3cret" not in str(caught.value)

    def test_one_file_cannot_hold_two_partitions(self, world: World) -> None:
        """Its changes would go to the wrong one."""
        device = world.device()
        with device.open(partition="north"), pytest.raises(ValueError, match="north"):
            device.open(partition="south")
        with device.open(partition="north") as realm:
            add(realm, "a")
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


class TestLocalRealms:
    def test_it_has_no_session_and_says_so(self, local: Realm) -> None:
        with pytest.raises(LocalStoreError, match="SyncConfiguration"):
            _ = local.sync_session
        with pytest.raises(LocalStoreError, match="SyncConfiguration"):
            _ = local.device_id

    def test_nothing_is_pending_or_in_conflict(self, local: Realm) -> None:
        add(local, "a")
        assert local.pending() == []
        assert local.conflicts() == []

    def test_its_file_holds_nothing_of_sync(self, local: Realm) -> None:
        add(local, "a")
        assert sql(local.path, "SELECT name FROM sqlite_master WHERE name LIKE 'localstore%'") == []

    def test_two_of_them_may_share_a_file(self, local: Realm) -> None:
        with Realm.open(LocalConfiguration(path=local.path, schema={Note})) as other:
            add(other, "a")
            add(local, "b")
            assert texts(other) == ["a", "b"]

    def test_it_may_become_a_synced_one_with_all_its_rows(self, world: World, local: Realm) -> None:
        add(local, "a", "b")
        local.close()
        line = world.line()
        line.hold("push")
        with world.device(path=local.path, remote=line).open() as synced:
            assert len(synced.pending()) == 1
            line.let_go("push")
            assert synced.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert world.remote_texts() == ["a", "b"]


class TestSyncedRealms:
    def test_what_is_unsent_is_listed_oldest_first(self, synced: Realm) -> None:
        add(synced, "a", "b")
        add(synced, "c")
        first, second = synced.pending()
        assert (first.number, first.rows, second.number, second.rows) == (1, 2, 2, 1)
        assert first.stamp < second.stamp
        assert first.time.startswith("2026-01-01T00:00:00")

    def test_a_file_is_one_device_for_ever(self, world: World) -> None:
        device = world.device()
        with device.open() as one, device.open() as other:
            before = one.device_id
            assert other.device_id == before
        assert len(bytes.fromhex(before)) == 16
        with device.open() as again:
            assert again.device_id == before
        with world.open("other") as other:
            assert other.device_id != before

    def test_values_that_lost_are_listed(self, world: World) -> None:
        one, other = world.open("one"), world.open("other")
        with one.write() as tx:
            tx.add(Note(id=UUID(int=1), text="first"))
        assert one.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert other.sync_session.download_all_server_changes(timeout=PATIENCE)
        one.sync_session.pause()
        for realm, words in ((one, "by one"), (other, "by the other")):
            world.clock.advance(1)
            with realm.write() as tx:
                tx.get_one(Note, UUID(int=1)).text = words
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        one.sync_session.resume()
        assert one.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(one) == ["by the other"]
        (conflict,) = one.conflicts()
        assert "by one" in repr(conflict)
        assert other.conflicts() == []


class TestCopying:
    def copied(self, realm: Realm, path: Path) -> Realm:
        configuration = LocalConfiguration(path=path, schema={Note, Seat, Tally})
        realm.write_copy_to(configuration)
        return Realm.open(configuration)

    def test_a_copy_is_a_plain_file_with_all_rows_and_nothing_of_sync(self, realm: Realm, tmp_path: Path) -> None:
        add(realm, "a", "b")
        with self.copied(realm, tmp_path / "copy.db") as copy:
            assert texts(copy) == ["a", "b"]
            add(copy, "c")
        names = sql(tmp_path / "copy.db", "SELECT name FROM sqlite_master WHERE name LIKE '%localstore%'")
        assert names == []
        assert texts(realm) == ["a", "b"]
        assert open_files(tmp_path / "copy.db") == []

    def test_a_copy_leaves_nothing_beside_it(self, realm: Realm, tmp_path: Path) -> None:
        add(realm, "a")
        (tmp_path / "copies").mkdir()
        realm.write_copy_to(LocalConfiguration(path=tmp_path / "copies" / "copy.db"))
        assert [path.name for path in (tmp_path / "copies").iterdir()] == ["copy.db"]

    def test_unsent_changes_are_in_the_copy_and_stay_in_the_outbox(self, synced: Realm, tmp_path: Path) -> None:
        add(synced, "unsent")
        with self.copied(synced, tmp_path / "copy.db") as copy:
            assert texts(copy) == ["unsent"]
        assert numbers(synced) == [1]

    def test_a_copy_shows_one_moment_while_others_write(self, realm: Realm, tmp_path: Path) -> None:
        add(realm, "a")
        with realm.write() as tx:
            tx.add(Note(text="not yet"))
            tx.flush()
            realm.write_copy_to(LocalConfiguration(path=tmp_path / "copy.db"))
        assert sql(tmp_path / "copy.db", "SELECT text FROM note") == [("a",)]
        assert texts(realm) == ["a", "not yet"]

    def test_a_copy_may_be_synced_again_as_another_device(self, world: World, tmp_path: Path) -> None:
        realm = world.open()
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm.write_copy_to(LocalConfiguration(path=tmp_path / "copy.db"))
        copy = world.device("copy").open()
        assert copy.device_id != realm.device_id
        add(copy, "b")
        assert copy.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert copy.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(copy) == ["a", "b"]
        assert world.remote_texts() == ["a", "b"]

    @pytest.mark.parametrize("content", ["a file", "a folder", "the realm itself"])
    def test_what_is_there_already_is_left_as_it_is(self, realm: Realm, tmp_path: Path, content: str) -> None:
        add(realm, "a")
        target = realm.path if content == "the realm itself" else tmp_path / "copy.db"
        if content == "a file":
            target.write_text("precious")
        elif content == "a folder":
            target.mkdir()
        with pytest.raises(TargetExists, match="exists already"):
            realm.write_copy_to(LocalConfiguration(path=target))
        assert texts(realm) == ["a"]
        assert content != "a file" or target.read_text() == "precious"

    def test_a_folder_that_does_not_exist_is_refused(self, realm: Realm, tmp_path: Path) -> None:
        with pytest.raises(StoreUnusable, match="folder exists"):
            realm.write_copy_to(LocalConfiguration(path=tmp_path / "missing" / "copy.db"))
        assert not (tmp_path / "missing").exists()
        add(realm, "a")
