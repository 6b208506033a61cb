"""The HTTP adapter against the contract, through a hub on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

from localstore import Credentials, Settings
from localstore.adapter import Hello, Tokens
from localstore.hub.accounts import people
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.registry import adapter_factory
from localstore.testing.conformance import POWERS, AdapterConformance, UsersConformance
from localstore.testing.conformance.cancelling import CancellingRules
from localstore.testing.conformance.connecting import ConnectingRules
from localstore.testing.conformance.converging import ConvergingRules
from localstore.testing.conformance.failing import FailingRules
from localstore.testing.conformance.pushing import PushingRules
from localstore.testing.conformance.snapshotting import SnapshottingRules
from localstore.testing.conformance.watching import WatchingRules
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore_adapters.http import HttpAdapter
from tests.unit.accounts_kit import CountingHasher
from tests.unit.hub_kit import RunningHub, ShiftedClock, running_hub


class HubUnderTest:
    """A hub that goes offline as one does: its process is not there any more. What is behind it can be changed under it."""

    def __init__(self, hub: RunningHub, remote: MemoryRemoteWithSnapshots) -> None:
        self.hub = hub
        self.remote = remote
        self.go_offline = hub.stop
        self.go_online = hub.start
        self.wipe = remote.wipe
        self.trim_history = remote.trim_history

    def make_adapter(self) -> HttpAdapter:
        return HttpAdapter.from_url(f"{self.hub.address}?users=no")

    def refuse_larger_than(self, byte_count: int) -> None:
        self.remote.max_changeset_bytes = byte_count


class TestHub(AdapterConformance):
    powers = POWERS
    skips = frozenset()

    @pytest.fixture
    def remote(self) -> Generator[HubUnderTest]:
        remote = MemoryRemoteWithSnapshots()
        with running_hub(remote.adapter) as hub:
            yield HubUnderTest(hub, remote)


class HubWithUsersUnderTest(HubUnderTest):
    """A hub whose accounts are in a database. Emma has a password."""

    good = Credentials.email_password("emma@example.com", "right-password")
    bad = Credentials.email_password("emma@example.com", "wrong-password")

    def __init__(self, hub: RunningHub, remote: MemoryRemoteWithSnapshots, clock: ShiftedClock) -> None:
        super().__init__(hub, remote)
        self._clock = clock

    def make_adapter(self) -> HttpAdapter:
        return HttpAdapter.from_url(self.hub.address)

    def expire_access_tokens(self) -> None:
        self._clock.seconds += 3600


@pytest.mark.slow
class TestHubWithUsers(UsersConformance, ConnectingRules, PushingRules, FailingRules, ConvergingRules):
    """What a token has a say in, and whole realms; all the others are about what it has in common."""

    powers, skips = TestHub.powers, TestHub.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> Generator[HubWithUsersUnderTest]:
        remote, clock, hasher = MemoryRemoteWithSnapshots(), ShiftedClock(), CountingHasher()
        url = f"sqlite:///{tmp_path / 'accounts.db'}"
        options = AccountsOptions(anonymous=True, authorize="tests.unit.hub_kit:everybody_writes")

        def accounts() -> SqlAccounts:
            return SqlAccounts.open(url, options, environment=clock.environment(), hasher=hasher)

        with running_hub(remote.adapter, accounts=accounts) as hub:
            database = Database(url, clock.environment())
            with database.writing() as connection:
                kept = hasher.hash(str(HubWithUsersUnderTest.good.secret).encode())
                people.add_person(connection, os.urandom, 0, email="emma@example.com", password=kept)
            database.close()
            under_test = HubWithUsersUnderTest(hub, remote, clock)
            self.directory = tmp_path
            self.token = asyncio.run(_log_in(under_test)).access_token
            yield under_test

    def hello(self, device: bytes) -> Hello:
        return dataclasses.replace(super().hello(device), token=self.token)

    def settings(self) -> Settings:
        return super().settings().model_copy(update={"directory": str(self.directory / "data")})


async def _log_in(under_test: HubWithUsersUnderTest) -> Tokens:
    adapter = under_test.make_adapter()
    try:
        return await adapter.log_in(under_test.good)
    finally:
        await adapter.close()


class HubOnDiskUnderTest:
    """A hub whose log nothing but the hub itself touches."""

    def __init__(self, hub: RunningHub) -> None:
        self.hub = hub
        self.go_offline = hub.stop
        self.go_online = hub.start

    def make_adapter(self) -> HttpAdapter:
        return HttpAdapter.from_url(f"{self.hub.address}?users=no")


@pytest.mark.slow
class TestHubOnSqlite(WatchingRules, CancellingRules, ConvergingRules, SnapshottingRules):
    """The same with a log on the disk, by the rules about time and order."""

    powers = frozenset({"offline", "watch", "ping", "snapshots"})
    skips = POWERS - powers

    @pytest.fixture
    def remote(self, tmp_path: Path) -> Generator[HubOnDiskUnderTest]:
        with running_hub(adapter_factory(f"sqlite:///{tmp_path / 'hub.db'}")) as hub:
            yield HubOnDiskUnderTest(hub)
