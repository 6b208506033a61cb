"""Changesets as bytes: MessagePack, versioned, hashed and compressed; everything is checked on the way in.

A *sealed* changeset is a MessagePack array of a readable header and a compressed body:

    [format, device, number, stamp, rows, codec, size, digest, body]

``size`` is the body's length before compression and ``digest`` a BLAKE2b hash over header and body, so that a remote
can order, count and verify changesets without opening them. The body holds dependencies and row groups
(``localstore.changes``); how it is read is the business of ``wire_body``. ``docs/format.md`` says all of it byte by byte.
This module knows neither SQL nor transport, and raises only ``ProtocolError`` leaves on bad input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from localstore import wire_body
from localstore.changes import Changeset, Device, Number, Stamp
from localstore.errors import MalformedChangeset, NewerFormat, WrongKey
from localstore.wire_body import ENCRYPTED

__all__ = [
    "DEFAULT_CHANGESET_ROWS",
    "ENCRYPTED",
    "FORMAT",
    "MAX_CHANGESET_BYTES",
    "MAX_CHANGESET_ROWS",
    "SealedChangeset",
    "decode",
    "decode_batch",
    "encode",
    "encode_batch",
    "instead_of",
    "name_of",
    "seal",
    "unseal",
    "verify",
]

FORMAT = 1
MAX_CHANGESET_BYTES = wire_body.MAX_BODY_BYTES
"""A body larger than this is refused on the way in, whatever the settings: 64 MiB before compression."""
MAX_CHANGESET_ROWS = MAX_CHANGESET_BYTES
"""No row takes less than a byte."""
DEFAULT_CHANGESET_ROWS = 1_000_000
"""More are refused at commit unless a setting says otherwise: whoever receives them applies them in one transaction."""

_DIGEST_BYTES = 16
_LEAST_BYTES = 40  # what any changeset takes, in this format (which needs 45) and in all to come
_Format = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**32)]


class SealedChangeset(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A changeset as it lies in the outbox and travels.

    Attributes:
        format: version of this layout.
        device, number, stamp: which changeset this is; see ``Changeset``.
        rows: how many rows it changes.
        codec: how ``body`` is compressed.
        size: bytes of the body when decompressed.
        digest: hash over all the other fields; equal digests mean equal changesets.
        body: compressed dependencies and row groups.
    """

    format: _Format
    device: Device
    number: Number
    stamp: Stamp
    rows: _Count
    codec: Annotated[int, msgspec.Meta(ge=0, le=wire_body.MAX_CODEC)]
    size: _Count
    digest: Annotated[bytes, msgspec.Meta(min_length=_DIGEST_BYTES, max_length=_DIGEST_BYTES)]
    body: bytes

    @property
    def byte_count(self) -> int:
        """About how many bytes it takes on the wire."""
        return len(self.body) + 80


