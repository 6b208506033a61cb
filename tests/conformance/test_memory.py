"""The memory adapter against the contract."""

from __future__ import annotations

import pytest

from localstore.testing.conformance import AdapterConformance
from localstore.testing.memory import MemoryAdapter, MemoryRemote


class MemoryUnderTest:
    """All powers are at hand: the remote is an object in this process."""

    def __init__(self) -> None:
        self.remote = MemoryRemote()
        self.go_offline = self.remote.go_offline
        self.go_online = self.remote.go_online
        self.wipe = self.remote.wipe

    def make_adapter(self) -> MemoryAdapter:
        return self.remote.adapter()

    def refuse_larger_than(self, byte_count: int) -> None:
        self.remote.max_changeset_bytes = byte_count


class TestMemory(AdapterConformance):
    powers = frozenset({"offline", "wipe", "refuse", "watch", "ping"})

    @pytest.fixture
    def remote(self) -> MemoryUnderTest:
        return MemoryUnderTest()
