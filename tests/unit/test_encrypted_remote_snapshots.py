"""Snapshots of encrypted remotes: new devices begin with them, and wrong keys and tampering are found out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from localstore import Realm, SessionState
from localstore.adapter import Cursor, Hello, Limit, SnapshotInfo
from localstore.encryption import EncryptedAdapter, encrypted
from localstore.errors import Offline, SnapshotUnusable, WrongKey
from localstore.remote_secret import RemoteSecret
from localstore.testing.clock import environment
from localstore.testing.conformance import make_changeset
from localstore.testing.faulty import LoseAnswer
from localstore.testing.memory import MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots, MemorySnapshotAdapter
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import PATIENCE, Device, Note, World, add, eventually, numbers, texts

pytest.importorskip("cryptography", reason="needs the extra encryption")

T = TypeVar("T")
KEY, WRONG = b"k" * 32, b"w" * 32
A, B = b"A" * 16, b"B" * 16
FEW = {"snapshot_every": 10}
CONTENT = b"readable-text-marker" * 20_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        made.remote = MemoryRemoteWithSnapshots(environment=environment(made.clock, seed=1000))
        yield made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "localstore.sync")


class Folder:
    """A shared folder that keeps no history behind its snapshots.

    Attributes:
        read: how many snapshots were begun to be read in it.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = world.directory / "shared"
        self.read = 0

    def device(self, name: str, *, key: bytes = KEY, **settings: Any) -> Device:
        return self.world.device(name, remote=encrypted(self.adapter, key=key), **settings)

    def adapter(self) -> FolderAdapter:
        folder = self

        class Counting(FolderAdapter):
            def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
                folder.read += 1
                return super().read_snapshot(info)

        return Counting(self.path, keep_days=0, environment=environment(self.world.clock, seed=5), listens=False)

    def snapshots(self) -> list[Path]:
        return sorted(self.path.rglob("*.sqlite"))

    def files(self) -> set[Path]:
        return {path for path in self.path.rglob("*") if path.is_file()}


@pytest.fixture
def folder(world: World) -> Folder:
    return Folder(world)


def write_until(realm: Realm, happened: Callable[[], object]) -> None:
    """Changesets, sent and settled one by one, until it has happened, and one more, which comes after all that it brought."""
    for number in range(60):
        is_last = happened()
        add(realm, f"text-marker {number}")
        assert realm.sync_session.upload_all_local_changes(PATIENCE)
        assert realm.sync_session.download_all_server_changes(PATIENCE)
        if is_last:
            return
    pytest.fail("It never happened.")


