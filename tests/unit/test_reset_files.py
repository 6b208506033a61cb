"""What a reset leaves alone, what it takes over, and what it does where a file is not as simple as it could be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.store import memory
from localstore.store.driver import connect
from localstore.store.resetting import ResetPlan, reset
from localstore.store.undoing import TO_TELL, UndoneWrite, standing, undone
from tests.unit.reset_kit import DISCARD, RECOVER, SEED, Remote, began, settled
from tests.unit.store_kit import (
    LINK,
    NOTE,
    Device,
    check_equal,
    close_devices,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    sealed_in,
    write,
)
from tests.unit.test_apply import WIDE_NOTE

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"
KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def away(remote: Remote, device: Device, *statements: str) -> None:
    """Another device writes, and the remote has it."""
    device.write(*statements)
    remote.exchange(device)


# -- what is left alone


def test_what_is_not_synced_stays(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    with other_program(x.path) as connection:
        connection.execute("CREATE TABLE draft (id TEXT PRIMARY KEY, note TEXT REFERENCES note (id) ON DELETE CASCADE)")
        connection.execute("INSERT INTO draft VALUES ('d', 'a')")
        connection.execute("CREATE INDEX by_title ON note (title)")
        connection.execute("CREATE VIEW titles AS SELECT title FROM note")
        connection.execute("CREATE TRIGGER mine AFTER DELETE ON note BEGIN SELECT 1; END")
        theirs = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    away(remote, y, "DELETE FROM note")
    remote.reset(x, DISCARD)
    assert query(x.path, "SELECT * FROM draft") == [("d", "a")]
    assert query(x.path, "SELECT name, sql FROM sqlite_master ORDER BY name") == theirs


def test_triggers_of_the_application_see_what_changes_and_no_more(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B, "INSERT INTO note VALUES ('c', 'third', 3)")
    with other_program(x.path) as connection:
        connection.execute("CREATE TABLE seen (what TEXT)")
        for what, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            body = f"INSERT INTO seen VALUES ('{what} ' || {row}.id)"
            connection.execute(f"CREATE TRIGGER see_{what} AFTER {what} ON note BEGIN {body}; END")
    away(
        remote,
        y,
        "UPDATE note SET stars = 9 WHERE id = 'a'",
        "DELETE FROM note WHERE id = 'b'",
        "INSERT INTO note (id) VALUES ('d')",
    )
    remote.reset(x, DISCARD)
    assert sorted(query(x.path, "SELECT what FROM seen")) == [("DELETE b",), ("INSERT d",), ("UPDATE a",)]


def test_conflicts_and_what_was_set_aside_stay(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'mine'")
    remote.clock.set(remote.clock.now_ms() + 1000)
    away(remote, y, "UPDATE note SET title = 'theirs'")
    remote.pull(x)
    with x.store.transaction() as connection:
        connection.execute("INSERT INTO localstore_aside (device, number, reason, sealed) VALUES (?, 7, 'why', x'00')", (y.id,))
    before = x.store.conflicts()
    assert before
    remote.reset(x, RECOVER)
    assert x.store.conflicts() == before
    assert query(x.path, "SELECT number, reason FROM localstore_aside") == [(7, "why")]


def test_the_store_stays_open_and_so_do_its_readers(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    away(remote, y, "UPDATE note SET title = 'theirs'")
    version = x.store.version()
    with x.store.snapshot() as before:
        assert before.connection().exec_driver_sql("SELECT title FROM note").scalar_one() == "first"
        remote.reset(x, RECOVER)
        assert before.connection().exec_driver_sql("SELECT title FROM note").scalar_one() == "first"
    assert x.store.version() != version
    with x.store.read() as after:
        assert after.connection().exec_driver_sql("SELECT title FROM note").scalar_one() == "theirs"


def test_whoever_writes_meanwhile_waits_and_is_recorded_under_either_identity(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    begun = threading.Event()

    def go_on() -> None:
        for number in range(200):
            write(x.store, f"INSERT INTO note VALUES ('n{number}', 't', {number})")
            begun.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    assert begun.wait(10)
    remote.reset(x, RECOVER)
    writer.join()
    assert len(x.rows()) == 201
    assert {sealed.device for sealed in x.sealed()} == {x.id}
    assert [sealed.number for sealed in x.sealed()] == list(range(1, 201))
    settled(remote, x, y)
    check_equal(x, y)


def test_the_record_of_the_reset_says_how_far_it_is(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    record = (
        "INSERT INTO localstore_reset (id, mode, reason, started_ms, version, step) VALUES (1, 'recover', 'r', 0, '1', 'begun')"
    )
    with x.store.transaction() as connection:
        connection.execute(record)
    remote.reset(x, ResetPlan(recover=True, step="reset"))
    assert query(x.path, "SELECT step FROM localstore_reset") == [("reset",)]


# -- what is taken over


def test_what_waits_for_its_turn_waits_on(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    first = y.write("UPDATE note SET title = 'one'")
    second = y.write("UPDATE note SET title = 'two'")
    remote.history.append(second)
    remote.reset(x, RECOVER)
    assert query(x.path, "SELECT number FROM localstore_waiting") == [(second.number,)]
    x.receive(first)
    assert x.row("a") == {"title": "two", "stars": 1}


def test_what_others_had_seen_is_known(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path)
    z = remote.fresh("z")
    away(remote, y, INSERT_B)
    remote.pull(z)
    away(remote, z, "UPDATE note SET title = 'one'")
    remote.reset(x, DISCARD)
    away(remote, z, "UPDATE note SET title = 'two'")
    remote.pull(x, y)
    assert x.row("b") == {"title": "two", "stars": 2}
    check_equal(x, y, z)


def test_the_remote_is_the_one_that_the_fresh_store_met(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.store.meet("old remote")
    fresh = remote.fresh()
    fresh.store.meet("new remote")
    reset(x.store, fresh.store, RECOVER, remote.clock.now_ms())
    assert x.store.state().remote_id == "new remote"
    assert x.store.state().cursor == fresh.store.state().cursor


def test_changes_of_unknown_columns_are_kept_for_a_newer_version(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    newer = remote.fresh("newer", [WIDE_NOTE])
    away(remote, newer, "UPDATE note SET due = 'soon'")
    remote.reset(x, RECOVER)
    x.reopen([WIDE_NOTE])
    assert x.row("a") == {"title": "first", "stars": 1, "due": "soon"}
    check_equal(x, newer)


def test_a_column_that_is_not_declared_any_more_holds_what_the_remote_has(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, "INSERT INTO note VALUES ('a', 'first', 1, 'soon')", tables=[WIDE_NOTE])
    x.reopen([NOTE])
    with other_program(x.path) as connection:
        connection.execute("UPDATE note SET due = 'unsent'")
    away(remote, y, "INSERT INTO note (id, due) VALUES ('b', 'later')")
    remote.tables = [NOTE]
    remote.reset(x, DISCARD)
    assert x.rows() == y.rows()
    check_equal(x, y)


def test_a_table_that_is_not_declared_any_more_holds_what_the_remote_has(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, "INSERT INTO link VALUES ('a', 1, 'l')", tables=[NOTE, LINK])
    x.reopen([NOTE])
    with other_program(x.path) as connection:
        connection.execute("INSERT INTO link VALUES ('b', 2, 'unsent')")
    away(remote, y, "UPDATE link SET label = 'theirs'")
    remote.tables = [NOTE]
    remote.reset(x, DISCARD)
    assert x.rows("link") == y.rows("link") == {("a", 1): {"label": "theirs"}}
    check_equal(x, y, tables=("note", "link"))


def test_a_refusal_that_was_not_undone_yet_is_undone(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'", INSERT_B)
    x.store.refuse(2, "not yours")
    x.write("UPDATE note SET stars = 5")
    remote.reset(x, RECOVER)
    (told,) = undone(x.store)
    assert set(told.writes) == {UndoneWrite("note", ("a",), 2, "not yours"), UndoneWrite("note", ("b",), 2, "not yours")}
    assert x.rows() == {("a",): {"title": "first", "stars": 5}}
    found = {(*c.key, c.column, c.lost_value) for c in x.store.conflicts() if c.rule == "the remote refused it: not yours"}
    assert found == {("a", "title", "refused"), ("b", "title", "second"), ("b", "stars", 2)}
    assert standing(x.store) == {TO_TELL}
    settled(remote, x, y)
    check_equal(x, y)


# -- where it is not so simple


def test_rows_may_have_exchanged_what_only_one_can_have(tmp_path: Path) -> None:
    unique = sa.Table(
        "note", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String, unique=True)
    )
    remote, x, y = began(tmp_path, "INSERT INTO note VALUES ('a', 'one'), ('b', 'two'), ('c', 'three')", tables=[unique])
    away(
        remote,
        y,
        "UPDATE note SET title = id || title",
        "UPDATE note SET title = 'two' WHERE id = 'a'",
        "UPDATE note SET title = 'one' WHERE id = 'b'",
    )
    remote.reset(x, DISCARD)
    assert x.rows() == y.rows()
    check_equal(x, y)


def test_a_constraint_that_only_this_file_has_sets_rows_aside(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    with other_program(x.path) as connection:
        connection.execute("CREATE UNIQUE INDEX one_title ON note (title)")
    away(remote, y, "INSERT INTO note VALUES ('b', 'first', 2)", "INSERT INTO note VALUES ('c', 'third', 3)")
    remote.reset(x, RECOVER)
    assert x.rows() == {("a",): {"title": "first", "stars": 1}, ("c",): {"title": "third", "stars": 3}}
    x.write("UPDATE note SET title = 'another' WHERE id = 'a'")
    assert x.row("b") == {"title": "first", "stars": 2}
    settled(remote, x, y)
    check_equal(x, y)


def test_a_trigger_that_refuses_what_the_remote_has_is_not_asked(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    with other_program(x.path) as connection:
        connection.execute("CREATE TRIGGER never BEFORE DELETE ON note BEGIN SELECT RAISE(ABORT, 'never'); END")
    away(remote, y, "DELETE FROM note", INSERT_B)
    remote.reset(x, DISCARD)
    assert x.rows() == y.rows()
    assert query(x.path, "SELECT name FROM sqlite_master WHERE name = 'never'") == [("never",)]


def test_an_unsent_changeset_that_a_trigger_refuses_now_is_kept_aside(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET stars = 2")
    x.write("INSERT INTO note VALUES ('p', 'poison', 1)", "INSERT INTO note VALUES ('q', 'good', 1)")
    x.write("UPDATE note SET stars = stars + 1")
    old = x.id
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON note WHEN NEW.title = 'poison' BEGIN SELECT RAISE(ABORT, 'poison'); END"
    with other_program(x.path) as connection:
        connection.execute(refuse)
    outcome = remote.reset(x, RECOVER)
    assert (outcome.recovered, outcome.aside) == (2, ((3, "poison"),))
    assert x.rows() == {("a",): {"title": "first", "stars": 3}}
    assert query(x.path, "SELECT device, number, reason FROM localstore_aside") == [(old, 3, "poison")]
    settled(remote, x, y)
    check_equal(x, y)


def test_rows_that_no_changeset_can_hold_stay_where_work_is_recovered(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    with other_program(x.path) as connection:
        connection.execute("INSERT INTO note VALUES ('broken', CAST(x'ff' AS TEXT), 1)")
        connection.execute("INSERT INTO note VALUES (CAST(x'fe' AS TEXT), 'fine', 1)")
    for plan, left in ((RECOVER, 3), (SEED, 3), (DISCARD, 1)):
        remote.reset(x, plan, f"fresh {left} {plan.seed}")
        assert query(x.path, "SELECT count(*) FROM note") == [(left,)]
        assert query(x.path, "SELECT count(*) FROM localstore_unsealed") == [(left - 1,)]
        if plan.seed:
            remote.push(x)


# -- files of other kinds


@pytest.mark.parametrize("plan", [RECOVER, DISCARD, SEED], ids=["recover", "discard", "seed"])
def test_encrypted_files_are_reset(tmp_path: Path, plan: ResetPlan) -> None:
    pytest.importorskip("sqlcipher3")
    remote = Remote(tmp_path, options={"encryption_key": KEY})
    x = remote.device("x")
    write(x.store, INSERT_A)
    remote.history += x.store.batch(max_bytes=1 << 30, max_count=10)
    x.store.acknowledge(1)
    write(x.store, INSERT_B)
    remote.reset(x, plan)
    x.store.fold()
    expected = [("a", "first", 1)] if plan is DISCARD else [("a", "first", 1), ("b", "second", 2)]
    with closing(connect(x.path, KEY)) as connection:
        assert connection.execute("SELECT * FROM note ORDER BY id").fetchall() == expected
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    x.store.fold()
    for path in tmp_path.iterdir():
        assert b"second" not in path.read_bytes()


def test_realms_in_memory_are_reset(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    with (
        memory.place(Path("notes")) as one,
        memory.place(Path("fresh")) as other,
        closing(open_store(one, seed=7)) as store,
        closing(open_store(other, seed=8)) as fresh,
    ):
        write(store, INSERT_B)
        assert fresh.apply(remote.history, after=None, cursor=b"1")
        outcome = reset(store, fresh, RECOVER, remote.clock.now_ms())
        assert outcome.recovered == 1
        assert rows_of(one) == {("a",): {"title": "first", "stars": 1}, ("b",): {"title": "second", "stars": 2}}
        assert len(sealed_in(one)) == 1
    assert is_clean(x.path)


# -- what is no fresh store


def test_a_store_is_not_reset_to_itself(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    with pytest.raises(ValueError, match="itself"):
        reset(x.store, x.store, RECOVER, remote.clock.now_ms())


def test_a_store_is_not_reset_to_one_that_was_written_to(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    fresh = remote.fresh()
    write(fresh.store, INSERT_B)
    with pytest.raises(ValueError, match="written to"):
        reset(x.store, fresh.store, RECOVER, remote.clock.now_ms())


def test_a_store_is_not_reset_to_one_of_another_partition(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    with (
        closing(open_store(tmp_path / "other.db", partition="other", seed=9)) as other,
        pytest.raises(ValueError, match="other"),
    ):
        reset(x.store, other, RECOVER, remote.clock.now_ms())
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}


class Broken(dict[int, bytes]):
    """What a plan that fails in the middle of everything has."""

    def get(self, *_: object) -> bytes:
        raise RuntimeError("broken")


def test_a_reset_that_fails_changes_nothing(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write(INSERT_B)
    away(remote, y, "UPDATE note SET stars = 9")
    before = x.rows(), x.sealed(), x.id, x.clocks(), query(x.path, "SELECT name, sql FROM sqlite_master")
    with pytest.raises(RuntimeError, match="broken"):
        remote.reset(x, ResetPlan(recover=True, stored=Broken()))
    assert (x.rows(), x.sealed(), x.id, x.clocks(), query(x.path, "SELECT name, sql FROM sqlite_master")) == before
    remote.reset(x, RECOVER, "second")
    settled(remote, x, y)
    check_equal(x, y)
