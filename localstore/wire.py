"""Changesets as bytes: MessagePack, versioned, hashed and compressed; everything is checked on the way in.

A *sealed* changeset is a MessagePack array of a readable header and a compressed body:

    [format, device, number, stamp, rows, codec, size, digest, body]

``size`` is the body's length before compression and ``digest`` a BLAKE2b hash over header and body, so that a remote
can order, count and verify changesets without opening them. The body holds dependencies and row groups
(``localstore.changes``). This module knows neither SQL nor transport, and raises only ``ProtocolError`` leaves on bad input.
"""

from __future__ import annotations

import hashlib
import math
import sys
import zlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from localstore.changes import Changeset, Dependency, Device, Number, Op, RowGroup, Stamp
from localstore.errors import MalformedChangeset, NewerFormat

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "FORMAT",
    "MAX_CHANGESET_BYTES",
    "SealedChangeset",
    "decode",
    "decode_batch",
    "encode",
    "encode_batch",
    "seal",
    "unseal",
    "verify",
]

FORMAT = 1
MAX_CHANGESET_BYTES = 64 * 1024 * 1024
"""A body larger than this is refused on the way in, whatever the settings: 64 MiB before compression."""

_PLAIN, _ZSTD, _ZLIB = 0, 1, 2
_ZSTD_LEVEL, _ZSTD_LEVEL_LARGE = 3, 1
_LARGE = 1024 * 1024  # bytes from which time counts for more than a few hundredths of the size
_WORTH_COMPRESSING = 128  # bytes; below it a frame header eats what is won
_DIGEST_BYTES = 16
_VALUE_TYPES = {type(None), int, float, str, bytes}
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

    format: int
    device: Device
    number: Number
    stamp: Stamp
    rows: _Count
    codec: Annotated[int, msgspec.Meta(ge=0, le=2)]
    size: _Count
    digest: Annotated[bytes, msgspec.Meta(min_length=_DIGEST_BYTES, max_length=_DIGEST_BYTES)]
    body: bytes

    @property
    def byte_count(self) -> int:
        """About how many bytes it takes on the wire."""
        return len(self.body) + 80


class _Body(msgspec.Struct, frozen=True, array_like=True):
    depends: tuple[Dependency, ...]
    groups: tuple[RowGroup, ...]


_encoder = msgspec.msgpack.Encoder()
_body_decoder = msgspec.msgpack.Decoder(_Body)
_sealed_decoder = msgspec.msgpack.Decoder(SealedChangeset)
_batch_decoder = msgspec.msgpack.Decoder(list[SealedChangeset])
_BAD_INPUT = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError)


def seal(changeset: Changeset) -> SealedChangeset:
    """A changeset in the form that is stored and sent."""
    plain = _encoder.encode(_Body(changeset.depends, changeset.groups))
    codec, body = _compress(plain)
    header = (FORMAT, changeset.device, changeset.number, changeset.stamp, changeset.row_count, codec, len(plain))
    return SealedChangeset(*header, _digest(header, body), body)


def unseal(sealed: SealedChangeset) -> Changeset:
    """The changeset inside.

    Raises:
        MalformedChangeset: the bytes are not what the header promises.
        NewerFormat: made by a localstore newer than this one.
    """
    verify(sealed)
    plain = _decompress(sealed)
    try:
        body = _body_decoder.decode(plain)
    except _BAD_INPUT as error:
        raise MalformedChangeset(f"{_name(sealed)} cannot be decoded: {error}.") from error
    changeset = Changeset(sealed.device, sealed.number, sealed.stamp, body.depends, body.groups)
    _check_shape(sealed, changeset)
    return changeset


def verify(sealed: SealedChangeset) -> None:
    """Check a sealed changeset's format and digest without opening it.

    Raises:
        MalformedChangeset: header or body were altered.
        NewerFormat: made by a localstore newer than this one.
    """
    if sealed.format > FORMAT:
        raise NewerFormat(
            f"{_name(sealed)} has format {sealed.format}; this localstore knows up to {FORMAT}. Nothing was applied.",
            hint="Upgrade localstore on this device.",
        )
    header = (sealed.format, sealed.device, sealed.number, sealed.stamp, sealed.rows, sealed.codec, sealed.size)
    if _digest(header, sealed.body) != sealed.digest:
        raise MalformedChangeset(f"{_name(sealed)} does not match its digest.")


def encode(sealed: SealedChangeset) -> bytes:
    return _encoder.encode(sealed)