def received(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(PATIENCE)


def in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def connected(inner: Any, key: bytes = KEY, device: bytes = A) -> EncryptedAdapter:
    adapter = EncryptedAdapter(inner, RemoteSecret(key=key))
    await adapter.connect(Hello(app="kit", partition="default", device=device))
    return adapter


async def write(adapter: EncryptedAdapter | MemorySnapshotAdapter, content: bytes = CONTENT) -> Cursor:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    cursor = (await adapter.pull(None, Limit())).cursor
    await adapter.write_snapshot(cursor, chunks())
    return cursor


async def filled(remote: MemoryRemote, *, trim: bool = False) -> None:
    """A changeset and a snapshot that holds it."""
    adapter = await connected(remote.adapter())
    await adapter.push([make_changeset(A, 1)])
    cursor = await write(adapter)
    if trim:
        await adapter.trim(cursor)


async def content(adapter: EncryptedAdapter) -> bytes:
    info = await adapter.latest_snapshot()
    assert info is not None
    async with aclosing(adapter.read_snapshot(info)) as chunks:
        return b"".join([chunk async for chunk in chunks])


class TestDevices:
    def test_a_new_one_begins_with_the_snapshot_of_a_folder_in_which_nothing_can_be_read(self, folder: Folder) -> None:
        realm = folder.device("writer", **FEW).open()
        write_until(realm, lambda: len(folder.snapshots()) > 1)
        realm.sync_session.pause()  # it may be letting go of history still
        for path in folder.files():
            assert not any(marker in path.read_bytes() for marker in (b"text-marker", b"note", b"SQLite"))
        new = folder.device("new")
        realm_of_new = new.open()
        received(realm_of_new)
        assert texts(realm_of_new) == texts(realm)
        assert (folder.read, new.told) == (1, [])

    def test_a_download_that_breaks_off_begins_anew(self, world: World) -> None:
        line = world.line()
        writer = world.device("writer", remote=encrypted(world.line(), key=KEY), **FEW).open()
        write_until(writer, lambda: world.remote._snapshots)
        line.break_next("read_snapshot", LoseAnswer(Offline("away")))
        new = world.device("new", remote=encrypted(line, key=KEY)).open()
        eventually(lambda: line.count("read_snapshot"), "the first try")
        new.sync_session.pause()
        new.sync_session.resume()
        received(new)
        assert texts(new) == texts(writer)
        assert line.count("read_snapshot") == 2

    @pytest.mark.parametrize("rows", [[], ["mine"]], ids=["nothing", "rows of its own"])
    def test_one_with_the_wrong_key_stops_at_the_snapshot_and_goes_on_with_the_right_one(
        self, folder: Folder, rows: list[str]
    ) -> None:
        writer = folder.device("writer", **FEW).open()
        write_until(writer, lambda: len(folder.snapshots()) > 1)
        writer.sync_session.pause()
        before = folder.files()
        initially = {"initial_data": lambda tx: tx.add_all([Note(text=row) for row in rows])} if rows else {}
        wrong = folder.device("late", key=WRONG)
        realm = wrong.open(**initially)
        eventually(lambda: wrong.told, "the error")
        assert wrong.kinds == ["WrongKey"]
        assert wrong.told[0].is_fatal
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        assert (texts(realm), numbers(realm)) == (rows, list(range(1, len(rows) + 1)))
        assert folder.files() == before
        assert not list(folder.world.directory.glob("late.db.snapshot-*"))
        wrong.close()
        right = folder.device("late").open(**initially)
        received(right)
        assert right.sync_session.upload_all_local_changes(PATIENCE)
        writer.sync_session.resume()
        received(writer)
        assert texts(right) == texts(writer)
        assert set(rows) < set(texts(right))

    def test_a_damaged_one_is_passed_over_for_the_one_before(self, folder: Folder) -> None:
        writer = folder.device("writer", **FEW).open()
        add(writer, "several chunks" * 20_000)
        write_until(writer, lambda: len(folder.snapshots()) > 1)
        newest = folder.snapshots()[-1]
        data = bytearray(newest.read_bytes())
        data[100] ^= 1
        newest.write_bytes(data)
        new = folder.device("new")
        realm = new.open()
        received(realm)
        assert texts(realm) == texts(writer)
        assert (folder.read, new.told) == (2, [])

    @pytest.mark.parametrize("at", [3, 12, 30, 55, 100, -1], ids=lambda at: f"byte {at}")
    def test_one_that_was_tampered_with_is_told_and_history_taken(self, world: World, at: int) -> None:
        writer = world.device("writer", remote=encrypted(world.remote.adapter, key=KEY), **FEW).open()
        write_until(writer, lambda: world.remote._snapshots)
        info, stored = world.remote._snapshots["default"]
        data = bytearray(stored)
        data[at] ^= 1
        world.remote._snapshots["default"] = info, bytes(data)
        world.remote._without_beginning.clear()
        world.remote._histories["default"].trimmed = 0
        new = world.device("new", remote=encrypted(world.remote.adapter, key=KEY))
        realm = new.open()
        received(realm)
        assert texts(realm) == texts(writer)
        assert new.kinds == ["SnapshotUnusable"]

    def test_a_plain_one_from_before_there_was_a_key_stops_the_session(self, world: World) -> None:
        write_until(world.device("writer", **FEW).open(), lambda: world.remote._snapshots)
        early = world.device("early", remote=encrypted(world.remote.adapter, key=KEY))
        realm = early.open()
        eventually(lambda: early.told, "the error")
        assert early.kinds == ["WrongKey"]
        assert "is not encrypted" in early.told[0].message
        assert texts(realm) == []

    def test_an_encrypted_one_stops_the_session_where_there_is_no_key(self, world: World) -> None:
        writer = world.device("writer", remote=encrypted(world.remote.adapter, key=KEY), **FEW).open()
        write_until(writer, lambda: world.remote._snapshots)
        plain = world.device("plain")
        realm = plain.open()
        eventually(lambda: plain.told, "the error")
        assert plain.kinds == ["WrongKey"]
        assert "remote=encrypted(" in str(plain.told[0])
        assert texts(realm) == []


class TestTheAdapter:
    def test_a_snapshot_has_the_size_of_what_is_in_it(self) -> None:
        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            await filled(remote)
            adapter = await connected(remote.adapter(), device=B)
            info = await adapter.latest_snapshot()
            stored = await adapter._inner.latest_snapshot()
            assert info is not None
            assert (info.byte_count, info.later) == (len(CONTENT), stored.later)
            assert (info.name, info.cursor) == (stored.name, stored.cursor)
            assert await content(adapter) == CONTENT

        in_loop(rule())

    def test_two_snapshots_of_the_same_have_nothing_in_common(self) -> None:
        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            seen = []
            for _ in range(2):
                await filled(remote)
                seen.append(remote._snapshots["default"][1])
            assert len({one[at : at + 16] for one in seen for at in range(57, len(CONTENT), 65552)}) == 14

        in_loop(rule())

    def test_an_empty_snapshot_comes_back(self) -> None:
        async def rule() -> None:
            adapter = await connected(MemoryRemoteWithSnapshots().adapter())
            await write(adapter, b"")
            assert await content(adapter) == b""

        in_loop(rule())

    @pytest.mark.parametrize("trim", [False, True], ids=["whole history", "trimmed history"])
    @pytest.mark.parametrize("call", ["push", "write_snapshot"])
    def test_nothing_is_stored_before_the_key_was_seen_to_fit(self, trim: bool, call: str) -> None:
        """As by a device that was at the head already when its passphrase was changed, which pulls nothing before it sends."""

        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            await filled(remote, trim=trim)
            before = remote.changesets(), remote._snapshots["default"]
            wrong = await connected(remote.adapter(), WRONG, B)
            calls = {
                "push": lambda: wrong.push([make_changeset(B, 1)]),
                "write_snapshot": lambda: wrong.write_snapshot(before[1][0].cursor, aiter_of(b"with the wrong key")),
            }
            with pytest.raises(WrongKey):
                await calls[call]()
            assert (remote.changesets(), remote._snapshots["default"]) == before

        in_loop(rule())

    def test_a_damaged_snapshot_says_nothing_about_the_key(self) -> None:
        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            await filled(remote, trim=True)
            info, stored = remote._snapshots["default"]
            remote._snapshots["default"] = info, bytes(len(stored))
            adapter = await connected(remote.adapter(), device=B)
            assert (await adapter.push([make_changeset(B, 1)])).acknowledged == 1

        in_loop(rule())

    def test_a_snapshot_that_took_the_place_of_another_is_whole_all_the_same(self) -> None:
        """An older one, which a remote may give instead: it begins, and goes on, where it says itself."""

        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            await filled(remote)
            _, old = remote._snapshots["default"]
            adapter = await connected(remote.adapter(), device=B)
            await write(adapter, b"newer" * 80_000)
            info, new = remote._snapshots["default"]
            remote._snapshots["default"] = info, old
            assert await content(adapter) == CONTENT
            remote._snapshots["default"] = info, new[:70_000] + old[70_000:]
            with pytest.raises(SnapshotUnusable):
                await content(adapter)

        in_loop(rule())

    def test_what_is_read_no_further_is_let_go_of_inside(self) -> None:
        open_ones = 0

        class Watched(MemorySnapshotAdapter):
            async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
                nonlocal open_ones
                open_ones += 1
                try:
                    async for chunk in super().read_snapshot(info):
                        yield chunk
                finally:
                    open_ones -= 1

        async def rule() -> None:
            remote = MemoryRemoteWithSnapshots()
            await filled(remote)
            adapter = await connected(Watched(remote), device=B)
            info = await adapter.latest_snapshot()
            assert info is not None
            chunks = adapter.read_snapshot(info)
            await anext(chunks)
            assert open_ones == 1
            await chunks.aclose()
            assert open_ones == 0

        in_loop(rule())

    def test_an_adapter_without_snapshots_has_none_when_encrypted(self) -> None:
        async def rule() -> None:
            adapter = await connected(MemoryRemote().adapter())
            assert not adapter.capabilities.snapshots
            with pytest.raises(Offline, match="keeps no snapshots"):
                await adapter.latest_snapshot()
            with pytest.raises(Offline, match="keeps no snapshots"):
                await write(adapter)

        in_loop(rule())

    def test_a_line_that_is_not_connected_reads_and_writes_none(self) -> None:
        async def rule() -> None:
            adapter = EncryptedAdapter(MemoryRemoteWithSnapshots().adapter(), RemoteSecret(key=KEY))
            info = SnapshotInfo(name="one", cursor=Cursor(b"somewhere"), byte_count=1)
            calls = [
                adapter.latest_snapshot(),
                anext(adapter.read_snapshot(info)),
                adapter.write_snapshot(info.cursor, aiter_of(b"")),
                adapter.trim(info.cursor),
            ]
            for call in calls:
                with pytest.raises(Offline, match="Connect first"):
                    await call

        in_loop(rule())


async def aiter_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
