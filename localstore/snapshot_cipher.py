"""Snapshots encrypted and authenticated as streams, so that a remote can keep them and neither read nor alter them.

An encrypted snapshot is a head, and the plain bytes in chunks of 64 KiB, the last of which may be shorter:

    "lsnp-enc" | version (1 byte) | key id (8) | salt (32) | check (8)        the beginning of the head's SHA-256
    ciphertext of a chunk | tag (16)                                          once or more

The cipher is AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár, 2015): a chunk's nonce is its
index and whether it is the last. So a chunk that was altered, moved, left out or added is noticed where it stands, and an end
that was cut off at the end. Each snapshot has a key of its own, made of its head, application and partition, so that no nonce
comes twice and no chunk fits into another snapshot. The remote's identity is mixed into the keys, as it is for changesets.

The check tells a damaged head from another key; it proves nothing. The cursor that a remote shows beside a snapshot is not in
here: who loads one goes on from the cursor inside it. ``docs/remote-encryption.md`` says all of it for other programs. This
module knows no adapter, does no I/O, and holds one chunk beside what it is given.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localstore.changeset_cipher import Place
from localstore.errors import NewerFormat, SnapshotUnusable, WrongKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["MAGIC", "SALT_BYTES", "Decryption", "Encryption", "SnapshotCipher", "plain_bytes", "snapshot_cipher"]

MAGIC = b"lsnp-enc"
SALT_BYTES = 32
_PLAIN_MAGIC = b"SQLite format 3\0"
_VERSION = 1
_ID_BYTES = 8
_CHECK_BYTES = 8
_SALT_AT = len(MAGIC) + 1 + _ID_BYTES
_CHECK_AT = _SALT_AT + SALT_BYTES
_HEAD_BYTES = _CHECK_AT + _CHECK_BYTES
_CHUNK_BYTES = 64 * 1024
_TAG_BYTES = 16
_KEY_BYTES = 32
_INFO = b"localstore snapshot encryption 1"


def plain_bytes(stored_bytes: int) -> int:
    """How many bytes are in an encrypted snapshot of that size."""
    hidden = stored_bytes - _HEAD_BYTES
    chunks = -(-hidden // (_CHUNK_BYTES + _TAG_BYTES))
    return max(0, hidden - chunks * _TAG_BYTES)


def snapshot_cipher(main_key: bytes, remote_id: str, key_id: bytes) -> SnapshotCipher:
    """The cipher of a remote."""
    return SnapshotCipher(key_id, _derived(main_key, salt=remote_id.encode(), info=_INFO))


@dataclass(frozen=True, slots=True)
class SnapshotCipher:
    """What encrypts and decrypts the snapshots of one remote.

    Attributes:
        key_id: tells keys apart and nothing about them.
    """

    key_id: bytes
    _key: bytes = field(repr=False)

    def encryption(self, place: Place, salt: bytes) -> Encryption:
        """What encrypts one snapshot.

        Args:
            place: where it belongs.
            salt: ``SALT_BYTES`` random bytes that no other snapshot has.
        """
        head = MAGIC + bytes([_VERSION]) + self.key_id + salt
        return Encryption(head + _check_of(head), self._aead(place, head))

    def decryption(self, place: Place, name: str) -> Decryption:
        """What decrypts one snapshot, which messages call by this name."""
        return Decryption(self, place, name)

    def _aead(self, place: Place, head: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        app, partition = (text.encode("utf-8", "surrogatepass") for text in (place.app, place.partition))
        where = len(app).to_bytes(4, "big") + app + partition  # with the length, none can pass for a part of its neighbour
        return AESGCM(_derived(self._key, salt=head[_SALT_AT:_CHECK_AT], info=head[:_SALT_AT] + where))


class Encryption:
    """Encrypts one snapshot, given in parts of any size."""

    def __init__(self, head: bytes, aead: AESGCM) -> None:
        self._head = head
        self._aead = aead
        self._held = bytearray()
        self._index = 0

    def update(self, part: bytes) -> bytes:
        """What comes next of the encrypted one; may be nothing."""
        self._held += part
        return self._begun() + b"".join([self._chunk(chunk) for chunk in _taken(self._held, _CHUNK_BYTES)])

    def finish(self) -> bytes:
        """The end of it."""
        return self._begun() + self._chunk(bytes(self._held), is_last=True)

    def _begun(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def _chunk(self, chunk: bytes, *, is_last: bool = False) -> bytes:
        nonce = _nonce(self._index, is_last=is_last)
        self._index += 1
        return self._aead.encrypt(nonce, chunk, None)


class Decryption:
    """Decrypts one snapshot, given in parts of any size. What it gives is genuine, and complete when ``finish`` has returned.

    Both calls raise:

    * ``SnapshotUnusable``: it was altered or cut short, or belongs into another place.
    * ``WrongKey``: it is encrypted with another key, for another remote, or not at all.
    * ``NewerFormat``: it was made by a newer localstore.
    """

    def __init__(self, cipher: SnapshotCipher, place: Place, name: str) -> None:
        self._cipher = cipher
        self._place = place
        self._name = name
        self._held = bytearray()
        self._aead: AESGCM | None = None
        self._index = 0

    def update(self, part: bytes) -> bytes:
        """What comes next of the plain one; may be nothing."""
        self._held += part
        if self._aead is None:
            if len(self._held) < _HEAD_BYTES:
                return b""
            self._aead = self._checked(bytes(self._held[:_HEAD_BYTES]))
            del self._held[:_HEAD_BYTES]
        aead = self._aead
        return b"".join([self._chunk(aead, chunk) for chunk in _taken(self._held, _CHUNK_BYTES + _TAG_BYTES)])

    def finish(self) -> bytes:
        """The end of it."""
        if self._aead is None:
            raise self._altered()
        return self._chunk(self._aead, bytes(self._held), is_last=True)

    def _chunk(self, aead: AESGCM, chunk: bytes, *, is_last: bool = False) -> bytes:
        from cryptography.exceptions import InvalidTag

        nonce = _nonce(self._index, is_last=is_last)
        self._index += 1
        try:
            return aead.decrypt(nonce, chunk, None)
        except InvalidTag as error:
            raise self._altered() from error

    def _checked(self, head: bytes) -> AESGCM:
        """What decrypts a snapshot with this head, unless something is to be said of it first."""
        if head.startswith(_PLAIN_MAGIC):
            raise WrongKey(
                f"The snapshot {self._name} is not encrypted, as all at this remote should be. Nothing of it was taken.",
                hint="Some device uses the remote without the key, or did before there was one: give it to all devices, and"
                " begin with an empty remote. If none did, somebody forged this.",
            )
        if not head.startswith(MAGIC) or _check_of(head[:_CHECK_AT]) != head[_CHECK_AT:]:
            raise self._altered()
        version, key_id = head[len(MAGIC)], head[len(MAGIC) + 1 : _SALT_AT]
        if version > _VERSION:
            raise NewerFormat(
                f"The snapshot {self._name} is encrypted in the way {version}; this localstore knows up to {_VERSION}."
                " Nothing of it was taken.",
                hint="Upgrade localstore on this device.",
            )
        if key_id != self._cipher.key_id:
            raise WrongKey(
                f"The snapshot {self._name} was encrypted with another key or passphrase than this device has, or for another"
                " remote. Nothing of it was taken.",
                hint="Give all devices the same one. What was sent with a wrong one has to be taken out of the remote.",
            )
        return self._cipher._aead(self._place, head)

    def _altered(self) -> SnapshotUnusable:
        return SnapshotUnusable(
            f"The snapshot {self._name} was altered or cut short after it was encrypted, or put in the place of another."
            " Nothing of it was taken."
        )


def _taken(held: bytearray, size: int) -> list[bytes]:
    """Chunks from the beginning that are not the last one, as at least a byte comes after them."""
    count = max(0, (len(held) - 1) // size)
    chunks = [bytes(held[index * size : (index + 1) * size]) for index in range(count)]
    del held[: count * size]
    return chunks


def _nonce(index: int, *, is_last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([is_last])


def _check_of(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()[:_CHECK_BYTES]


def _derived(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA512(), length=_KEY_BYTES, salt=salt, info=info).derive(key)
