"""Restoring a value that lost: a write like any other, after which its conflict is settled; or an error, and nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from localstore import LocalConfiguration, Realm
from localstore.changes import Op
from localstore.errors import CannotRestore, NestedWrite, RealmClosed
from localstore.store.conflicts import Conflict
from localstore.store.restoring import restore
from localstore.testing.clock import ManualClock
from tests.unit.session_kit import PATIENCE, Note, World, add, in_loop, texts
from tests.unit.store_kit import (
    Device,
    Statement,
    changes_of,
    changesets_in,
    check_equal,
    close_devices,
    exchange,
    is_clean,
    write,
)
from tests.unit.test_alembic_plugin import ENVIRONMENTS, Application

METADATA = sa.MetaData()
PERSON = sa.Table("person", METADATA, sa.Column("name", sa.String, primary_key=True))
TASK = sa.Table(
    "task",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("stars", sa.Integer, sa.CheckConstraint("stars < 10"), nullable=False, server_default="1"),
    sa.Column("owner", sa.String, sa.ForeignKey("person.name")),
    sa.Column("remark", sa.String, server_default="none"),
)
SEAT = sa.Table(
    "seat",
    METADATA,
    sa.Column("room", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("guest", sa.String),
)
TABLES = (PERSON, TASK, SEAT)
INSERT_A = "INSERT INTO task (id, title, stars) VALUES ('a', 'first', 1)"
STAYS = "Nothing was written, and the conflict stays in the list"


@dataclass
class Pair:
    """Two devices; what ``x`` writes loses."""

    x: Device
    y: Device

    def lose(self, *mine: Statement, to: Statement, both: tuple[Statement, ...] = (INSERT_A,)) -> list[Conflict]:
        """Write something on either side, ``y`` later, and let both hear of it."""
        if both:
            self.y.receive(self.x.write(*both))
        for statement in mine:
            self.x.write(statement)
        self.y.clock.advance(10)
        self.y.write(to)
        self.x.clock.advance(10)
        self.meet()
        return self.x.store.conflicts()

    def meet(self) -> None:
        exchange(self.x, self.y)
        check_equal(self.x, self.y, tables=("task", "seat"))


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(*(Device(tmp_path, name, TABLES, clock=ManualClock()) for name in "xy"))


def refused(device: Device, conflict: Conflict) -> CannotRestore:
    """The error of a conflict that cannot be restored, with all as it was before."""
    before = device.rows("task"), device.store.conflicts(), len(changesets_in(device.path))
    with pytest.raises(CannotRestore) as caught:
        restore(device.store, conflict)
    assert (device.rows("task"), device.store.conflicts(), len(changesets_in(device.path))) == before
    assert is_clean(device.path)
    assert caught.value.hint
    return caught.value


# -- where the row is


def test_the_value_is_written_back_as_a_change_that_travels(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs', stars = 2")
    restore(pair.x.store, conflict)
    assert pair.x.store.conflicts() == []
    assert changes_of(changesets_in(pair.x.path)[-1:]) == {("task", ("a",)): (Op.UPDATE, {"title": "mine"})}
    exchange(pair.x, pair.y)
    row = {"title": "mine", "stars": 2, "owner": None, "remark": "none"}
    assert pair.x.row("a", table="task") == pair.y.row("a", table="task") == row


def test_nobody_is_in_conflict_with_a_value_that_was_restored(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    restore(pair.x.store, conflict)
    exchange(pair.x, pair.y)
    assert pair.x.store.conflicts() == pair.y.store.conflicts() == []


def test_one_value_is_restored_and_the_others_stay_in_the_list(pair: Pair) -> None:
    title, stars = pair.lose("UPDATE task SET title = 'mine', stars = 3", to="UPDATE task SET title = 'theirs', stars = 4")
    restore(pair.x.store, stars)
    assert pair.x.store.conflicts() == [title]
    row = pair.x.row("a", table="task")
    assert row is not None
    assert (row["title"], row["stars"]) == ("theirs", 3)


def test_a_value_that_stands_there_already_settles_the_conflict_and_is_no_change(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    pair.x.write("UPDATE task SET title = 'mine'")
    count = len(changesets_in(pair.x.path))
    restore(pair.x.store, conflict)
    assert pair.x.store.conflicts() == []
    assert len(changesets_in(pair.x.path)) == count


def test_a_composite_key_finds_its_row(pair: Pair) -> None:
    rows = ("INSERT INTO seat VALUES ('hall', 1, 'nobody')", "INSERT INTO seat VALUES ('hall', 2, 'nobody')")
    (conflict,) = pair.lose(
        "UPDATE seat SET guest = 'Emma' WHERE number = 2", to="UPDATE seat SET guest = 'Kevin' WHERE number = 2", both=rows
    )
    restore(pair.x.store, conflict)
    assert pair.x.rows("seat") == {("hall", 1): {"guest": "nobody"}, ("hall", 2): {"guest": "Emma"}}


def test_a_value_of_a_row_that_was_inserted_again_goes_to_the_new_one(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET stars = 3", to="DELETE FROM task")
    pair.x.write("INSERT INTO task (id, title, stars) VALUES ('a', 'again', 1)")
    restore(pair.x.store, conflict)
    assert pair.x.row("a", table="task") == {"title": "again", "stars": 3, "owner": None, "remark": "none"}
    assert pair.x.store.conflicts() == []


@pytest.mark.parametrize("value", [None, 7, 2.5, "x", b"\x00\xff", 2**63 - 1], ids=repr)
def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path, value: object) -> None:
    loose = sa.Table("loose", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("value", sa.BLOB))
    x, y = (Device(tmp_path, name, [loose], clock=ManualClock()) for name in "xy")
    y.receive(x.write("INSERT INTO loose VALUES ('a', 'old')"))
    x.write(("UPDATE loose SET value = ?", value))
    y.clock.advance(10)
    x.receive(y.write("UPDATE loose SET value = 'theirs'"))
    restore(x.store, *x.store.conflicts())
    row = x.row("a", table="loose")
    assert row is not None
    assert (type(row["value"]), row["value"]) == (type(value), value)


# -- where the row was deleted


def test_a_deleted_row_that_this_device_had_inserted_comes_back_whole(pair: Pair) -> None:
    """The delete was of another row under the same key, and did not know of ours."""
    pair.y.write("INSERT INTO task (id, title, stars) VALUES ('a', 'theirs', 4)")
    pair.x.clock.advance(1)
    conflicts = pair.lose("INSERT INTO task VALUES ('a', 'mine', 3, NULL, 'late')", to="DELETE FROM task", both=())
    assert [conflict.column for conflict in conflicts] == ["title", "stars", "owner", "remark"]
    restore(pair.x.store, conflicts[1])
    assert pair.x.store.conflicts() == []
    pair.meet()
    assert pair.y.row("a", table="task") == {"title": "mine", "stars": 3, "owner": None, "remark": "late"}


def test_a_column_that_may_be_empty_and_is_not_known_is_as_in_any_new_row(pair: Pair) -> None:
    title, stars = pair.lose("UPDATE task SET title = 'mine', stars = 3", to="DELETE FROM task")
    restore(pair.x.store, stars)
    assert pair.x.row("a", table="task") == {"title": "mine", "stars": 3, "owner": None, "remark": "none"}
    assert pair.x.store.conflicts() == []
    assert title.column == "title"
    pair.meet()


def test_a_row_of_which_too_little_is_known_stays_deleted_and_the_error_says_what_is_missing(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET remark = 'mine'", to="DELETE FROM task")
    error = refused(pair.x, conflict)
    assert error.message == (
        f"The row of remark of task 'a' was deleted by device {pair.y.id.hex()[:8]}. This device had written only remark,"
        f" so it cannot put the row back: title and stars must have a value. {STAYS}."
    )
    assert error.hint == "Insert the row again in a write() with title and stars of your own, then restore."


def test_what_that_hint_says_works(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET remark = 'mine'", to="DELETE FROM task")
    refused(pair.x, conflict)
    write(pair.x.store, "INSERT INTO task (id, title, stars) VALUES ('a', 'of my own', 2)")
    restore(pair.x.store, conflict)
    assert pair.x.row("a", table="task") == {"title": "of my own", "stars": 2, "owner": None, "remark": "mine"}


def test_values_lost_at_other_times_do_not_make_up_a_row(pair: Pair) -> None:
    (title,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    (_, stars) = pair.lose("UPDATE task SET stars = 3", to="DELETE FROM task", both=())
    assert "title must have a value" in refused(pair.x, stars).message
    assert "was deleted after the value had lost" in refused(pair.x, title).message


# -- what cannot be


def test_a_conflict_is_restored_once(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    restore(pair.x.store, conflict)
    pair.x.write("UPDATE task SET title = 'newer'")
    error = refused(pair.x, conflict)
    assert "The conflict about title of task 'a' is not in this realm's list: it was restored before" in error.message
    assert "realm.conflicts()" in error.hint


def test_a_conflict_of_another_realm_is_refused(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    assert "another realm's" in refused(pair.y, conflict).message


def test_an_id_that_was_used_again_does_not_stand_for_another_conflict(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET title = 'mine'", to="UPDATE task SET title = 'theirs'")
    other = msgspec.structs.replace(conflict, lost_stamp=conflict.lost_stamp - 1)
    refused(pair.x, other)
    restore(pair.x.store, conflict)


def test_a_value_that_refers_to_a_row_which_is_gone_is_refused(pair: Pair) -> None:
    rows = (INSERT_A, "INSERT INTO person VALUES ('Emma')", "INSERT INTO person VALUES ('Kevin')")
    (conflict,) = pair.lose("UPDATE task SET owner = 'Emma'", to="UPDATE task SET owner = 'Kevin'", both=rows)
    pair.x.write("DELETE FROM person WHERE name = 'Emma'")
    error = refused(pair.x, conflict)
    assert error.message == f"owner of task 'a' cannot take back the value that lost: FOREIGN KEY constraint failed. {STAYS}."
    assert error.__cause__ is not None
    pair.x.write("INSERT INTO person VALUES ('Emma')")
    restore(pair.x.store, conflict)


def test_a_value_that_the_table_does_not_take_any_more_is_refused(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE task SET stars = 3", to="UPDATE task SET stars = 4")
    write(pair.x.store, "CREATE TRIGGER few BEFORE UPDATE ON task WHEN NEW.stars = 3 BEGIN SELECT RAISE(ABORT, 'no 3'); END")
    assert "no 3" in refused(pair.x, conflict).message


MIGRATIONS = {
    'op.drop_column("seat", "guest")': "the table seat has no column guest any more",
    'op.drop_table("seat")': "the table seat is not in this file any more",
}


@pytest.mark.parametrize("script", MIGRATIONS)
def test_what_a_migration_took_away_is_named(pair: Pair, script: str) -> None:
    (conflict,) = pair.lose("UPDATE seat SET guest = 'Emma'", to="UPDATE seat SET guest = 'Kevin'", both=SEATS)
    error = refused(migrated(pair.x, script), conflict)
    assert error.message == f"guest of seat 'hall', 1 cannot take back the value that lost: {MIGRATIONS[script]}. {STAYS}."
    assert "conflict.lost_value" in error.hint


def test_a_table_that_was_made_anew_with_another_key_is_named(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE seat SET guest = 'Emma'", to="UPDATE seat SET guest = 'Kevin'", both=SEATS)
    x = migrated(pair.x, 'op.drop_table("seat")')
    table = sa.Table("seat", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("guest", sa.String))
    x.reopen((PERSON, TASK, table))
    assert "the table seat has another key now" in refused(x, conflict).message


def test_a_conflict_that_was_listed_before_a_migration_renamed_its_place_can_be_restored(pair: Pair) -> None:
    (conflict,) = pair.lose("UPDATE seat SET guest = 'Emma'", to="UPDATE seat SET guest = 'Kevin'", both=SEATS)
    script = 'op.rename_table("seat", "chair")\nop.alter_column("chair", "guest", new_column_name="visitor")'
    x = migrated(pair.x, script)
    restore(x.store, conflict)
    assert x.rows("chair") == {("hall", 1): {"visitor": "Emma"}}


SEATS = ("INSERT INTO seat VALUES ('hall', 1, 'nobody')",)


def migrated(device: Device, script: str) -> Device:
    """A device whose file was migrated, and opened again with a schema that says nothing of seats."""
    device.close()
    application = Application(device.path.parent)
    application.path = device.path
    application.set_environment(ENVIRONMENTS["explicit"])
    application.upgrade(script)
    device.reopen((PERSON, TASK))
    return device


# -- by a realm


WAYS: dict[str, Callable[[Realm, Conflict], object]] = {
    "restore": lambda realm, conflict: realm.restore(conflict),
    "restore_async": lambda realm, conflict: in_loop(realm.restore_async(conflict)),
}
Restoring = Callable[[Realm, Conflict], object]


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def restoring(request: pytest.FixtureRequest) -> Restoring:
    found: Restoring = request.param
    return found


@pytest.fixture
def realms(tmp_path: Path) -> Iterator[tuple[Realm, Realm]]:
    """Two realms, the first of which lists a conflict about the text of a note."""
    with World(tmp_path) as world:
        one, other = world.open("one"), world.open("other")
        (key,) = add(one, "first")
        assert one.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert other.sync_session.download_all_server_changes(timeout=PATIENCE)
        one.sync_session.pause()
        for realm, words in ((one, "by one"), (other, "by the other")):
            world.clock.advance(1)
            with realm.write() as tx:
                tx.get_one(Note, key).text = words
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        one.sync_session.resume()
        assert one.sync_session.download_all_server_changes(timeout=PATIENCE)
        yield one, other


def test_a_value_that_a_realm_restores_reaches_the_others(realms: tuple[Realm, Realm], restoring: Restoring) -> None:
    one, other = realms
    restoring(one, *one.conflicts())
    assert one.conflicts() == []
    assert texts(one) == ["by one"]
    assert one.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert other.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert texts(other) == ["by one"]


def test_a_realm_refuses_what_is_not_in_its_list(realms: tuple[Realm, Realm], restoring: Restoring) -> None:
    one, other = realms
    (conflict,) = one.conflicts()
    with pytest.raises(CannotRestore, match="not in this realm's list"):
        restoring(other, conflict)
    with pytest.raises(TypeError, match=r"out of realm\.conflicts\(\), not of type int"):
        restoring(one, conflict.id)  # type: ignore[arg-type]
    assert texts(one) == texts(other) == ["by the other"]


def test_restoring_inside_a_write_is_refused_and_leaves_it_alone(realms: tuple[Realm, Realm]) -> None:
    one, _ = realms
    (conflict,) = one.conflicts()
    with one.write() as tx:
        with pytest.raises(NestedWrite):
            one.restore(conflict)
        tx.add(Note(text="written"))

    async def nested() -> None:
        async with one.write_async():
            with pytest.raises(NestedWrite):
                await one.restore_async(conflict)

    in_loop(nested())
    assert one.conflicts() == [conflict]
    assert texts(one) == ["by the other", "written"]


def test_a_local_or_closed_realm_restores_nothing(realms: tuple[Realm, Realm], restoring: Restoring, tmp_path: Path) -> None:
    (conflict,) = realms[0].conflicts()
    local = Realm.open(LocalConfiguration(path=tmp_path / "local.db"))
    with pytest.raises(CannotRestore, match=r"is local: no value in it ever loses\. Nothing was written"):
        restoring(local, conflict)
    for closed in (local, realms[0]):
        closed.close()
        with pytest.raises(RealmClosed, match=r"Realm\.open"):
            restoring(closed, conflict)
