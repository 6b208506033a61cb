"""The decoder against anything at all: a named error, or a changeset that can be sent on; never a crash, never much memory.

Damage is done to good changesets at random, and then the digest is made right again: what a digest finds is the easy part.
"""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localstore import wire_body
from localstore.changes import Changeset, Op, RowGroup
from localstore.errors import MalformedChangeset, NewerFormat, ProtocolError
from localstore.wire import MAX_CHANGESET_BYTES, SealedChangeset, decode, decode_batch, encode, encode_batch, seal, unseal
from tests.fixtures.make_wire import CASES, PACKED, PLAIN, ZLIB, ZSTD, sealed_as
from tests.unit.wire_kit import changeset, changesets, forge

MEMORY_FACTOR = 40
"""What a byte of a body may cost. An honest text of two letters is three bytes here and more than seventy in Python, a
group of one row eleven bytes and almost four hundred."""
MEMORY_BASE = 200_000  # errors with their tracebacks, decoders, buffers
PAIR = b"\x92\x90"  # a body up to its groups: no dependencies
GROUP = b"\x91\x95\xa1t\x01\x91\xa1k\x90\x91"  # one group up to its only column: inserts of keys into a table "t"
HUGE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "blob": b"\xc6\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x05",
    "16-bit array": b"\xdc\xff\xff",
    "16-bit map": b"\xde\xff\xff",
}


def survives(data: bytes) -> list[Changeset]:
    """What is read from bytes one way or another. All that may happen is a named error; what is read can be sent on."""
    found = []
    for read in (lambda: [decode(data)], lambda: decode_batch(data)):
        try:
            for sealed in read():
                found.append(survives_opening(sealed))
        except (MalformedChangeset, NewerFormat):
            continue
    return found


def survives_opening(sealed: SealedChangeset) -> Changeset:
    opened = unseal(sealed)
    assert opened.row_count == sealed.rows
    assert unseal(decode(encode(seal(opened)))) == opened
    return opened


