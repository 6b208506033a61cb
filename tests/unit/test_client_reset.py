"""Client resets in sessions: when, what the strategies do, in what order, and what an application sees of it.

The sections are those of Realm's behaviour that this one follows; what differs is said in docs/client-reset.md.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlmodel import Session, select

from localstore import (
    Discard,
    LocalConfiguration,
    Manual,
    Realm,
    Recover,
    RecoverOrDiscard,
    ResetReason,
    SeedRemote,
    SessionState,
    uuid7,
    wire,
)
from localstore.client_reset import ClientReset
from localstore.errors import (
    Busy,
    ClientResetFailed,
    ClientResetRequired,
    LocalStoreError,
    Offline,
    OperationAborted,
    ProtocolError,
    ReadOnlyRealm,
    ResetRequired,
    StoreBusy,
)
from localstore.sync.session import SyncSession
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Hang, LoseAnswer, Raise, SmallPage
from tests.unit.failing_disk import FailingDisk, failing
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Line,
    Note,
    Seat,
    World,
    add,
    eventually,
    in_background,
    in_thread,
    is_let_go,
    meddling_after,
    numbers,
    sql,
    texts,
    waiting,
)

PAGE = 4096


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "localstore.sync")


class Calls:
    """Callbacks that note what they saw, and do what a test says."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []
        self.before: list[list[str]] = []
        self.after: list[list[str]] = []
        self.failures: list[ClientResetRequired] = []
        self.threads: set[str] = set()
        self.then: Callable[[str, Realm, Session | None], object] = lambda *_: None

    def on_before(self, before: Realm) -> None:
        self._note("before", before, None)

    def on_after(self, before: Realm, after: Session) -> None:
        self._note("after", before, after)

    def on_after_recovery(self, before: Realm, after: Session) -> None:
        self._note("recovered", before, after)

    def on_after_discard(self, before: Realm, after: Session) -> None:
        self._note("discarded", before, after)

    def on_manual_fallback(self, session: SyncSession, error: ClientResetRequired) -> None:
        self.said.append(("fallback",))
        self.threads.add(threading.current_thread().name)
        self.failures.append(error)

    def _note(self, name: str, before: Realm, after: Session | None) -> None:
        self.said.append((name,))
        self.threads.add(threading.current_thread().name)
        self.before.append(texts(before))
        if after is not None:
            self.after.append(sorted(after.exec(select(Note.text)).all()))
        self.then(name, before, after)

    @property
    def names(self) -> list[str]:
        return [name for (name,) in self.said]

    def recover_or_discard(self) -> RecoverOrDiscard:
        return RecoverOrDiscard(
            on_before=self.on_before,
            on_after_recovery=self.on_after_recovery,
            on_after_discard=self.on_after_discard,
            on_manual_fallback=self.on_manual_fallback,
        )

    def of(self, strategy: type[Recover] | type[Discard] | type[SeedRemote]) -> ClientReset:
        return strategy(on_before=self.on_before, on_after=self.on_after, on_manual_fallback=self.on_manual_fallback)


def in_step(realm: Realm) -> None:
    """Everything was sent and received."""
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


def settled(realm: Realm) -> None:
    """In step, and the last reset was confirmed."""
    in_step(realm)
    eventually(lambda: not sql(realm.path, "SELECT 1 FROM localstore_reset"), "the record to go")


def parted(world: World, strategy: ClientReset, *, device: Device | None = None, **changes: Any) -> tuple[Device, Realm]:
    """A paused device with one note that the remote has, "old", and one that it does not, "new"."""
    device = device or world.device()
    realm = device.open(client_reset=strategy, **changes)
    add(realm, "old")
    in_step(realm)
    realm.sync_session.pause()
    add(realm, "new")
    return device, realm


def backups(realm: Realm) -> list[Path]:
    return sorted(path for path in realm.path.parent.iterdir() if ".backup-" in path.name)


def reset(realm: Realm) -> None:
    """Resume a parted device and wait until it is in step."""
    realm.sync_session.resume()
    in_step(realm)


