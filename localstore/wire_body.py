"""The body of a changeset as bytes: packed for the way, and read so that no input costs more than it should.

A body is untrusted until it was read. Three rules bound what reading costs, whatever the bytes claim:

- ``unpack`` makes no more than the header's size, and a packed body is at least ``1 / MAX_RATIO`` of it: the writer pads what
  compresses better, so a few bytes cannot stand for many.
- ``read`` counts the rows in the outline, without making a single value, and goes on only if the header says the same.
- Values are made as nulls, numbers, texts and blobs or not at all: lists and maps in their place cost nothing.

This module knows neither headers nor errors of the library; ``wire`` says which changeset a ``BadBody`` is about.
"""

from __future__ import annotations

import contextlib
import math
import sys
import zlib
from typing import Any

import msgspec

from localstore.changes import Dependency, Op, RowGroup

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["ENCRYPTED", "MAX_BODY_BYTES", "MAX_CODEC", "MAX_RATIO", "BadBody", "array_count", "pack", "read", "unpack", "write"]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_RATIO = 256
"""A body of more than ``UNPADDED_BYTES`` is at most so many times larger than it is packed."""
UNPADDED_BYTES = 64 * 1024
_MAX_COLUMNS = 32_767  # what SQLite can be built for

_PLAIN, _ZSTD, _ZLIB = 0, 1, 2
ENCRYPTED = 3
"""The body is a whole changeset that only holders of a key can read; nothing here packs or unpacks it."""
MAX_CODEC = ENCRYPTED
_ZSTD_LEVEL, _ZSTD_LEVEL_LARGE = 3, 1
_LARGE = 1024 * 1024  # bytes from which time counts for more than a few hundredths of the size
_WORTH_COMPRESSING = 128  # bytes; below it a frame header eats what is won
_WINDOW_LOG = 21  # 2 MiB, the least that a reader must hold; beyond it a window is no larger than the body

_FIXED = dict.fromkeys([*range(0x80), 0xC0, *range(0xE0, 0x100)], 1)  # small integers and null
_FIXED |= {0xA0 + length: 1 + length for length in range(32)}  # short texts
_FIXED |= {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}  # numbers
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # blobs and texts: bytes that their length takes


class BadBody(Exception):  # noqa: N818 - it never leaves the package
    """What is wrong with a body, as what follows "The changeset" in a sentence."""


