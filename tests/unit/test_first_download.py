"""Opening with what the remote has: the wait, what ends it, and what is left when it was in vain."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from localstore import LocalConfiguration, Realm, SyncConfiguration
from localstore.errors import (
    InitialDataTimeout,
    LocalStoreError,
    Offline,
    OperationAborted,
    ProtocolError,
    SyncError,
)
from localstore.testing.faulty import Hang, Raise, SmallPage
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Line,
    Note,
    Seat,
    World,
    add,
    eventually,
    handling,
    in_background,
    in_loop,
    in_thread,
    is_open,
    joined,
    sql,
    texts,
)

SOON = 0.05
"""A timeout that is meant to run out."""
KEY = bytes(range(32))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def filled(world: World) -> World:
    """A world whose remote has two notes."""
    with world.open("writer") as realm:
        add(realm, "one", "two")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    return world


def welcome(session: Session) -> None:
    session.add(Note(text="welcome"))


def left_over(device: Device) -> list[str]:
    """Files of the device that are there."""
    return sorted(path.name for path in device.path.parent.glob(f"{device.path.name}*"))


class TestWaiting:
    def test_a_new_realm_is_returned_with_what_the_remote_has(self, filled: World) -> None:
        realm = filled.device("reader").open(wait_for_initial_remote_data=PATIENCE)
        assert texts(realm) == ["one", "two"]

    def test_true_waits_as_long_as_it_takes(self, filled: World) -> None:
        line = filled.line()
        line.break_down(connect=Raise(Offline("no network")))
        device = filled.device("reader", remote=line)
        opening = in_background(lambda: device.open(wait_for_initial_remote_data=True))
        filled.at_rest()
        line.recover()
        filled.clock.advance(3600)
        assert texts(opening.result(PATIENCE)) == ["one", "two"]

    def test_every_page_is_waited_for(self, filled: World) -> None:
        line = filled.line()
        line.break_down(pull=SmallPage(1))
        with filled.open("other") as other:
            for number in range(5):
                add(other, str(number))
            assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm = filled.device("reader", remote=line).open(wait_for_initial_remote_data=PATIENCE)
        assert len(texts(realm)) == 7
        assert line.count("pull") > 5

    def test_an_empty_remote_is_waited_for_as_well(self, world: World) -> None:
        assert texts(world.device().open(wait_for_initial_remote_data=PATIENCE)) == []

    @pytest.mark.parametrize("wait", [None, False])
    def test_without_it_opening_offline_never_waits(self, filled: World, wait: bool | None) -> None:
        filled.remote.go_offline()
        assert texts(filled.device("reader").open(wait_for_initial_remote_data=wait)) == []

    def test_a_file_that_was_there_never_waits(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        with device.open():
            pass
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        with device.open(wait_for_initial_remote_data=True) as realm:
            assert texts(realm) == []

    def test_a_file_that_was_complete_once_never_waits_again(self, filled: World) -> None:
        device = filled.device("reader")
        with device.open(wait_for_initial_remote_data=PATIENCE):
            pass
        filled.remote.go_offline()
        with device.open(wait_for_initial_remote_data=PATIENCE) as realm:
            assert texts(realm) == ["one", "two"]

    def test_a_file_with_tables_of_its_own_is_not_new(self, filled: World) -> None:
        device = filled.device("reader")
        with Realm.open(LocalConfiguration(path=device.path, schema={Seat})):
            pass
        filled.remote.go_offline()
        with device.open(wait_for_initial_remote_data=True, initial_data=welcome) as realm:
            assert texts(realm) == ["welcome"]

    def test_in_memory_each_opening_waits(self, filled: World) -> None:
        device = filled.device("reader")
        for _ in range(2):
            with device.open(in_memory=True, wait_for_initial_remote_data=PATIENCE) as realm:
                assert texts(realm) == ["one", "two"]

    def test_encrypted_files_wait_too(self, filled: World) -> None:
        device = filled.device("reader")
        with device.open(encryption_key=KEY, wait_for_initial_remote_data=PATIENCE) as realm:
            assert texts(realm) == ["one", "two"]

    def test_nothing_of_the_wait_is_left_in_the_file(self, filled: World) -> None:
        device = filled.device("reader")
        with device.open(wait_for_initial_remote_data=PATIENCE):
            assert sql(device.path, "SELECT name FROM sqlite_master WHERE name LIKE '%await%'") == []

    @pytest.mark.parametrize("wait", [0, -1, float("nan"), 0.0])
    def test_a_time_that_is_not_positive_is_refused(self, world: World, wait: float) -> None:
        with pytest.raises(ValueError, match="wait_for_initial_remote_data is a positive number"):
            world.device().configuration(wait_for_initial_remote_data=wait)

    @pytest.mark.parametrize("wait", ["30", b"", [1]])
    def test_what_is_no_time_is_refused(self, world: World, wait: Any) -> None:
        with pytest.raises(TypeError, match="wait_for_initial_remote_data"):
            world.device().configuration(wait_for_initial_remote_data=wait)


class TestInVain:
    def test_the_time_is_up_and_no_file_is_left(self, filled: World) -> None:
        line = filled.line()
        line.break_down(connect=Raise(Offline("The server is away.")))
        device = filled.device("reader", remote=line)
        with pytest.raises(InitialDataTimeout, match=r"did not arrive within 0\.05 s: The server is away"):
            device.open(wait_for_initial_remote_data=SOON)
        assert left_over(device) == []
        assert not device.app.sync.has_sync_sessions

    def test_a_later_opening_can_try_again(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        for _ in range(3):
            with pytest.raises(InitialDataTimeout):
                device.open(wait_for_initial_remote_data=SOON)
        filled.remote.go_online()
        assert texts(device.open(wait_for_initial_remote_data=PATIENCE)) == ["one", "two"]

    def test_or_open_without_it(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        with pytest.raises(InitialDataTimeout):
            device.open(wait_for_initial_remote_data=SOON)
        assert texts(device.open()) == []

    def test_a_download_that_stopped_half_way_leaves_no_file(self, filled: World) -> None:
        line = filled.line()
        line.break_next("pull", SmallPage(1), Hang())
        with filled.open("other") as other:
            add(other, "three")
            assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        device = filled.device("reader", remote=line)
        with pytest.raises(InitialDataTimeout):
            device.open(wait_for_initial_remote_data=0.5)
        assert line.count("pull") == 2
        assert left_over(device) == []

    def test_an_adapter_that_hangs_for_ever_holds_nobody(self, filled: World) -> None:
        line = filled.line()
        line.break_down(connect=Hang(), close=Hang())
        device = filled.device("reader", remote=line)
        with pytest.raises(InitialDataTimeout):
            device.open(wait_for_initial_remote_data=SOON)
        assert left_over(device) == []

    def test_errors_that_are_fatal_are_raised_by_the_opening(self, filled: World) -> None:
        line = filled.line()
        line.break_down(connect=Raise(ProtocolError("other version")))
        device = filled.device("reader", remote=line)
        with pytest.raises(ProtocolError, match="other version"):
            device.open(wait_for_initial_remote_data=True)
        assert left_over(device) == []

    def test_also_in_memory(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        with pytest.raises(InitialDataTimeout):
            device.open(wait_for_initial_remote_data=SOON, in_memory=True)
        assert not device.app.sync.has_sync_sessions
        filled.remote.go_online()
        assert texts(device.open(wait_for_initial_remote_data=PATIENCE, in_memory=True)) == ["one", "two"]

    def test_closing_the_app_ends_the_wait(self, filled: World) -> None:
        line = filled.line()
        line.hold("connect")
        device = filled.device("reader", remote=line)
        opening = in_background(lambda: device.open(wait_for_initial_remote_data=True))
        eventually(lambda: line.held("connect"))
        device.app.close()
        with pytest.raises(OperationAborted):
            opening.result(PATIENCE)
        assert left_over(device) == []

    def test_an_error_handler_cannot_wait_for_its_own_thread(self, filled: World) -> None:
        line = filled.line()
        line.break_down(connect=Raise(ProtocolError("broken")))
        device = filled.device("reader", remote=line)
        other = filled.directory / "inside.db"
        said: list[BaseException] = []

        def handler(session: object, error: SyncError) -> None:
            try:
                device.open(path=other, wait_for_initial_remote_data=PATIENCE)
            except BaseException as error:  # noqa: BLE001
                said.append(error)

        device.open(error_handler=handler)
        eventually(lambda: said)
        assert isinstance(said[0], LocalStoreError)
        assert "cannot wait for itself" in str(said[0])
        assert not other.exists()

    def test_ctrl_c_in_the_wait_leaves_no_file(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        over, is_over = threading.Lock(), threading.Event()

        def interrupt() -> None:
            """Until it has an effect: Python drops one that comes while it cleans up."""
            while not is_over.wait(0.5):
                with over:
                    if not is_over.is_set():
                        os.kill(os.getpid(), signal.SIGINT)

        thread = in_thread(interrupt)
        with handling(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):  # noqa: PT012
            try:
                device.open(wait_for_initial_remote_data=True)
            finally:
                with over:
                    is_over.set()
        joined(thread)
        assert left_over(device) == []


class TestFirstDataAfterIt:
    def test_it_sees_what_the_remote_has(self, filled: World) -> None:
        seen: list[list[str]] = []

        def look(session: Session) -> None:
            seen.append(sorted(session.exec(select(Note.text)).all()))
            welcome(session)

        device = filled.device("reader")
        realm = device.open(wait_for_initial_remote_data=PATIENCE, initial_data=look)
        assert seen == [["one", "two"]]
        assert texts(realm) == ["one", "two", "welcome"]
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert filled.remote_texts() == ["one", "two", "welcome"]

    def test_it_is_written_once(self, filled: World) -> None:
        device = filled.device("reader")
        for _ in range(2):
            with device.open(wait_for_initial_remote_data=PATIENCE, initial_data=welcome) as realm:
                assert texts(realm) == ["one", "two", "welcome"]

    def test_what_it_raises_is_raised_and_leaves_no_file(self, filled: World) -> None:
        def fail(session: Session) -> None:
            welcome(session)
            raise RuntimeError("no")

        device = filled.device("reader")
        with pytest.raises(RuntimeError, match="no"):
            device.open(wait_for_initial_remote_data=PATIENCE, initial_data=fail)
        assert left_over(device) == []
        with device.open(wait_for_initial_remote_data=PATIENCE, initial_data=welcome) as realm:
            assert texts(realm) == ["one", "two", "welcome"]

    def test_it_may_change_what_came(self, filled: World) -> None:
        def mend(session: Session) -> None:
            note = session.exec(select(Note).where(col(Note.text) == "one")).one()
            note.text = "first"

        realm = filled.device("reader").open(wait_for_initial_remote_data=PATIENCE, initial_data=mend)
        assert texts(realm) == ["first", "two"]
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert filled.remote_texts() == ["first", "two"]

    def test_a_process_that_ended_in_the_wait_is_followed_by_one_that_waits(self, filled: World) -> None:
        line = filled.line()
        line.break_next("pull", SmallPage(1), Hang())
        with filled.open("other") as other:
            add(other, "three")
            assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        killed = filled.device("reader", remote=line)
        opening = in_background(lambda: killed.open(wait_for_initial_remote_data=True, initial_data=welcome))
        eventually(lambda: line.count("pull") == 2)
        copy = filled.directory / "as-it-was.db"
        sql(killed.path, "VACUUM INTO ?", str(copy))  # the file as a kill would leave it
        after = filled.device("after", path=copy)
        with after.open(wait_for_initial_remote_data=PATIENCE, initial_data=welcome) as realm:
            assert texts(realm) == ["one", "three", "two", "welcome"]
        killed.app.close()
        with pytest.raises(OperationAborted):
            opening.result(PATIENCE)


class TestSeveralAtOnce:
    def openings(self, device: Device, count: int, **options: Any) -> list[Future[Realm]]:
        return [in_background(lambda: device.open(initial_data=welcome, **options)) for _ in range(count)]

    def test_all_wait_and_the_first_data_is_written_once(self, filled: World) -> None:
        line = filled.line()
        line.hold("pull")
        device = filled.device("reader", remote=line)
        openings = self.openings(device, 8, wait_for_initial_remote_data=PATIENCE)
        line.let_one_go("pull")
        line.let_go("pull")
        realms = [opening.result(PATIENCE) for opening in openings]
        assert all(texts(realm) == ["one", "two", "welcome"] for realm in realms)

    def test_one_that_does_not_wait_is_not_held_up(self, filled: World) -> None:
        line = filled.line()
        line.hold("pull")
        device = filled.device("reader", remote=line)
        (waiting,) = self.openings(device, 1, wait_for_initial_remote_data=PATIENCE)
        eventually(lambda: line.held("pull"))
        assert texts(device.open()) == []
        line.let_go("pull")
        assert texts(waiting.result(PATIENCE)) == ["one", "two", "welcome"]

    def test_one_whose_time_is_up_does_not_end_the_others(self, filled: World) -> None:
        line = filled.line()
        line.hold("pull")
        device = filled.device("reader", remote=line)
        patient = in_background(lambda: device.open(wait_for_initial_remote_data=PATIENCE))
        eventually(lambda: line.held("pull"))
        with pytest.raises(InitialDataTimeout):
            device.open(wait_for_initial_remote_data=SOON)
        line.let_go("pull")
        assert texts(patient.result(PATIENCE)) == ["one", "two"]

    def test_a_file_that_somebody_wrote_to_is_kept_when_the_time_is_up(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        opening = in_background(lambda: device.open(wait_for_initial_remote_data=1.0))
        eventually(lambda: is_open(device.path))
        filled.at_rest()
        with device.open(stop_policy="immediately") as realm:
            add(realm, "mine")
        with pytest.raises(InitialDataTimeout):
            opening.result(PATIENCE)
        filled.remote.go_online()
        with device.open(wait_for_initial_remote_data=PATIENCE, initial_data=welcome) as realm:
            assert texts(realm) == ["mine", "one", "two", "welcome"]

    def test_a_pause_of_another_realm_ends_the_wait(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        opening = in_background(lambda: device.open(wait_for_initial_remote_data=True))
        eventually(lambda: is_open(device.path))
        filled.at_rest()
        with device.open() as realm:
            realm.sync_session.pause()
            with pytest.raises(OperationAborted):
                opening.result(PATIENCE)


class TestInEventLoops:
    def opened(self, device: Device, **options: Any) -> Callable[[], Any]:
        configuration: SyncConfiguration = device.configuration(**options)
        return lambda: Realm.open_async(configuration)

    def test_it_waits_without_stopping_the_loop(self, filled: World) -> None:
        line = filled.line()
        line.hold("pull")
        open_realm = self.opened(filled.device("reader", remote=line), wait_for_initial_remote_data=PATIENCE)

        async def run() -> list[str]:
            opening = asyncio.ensure_future(open_realm())
            await asyncio.to_thread(eventually, lambda: line.held("pull"))
            line.let_go("pull")
            async with asyncio.timeout(PATIENCE):
                with await opening as realm:
                    return texts(realm)

        assert in_loop(run()) == ["one", "two"]

    def test_the_time_is_up(self, filled: World) -> None:
        filled.remote.go_offline()
        device = filled.device("reader")
        with pytest.raises(InitialDataTimeout):
            in_loop(self.opened(device, wait_for_initial_remote_data=SOON)())
        assert left_over(device) == []

    def test_cancelled_in_the_wait_it_leaves_nothing(self, filled: World) -> None:
        line = filled.line()
        line.hold("pull")
        device = filled.device("reader", remote=line)
        open_realm = self.opened(device, wait_for_initial_remote_data=True)

        async def run() -> None:
            opening = asyncio.ensure_future(open_realm())
            await asyncio.to_thread(eventually, lambda: line.held("pull"))
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

        in_loop(run())
        assert left_over(device) == []
        assert not device.app.sync.has_sync_sessions

    @pytest.mark.parametrize("wait", [None, True])
    def test_cancelled_before_the_file_is_open_it_leaves_no_open_realm(self, filled: World, wait: bool | None) -> None:
        device = filled.device("reader")
        open_realm = self.opened(device, wait_for_initial_remote_data=wait)

        async def run() -> None:
            opening = asyncio.ensure_future(open_realm())
            await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

        in_loop(run())
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        assert not is_open(device.path)
        assert device.path.exists() is (wait is None)


def test_a_line_counts_what_a_wait_costs(filled: World) -> None:
    """One connect, and no pull more than without."""
    line = filled.line()
    assert isinstance(line, Line)
    filled.device("reader", remote=line).open(wait_for_initial_remote_data=PATIENCE)
    assert line.count("connect") == 1