class TestTriggers:
    """4.1: what leads to a reset. Each keeps unsent changes by default, and none stops the session."""

    def check(self, world: World, device: Device, realm: Realm, kind: ResetReason, expected: list[str]) -> None:
        before = realm.device_id
        reset(realm)
        assert texts(realm) == expected
        assert world.remote_texts() == expected
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.kind is kind
        assert report.mode == "recover"
        assert realm.device_id != before
        assert device.told == []
        assert realm.sync_session.state is SessionState.ACTIVE
        settled(realm)

    def test_a_remote_that_was_wiped(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        world.remote.wipe()
        self.check(world, device, realm, ResetReason.REMOTE_REPLACED, ["new"])

    def test_a_remote_in_whose_place_is_another(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        world.remote.wipe()
        other = world.open("other")
        add(other, "of the other remote")
        in_step(other)
        self.check(world, device, realm, ResetReason.REMOTE_REPLACED, ["new", "of the other remote"])

    def test_a_remote_that_was_restored_from_an_old_backup(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        add(realm, "in the backup")
        in_step(realm)
        backup = world.remote.backup()
        add(realm, "not in the backup")
        in_step(realm)
        realm.sync_session.pause()
        add(realm, "new")
        world.remote.restore(backup)
        self.check(world, device, realm, ResetReason.REMOTE_RESTORED, ["in the backup", "new"])

    def test_a_history_that_was_trimmed_meanwhile(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        other = world.open("other")
        add(other, "missed")
        in_step(other)
        world.remote.trim_history()
        self.check(world, device, realm, ResetReason.HISTORY_TRIMMED, ["missed", "new", "old"])

    def test_a_device_that_was_away_for_longer_than_the_horizon(self, world: World) -> None:
        world.remote.horizon_days = 30
        device, realm = parted(world, RecoverOrDiscard())
        world.clock.advance(31 * 86_400)
        self.check(world, device, realm, ResetReason.HISTORY_TRIMMED, ["new", "old"])

    def test_a_device_that_was_away_for_less_goes_on(self, world: World) -> None:
        world.remote.horizon_days = 30
        _, realm = parted(world, RecoverOrDiscard())
        world.clock.advance(29 * 86_400)
        reset(realm)
        assert realm.sync_session.last_reset is None

    def test_a_device_whose_clock_was_ahead_keeps_what_it_wrote_then(self, world: World) -> None:
        clock = ManualClock()
        right_ms = clock.now_ms()
        clock.set(right_ms + 366 * 86_400_000)
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(clock=clock))
        clock.set(right_ms)
        other = world.open("other")
        add(other, "missed")
        in_step(other)
        world.remote.trim_history()
        reset(realm)
        assert realm.sync_session.last_reset is not None
        assert texts(realm) == ["missed", "new", "old"]
        in_step(other)
        assert texts(other) == ["missed"], "what was written on top came without what it was built on"
        world.clock.advance(367 * 86_400)
        eventually(lambda: texts(other) == ["missed", "new", "old"])

    def test_a_file_that_was_copied(self, world: World, tmp_path: Path) -> None:
        first = world.device("first")
        with first.open() as realm:
            add(realm, "before the copy")
            in_step(realm)
        assert first.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(first.path)
        shutil.copy(first.path, tmp_path / "copy.db")
        original = first.open()
        add(original, "by the original")
        in_step(original)
        device = world.device("copy")
        copy = device.open()
        copy.sync_session.pause()
        add(copy, "by the copy")
        expected = ["before the copy", "by the copy", "by the original"]
        self.check(world, device, copy, ResetReason.DEVICE_FORKED, expected)
        in_step(original)
        assert texts(original) == expected
        assert original.sync_session.last_reset is None

    def test_a_file_that_was_restored_from_a_backup(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        with device.open() as realm:
            add(realm, "in the backup")
            in_step(realm)
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(device.path)
        shutil.copy(device.path, tmp_path / "backup.db")
        with device.open() as realm:
            add(realm, "lost here, and sent before")
            in_step(realm)
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(device.path)
        shutil.copy(tmp_path / "backup.db", device.path)
        realm = device.open()
        realm.sync_session.pause()
        add(realm, "new")
        self.check(world, device, realm, ResetReason.DEVICE_FORKED, ["in the backup", "lost here, and sent before", "new"])

    @pytest.mark.parametrize("kind", [ResetReason.HISTORY_DAMAGED, ResetReason.SCHEMA_INCOMPATIBLE, ResetReason.UNKNOWN_CURSOR])
    def test_whatever_else_the_remote_says(self, world: World, kind: ResetReason) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        world.remote.ask_for_reset(f"{kind.value} in some way")
        self.check(world, device, realm, kind, ["new", "old"])

    @pytest.mark.parametrize("call", ["connect", "pull", "push"])
    def test_it_may_say_so_in_the_middle_of_everything(self, world: World, call: str) -> None:
        line = world.line()
        realm = world.device(remote=line).open()
        add(realm, "old")
        in_step(realm)
        realm.sync_session.pause()
        line.break_next(call, Raise(ResetRequired("history damaged")))
        add(realm, "new")
        realm.sync_session.resume()
        in_step(realm)
        assert realm.sync_session.last_reset is not None
        assert texts(realm) == ["new", "old"]

    def test_but_no_changeset_that_is_too_large_for_the_remote(self, world: World) -> None:
        """It is refused like any other, where Realm resets the device."""
        world.remote.max_changeset_bytes = 1000
        device, realm = parted(world, RecoverOrDiscard())
        add(realm, *(f"too much {number} {number * 7919}" for number in range(200)))
        reset(realm)
        eventually(lambda: device.kinds == ["CompensatingWrite"])
        assert realm.sync_session.last_reset is None
        assert texts(realm) == ["new", "old"]

    def test_also_when_the_remote_is_wiped_while_a_session_rests(self, world: World) -> None:
        realm = world.open()
        add(realm, "old")
        in_step(realm)
        world.at_rest()
        world.remote.wipe()
        add(realm, "new")
        eventually(lambda: realm.sync_session.last_reset)
        in_step(realm)
        assert world.remote_texts() == ["new"]


class TestStrategies:
    """4.2"""

    def test_recover_or_discard_is_what_is_done_unless_said_otherwise(self, world: World) -> None:
        assert isinstance(world.device().configuration().client_reset, RecoverOrDiscard)

    def test_recover_keeps_unsent_changes(self, world: World) -> None:
        calls = Calls()
        _, realm = parted(world, calls.of(Recover))
        world.remote.wipe()
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new"]
        assert calls.names == ["before", "after"]
        assert calls.before == [["new", "old"]] * 2
        assert calls.after == [["new"]]

    def test_discard_takes_the_remotes_state(self, world: World) -> None:
        calls = Calls()
        _, realm = parted(world, calls.of(Discard))
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["old"]
        assert numbers(realm) == []
        assert calls.names == ["before", "after"]
        assert calls.before == [["new", "old"]] * 2
        assert calls.after == [["old"]]
        report = realm.sync_session.last_reset
        assert report is not None
        assert (report.mode, report.recovered, report.discarded) == ("discard", 0, 1)

    def test_recover_or_discard_calls_the_one_that_fits(self, world: World) -> None:
        calls = Calls()
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged", may_recover=False)
        reset(realm)
        assert calls.names == ["before", "discarded"]
        assert texts(realm) == ["old"]
        realm.sync_session.pause()
        was = realm.device_id
        add(realm, "new again")
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert calls.names == ["before", "discarded", "before", "recovered"]
        assert texts(realm) == ["new again", "old"]
        assert realm.device_id != was

    def test_seed_remote_fills_a_wiped_remote_again(self, world: World) -> None:
        calls = Calls()
        _, realm = parted(world, calls.of(SeedRemote))
        world.remote.wipe()
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new", "old"]
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.mode == "seed"
        assert calls.names == ["before", "after"]

    def test_two_devices_may_fill_it(self, world: World) -> None:
        _, one = parted(world, SeedRemote())
        other = world.device("other").open(client_reset=SeedRemote())
        in_step(other)
        other.sync_session.pause()
        add(other, "by the other")
        world.remote.wipe()
        reset(one)
        reset(other)
        in_step(one)
        assert texts(one) == texts(other) == world.remote_texts() == ["by the other", "new", "old"]

    def test_what_two_devices_gave_it_again_survives_the_next_losses(self, world: World) -> None:
        """Each gives the row a life of its own, at the same time; the next time these are one."""
        _, one = parted(world, SeedRemote())
        other = world.device("other").open(client_reset=SeedRemote())
        in_step(other)
        for _ in range(3):
            for realm in (one, other):
                realm.sync_session.pause()
            world.remote.wipe()
            for realm in (one, other):
                reset(realm)
            for realm in (one, other, one):
                in_step(realm)
            assert texts(one) == texts(other) == world.remote_texts() == ["new", "old"]
            assert one.conflicts() == other.conflicts() == []

    def test_nobody_sees_a_row_that_two_devices_inserted_without_its_values(self, world: World) -> None:
        one = world.device("one").open(client_reset=SeedRemote())
        other = world.device("other").open(client_reset=SeedRemote())
        key = uuid7()
        for realm in (one, other):
            realm.sync_session.pause()
            world.clock.advance(1)
            with realm.write() as tx:
                tx.add(Note(id=key, text="by one" if realm is one else "by the other"))
        for realm in (one, other, one):
            realm.sync_session.resume()
            in_step(realm)
        other.sync_session.pause()
        one.sync_session.pause()
        world.remote.wipe()
        reset(one)
        inserts = [group for sealed in world.remote.changesets() for group in wire.unseal(sealed).groups]
        assert [group.columns for group in inserts] == [("text",), ("text",)]
        assert texts(one) == ["by the other"]

    def test_it_gives_back_what_an_old_backup_of_the_remote_lacks(self, world: World) -> None:
        realm = world.device().open(client_reset=SeedRemote())
        add(realm, "in the backup")
        in_step(realm)
        backup = world.remote.backup()
        add(realm, "not in the backup")
        in_step(realm)
        realm.sync_session.pause()
        world.remote.restore(backup)
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["in the backup", "not in the backup"]

    def test_for_any_other_reason_it_recovers(self, world: World) -> None:
        realm = world.device().open(client_reset=SeedRemote())
        (gone,) = add(realm, "deleted by another device")
        in_step(realm)
        realm.sync_session.pause()
        add(realm, "new")
        other = world.open("other")
        in_step(other)
        delete(other, gone)
        in_step(other)
        world.remote.trim_history()
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new"]

    def test_callbacks_run_in_a_worker_thread_and_stop_no_other_session(self, world: World) -> None:
        calls, held = Calls(), threading.Event()
        calls.then = lambda *_: held.wait(PATIENCE)
        device, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        eventually(lambda: calls.said)
        neighbour = device.open(path=device.path.with_name("neighbour.db"))
        add(neighbour, "beside")
        in_step(neighbour)
        assert calls.names == ["before"]
        held.set()
        in_step(realm)
        assert "localstore-kit" not in calls.threads

    def test_callbacks_are_called_for_a_realm_that_was_closed_meanwhile_as_well(self, world: World) -> None:
        calls = Calls()
        calls.then = lambda name, before, after: after and after.add(Note(text="rescued"))
        device, realm = parted(world, calls.recover_or_discard())
        world.remote.wipe()
        realm.sync_session.resume()
        realm.close()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert calls.names == ["before", "recovered"]
        assert calls.before == [["new", "old"]] * 2
        assert world.remote_texts() == ["new", "rescued"]

    def test_before_can_only_be_read(self, world: World) -> None:
        calls = Calls()
        refused: list[type[Exception]] = []

        def then(name: str, before: Realm, after: Session | None) -> None:
            assert before.get(Note, UUID(int=1)) is None
            with before.read() as session:
                assert session.exec(select(Note)).all()
            assert before.conflicts() == []
            try:
                add(before, "no")
            except ReadOnlyRealm as error:
                refused.append(type(error))

        calls.then = then
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert refused == [ReadOnlyRealm, ReadOnlyRealm]
        assert calls.before == [["new", "old"]] * 2

    def test_before_is_closed_after_the_callback(self, world: World) -> None:
        calls, kept = Calls(), []
        calls.then = lambda name, before, after: kept.append(before)
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert all(before.is_closed for before in kept)
        assert len(backups(realm)) == 1  # and nothing that SQLite keeps beside a file that is open

    def test_what_is_written_after_is_one_transaction_and_is_sent(self, world: World) -> None:
        calls = Calls()
        calls.then = lambda name, before, after: after and after.add_all([Note(text="rescued"), Note(text="also")])
        _, realm = parted(world, calls.of(Discard))
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["also", "old", "rescued"]

    def test_a_callback_cannot_wait_for_the_session_that_waits_for_it(self, world: World) -> None:
        calls, raised = Calls(), []

        def then(name: str, before: Realm, after: Session | None) -> None:
            for wait in (SyncSession.upload_all_local_changes, SyncSession.download_all_server_changes):
                with pytest.raises(LocalStoreError, match="cannot wait for itself") as caught:
                    wait(realm.sync_session)
                raised.append(caught.value)

        calls.then = then
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert len(raised) == 4

    @pytest.mark.parametrize("wrong", [None, "recover", Recover, 1])
    def test_only_strategies_are_taken(self, world: World, wrong: object) -> None:
        with pytest.raises(TypeError, match="client_reset takes"):
            world.device().configuration(client_reset=wrong)

    def test_callbacks_are_plain_functions(self) -> None:
        async def later(*_: object) -> None: ...

        for make in (
            lambda: Recover(on_before=later),
            lambda: Discard(on_after=1),  # type: ignore[arg-type]
            lambda: Manual(on_client_reset=None),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError):
                make()

    def test_strategies_are_values(self) -> None:
        assert Recover() == Recover()
        assert Recover() != Discard()


def delete(realm: Realm, key: UUID) -> None:
    with realm.write() as tx:
        tx.delete(tx.get_one(Note, key))


def update(realm: Realm, key: UUID, text: str) -> None:
    with realm.write() as tx:
        tx.get_one(Note, key).text = text


class TestFlow:
    """4.3"""

    def test_waits_are_put_aside_and_end_after_the_reset(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        calls = Calls()
        realm = device.open(client_reset=calls.recover_or_discard())
        add(realm, "old")
        in_step(realm)
        line.hold("connect")
        realm.sync_session.pause()
        add(realm, "new")
        realm.sync_session.resume()
        session = realm.sync_session
        eventually(lambda: line.held("connect"))
        uploaded = in_background(lambda: session.upload_all_local_changes())
        downloaded = in_background(lambda: session.download_all_server_changes())
        eventually(lambda: waiting(session) == 2)
        world.remote.wipe()
        line.let_one_go("connect")
        eventually(lambda: line.held("connect"), "the second file's line")
        assert not uploaded.done()
        assert not downloaded.done()
        line.let_go("connect")
        assert uploaded.result(PATIENCE) is True
        assert downloaded.result(PATIENCE) is True
        assert numbers(realm) == []
        assert world.remote_texts() == ["new"]
        assert waiting(session) == 0

    def test_an_upload_wait_with_nothing_left_to_send_ends_too(self, world: World) -> None:
        line = world.line()
        realm = world.device(remote=line).open(client_reset=Discard())
        add(realm, "old")
        in_step(realm)
        line.break_down(push=Hang())
        before = line.count("push")
        add(realm, "new")
        uploaded = in_background(lambda: realm.sync_session.upload_all_local_changes())
        eventually(lambda: waiting(realm.sync_session) and line.count("push") > before)
        line.recover()
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.reconnect()
        world.clock.advance(121)
        world.clock.advance(2)
        assert uploaded.result(PATIENCE) is True
        assert texts(realm) == ["old"]

    def test_a_record_tells_of_it_until_the_remote_has_confirmed(self, world: World) -> None:
        line = world.line()
        calls = Calls()
        records: list[Any] = []
        look = "SELECT mode, reason, step FROM localstore_reset"
        calls.then = lambda name, before, after: records.append(sql(realm.path, look))
        _, realm = parted(world, calls.recover_or_discard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.hold("push")
        realm.sync_session.resume()
        eventually(lambda: line.held("push"))
        ((*_, version, step, backup),) = sql(realm.path, "SELECT * FROM localstore_reset")
        assert (step, version) == ("done", "0.1.0")
        assert Path(backup) == backups(realm)[0]
        line.let_go("push")
        settled(realm)
        assert records == [[("recover", "history damaged", "begun")], [("recover", "history damaged", "changed")]]

    def test_the_file_is_saved_before_anything_changes(self, world: World) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        was = realm.device_id
        world.remote.wipe()
        reset(realm)
        (backup,) = backups(realm)
        assert [text for (text,) in sql(backup, "SELECT text FROM note ORDER BY text")] == ["new", "old"]
        assert sql(backup, "SELECT hex(device) FROM localstore_state") == [(was.upper(),)]
        assert sql(backup, "SELECT number FROM localstore_outbox") == [(2,)]
        assert sql(backup, "PRAGMA integrity_check") == [("ok",)]
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.backup == backup

    def test_what_is_written_during_the_callback_is_saved_too_and_not_discarded_unsaved(self, world: World) -> None:
        calls = Calls()
        calls.then = lambda name, before, after: name == "before" and add(realm, "in the callback")
        _, realm = parted(world, calls.of(Discard))
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        (backup,) = backups(realm)
        saved = [text for (text,) in sql(backup, "SELECT text FROM note ORDER BY text")]
        assert saved == ["in the callback", "new", "old"]
        assert texts(realm) == ["old"]

    def test_the_newest_three_backups_are_kept(self, world: World) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        for number in range(5):
            world.clock.advance(1)
            world.remote.ask_for_reset("history damaged")
            reset(realm)
            settled(realm)
            realm.sync_session.pause()
            add(realm, f"new {number}")
        kept = backups(realm)
        assert len(kept) == 3
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.backup == kept[-1]
        saved = [text for (text,) in sql(kept[-1], "SELECT text FROM note ORDER BY text")]
        assert saved == ["new", "new 0", "new 1", "new 2", "new 3", "old"]

    def test_the_second_file_is_gone_afterwards(self, world: World) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        world.remote.wipe()
        reset(realm)
        assert not [path for path in realm.path.parent.iterdir() if "fresh" in path.name]

    @pytest.mark.parametrize("what", ["realm", "app"])
    @pytest.mark.parametrize("when", ["opened", "filled"])
    def test_it_is_gone_also_when_all_is_closed_in_the_middle(self, tmp_path: Path, what: str, when: str) -> None:
        closing = threading.Event()

        def close(_: object) -> None:
            if what == "app":
                device.app.close()
            realm.close()
            closing.set()

        after = {"opened": "open", "filled": "meet"}[when]
        with World(tmp_path) as world:
            device = world.device(run_blocking=meddling_after(after, lambda done: armed and close(done)))
            armed = False
            _, realm = parted(world, RecoverOrDiscard(), device=device, stop_policy="immediately")
            armed = True
            world.remote.wipe()
            realm.sync_session.resume()
            assert closing.wait(PATIENCE)
            eventually(lambda: not [path for path in tmp_path.iterdir() if "fresh" in path.name], "the second file to go")

    def test_it_is_gone_also_when_the_session_is_paused_while_it_is_taken_over(self, world: World) -> None:
        """That goes on in its thread, as long as it takes."""
        calls = Calls()
        device, realm = parted(world, calls.recover_or_discard())
        begun, may_end = threading.Event(), threading.Event()

        def write() -> None:
            with realm.write():
                begun.set()
                assert may_end.wait(PATIENCE)

        def hold_up(name: str, *_: object) -> None:
            if name == "before":
                in_thread(write)
                assert begun.wait(PATIENCE)

        calls.then = hold_up
        world.remote.wipe()
        realm.sync_session.resume()
        eventually(lambda: len(realm._store.lock) == 2, "the exchange to wait for the writer")
        realm.sync_session.pause()
        device.let_it_run()
        may_end.set()
        eventually(lambda: not len(realm._store.lock), "the exchange to end")
        eventually(lambda: not [path for path in realm.path.parent.iterdir() if "fresh" in path.name], "the second file to go")

    @pytest.mark.slow  # two lines are given two seconds each to be closed
    def test_lines_that_hang_as_they_are_closed_do_not_hold_it_up_for_long(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.wipe()
        line.break_down(close=Hang())
        reset(realm)
        assert world.remote_texts() == ["new"]

    @pytest.mark.parametrize("left", ["whole", "empty", "half made", "no database"])
    def test_one_that_a_crash_left_behind_is_in_nobodys_way(self, world: World, left: str) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        fresh = realm.path.with_name(f"{realm.path.name}.fresh-00000000")
        match left:
            case "whole":
                shutil.copy(realm.path, fresh)
            case "empty":
                fresh.touch()
            case "half made":
                sql(fresh, "CREATE TABLE note (id)")
            case _:
                fresh.write_bytes(b"not a database at all" * 100)
        world.remote.wipe()
        reset(realm)
        assert texts(realm) == ["new"]
        assert not [path for path in realm.path.parent.iterdir() if "fresh" in path.name]

    @pytest.mark.parametrize("suffix", ["", "-wal"])
    def test_one_that_cannot_be_removed_is_in_nobodys_way_and_goes_another_time(self, world: World, suffix: str) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        fresh = realm.path.with_name(f"{realm.path.name}.fresh-00000000")
        fresh.write_bytes(b"not a database at all" * 100)
        disk = FailingDisk(fresh.with_name(fresh.name + suffix), at=0, error=errno.EDQUOT, only_once=True, only_changes=True)
        world.remote.wipe()
        with failing(disk):
            reset(realm)
        assert disk.has_failed
        assert texts(realm) == ["new"]
        assert not fresh.exists()

    def test_a_backup_that_a_crash_broke_off_goes_when_a_session_starts(self, world: World) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        place, half = realm.path.parent, "-20261126T191500123.815-140034079336128.tmp"
        left = [place / f".{realm.path.name}.{what}{half}" for what in ("backup", "recovered")]
        others = [place / f".another.db.backup{half}", place / f".{realm.path.name}.backup-plan.tmp"]
        for path in (*left, *others):
            path.write_bytes(b"half a backup")
        world.remote.wipe()
        reset(realm)
        assert [path for path in left if path.exists()] == []
        assert [path for path in others if not path.exists()] == []

    def test_a_long_history_comes_page_by_page(self, world: World) -> None:
        line = world.line()
        other = world.open("other")
        for number in range(20):
            add(other, f"note {number:02}")
        in_step(other)
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line, page_count=3))
        world.remote.ask_for_reset("history damaged")
        line.break_down(pull=SmallPage(2))
        pulled = line.count("pull")
        reset(realm)
        assert line.count("pull") - pulled > 10
        assert texts(realm) == sorted([*(f"note {number:02}" for number in range(20)), "new", "old"])

    def test_what_the_remote_had_of_the_unsent_is_not_sent_twice(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        line.break_next("push", LoseAnswer(ResetRequired("history damaged")))
        realm.sync_session.resume()
        in_step(realm)
        report = realm.sync_session.last_reset
        assert report is not None
        assert (report.recovered, report.skipped) == (0, 1)
        assert texts(realm) == world.remote_texts() == ["new", "old"]
        assert len(world.remote.changesets()) == 2

    def test_equal_content_changes_nothing(self, world: World) -> None:
        realm = world.open()
        add(realm, "old")
        in_step(realm)
        rows = sql(realm.path, "SELECT * FROM note")
        world.remote.ask_for_reset("history damaged")
        in_step(realm)
        eventually(lambda: realm.sync_session.last_reset)
        assert sql(realm.path, "SELECT * FROM note") == rows
        assert len(world.remote.changesets()) == 1
        assert realm.conflicts() == []

    def test_a_file_that_never_had_data_is_reset_silently(self, world: World) -> None:
        calls = Calls()
        device = world.device()
        realm = device.open(client_reset=calls.recover_or_discard())
        in_step(realm)
        realm.sync_session.pause()
        world.remote.wipe()
        reset(realm)
        settled(realm)
        assert calls.names == []
        assert backups(realm) == []
        assert device.told == []
        add(realm, "a")
        in_step(realm)
        assert world.remote_texts() == ["a"]

    def test_open_realms_and_their_objects_go_on(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        other = device.open()
        kept = realm.exec(select(Note).where(Note.text == "new")).one()
        session, version = realm.sync_session, realm.version
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert kept.text == "new"
        assert other.get(Note, kept.id) == kept
        assert realm.sync_session is session
        assert realm.version != version
        add(other, "more")
        in_step(other)
        assert texts(realm) == ["more", "new", "old"]

    def test_a_realm_can_be_reset_several_times(self, world: World) -> None:
        _, realm = parted(world, RecoverOrDiscard())
        seen = {realm.device_id}
        for number in range(3):
            world.remote.ask_for_reset("history damaged")
            reset(realm)
            settled(realm)
            realm.sync_session.pause()
            add(realm, f"new {number}")
            seen.add(realm.device_id)
        assert len(seen) == 4

    def test_an_in_memory_realm_is_reset(self, world: World) -> None:
        calls = Calls()
        _, realm = parted(world, calls.recover_or_discard(), in_memory=True)
        world.remote.wipe()
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new"]
        assert calls.names == ["before", "recovered"]

    def test_an_encrypted_realm_is_reset_and_so_is_its_backup_encrypted(self, world: World) -> None:
        pytest.importorskip("sqlcipher3")
        calls = Calls()
        device = world.device()
        realm = device.open(client_reset=calls.recover_or_discard(), encryption_key=b"k" * 32)
        add(realm, "secret old")
        in_step(realm)
        realm.sync_session.pause()
        add(realm, "secret new")
        world.remote.wipe()
        reset(realm)
        assert texts(realm) == ["secret new"]
        assert calls.names == ["before", "recovered"]
        (backup,) = backups(realm)
        assert b"secret" not in backup.read_bytes()

    def test_a_realm_that_is_closed_meanwhile_is_reset_and_uploads_first(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        world.remote.wipe()
        realm.sync_session.resume()
        realm.close()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert world.remote_texts() == ["new"]


class TestInterruptions:
    """4.3: broken off at any point, it begins again; done once, it is not done again."""

    @pytest.mark.parametrize("call", ["connect", "pull"])
    @pytest.mark.parametrize("ending", ["pause", "close"])
    def test_broken_off_while_the_second_file_is_filled(self, world: World, call: str, ending: str) -> None:
        line, calls = world.line(), Calls()
        device, realm = parted(world, calls.recover_or_discard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.break_next("connect", None, Hang() if call == "connect" else None)
        if call == "pull":
            line.break_next("pull", Hang())
        realm.sync_session.resume()
        eventually(lambda: line.calls[-1] == call and line.count("connect") >= 3)
        if ending == "pause":
            realm.sync_session.pause()
            assert texts(realm) == ["new", "old"]
        else:
            device.app.close()
            realm.close()
            device = world.device(path=device.path, remote=line)
            realm = device.open(client_reset=calls.recover_or_discard())
        assert calls.names == []
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new", "old"]
        assert calls.names == ["before", "recovered"]
        assert len(backups(realm)) == 1

    def test_offline_in_the_middle_it_backs_off_and_goes_on(self, world: World) -> None:
        calls = Calls()
        line = world.line()
        device, realm = parted(world, calls.recover_or_discard(), device=world.device(remote=line, page_count=1))
        world.remote.ask_for_reset("history damaged")
        line.hold("pull")
        realm.sync_session.resume()
        eventually(lambda: line.held("pull"))
        world.remote.go_offline()
        line.let_go("pull")
        eventually(lambda: realm.sync_session.status.next_attempt is not None)
        assert realm.sync_session.state is SessionState.ACTIVE
        assert calls.names == []
        world.remote.go_online()
        device.app.sync.reconnect()
        in_step(realm)
        assert calls.names == ["before", "recovered"]
        assert device.told == []

    def test_kept_from_the_file_in_the_middle_it_backs_off_and_calls_nobody_again(self, world: World) -> None:
        calls = Calls()
        device, realm = parted(world, calls.recover_or_discard(), device=world.device(busy_timeout=0.05))
        with closing(sqlite3.connect(realm.path, isolation_level=None, check_same_thread=False)) as other_program:
            calls.then = lambda name, *_: name == "before" and other_program.execute("BEGIN IMMEDIATE")
            world.remote.ask_for_reset("history damaged")
            realm.sync_session.resume()
            eventually(lambda: isinstance(realm.sync_session.last_error, Busy))
            assert (realm.sync_session.state, texts(realm)) == (SessionState.ACTIVE, ["new", "old"])
            other_program.execute("ROLLBACK")
            eventually(lambda: world.clock.next_wake() == 1)
            world.clock.advance(1)
            in_step(realm)
        assert calls.names == ["before", "recovered"]
        assert device.told == []

    def test_a_pause_returns_at_once_whatever_a_callback_does(self, world: World) -> None:
        calls, held = Calls(), threading.Event()
        calls.then = lambda name, *_: name == "before" and held.wait(PATIENCE)
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        eventually(lambda: calls.said)
        realm.sync_session.pause()
        assert realm.sync_session.state is SessionState.PAUSED
        held.set()
        assert texts(realm) == ["new", "old"]
        reset(realm)
        assert calls.names in (["before", "before", "recovered"], ["before", "recovered"])
        assert texts(realm) == ["new", "old"]

    def test_a_pause_during_the_callback_afterwards_does_not_call_it_again(self, world: World) -> None:
        calls, held = Calls(), threading.Event()

        def then(name: str, before: Realm, after: Session | None) -> None:
            if name == "recovered":
                held.wait(PATIENCE)
                assert after is not None
                after.add(Note(text="once"))

        calls.then = then
        _, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        eventually(lambda: "recovered" in calls.names)
        realm.sync_session.pause()
        realm.sync_session.resume()
        held.set()
        in_step(realm)
        assert calls.names == ["before", "recovered"]
        assert texts(realm) == world.remote_texts() == ["new", "old", "once"]

    def test_killed_between_the_exchange_and_the_callback_it_is_called_at_the_next_start(self, world: World) -> None:
        calls = Calls()
        device, realm = parted(world, RecoverOrDiscard())
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        settled(realm)
        realm.close()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        (backup,) = backups(realm)
        sql(  # as the transaction of the exchange leaves it
            device.path,
            "INSERT INTO localstore_reset VALUES (1, 'recover', 'history damaged', 1, '0.1.0', 'changed', ?)",
            str(backup),
        )
        again = world.device(path=device.path)
        realm = again.open(client_reset=calls.recover_or_discard())
        settled(realm)
        assert calls.names == ["recovered"]
        assert calls.before == [["new", "old"]]
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.backup == backup
        assert report.kind is ResetReason.HISTORY_DAMAGED

    def test_when_the_backup_is_gone_by_then_it_goes_on_without(self, world: World) -> None:
        calls = Calls()
        device, realm = parted(world, RecoverOrDiscard())
        in_thread(realm.close)
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        sql(
            device.path,
            "INSERT INTO localstore_reset VALUES (1, 'recover', 'history damaged', 1, '0.1.0', 'changed', '/nowhere')",
        )
        realm = world.device(path=device.path).open(client_reset=calls.recover_or_discard())
        settled(realm)
        assert calls.names == []

    def test_the_remote_parts_again_while_the_second_file_is_filled(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.wipe()
        line.hold("pull")
        realm.sync_session.resume()
        eventually(lambda: line.held("pull"))
        world.remote.wipe()
        line.let_go("pull")
        in_step(realm)
        assert texts(realm) == world.remote_texts() == ["new"]


class TestFailures:
    """4.5"""

    def failed(self, device: Device, realm: Realm) -> ClientResetFailed:
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE, "the session to stop")
        eventually(lambda: device.told)
        error = device.told[-1]
        assert isinstance(error, ClientResetFailed)
        assert error.is_fatal
        assert realm.sync_session.last_error is error
        return error

    def test_a_callback_before_that_raises(self, world: World) -> None:
        calls = Calls()
        bug = LookupError("a bug")

        def then(name: str, *_: object) -> None:
            raise bug

        calls.then = then
        device, realm = parted(world, calls.recover_or_discard())
        was = realm.device_id
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        error = self.failed(device, realm)
        assert error.__cause__ is bug
        assert "on_before raised LookupError: a bug" in str(error)
        assert realm.device_id == was
        assert texts(realm) == ["new", "old"]
        assert numbers(realm) == [2]
        eventually(lambda: calls.names == ["before", "fallback"])
        assert "localstore-kit" not in calls.threads
        assert calls.failures[0].__cause__ is error
        assert error.backup == backups(realm)[0]

    @pytest.mark.parametrize("ending", ["resume", "restart"])
    @pytest.mark.parametrize("strategy", [Recover, SeedRemote, RecoverOrDiscard, Discard])
    def test_what_failed_before_anything_changed_is_tried_again_when_the_application_acts(
        self, world: World, strategy: Any, ending: str
    ) -> None:
        calls = Calls()

        def then(name: str, *_: object) -> None:
            if len(calls.before) <= 2:
                raise LookupError("a bug that somebody corrects")

        calls.then = then
        made = calls.recover_or_discard() if strategy is RecoverOrDiscard else calls.of(strategy)
        device, realm = parted(world, made)
        world.remote.wipe()
        realm.sync_session.resume()
        for times in (1, 2):
            self.failed(device, realm)
            self.called(calls, ["before", "fallback"] * times)
            assert texts(realm) == ["new", "old"]
            device, realm = self.again(device, realm, ending, made)
        settled(realm)
        assert texts(realm) == world.remote_texts() == {SeedRemote: ["new", "old"], Discard: []}.get(strategy, ["new"])

    def test_a_session_does_not_try_again_by_itself(self, world: World) -> None:
        calls = Calls()

        def then(*_: object) -> None:
            raise LookupError("a bug")

        calls.then = then
        device, realm = parted(world, calls.of(Recover))
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        self.failed(device, realm)
        add(realm, "more")
        device.app.sync.reconnect()
        world.clock.advance(86_400)
        device.let_it_run()
        assert realm.sync_session.state is SessionState.INACTIVE
        self.called(calls, ["before", "fallback"])

    def test_a_line_that_failed_for_good_is_tried_again(self, world: World) -> None:
        line = world.line()
        device, realm = parted(world, Recover(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.break_next("connect", None, Raise(ProtocolError("nonsense")))
        realm.sync_session.resume()
        self.failed(device, realm)
        reset(realm)
        settled(realm)
        assert world.remote_texts() == ["new", "old"]

    @pytest.mark.parametrize("ending", ["resume", "restart"])
    @pytest.mark.parametrize("strategy", [Recover, RecoverOrDiscard])
    def test_a_callback_after_that_raises_is_called_again_when_the_application_acts(
        self, world: World, strategy: Any, ending: str
    ) -> None:
        """The file is reset, and only what the callback wrote is missing; until it has succeeded nothing is sent."""
        calls = Calls()

        def then(name: str, before: Realm, after: Session | None) -> None:
            if after is not None:
                after.add(Note(text=f"{len(calls.after)}. time"))
                if len(calls.after) <= 2:
                    raise LookupError("a bug that somebody corrects")

        calls.then = then
        name = "recovered" if strategy is RecoverOrDiscard else "after"
        made = calls.recover_or_discard() if strategy is RecoverOrDiscard else calls.of(strategy)
        device, realm = parted(world, made)
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        for times in (1, 2):
            error = self.failed(device, realm)
            assert isinstance(error.__cause__, LookupError)
            self.called(calls, ["before", *[name, "fallback"] * times])
            assert texts(realm) == ["new", "old"]
            assert numbers(realm) == [1]
            device, realm = self.again(device, realm, ending, made)
        settled(realm)
        assert texts(realm) == world.remote_texts() == ["3. time", "new", "old"]
        assert calls.names == ["before", *[name, "fallback"] * 2, name]
        assert calls.before == [["new", "old"]] * 4

    def test_without_the_callback_that_raised_it_goes_on(self, world: World) -> None:
        calls = Calls()

        def then(name: str, before: Realm, after: Session | None) -> None:
            if after is not None:
                raise LookupError("a bug")

        calls.then = then
        device, realm = parted(world, calls.of(Recover))
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        self.failed(device, realm)
        _, realm = self.again(device, realm, "restart", Recover())
        settled(realm)
        assert world.remote_texts() == ["new", "old"]

    def damage_outbox(self, realm: Realm) -> bytes:
        """Make its one changeset such that it cannot be brought along; returns what it was."""
        ((kept,),) = sql(realm.path, "SELECT sealed FROM localstore_outbox")
        sealed = wire.decode(kept)
        damaged = msgspec.structs.replace(sealed, body=b"?" * len(sealed.body))
        sql(realm.path, "UPDATE localstore_outbox SET sealed = ?", wire.encode(damaged))
        return bytes(kept)

    def called(self, calls: Calls, names: list[str]) -> None:
        eventually(lambda: calls.names == names, "the callbacks")

    def again(self, device: Device, realm: Realm, ending: str, strategy: ClientReset) -> tuple[Device, Realm]:
        """Resume the session, or end the application and start it anew."""
        if ending == "resume":
            device.told.clear()
            realm.sync_session.resume()
            return device, realm
        device.app.close()
        realm.close()
        device = device.world.device(path=device.path)
        return device, device.open(client_reset=strategy)

    def test_waits_fail_with_the_error(self, world: World) -> None:
        device, realm = parted(world, Recover())
        world.remote.ask_for_reset("history damaged", may_recover=False)
        waits = in_background(lambda: realm.sync_session.upload_all_local_changes())
        eventually(lambda: waiting(realm.sync_session))
        realm.sync_session.resume()
        assert waits.exception(PATIENCE) is self.failed(device, realm)

    def test_where_no_recovery_is_allowed_recover_fails_at_once(self, world: World) -> None:
        calls = Calls()
        device, realm = parted(world, calls.of(Recover))
        world.remote.ask_for_reset("history damaged", may_recover=False)
        realm.sync_session.resume()
        error = self.failed(device, realm)
        assert "does not allow" in str(error)
        assert texts(realm) == ["new", "old"]
        assert backups(realm) == []
        eventually(lambda: calls.names == ["fallback"])

    def test_recover_or_discard_does_not_fall_back_within_one_attempt_but_in_the_next(self, world: World) -> None:
        calls = Calls()
        device, realm = parted(world, calls.recover_or_discard())
        world.remote.ask_for_reset("history damaged")
        self.damage_outbox(realm)
        realm.sync_session.resume()
        self.failed(device, realm)
        self.called(calls, ["before", "fallback"])
        assert texts(realm) == ["new", "old"]
        reset(realm)
        assert calls.names == ["before", "fallback", "before", "discarded"]
        assert texts(realm) == ["old"]

    def test_recover_is_tried_again_where_it_could_not_be_done(self, world: World) -> None:
        device, realm = parted(world, Recover())
        world.remote.ask_for_reset("history damaged")
        kept = self.damage_outbox(realm)
        realm.sync_session.resume()
        self.failed(device, realm)
        sql(realm.path, "UPDATE localstore_outbox SET sealed = ?", kept)
        reset(realm)
        assert texts(realm) == world.remote_texts() == ["new", "old"]

    def test_a_file_that_cannot_be_read_just_now_is_no_reason_to_discard(self, world: World) -> None:
        device, realm = parted(world, RecoverOrDiscard())
        realm.close()
        device.app.close()
        sql(device.path, "PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = sql(device.path, "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_note_1'")
        whole = device.path.read_bytes()
        device.path.write_bytes(whole[: (page - 1) * PAGE] + b"\xff" * PAGE + whole[page * PAGE :])
        world.remote.ask_for_reset("history damaged")
        device = world.device(path=device.path)
        realm = device.open()
        assert "damaged, or its disk cannot be read" in str(self.failed(device, realm))
        with device.path.open("r+b") as file:  # the same file, as a disk that comes back
            file.seek((page - 1) * PAGE)
            file.write(whole[(page - 1) * PAGE : page * PAGE])
        realm.close()
        device.app.close()
        realm = world.device(path=device.path).open()
        settled(realm)
        assert texts(realm) == world.remote_texts() == ["new", "old"]

    def test_recover_never_discards_however_often_it_is_tried(self, world: World) -> None:
        calls = Calls()

        def then(name: str, *_: object) -> None:
            raise LookupError("a bug")

        calls.then = then
        device, realm = parted(world, calls.of(Recover))
        world.remote.ask_for_reset("history damaged")
        for _ in range(3):
            device.told.clear()
            realm.sync_session.resume()
            self.failed(device, realm)
        assert texts(realm) == ["new", "old"]
        assert numbers(realm) == [2]

    @pytest.mark.parametrize(
        ("record", "mode"),
        [
            (("recover", "0.1.0", "failed"), "discard"),
            (("recover", "0.1.0", "in vain"), "discard"),
            (("recover", "0.1.0", "done"), "recover"),  # nothing speaks against it: the new one may be for any new reason
            (("recover", "0.1.0", "changed"), "recover"),
            (("recover", "0.0.9", "failed"), "recover"),
            (("discard, recovery refused", "0.1.0", "failed"), "recover"),
            (("recover", "0.1.0", "begun"), "recover"),
            (("discard", "0.1.0", "begun"), "discard"),
            (("discard, recovery refused", "0.1.0", "begun"), "recover"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
    )
    def test_the_record_of_the_last_attempt_counts(self, world: World, record: tuple[str, str, str], mode: str) -> None:
        """One that was interrupted is made again as it was; one of another version or action is forgotten."""
        _, realm = parted(world, RecoverOrDiscard())
        sql(
            realm.path,
            "INSERT INTO localstore_reset (id, mode, reason, started_ms, version, step) VALUES (1, ?, 'other', 1, ?, ?)",
            *record,
        )
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        report = realm.sync_session.last_reset
        assert report is not None
        assert report.mode == mode

    def test_discard_is_a_way_out_of_a_recovery_that_fails(self, world: World) -> None:
        calls = Calls()

        def then(name: str, *_: object) -> None:
            raise LookupError("a bug")

        calls.then = then
        device, realm = parted(world, calls.of(Recover))
        world.remote.ask_for_reset("history damaged")
        realm.sync_session.resume()
        self.failed(device, realm)
        device.app.close()
        realm.close()
        realm = world.device(path=device.path).open(client_reset=Discard())
        settled(realm)
        assert texts(realm) == ["old"]

    def test_a_remote_that_asks_for_ever_is_asked_twice(self, world: World) -> None:
        """No endless loop, and no request that does not end."""
        calls = Calls()
        line = world.line()
        _, realm = parted(world, calls.recover_or_discard(), device=world.device(remote=line))
        calls.then = lambda *_: line.break_next("push", Raise(ResetRequired("history damaged")))
        world.remote.ask_for_reset("history damaged")
        line.break_down(push=Raise(ResetRequired("history damaged")))
        realm.sync_session.resume()
        eventually(lambda: calls.names[:2] == ["before", "recovered"])
        eventually(lambda: calls.names[2:4] == ["before", "discarded"])
        line.recover()
        line.break_next("push")
        in_step(realm)
        assert texts(realm) == ["old"]

    def test_a_history_trimmed_again_before_anything_was_sent_is_no_reason_to_discard(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        other = world.open("other")
        for number in range(3):
            add(other, f"missed {number}")
            in_step(other)
            world.remote.trim_history()
            line.break_down(push=Raise(Offline("away")))
            realm.sync_session.resume()
            while f"missed {number}" not in texts(realm):
                world.at_rest(2)
                world.clock.advance(301)
        line.recover()
        realm.sync_session.reconnect()
        in_step(realm)
        assert texts(realm) == ["missed 0", "missed 1", "missed 2", "new", "old"] == world.remote_texts()
        assert realm.sync_session.last_reset is not None
        assert realm.sync_session.last_reset.mode == "recover"

    def test_what_did_not_help_is_not_tried_again_however_often_the_session_starts(self, world: World) -> None:
        calls = Calls()
        line = world.line()
        device, realm = parted(world, calls.of(Recover), device=world.device(remote=line))
        line.break_down(push=Raise(ResetRequired("history damaged")))
        realm.sync_session.resume()
        for ending in ("resume", "restart"):
            assert "did not help" in str(self.failed(device, realm))
            if ending == "resume":
                device.told.clear()
                realm.sync_session.resume()
            else:
                device.app.close()
                realm.close()
                device = world.device(path=device.path, remote=line)
                realm = device.open(client_reset=calls.of(Recover))
        self.failed(device, realm)
        assert [name for name in calls.names if name != "fallback"] == ["before", "after"]
        line.recover()
        reset(realm)
        settled(realm)
        assert world.remote_texts() == ["new", "old"]

    def test_one_of_which_the_remote_took_something_did_help(self, world: World) -> None:
        line = world.line(max_batch_count=1)
        device, realm = parted(world, Recover(), device=world.device(remote=line))
        add(realm, "newer")
        world.remote.ask_for_reset("history damaged")
        line.break_next("push", None, Raise(ResetRequired("history damaged")))
        reset(realm)
        settled(realm)
        assert device.told == []
        assert len(backups(realm)) == 2
        assert world.remote_texts() == ["new", "newer", "old"]

    @pytest.mark.parametrize("unsent", [[], ["unsent"]], ids=["nothing to send", "something to send"])
    @pytest.mark.parametrize("strategy", [Recover, SeedRemote, RecoverOrDiscard, Discard])
    def test_closed_before_the_remote_could_confirm_it_may_be_asked_for_again(
        self, world: World, strategy: Any, unsent: list[str]
    ) -> None:
        """It had no time to help, and the new one may be for any new reason."""
        line = world.line()
        device = world.device(remote=line)
        realm = device.open(client_reset=strategy())
        add(realm, "old")
        settled(realm)
        realm.sync_session.pause()
        add(realm, *unsent)
        world.remote.ask_for_reset("history damaged")
        line.break_next("connect", None, None, Hang())
        line.break_down(push=Hang())
        realm.sync_session.resume()
        eventually(lambda: line.count("connect") == 4, "the session's line after the reset")
        device.app.close()
        realm.close()
        line.recover()
        world.remote.ask_for_reset("history damaged")
        device = world.device(path=device.path, remote=line)
        realm = device.open(client_reset=strategy())
        settled(realm)
        assert device.told == []
        assert realm.sync_session.last_reset is not None
        assert realm.sync_session.last_reset.mode == ("discard" if strategy is Discard else "recover")
        assert texts(realm) == world.remote_texts() == ["old", *([] if strategy is Discard else unsent)]

    def test_one_that_never_lets_anybody_in_fails(self, world: World) -> None:
        line = world.line()
        device, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        line.break_down(connect=Raise(ResetRequired("history damaged")))
        realm.sync_session.resume()
        error = self.failed(device, realm)
        assert "again and again" in str(error)
        assert texts(realm) == ["new", "old"]
        assert line.count("connect") < 12

    def test_a_fatal_error_of_the_second_line(self, world: World) -> None:
        line = world.line()
        device, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.break_next("connect", None, Raise(ProtocolError("nonsense")))
        realm.sync_session.resume()
        error = self.failed(device, realm)
        assert isinstance(error.__cause__, ProtocolError)
        assert texts(realm) == ["new", "old"]
        assert not [path for path in realm.path.parent.iterdir() if "fresh" in path.name]

    def test_one_of_a_realm_that_was_closed_meanwhile_is_told_at_its_next_opening(self, world: World) -> None:
        calls, line = Calls(), world.line()
        device, realm = parted(world, calls.of(Recover), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged", may_recover=False)
        line.hold("connect")
        realm.sync_session.resume()
        realm.close()
        line.let_go("connect")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        device.let_it_run()
        assert (device.told, calls.names) == ([], [])
        with device.open(client_reset=calls.of(Recover)) as again:
            self.failed(device, again)
            eventually(lambda: calls.names == ["fallback"])
            assert texts(again) == ["new", "old"]
            assert numbers(again) == [2]

    def test_a_fallback_that_raises_harms_nobody(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        def fallback(session: SyncSession, error: ClientResetRequired) -> None:
            raise LookupError("a bug in the fallback")

        device, realm = parted(world, Recover(on_manual_fallback=fallback))
        world.remote.ask_for_reset("history damaged", may_recover=False)
        realm.sync_session.resume()
        self.failed(device, realm)
        eventually(lambda: "a bug in the fallback" in caplog.text)
        add(realm, "more")

    def test_the_fallback_can_reset_by_hand(self, world: World) -> None:
        done: list[bool] = []

        def fallback(session: SyncSession, error: ClientResetRequired) -> None:
            realm.close()
            done.append(error.execute())

        device, realm = parted(world, Recover(on_manual_fallback=fallback))
        world.remote.ask_for_reset("history damaged", may_recover=False)
        realm.sync_session.resume()
        eventually(lambda: done == [True])
        again = device.open(client_reset=Recover())
        in_step(again)
        assert texts(again) == ["old"]


class TestManual:
    """4.6"""

    def required(self, world: World, told: list[ClientResetRequired]) -> tuple[Device, Realm, ClientResetRequired]:
        def on_client_reset(session: SyncSession, error: ClientResetRequired) -> None:
            assert threading.current_thread().name != "localstore-kit", "the background thread, which this would hold up"
            told.append(error)

        device, realm = parted(world, Manual(on_client_reset=on_client_reset))
        world.remote.wipe()
        realm.sync_session.resume()
        eventually(lambda: told)
        return device, realm, told[0]

    def test_the_session_stops_and_the_application_is_told(self, world: World) -> None:
        device, realm, error = self.required(world, [])
        assert realm.sync_session.state is SessionState.INACTIVE
        assert realm.sync_session.last_error is error
        assert error.kind is ResetReason.REMOTE_REPLACED
        assert error.original_path == realm.path
        assert not error.recovery_path.exists()
        assert error.recovery_path.parent == realm.path.parent
        assert device.told == [error]

    def test_it_copies_the_file_deletes_it_and_the_next_opening_makes_it_anew(self, world: World) -> None:
        device, realm, error = self.required(world, [])
        add(realm, "after the error")
        realm.close()
        assert error.execute() is True
        assert not device.path.exists()
        again = device.open()
        in_step(again)
        assert texts(again) == []
        with Realm.open(LocalConfiguration(path=error.recovery_path, schema={Note})) as kept:
            assert texts(kept) == ["after the error", "new", "old"]
            rescued = kept.exec(select(Note).where(Note.text == "new")).one()
        add(again, rescued.text)
        in_step(again)
        assert world.remote_texts() == ["new"]

    def test_all_of_its_realms_must_be_closed_before(self, world: World) -> None:
        device, realm, error = self.required(world, [])
        other = device.open(client_reset=Manual(on_client_reset=print))
        realm.close()
        with pytest.raises(StoreBusy, match="is open"):
            error.execute()
        assert device.path.exists()
        assert not error.recovery_path.exists()
        other.close()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert error.execute() is True

    def test_done_once_there_is_nothing_left_to_do(self, world: World) -> None:
        device, realm, error = self.required(world, [])
        realm.close()
        assert error.execute() is True
        assert error.execute() is False
        with device.open():
            pass
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert error.execute() is False
        assert device.path.exists()

    def test_what_sync_knew_is_kept_besides(self, world: World) -> None:
        _, realm, error = self.required(world, [])
        realm.close()
        error.execute()
        (backup,) = backups(realm)
        assert sql(backup, "SELECT number FROM localstore_outbox") == [(2,)]

    def test_when_nothing_is_done_the_next_session_is_told_again(self, world: World) -> None:
        told: list[ClientResetRequired] = []
        _, realm, _ = self.required(world, told)
        realm.sync_session.resume()
        eventually(lambda: len(told) == 2)
        assert texts(realm) == ["new", "old"]

    def test_waits_end_with_the_error(self, world: World) -> None:
        told: list[ClientResetRequired] = []
        _, realm = parted(world, Manual(on_client_reset=lambda session, error: told.append(error)))
        waits = in_background(lambda: realm.sync_session.download_all_server_changes())
        eventually(lambda: waiting(realm.sync_session))
        world.remote.wipe()
        realm.sync_session.resume()
        assert isinstance(waits.exception(PATIENCE), ClientResetRequired)


class TestStatus:
    def test_it_says_that_a_reset_is_under_way(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.hold("pull")
        realm.sync_session.resume()
        eventually(lambda: line.held("pull"))
        assert realm.sync_session.status.why.value == "resetting"
        line.let_go("pull")
        in_step(realm)
        eventually(lambda: realm.sync_session.status.why.value == "in step")

    def test_one_that_a_pause_broke_off_is_under_way_no_longer(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.hold("pull")
        realm.sync_session.resume()
        eventually(lambda: realm.sync_session.status.why.value == "resetting")
        realm.sync_session.pause()
        assert realm.sync_session.status.why.value == "paused by the user"
        line.hold("connect")
        realm.sync_session.resume()
        eventually(lambda: line.held("connect"))
        assert realm.sync_session.status.why.value == "connecting"
        line.let_go("connect")
        line.let_go("pull")
        in_step(realm)

    def test_a_pause_breaks_waits_off_as_ever(self, world: World) -> None:
        line = world.line()
        _, realm = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        world.remote.ask_for_reset("history damaged")
        line.hold("pull")
        realm.sync_session.resume()
        eventually(lambda: line.held("pull"))
        waits = in_background(lambda: realm.sync_session.upload_all_local_changes())
        eventually(lambda: waiting(realm.sync_session))
        realm.sync_session.pause()
        assert isinstance(waits.exception(PATIENCE), OperationAborted)
        line.let_go("pull")

    def test_the_log_says_what_was_done_and_where_the_backup_lies(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "localstore.sync")
        _, realm = parted(world, RecoverOrDiscard())
        world.remote.wipe()
        reset(realm)
        assert "one.db was reset (remote replaced, recover): 1 changesets were brought along" in caplog.text
        assert str(backups(realm)[0]) in caplog.text


def test_a_callback_that_raises_at_the_next_start_is_called_again_at_the_one_after(world: World) -> None:
    """What was left to be done after a kill is an attempt as any other."""
    calls = Calls()

    def then(name: str, before: Realm, after: Session | None) -> None:
        raise LookupError("a bug")

    device, realm = parted(world, RecoverOrDiscard())
    world.remote.ask_for_reset("history damaged")
    reset(realm)
    settled(realm)
    device.app.close()
    realm.close()
    (backup,) = backups(realm)
    record = "INSERT INTO localstore_reset VALUES (1, 'recover', 'history damaged', 1, '0.1.0', 'changed', ?)"
    sql(device.path, record, str(backup))
    calls.then = then
    again = world.device(path=device.path)
    realm = again.open(client_reset=calls.recover_or_discard())
    eventually(lambda: calls.names == ["recovered", "fallback"])
    assert again.kinds == ["ClientResetFailed"]
    calls.then = lambda *_: None
    reset(realm)
    settled(realm)
    assert calls.names == ["recovered", "fallback", "recovered"]


class TestOtherProcesses:
    """Two sessions on one file, each with a store of its own, as two processes have."""

    def both(self, world: World) -> tuple[Line, Realm, Realm]:
        line = world.line()
        _, one = parted(world, RecoverOrDiscard(), device=world.device(remote=line))
        device = world.device(path=one.path, remote=line)
        other = device.open()
        in_step(other)
        other.sync_session.pause()
        one.sync_session.pause()
        return line, one, other

    def while_time_passes(self, world: World, function: Callable[[], object]) -> None:
        """Run something through the waits of whoever was second."""
        done = in_background(function)
        eventually(lambda: world.clock.advance(1) or done.done())
        done.result(PATIENCE)

    def test_one_resets_and_the_other_goes_on(self, world: World) -> None:
        _, one, other = self.both(world)
        other.sync_session.resume()
        in_step(other)
        world.remote.ask_for_reset("history damaged")
        self.while_time_passes(world, lambda: reset(one))
        add(other, "by the other process")
        self.while_time_passes(world, lambda: in_step(other))
        in_step(one)
        assert texts(one) == world.remote_texts() == ["by the other process", "new", "old"]

    def test_an_acknowledgement_from_before_takes_nothing_from_the_outbox_of_after(self, world: World) -> None:
        line, one, other = self.both(world)
        add(other, "sent by the other process")
        line.hold("push")
        other.sync_session.resume()
        eventually(lambda: line.held("push"))
        world.remote.go_offline()
        world.remote.go_online()
        store = other._store
        was = store.state().device
        world.remote.ask_for_reset("history damaged")
        one.sync_session.resume()
        eventually(lambda: store.state().device != was)
        unsent = numbers(one)
        assert unsent
        store.acknowledge(10, was)
        store.refuse(1, "late", was)
        assert numbers(one) == unsent
        line.let_go("push")
        eventually(lambda: not numbers(one))
        assert world.remote_texts() == ["new", "old", "sent by the other process"]

    def test_of_two_that_reset_at_once_one_does(self, world: World) -> None:
        _, one, other = self.both(world)
        world.remote.ask_for_reset("history damaged")
        one.sync_session.resume()
        other.sync_session.resume()
        self.while_time_passes(world, lambda: (in_step(one), in_step(other)))
        assert texts(one) == world.remote_texts() == ["new", "old"]
        assert one.device_id == other.device_id


class TestSchemas:
    """The second file has the tables that the first one has, whatever the realm declares."""

    @pytest.mark.parametrize("strategy", [Recover(), Discard(), SeedRemote()], ids=lambda strategy: type(strategy).__name__)
    def test_tables_that_the_realm_does_not_declare_are_reset_too(self, world: World, strategy: ClientReset) -> None:
        device = world.device()
        with device.open(schema={Note, Seat}) as realm:
            with realm.write() as tx:
                tx.add(Seat(room="A", number=1, guest="sent"))
            in_step(realm)
            realm.sync_session.pause()
            with realm.write() as tx:
                tx.add(Seat(room="A", number=2, guest="not sent"))
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        world.remote.ask_for_reset("history damaged")
        with device.open(client_reset=strategy) as realm:
            in_step(realm)
            settled(realm)
            assert realm.sync_session.last_reset is not None
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        realm = device.open(schema={Note, Seat})
        guests = sorted(guest or "" for guest in realm.exec(select(Seat.guest)).all())
        assert guests == (["sent"] if isinstance(strategy, Discard) else ["not sent", "sent"])
        in_step(realm)
        reader = world.device("reader").open(schema={Note, Seat})
        in_step(reader)
        assert sorted(guest or "" for guest in reader.exec(select(Seat.guest)).all()) == guests

    def test_a_table_of_which_the_remote_has_nothing_is_empty_after_discarding(self, world: World) -> None:
        """Realm fails here, as its remote has a schema of its own."""
        device = world.device()
        _, realm = parted(world, Discard(), device=device, schema={Note, Seat})
        with realm.write() as tx:
            tx.add(Seat(room="A", number=1, guest="not sent"))
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert realm.exec(select(Seat)).all() == []
        assert device.told == []
        with realm.write() as tx:
            tx.add(Seat(room="A", number=1, guest="later"))
        in_step(realm)

    @pytest.mark.parametrize(("strategy", "left"), [(RecoverOrDiscard(), ["new", "old"]), (Discard(), ["old"])])
    def test_a_table_that_another_program_added_columns_and_indexes_to(
        self, world: World, strategy: ClientReset, left: list[str]
    ) -> None:
        _, realm = parted(world, strategy)
        sql(realm.path, "ALTER TABLE note ADD COLUMN colour TEXT DEFAULT 'red' CHECK (colour <> '')")
        sql(realm.path, "CREATE INDEX note_text ON note (text)")
        world.remote.ask_for_reset("history damaged")
        reset(realm)
        assert texts(realm) == left
        assert sql(realm.path, "SELECT DISTINCT colour FROM note") == [("red",)]