class _GroupOutline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A ``RowGroup`` whose values were stepped over."""

    table: str
    op: Op
    key: tuple[str, ...]
    columns: tuple[str, ...]
    values: msgspec.Raw


class _Outline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    depends: tuple[Dependency, ...]
    groups: tuple[_GroupOutline, ...]


_encoder = msgspec.msgpack.Encoder()
_outline_decoder = msgspec.msgpack.Decoder(_Outline)
_columns_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_texts_decoder = msgspec.msgpack.Decoder(list[int | float | str | None])
_blobs_decoder = msgspec.msgpack.Decoder(list[int | float | bytes | None])
_values_decoder = msgspec.msgpack.Decoder(list[Any])  # no type says both str and bytes
_BAD_INPUT = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError)


def write(depends: tuple[Dependency, ...], groups: tuple[RowGroup, ...]) -> bytes:
    """A body, not yet packed."""
    return _encoder.encode((depends, groups))


def pack(plain: bytes) -> tuple[int, bytes]:
    """The codec that suits a body, and the body packed with it."""
    if len(plain) < _WORTH_COMPRESSING:
        return _PLAIN, plain
    packed = zstd.compress(plain, _ZSTD_LEVEL if len(plain) < _LARGE else _ZSTD_LEVEL_LARGE)
    if len(packed) >= len(plain):
        return _PLAIN, plain
    return _ZSTD, packed.ljust(_least_packed(len(plain)), b"\0")


def unpack(codec: int, body: bytes, size: int) -> bytes:
    """What ``pack`` was given.

    Raises:
        BadBody: that is not ``size`` bytes, too many, or not packed with ``codec``.
    """
    if size > MAX_BODY_BYTES:
        raise BadBody(f"claims {size} bytes; the limit is {MAX_BODY_BYTES}")
    if len(body) < (size if codec == _PLAIN else _least_packed(size)):
        raise BadBody(f"cannot be {size} bytes long as it says: its body has {len(body)}")
    limit = size + 1  # one byte more shows a body that is longer than it says, without inflating all of it
    try:
        plain, is_whole = _inflate(codec, body, size, limit)
    except (zstd.ZstdError, zlib.error) as error:
        raise BadBody(f"cannot be decompressed: {error}") from error
    if len(plain) != size:
        raise BadBody(f"is not {size} bytes long as it says")
    if not is_whole:
        raise BadBody("does not end where its compressed body ends")
    return plain


def read(plain: bytes, rows: int) -> tuple[tuple[Dependency, ...], tuple[RowGroup, ...]]:
    """Dependencies and row groups of a body that should change so many rows.

    Raises:
        BadBody: it is not what ``write`` makes, or changes more or fewer rows.
    """
    try:
        outline = _outline_decoder.decode(plain)
        if len(outline.groups) > rows:  # each has one at least
            raise BadBody(f"says {rows} rows and holds {len(outline.groups)} groups of rows")
        held = sum(map(_count_rows, outline.groups))
        if held != rows:
            raise BadBody(f"says {rows} rows and holds {held}")
        return outline.depends, tuple(map(_group, outline.groups))
    except _BAD_INPUT as error:
        raise BadBody(f"cannot be decoded: {error}") from error


def array_count(data: bytes | memoryview) -> int | None:
    """How many items an encoded array claims to have; None when it is no array."""
    head = bytes(data[:5])
    if head and head[0] & 0xF0 == 0x90:
        return head[0] & 0x0F
    if (head[:1] == b"\xdc" and len(head) >= 3) or (head[:1] == b"\xdd" and len(head) == 5):
        return int.from_bytes(head[1:3] if head[0] == 0xDC else head[1:], "big")
    return None


def _least_packed(size: int) -> int:
    return -(-size // MAX_RATIO) if size > UNPADDED_BYTES else 0


def _inflate(codec: int, body: bytes, size: int, limit: int) -> tuple[bytes, bool]:
    """The body inflated, no further than the limit, and whether it ended there with nothing but padding after it."""
    if codec == _PLAIN:
        return body, True
    if codec == _ZSTD:
        window = max(_WINDOW_LOG, (size - 1).bit_length())
        frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
        plain = frame.decompress(body, max_length=limit)
        return plain, frame.eof and not frame.unused_data.strip(b"\0")
    stream = zlib.decompressobj()
    plain = stream.decompress(body, limit)
    return plain, stream.eof and not stream.unused_data.strip(b"\0")


def _count_rows(outline: _GroupOutline) -> int:
    """How many rows a group changes, found without decoding a value."""
    names = outline.key + outline.columns
    if not outline.key or len(set(names)) != len(names):
        raise _bad("has no key, or names a column twice,", outline)
    if outline.op is Op.DELETE and outline.columns:
        raise _bad("carries values for deleted rows", outline)
    if array_count(memoryview(outline.values)) != len(names) or len(names) > _MAX_COLUMNS:
        raise _bad("has columns of different lengths", outline)
    counts = {array_count(memoryview(column)) for column in _columns_decoder.decode(outline.values)}
    count = counts.pop()
    if counts or count is None:
        raise _bad("has columns of different lengths", outline)
    if not count:
        raise _bad("has no rows", outline)
    return count


def _group(outline: _GroupOutline) -> RowGroup:
    values = [_values(column, outline) for column in _columns_decoder.decode(outline.values)]
    return RowGroup(outline.table, outline.op, outline.key, outline.columns, values)


def _values(column: msgspec.Raw, outline: _GroupOutline) -> list[Any]:
    values = _decode_values(column)
    if values is None or not _fit_sqlite(values):
        raise _bad("has values that SQLite does not store", outline)
    return values


def _decode_values(column: msgspec.Raw) -> list[Any] | None:
    """A column's values, or None when there is something else among them. Most columns have texts or blobs, not both."""
    for decoder in (_texts_decoder, _blobs_decoder):
        with contextlib.suppress(msgspec.ValidationError):
            return decoder.decode(column)
    return _values_decoder.decode(column) if _is_flat(memoryview(column)) else None


def _is_flat(column: memoryview) -> bool:
    """Whether a column holds neither containers nor booleans nor extensions; it is well formed otherwise."""
    at, end = {0xDC: 3, 0xDD: 5}.get(column[0], 1), len(column)
    while at < end:
        first = column[at]
        width = _FIXED.get(first)
        if width is None:
            length = _SIZED.get(first)
            if length is None:
                return False
            at += 1 + length
            width = int.from_bytes(column[at - length : at], "big")
        at += width
    return True


def _fit_sqlite(values: list[Any]) -> bool:
    types = set(map(type, values))
    reals = [value for value in values if type(value) is float] if float in types else []
    if any(map(math.isnan, reals)):  # SQLite turns NaN into null
        return False
    integers = values if types == {int} else [value for value in values if type(value) is int] if int in types else []
    return not integers or (min(integers) >= -(2**63) and max(integers) < 2**63)


def _bad(problem: str, outline: _GroupOutline) -> BadBody:
    return BadBody(f"{problem} in table {outline.table!r}")
