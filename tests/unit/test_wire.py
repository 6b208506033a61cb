"""Changesets as bytes: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import math
import struct
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.changes import Changeset, Op
from localstore.errors import MalformedChangeset, NewerFormat, ProtocolError
from localstore.wire import (
    FORMAT,
    MAX_CHANGESET_BYTES,
    SealedChangeset,
    decode,
    decode_batch,
    encode,
    encode_batch,
    seal,
    unseal,
    verify,
)
from tests.unit.wire_kit import DEVICE, OTHER, PLAIN, ZLIB, ZSTD, body, changeset, changesets, forge


class TestRoundTrip:
    @given(changesets)
    def test_every_changeset_comes_back_as_it_was(self, original: Changeset) -> None:
        sealed = seal(original)
        assert unseal(decode(encode(sealed))) == original
        assert (sealed.device, sealed.number, sealed.stamp) == (original.device, original.number, original.stamp)
        assert sealed.rows == original.row_count

    @given(st.lists(changesets, max_size=4))
    def test_batches_come_back_as_they_were(self, originals: list[Changeset]) -> None:
        batch = [seal(original) for original in originals]
        assert decode_batch(encode_batch(batch)) == batch

    @given(
        st.one_of(st.floats(allow_nan=False), st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 0.1]))
    )
    def test_floats_keep_every_bit(self, number: float) -> None:
        (group,) = unseal(seal(changeset([1], [number]))).groups
        assert struct.pack(">d", group.values[1][0]) == struct.pack(">d", number)

    def test_integers_reals_texts_and_blobs_stay_what_they_are(self) -> None:
        mixed = [1, 1.0, "1", b"1", None, 0, -0.0, "", b"", 2**63 - 1, -(2**63), 2.0**53]
        (group,) = unseal(seal(changeset(list(range(len(mixed))), mixed))).groups
        assert [(type(value), value) for value in group.values[1]] == [(type(value), value) for value in mixed]

    def test_an_empty_changeset_is_one(self) -> None:
        empty = Changeset(DEVICE, 7, 2**50, (), ())
        assert unseal(decode(encode(seal(empty)))) == empty

    def test_equal_content_gives_equal_digests_and_other_content_others(self) -> None:
        assert seal(changeset()) == seal(changeset())
        digests = {seal(changeset([1], [text], number=number)).digest for text in ("one", "two") for number in (1, 2)}
        assert len(digests) == 4

    def test_large_bodies_are_compressed_and_small_ones_are_not(self) -> None:
        small, large = seal(changeset()), seal(changeset(list(range(1000)), ["the same text"] * 1000))
        assert small.codec == PLAIN
        assert large.codec == ZSTD
        assert large.size > 5 * len(large.body)
        assert unseal(large).row_count == 1000

    def test_a_body_compressed_by_zlib_is_understood(self) -> None:
        plain = body([1] * 100, ["x"] * 100)
        sealed = forge(zlib.compress(plain), codec=ZLIB, size=len(plain), rows=100)
        assert unseal(sealed).row_count == 100


class TestDamage:
    @pytest.mark.parametrize(
        "original", [changeset(), changeset(list(range(60)), ["a longer text"] * 60)], ids=["plain", "zstd"]
    )
    def test_no_flipped_bit_passes(self, original: Changeset) -> None:
        encoded = encode(seal(original))
        for position in range(len(encoded)):
            for bit in range(8):
                flipped = bytearray(encoded)
                flipped[position] ^= 1 << bit
                with pytest.raises(ProtocolError):
                    unseal(decode(bytes(flipped)))

    @pytest.mark.parametrize(
        "original", [changeset(), changeset(list(range(60)), ["a longer text"] * 60)], ids=["plain", "zstd"]
    )
    def test_no_cut_and_no_addition_passes(self, original: Changeset) -> None:
        encoded = encode(seal(original))
        for damaged in [*(encoded[:length] for length in range(len(encoded))), encoded + b"\x00", encoded + encoded]:
            with pytest.raises(MalformedChangeset):
                unseal(decode(damaged))

    @given(st.binary(max_size=200))
    def test_noise_gives_a_named_error(self, noise: bytes) -> None:
        for read in (decode, decode_batch):
            try:
                read(noise)
            except (MalformedChangeset, NewerFormat):
                continue
            assert noise == b"\x90"  # an empty batch
            assert read is decode_batch

    @given(st.binary(max_size=200), st.sampled_from([PLAIN, ZSTD, ZLIB]), st.integers(0, 2**32))
    def test_a_forged_body_gives_a_named_error(self, noise: bytes, codec: int, size: int) -> None:
        with pytest.raises(MalformedChangeset):
            unseal(forge(noise, codec=codec, size=size))

    def test_verify_finds_damage_without_opening(self) -> None:
        sealed = seal(changeset())
        verify(sealed)
        verify(forge(b"no body that could be opened"))
        with pytest.raises(MalformedChangeset, match="does not match its digest"):
            verify(msgspec.structs.replace(sealed, stamp=sealed.stamp + 1))

    def test_a_layout_of_the_future_says_to_upgrade_too(self) -> None:
        future = msgspec.msgpack.encode([FORMAT + 1, {"another": "header"}, b"body"])
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            decode(future)
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            decode_batch(msgspec.msgpack.encode([msgspec.Raw(encode(seal(changeset()))), msgspec.Raw(future)]))

    def test_a_newer_format_says_to_upgrade(self) -> None:
        newer = forge(b"", layout=FORMAT + 1)
        for check in (verify, unseal):
            with pytest.raises(NewerFormat, match="Upgrade localstore"):
                check(newer)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("device", b"short"),
            ("device", b"l" * 17),
            ("device", "0123456789abcdef"),
            ("number", 0),
            ("number", -1),
            ("number", 2**63),
            ("number", True),
            ("number", 1.0),
            ("stamp", -1),
            ("stamp", 2**63),
            ("rows", -1),
            ("codec", 4),
            ("codec", -1),
            ("digest", b""),
            ("digest", b"x" * 17),
            ("body", "text"),
            ("body", None),
            ("format", "1"),
        ],
    )
    def test_a_header_of_the_wrong_shape_is_refused(self, field: str, value: object) -> None:
        fields = dict(zip(SealedChangeset.__struct_fields__, msgspec.structs.astuple(seal(changeset())), strict=True))
        with pytest.raises(MalformedChangeset):
            decode(msgspec.msgpack.encode(list({**fields, field: value}.values())))

    def test_fields_too_many_or_too_few_are_refused(self) -> None:
        fields = list(msgspec.structs.astuple(seal(changeset())))
        shapes: list[object] = [fields[:-1], [*fields, 1], {}, [], [fields]]
        for wrong in shapes:
            with pytest.raises(MalformedChangeset):
                decode(msgspec.msgpack.encode(wrong))


class TestForgedContent:
    @pytest.mark.parametrize(
        "forged",
        [
            body([True], ["x"]),
            body([1], [False]),
            body([1], [math.nan]),
            body([2**63], ["x"]),
            body([1], [2**64 - 1]),
            body([1], [[1]]),
            body([1], [{}]),
            body([1], [msgspec.msgpack.Ext(5, b"ext")]),
            body([1], [msgspec.msgpack.Ext(-1, b"\x00\x00\x00\x01")]),
        ],
        ids=["bool-key", "bool", "nan", "65-bit-key", "65-bit", "list", "map", "ext", "timestamp"],
    )
    def test_what_sqlite_does_not_store_is_refused(self, forged: bytes) -> None:
        with pytest.raises(MalformedChangeset, match="SQLite"):
            unseal(forge(forged))

    @pytest.mark.parametrize(
        "forged",
        [
            body([1]),
            body([1], ["x"], ["y"]),
            body([1], ["x", "y"]),
            body([], ["x"]),
            body([1], ["x"], key=(), columns=("a", "b")),
            body([1], ["x"], columns=("id",)),
            body([1], ["x"], op=int(Op.DELETE)),
        ],
        ids=["column-missing", "column-too-many", "longer", "shorter", "no-key", "name-twice", "delete-with-values"],
    )
    def test_groups_of_the_wrong_width_are_refused(self, forged: bytes) -> None:
        with pytest.raises(MalformedChangeset, match="note"):
            unseal(forge(forged))

    @pytest.mark.parametrize(
        "forged",
        [
            body([1], ["x"], op=0),
            body([1], ["x"], op=6),
            body([1], ["x"], key="id"),
            body([1], ["x"], columns=(1,)),
            body([1], ["x"], depends=[(b"short", 1, 1)]),
            body([1], ["x"], depends=[(OTHER, 0, 1)]),
            body([1], ["x"], depends=[(OTHER, 1, -1)]),
            body("12", "xy"),
            body({1: 1}, ["x"]),
            msgspec.msgpack.encode([]),
            msgspec.msgpack.encode({"depends": [], "groups": []}),
            b"",
        ],
    )
    def test_bodies_of_the_wrong_shape_are_refused(self, forged: bytes) -> None:
        with pytest.raises(MalformedChangeset):
            unseal(forge(forged))

    def test_a_false_count_of_rows_is_refused(self) -> None:
        with pytest.raises(MalformedChangeset, match="says 5 rows and holds 1"):
            unseal(forge(body([1], ["x"]), rows=5))

    @pytest.mark.parametrize("depth", [50, 5000, 200_000])
    def test_deep_nesting_is_refused(self, depth: int) -> None:
        nested = b"\x91" * depth + b"\x90"
        whole = body([1], ["mark"])
        forged = whole.replace(msgspec.msgpack.encode("mark"), nested)
        with pytest.raises(MalformedChangeset):
            unseal(forge(forged))
        with pytest.raises(MalformedChangeset):
            decode(nested)

    def test_text_that_is_not_unicode_is_refused(self) -> None:
        forged = body([1], ["mark"]).replace(b"mark", b"\xff\xfe\xc3(")
        with pytest.raises(MalformedChangeset):
            unseal(forge(forged))


class TestSizes:
    @pytest.mark.parametrize("codec", [PLAIN, ZSTD, ZLIB])
    @pytest.mark.parametrize("difference", [-1, 1, 1000])
    def test_a_false_size_is_refused(self, codec: int, difference: int) -> None:
        plain = body([1] * 200, ["x"] * 200)
        real = seal(changeset([1] * 200, ["x"] * 200)) if codec == ZSTD else None
        packed = {PLAIN: plain, ZLIB: zlib.compress(plain), ZSTD: real.body if real else b""}[codec]
        size = real.size if real else len(plain)
        with pytest.raises(MalformedChangeset, match="bytes long"):
            unseal(forge(packed, codec=codec, size=size + difference, rows=200))

    def test_a_bomb_is_not_inflated(self) -> None:
        bomb = zlib.compress(bytes(50_000_000), 9)
        assert len(bomb) < 60_000
        with pytest.raises(MalformedChangeset, match="not 100 bytes long"):
            unseal(forge(bomb, codec=ZLIB, size=100))

    def test_a_size_beyond_the_limit_is_refused_before_anything_is_inflated(self) -> None:
        with pytest.raises(MalformedChangeset, match="the limit is"):
            unseal(forge(b"", codec=ZLIB, size=MAX_CHANGESET_BYTES + 1))

    def test_the_byte_count_is_close_to_what_travels(self) -> None:
        for rows in (1, 100, 5000):
            sealed = seal(changeset(list(range(rows)), [f"text {row}" for row in range(rows)]))
            assert abs(sealed.byte_count - len(encode(sealed))) < 40
