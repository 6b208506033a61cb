"""Progress of real sessions: when the first value comes, what is counted, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from localstore import Direction, Progress, ProgressMode, Realm
from localstore.console import show_transfer
from localstore.errors import Offline, OperationAborted
from localstore.sync.stream import Stream
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, World, add, eventually, in_background, in_loop, sql

UPLOAD, DOWNLOAD = Direction.UPLOAD, Direction.DOWNLOAD
NOW, ALWAYS = ProgressMode.CURRENT_CHANGES, ProgressMode.INDEFINITELY


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def offline(world: World) -> Realm:
    world.remote.go_offline()
    realm = world.open()
    world.at_rest()
    return realm


def rest_of(stream: Stream[Progress]) -> list[float]:
    """All that is still to come of a stream that ends, or has ended."""
    return in_background(lambda: [progress.estimate for progress in stream]).result(PATIENCE)


def next_of(stream: Stream[Progress]) -> float:
    return in_background(lambda: next(stream).estimate).result(PATIENCE)


def has_value(stream: Stream[Progress]) -> bool:
    return bool(stream._values)


class TestUploads:
    def test_with_nothing_to_upload_it_is_complete_at_once_also_offline(self, offline: Realm) -> None:
        assert rest_of(offline.sync_session.progress(UPLOAD, NOW)) == [1.0]

    def test_it_is_known_at_once_how_much_there_is(self, world: World, offline: Realm) -> None:
        add(offline, "a")
        stream = offline.sync_session.progress(UPLOAD, NOW)
        assert next_of(stream) == 0.0
        world.remote.go_online()
        world.clock.advance(1)
        assert rest_of(stream)[-1] == 1.0
        assert offline.pending() == []

    def test_it_rises_batch_by_batch_and_never_goes_back(self, world: World) -> None:
        world.remote.go_offline()
        line = world.line(max_batch_count=1)
        realm = world.open(remote=line)
        world.at_rest()
        for number in range(4):
            add(realm, f"note {number}")
        stream = realm.sync_session.progress(UPLOAD, NOW)
        assert next_of(stream) == 0.0
        line.hold("push")
        world.remote.go_online()
        world.clock.advance(1)
        seen = []
        for _ in range(3):
            line.let_one_go("push")
            seen.append(next_of(stream))
        add(realm, "later")
        line.let_go("push")
        seen += rest_of(stream)
        assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)

    def test_what_is_written_later_is_not_waited_for(self, world: World) -> None:
        line = world.line(max_batch_count=1)
        realm = world.open(remote=line)
        world.at_rest()
        line.hold("push")
        add(realm, "before")
        stream = realm.sync_session.progress(UPLOAD, NOW)
        add(realm, "after")
        line.let_one_go("push")
        assert rest_of(stream)[-1] == 1.0
        assert len(realm.pending()) == 1
        line.let_go("push")

    def test_across_a_pause_it_goes_on_where_it_was(self, world: World) -> None:
        line = world.line(max_batch_count=1)
        line.hold("push")
        realm = world.open(remote=line)
        realm.sync_session.pause()
        add(realm, "a")
        add(realm, "b")
        stream = realm.sync_session.progress(UPLOAD, NOW)
        assert next_of(stream) == 0.0
        realm.sync_session.resume()
        line.let_one_go("push")
        assert next_of(stream) == pytest.approx(0.5, abs=0.02)
        realm.sync_session.pause()
        eventually(lambda: not line.held("push"), "the call to be broken off")
        realm.sync_session.resume()
        line.let_one_go("push")
        assert rest_of(stream) == [1.0]
        line.let_go("push")

    def test_a_refused_changeset_does_not_keep_it_from_ending(self, world: World) -> None:
        line = world.line()
        line.hold("push")
        realm = world.open(remote=line)
        world.remote.max_changeset_bytes = 10
        add(realm, "too large for this remote")
        stream = realm.sync_session.progress(UPLOAD, NOW)
        line.let_one_go("push")
        world.remote.max_changeset_bytes = None
        line.let_go("push")
        assert rest_of(stream)[-1] == 1.0

    def test_indefinitely_it_goes_from_one_to_nothing_and_back(self, world: World) -> None:
        line = world.line()
        realm = world.open(remote=line)
        stream = realm.sync_session.progress(UPLOAD, ALWAYS)
        assert next_of(stream) == 1.0
        for text in ("a", "b"):
            line.hold("push")
            add(realm, text)
            assert next_of(stream) == 0.0
            line.let_go("push")
            assert next_of(stream) == 1.0

    def test_transactions_that_changed_nothing_say_nothing(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        stream = realm.sync_session.progress(UPLOAD, ALWAYS)
        assert next_of(stream) == 1.0
        with realm.write():
            pass
        device.let_it_run()
        assert not has_value(stream)


class TestDownloads:
    def test_nothing_is_said_before_the_remote_was_reached(self, world: World, offline: Realm) -> None:
        stream = offline.sync_session.progress(DOWNLOAD, NOW)
        assert not has_value(stream)
        world.remote.go_online()
        world.clock.advance(1)
        assert rest_of(stream) == [1.0]

    def test_nothing_is_said_while_the_remote_is_lost_though_everything_had_come(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        world.at_rest()
        world.remote.go_offline()
        device.app.sync.reconnect()
        eventually(lambda: realm.sync_session.status.next_attempt)
        stream = realm.sync_session.progress(DOWNLOAD, NOW)
        assert not has_value(stream)
        world.remote.go_online()
        device.app.sync.reconnect()
        assert rest_of(stream) == [1.0]

    def test_when_everything_is_there_it_is_complete_at_once(self, world: World) -> None:
        realm = world.open()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert rest_of(realm.sync_session.progress(DOWNLOAD, NOW)) == [1.0]

    def test_it_rises_page_by_page(self, world: World) -> None:
        writer = world.open("writer")
        for number in range(4):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        line.hold("pull")
        realm = world.device("reader", remote=line, page_count=1).open()
        streams = [realm.sync_session.progress(DOWNLOAD, mode) for mode in ProgressMode]
        for expected in (0.25, 0.5, 0.75, 1.0):
            line.let_one_go("pull")
            assert [next_of(stream) for stream in streams] == pytest.approx([expected, expected], abs=0.05)
        assert rest_of(streams[0]) == []

    @pytest.mark.parametrize("loss", ["an error", "a pause"])
    def test_across_a_lost_connection_it_goes_on_where_it_was(self, world: World, loss: str) -> None:
        writer = world.open("writer")
        for number in range(4):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        writer.close()
        line = world.line()
        line.hold("pull")
        device = world.device("reader", remote=line, page_count=1)
        realm = device.open()
        streams = [realm.sync_session.progress(DOWNLOAD, mode) for mode in ProgressMode]
        for expected in (0.25, 0.5):
            line.let_one_go("pull")
            assert [next_of(stream) for stream in streams] == pytest.approx([expected, expected], abs=0.05)
        eventually(lambda: line.held("pull"))
        if loss == "an error":
            line.break_next("pull", Raise(Offline("gone")))
            line.let_one_go("pull")
            eventually(lambda: realm.sync_session.status.next_attempt)
        else:
            realm.sync_session.pause()
            eventually(lambda: not line.held("pull"), "the call to be broken off")
        device.let_it_run()
        assert [has_value(stream) for stream in streams] == [False, False]
        realm.sync_session.resume() if loss == "a pause" else device.app.sync.reconnect()
        for expected in (0.75, 1.0):
            line.let_one_go("pull")
            assert [next_of(stream) for stream in streams] == pytest.approx([expected, expected], abs=0.05)
        assert rest_of(streams[0]) == []
        line.let_go("pull")

    def test_at_one_everything_is_in_the_file(self, world: World) -> None:
        writer = world.open("writer")
        add(writer, "a")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        reader = world.open("reader")
        assert rest_of(reader.sync_session.progress(DOWNLOAD, NOW))[-1] == 1.0
        assert sql(reader.path, "SELECT text FROM note") == [("a",)]


class TestStreams:
    @pytest.mark.parametrize("direction", list(Direction))
    def test_they_end_when_the_realm_is_closed(self, world: World, direction: Direction) -> None:
        realm = world.open()
        stream = realm.sync_session.progress(direction, ALWAYS)
        realm.close()
        assert rest_of(stream) in ([], [1.0])

    def test_asking_a_closed_session_gives_none(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        realm.close()
        assert rest_of(session.progress(UPLOAD, NOW)) == []

    def test_a_reader_that_stops_harms_no_other(self, world: World, offline: Realm) -> None:
        add(offline, "a")
        one, other = (offline.sync_session.progress(UPLOAD, NOW) for _ in range(2))
        one.close()
        world.remote.go_online()
        world.clock.advance(1)
        assert rest_of(other)[-1] == 1.0
        assert rest_of(one) == []

    def test_another_can_be_asked_for_inside_the_loop(self, world: World) -> None:
        realm = world.open()
        inner = []
        for _ in realm.sync_session.progress(UPLOAD, NOW):
            inner += rest_of(realm.sync_session.progress(UPLOAD, NOW))
        assert inner == [1.0]

    def test_an_asynchronous_loop_will_do(self, world: World) -> None:
        realm = world.open()

        async def read() -> list[float]:
            return [progress.estimate async for progress in realm.sync_session.progress(UPLOAD, NOW)]

        assert in_loop(read()) == [1.0]

    @pytest.mark.parametrize("arguments", [("upload", NOW), (UPLOAD, "now"), (None, None)])
    def test_anything_else_is_refused(self, world: World, arguments: Any) -> None:
        with pytest.raises(TypeError, match="a Direction and a ProgressMode"):
            world.open().sync_session.progress(*arguments)

    def test_nobody_counts_when_nobody_asks(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        looks = []
        realm.sync_session._transfers._looking._work = lambda: looks.append(1)  # type: ignore[assignment, func-returns-value, return-value]
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        device.let_it_run()
        assert looks == []


class TestBars:
    def drawn(self, run: Callable[[Console], bool]) -> tuple[bool, str]:
        output = StringIO()
        return run(Console(file=output, width=80)), output.getvalue()

    def test_they_are_drawn_until_everything_is_transferred(self, world: World) -> None:
        realm = world.open()
        add(realm, "a")
        done, drawn = self.drawn(lambda console: show_transfer(realm.sync_session, timeout=PATIENCE, console=console))
        assert done
        assert "upload" in drawn
        assert "download" in drawn
        assert drawn.count("100%") == 2
        assert realm.pending() == []

    def test_when_the_time_is_up_it_says_so(self, offline: Realm) -> None:
        add(offline, "a")
        done, drawn = self.drawn(lambda console: show_transfer(offline.sync_session, UPLOAD, timeout=0.01, console=console))
        assert not done
        assert "0%" in drawn
        assert "download" not in drawn

    def test_what_ends_the_wait_ends_the_bars(self, world: World, offline: Realm) -> None:
        showing = in_background(lambda: show_transfer(offline.sync_session, DOWNLOAD, console=Console(file=StringIO())))
        eventually(lambda: len(offline.sync_session._waits))
        offline.sync_session.pause()
        with pytest.raises(OperationAborted):
            showing.result(PATIENCE)

    def test_the_timeout_has_to_be_positive(self, offline: Realm) -> None:
        with pytest.raises(ValueError, match="positive"):
            show_transfer(offline.sync_session, timeout=0)
