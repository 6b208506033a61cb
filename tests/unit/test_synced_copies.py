"""``write_copy_to`` from and to every kind of realm (realm-semantics 2.7), with sessions that sync what came of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, LocalConfiguration, Realm, ResetReason, Settings, SyncConfiguration, uuid7
from localstore.adapter import Cursor, Limit, Page
from localstore.errors import Offline, SchemaError, SchemaMismatch, StoreUnusable, TargetExists, UnsentChanges
from localstore.testing.clock import environment
from localstore.testing.faulty import Hang, LoseAnswer
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.testing.memory_users import MemoryRemoteWithUsers
from localstore.types import ExactDecimal
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Note,
    Table,
    World,
    add,
    eventually,
    in_loop,
    numbers,
    sql,
    texts,
)


class Author(Table, table=True):
    """Refers to nothing, and is named after what refers to it."""

    __tablename__ = "z_author"  # pyright: ignore[reportAssignmentType]

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str


class Book(Table, table=True):
    __tablename__ = "a_book"  # pyright: ignore[reportAssignmentType]

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    author: UUID = Field(foreign_key="z_author.id")
    price: Decimal = Field(default=Decimal(0), sa_type=ExactDecimal)
    cover: bytes = b""


class Counted(Table, table=True):
    """What no realm can sync."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


def synced_up(realm: Realm) -> Realm:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    return realm


def comes_to_hold(realm: Realm, *expected: str) -> None:
    eventually(lambda: texts(realm) == list(expected), f"{expected} in {realm.path.name}")


def local_realm(path: Path, *models: type[SQLModel]) -> Realm:
    return Realm.open(LocalConfiguration(path=path, schema=set(models or (Note,))))


class Counting(MemoryAdapter):
    """Notes how many changesets were pulled."""

    pulled: list[int]

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        page = await super().pull(cursor, limit)
        self.pulled.append(len(page.changesets))
        return page


# -- from synced to synced, the same app and partition


