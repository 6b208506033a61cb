"""Client resets over a shared folder, with real files: whose cursors differ between devices, and which is not ordered."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from localstore import Realm, RecoverOrDiscard, ResetReason, SeedRemote
from localstore.errors import CompensatingWrite, Refused
from localstore.testing.clock import environment
from localstore.testing.faulty import FaultyAdapter, Raise, in_turn
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import PATIENCE, Note, World, add, eventually, is_let_go, texts


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "localstore.sync")


def in_step(*realms: Realm) -> None:
    for realm in realms:
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    for realm in realms:
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)  # what a reset has made


def two(world: World, folder: Path) -> tuple[Realm, Realm]:
    """Two devices that are in step, and paused."""
    one, other = (
        world.device(name, remote=lambda: FolderAdapter(folder, environment=environment(world.clock))).open(
            client_reset=SeedRemote()
        )
        for name in ("one", "other")
    )
    add(one, "by one")
    add(other, "by the other")
    in_step(one, other)
    for realm in (one, other):
        realm.sync_session.pause()
    return one, other


def test_a_folder_that_was_exchanged_for_an_empty_one_is_filled_again(world: World, folder: Path) -> None:
    one, other = two(world, folder)
    add(one, "new")
    shutil.rmtree(folder)
    world.device("third", remote=lambda: FolderAdapter(folder)).open().sync_session.download_all_server_changes(PATIENCE)
    one.sync_session.resume()
    in_step(one)
    other.sync_session.resume()
    in_step(other, one)
    assert texts(one) == texts(other) == ["by one", "by the other", "new"]
    report = one.sync_session.last_reset
    assert report is not None
    assert (report.kind, report.mode) == (ResetReason.REMOTE_REPLACED, "seed")


def test_a_folder_that_was_restored_from_a_backup_gets_back_what_it_lost(world: World, folder: Path, tmp_path: Path) -> None:
    one, other = two(world, folder)
    shutil.copytree(folder, tmp_path / "backup")
    one.sync_session.resume()
    add(one, "since the backup")
    in_step(one)
    one.sync_session.pause()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    one.sync_session.resume()
    world.await_reset(one)
    other.sync_session.resume()
    in_step(one)
    in_step(other)
    assert texts(one) == texts(other) == ["by one", "by the other", "since the backup"]
    report = one.sync_session.last_reset
    assert report is not None
    assert (report.kind, report.mode) == (ResetReason.REMOTE_RESTORED, "seed")


def test_a_copied_file_becomes_a_device_of_its_own(world: World, folder: Path, tmp_path: Path) -> None:
    first = world.device("first", remote=lambda: FolderAdapter(folder))
    with first.open() as realm:
        add(realm, "before the copy")
        in_step(realm)
    assert first.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
    assert is_let_go(first.path)
    shutil.copy(first.path, tmp_path / "copy.db")
    original = first.open()
    add(original, "by the original")
    in_step(original)
    copy = world.device("copy", remote=lambda: FolderAdapter(folder)).open(client_reset=RecoverOrDiscard())
    add(copy, "by the copy")
    in_step(copy)
    in_step(original)
    assert copy.device_id != original.device_id
    assert texts(copy) == texts(original) == ["before the copy", "by the copy", "by the original"]


def test_a_refused_write_is_undone(world: World, folder: Path) -> None:
    refusals = iter([True])

    def remote() -> FaultyAdapter:
        plan = in_turn("push", Raise(Refused("not allowed", number=2))) if armed and next(refusals, False) else in_turn("push")
        return FaultyAdapter(FolderAdapter(folder), plan)

    armed: list[bool] = []
    device = world.device("one", remote=remote)
    realm = device.open()
    other = world.device("other", remote=lambda: FolderAdapter(folder)).open()
    add(realm, "old")
    add(other, "by the other")
    in_step(realm, other)
    realm.sync_session.pause()
    with realm.write() as tx:
        tx.exec(select(Note).where(Note.text == "old")).one().text = "refused"
    add(realm, "after")
    armed.append(True)
    realm.sync_session.resume()
    eventually(lambda: device.told)
    assert isinstance(device.told[0], CompensatingWrite)
    in_step(realm)
    in_step(other)
    assert texts(realm) == texts(other) == ["after", "by the other", "old"]
