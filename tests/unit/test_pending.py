"""What is pending, over the life of a session and while a long outbox empties; and what a small write costs, in statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from localstore.errors import Offline, Refused
from localstore.realm import Realm
from localstore.store.file import ACKNOWLEDGE_CHUNK
from localstore.store.outbox import acknowledge
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, World, add, eventually
from tests.unit.store_kit import open_store, query, write


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def upload(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


def errors(realm: Realm) -> list[str | None]:
    return [pending.last_error for pending in realm.pending()]


# -- the session's error


def test_pending_tells_why_nothing_is_sent_and_is_silent_when_it_can_be_again(world: World) -> None:
    line = world.line()
    realm = world.open(remote=line)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    line.break_next("push", Raise(Offline("no network")))
    add(realm, "a")
    eventually(lambda: errors(realm) == ["no network"])
    add(realm, "b")  # what came later waits for the same reason
    assert errors(realm) == ["no network"] * 2
    assert [dict(pending.tables) for pending in realm.pending()] == [{"note": 1}] * 2
    world.at_rest()
    world.clock.advance(1)
    upload(realm)
    assert realm.pending() == []
    realm.sync_session.pause()
    add(realm, "c")
    assert errors(realm) == [None]


def test_pending_does_not_hold_a_refused_changeset_against_those_after_it(world: World) -> None:
    line = world.line()
    device = world.device(remote=line)
    realm = device.open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    realm.sync_session.pause()
    add(realm, "a")
    line.break_next("push", Raise(Refused("too large", number=1)))
    realm.sync_session.resume()
    upload(realm)
    eventually(lambda: device.kinds == ["CompensatingWrite"])
    realm.sync_session.pause()
    add(realm, "b")
    assert errors(realm) == [None]


# -- a long outbox


@pytest.mark.parametrize("number", [ACKNOWLEDGE_CHUNK, ACKNOWLEDGE_CHUNK + 1, 10**6])
def test_what_is_written_while_a_long_outbox_empties_is_not_let_go(tmp_path: Path, number: int) -> None:
    """A transaction at a time, as another process could write between any two."""
    store = open_store(tmp_path / "store.db")
    count = ACKNOWLEDGE_CHUNK + 1
    for row in range(count):
        write(store, f"INSERT INTO note (id) VALUES ('{row}')")
    store.fold()  # the clocks know them all
    write(store, "INSERT INTO note (id) VALUES ('between')")
    left = True
    while left:
        with store.transaction() as connection:
            left = acknowledge(connection, number, limit=ACKNOWLEDGE_CHUNK) == ACKNOWLEDGE_CHUNK
        assert store.acknowledged() == min(number, count) or left
        assert store.acknowledged() <= number
    assert store.last_pending() == count + 1
    store.close()
    reopened = open_store(tmp_path / "store.db")
    reopened.acknowledge(count + 1)
    assert (reopened.last_pending(), reopened.acknowledged()) == (None, count + 1)
    assert query(reopened.path, "SELECT count(*) FROM localstore_clock") == [(count + 1,)]
    reopened.close()


# -- what a write costs

MOST_STATEMENTS = 30  # of a write() of one row: ours, the row's and its trigger's


def test_a_small_write_runs_few_statements_whatever_the_file_holds(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store.db")
    with store.write() as tx:
        driver = cast("sa.PoolProxiedConnection", tx.connection().connection).driver_connection
        assert driver is not None
    counts = []
    for length in (1, 200):
        for row in range(length):
            write(store, f"INSERT INTO note (id) VALUES ('{length}-{row}')")
        done: list[str] = []
        driver.set_trace_callback(done.append)  # the store has one writing connection
        write(store, f"INSERT INTO note (id) VALUES ('{length}')")
        driver.set_trace_callback(None)
        assert done[-1] == "COMMIT"
        counts.append(len(done))
    assert counts[0] == counts[1] <= MOST_STATEMENTS, done
    store.close()
