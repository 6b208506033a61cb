"""What hints bring: it is applied without a pull where it is what comes next, and everything else is looked at as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import Realm
from tests.unit.session_kit import PATIENCE, Line, World, add, eventually, in_background, texts


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        world.remote.brings_news = True
        yield world


def watching(world: World, name: str = "reader") -> tuple[Realm, Line]:
    """A realm at rest whose session is told of news, and the pulls it has made from now on."""
    line = world.line()
    realm = world.device(name, remote=line).open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    with world.device(f"first to wake {name}").open() as other:
        add(other, f"for {name}")
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
    eventually(lambda: f"for {name}" in texts(realm))
    eventually(lambda: realm.sync_session.is_synced)
    line.calls.clear()
    return realm, line


def test_what_a_hint_brings_needs_no_pull(world: World) -> None:
    reader, line = watching(world)
    writer = world.open("writer")
    for text in ("a", "b", "c"):
        add(writer, text)
        eventually(lambda text=text: text in texts(reader))  # type: ignore[misc]
    eventually(lambda: reader.sync_session.is_synced)
    assert line.count("pull") == 0


def test_two_that_write_in_turn_need_no_pulls(world: World) -> None:
    """Each is told how far the remote is by what it sent itself."""
    (one, of_one), (other, of_other) = watching(world, "one"), watching(world, "other")
    eventually(lambda: "for other" in texts(one))
    of_one.calls.clear()
    for number in range(3):
        for writer, reader in ((one, other), (other, one)):
            text = f"{number} of {writer.path.stem}"
            add(writer, text)
            eventually(lambda text=text, reader=reader: text in texts(reader))  # type: ignore[misc]
    for realm in (one, other):
        eventually(lambda realm=realm: realm.sync_session.is_synced)  # type: ignore[misc]
    assert (of_one.count("pull"), of_other.count("pull")) == (0, 0)


def test_a_commit_is_sent_without_a_look_at_a_remote_that_is_watched(world: World) -> None:
    realm, line = watching(world)
    add(realm, "mine")
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    world.at_rest()
    assert "push" in line.calls
    assert "pull" not in line.calls


def test_who_waits_for_the_head_gets_what_there_is_after_the_call(world: World) -> None:
    reader, line = watching(world)
    assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert line.count("pull") == 1, "what was brought before is no answer"


def test_what_does_not_come_next_is_pulled(world: World) -> None:
    """As when a hint was lost on its way."""
    reader, line = watching(world)
    line.hold("pull")
    waiting = in_background(lambda: reader.sync_session.download_all_server_changes(timeout=PATIENCE))
    eventually(lambda: line.held("pull"))
    writer = world.open("writer")
    add(writer, "a")  # brought while the pull is under way, which finds it as well
    assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
    line.let_go("pull")
    assert waiting.result(PATIENCE)
    eventually(lambda: "a" in texts(reader))
    add(writer, "b")
    eventually(lambda: "b" in texts(reader))
    eventually(lambda: reader.sync_session.is_synced)


def test_the_remote_is_looked_at_in_time_however_much_is_brought(world: World) -> None:
    """Nor does a stream of commits put the next look off."""
    reader, line = watching(world)
    writer = world.open("writer")
    for number in range(7):
        world.at_rest(2)
        world.clock.advance(10)
        add(writer, f"text {number}")
        eventually(lambda number=number: f"text {number}" in texts(reader))  # type: ignore[misc]
        add(reader, f"mine {number}")
        assert reader.sync_session.upload_all_local_changes(timeout=PATIENCE)
    eventually(lambda: line.count("pull") >= 1, "a look after a minute")
