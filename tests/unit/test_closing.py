"""Closing realms and apps: who may wait for what, what a closed one says, and Ctrl-C in the middle of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import pytest

from localstore import ConnectionState, Realm, SessionState
from localstore.errors import LocalStoreError, ProtocolError, RealmClosed, SyncError
from localstore.sync.bell import Bell
from localstore.sync.workers import Workers
from localstore.testing.faulty import Raise
from tests.interrupting import Interruptions
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Note,
    World,
    add,
    eventually,
    in_background,
    in_loop,
    in_thread,
    is_let_go,
    joined,
    no_threads_are_left,
    texts,
)
from tests.unit.test_interruptions import PACKAGE


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


class TestWaitingForSessionsToEnd:
    def test_without_sessions_it_is_done_at_once(self, world: World) -> None:
        device = world.device()
        assert device.app.sync.wait_for_sessions_to_terminate()
        assert in_loop(device.app.sync.wait_for_sessions_to_terminate_async())

    def test_in_an_event_loop_it_wakes_when_the_last_one_ends(self, world: World) -> None:
        line = world.line()
        line.hold("push")
        device = world.device(remote=line)
        add(realm := device.open(), "a")
        realm.close()
        waits = [in_background(lambda: in_loop(device.app.sync.wait_for_sessions_to_terminate_async())) for _ in range(5)]
        eventually(lambda: line.held("push"))
        eventually(lambda: len(device.app.sync._emptied._wakers) == 5)
        assert not any(wait.done() for wait in waits)
        line.let_go("push")
        assert [wait.result(PATIENCE) for wait in waits] == [True] * 5
        assert Realm.delete_files(device.configuration())
        assert not device.app.sync._emptied._wakers

    @pytest.mark.parametrize("timeout", [0, 0.05])
    def test_it_is_false_when_the_time_is_up(self, world: World, timeout: float) -> None:
        device = world.device()
        device.open()
        assert not device.app.sync.wait_for_sessions_to_terminate(timeout)
        assert not in_loop(device.app.sync.wait_for_sessions_to_terminate_async(timeout))

    def test_it_can_be_cancelled(self, world: World) -> None:
        device = world.device()
        device.open()

        async def run() -> None:
            task = asyncio.ensure_future(device.app.sync.wait_for_sessions_to_terminate_async())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        in_loop(run())
        assert not device.app.sync._emptied._wakers

    def test_an_error_handler_is_told_that_it_would_wait_for_itself(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("broken")))
        device = world.device(remote=line)
        said: list[Exception] = []

        def handler(session: object, error: SyncError) -> None:
            try:
                device.app.sync.wait_for_sessions_to_terminate()
            except Exception as error:  # noqa: BLE001
                said.append(error)

        device.open(error_handler=handler)
        eventually(lambda: said)
        assert isinstance(said[0], LocalStoreError)
        assert "background thread" in str(said[0])


class TestAfterwards:
    def test_a_closed_realm_says_so(self, world: World) -> None:
        realm = world.open()
        realm.close()
        realm.close()
        calls: list[Callable[[], object]] = [
            lambda: add(realm, "a"), lambda: texts(realm), lambda: realm.version, lambda: realm.sync_session, realm.pending,
            realm.conflicts, lambda: realm.device_id, lambda: realm.read().__enter__(), lambda: realm.write_async(),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(RealmClosed, match="was closed"):
                call()
        assert realm.is_closed

    def test_a_closed_app_opens_nothing_more_and_its_open_realms_work(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        device.app.close()
        device.app.close()
        add(realm, "after")
        assert texts(realm) == ["after"]
        with pytest.raises(ValueError, match="was closed"):
            device.open()
        realm.close()
        assert is_let_go(device.path)
        device.app.sync.reconnect()

    def test_closing_one_realm_twice_does_not_close_another_on_the_file(self, world: World) -> None:
        device = world.device()
        one, two = device.open(), device.open()
        one.close()
        one.close()
        add(two, "a")
        assert texts(two) == ["a"]


class TestAnAdapterThatHangsAsItIsClosed:
    def test_does_not_keep_the_app_from_closing(self, world: World) -> None:
        line = world.line()
        line.hold("close")
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        device.app.close()
        assert line.held("close") == 1  # not even interrupted
        realm.close()
        assert is_let_go(device.path)
        line.let_go("close")
        eventually(lambda: line.count("close") == 1)

    def test_does_not_keep_a_realm_from_closing_nor_another_from_opening(self, world: World) -> None:
        line = world.line()
        line.hold("close")
        device = world.device(remote=line)
        device.open().close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        realm = device.open()
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line.let_go("close")


OURS = tuple(str(PACKAGE / name) for name in ("realm.py", "app.py", "app_sync.py"))
"""Files with places at which Ctrl-C comes."""


@pytest.mark.skipif(sys.getprofile() is not None, reason="a profiler is at work already")
def test_ctrl_c_anywhere_while_a_realm_is_closed_is_made_up_for_by_closing_it_again(world: World) -> None:
    device = world.device()
    interruptions, of_the_last = Interruptions(OURS.__contains__), Interruptions(OURS.__contains__)
    places: list[str | None] = []
    while places[-2:] != [None, None]:
        one, two = device.open(), device.open()
        places.append(interruptions.run(one.close))
        one.close()
        assert one.is_closed
        assert texts(two) == []  # not closed with it
        places.append(of_the_last.run(two.close))
        two.close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE), places[-2:]
    assert len(places) > 30


@pytest.mark.skipif(sys.getprofile() is not None, reason="a profiler is at work already")
def test_ctrl_c_anywhere_while_an_app_is_closed_is_made_up_for_by_closing_it_again(world: World) -> None:
    interruptions = Interruptions(OURS.__contains__)
    places: list[str | None] = []
    while not places or places[-1] is not None:
        device = world.device(f"device-{len(places)}")
        device.open().close()
        realm = device.open()
        places.append(interruptions.run(device.app.close))
        device.app.close()
        assert texts(realm) == []
        realm.close()
        assert not device.app.sync.has_sync_sessions, places[-1]
    assert len(places) > 15


def test_of_a_realm_that_outlives_its_app_no_session_is_left(world: World) -> None:
    device = world.device()
    realm = device.open()
    add(realm, "kept")
    sync = device.app.sync
    waiting = [in_background(sync.wait_for_sessions_to_terminate)]
    waiting.append(in_background(lambda: in_loop(sync.wait_for_sessions_to_terminate_async())))
    device.app.close()
    assert not sync.has_sync_sessions
    assert [one.result(PATIENCE) for one in waiting] == [True, True]
    assert texts(realm) == ["kept"]
    realm.close()
    assert not sync.has_sync_sessions


class TestBell:
    def test_a_waiter_whose_loop_was_closed_is_in_nobodys_way(self) -> None:
        bell = Bell()
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(bell.wait(lambda: False, None))
        loop.run_until_complete(asyncio.sleep(0))
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(waiting)
        loop.close()
        bell._wakers.append(lambda: loop.call_soon_threadsafe(print))
        bell.ring()

    def test_what_is_so_already_is_not_waited_for(self) -> None:
        assert in_loop(Bell().wait(lambda: True, None))


class TestWorkers:
    @pytest.fixture
    def workers(self) -> Iterator[Workers]:
        workers = Workers(3)
        yield workers
        workers.end(PATIENCE)
        no_threads_are_left()

    def test_they_give_results_and_errors(self, workers: Workers) -> None:
        assert workers.submit(lambda a, b: a + b, 1, b=2).result(PATIENCE) == 3
        with pytest.raises(ZeroDivisionError):
            workers.submit(lambda: 1 / 0).result(PATIENCE)

    def test_a_worker_that_is_free_is_taken_before_another_is_hired(self, workers: Workers) -> None:
        for _ in range(200):
            assert workers.submit(threading.current_thread).result(PATIENCE).daemon
        assert len(workers._hired) == 1

    def test_who_hears_of_a_result_finds_its_worker_free(self, workers: Workers) -> None:
        """As a session does, which has one call after another; each thread more has a heap of its own."""
        go, heard = threading.Event(), SimpleQueue[Future[None]]()
        first = workers.submit(go.wait, PATIENCE)
        first.add_done_callback(lambda _: heard.put(workers.submit(lambda: None)))
        go.set()
        heard.get(timeout=PATIENCE).result(PATIENCE)
        assert len(workers._hired) == 1

    def test_of_those_that_are_free_the_last_to_become_so_is_taken(self, workers: Workers) -> None:
        """What it has in its heap and in the processor's caches is used again."""
        goes = [threading.Event() for _ in range(3)]
        jobs = [workers.submit(lambda go=go: (go.wait(PATIENCE), threading.current_thread())[1]) for go in goes]
        threads = []
        for number in (1, 2, 0):
            goes[number].set()
            threads.append(jobs[number].result(PATIENCE))
        assert [workers.submit(threading.current_thread).result(PATIENCE) for _ in range(10)] == [threads[-1]] * 10

    def test_there_are_no_more_than_the_limit_and_no_job_is_lost(self, workers: Workers) -> None:
        go = threading.Event()
        jobs = [workers.submit(go.wait, PATIENCE) for _ in range(10)]
        assert len(workers._hired) == 3
        go.set()
        assert all(job.result(PATIENCE) for job in jobs)

    def test_a_job_can_be_cancelled_before_it_begins(self, workers: Workers) -> None:
        go = threading.Event()
        blocking = [workers.submit(go.wait, PATIENCE) for _ in range(3)]
        late = workers.submit(print)
        assert late.cancel()
        go.set()
        assert all(job.result(PATIENCE) for job in blocking)
        with pytest.raises(CancelledError):
            late.result(PATIENCE)

    def test_jobs_given_before_the_end_are_done_and_later_ones_refused(self, workers: Workers) -> None:
        jobs = [workers.submit(lambda: "done") for _ in range(10)]
        workers.end(PATIENCE)
        assert [job.result(0) for job in jobs] == ["done"] * 10
        with pytest.raises(RuntimeError):
            workers.submit(print)
        workers.shutdown(wait=True)

    def test_its_end_does_not_wait_for_one_that_hangs(self, workers: Workers) -> None:
        go = threading.Event()
        hanging = workers.submit(go.wait)
        ending = threading.Thread(target=workers.end, args=(0.05,), name="test")
        ending.start()
        joined(ending)
        assert not hanging.done()
        go.set()


