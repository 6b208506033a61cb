"""The folder adapter against the contract."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from localstore.testing.conformance import AdapterConformance
from localstore.testing.conformance.converging import ConvergingRules
from localstore.testing.conformance.snapshotting import SnapshottingRules
from localstore.testing.conformance.watching import WatchingRules
from localstore_adapters.folder import FolderAdapter


class FolderUnderTest:
    """A folder that goes offline as a disk does: it is not there any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unplugged = folder.with_name("unplugged")

    def make_adapter(self) -> FolderAdapter:
        return FolderAdapter(self.folder)

    def go_offline(self) -> None:
        self.folder.rename(self._unplugged)

    def go_online(self) -> None:
        self._unplugged.rename(self.folder)

    def wipe(self) -> None:
        shutil.rmtree(self.folder)


class TestFolder(AdapterConformance):
    powers = frozenset({"offline", "wipe", "watch", "snapshots"})
    skips = frozenset({"refuse", "trim", "ping"})
    """It refuses only what is larger than any changeset may be, and keeps history for its time; a pull shows whether it is
    there."""

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return FolderUnderTest(tmp_path / "shared")


class ThroughWatchfiles(FolderUnderTest):
    """As on systems that are not asked themselves."""

    def make_adapter(self) -> FolderAdapter:
        return FolderAdapter(self.folder, listens=False)


class TestFolderThroughWatchfiles(WatchingRules, ConvergingRules):  # all the others do not ask for news
    powers, skips = TestFolder.powers, TestFolder.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return ThroughWatchfiles(tmp_path / "shared")


class Forgetful(FolderUnderTest):
    """A folder that keeps no history behind its snapshots."""

    def make_adapter(self) -> FolderAdapter:
        return FolderAdapter(self.folder, keep_days=0)


class TestForgetfulFolder(SnapshottingRules):
    powers, skips = TestFolder.powers, TestFolder.skips

    @pytest.fixture
    def remote(self, tmp_path: Path) -> FolderUnderTest:
        return Forgetful(tmp_path / "shared")