class _Start(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every format begins with; all that follows is stepped over."""

    format: _Format


_encoder = msgspec.msgpack.Encoder()
_sealed_decoder = msgspec.msgpack.Decoder(SealedChangeset)
_batch_decoder = msgspec.msgpack.Decoder(list[SealedChangeset])
_start_decoder = msgspec.msgpack.Decoder(_Start)
_starts_decoder = msgspec.msgpack.Decoder(list[_Start])
_BAD_INPUT = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError)


def seal(changeset: Changeset) -> SealedChangeset:
    """A changeset in the form that is stored and sent."""
    plain = wire_body.write(changeset.depends, changeset.groups)
    codec, body = wire_body.pack(plain)
    header = (FORMAT, changeset.device, changeset.number, changeset.stamp, changeset.row_count, codec, len(plain))
    return SealedChangeset(*header, _digest(header, body), body)


def unseal(sealed: SealedChangeset) -> Changeset:
    """The changeset inside.

    Raises:
        MalformedChangeset: the bytes are not what the header promises.
        NewerFormat: made by a localstore newer than this one.
        WrongKey: it is encrypted.
    """
    verify(sealed)
    if sealed.codec == ENCRYPTED:
        raise WrongKey(
            f"{name_of(sealed)} is encrypted, and this app was given no key for its remote. Nothing of it was applied.",
            hint="Make the app with remote=encrypted(..., key=...), or passphrase=..., as on the other devices.",
        )
    try:
        plain = wire_body.unpack(sealed.codec, sealed.body, sealed.size)
        depends, groups = wire_body.read(plain, sealed.rows)
    except wire_body.BadBody as problem:
        raise MalformedChangeset(f"{name_of(sealed)} {problem}.") from problem
    return Changeset(sealed.device, sealed.number, sealed.stamp, depends, groups)


def verify(sealed: SealedChangeset) -> None:
    """Check a sealed changeset's format and digest without opening it.

    Raises:
        MalformedChangeset: header or body were altered.
        NewerFormat: made by a localstore newer than this one.
    """
    if sealed.format > FORMAT:
        raise NewerFormat(
            f"{name_of(sealed)} has format {sealed.format}; this localstore knows up to {FORMAT}. Nothing was applied.",
            hint="Upgrade localstore on this device.",
        )
    header = (sealed.format, sealed.device, sealed.number, sealed.stamp, sealed.rows, sealed.codec, sealed.size)
    if sealed.format < 1 or _digest(header, sealed.body) != sealed.digest:
        raise MalformedChangeset(f"{name_of(sealed)} does not match its digest.")


def instead_of(sealed: SealedChangeset, body: bytes) -> SealedChangeset:
    """What a remote keeps in the place of a changeset that it must not read: it shows the same device, number and stamp."""
    header = (FORMAT, sealed.device, sealed.number, sealed.stamp, 0, ENCRYPTED, len(body))
    return SealedChangeset(*header, _digest(header, body), body)


def encode(sealed: SealedChangeset) -> bytes:
    return _encoder.encode(sealed)


def decode(data: bytes) -> SealedChangeset:
    """The opposite of ``encode``; ``verify`` or ``unseal`` check what is inside.

    Raises:
        MalformedChangeset: not a sealed changeset.
        NewerFormat: made by a localstore newer than this one.
    """
    try:
        return _sealed_decoder.decode(data)
    except _BAD_INPUT as error:
        raise _what_is_wrong(data, error, _start_decoder) from error


def encode_batch(batch: Sequence[SealedChangeset]) -> bytes:
    return _encoder.encode(list(batch))


def decode_batch(data: bytes) -> list[SealedChangeset]:
    """The opposite of ``encode_batch``.

    Raises:
        MalformedChangeset: not a list of sealed changesets.
        NewerFormat: made by a localstore newer than this one.
    """
    if (wire_body.array_count(data) or 0) * _LEAST_BYTES > len(data):
        raise MalformedChangeset(f"{len(data)} bytes are fewer than the changesets take that they claim to be.")
    try:
        return _batch_decoder.decode(data)
    except _BAD_INPUT as error:
        raise _what_is_wrong(data, error, _starts_decoder) from error


def _what_is_wrong(data: bytes, error: Exception, starts: msgspec.msgpack.Decoder[Any]) -> MalformedChangeset | NewerFormat:
    """Tell a layout of the future, which only has to begin with its number, from garbage."""
    try:
        found = starts.decode(data)
    except _BAD_INPUT:
        found = []
    newest = max((start.format for start in (found if isinstance(found, list) else [found])), default=0)
    if newest > FORMAT:
        return NewerFormat(
            f"A changeset has format {newest}; this localstore knows up to {FORMAT}. Nothing was applied.",
            hint="Upgrade localstore on this device.",
        )
    return MalformedChangeset(f"{len(data)} bytes are not sealed changesets: {error}.")


def _digest(header: tuple[Any, ...], body: bytes) -> bytes:
    return hashlib.blake2b(_encoder.encode(header) + body, digest_size=_DIGEST_BYTES).digest()


def name_of(sealed: SealedChangeset) -> str:
    """A changeset as messages name it."""
    return f"Changeset {sealed.number} of device {sealed.device.hex()[:8]}"