class TestAnotherDevice:
    def test_it_has_what_the_source_had_and_an_identity_of_its_own(self, world: World, target: Path) -> None:
        source = world.open()
        add(source, "a", "b")
        synced_up(source)
        other = world.device("other")
        source.write_copy_to(other.configuration(path=target))
        with other.open(path=target) as copy:
            assert texts(copy) == ["a", "b"]
            assert copy.device_id != source.device_id
            assert copy.pending() == []
            add(copy, "c")
            synced_up(copy)
        comes_to_hold(source, "a", "b", "c")

    def test_it_downloads_only_what_came_since(self, world: World, target: Path) -> None:
        source = world.open()
        for text in "abcdef":
            add(source, text)
        synced_up(source)
        pulled: list[int] = []

        def counting() -> Counting:
            adapter = Counting(world.remote)
            adapter.pulled = pulled
            return adapter

        other = world.device("other", remote=counting)
        source.write_copy_to(other.configuration(path=target))
        add(source, "since")
        synced_up(source)
        with other.open(path=target) as copy:
            synced_up(copy)
            assert texts(copy) == sorted([*"abcdef", "since"])
        assert sum(pulled) == 1

    def test_one_copy_makes_many_devices(self, world: World, target: Path) -> None:
        """A realm that is bundled with an application."""
        source = world.open()
        add(source, "bundled")
        synced_up(source)
        source.write_copy_to(world.device("maker").configuration(path=target))
        source.close()
        realms = []
        for name in ("first", "second", "third"):
            path = target.with_name(f"{name} installed.db")
            path.write_bytes(target.read_bytes())
            realms.append(world.device(name, path=path).open())
        assert len({realm.device_id for realm in realms}) == 3
        for number, realm in enumerate(realms):
            add(realm, f"by {number}")
        for realm in realms:
            synced_up(realm)
        for realm in realms:
            comes_to_hold(realm, "bundled", "by 0", "by 1", "by 2")
            assert realm.sync_session.last_error is None

    def test_it_may_be_open_beside_the_source_in_the_same_app(self, world: World, target: Path) -> None:
        device = world.device()
        source = device.open()
        add(source, "a")
        synced_up(source)
        source.write_copy_to(device.configuration(path=target))
        copy = device.open(path=target)
        add(copy, "from the copy")
        add(source, "from the source")
        for realm in (copy, source):
            comes_to_hold(realm, "a", "from the copy", "from the source")

    def test_it_is_for_the_user_of_its_configuration(self, world: World, target: Path) -> None:
        source = world.open()
        remote = MemoryRemoteWithUsers()
        emma = Credentials.email_password("emma@example.com", "correct horse")
        remote.add_user("emma", emma)
        with App.create("kit", remote=remote.adapter, settings=Settings(directory=str(target.parent / "users"))) as app:
            source.write_copy_to(SyncConfiguration(app.login(emma), schema={Note}, path=target))
        assert sql(target, "SELECT user FROM localstore_state") == [("emma",)]

    def test_unsent_changes_are_refused(self, world: World, target: Path) -> None:
        source = world.open()
        source.sync_session.pause()
        add(source, "unsent")
        with pytest.raises(UnsentChanges, match="safe in it; no copy was written") as caught:
            source.write_copy_to(world.device("other").configuration(path=target))
        assert "with_unsent=True" in caught.value.hint
        assert not target.exists()
        assert numbers(source) == [1]

    def test_changes_are_unsent_until_their_acknowledgement_is_here(self, world: World, target: Path) -> None:
        line = world.line()
        source = world.device(remote=line).open()
        synced_up(source)
        line.hold("push")
        add(source, "on its way")
        eventually(lambda: line.held("push"))
        with pytest.raises(UnsentChanges):
            source.write_copy_to(world.device("other").configuration(path=target))
        line.let_go("push")
        synced_up(source)
        source.write_copy_to(world.device("other").configuration(path=target))
        assert target.exists()

    def test_asked_for_they_are_in_the_copy_and_both_send_them(self, world: World, target: Path) -> None:
        source, other = world.open(), world.device("other")
        source.sync_session.pause()
        add(source, "unsent")
        source.write_copy_to(other.configuration(path=target), with_unsent=True)
        copy = other.open(path=target)
        assert texts(copy) == ["unsent"]
        synced_up(copy)
        assert world.remote_texts() == ["unsent"]
        assert numbers(source) == [1]
        source.sync_session.resume()
        synced_up(source)
        synced_up(copy)
        assert texts(source) == texts(copy) == ["unsent"]
        assert source.conflicts() == copy.conflicts() == []

    def test_they_reach_the_remote_when_the_source_never_comes_back(self, world: World, target: Path) -> None:
        source, other = world.open(), world.device("other")
        add(source, "sent")
        synced_up(source)
        source.sync_session.pause()
        add(source, "unsent")
        source.write_copy_to(other.configuration(path=target), with_unsent=True)
        source.close()
        with other.open(path=target) as copy:
            synced_up(copy)
        assert world.remote_texts() == ["sent", "unsent"]

    def test_a_lost_acknowledgement_makes_no_row_twice(self, world: World, target: Path) -> None:
        line = world.line()
        source, other = world.device(remote=line).open(), world.device("other")
        synced_up(source)
        line.break_down(push=LoseAnswer(Offline("gone")))
        add(source, "stored, but it was not heard")
        eventually(lambda: line.count("push"))
        source.write_copy_to(other.configuration(path=target), with_unsent=True)
        with other.open(path=target) as copy:
            synced_up(copy)
            assert texts(copy) == ["stored, but it was not heard"]
        assert world.remote_texts() == ["stored, but it was not heard"]

    def test_it_notices_a_remote_that_was_restored_to_before_what_its_source_had_read(self, world: World, target: Path) -> None:
        """Though it reads some of that again: what it writes would wait elsewhere for what the remote has lost."""
        line = world.line()
        source, writer, other = world.device(remote=line).open(), world.open("writer"), world.device("other")
        synced_up(source)
        backup = world.remote.backup()
        line.break_down(push=Hang())
        add(source, "unsent")
        eventually(lambda: line.count("push"))
        add(writer, "lost with the remote")
        synced_up(writer)
        source.sync_session.pause()
        source.sync_session.resume()
        eventually(lambda: "lost with the remote" in texts(source))
        source.write_copy_to(other.configuration(path=target), with_unsent=True)
        world.remote.restore(backup)
        with other.open(path=target) as copy:
            synced_up(copy)
            report = copy.sync_session.last_reset
            assert report is not None
            assert report.kind is ResetReason.REMOTE_RESTORED
            add(copy, "written later")
            synced_up(copy)
            assert texts(copy) == world.remote_texts() == ["unsent", "written later"]

    def test_what_lost_stays_listed(self, world: World, target: Path) -> None:
        one, two = world.open("one"), world.open("two")
        (key,) = add(one, "first")
        synced_up(one)
        synced_up(two)
        one.sync_session.pause()
        for realm, words in ((one, "by one"), (two, "by two")):
            world.clock.advance(1)
            with realm.write() as tx:
                tx.get_one(Note, key).text = words
        synced_up(two)
        one.sync_session.resume()
        synced_up(one)
        [before] = one.conflicts()
        other = world.device("other")
        one.write_copy_to(other.configuration(path=target))
        with other.open(path=target) as copy:
            [conflict] = copy.conflicts()
            assert conflict.lost_value == before.lost_value
            copy.restore(conflict)
            assert texts(copy) == ["by one"]

    def test_a_copy_that_was_never_opened_may_be_deleted(self, world: World, target: Path) -> None:
        source, other = world.open(), world.device("other")
        add(source, "a")
        synced_up(source)
        source.write_copy_to(other.configuration(path=target))
        assert Realm.delete_files(other.configuration(path=target)) is True

    def test_but_not_when_it_holds_unsent_changes(self, world: World, target: Path) -> None:
        source, other = world.open(), world.device("other")
        source.sync_session.pause()
        add(source, "unsent")
        source.write_copy_to(other.configuration(path=target), with_unsent=True)
        with pytest.raises(UnsentChanges):
            Realm.delete_files(other.configuration(path=target))

    def test_a_local_configuration_does_not_open_it(self, world: World, target: Path) -> None:
        source = world.open()
        source.write_copy_to(world.device("other").configuration(path=target))
        with pytest.raises(StoreUnusable, match="synced file"):
            local_realm(target)


