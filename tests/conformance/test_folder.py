"""The folder adapter against the contract."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.adapter import SyncAdapter
from localstore.testing.conformance import AdapterConformance
from localstore.testing.conformance.converging import ConvergingRules, Note
from localstore.testing.conformance.snapshotting import SnapshottingRules
from localstore.testing.conformance.watching import WatchingRules
from localstore_adapters.folder import FolderAdapter

SECONDS = 30.0


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.01)


class FolderUnderTest:
    """A folder that goes offline as a disk does: it is not there any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unplugged = folder.with_name("unplugged")

    def make_adapter(self) -> SyncAdapter:
        return FolderAdapter(self.folder)

    def make_forgetful_adapter(self) -> SyncAdapter:
        return FolderAdapter(self.folder, keep_days=0)

    def go_offline(self) -> None:
        self.folder.rename(self._unplugged)

    def go_online(self) -> None:
        self._unplugged.rename(self.folder)

    def wipe(self) -> None:
        shutil.rmtree(self.folder)

    def trim_history(self) -> None:
        """By one more device, that makes a snapshot of all there is and keeps no history behind it."""
        app = App.create("conformance", remote=self.make_forgetful_adapter, settings=Settings(snapshot_every=1))
        with tempfile.TemporaryDirectory() as directory, app:
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=Path(directory) / "r.db")
            with Realm.open(configuration) as realm:
                assert realm.sync_session.download_all_server_changes(SECONDS)
                until(lambda: not list(self.folder.glob("*/*/*.changes")), "the end of history")


class TestFolder(AdapterConformance):
    powers = frozenset({"offline", "wipe", "trim", "watch", "snapshots"})
    skips = frozenset({"refuse", "ping"})
    """It refuses only what is larger than any changeset may be; a pull shows whether it is there."""

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return FolderUnderTest(tmp_path / "shared")


class ThroughWatchfiles(FolderUnderTest):
    """As on systems that are not asked themselves."""

    def make_adapter(self) -> SyncAdapter:
        return FolderAdapter(self.folder, listens=False)


class TestFolderThroughWatchfiles(WatchingRules, ConvergingRules):  # all the others do not ask for news
    powers, skips = TestFolder.powers, TestFolder.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return ThroughWatchfiles(tmp_path / "shared")


class Forgetful(FolderUnderTest):
    """A folder that keeps no history behind its snapshots."""

    def make_adapter(self) -> SyncAdapter:
        return FolderAdapter(self.folder, keep_days=0)


class TestForgetfulFolder(SnapshottingRules):
    powers, skips = TestFolder.powers, TestFolder.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return Forgetful(tmp_path / "shared")
