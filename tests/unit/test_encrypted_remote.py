"""Devices on an encrypted remote: they converge, and whoever has no key, or tampers, is found out before harm is done."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore import App, Credentials, Realm, SeedRemote, SessionState, Settings, wire
from localstore.adapter import Capabilities, Cursor, Hello, Limit, Page, SealedChangeset, SyncAdapter
from localstore.changeset_cipher import OVERHEAD_BYTES, Place
from localstore.encryption import EncryptedAdapter, encrypted
from localstore.environment import Environment
from localstore.errors import MalformedChangeset, Offline, ResetRequired, WrongKey
from localstore.remote_secret import RemoteSecret
from localstore.testing.clock import environment
from localstore.testing.conformance import make_changeset
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.testing.memory_users import MemoryRemoteWithUsers
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import PATIENCE, Device, World, add, eventually, numbers, texts

pytest.importorskip("cryptography", reason="needs the extra encryption")

KEY, WRONG = b"k" * 32, b"w" * 32
HERE = Place("kit", "default")
A, B = b"A" * 16, b"B" * 16


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "localstore.sync")


def device(world: World, name: str, *, key: bytes = KEY) -> Device:
    return world.device(name, remote=encrypted(world.remote.adapter, key=key))


def sent(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


def received(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def connected(adapter: SyncAdapter, device: bytes = A) -> SyncAdapter:
    asyncio.run(adapter.connect(Hello(app="kit", partition="default", device=device)))
    return adapter


def line(remote: MemoryRemote, key: bytes = KEY, device: bytes = A) -> SyncAdapter:
    return connected(EncryptedAdapter(remote.adapter(), RemoteSecret(key=key)), device)


class Altering(MemoryAdapter):
    """A remote that gives something else than what it was given."""

    def __init__(self, remote: MemoryRemote, alter: Callable[[Sequence[SealedChangeset]], Sequence[SealedChangeset]]) -> None:
        super().__init__(remote)
        self.alter = alter

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        page = await super().pull(cursor, limit)
        return dataclasses.replace(page, changesets=tuple(self.alter(page.changesets)))


class TestDevicesWithTheKey:
    def test_two_devices_with_one_passphrase_converge_over_a_folder_in_which_nothing_can_be_read(
        self, world: World, tmp_path: Path
    ) -> None:
        url = f"folder://{tmp_path / 'shared'}"
        one, other = (
            world.device(name, remote=encrypted(url, passphrase="correct horse battery")).open() for name in ("one", "other")
        )
        add(one, "readable-text-marker")
        sent(one)
        received(other)
        add(other, "another-text-marker")
        sent(other)
        received(one)
        assert texts(one) == texts(other) == ["another-text-marker", "readable-text-marker"]
        files = [path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file()]
        assert len(files) == 3  # one of each device, and whose folder it is
        for marker in (b"text-marker", b"note", b"horse"):
            assert not any(marker in content for content in files)

    def test_a_push_whose_answer_got_lost_is_recognized(self) -> None:
        remote = MemoryRemote()
        batch = [make_changeset(A, number) for number in (1, 2)]
        for adapter in (line(remote), line(remote)):
            assert asyncio.run(adapter.push(batch)).acknowledged == 2
        assert len(remote.changesets()) == 2

    def test_a_remote_that_gives_everything_twice_changes_nothing(self, world: World) -> None:
        writer = device(world, "writer").open()
        add(writer, "a")
        add(writer, "b")
        sent(writer)

        def replay(changesets: Sequence[SealedChangeset]) -> Sequence[SealedChangeset]:
            return [*changesets, *world.remote.changesets()]

        reader = world.device("reader", remote=encrypted(lambda: Altering(world.remote, replay), key=KEY))
        realm = reader.open()
        received(realm)
        received(realm)
        assert texts(realm) == ["a", "b"]
        assert reader.told == []

    def test_a_remote_that_was_replaced_is_filled_again_under_a_new_key(self, world: World) -> None:
        one = device(world, "one")
        realm = one.open()
        add(realm, "a")
        sent(realm)
        one.close()
        world.remote.wipe()
        again = world.device("one", remote=encrypted(world.remote.adapter, key=WRONG)).open(client_reset=SeedRemote())
        received(again)
        sent(again)
        new = device(world, "new", key=WRONG).open()
        received(new)
        assert texts(new) == texts(again) == ["a"]


class TestDevicesWithoutIt:
    def stops(self, device: Device, realm: Realm, *, texts_stay: list[str]) -> WrongKey:
        """The session says so once, stops, and has taken and given nothing."""
        before = device.world.remote.changesets()
        eventually(lambda: device.told)
        assert device.kinds == ["WrongKey"]
        assert device.told[0].is_fatal
        assert realm.sync_session.state is SessionState.INACTIVE
        assert texts(realm) == texts_stay
        assert numbers(realm) == list(range(1, len(texts_stay) + 1)), "what was written is unsent still"
        assert device.world.remote.changesets() == before
        error = device.told[0]
        assert isinstance(error, WrongKey)
        return error

    def filled(self, world: World) -> None:
        writer = device(world, "writer").open()
        add(writer, "a")
        sent(writer)

    def test_a_wrong_key_stops_the_session_and_touches_nothing(self, world: World) -> None:
        self.filled(world)
        wrong = device(world, "wrong", key=WRONG)
        realm = wrong.open()
        realm.sync_session.pause()
        add(realm, "mine")
        wrong.told.clear()
        realm.sync_session.resume()
        assert "another key or passphrase" in str(self.stops(wrong, realm, texts_stay=["mine"]))

    def test_no_key_stops_the_session_and_touches_nothing(self, world: World) -> None:
        self.filled(world)
        plain = world.device("plain")
        realm = plain.open()
        assert "remote=encrypted(" in str(self.stops(plain, realm, texts_stay=[]))

    def test_a_key_where_nobody_else_has_one_stops_the_session_and_touches_nothing(self, world: World) -> None:
        writer = world.device("writer").open()
        add(writer, "a")
        sent(writer)
        early = device(world, "early")
        realm = early.open()
        assert "is not encrypted" in str(self.stops(early, realm, texts_stay=[]))

    def test_with_the_right_key_it_goes_on_where_it_was(self, world: World) -> None:
        self.filled(world)
        wrong = device(world, "late", key=WRONG)
        realm = wrong.open()
        self.stops(wrong, realm, texts_stay=[])
        add(realm, "mine")
        wrong.close()
        right = device(world, "late").open()
        received(right)
        sent(right)
        assert texts(right) == ["a", "mine"]

    def test_nothing_is_pushed_before_the_key_was_seen_to_fit(self) -> None:
        """As after a short loss of the connection, when a session sends first."""
        remote = MemoryRemote()
        asyncio.run(line(remote).push([make_changeset(A, 1)]))
        with pytest.raises(WrongKey):
            asyncio.run(line(remote, WRONG, B).push([make_changeset(B, 1)]))
        assert [sealed.device for sealed in remote.changesets()] == [A]

    def test_the_same_in_a_folder(self, tmp_path: Path) -> None:
        def folder_line(key: bytes, device: bytes) -> SyncAdapter:
            return connected(EncryptedAdapter(FolderAdapter(tmp_path / "shared"), RemoteSecret(key=key)), device)

        asyncio.run(folder_line(KEY, A).push([make_changeset(A, 1)]))
        with pytest.raises(WrongKey):
            asyncio.run(folder_line(WRONG, B).push([make_changeset(B, 1)]))
        assert len(list((tmp_path / "shared").rglob("*.changes"))) == 1

    def test_the_key_is_compared_once_and_not_at_every_push(self) -> None:
        class Counting(MemoryAdapter):
            pulls = 0

            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                self.pulls += 1
                return await super().pull(cursor, limit)

        remote, secret = MemoryRemote(), RemoteSecret(key=KEY)
        first = Counting(remote)
        adapter = connected(EncryptedAdapter(first, secret))
        for number in (1, 2, 3):
            asyncio.run(adapter.push([make_changeset(A, number)]))
        assert first.pulls == 1, "nothing was there to compare it with"
        for expected in (1, 0):
            again = Counting(remote)
            asyncio.run(connected(EncryptedAdapter(again, secret)).push([make_changeset(A, 3)]))
            assert again.pulls == expected

    def test_a_remote_whose_beginning_was_trimmed_is_pushed_to(self) -> None:
        class Trimmed(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                raise ResetRequired("history trimmed")

        adapter = connected(EncryptedAdapter(Trimmed(MemoryRemote()), RemoteSecret(key=KEY)))
        assert asyncio.run(adapter.push([make_changeset(A, 1)])).acknowledged == 1

    def test_what_was_sent_with_a_mistyped_passphrase_can_be_taken_out_of_a_folder_and_sent_again(
        self, world: World, tmp_path: Path
    ) -> None:
        """Two devices were set up apart from each other, so that neither could see that their keys differ."""
        folder = tmp_path / "shared"

        def with_key(name: str, key: bytes) -> Device:
            return world.device(name, remote=encrypted(f"folder://{folder}", key=key))

        wrong, right = with_key("mistyped", WRONG), with_key("right", KEY)
        mistyped = wrong.open()
        add(mistyped, "by the one who mistyped")
        sent(mistyped)
        realm = right.open()
        eventually(lambda: right.kinds == ["WrongKey"])
        shown = re.search("of device ([0-9a-f]{8})", right.told[0].message)
        assert shown is not None
        wrong.close()
        (directory,) = folder.glob(f"p-default/{shown[1]}*")
        shutil.rmtree(directory)
        line = encrypted(lambda: FolderAdapter(folder, environment=environment(world.clock)), key=KEY)
        again = world.device("mistyped", remote=line).open(client_reset=SeedRemote())
        world.await_reset(again)
        add(realm, "by the other")
        realm.sync_session.resume()
        for each in (again, realm, again):
            received(each)
            sent(each)
        assert texts(again) == texts(realm) == ["by the one who mistyped", "by the other"]


class TestTampering:
    @pytest.mark.parametrize(
        "alter",
        [
            lambda page: [wire.instead_of(sealed, sealed.body[:-1] + b"?") for sealed in page],
            lambda page: [wire.instead_of(sealed, sealed.body[:40]) for sealed in page],
            lambda page: [wire.instead_of(a, b.body) for a, b in zip(page, reversed(page), strict=True)],
            lambda page: [page[0], wire.instead_of(page[1], page[0].body)],
        ],
        ids=["a bit", "the end", "two swapped", "one twice"],
    )
    def test_it_stops_the_session_and_nothing_of_it_is_applied(
        self, world: World, alter: Callable[[Sequence[SealedChangeset]], Sequence[SealedChangeset]]
    ) -> None:
        writer = device(world, "writer").open()
        add(writer, "a")
        add(writer, "b")
        sent(writer)
        reader = world.device(
            "reader", remote=encrypted(lambda: Altering(world.remote, lambda page: alter(page) if page else page), key=KEY)
        )
        realm = reader.open()
        eventually(lambda: reader.told)
        assert reader.kinds == ["MalformedChangeset"]
        assert isinstance(reader.told[0], MalformedChangeset)
        assert realm.sync_session.state is SessionState.INACTIVE
        assert texts(realm) == []

    def test_a_changeset_without_encryption_is_not_slipped_in(self, world: World) -> None:
        writer = device(world, "writer").open()
        add(writer, "a")
        sent(writer)
        forged = make_changeset(B, 1)
        reader = world.device("reader", remote=encrypted(lambda: Altering(world.remote, lambda _: [forged]), key=KEY))
        realm = reader.open()
        eventually(lambda: reader.told)
        assert reader.kinds == ["WrongKey"]
        assert texts(realm) == []


class Limited(MemoryAdapter):
    def __init__(self, limits: Capabilities) -> None:
        super().__init__(MemoryRemote())
        self.limits = limits

    @property
    def capabilities(self) -> Capabilities:
        return self.limits


class TestTheAdapter:
    @given(st.integers(1, 2**24), st.integers(1, 10_000), st.integers(1, 2**24) | st.none())
    def test_a_batch_within_its_limits_is_within_those_of_the_adapter_inside(
        self, batch_bytes: int, count: int, changeset_bytes: int | None
    ) -> None:
        inner = Capabilities(max_batch_bytes=batch_bytes, max_batch_count=count, max_changeset_bytes=changeset_bytes)
        outer = EncryptedAdapter(Limited(inner), RemoteSecret(key=KEY)).capabilities
        assert 1 <= outer.max_batch_count <= count
        assert outer.max_batch_count == 1 or outer.max_batch_bytes + outer.max_batch_count * OVERHEAD_BYTES <= batch_bytes
        assert outer.max_batch_bytes >= 1
        if changeset_bytes is None:
            assert outer.max_changeset_bytes is None
        elif changeset_bytes > OVERHEAD_BYTES:
            assert outer.max_changeset_bytes == changeset_bytes - OVERHEAD_BYTES

    def test_it_promises_nothing_that_would_be_sent_unencrypted(self) -> None:
        able = Capabilities(snapshots=True, subscriptions=True, users=True, watch=True, poll_seconds=7, ordered=False)
        shown = EncryptedAdapter(Limited(able), RemoteSecret(key=KEY)).capabilities
        assert not shown.subscriptions
        assert (shown.snapshots, shown.users, shown.watch, shown.poll_seconds, shown.ordered) == (True, True, True, 7, False)

    def test_what_the_adapter_inside_cannot_do_it_cannot_either(self) -> None:
        class Bare:
            capabilities = Capabilities()

        adapter = EncryptedAdapter(Bare(), RemoteSecret(key=KEY))
        for call in (adapter.ping(), adapter.refresh("token")):
            with pytest.raises(Offline):
                asyncio.run(call)
        with pytest.raises(Offline):
            adapter.watch(None)

    def test_a_line_that_is_not_connected_encrypts_nothing(self) -> None:
        adapter = EncryptedAdapter(MemoryRemote().adapter(), RemoteSecret(key=KEY))
        for call in (adapter.push([make_changeset(A, 1)]), adapter.pull(None, Limit())):
            with pytest.raises(Offline, match="Connect first"):
                asyncio.run(call)

    def test_a_connect_that_was_broken_off_leaves_no_key_of_before(self) -> None:
        is_broken_off = False

        async def run_blocking(function: Callable[..., object], *arguments: object) -> object:
            if is_broken_off:
                raise asyncio.CancelledError
            return function(*arguments)

        async def rule() -> None:
            nonlocal is_broken_off
            remote = MemoryRemote()
            surroundings = dataclasses.replace(Environment(), run_blocking=run_blocking)
            adapter = EncryptedAdapter(remote.adapter(), RemoteSecret(key=KEY), environment=surroundings)
            hello = Hello(app="kit", partition="default", device=A)
            await adapter.connect(hello)
            remote.wipe()
            is_broken_off = True
            with pytest.raises(asyncio.CancelledError):
                await adapter.connect(hello)
            is_broken_off = False
            with pytest.raises(Offline, match="Connect first"):
                await adapter.push([make_changeset(A, 1)])
            await adapter.connect(hello)
            assert (await adapter.push([make_changeset(A, 1)])).acknowledged == 1

        asyncio.run(rule())


class TestSettingItUp:
    def test_it_is_shown_without_its_secret(self) -> None:
        remote = encrypted("folder:///mnt/share/todo", passphrase="correct horse")
        assert repr(remote) == "encrypted('folder:///mnt/share/todo', ***)"
        assert repr(encrypted(MemoryRemote().adapter, key=KEY)) == "encrypted('...', ***)"
        assert "horse" not in repr(vars(remote)) + repr(remote())

    @pytest.mark.parametrize("url", ["folder://relative/path", "nowhere://at-all", "no url"])
    def test_a_url_that_makes_no_sense_is_refused_at_once(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"URL|names no folder|No adapter"):
            encrypted(url, key=KEY)

    @pytest.mark.parametrize("given_", [{}, {"key": KEY, "passphrase": "words"}], ids=["neither", "both"])
    def test_a_key_or_a_passphrase_is_needed(self, given_: dict[str, object]) -> None:
        with pytest.raises(TypeError, match="a key of 32 bytes or a passphrase"):
            encrypted("memory://todo", **given_)

    def test_what_is_no_remote_is_refused(self) -> None:
        with pytest.raises(TypeError, match="remote is a URL or a callable"):
            encrypted(7, key=KEY)

    def test_a_log_in_belongs_to_the_remote_whether_it_is_encrypted_or_not(self, tmp_path: Path) -> None:
        settings = Settings(directory=str(tmp_path))
        apps = [
            App.create("todo", remote=remote, settings=settings)
            for remote in ("memory://one", encrypted("memory://one", key=KEY), encrypted("memory://other", key=KEY))
        ]
        one, same, other = (app.users._remote for app in apps)
        for app in apps:
            app.close()
        assert one == same != other

    def test_users_log_in_through_it(self, tmp_path: Path) -> None:
        remote = MemoryRemoteWithUsers()
        emma = Credentials.email_password("emma@example.com", "password")
        remote.add_user("emma", emma)
        settings = Settings(directory=str(tmp_path))
        with App.create("todo", remote=encrypted(remote.adapter, key=KEY), settings=settings) as app:
            assert app.login(emma).id == "emma"

    def test_without_the_extra_the_command_that_helps_is_named(self) -> None:
        script = (
            "import sys\n"
            "sys.modules['cryptography'] = None\n"
            "from localstore.encryption import encrypted\n"
            "try:\n"
            "    encrypted('memory://todo', passphrase='correct horse')\n"
            "except ImportError as error:\n"
            "    assert \"pip install 'localstore-sync[encryption]'\" in str(error), error\n"
            "else:\n"
            "    raise AssertionError('encrypted without cryptography')\n"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
