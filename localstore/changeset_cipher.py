"""Changesets encrypted and authenticated, so that a remote can keep and order them and neither read nor alter them.

An encrypted changeset is a sealed one that shows device, number and stamp, says ``wire_body.ENCRYPTED`` as its codec, and hides
the whole original in its body:

    version (1 byte) | key id (8) | synthetic IV (16) | ciphertext

The cipher is AES-256-SIV (RFC 5297). It is deterministic, and here it has to be: a push is repeated after a lost answer, and
the remote tells that from a forked device by comparing digests, so one changeset must always become the same bytes. A random
nonce would make a repeated push look like a fork; a nonce made of device and number would come twice, for different contents,
when a file was copied, which breaks AES-GCM and ChaCha20-Poly1305. SIV makes it of all that is encrypted. The one thing it
tells is that two plain texts are the same, and no two are: each holds its device and number.

Authenticated besides: application, partition, device, number and stamp. The remote's identity is mixed into the keys.
``docs/remote-encryption.md`` says all of it for other programs. This module knows no adapter, and does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localstore import wire
from localstore.errors import MalformedChangeset, NewerFormat, WrongKey
from localstore.wire import ENCRYPTED, SealedChangeset

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["OVERHEAD_BYTES", "ChangesetCipher", "Place", "changeset_cipher"]

OVERHEAD_BYTES = 128
"""An encrypted changeset is larger than the original by less than this."""
_VERSION = 1
_ID_BYTES = 8
_HEAD_BYTES = 1 + _ID_BYTES
_SIV_KEY_BYTES = 64
_INFO = b"localstore remote encryption 1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a remote changesets belong. In another place they are not accepted."""

    app: str
    partition: str


@dataclass(slots=True)
class ChangesetCipher:
    """What encrypts and decrypts the changesets of one remote.

    Attributes:
        key_id: tells keys apart and nothing about them.
        has_fitted: whether something at the remote was decrypted already.
    """

    key_id: bytes
    _siv: AESSIV = field(repr=False)
    has_fitted: bool = False

    def encrypt(self, changesets: Iterable[SealedChangeset], place: Place) -> list[SealedChangeset]:
        """The same changesets as a remote may see them; the same ones for the same arguments."""
        return [self._encrypted(sealed, place) for sealed in changesets]

    def decrypt(self, changesets: Iterable[SealedChangeset], place: Place) -> list[SealedChangeset]:
        """The opposite of ``encrypt``.

        Raises:
            WrongKey: one is encrypted with another key, for another remote, or not at all.
            MalformedChangeset: one was altered, or belongs into another place.
            NewerFormat: one was made by a newer localstore.
        """
        return [self._decrypted(outer, place) for outer in changesets]

    def _encrypted(self, sealed: SealedChangeset, place: Place) -> SealedChangeset:
        hidden = self._siv.encrypt(wire.encode(sealed), _authenticated(sealed, place))
        return wire.instead_of(sealed, bytes([_VERSION]) + self.key_id + hidden)

    def _decrypted(self, outer: SealedChangeset, place: Place) -> SealedChangeset:
        from cryptography.exceptions import InvalidTag

        self._check(outer)
        try:
            plain = self._siv.decrypt(outer.body[_HEAD_BYTES:], _authenticated(outer, place))
        except InvalidTag as error:
            raise _altered(outer) from error
        self.has_fitted = True
        return wire.decode(plain)

    def _check(self, outer: SealedChangeset) -> None:
        """All that can be said before decrypting, in the order in which it makes sense to a person."""
        if outer.codec != ENCRYPTED:
            raise WrongKey(
                f"{wire.name_of(outer)} is not encrypted, as all at this remote should be. Nothing of it was applied.",
                hint="Some device uses the remote without the key, or did before there was one: give it to all devices, and"
                " begin with an empty remote. If none did, somebody forged this.",
            )
        wire.verify(outer)
        version, key_id = outer.body[:1], outer.body[1:_HEAD_BYTES]
        if version > bytes([_VERSION]):
            raise NewerFormat(
                f"{wire.name_of(outer)} is encrypted in the way {version[0]}; this localstore knows up to {_VERSION}."
                " Nothing was applied.",
                hint="Upgrade localstore on this device.",
            )
        is_as_written = (outer.rows, outer.size) == (0, len(outer.body))
        if not is_as_written or version != bytes([_VERSION]) or len(key_id) != _ID_BYTES:
            raise _altered(outer)
        if key_id != self.key_id:
            raise WrongKey(
                f"{wire.name_of(outer)} was encrypted with another key or passphrase than this device has, or for another"
                " remote. Nothing of it was applied.",
                hint="Give all devices the same one. What was sent with a wrong one has to be taken out of the remote.",
            )


def changeset_cipher(main_key: bytes, remote_id: str) -> ChangesetCipher:
    """The cipher of a remote."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    hkdf = HKDF(algorithm=SHA512(), length=_SIV_KEY_BYTES + _ID_BYTES, salt=remote_id.encode(), info=_INFO)
    made = hkdf.derive(main_key)
    return ChangesetCipher(made[_SIV_KEY_BYTES:], AESSIV(made[:_SIV_KEY_BYTES]))


def _authenticated(sealed: SealedChangeset, place: Place) -> list[bytes]:
    """What is not hidden and must not be altered. Each item counts by itself: none can pass for a part of its neighbour."""
    texts = [text.encode("utf-8", "surrogatepass") for text in (place.app, place.partition)]
    return [bytes([_VERSION]), *texts, sealed.device, sealed.number.to_bytes(8, "big"), sealed.stamp.to_bytes(8, "big")]


def _altered(outer: SealedChangeset) -> MalformedChangeset:
    return MalformedChangeset(
        f"{wire.name_of(outer)} was altered after it was encrypted, or put in the place of another. Nothing of it was applied.",
        hint="Somebody or something damaged the remote: put back what was there, or begin with an empty remote.",
    )
