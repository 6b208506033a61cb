"""Tables of every kind that capture has to cope with, each with rows and with what is done to them."""

from __future__ import annotations

import math

from localstore.changes import Value
from localstore.store.engine import quote
from tests.unit.capture_kit import Case, Values

WIDE_COLUMNS = [f"c{n}" for n in range(130)]
MEGABYTE = 1024 * 1024
EIGHT = tuple(f"k{n}" for n in range(8))


def _note(ddl: str, *, key: str = "id", keys: tuple[Value, ...] = ("kept", "changed", "deleted", "added", "moved")) -> Case:
    """A table of two plain columns, whose key is what matters."""
    kept, changed, deleted, added, moved = keys
    return Case(
        "note",
        ddl,
        (key,),
        {key: kept, "title": "k", "stars": 1},
        {key: changed, "title": "c", "stars": None},
        {key: deleted, "title": "d", "stars": 3},
        {key: added, "title": "ä 💾 'quoted'", "stars": -(2**63)},
        {"stars": 2**63 - 1},
        {key: moved},
    )


def _parts(ddl: str) -> Case:
    """A table with a key of two columns, which are declared in another order than they are keyed."""
    return Case(
        "part",
        ddl,
        ("box", "place"),
        {"weight": 0.1, "place": 1, "box": "a", "picture": b""},
        {"weight": 1e300, "place": 2, "box": "a", "picture": None},
        {"weight": None, "place": 1, "box": "b", "picture": b"\0\xff"},
        {"weight": 2.0, "place": 2, "box": "b", "picture": b"text"},
        {"weight": 5e-324, "picture": b"\0"},
        {"place": -7},
    )


def _filled(
    name: str,
    ddl: str,
    columns: list[str],
    update: Values,
    *,
    keys: tuple[Value, ...] = ("kept", "changed", "deleted", "added", "moved"),
) -> Case:
    """A table with its key in the first column and small numbers in the others."""
    key, *others = columns
    *which, moved = keys
    rows: list[Values] = [{key: value, **dict.fromkeys(others, n)} for n, value in enumerate(which)]
    kept, changed, deleted, added = rows
    return Case(name, ddl, (key,), kept, changed, deleted, added, update, {key: moved})


def _columns(*names: str) -> str:
    return ", ".join(f"{quote(name)} INTEGER" for name in names)


ODD_NAMES = ['a "b" c', "it's", "new", "old", "rowid", "größe 💾", "a.b", "select", "excluded", "t"]
OUR_NAMES = ["mask", "seq", "op", "tbl", "part", "capturing", "l", "k8"]

