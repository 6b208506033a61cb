"""Encrypted remotes against the contract: whatever is inside keeps every rule as it does without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from localstore.encryption import EncryptedAdapter
from localstore.remote_secret import RemoteSecret
from tests.conformance import test_folder, test_memory

pytest.importorskip("cryptography", reason="needs the extra encryption")

SECRET = RemoteSecret(key=b"conformance".ljust(32, b"!"))


class _Encrypted:
    """Mixed into a remote under test: all of its lines are encrypted."""

    def make_adapter(self) -> EncryptedAdapter:
        return EncryptedAdapter(super().make_adapter(), SECRET)


class EncryptedMemory(_Encrypted, test_memory.MemoryUnderTest): ...


class EncryptedMemoryWithSnapshots(_Encrypted, test_memory.MemoryWithSnapshotsUnderTest): ...


class EncryptedMemoryWithUsers(_Encrypted, test_memory.MemoryWithUsersUnderTest): ...


class EncryptedFolder(_Encrypted, test_folder.FolderUnderTest):
    def make_forgetful_adapter(self) -> EncryptedAdapter:
        return EncryptedAdapter(super().make_forgetful_adapter(), SECRET)


class EncryptedForgetful(_Encrypted, test_folder.Forgetful): ...


class TestEncryptedMemory(test_memory.TestMemory):
    @pytest.fixture
    def remote(self) -> EncryptedMemory:
        return EncryptedMemory()


class TestEncryptedMemoryWithSnapshots(test_memory.TestMemoryWithSnapshots):
    @pytest.fixture
    def remote(self) -> EncryptedMemoryWithSnapshots:
        return EncryptedMemoryWithSnapshots()


@pytest.mark.slow
class TestEncryptedMemoryWithUsers(test_memory.TestMemoryWithUsers):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> EncryptedMemoryWithUsers:
        under_test = EncryptedMemoryWithUsers()
        self.directory = tmp_path
        self.token = asyncio.run(under_test.make_adapter().log_in(under_test.good)).access_token
        return under_test


class TestEncryptedFolder(test_folder.TestFolder):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> EncryptedFolder:
        return EncryptedFolder(tmp_path / "shared")


@pytest.mark.slow
class TestEncryptedForgetfulFolder(test_folder.TestForgetfulFolder):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> EncryptedForgetful:
        return EncryptedForgetful(tmp_path / "shared")
