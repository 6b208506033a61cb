"""Changesets that earlier versions wrote: each is read by today's library, to exactly what it was, for ever.

The files are made by ``tests/fixtures/make_wire.py``, for each format that was ever released.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from localstore import wire_body
from localstore.changes import Changeset
from localstore.errors import MalformedChangeset, NewerFormat
from localstore.wire import DEFAULT_CHANGESET_ROWS, FORMAT, SealedChangeset, decode, decode_batch, encode, seal, unseal
from tests.fixtures.make_wire import PLAIN, WIRE, expected, make
from tests.unit.store_kit import exactly

HASHES = {
    "1-example": "1b00af4c361af9526c40cba5657e3820f34abe346f0ae4a5fabc91822b6c83bc",
    "1-empty": "aa9aa7e5bed1804d1f3bb1989cf5d4190975949eb1d49da224a0c12880c6cc93",
    "1-smallest": "3eb740bbb3d03dbae8f13ff8900cd038950b4ffbfaec0d0e2b820cd90003ff5e",
    "1-largest-header": "8975b0dbb2ea9da0f6de4ed4df836c83fa36ffc3035d475412e1c0c73306efa5",
    "1-ops": "41639158422332429d9214747a0b012e85f308cde91a5be0c915f27221e30a8a",
    "1-integers": "d340e7d8ef3c1673f74087f112a910beaa668cb6e310052aa0f3ada65eadcf70",
    "1-reals": "60c7d0839017cedfca19e6891ce3938519ba4495764f01335584e7a59fc54fac",
    "1-texts": "15a45372e701fbffcd72b3a30354404502b0bd464f4e1e5363a7e0adef6c83e7",
    "1-blobs": "39180dcceb39a0c9d1b94b072cac6b08d1331fb66852546e4642c4f53d0dda0d",
    "1-nulls": "7664bf13c78bc8842c0dd896aad2707e0b33378ccfa611471c737f7698fbf07a",
    "1-mixed": "4d07930b5a03bc84a9c7687585443cf5702a0fd5e5ab4862e61862aa55500ff1",
    "1-composite-keys": "b988bc4581f1c4a45720d6268c622b05e7e4a1a706b43279707d52a34aa30110",
    "1-dependencies": "3a7d344f8e0d0c276cc48162685181946f7faf10b755b2908bd2d1200e3edb15",
    "1-wide": "3c1b9c70b973fd7c563b7c447823d03a6ffd5ec07da3e4a5f40932b5ed38f1bc",
    "1-zstd": "ec253a068e9a5bcbb8d7da335bb267fbb496a53de600b5bf02c23a82ffecd30a",
    "1-zlib": "b43a5bcab1a7717b2c6dcca8c252422c3a634915f0ddcf1a883380db11074e0b",
    "1-padded": "24e660f448f04996d84497046d48b33fe23cd32e9bad44ac3cee8536109428ce",
    "1-batch": "6141509033d4f4bc097bb27391d24a750a0dedf65f77607d17cae93524b84ea9",
    "1-future": "b7e7fc16393f3139dac3f5141dc96c49c3744fb87f73a27d17ac4dfa9de925cf",
}  # the files' hashes
"""What each file has been since its format was released. Never to be changed then; a new format gets new files."""

PACKED = {f"{FORMAT}-{case}" for case in ("zstd", "zlib", "padded")}
READABLE = sorted(name for name in HASHES if not name.endswith("-future"))


def content(changeset: Changeset) -> object:
    """All of a changeset, in a form that is equal only to itself where Python calls 1, 1.0 and -0.0 and 0.0 equal."""
    groups = [(group.table, group.op, group.key, group.columns, exactly(group.values)) for group in changeset.groups]
    return changeset.device, changeset.number, changeset.stamp, changeset.depends, groups


def golden(name: str) -> list[SealedChangeset]:
    data = (WIRE / f"{name}.bin").read_bytes()
    return decode_batch(data) if name.endswith("-batch") else [decode(data)]


def test_each_file_is_what_it_was() -> None:
    assert {file.name for file in WIRE.iterdir()} == {f"{name}.bin" for name in HASHES}
    for name, digest in HASHES.items():
        assert hashlib.sha256((WIRE / f"{name}.bin").read_bytes()).hexdigest() == digest
    assert set(make()) <= set(HASHES), "python -m tests.fixtures.make_wire makes the files of a new format"


@pytest.mark.parametrize("name", READABLE)
def test_each_file_is_read_to_exactly_what_it_held(name: str) -> None:
    assert [content(unseal(sealed)) for sealed in golden(name)] == [content(changeset) for changeset in expected()[name]]


@pytest.mark.parametrize("name", READABLE)
def test_what_was_read_can_be_sent_on(name: str) -> None:
    for sealed in golden(name):
        found = unseal(sealed)
        assert decode(encode(sealed)) == sealed
        assert content(unseal(decode(encode(seal(found))))) == content(found)


@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith(f"{FORMAT}-")])
def test_todays_body_has_the_same_bytes(name: str) -> None:
    for sealed, changeset in zip(golden(name), expected()[name], strict=True):
        body = wire_body.write(changeset.depends, changeset.groups)
        assert body == wire_body.unpack(sealed.codec, sealed.body, sealed.size)
        assert sealed.codec == PLAIN or name in PACKED


def test_todays_files_are_what_today_makes_but_for_what_other_programs_pack() -> None:
    made = make()
    assert {name: made[name] for name in made if name not in PACKED} == {
        name: (WIRE / f"{name}.bin").read_bytes() for name in made if name not in PACKED
    }


def test_the_padded_file_is_padded() -> None:
    (sealed,) = golden(f"{FORMAT}-padded")
    assert sealed.size <= wire_body.MAX_RATIO * len(sealed.body)
    assert sealed.body.endswith(bytes(100))
    shorter = sealed.body.rstrip(b"\0")
    with pytest.raises(wire_body.BadBody, match="cannot be"):
        wire_body.unpack(sealed.codec, shorter, sealed.size)


def test_a_file_of_the_future_says_to_upgrade() -> None:
    data = (WIRE / f"{FORMAT}-future.bin").read_bytes()
    for read in (decode, lambda future: decode_batch(b"\x92" + (WIRE / f"{FORMAT}-empty.bin").read_bytes() + future)):
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            read(data)


@pytest.mark.parametrize("name", READABLE)
def test_no_file_is_read_when_a_byte_is_missing_or_added(name: str) -> None:
    data = (WIRE / f"{name}.bin").read_bytes()
    read = decode_batch if name.endswith("-batch") else decode
    for damaged in (data[:-1], data[1:], data + b"\0", b""):
        with pytest.raises(MalformedChangeset):
            read(damaged)


def test_the_pages_example_is_the_file_byte_by_byte() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    (dump,) = re.findall(r"^```\n(99 .*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown = "".join(re.match(r" *([0-9a-f ]+?)(?: {2,}|$)", line)[1] for line in dump.splitlines())  # type: ignore[index]
    assert bytes.fromhex(shown) == (WIRE / "1-example.bin").read_bytes()


def test_the_page_says_the_limits_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    assert f"This page is *format {FORMAT}*" in page
    assert f"{wire_body.MAX_BODY_BYTES >> 20} MiB" in page
    assert f"{wire_body.UNPADDED_BYTES >> 10} KiB is packed to at least 1/{wire_body.MAX_RATIO}" in page
    assert f"{DEFAULT_CHANGESET_ROWS:,}" in page
