"""What the tests of the wire format share: changesets at random, and changesets that break the rules."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from hypothesis import strategies as st

from localstore.changes import Changeset, Dependency, Op, RowGroup, Value
from localstore.wire import FORMAT, SealedChangeset

DEVICE, OTHER = bytes(range(16)), bytes(range(16, 32))
PLAIN, ZSTD, ZLIB = 0, 1, 2

values: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
devices = st.binary(min_size=16, max_size=16)
stamps = st.integers(0, 2**63 - 1)
numbers = st.integers(1, 2**63 - 1)


@st.composite
def groups(draw: st.DrawFn) -> RowGroup:
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    op = draw(st.sampled_from(Op))
    key_width = len(columns) if op is Op.DELETE else draw(st.integers(1, len(columns)))
    rows = draw(st.integers(1, 4))
    content = [draw(st.lists(values, min_size=rows, max_size=rows)) for _ in columns]
    return RowGroup(draw(names), op, tuple(columns[:key_width]), tuple(columns[key_width:]), content)


changesets = st.builds(
    Changeset,
    device=devices,
    number=numbers,
    stamp=stamps,
    depends=st.lists(st.builds(Dependency, devices, numbers, stamps), max_size=3).map(tuple),
    groups=st.lists(groups(), max_size=3).map(tuple),
)


def changeset(*content: list[Any], columns: tuple[str, ...] = ("text",), op: Op = Op.INSERT, number: int = 1) -> Changeset:
    group = RowGroup("note", op, ("id",), columns, list(content) or [[1], ["one"]])
    return Changeset(DEVICE, number, 2**50, (Dependency(OTHER, 3, 2**49),), (group,))


def forge(body: bytes, *, codec: int = PLAIN, size: int | None = None, rows: int = 1, layout: int = FORMAT) -> SealedChangeset:
    """A changeset with any body at all and the right digest, which is worked out here independently of the library."""
    header = (layout, DEVICE, 1, 2**50, rows, codec, len(body) if size is None else size)
    digest = hashlib.blake2b(msgspec.msgpack.encode(header) + body, digest_size=16).digest()
    return SealedChangeset(*header, digest, body)


def body(*content: Any, op: int = 1, key: Any = ("id",), columns: Any = ("text",), depends: Any = ()) -> bytes:
    """A body that is free to break the rules."""
    return msgspec.msgpack.encode((depends, [("note", op, key, columns, list(content))]))