CASES: dict[str, Case] = {
    "text key": _note("CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)"),
    "uuid key": _note(
        "CREATE TABLE note (id CHAR(32) NOT NULL PRIMARY KEY, title VARCHAR, stars INTEGER)",
        keys=tuple(f"0190b5f0c3a17000{n:016x}" for n in range(5)),
    ),
    "integer key": _note(
        "CREATE TABLE note (id INTEGER NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)", keys=(1, 2, 2**63 - 1, -(2**63), 0)
    ),
    "integer key that is no rowid": _note(
        "CREATE TABLE note (title TEXT, stars INTEGER, id INT NOT NULL PRIMARY KEY)", keys=(1, 2, 2**63 - 1, -(2**63), 0)
    ),
    "blob key": _note(
        "CREATE TABLE note (id BLOB NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)",
        keys=(b"\0", b"\0\0", b"", b"\xff" * 16, b"text"),
    ),
    "without rowid": _note(
        "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER) WITHOUT ROWID",
        keys=("", " ", "a\0b", "a", "é"),
    ),
    "no name left for the rowid": _filled(
        "taken",
        f"CREATE TABLE taken (id TEXT NOT NULL PRIMARY KEY, {_columns('rowid', 'OID', '_rowid_')})",
        ["id", "rowid", "OID", "_rowid_"],
        {"rowid": 7, "_rowid_": 8},
    ),
    "integer key that is called rowid": _filled(
        "taken",
        f"CREATE TABLE taken (oid INTEGER NOT NULL PRIMARY KEY, {_columns('rowid', 'n')})",
        ["oid", "rowid", "n"],
        {"n": 7},
        keys=(1, 2, 3, 4, -5),
    ),
    "integer key that descends": _note(
        "CREATE TABLE note (id INTEGER NOT NULL PRIMARY KEY DESC, title TEXT, stars INTEGER)", keys=(1, 2, 3, 4, -5)
    ),
    "composite key": _parts(
        "CREATE TABLE part (weight REAL, place INTEGER NOT NULL, box TEXT NOT NULL, picture BLOB, PRIMARY KEY (box, place))"
    ),
    "composite key without rowid": _parts(
        "CREATE TABLE part (weight REAL, place INTEGER NOT NULL, box TEXT NOT NULL, picture BLOB,"
        " PRIMARY KEY (box, place DESC)) WITHOUT ROWID"
    ),
    "nothing but a key": Case(
        "link",
        "CREATE TABLE link (source TEXT NOT NULL, target TEXT NOT NULL, PRIMARY KEY (source, target))",
        ("source", "target"),
        {"source": "a", "target": "b"},
        {"source": "a", "target": "c"},
        {"source": "b", "target": "c"},
        {"source": "c", "target": "a"},
        {},
        {"target": "d"},
    ),
    "130 columns": _filled(
        "wide",
        f"CREATE TABLE wide (id TEXT NOT NULL PRIMARY KEY, {_columns(*WIDE_COLUMNS)})",
        ["id", *WIDE_COLUMNS],
        {"c0": -1, "c62": None, "c63": -3, "c64": 0, "c125": -4, "c126": -5, "c127": -6, "c129": -7},
    ),
    "generated columns": Case(
        "price",
        "CREATE TABLE price (gross INTEGER AS (net * 2) STORED, id TEXT NOT NULL PRIMARY KEY, net INTEGER,"
        " half INTEGER AS (net / 2) VIRTUAL, label TEXT, both TEXT AS (label || id) UNIQUE)",
        ("id",),
        {"id": "kept", "net": 1, "label": "k"},
        {"id": "changed", "net": 2, "label": "c"},
        {"id": "deleted", "net": 3, "label": None},
        {"id": "added", "net": 4, "label": "a"},
        {"net": 20},
        {"id": "moved"},
    ),
    "names to quote": _filled(
        "ta\"ble [of] `it's`",
        f'CREATE TABLE "ta""ble [of] `it\'s`" ("the key" TEXT NOT NULL PRIMARY KEY, {_columns(*ODD_NAMES)})',
        ["the key", *ODD_NAMES],
        {'a "b" c': 7, "it's": 8, "rowid": 9, "old": 10, "größe 💾": 11},
    ),
    "a table and columns called like ours": Case(
        "log",
        f"CREATE TABLE log ({', '.join(f'{name} TEXT NOT NULL' for name in EIGHT)}, {_columns(*OUR_NAMES)},"
        f" PRIMARY KEY ({', '.join(EIGHT)}))",
        EIGHT,
        {**dict.fromkeys(EIGHT, "kept"), **dict.fromkeys(OUR_NAMES, 1)},
        {**dict.fromkeys(EIGHT, "changed"), **dict.fromkeys(OUR_NAMES, 2)},
        {**dict.fromkeys(EIGHT, "deleted"), **dict.fromkeys(OUR_NAMES, 3)},
        {**dict.fromkeys(EIGHT, "added"), **dict.fromkeys(OUR_NAMES, 4)},
        {"mask": 5, "k8": 6},
        {"k7": "moved"},
    ),
    "a table called new": _filled(
        "new", 'CREATE TABLE "new" ("from" TEXT NOT NULL PRIMARY KEY, "where" INTEGER)', ["from", "where"], {"where": 9}
    ),
    "columns of every affinity": Case(
        "odd",
        "CREATE TABLE odd (id TEXT NOT NULL PRIMARY KEY, untyped, b BLOB, n NUMERIC, d DECIMAL(10, 2), date DATE, flag BOOLEAN,"
        " j JSON, t TEXT, i INTEGER, r REAL, point FLOATING POINT)",
        ("id",),
        {"id": "kept", "untyped": 1, "b": 1, "n": "x", "d": 1.5, "date": "2026-01-01", "flag": 1, "j": "[]", "t": "1"},
        {"id": "changed", "untyped": 1, "b": b"1", "n": 1, "d": "1x", "flag": 0, "j": "1 ", "t": "1", "i": 1, "r": 1},
        {"id": "deleted", "untyped": None, "i": "no number", "r": b"\0", "point": 1},
        {"id": "added", "untyped": math.inf, "b": -0.0, "n": 0.1, "t": b"\xff", "i": 0.5, "r": -math.inf, "point": "x"},
        {"untyped": 1.0, "b": "1", "n": "1 x", "j": b"1 ", "t": b"1", "i": "1 x", "r": b""},
        {"id": "moved"},
    ),
    "strict": Case(
        "strict",
        "CREATE TABLE strict (id TEXT NOT NULL PRIMARY KEY, any ANY, i INT, r REAL, b BLOB) STRICT",
        ("id",),
        {"id": "kept", "any": "1", "i": 1, "r": 1.0, "b": b""},
        {"id": "changed", "any": 1, "i": 1, "r": 1.0, "b": b""},
        {"id": "deleted", "any": None, "i": None, "r": None, "b": None},
        {"id": "added", "any": b"1", "i": 2, "r": 2.0, "b": b"\0"},
        {"any": 1.0, "i": None},
        {"id": "moved"},
    ),
    "columns that collate": Case(
        "tag",
        "CREATE TABLE tag (id TEXT NOT NULL PRIMARY KEY, name TEXT COLLATE NOCASE, trim TEXT COLLATE RTRIM)",
        ("id",),
        {"id": "kept", "name": "one", "trim": "end"},
        {"id": "changed", "name": "two", "trim": "end"},
        {"id": "deleted", "name": "three", "trim": "end"},
        {"id": "added", "name": "four", "trim": ""},
        {"name": "TWO", "trim": "end  "},
        {"id": "CHANGED"},
    ),
    "rows of a megabyte": Case(
        "big",
        "CREATE TABLE big (id TEXT NOT NULL PRIMARY KEY, text TEXT, data BLOB, n INTEGER)",
        ("id",),
        {"id": "kept", "text": "k" * MEGABYTE, "data": None, "n": 1},
        {"id": "changed", "text": "c" * MEGABYTE, "data": b"", "n": 2},
        {"id": "deleted", "text": "", "data": b"d" * MEGABYTE, "n": 3},
        {"id": "added", "text": "ä" * MEGABYTE, "data": b"\xff" * MEGABYTE, "n": 4},
        {"text": "c" * MEGABYTE + "d", "n": 5},
        {"id": "moved"},
    ),
    "refers to itself": Case(
        "node",
        "CREATE TABLE node (id TEXT NOT NULL PRIMARY KEY, parent TEXT REFERENCES node ON DELETE SET NULL ON UPDATE CASCADE,"
        " n INTEGER)",
        ("id",),
        {"id": "kept", "parent": "kept", "n": 1},
        {"id": "changed", "parent": "kept", "n": 2},
        {"id": "deleted", "parent": "kept", "n": 3},
        {"id": "added", "parent": "changed", "n": 4},
        {"parent": "changed"},
        {"id": "moved"},
    ),
}
