"""What a session does when there is nothing to do, and what nobody has to wait for when there is much."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.unit.session_kit import PATIENCE, Line, World, add, eventually, in_background, is_let_go
from tests.unit.watching_kit import Work, work

POLLS = 5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def polled(world: World, done: Work) -> list[str]:
    """The statements of some rounds in which nothing had happened."""
    line = world.line(watch=False, poll_seconds=30.0)
    realm = world.device("idle", remote=line).open()
    add(realm, "sent")
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    look(world, line, 2)  # what is done once in a while is done
    before = len(done.statements)
    done.changes.clear()
    look(world, line, POLLS)
    return done.statements[before:]


def look(world: World, line: Line, times: int) -> None:
    """Let time go on to the next look at the remote, again and again."""
    first = line.count("pull")
    for number in range(times):
        world.at_rest()
        world.clock.advance(30)
        eventually(partial(has_pulled, line, first + number), "the next look")
    world.at_rest()


def has_pulled(line: Line, more_than: int) -> bool:
    return line.count("pull") > more_than


def test_a_session_with_nothing_to_do_writes_nothing(world: World) -> None:
    with work() as done:
        statements = polled(world, done)
        assert done.changes == []
        assert [sql for sql in statements if sql.split()[0].upper() in ("INSERT", "UPDATE", "DELETE", "REPLACE")] == []


def test_a_look_at_the_remote_takes_few_statements(world: World) -> None:
    """As a hundred realms of one app are to cost next to nothing."""
    with work() as done:
        statements = polled(world, done)
    assert len(statements) <= 30 * POLLS


def test_closing_a_realm_does_not_wait_for_what_its_session_is_writing(world: World) -> None:
    """As a large page takes a second to be merged."""
    device = world.device()
    realm = device.open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    world.at_rest()  # it has written down that it is in step, which would wait behind what follows
    begun, is_enough = threading.Event(), threading.Event()

    def merge() -> None:
        with realm._store.transaction():
            begun.set()
            assert is_enough.wait(PATIENCE)

    merging = in_background(merge)
    assert begun.wait(PATIENCE)
    closing = in_background(realm.close)
    closing.result(PATIENCE)
    assert realm.is_closed
    assert not merging.done()
    assert device.app.sync.has_sync_sessions  # until the file is closed, too
    is_enough.set()
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    merging.result(PATIENCE)
    assert is_let_go(device.path)


def test_what_is_opened_meanwhile_is_not_closed(world: World) -> None:
    device = world.device()
    realm = device.open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    world.at_rest()  # it has written down that it is in step, which would wait behind what follows
    begun, is_enough = threading.Event(), threading.Event()

    def merge() -> None:
        with realm._store.transaction():
            begun.set()
            assert is_enough.wait(PATIENCE)

    merging = in_background(merge)
    assert begun.wait(PATIENCE)
    realm.close()
    opening = in_background(device.open)
    is_enough.set()
    again = opening.result(PATIENCE)
    merging.result(PATIENCE)
    add(again, "written")
    assert again.sync_session.upload_all_local_changes(timeout=PATIENCE)
