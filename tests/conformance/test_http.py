"""The HTTP adapter against the contract, through a hub on loopback."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

from localstore.testing.conformance import POWERS, AdapterConformance
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore_adapters.http import HttpAdapter
from tests.unit.hub_kit import RunningHub, running_hub


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
