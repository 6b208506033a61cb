"""What the devices of a remote share and nobody else has: a key or a passphrase, and the ciphers that are made of it.

Needs the extra ``encryption``, which is imported when the first cipher is made. This module knows no adapter.
"""

from __future__ import annotations

import threading
import unicodedata

from localstore.changeset_cipher import ChangesetCipher, changeset_cipher
from localstore.snapshot_cipher import SnapshotCipher, snapshot_cipher

__all__ = ["KEY_BYTES", "RemoteSecret", "check_installed"]

KEY_BYTES = 32
_SCRYPT_COST, _SCRYPT_BLOCKS, _SCRYPT_TIMES = 2**16, 8, 2
"""64 MiB and a few tenths of a second, which OWASP counts as equal to its first choice; part of version 1."""


def check_installed() -> None:
    """Raise ``ImportError``, with the command that helps, where the extra is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Encrypting what lies at a remote needs the package cryptography."
            " Install it: pip install 'localstore-sync[encryption]'"
        ) from error


class RemoteSecret:
    """A key or a passphrase, and the ciphers made of it for the remote that was asked for last. Thread-safe; shows nothing.

    Args:
        key: 32 bytes that nobody can guess.
        passphrase: a text instead, which is made slow to guess.

    Raises:
        TypeError, ValueError: not one of the two, or not such a one. The message does not quote it.
    """

    def __init__(self, *, key: bytes | None = None, passphrase: str | None = None) -> None:
        if (key is None) == (passphrase is None):
            raise TypeError("Give a key of 32 bytes or a passphrase, and not both.")
        if key is not None:
            _check_key(key)
        if passphrase is not None:
            _check_passphrase(passphrase)
        self._key = key
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._made: tuple[str, ChangesetCipher, SnapshotCipher] | None = None

    def cipher(self, remote_id: str) -> ChangesetCipher:
        """For changesets at a remote. Takes time and memory for a passphrase, once for all who ask for any of its ciphers."""
        return self._ciphers(remote_id)[1]

    def snapshot_cipher(self, remote_id: str) -> SnapshotCipher:
        """For snapshots at a remote."""
        return self._ciphers(remote_id)[2]

    def _ciphers(self, remote_id: str) -> tuple[str, ChangesetCipher, SnapshotCipher]:
        with self._lock:
            if self._made is None or self._made[0] != remote_id:
                main_key = self._main_key(remote_id)
                changesets = changeset_cipher(main_key, remote_id)
                self._made = remote_id, changesets, snapshot_cipher(main_key, remote_id, changesets.key_id)
            return self._made

    def _main_key(self, remote_id: str) -> bytes:
        """The remote's identity is the salt: random, made with the remote, and known to all devices that are to share a key."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        if self._key is not None:
            return self._key
        assert self._passphrase is not None
        text = unicodedata.normalize("NFC", self._passphrase)  # systems differ in how they write an umlaut
        scrypt = Scrypt(salt=remote_id.encode(), length=KEY_BYTES, n=_SCRYPT_COST, r=_SCRYPT_BLOCKS, p=_SCRYPT_TIMES)
        return scrypt.derive(text.encode("utf-8", "surrogatepass"))


def _check_key(key: object) -> None:
    if not isinstance(key, bytes):
        raise TypeError(f"A key is {KEY_BYTES} bytes, not of type {type(key).__name__}. Words are a passphrase.")
    if len(key) != KEY_BYTES:
        raise ValueError(
            f"A key is {KEY_BYTES} bytes; this one has {len(key)}. Make one with secrets.token_bytes({KEY_BYTES})."
        )


def _check_passphrase(passphrase: object) -> None:
    if not isinstance(passphrase, str):
        raise TypeError(f"A passphrase is a text, not of type {type(passphrase).__name__}. Bytes are a key.")
    if not passphrase.strip():
        raise ValueError("The passphrase is empty.")
