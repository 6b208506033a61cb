"""The memory adapter against the contract."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from localstore import Credentials, Settings
from localstore.adapter import Hello
from localstore.testing.conformance import POWERS, AdapterConformance, UsersConformance
from localstore.testing.conformance.connecting import ConnectingRules
from localstore.testing.conformance.converging import ConvergingRules
from localstore.testing.conformance.snapshotting import SnapshottingRules
from localstore.testing.conformance.watching import WatchingRules
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.testing.memory_users import MemoryRemoteWithUsers, MemoryUserAdapter


class MemoryUnderTest:
    """All powers are at hand: the remote is an object in this process."""

    def __init__(self, remote: MemoryRemote | None = None) -> None:
        self.remote = remote or MemoryRemote()
        self.go_offline = self.remote.go_offline
        self.go_online = self.remote.go_online
        self.wipe = self.remote.wipe
        self.trim_history = self.remote.trim_history

    def make_adapter(self) -> MemoryAdapter:
        return self.remote.adapter()

    def refuse_larger_than(self, byte_count: int) -> None:
        self.remote.max_changeset_bytes = byte_count


class TestMemory(AdapterConformance):
    powers = POWERS - {"snapshots"}  # whatever can be done to a remote can be done to this one
    skips = frozenset({"snapshots"})

    @pytest.fixture
    def remote(self) -> MemoryUnderTest:
        return MemoryUnderTest()


class TestMemoryThatBringsNews(WatchingRules, ConvergingRules):  # all the others are about what it has in common
    powers = POWERS - {"snapshots"}
    skips = frozenset({"snapshots"})

    @pytest.fixture
    def remote(self) -> MemoryUnderTest:
        return MemoryUnderTest(MemoryRemote(brings_news=True))


class MemoryWithSnapshotsUnderTest(MemoryUnderTest):
    """The same with snapshots."""

    def __init__(self) -> None:
        super().__init__(MemoryRemoteWithSnapshots())


class TestMemoryWithSnapshots(SnapshottingRules, ConnectingRules):  # all the others are about what it has in common
    powers = POWERS

    @pytest.fixture
    def remote(self) -> MemoryWithSnapshotsUnderTest:
        return MemoryWithSnapshotsUnderTest()


class MemoryWithUsersUnderTest:
    """The same with users: Emma has a password, and anonymous users may log in."""

    good = Credentials.email_password("emma@example.com", "right-password")
    bad = Credentials.email_password("emma@example.com", "wrong-password")

    def __init__(self) -> None:
        self.remote = MemoryRemoteWithUsers()
        self.remote.add_user("emma", self.good)
        self.go_offline = self.remote.go_offline
        self.go_online = self.remote.go_online
        self.wipe = self.remote.wipe
        self.trim_history = self.remote.trim_history
        self.expire_access_tokens = self.remote.expire_access_tokens

    def make_adapter(self) -> MemoryUserAdapter:
        return self.remote.adapter()

    def refuse_larger_than(self, byte_count: int) -> None:
        self.remote.max_changeset_bytes = byte_count


class TestMemoryWithUsers(AdapterConformance, UsersConformance):
    powers, skips = TestMemory.powers, TestMemory.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> MemoryWithUsersUnderTest:
        under_test = MemoryWithUsersUnderTest()
        self.directory = tmp_path
        self.token = asyncio.run(under_test.make_adapter().log_in(under_test.good)).access_token
        return under_test

    def hello(self, device: bytes) -> Hello:
        return dataclasses.replace(super().hello(device), token=self.token)

    def settings(self) -> Settings:
        return super().settings().model_copy(update={"directory": str(self.directory / "data")})