# -- from local to synced, and from one app or partition to another


class TestUploading:
    def test_all_rows_of_a_local_realm_are_uploaded_when_the_copy_is_opened(
        self, world: World, tmp_path: Path, target: Path
    ) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db") as local:
            add(local, "a", "b")
            local.write_copy_to(device.configuration(path=target))
            add(local, "later")
        with device.open(path=target) as copy:
            assert texts(copy) == ["a", "b"]
            synced_up(copy)
        assert world.remote_texts() == ["a", "b"]

    def test_what_others_wrote_meanwhile_comes_together_with_it(self, world: World, tmp_path: Path, target: Path) -> None:
        """The same row in both: what was written while synced is newer than what is from before."""
        with world.open() as first:
            with first.write() as tx:
                tx.add_all([Note(id=UUID(int=1), text="synced"), Note(id=UUID(int=2), text="only there")])
            synced_up(first)
        device = world.device("late")
        with local_realm(tmp_path / "local.db") as local:
            with local.write() as tx:
                tx.add_all([Note(id=UUID(int=1), text="local"), Note(id=UUID(int=3), text="only here")])
            local.write_copy_to(device.configuration(path=target))
        with device.open(path=target) as copy:
            synced_up(copy)
            assert texts(copy) == ["only here", "only there", "synced"]
            assert [(lost.lost_value, lost.won_value) for lost in copy.conflicts()] == [("local", "synced")]

    def test_rows_refer_to_rows_whatever_their_tables_are_called(self, world: World, tmp_path: Path, target: Path) -> None:
        schema: set[type[SQLModel]] = {Author, Book}
        writer, reader = world.device("writer", max_changeset_rows=50), world.device("reader", page_count=1)
        with local_realm(tmp_path / "local.db", *schema) as local:
            author = Author(name="Ada")
            with local.write() as tx:
                tx.add(author)
                tx.flush()
                tx.add_all([Book(author=author.id, price=Decimal("0.10"), cover=bytes([number])) for number in range(200)])
            local.write_copy_to(writer.configuration(path=target, schema=schema))
        with writer.open(path=target, schema=schema) as copy:
            synced_up(copy)
        with reader.open(schema=schema) as other:
            synced_up(other)
            assert len(other.exec(select(Book)).all()) == 200
            assert {book.price for book in other.exec(select(Book))} == {Decimal("0.10")}
            assert other.conflicts() == []
        assert reader.told == []

    def test_what_is_referred_to_is_uploaded_first(self, world: World, tmp_path: Path, target: Path) -> None:
        """So that nobody who has received half of it has rows without what they refer to."""
        schema: set[type[SQLModel]] = {Author, Book}
        world.remote.go_offline()
        device = world.device(max_changeset_rows=20)
        with local_realm(tmp_path / "local.db", *schema) as local:
            with local.write() as tx:
                for number in range(30):
                    author = Author(name=str(number))
                    tx.add(author)
                    tx.flush()
                    tx.add(Book(author=author.id))
            local.write_copy_to(device.configuration(path=target, schema=schema))
        with device.open(path=target, schema=schema):
            order = [
                set(json.loads(tables)) for (tables,) in sql(target, "SELECT tables FROM localstore_outbox ORDER BY number")
            ]
        assert len(order) > 4
        assert order == sorted(order, key=lambda tables: "a_book" in tables)
        assert not any({"a_book", "z_author"} <= tables for tables in order)

    def test_tables_outside_the_schema_stay_on_this_device(self, world: World, tmp_path: Path, target: Path) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db", Note, Counted) as local:
            add(local, "a")
            with local.write() as tx:
                tx.add(Counted(name="mine"))
            local.write_copy_to(device.configuration(path=target))
        with device.open(path=target) as copy:
            synced_up(copy)
            assert [changeset.tables for changeset in copy.pending()] == []
        assert sql(target, "SELECT name FROM counted") == [("mine",)]

    def test_keys_that_cannot_be_synced_are_refused_before_anything_is_written(
        self, world: World, tmp_path: Path, target: Path
    ) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db", Counted) as local, pytest.raises(SchemaError, match="counted"):
            local.write_copy_to(device.configuration(path=target, schema={Counted}))
        assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []

    def test_tables_that_are_not_as_the_classes_say_are_refused(self, world: World, tmp_path: Path, target: Path) -> None:
        sql(tmp_path / "local.db", "CREATE TABLE note (id BLOB PRIMARY KEY NOT NULL, text INTEGER)")
        device = world.device()
        other = LocalConfiguration(path=tmp_path / "local.db")
        with Realm.open(other) as local, pytest.raises(SchemaMismatch, match="note"):
            local.write_copy_to(device.configuration(path=target))
        assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []

    def test_first_data_is_not_written_into_it(self, world: World, tmp_path: Path, target: Path) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db") as local:
            local.write_copy_to(device.configuration(path=target))
        with device.open(path=target, initial_data=lambda tx: tx.add(Note(text="first"))) as copy:
            assert texts(copy) == []

    def test_only_its_app_and_partition_open_it(self, world: World, tmp_path: Path, target: Path) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db") as local:
            local.write_copy_to(device.configuration(path=target, partition="one"))
        with pytest.raises(StoreUnusable, match="partition 'one'"):
            device.open(path=target, partition="other")
        with pytest.raises(StoreUnusable, match="synced file"):
            local_realm(target)

    def test_it_is_unsent_until_it_was_opened(self, world: World, tmp_path: Path, target: Path) -> None:
        device = world.device()
        with local_realm(tmp_path / "local.db") as local:
            add(local, "a")
            local.write_copy_to(device.configuration(path=target))
        with pytest.raises(UnsentChanges):
            Realm.delete_files(device.configuration(path=target))
        with device.open(path=target) as copy:
            synced_up(copy)
        device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        assert Realm.delete_files(device.configuration(path=target)) is True

    def test_another_partition_gets_all_rows_as_new_ones(self, world: World, target: Path) -> None:
        device = world.device()
        source = device.open()
        add(source, "sent")
        synced_up(source)
        source.sync_session.pause()
        add(source, "unsent")
        source.write_copy_to(device.configuration(path=target, partition="other"))
        with device.open(path=target, partition="other") as copy:
            synced_up(copy)
        with world.device("reader").open(partition="other") as reader:
            synced_up(reader)
            assert texts(reader) == ["sent", "unsent"]
        assert numbers(source) == [2]

    def test_another_app_gets_all_rows_as_new_ones(self, world: World, target: Path) -> None:
        source = world.open()
        add(source, "a")
        synced_up(source)
        remote = MemoryRemote(environment=environment(world.clock, 98))
        app = App.create("another", remote=remote.adapter, settings=Settings(), environment=environment(world.clock, 99))
        with app:
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=target)
            source.write_copy_to(configuration)
            with Realm.open(configuration) as copy:
                synced_up(copy)
                assert texts(copy) == ["a"]

    def test_a_realm_that_left_sync_comes_back_as_a_new_device(self, world: World, target: Path) -> None:
        device = world.device()
        with device.open() as source:
            add(source, "before")
            synced_up(source)
            source.write_copy_to(LocalConfiguration(path=target))
        back = target.with_name("back.db")
        with local_realm(target) as local:
            add(local, "meanwhile")
            local.write_copy_to(device.configuration(path=back))
        with device.open(path=back) as again:
            synced_up(again)
            assert texts(again) == ["before", "meanwhile"]
            assert again.conflicts() == []
        assert world.remote_texts() == ["before", "meanwhile"]