def decode(data: bytes) -> SealedChangeset:
    """The opposite of ``encode``; ``verify`` or ``unseal`` check what is inside.

    Raises:
        MalformedChangeset: not a sealed changeset.
        NewerFormat: made by a localstore newer than this one.
    """
    decoded: SealedChangeset = _decode_with(_sealed_decoder, data)
    return decoded


def encode_batch(batch: Sequence[SealedChangeset]) -> bytes:
    return _encoder.encode(list(batch))


def decode_batch(data: bytes) -> list[SealedChangeset]:
    """The opposite of ``encode_batch``.

    Raises:
        MalformedChangeset: not a list of sealed changesets.
        NewerFormat: made by a localstore newer than this one.
    """
    decoded: list[SealedChangeset] = _decode_with(_batch_decoder, data)
    return decoded


def _decode_with(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except _BAD_INPUT as error:
        _check_not_newer(data)
        raise MalformedChangeset(f"{len(data)} bytes are not sealed changesets: {error}.") from error


def _check_not_newer(data: bytes) -> None:
    """Tell a layout of the future, which only has to begin with its number, from garbage."""
    try:
        items = msgspec.msgpack.decode(data)
    except _BAD_INPUT:
        return
    for item in [items, *(items if isinstance(items, list) else ())]:
        if isinstance(item, list) and item and type(item[0]) is int and item[0] > FORMAT:
            raise NewerFormat(
                f"A changeset has format {item[0]}; this localstore knows up to {FORMAT}. Nothing was applied.",
                hint="Upgrade localstore on this device.",
            )


def _compress(plain: bytes) -> tuple[int, bytes]:
    if len(plain) < _WORTH_COMPRESSING:
        return _PLAIN, plain
    packed = zstd.compress(plain, _ZSTD_LEVEL if len(plain) < _LARGE else _ZSTD_LEVEL_LARGE)
    return (_ZSTD, packed) if len(packed) < len(plain) else (_PLAIN, plain)


def _decompress(sealed: SealedChangeset) -> bytes:
    if sealed.size > MAX_CHANGESET_BYTES:
        raise MalformedChangeset(f"{_name(sealed)} claims {sealed.size} bytes; the limit is {MAX_CHANGESET_BYTES}.")
    limit = sealed.size + 1  # one byte more shows a body that is longer than it says, without inflating all of it
    try:
        if sealed.codec == _ZSTD:
            plain = zstd.ZstdDecompressor().decompress(sealed.body, max_length=limit)
        elif sealed.codec == _ZLIB:
            plain = zlib.decompressobj().decompress(sealed.body, limit)
        else:
            plain = sealed.body
    except (zstd.ZstdError, zlib.error) as error:
        raise MalformedChangeset(f"{_name(sealed)} cannot be decompressed: {error}.") from error
    if len(plain) != sealed.size:
        raise MalformedChangeset(f"{_name(sealed)} is not {sealed.size} bytes long as it says.")
    return plain


def _digest(header: tuple[Any, ...], body: bytes) -> bytes:
    return hashlib.blake2b(_encoder.encode(header) + body, digest_size=_DIGEST_BYTES).digest()


def _check_shape(sealed: SealedChangeset, changeset: Changeset) -> None:
    """What the decoder's types alone cannot say: one list of SQLite values a column, all of one length."""
    for group in changeset.groups:
        problem = _problem_in(group)
        if problem:
            raise MalformedChangeset(f"{_name(sealed)} {problem} in table {group.table!r}.")
    if changeset.row_count != sealed.rows:
        raise MalformedChangeset(f"{_name(sealed)} says {sealed.rows} rows and holds {changeset.row_count}.")


def _problem_in(group: RowGroup) -> str | None:
    names = group.key + group.columns
    if not group.key or len(set(names)) != len(names):
        return "has no key, or names a column twice,"
    if group.op is Op.DELETE and group.columns:
        return "carries values for deleted rows"
    if len(group.values) != len(names) or len({len(values) for values in group.values}) != 1:
        return "has columns of different lengths"
    if not all(_are_values(values) for values in group.values):
        return "has values that SQLite does not store"
    return None


def _are_values(values: list[Any]) -> bool:
    types = set(map(type, values))
    if not types <= _VALUE_TYPES:
        return False
    reals = [value for value in values if type(value) is float] if float in types else []
    if any(map(math.isnan, reals)):  # SQLite turns NaN into null
        return False
    integers = values if types == {int} else [value for value in values if type(value) is int] if int in types else []
    return not integers or (min(integers) >= -(2**63) and max(integers) < 2**63)


def _name(sealed: SealedChangeset) -> str:
    return f"Changeset {sealed.number} of device {sealed.device.hex()[:8]}"
