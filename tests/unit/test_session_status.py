"""``session.status``: one value that tells the truth, and ``status_changes()``, which never misses the last one."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from localstore import ConnectionState, Realm, Reason, SessionState, SyncStatus
from localstore.adapter import Cursor, Limit, Page
from localstore.errors import Busy, Offline, ProtocolError, RateLimited, RealmClosed, SyncError, Unauthorized
from localstore.store.outbox import Pending
from localstore.sync.status import Facts, describe, reason_of
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Raise
from localstore.testing.memory import MemoryAdapter
from tests.unit.session_kit import PATIENCE, World, add, eventually, in_background, in_loop, sql

A, P, I, D, W = (  # noqa: E741
    SessionState.ACTIVE,
    SessionState.PAUSED,
    SessionState.INACTIVE,
    SessionState.DYING,
    SessionState.WAITING_FOR_ACCESS_TOKEN,
)
OFF, TRYING, ON = ConnectionState.DISCONNECTED, ConnectionState.CONNECTING, ConnectionState.CONNECTED


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def time(clock: ManualClock) -> datetime:
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)


def is_in_step(realm: Realm) -> bool:
    return realm.sync_session.status.why is Reason.IN_STEP


class TestWhy:
    @pytest.mark.parametrize(
        ("state", "connection", "facts", "pending", "why"),
        [
            (A, ON, Facts(at_head=True), False, Reason.IN_STEP),
            (A, ON, Facts(at_head=True), True, Reason.SYNCING),
            (A, ON, Facts(), False, Reason.SYNCING),
            (D, ON, Facts(at_head=True), True, Reason.SYNCING),
            (A, TRYING, Facts(), False, Reason.CONNECTING),
            (A, OFF, Facts(), False, Reason.CONNECTING),
            (A, OFF, Facts(error=Offline("no"), retry_ms=1), False, Reason.OFFLINE),
            (A, OFF, Facts(error=Busy("no"), retry_ms=1), False, Reason.BACKING_OFF),
            (A, OFF, Facts(error=RateLimited("no"), retry_ms=1), True, Reason.BACKING_OFF),
            (D, OFF, Facts(error=Offline("no"), retry_ms=1), True, Reason.OFFLINE),
            (A, TRYING, Facts(error=Offline("no")), False, Reason.CONNECTING),
            (A, ON, Facts(resetting=True), True, Reason.RESETTING),
            (A, OFF, Facts(resetting=True, error=Offline("no"), retry_ms=1), True, Reason.RESETTING),
            (P, OFF, Facts(), False, Reason.PAUSED),
            (P, OFF, Facts(error=ProtocolError("no")), True, Reason.PAUSED),
            (W, OFF, Facts(), False, Reason.WAITING_FOR_TOKEN),
            (I, OFF, Facts(), True, Reason.CLOSED),
            (I, OFF, Facts(error=Offline("no")), False, Reason.CLOSED),
            (I, OFF, Facts(error=ProtocolError("no")), False, Reason.FAILED),
            (I, OFF, Facts(error=Unauthorized("no")), False, Reason.REFUSED),
        ],
    )
    def test_is_the_first_reason_that_applies(
        self, state: SessionState, connection: ConnectionState, facts: Facts, pending: bool, why: Reason
    ) -> None:
        assert reason_of(state, connection, facts, has_pending=pending) is why

    def test_every_reason_can_be_the_reason(self) -> None:
        (marker,) = (mark for mark in self.test_is_the_first_reason_that_applies.pytestmark)  # type: ignore[attr-defined]
        assert {case[-1] for case in marker.args[1]} == set(Reason)


class TestTheValue:
    def test_is_synced_only_when_nothing_is_pending_and_the_head_was_reached(self) -> None:
        for at_head in (False, True):
            for pending in (Pending(), Pending(1, 10), Pending(unsealed=True)):
                status = describe(A, ON, Facts(at_head=at_head), pending)
                assert status.is_synced is (at_head and not pending)
                assert status.is_caught_up is at_head

    def test_is_not_caught_up_without_a_connection(self) -> None:
        assert not describe(A, OFF, Facts(at_head=True), Pending()).is_caught_up

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            describe(A, ON, Facts(), Pending()).why = Reason.PAUSED  # type: ignore[misc]

    def test_reads_as_a_sentence(self) -> None:
        facts = Facts(error=Offline("The hub does not answer."), retry_ms=1_767_225_600_000)
        said = str(describe(A, OFF, facts, Pending(2, 4096)))
        assert said.startswith("offline until ")
        assert said.endswith("2 changesets (4,096 bytes) to send (The hub does not answer.)")
        assert "1 changeset (7 bytes)" in str(describe(P, OFF, Facts(), Pending(1, 7)))
        assert str(describe(A, ON, Facts(at_head=True), Pending())) == "in step"
        damaged = Facts(at_head=True, damage=("a torn file", "another"), passed_over=("a sync tool's",))
        assert str(describe(A, ON, damaged, Pending())) == "in step, 2 problems at the remote"
        assert str(describe(A, ON, Facts(damage=("a torn file",)), Pending(1, 7))).endswith("to send, 1 problem at the remote")

    @pytest.mark.parametrize(("error", "transient"), [(None, False), (Offline("no"), True), (ProtocolError("no"), False)])
    def test_says_whether_its_error_passes_by_itself(self, error: SyncError | None, transient: bool) -> None:
        assert describe(A, OFF, Facts(error=error), Pending()).is_error_transient is transient


class TestASession:
    def test_names_what_is_damaged_at_the_remote_until_it_is_whole(self, world: World) -> None:
        found: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(("a torn file",), ("x.tmp",))]

        class Damaged(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                damage, passed_over = found[-1]
                return dataclasses.replace(page, warnings=damage, passed_over=passed_over)

        device = world.device(remote=lambda: Damaged(world.remote))
        realm = device.open()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        status = realm.sync_session.status
        assert (status.damage, status.passed_over) == (("a torn file",), ("x.tmp",))
        realm.sync_session.pause()
        assert realm.sync_session.status.damage == ("a torn file",)  # as far as is known
        found.append(((), ()))
        realm.sync_session.resume()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        status = realm.sync_session.status
        assert (status.damage, status.passed_over) == ((), ())
        assert device.kinds == ["RemoteDamage"]  # what was passed over is nobody's business

    def test_shows_no_secret_of_what_an_adapter_says_is_damaged(self, world: World) -> None:
        class Damaged(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                said = ("http://emma:hidden@hub/x is torn",)
                return dataclasses.replace(page, warnings=said, passed_over=said)

        device = world.device(remote=lambda: Damaged(world.remote))
        realm = device.open()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        status = realm.sync_session.status
        assert "hidden" not in f"{status.damage} {status.passed_over} {device.told}"
        assert "is torn" in status.damage[0]

    def test_in_step_says_so_and_when_it_last_sent_and_received(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_in_step(realm))
        began = time(world.clock)
        status = realm.sync_session.status
        assert (status.state, status.connection_state, status.next_attempt) == (A, ON, None)
        assert (status.last_download, status.last_upload, status.last_error) == (began, None, None)
        assert status.is_synced
        world.clock.advance(10)
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: is_in_step(realm))
        assert realm.sync_session.status.last_upload == began + timedelta(seconds=10)
        assert realm.sync_session.is_synced

    def test_offline_says_until_when_and_what_is_pending(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        world.at_rest()
        add(realm, "a")
        add(realm, "b")
        status = realm.sync_session.status
        assert (status.state, status.connection_state, status.why) == (A, OFF, Reason.OFFLINE)
        assert status.next_attempt == time(world.clock) + timedelta(seconds=1)
        assert status.pending_changesets == 2
        assert status.pending_bytes == sum(changeset.byte_count for changeset in realm.pending())
        assert isinstance(status.last_error, Offline)
        assert status.is_error_transient
        assert not status.is_synced

    def test_that_a_remote_asks_to_wait_says_until_when(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(RateLimited("slowly", retry_after=77)))
        realm = world.open(remote=line)
        world.at_rest()
        status = realm.sync_session.status
        assert (status.why, status.next_attempt) == (Reason.BACKING_OFF, time(world.clock) + timedelta(seconds=77))

    def test_that_is_paused_says_by_whom_and_goes_on_counting(self, world: World) -> None:
        realm = world.open()
        world.at_rest()
        realm.sync_session.pause()
        add(realm, "a")
        status = realm.sync_session.status
        assert (status.state, status.why, status.pending_changesets) == (P, Reason.PAUSED, 1)
        assert str(status).startswith("paused by the user, 1 changeset (")

    def test_that_is_paused_while_it_waits_makes_no_next_attempt(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        world.at_rest()
        assert realm.sync_session.status.next_attempt is not None
        realm.sync_session.pause()
        status = realm.sync_session.status
        assert (status.why, status.next_attempt) == (Reason.PAUSED, None)

    def test_that_was_stopped_says_by_what(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("another language")))
        realm = world.open(remote=line)
        eventually(lambda: realm.sync_session.state is I)
        status = realm.sync_session.status
        assert status.why is Reason.FAILED
        assert str(status.last_error) == "another language"
        assert not status.is_error_transient

    def test_that_was_resumed_forgets_why_it_was_stopped(self, world: World) -> None:
        line = world.line()
        line.break_next("connect", Raise(ProtocolError("another language")))
        realm = world.open(remote=line)
        eventually(lambda: realm.sync_session.state is I)
        realm.sync_session.resume()
        eventually(lambda: is_in_step(realm))
        assert realm.sync_session.status.last_error is None

    def test_that_has_heard_of_news_is_not_caught_up_until_they_are_there(self, world: World) -> None:
        line = world.line()
        realm = world.device("reader", remote=line).open()
        eventually(lambda: is_in_step(realm))
        eventually(lambda: line.count("watch"))
        line.hold("pull")
        writer = world.open("writer")
        add(writer, "a")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: line.held("pull"))
        assert not realm.sync_session.is_synced
        assert realm.sync_session.status.why is Reason.SYNCING
        line.let_go("pull")
        eventually(lambda: realm.sync_session.is_synced)

    def test_is_not_synced_while_what_another_program_wrote_is_not_sent(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_in_step(realm))
        sql(realm.path, "INSERT INTO note VALUES ('0123456789abcdef0123456789abcdef', 'by another program')")
        assert not realm.sync_session.is_synced
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: realm.sync_session.is_synced)

    def test_of_a_closed_realm_says_that_it_was_closed(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        realm.close()
        with pytest.raises(RealmClosed):
            _ = session.status


class TestChanges:
    def test_begin_with_the_status_now_and_end_with_the_realm(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_in_step(realm))
        reading = in_background(lambda: list(realm.sync_session.status_changes()))
        eventually(lambda: realm.sync_session._statuses.has_readers)
        realm.close()
        seen = reading.result(PATIENCE)
        assert (seen[-1].state, seen[-1].why) == (I, Reason.CLOSED)
        assert seen[0].why in (Reason.IN_STEP, Reason.CLOSED)  # the last one may have overtaken it

    def test_come_at_most_every_200_ms_and_the_last_one_is_never_missed(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        seen: list[SyncStatus] = []
        realm.sync_session.on_status_change(seen.append)
        realm.sync_session.pause()
        eventually(lambda: len(seen) == 1)
        for number in range(10):
            add(realm, f"note {number}")
        device.let_it_run()
        world.clock.advance(0.199)
        device.let_it_run()
        assert [status.pending_changesets for status in seen] == [0]
        world.clock.advance(0.001)
        eventually(lambda: len(seen) == 2)
        assert seen[-1].pending_changesets == 10
        world.clock.advance(10)
        device.let_it_run()
        assert len(seen) == 2

    def test_the_same_status_is_not_told_twice(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        realm.sync_session.pause()
        seen: list[SyncStatus] = []
        realm.sync_session.on_status_change(seen.append)
        for _ in range(3):
            with realm.write():
                pass
            device.let_it_run()
            world.clock.advance(0.2)
            device.let_it_run()
        assert len(seen) <= 1

    def test_a_slow_reader_gets_the_latest(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        realm.sync_session.pause()
        stream = realm.sync_session.status_changes()
        for number in range(100):
            add(realm, f"note {number}")
            world.clock.advance(0.2)
            device.let_it_run()
        world.clock.advance(0.2)
        device.let_it_run()
        eventually(lambda: stream._values and stream._values[0].pending_changesets == 100)
        assert in_background(lambda: next(stream)).result(PATIENCE).pending_changesets == 100

    def test_an_asynchronous_loop_will_do(self, world: World) -> None:
        realm = world.open()

        async def first() -> SyncStatus:
            async for status in realm.sync_session.status_changes():
                return status
            raise AssertionError

        assert in_loop(first()).state is A

    def test_a_callback_may_end_itself(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        seen: list[SyncStatus] = []

        def once(status: SyncStatus) -> None:
            seen.append(status)
            stop()

        stop = realm.sync_session.on_status_change(once)
        realm.sync_session.pause()
        eventually(lambda: seen)
        realm.sync_session.resume()
        for _ in range(5):
            world.clock.advance(0.2)
            device.let_it_run()
        assert len(seen) == 1
        stop()

    def test_nobody_looks_when_nobody_asks(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        statements: list[str] = []
        original = realm.sync_session._parts.store.totals

        def counted() -> Pending:
            statements.append("totals")
            return original()

        realm.sync_session._parts.store.totals = counted  # type: ignore[method-assign]
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        device.let_it_run()
        assert statements == []

    def test_a_file_that_cannot_be_read_stops_no_sync(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        eventually(lambda: is_in_step(realm))
        seen: list[SyncStatus] = []
        realm.sync_session.on_status_change(seen.append)

        def broken() -> Pending:
            raise sqlite3.OperationalError("disk I/O error")

        realm.sync_session._parts.store.totals = broken  # type: ignore[method-assign]
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert seen == []
