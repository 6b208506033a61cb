"""Waiting for uploads and downloads: what completes a wait, what breaks it off, and what it does not mind."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from localstore import Realm, SessionState
from localstore.errors import (
    Busy,
    LocalStoreError,
    Offline,
    OperationAborted,
    ProtocolError,
    RateLimited,
    RealmClosed,
    SyncError,
    Unauthorized,
)
from localstore.sync.progress import Direction, ProgressMode
from localstore.sync.session import SyncSession
from localstore.testing.faulty import LoseAnswer, Raise
from tests.unit.session_kit import (
    PATIENCE,
    World,
    add,
    eventually,
    in_background,
    in_loop,
    nothing_was_lost,
    numbers,
    sql,
    texts,
    waiting,
)

BOTH = [SyncSession.upload_all_local_changes, SyncSession.download_all_server_changes]
BOTH_ASYNC = [SyncSession.upload_all_local_changes_async, SyncSession.download_all_server_changes_async]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def offline(world: World) -> Realm:
    """A realm with one unsent note that has never reached its remote."""
    world.remote.go_offline()
    realm = world.open()
    add(realm, "unsent")
    world.at_rest()
    return realm


class TestUploading:
    def test_with_nothing_to_upload_it_is_done_at_once_without_ever_having_been_connected(self, world: World) -> None:
        world.remote.go_offline()
        session = world.open().sync_session
        assert session.upload_all_local_changes(timeout=PATIENCE)
        assert session.upload_all_local_changes()
        assert world.remote.changesets() == []

    def test_transactions_that_changed_nothing_need_no_upload(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        add(realm)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_when_it_returns_the_remote_has_everything(self, world: World) -> None:
        realm = world.open()
        add(realm, "a")
        add(realm, "b")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert numbers(realm) == []
        assert world.remote_texts() == ["a", "b"]

    def test_offline_it_stays_pending_and_is_done_when_the_remote_comes_back(self, world: World, offline: Realm) -> None:
        waits = in_background(offline.sync_session.upload_all_local_changes)
        eventually(lambda: waiting(offline.sync_session))
        world.remote.go_online()
        world.clock.advance(1)
        assert waits.result(PATIENCE) is True
        assert world.remote_texts() == ["unsent"]

    def test_it_is_done_when_what_was_committed_at_the_call_is_acknowledged(self, world: World) -> None:
        line = world.line()
        realm = world.open(remote=line)
        session = realm.sync_session
        world.at_rest()
        line.hold("push")
        add(realm, "before")
        eventually(lambda: line.held("push"))
        waits = in_background(session.upload_all_local_changes)
        eventually(lambda: waiting(session))
        add(realm, "after")
        line.let_one_go("push")
        assert waits.result(PATIENCE) is True
        eventually(lambda: line.held("push"))
        assert numbers(realm) == [2]
        line.let_go("push")
        assert session.upload_all_local_changes(timeout=PATIENCE)

    def test_a_part_of_what_is_pending_does_not_complete_it(self, world: World) -> None:
        line = world.line(max_batch_count=1)
        realm = world.open(remote=line)
        realm.sync_session.pause()
        add(realm, "first")
        add(realm, "second")
        line.hold("push")
        realm.sync_session.resume()
        waits = in_background(realm.sync_session.upload_all_local_changes)
        eventually(lambda: waiting(realm.sync_session))
        line.let_one_go("push")
        eventually(lambda: numbers(realm) == [2] and line.held("push"))
        assert not waits.done()
        line.let_go("push")
        assert waits.result(PATIENCE) is True

    def test_what_another_program_wrote_is_waited_for_as_well(self, world: World) -> None:
        realm = world.open()
        world.at_rest()
        sql(realm.path, "INSERT INTO note (id, text) VALUES ('b3ce3f9a4b5c4a5f8e4b9b3f1d2a6c7e', 'by hand')")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert world.remote_texts() == ["by hand"]

    def test_inside_a_write_it_does_not_wait_for_that_write(self, world: World) -> None:
        realm = world.open()
        with realm.write() as tx:
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
            assert tx.is_active

    def test_what_another_process_uploaded_counts(self, world: World) -> None:
        """Two programs on one file: whoever is first empties the outbox for both."""
        cut_off = world.line()
        cut_off.break_down(connect=Raise(Offline("no way out")))
        device = world.device(remote=cut_off)
        realm = device.open()
        add(realm, "shared")
        world.at_rest()
        waits = in_background(realm.sync_session.upload_all_local_changes)
        eventually(lambda: waiting(realm.sync_session))
        other = world.device("other", path=device.path).open()
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert not waits.done()
        cut_off.recover()
        device.app.sync.reconnect()
        assert waits.result(PATIENCE) is True

    def test_a_refused_changeset_does_not_hold_it_up(self, world: World) -> None:
        world.remote.max_changeset_bytes = 1000
        device = world.device()
        realm = device.open()
        add(realm, *(f"too much {number} {number * 7919}" for number in range(200)))
        add(realm, "small")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: device.kinds == ["CompensatingWrite"])
        assert world.remote_texts() == ["small"]


class TestDownloading:
    def test_when_it_returns_everything_from_before_the_call_is_in_the_file(self, world: World) -> None:
        reader = world.open("reader", remote=world.line(watch=False))
        world.at_rest()
        writer = world.open("writer")
        for number in range(20):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert texts(reader) == []
        assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(reader) == texts(writer)

    def test_it_needs_a_connection_even_when_there_is_nothing_new(self, world: World) -> None:
        line = world.line()
        session = world.open(remote=line).sync_session
        world.at_rest()
        before = line.count("pull")
        assert session.download_all_server_changes(timeout=PATIENCE)
        assert line.count("pull") > before

    def test_a_pull_that_was_under_way_does_not_complete_it(self, world: World) -> None:
        line = world.line()
        line.hold("pull")
        session = world.open(remote=line).sync_session
        eventually(lambda: line.held("pull"))
        waits = in_background(session.download_all_server_changes)
        eventually(lambda: waiting(session))
        line.let_one_go("pull")
        eventually(lambda: line.count("pull") == 1 and line.held("pull"))
        assert not waits.done()
        line.let_go("pull")
        assert waits.result(PATIENCE) is True

    def test_all_pages_are_applied_before_it_is_done(self, world: World) -> None:
        writer = world.open("writer")
        for number in range(10):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        reader = world.open("reader", remote=line, page_count=3)
        assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(reader) == texts(writer)
        assert line.count("pull") >= 4

    def test_offline_it_stays_pending_and_is_done_when_the_remote_comes_back(self, world: World, offline: Realm) -> None:
        waits = in_background(offline.sync_session.download_all_server_changes)
        eventually(lambda: waiting(offline.sync_session))
        world.clock.advance(1)
        world.at_rest()
        assert not waits.done()
        world.remote.go_online()
        world.clock.advance(2)
        assert waits.result(PATIENCE) is True

    def test_it_does_not_wait_for_uploads(self, world: World) -> None:
        line = world.line()
        realm = world.open(remote=line)
        line.hold("push")
        add(realm, "stuck")
        eventually(lambda: line.held("push"))
        waits = in_background(realm.sync_session.download_all_server_changes)
        eventually(lambda: waiting(realm.sync_session))
        line.let_one_go("push")
        assert waits.result(PATIENCE) is True
        line.let_go("push")


class TestTimeouts:
    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.001, -math.inf, math.nan])
    def test_a_timeout_has_to_be_positive(self, world: World, wait: Callable[..., bool], timeout: float) -> None:
        session = world.open().sync_session
        with pytest.raises(ValueError, match="positive"):
            wait(session, timeout)
        assert waiting(session) == 0

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("timeout", [0, -1, math.nan])
    def test_also_in_an_event_loop(self, world: World, wait: Callable[..., Any], timeout: float) -> None:
        session = world.open().sync_session
        with pytest.raises(ValueError, match="positive"):
            in_loop(wait(session, timeout))
        assert waiting(session) == 0

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_the_wrong_type_is_refused(self, world: World, wait: Callable[..., bool]) -> None:
        with pytest.raises(TypeError):
            wait(world.open().sync_session, "30")

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("timeout", [None, math.inf, 1e12])
    def test_a_timeout_may_be_as_long_as_one_likes(
        self, world: World, wait: Callable[..., bool], timeout: float | None
    ) -> None:
        realm = world.open()
        add(realm, "a")
        assert in_background(lambda: wait(realm.sync_session, timeout)).result(PATIENCE) is True

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("timeout", [None, math.inf, 1e12])
    def test_also_as_a_coroutine(self, world: World, wait: Callable[..., Any], timeout: float | None) -> None:
        realm = world.open()
        add(realm, "a")
        assert in_loop(wait(realm.sync_session, timeout)) is True

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_when_the_time_is_up_it_says_so_and_the_transfer_goes_on(
        self, world: World, offline: Realm, wait: Callable[..., bool]
    ) -> None:
        assert wait(offline.sync_session, 0.01) is False
        world.remote.go_online()
        world.clock.advance(1)
        eventually(lambda: numbers(offline) == [])
        assert offline.sync_session.state is SessionState.ACTIVE

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    def test_also_for_a_coroutine(self, world: World, offline: Realm, wait: Callable[..., Any]) -> None:
        assert in_loop(wait(offline.sync_session, 0.01)) is False
        world.remote.go_online()
        world.clock.advance(1)
        eventually(lambda: numbers(offline) == [])

    @pytest.mark.parametrize(
        "wait",
        [
            lambda session: session.upload_all_local_changes(0.05),
            lambda session: in_loop(session.upload_all_local_changes_async(0.05)),
        ],
    )
    def test_a_writer_that_is_in_the_way_of_what_another_program_wrote_is_not_waited_for_longer(
        self, world: World, wait: Callable[[SyncSession], bool]
    ) -> None:
        realm = world.open()
        realm.sync_session.pause()
        sql(realm.path, "INSERT INTO note (id, text) VALUES ('b3ce3f9a4b5c4a5f8e4b9b3f1d2a6c7e', 'by hand')")
        with closing(sqlite3.connect(realm.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert in_background(lambda: wait(realm.sync_session)).result(PATIENCE) is False
            other.execute("ROLLBACK")
        with realm._store.lock.held():
            assert in_background(lambda: wait(realm.sync_session)).result(PATIENCE) is False
        realm.sync_session.resume()
        assert realm.sync_session.upload_all_local_changes(PATIENCE)

    def test_what_came_until_then_can_be_read(self, world: World) -> None:
        writer = world.open("writer")
        for number in range(3):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        line.hold("pull")
        reader = world.open("reader", remote=line, page_count=1)
        line.let_one_go("pull")
        eventually(lambda: line.held("pull") and texts(reader) == ["note 0"])
        assert reader.sync_session.download_all_server_changes(timeout=0.01) is False
        assert texts(reader) == ["note 0"]
        line.let_go("pull")
        assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(reader) == texts(writer)

    def test_asking_again_and_again_while_offline_piles_nothing_up(self, offline: Realm) -> None:
        session = offline.sync_session
        for _ in range(20):
            assert session.upload_all_local_changes(timeout=0.001) is False
            assert session.download_all_server_changes(timeout=0.001) is False
            assert in_loop(session.upload_all_local_changes_async(timeout=0.001)) is False
            assert in_loop(session.download_all_server_changes_async(timeout=0.001)) is False
        assert waiting(session) <= 2


class TestManyAtOnce:
    def test_all_of_them_complete(self, world: World, offline: Realm) -> None:
        session = offline.sync_session
        waits = [in_background(lambda wait=wait: wait(session)) for wait in BOTH * 10]  # type: ignore[misc]
        waits += [in_background(lambda wait=wait: in_loop(wait(session))) for wait in BOTH_ASYNC * 5]  # type: ignore[misc]
        eventually(lambda: waiting(session) == 30)
        world.remote.go_online()
        world.clock.advance(1)
        assert [wait.result(PATIENCE) for wait in waits] == [True] * 30
        assert waiting(session) == 0

    def test_waiting_while_others_write_comes_to_an_end_for_everybody(self, world: World) -> None:
        realm = world.open()

        def work(writer: int) -> list[bool]:
            done = []
            for number in range(5):
                add(realm, f"{writer} {number}")
                done.append(realm.sync_session.upload_all_local_changes(timeout=PATIENCE))
                done.append(realm.sync_session.download_all_server_changes(timeout=PATIENCE))
            return done

        workers = [in_background(lambda writer=writer: work(writer)) for writer in range(4)]  # type: ignore[misc]
        assert [worker.result(PATIENCE) for worker in workers] == [[True] * 10] * 4
        assert len(world.remote_texts()) == 20


class TestTransientErrors:
    @pytest.mark.parametrize(
        "error",
        [Offline("gone"), Busy("full"), RateLimited("slow down", retry_after=1)],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize("call", ["connect", "pull", "push"])
    def test_they_do_not_break_a_wait_off(self, world: World, call: str, error: SyncError) -> None:
        line = world.line()
        device = world.device(remote=line)
        line.break_next(call, Raise(error), Raise(error), LoseAnswer(error))
        realm = device.open()
        add(realm, "a")
        upload = in_background(realm.sync_session.upload_all_local_changes)
        download = in_background(realm.sync_session.download_all_server_changes)
        for failures in (1, 2, 3):
            eventually(lambda failures=failures: line.count(call) == failures)  # type: ignore[misc]
            world.at_rest()
            world.clock.advance(8)
        assert upload.result(PATIENCE) is True
        assert download.result(PATIENCE) is True
        assert device.told == []
        assert world.remote_texts() == ["a"]


class TestPausing:
    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_it_breaks_waits_off(self, world: World, offline: Realm, wait: Callable[..., bool]) -> None:
        waits = in_background(lambda: wait(offline.sync_session))
        eventually(lambda: waiting(offline.sync_session))
        offline.sync_session.pause()
        with pytest.raises(OperationAborted, match="paused"):
            waits.result(PATIENCE)

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    def test_also_coroutines(self, world: World, offline: Realm, wait: Callable[..., Any]) -> None:
        waits = in_background(lambda: in_loop(wait(offline.sync_session)))
        eventually(lambda: waiting(offline.sync_session))
        offline.sync_session.pause()
        with pytest.raises(OperationAborted, match="paused"):
            waits.result(PATIENCE)

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_waits_that_begin_while_paused_complete_after_resuming(self, world: World, wait: Callable[..., bool]) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()
        add(realm, "a")
        waits = in_background(lambda: wait(session))
        eventually(lambda: waiting(session))
        session.pause()
        assert not waits.done()
        session.resume()
        assert waits.result(PATIENCE) is True

    def test_while_paused_a_wait_can_only_run_out_of_time(self, world: World) -> None:
        realm = world.open()
        realm.sync_session.pause()
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=0.01) is False
        assert realm.sync_session.download_all_server_changes(timeout=0.01) is False

    def test_with_nothing_to_upload_it_is_done_at_once_while_paused(self, world: World) -> None:
        session = world.open().sync_session
        session.pause()
        assert session.upload_all_local_changes()

    def test_a_hundred_pauses_and_resumes_neither_lose_nor_keep_a_wait(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        for number in range(100):
            add(realm, f"note {number}")
            session.pause()
            session.resume()
        assert session.upload_all_local_changes(timeout=PATIENCE)
        assert session.download_all_server_changes(timeout=PATIENCE)
        assert waiting(session) == 0
        assert len(world.remote_texts()) == 100


class TestFatalErrors:
    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("error", [ProtocolError("nonsense"), Unauthorized("who?")], ids=lambda error: type(error).__name__)
    def test_waits_fail_with_that_error(self, world: World, wait: Callable[..., bool], error: SyncError) -> None:
        line = world.line()
        device = world.device(remote=line)
        line.hold("connect")
        line.break_down(connect=Raise(error))
        realm = device.open()
        add(realm, "a")
        waits = in_background(lambda: wait(realm.sync_session))
        eventually(lambda: waiting(realm.sync_session))
        line.let_go("connect")
        assert waits.exception(PATIENCE) is error
        eventually(lambda: device.told)
        assert device.told == [error]
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_waits_that_begin_afterwards_complete_after_resuming(self, world: World) -> None:
        line = world.line()
        line.break_next("connect", Raise(ProtocolError("nonsense")))
        realm = world.open(remote=line)
        session = realm.sync_session
        eventually(lambda: session.state is SessionState.INACTIVE)
        add(realm, "a")
        waits = [in_background(lambda wait=wait: wait(session)) for wait in BOTH]  # type: ignore[misc]
        eventually(lambda: waiting(session) == 2)
        session.resume()
        assert [wait.result(PATIENCE) for wait in waits] == [True, True]


class TestClosing:
    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_closing_the_realm_breaks_waits_off(self, world: World, wait: Callable[..., bool]) -> None:
        world.remote.go_offline()
        realm = world.device().open(stop_policy="immediately")
        add(realm, "a")
        session = realm.sync_session
        waits = in_background(lambda: wait(session))
        eventually(lambda: waiting(session))
        realm.close()
        with pytest.raises(OperationAborted, match="closed"):
            waits.result(PATIENCE)

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_closing_the_app_breaks_waits_off(self, world: World, wait: Callable[..., bool]) -> None:
        world.remote.go_offline()
        device = world.device()
        realm = device.open()
        add(realm, "a")
        waits = in_background(lambda: wait(realm.sync_session))
        eventually(lambda: waiting(realm.sync_session))
        device.app.close()
        with pytest.raises(OperationAborted, match="closed"):
            waits.result(PATIENCE)

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("state", [SessionState.PAUSED, SessionState.INACTIVE])
    def test_closing_breaks_off_what_began_while_paused_or_stopped(
        self, world: World, state: SessionState, wait: Callable[..., bool]
    ) -> None:
        line = world.line()
        if state is SessionState.INACTIVE:
            line.break_down(connect=Raise(ProtocolError("nonsense")))
        realm = world.open(remote=line)
        session = realm.sync_session
        if state is SessionState.PAUSED:
            session.pause()
        eventually(lambda: session.state is state)
        add(realm, "a")
        waits = in_background(lambda: wait(session))
        eventually(lambda: waiting(session))
        realm.close()
        with pytest.raises(OperationAborted):
            waits.result(PATIENCE)

    def test_a_dying_session_still_completes_an_upload(self, world: World, offline: Realm) -> None:
        session = offline.sync_session
        waits = in_background(session.upload_all_local_changes)
        eventually(lambda: waiting(session))
        offline.close()
        assert session.state is SessionState.DYING
        world.remote.go_online()
        world.clock.advance(1)
        assert waits.result(PATIENCE) is True

    def test_a_dying_session_that_has_uploaded_everything_breaks_a_download_off(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        line.hold("push")
        realm = world.open(remote=line)
        session = realm.sync_session
        add(realm, "unsent")
        line.let_go("connect")
        eventually(lambda: line.held("push"))
        upload, download = (in_background(lambda wait=wait: wait(session)) for wait in BOTH)  # type: ignore[misc]
        eventually(lambda: waiting(session) == 2)
        realm.close()
        assert session.state is SessionState.DYING
        line.let_go("push")
        assert upload.result(PATIENCE) is True
        with pytest.raises(OperationAborted):
            download.result(PATIENCE)
        assert session.state is SessionState.INACTIVE

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_after_the_realm_was_closed_waiting_is_refused(self, world: World, wait: Callable[..., bool]) -> None:
        realm = world.open()
        session = realm.sync_session
        realm.close()
        with pytest.raises(RealmClosed):
            wait(session, PATIENCE)

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_after_the_app_was_closed_nobody_waits_for_ever(self, world: World, wait: Callable[..., bool]) -> None:
        device = world.device()
        realm = device.open()
        device.app.close()
        add(realm, "never sent")
        waits = in_background(lambda: wait(realm.sync_session))
        with pytest.raises(OperationAborted):
            waits.result(PATIENCE)


class TestCoroutines:
    def test_any_event_loop_will_do(self, world: World) -> None:
        realm = world.open()
        for number in range(3):
            add(realm, f"note {number}")
            assert in_loop(realm.sync_session.upload_all_local_changes_async(timeout=PATIENCE)) is True
            assert in_loop(realm.sync_session.download_all_server_changes_async(timeout=PATIENCE)) is True
        assert numbers(realm) == []

    def test_waiting_stops_no_other_task(self, world: World, offline: Realm) -> None:
        async def wait_and_work() -> bool:
            waits = asyncio.create_task(offline.sync_session.upload_all_local_changes_async())
            while not waiting(offline.sync_session):  # noqa: ASYNC110
                await asyncio.sleep(0)
            world.remote.go_online()
            world.clock.advance(1)
            return await waits

        assert in_loop(wait_and_work()) is True

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    def test_a_caller_may_cancel_and_the_transfer_goes_on(self, world: World, offline: Realm, wait: Callable[..., Any]) -> None:
        session = offline.sync_session

        async def give_up() -> None:
            waits = asyncio.create_task(wait(session))
            while not waiting(session):  # noqa: ASYNC110
                await asyncio.sleep(0)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits

        in_loop(give_up())
        world.remote.go_online()
        world.clock.advance(1)
        assert session.upload_all_local_changes(timeout=PATIENCE)

    @pytest.mark.parametrize("wait", BOTH_ASYNC, ids=lambda wait: wait.__name__)
    @pytest.mark.parametrize("gave_up", ["cancelled", "timed out"])
    @pytest.mark.parametrize("loop", ["open", "closed"])
    def test_what_becomes_of_a_wait_that_was_given_up_concerns_nobody(
        self, world: World, offline: Realm, wait: Callable[..., Any], gave_up: str, loop: str
    ) -> None:
        session = offline.sync_session

        async def give_up() -> None:
            if gave_up == "timed out":
                assert await wait(session, timeout=0.01) is False
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(wait(session), 0.01)
            if loop == "open":
                await asyncio.to_thread(session.pause)
                for _ in range(5):
                    await asyncio.sleep(0)

        in_loop(give_up())
        session.pause()
        nothing_was_lost(world.lost.said)


class TestTheErrorHandler:
    @pytest.mark.parametrize(
        "follow",
        [
            SyncSession.connection_state_changes,
            SyncSession.status_changes,
            lambda session: session.progress(Direction.DOWNLOAD, ProgressMode.INDEFINITELY),
        ],
        ids=["connections", "statuses", "progress"],
    )
    def test_it_cannot_follow_a_stream_either_beyond_what_is_in_it(
        self, world: World, follow: Callable[[SyncSession], Iterator[object]]
    ) -> None:
        raised: list[BaseException] = []

        def handler(session: SyncSession, error: SyncError) -> None:
            try:
                list(follow(session))
            except LocalStoreError as refused:
                raised.append(refused)

        line = world.line()
        line.break_next("pull", Raise(ProtocolError("nonsense")))
        session = world.device(remote=line).open(error_handler=handler).sync_session
        eventually(lambda: raised)
        assert "cannot wait for itself" in str(raised[0])
        session.resume()
        assert session.download_all_server_changes(timeout=PATIENCE)

    def test_it_may_read_what_is_in_a_stream_that_has_ended(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        seen: list[object] = []
        session = device.open(error_handler=lambda session, error: seen.extend(changes)).sync_session
        world.at_rest()
        changes = session.connection_state_changes()
        session.pause()
        changes.end()
        line.break_next("pull", Raise(ProtocolError("nonsense")))
        session.resume()
        eventually(lambda: seen)

    @pytest.mark.parametrize("wait", BOTH, ids=lambda wait: wait.__name__)
    def test_it_cannot_wait_for_the_thread_that_it_runs_in(
        self, world: World, wait: Callable[..., bool], caplog: pytest.LogCaptureFixture
    ) -> None:
        """All sessions of the app would stand still for ever."""
        raised: list[BaseException] = []

        def handler(session: SyncSession, error: SyncError) -> None:
            try:
                wait(session)
            except LocalStoreError as refused:
                raised.append(refused)
                raise

        world.remote.max_changeset_bytes = 1000
        realm = world.device().open(error_handler=handler)
        with caplog.at_level(logging.CRITICAL, "localstore.sync"):
            add(realm, *(f"too much {number} {number * 7919}" for number in range(200)))
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: len(raised) == 1)
        assert "wait" in str(raised[0])