class TestAWriterThatComesInBetween:
    """One that begins when the realm is being closed already, and takes longer than anybody waits for."""

    def closed_under_a_writer(self, world: World) -> tuple[Device, Realm, threading.Event, threading.Thread]:
        device = world.device(busy_timeout=0.2)
        realm = device.open(stop_policy="immediately")
        eventually(lambda: realm.sync_session.connection_state is ConnectionState.CONNECTED)
        writing, go = threading.Event(), threading.Event()
        writers: list[threading.Thread] = []

        def write() -> None:
            with realm.write() as tx:
                tx.add(Note(text="late"))
                writing.set()
                assert go.wait(PATIENCE)

        def begin(_: object) -> None:
            writers.append(in_thread(write))
            assert writing.wait(PATIENCE)

        realm.sync_session.on_connection_state_change(begin)
        realm.close()
        return device, realm, go, writers[0]

    def test_is_not_cut_off_and_the_file_is_closed_behind_it(self, world: World) -> None:
        device, realm, go, writer = self.closed_under_a_writer(world)
        assert realm.is_closed
        assert device.app.sync.has_sync_sessions
        assert not device.app.sync.wait_for_sessions_to_terminate(0.01)
        go.set()
        joined(writer)
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        with device.open() as again:
            assert texts(again) == ["late"]

    def test_does_not_keep_the_session_from_a_realm_that_is_opened_meanwhile(self, world: World) -> None:
        device, _, go, writer = self.closed_under_a_writer(world)
        opening = in_background(device.open)
        go.set()
        joined(writer)
        again = opening.result(PATIENCE)
        assert again.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert texts(again) == ["late"]

    @pytest.mark.slow
    def test_does_not_keep_an_app_from_ending_its_other_sessions(self, world: World) -> None:
        device, _, go, writer = self.closed_under_a_writer(world)
        other = device.open(path=world.directory / "other.db")
        in_background(device.app.close).result(PATIENCE)
        assert other.sync_session.state is SessionState.INACTIVE
        go.set()
        joined(writer)