# -- whatever the kinds


KINDS = ("local", "synced", "another partition")
every_kind = pytest.mark.parametrize("kind", KINDS)


def configured(device: Device, kind: str, path: Path, **changes: object) -> LocalConfiguration | SyncConfiguration:
    if kind == "local":
        return LocalConfiguration(path=path, schema={Note}, **changes)  # type: ignore[arg-type]
    return device.configuration(path=path, partition="default" if kind == "synced" else "other", **changes)


class TestEveryCopy:
    @every_kind
    @pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal"])
    def test_what_is_there_already_is_left_as_it_is(self, world: World, target: Path, kind: str, beside: str) -> None:
        device = world.device()
        source = synced_up(device.open())
        taken = target.with_name(target.name + beside)
        taken.write_bytes(b"precious")
        with pytest.raises(TargetExists):
            source.write_copy_to(configured(device, kind, target))
        assert taken.read_bytes() == b"precious"
        assert [path.name for path in target.parent.iterdir() if "copy" in path.name] == [taken.name]

    @every_kind
    def test_it_leaves_nothing_beside_it(self, world: World, tmp_path: Path, kind: str) -> None:
        device = world.device()
        source = synced_up(device.open())
        (tmp_path / "copies").mkdir()
        source.write_copy_to(configured(device, kind, tmp_path / "copies" / "copy.db"))
        assert [path.name for path in (tmp_path / "copies").iterdir()] == ["copy.db"]

    @every_kind
    def test_it_is_compact(self, world: World, target: Path, kind: str) -> None:
        device = world.device()
        source = device.open()
        ids = add(source, *("x" * 1000 for _ in range(500)))
        with source.write() as tx:
            for key in ids:
                tx.delete(tx.get_one(Note, key))
        synced_up(source)
        source.write_copy_to(configured(device, kind, target))
        assert target.stat().st_size < 200_000  # of more than 500,000 that the rows took

    @every_kind
    def test_it_can_be_written_inside_a_write_and_shows_the_state_before(self, world: World, target: Path, kind: str) -> None:
        device = world.device()
        source = device.open()
        add(source, "before")
        synced_up(source)
        with source.write() as tx:
            tx.add(Note(text="not yet"))
            tx.flush()
            source.write_copy_to(configured(device, kind, target))
        assert sql(target, "SELECT text FROM note") == [("before",)]

    @every_kind
    def test_it_can_be_written_from_an_event_loop(self, world: World, target: Path, kind: str) -> None:
        device = world.device()
        source = device.open()
        add(source, "a")
        synced_up(source)
        in_loop(source.write_copy_to_async(configured(device, kind, target)))
        assert sql(target, "SELECT text FROM note") == [("a",)]

    @every_kind
    def test_a_realm_in_memory_can_be_its_source_but_not_its_target(self, world: World, target: Path, kind: str) -> None:
        device = world.device()
        source = device.open(in_memory=True)
        add(source, "a")
        synced_up(source)
        with pytest.raises(ValueError, match="in_memory"):
            source.write_copy_to(configured(device, kind, target, in_memory=True))
        source.write_copy_to(configured(device, kind, target))
        assert sql(target, "SELECT text FROM note") == [("a",)]

    @every_kind
    def test_two_at_once_do_not_disturb_each_other(self, world: World, tmp_path: Path, kind: str) -> None:
        device = world.device()
        source = device.open()
        add(source, *map(str, range(300)))
        synced_up(source)
        with ThreadPoolExecutor(4) as pool:
            targets = [configured(device, kind, tmp_path / f"copy {number}.db") for number in range(4)]
            list(pool.map(source.write_copy_to, targets))
        for number in range(4):
            assert sql(tmp_path / f"copy {number}.db", "SELECT count(*) FROM note") == [(300,)]

    @every_kind
    def test_two_to_the_same_path_make_one(self, world: World, target: Path, kind: str) -> None:
        device = world.device()
        source = device.open()
        add(source, *map(str, range(300)))
        synced_up(source)

        def write() -> str:
            try:
                source.write_copy_to(configured(device, kind, target))
            except TargetExists:
                return "refused"
            return "written"

        with ThreadPoolExecutor(4) as pool:
            outcomes = [future.result() for future in [pool.submit(write) for _ in range(4)]]
        assert sorted(outcomes) == ["refused"] * 3 + ["written"]
        assert sql(target, "SELECT count(*) FROM note") == [(300,)]

    def test_a_realm_that_writes_without_a_pause_is_copied_as_it_was_at_one_moment(self, world: World, tmp_path: Path) -> None:
        """Every transaction writes a pair; no copy holds half of one, and what its outbox lacks its tables lack as well."""
        device = world.device()
        source = device.open()
        is_enough = threading.Event()

        def write() -> None:
            number = 0
            while not is_enough.is_set():
                add(source, f"{number}", f"{number}")
                number += 1

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                eventually(lambda: texts(source))
                for number in range(5):
                    path = tmp_path / f"copy {number}.db"
                    source.write_copy_to(device.configuration(path=path), with_unsent=True)
                    counts = sql(path, "SELECT count(*) FROM note GROUP BY text")
                    assert {count for (count,) in counts} <= {2}
                    acknowledged = sql(path, "SELECT coalesce(max(number), 0) FROM localstore_device")[0][0]
                    (unsent,) = sql(path, "SELECT count(*) FROM localstore_outbox")[0]
                    assert acknowledged + unsent == len(counts)
                    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
            finally:
                is_enough.set()
            writing.result()

    @pytest.mark.parametrize("wrong", [None, "copy.db", Path("copy.db"), {"path": "copy.db"}])
    def test_it_takes_a_configuration(self, world: World, wrong: object) -> None:
        source = world.open()
        with pytest.raises(TypeError, match="SyncConfiguration or a LocalConfiguration"):
            source.write_copy_to(wrong)  # type: ignore[arg-type]

    def test_a_folder_that_does_not_exist_is_said_and_not_made(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        source = synced_up(device.open())
        for kind in KINDS:
            with pytest.raises(StoreUnusable, match="folder exists"):
                source.write_copy_to(configured(device, kind, tmp_path / "missing" / "copy.db"))
        assert not (tmp_path / "missing").exists()


KEYS: dict[str, Callable[[int], bytes | None]] = {"plain": lambda _: None, "encrypted": lambda number: bytes([number]) * 32}


@every_kind
@pytest.mark.parametrize("source_key", KEYS)
@pytest.mark.parametrize("target_key", KEYS)
def test_source_and_target_may_be_plain_or_encrypted(
    world: World, target: Path, kind: str, source_key: str, target_key: str
) -> None:
    pytest.importorskip("sqlcipher3", reason="needs the extra cipher")
    device = world.device()
    source = device.open(encryption_key=KEYS[source_key](1))
    add(source, "a distinctive text")
    synced_up(source)
    key = KEYS[target_key](2)
    configuration = configured(device, kind, target, encryption_key=key)
    source.write_copy_to(configuration)
    assert (b"distinctive" in target.read_bytes()) == (key is None)
    with Realm.open(configuration) as copy:
        assert texts(copy) == ["a distinctive text"]
        if kind != "local":
            synced_up(copy)
            assert copy.device_id != source.device_id