def cost_of(read: Callable[[], object]) -> int:
    """The most memory that was in use while reading, whether it ended well or in a named error."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolError):
            read()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that are cut, flipped, repeated or replaced in places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "claim", "splice"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "claim":
            data[at:at] = draw(st.sampled_from(list(HUGE.values())))
        else:
            begin = draw(st.integers(0, len(data)))
            data[at:at] = data[begin : begin + 30]
    return bytes(data)


plain_bodies = st.sampled_from([wire_body.write(case.depends, case.groups) for case in CASES.values()]).filter(
    lambda body: len(body) < 1000
)
odd_items: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.binary(max_size=17)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=5)),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=2), items, max_size=2),
    max_leaves=6,
)  # fmt: skip


class TestDamage:
    @given(st.data())
    def test_damaged_bytes_give_a_named_error_or_what_can_be_sent_on(self, data: st.DataObject) -> None:
        original = data.draw(st.sampled_from([PACKED, *CASES.values()]).filter(lambda case: case.number not in (5, 6)))
        survives(data.draw(damaged(encode(sealed_as(original, data.draw(st.sampled_from([PLAIN, ZSTD, ZLIB])))))))

    @given(st.data())
    def test_damaged_batches_do_so_too(self, data: st.DataObject) -> None:
        batch = [sealed_as(CASES[name], PLAIN) for name in data.draw(st.lists(st.sampled_from(["empty", "ops", "mixed"])))]
        survives(data.draw(damaged(encode_batch(batch))))

    @given(st.data(), st.integers(0, 40))
    def test_damaged_bodies_under_a_right_digest_do_so_too(self, data: st.DataObject, rows: int) -> None:
        body = data.draw(plain_bodies.flatmap(damaged))
        for forged in (forge(body, rows=rows), forge(zlib.compress(body), codec=ZLIB, size=len(body), rows=rows)):
            with contextlib.suppress(MalformedChangeset):
                survives_opening(forged)

    @given(st.data())
    def test_damage_to_packed_bodies_under_a_right_digest_does_so_too(self, data: st.DataObject) -> None:
        codec = data.draw(st.sampled_from([ZSTD, ZLIB]))
        sealed = sealed_as(PACKED, codec)
        body = data.draw(damaged(sealed.body))
        with contextlib.suppress(MalformedChangeset):
            survives_opening(forge(body, codec=codec, size=sealed.size, rows=sealed.rows))

    @given(changesets)
    def test_what_was_not_damaged_is_read(self, original: Changeset) -> None:
        assert original in survives(encode(seal(original)))
        assert survives(encode_batch([seal(original)])) == [original]

    @pytest.mark.parametrize("codec", [ZSTD, ZLIB])
    def test_a_packed_body_ends_where_its_bytes_end(self, codec: int) -> None:
        sealed = sealed_as(PACKED, codec)
        assert unseal(forge(sealed.body + bytes(50), codec=codec, size=sealed.size, rows=sealed.rows)).row_count == 300
        for other in (sealed.body[:-1], sealed.body + b"\1", sealed.body + bytes(9) + b"\1", sealed.body * 2):
            with pytest.raises(MalformedChangeset):
                unseal(forge(other, codec=codec, size=sealed.size, rows=sealed.rows))


class TestWrongTypes:
    @given(st.integers(0, 8), odd_items)
    def test_anything_in_the_place_of_a_header_field(self, position: int, item: Any) -> None:
        fields = list(msgspec.structs.astuple(seal(changeset())))
        fields[position] = item
        survives(msgspec.msgpack.encode(fields))
        survives(msgspec.msgpack.encode([fields, fields]))

    @given(st.integers(0, 5), odd_items)
    @example(5, [True]).via("a boolean")
    @example(5, ["x"]).via("a text")
    def test_anything_in_the_place_of_a_part_of_the_body(self, position: int, item: Any) -> None:
        parts: list[Any] = ["note", 1, ["id"], ["text"], [[1], [b"x"]]]
        depends: Any = []
        if position == 5:
            parts[4][1] = item
        elif position == 0:
            depends = item
        else:
            parts[position - 1] = item
        with contextlib.suppress(MalformedChangeset):
            survives_opening(forge(msgspec.msgpack.encode([depends, [parts]])))

    @given(st.lists(odd_items, min_size=1, max_size=4))
    def test_a_column_is_read_if_and_only_if_sqlite_stores_it(self, column: list[Any]) -> None:
        forged = forge(msgspec.msgpack.encode([[], [["note", 1, ["id"], [], [column]]]]), rows=len(column))
        stored = all(
            item is None
            or type(item) in (str, bytes)
            or (type(item) is int and item < 2**63)
            or (type(item) is float and item == item)
            for item in column
        )
        if stored:
            assert survives_opening(forged).groups[0].values == [column]
        else:
            with pytest.raises(MalformedChangeset, match="SQLite"):
                unseal(forged)

    @given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary() | st.floats(allow_nan=False)))
    def test_texts_and_blobs_of_every_length_may_stand_in_one_column(self, mixed: list[Any]) -> None:
        column = [*mixed, "x" * 300, b"y" * 70_000, "z" * 70_000, b"", ""]
        group = RowGroup("note", Op.INSERT, ("id",), (), [column])
        assert unseal(seal(Changeset(bytes(16), 1, 1, (), (group,)))).groups == (group,)

    @pytest.mark.parametrize(
        ("forged", "problem"),
        [
            ([[], [["t", 1, ["k"], [], [[]]]]], "has no rows"),
            ([[], [["t", 1, ["k"], [], [[1]], "new"]]], "cannot be decoded"),
            ([[], [["t", 1, ["k"], [], [[1]]]], "new"], "cannot be decoded"),
            ([[[bytes(16), 1, 1, "new"]], []], "cannot be decoded"),
        ],
        ids=["empty group", "group", "body", "dependency"],
    )
    def test_nothing_is_passed_over(self, forged: Any, problem: str) -> None:
        with pytest.raises(MalformedChangeset, match=problem):
            unseal(forge(msgspec.msgpack.encode(forged), rows=len(forged[1])))


class TestVersions:
    @pytest.mark.parametrize("layout", [2, 3, 127, 128, 65_536, 2**64 - 1])
    def test_every_newer_format_says_to_upgrade(self, layout: int) -> None:
        future = msgspec.msgpack.encode([layout, "x" * 40])
        good = encode(seal(changeset()))
        for read, data in ((decode, future), (decode_batch, b"\x91" + future), (decode_batch, b"\x92" + good + future)):
            with pytest.raises(NewerFormat, match="Upgrade localstore"):
                read(data)
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            unseal(forge(b"", layout=layout))

    @pytest.mark.parametrize("layout", [0, -1, None, True, 1.0, "2", [2]])
    def test_what_is_no_format_is_malformed(self, layout: Any) -> None:
        fields = [layout, *msgspec.structs.astuple(seal(changeset()))[1:]]
        with pytest.raises(MalformedChangeset):
            decode(msgspec.msgpack.encode(fields))
        with pytest.raises(MalformedChangeset):
            decode_batch(msgspec.msgpack.encode([fields]))

    def test_what_is_no_format_is_malformed_however_it_came(self) -> None:
        with pytest.raises(MalformedChangeset):
            unseal(forge(wire_body.write((), changeset().groups), layout=0))


class TestMemory:
    """Peaks as Python counts them, relative to what was read."""

    @pytest.mark.parametrize("claim", HUGE.values(), ids=HUGE)
    @pytest.mark.parametrize(
        "before", [b"", b"\x91", b"\x99\x01", PAIR, PAIR + GROUP, PAIR + GROUP[:2], PAIR[:1], PAIR + GROUP[:-1]]
    )
    @pytest.mark.parametrize("after", [b"", b"\xc0" * 1000])
    def test_a_huge_claim_costs_nothing(self, claim: bytes, before: bytes, after: bytes) -> None:
        data = before + claim + after
        assert cost_of(lambda: decode(data)) < MEMORY_BASE
        assert cost_of(lambda: decode_batch(data)) < MEMORY_BASE
        assert cost_of(lambda: unseal(forge(data, rows=2**32 - 1))) < MEMORY_BASE

    @pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\xc0", b"\x01", b"\xa0", b"\xc4\x00", b"\xd4\x05\x01", b"\x91\x01"])
    @pytest.mark.parametrize("codec", [PLAIN, ZLIB])
    def test_many_small_items_cost_no_more_than_honest_ones(self, item: bytes, codec: int) -> None:
        count = 300_000
        many = b"\xdd" + count.to_bytes(4, "big") + item * count
        for body in (many, PAIR + many, b"\x92" + many + b"\x90", PAIR + GROUP + many, PAIR + GROUP + b"\x91" + many):
            packed = zlib.compress(body).ljust(len(body) // 256 + 1, b"\0") if codec == ZLIB else body
            for rows in (1, count):
                forged = forge(packed, codec=codec, size=len(body), rows=rows)
                assert cost_of(partial(unseal, forged)) < MEMORY_FACTOR * len(body) + MEMORY_BASE
        assert cost_of(lambda: decode(many)) < MEMORY_BASE
        assert cost_of(lambda: decode_batch(many)) < MEMORY_BASE

    def test_many_columns_and_groups_cost_no_more_than_honest_ones(self) -> None:
        names = [f"{n:x}" for n in range(60_000)]
        wide = msgspec.msgpack.encode([[], [["t", 1, ["k"], names, [[1]] * 60_001]]])
        many = msgspec.msgpack.encode([[], [["t", 1, ["k"], [], [[1]]]] * 60_000])
        for body in (wide, many):
            for rows in (1, 60_000):
                forged = forge(body, rows=rows)
                assert cost_of(partial(unseal, forged)) < MEMORY_FACTOR * len(body) + MEMORY_BASE
        with pytest.raises(MalformedChangeset, match="different lengths"):
            unseal(forge(wide))
        assert unseal(forge(many, rows=60_000)).row_count == 60_000

    def test_the_smallest_changesets_in_a_batch_cost_little_more_than_their_bytes(self) -> None:
        data = encode_batch([seal(Changeset(bytes(16), number, 1, (), ())) for number in range(1, 20_000)])
        assert len(decode_batch(data)) == 19_999
        assert cost_of(lambda: decode_batch(data)) < MEMORY_FACTOR * len(data)

    def test_a_false_count_of_rows_is_found_before_a_value_is_made(self) -> None:
        texts = changeset(list(range(100_000)), [f"text {row}" for row in range(100_000)])
        body = wire_body.write(texts.depends, texts.groups)
        assert cost_of(lambda: unseal(forge(body, rows=99_999))) < len(body) + 2 * MEMORY_BASE
        assert cost_of(lambda: unseal(forge(body, rows=100_000))) > 4 * len(body)

    @pytest.mark.parametrize("codec", [ZSTD, ZLIB])
    @pytest.mark.parametrize("claimed", [100, 64 * 1024, MAX_CHANGESET_BYTES])
    def test_a_bomb_costs_no_more_than_its_own_bytes_may(self, codec: int, claimed: int) -> None:
        inside = bytes(30_000_000)
        bomb = zlib.compress(inside, 9) if codec == ZLIB else wire_body.zstd.compress(inside)
        forged = forge(bomb, codec=codec, size=claimed)
        assert cost_of(partial(unseal, forged)) < max(wire_body.MAX_RATIO * len(bomb), 64 * 1024) + MEMORY_BASE
        with pytest.raises(MalformedChangeset, match="bytes long as it says"):
            unseal(forged)

    @pytest.mark.parametrize("codec", [PLAIN, ZSTD, ZLIB])
    def test_a_size_that_the_body_cannot_have_is_refused_before_it_is_inflated(self, codec: int) -> None:
        body = {PLAIN: b"", ZSTD: wire_body.zstd.compress(b"x"), ZLIB: zlib.compress(b"x")}[codec]
        forged = forge(body, codec=codec, size=MAX_CHANGESET_BYTES)
        assert cost_of(partial(unseal, forged)) < MEMORY_BASE
        with pytest.raises(MalformedChangeset, match="cannot be 67108864 bytes long"):
            unseal(forged)

    def test_a_window_larger_than_the_body_is_refused(self) -> None:
        options = {
            wire_body.zstd.CompressionParameter.window_log: 27,
            wire_body.zstd.CompressionParameter.content_size_flag: 0,
        }
        body = wire_body.write((), changeset().groups)
        packer = wire_body.zstd.ZstdCompressor(options=options)
        with pytest.raises(MalformedChangeset, match="memory"):
            unseal(forge(packer.compress(body) + packer.flush(), codec=ZSTD, size=len(body)))

    @pytest.mark.parametrize("rows", [1, 100, 10_000, 300_000])
    def test_rows_that_are_all_alike_are_padded_and_not_refused(self, rows: int) -> None:
        original = changeset([1] * rows, ["the same"] * rows, op=Op.INSERT)
        sealed = seal(original)
        assert sealed.size <= 64 * 1024 or sealed.size <= wire_body.MAX_RATIO * len(sealed.body)
        assert len(sealed.body) <= max(sealed.size // 250, 256)
        assert unseal(sealed) == original


class TestNesting:
    @pytest.mark.parametrize("deeper", [b"\x91", b"\x81\xa1k", b"\x81"], ids=["arrays", "maps", "keys"])
    @pytest.mark.parametrize("depth", [10, 900, 100_000])
    @pytest.mark.parametrize("before", [b"", b"\x91", b"\x99\x01", PAIR, PAIR + GROUP, PAIR + GROUP + b"\x91", b"\x92"])
    def test_deep_nesting_is_refused_wherever_it_is(self, deeper: bytes, depth: int, before: bytes) -> None:
        nested = before + deeper * depth + b"\xc0"
        for read in (decode, decode_batch, lambda data: unseal(forge(data))):
            with pytest.raises(MalformedChangeset):
                read(nested)
