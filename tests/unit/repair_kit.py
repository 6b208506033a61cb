"""Random schemas with references, what devices do to them, and the rule of ``docs/merging.md`` applied the long way round."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.changes import Key, Value
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, Row, close_devices, rows_of

Tables = dict[str, dict[Key, Row]]
Blank = Callable[[Path, str, list[sa.Table], ManualClock], Device]
KEYS = "pqr"
DEVICES = 3
ACTIONS = (None, "RESTRICT", "NO ACTION", "SET NULL", "SET DEFAULT", "CASCADE")
SHAPES = {
    "a chain": (("b", "up", "a"), ("c", "up", "b")),
    "a tree": (("a", "up", "a"),),
    "a cycle": (("a", "up", "b"), ("b", "up", "a")),
    "two parents": (("c", "left", "a"), ("c", "right", "b"), ("b", "up", "a")),
}
DOINGS = ("refer", "refer", "delete target", "delete target", "insert", "insert target", "delete", "unlink", "touch")


@dataclass(frozen=True)
class Link:
    """A foreign key from a column of a table to the key of another, or of itself."""

    table: str
    column: str
    target: str
    on_delete: str | None
    nullable: bool
    default: str | None


@dataclass(frozen=True)
class Round:
    """Each device writes for itself; then some of them receive others' changesets, perhaps not all and not in order."""

    writes: list[list[str]]
    deliveries: list[tuple[int, int, int]]
    reopened: list[int]


def schema(links: Iterable[Link], *, enforced: bool) -> list[sa.Table]:
    """The tables; without ``enforced`` the same columns, and no foreign keys."""
    metadata, links = sa.MetaData(), list(links)
    for name in "abc":
        columns = []
        for link in links:
            if link.table == name:
                keys = [sa.ForeignKey(f"{link.target}.id", ondelete=link.on_delete)] if enforced else []
                default = {"server_default": link.default, "nullable": link.nullable}
                columns.append(sa.Column(link.column, sa.String, *keys, **default))
        sa.Table(name, metadata, sa.Column("id", sa.String, primary_key=True), *columns, sa.Column("n", sa.Integer))
    return list(metadata.tables.values())


def insert(links: Iterable[Link], table: str, key: str, values: Iterator[str], number: int) -> str:
    columns = [link.column for link in links if link.table == table]
    names = ", ".join(["id", *columns, "n"])
    quoted = ", ".join(f"'{value}'" for value in [key, *itertools.islice(values, len(columns))])
    return f"INSERT INTO {table} ({names}) VALUES ({quoted}, {number})"


def beginning(links: list[Link]) -> list[str]:
    """Rows of every table, each referring to the one of the same key."""
    names = sorted({link.table for link in links} | {link.target for link in links})
    return [insert(links, name, key, itertools.repeat(key), 0) for name in names for key in KEYS[:2]]


@st.composite
def statements(draw: st.DrawFn, links: list[Link]) -> list[str]:
    """What a device does offline: mostly to rows that others refer to, and to rows that refer."""
    found = []
    for what in draw(st.lists(st.sampled_from(DOINGS), min_size=1, max_size=4)):
        link = draw(st.sampled_from(links))
        table = link.target if "target" in what else link.table
        key, other = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
        if what.startswith("insert"):
            found.append(insert(links, table, key, iter([other, draw(st.sampled_from(KEYS))]), 1))
        elif what.startswith("delete"):
            found.append(f"DELETE FROM {table} WHERE id = '{key}'")
        else:
            value = {"refer": f"{link.column} = '{other}'", "unlink": f"{link.column} = NULL", "touch": "n = n + 1"}[what]
            found.append(f"UPDATE {table} SET {value} WHERE id = '{key}'")
    return found


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Link], list[Round]]:
    shape = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    default = st.sampled_from([None, "p"])
    links = [Link(*edge, draw(st.sampled_from(ACTIONS)), draw(st.booleans()), draw(default)) for edge in shape]
    device = st.integers(0, DEVICES - 1)
    a_round = st.builds(
        Round,
        st.lists(statements(links), min_size=DEVICES, max_size=DEVICES),
        st.lists(st.tuples(device, device, st.integers(1, 3)), max_size=4),
        st.lists(device, max_size=1),
    )
    return links, draw(st.lists(a_round, min_size=2, max_size=5))


def the_long_way(links: list[Link], merged: Tables) -> Tables:
    """What is to be shown: begin with everything, take out what cannot stay until nothing changes, then mend the rest."""
    shown = {name: dict(rows) for name, rows in merged.items()}
    while leaving := [
        (link.table, key)
        for link in links
        for key, row in shown[link.table].items()
        if _is_missing(link, row[link.column], shown) and not _may_stay(link, row[link.column], shown)
    ]:
        for table, key in leaving:
            shown[table].pop(key, None)
    for link in links:
        for key, row in shown[link.table].items():
            if _is_missing(link, row[link.column], shown):
                instead = link.default if link.on_delete == "SET DEFAULT" else None
                shown[link.table][key] = {**row, link.column: instead}
    return shown


def _is_missing(link: Link, value: Value, shown: Tables) -> bool:
    return value is not None and (value,) not in shown[link.target]


def _may_stay(link: Link, value: Value, shown: Tables) -> bool:
    if link.on_delete == "SET DEFAULT" and link.default is not None:
        return not _is_missing(link, link.default, shown)
    return link.nullable and link.on_delete != "CASCADE"


def tables_in(device: Device) -> Tables:
    return {name: rows_of(device.path, name) for name in "abc"}


def try_to(device: Device, *sql: str) -> None:
    """Write what the database does not refuse."""
    with device.store.write() as tx:
        for statement in sql:
            with suppress(sa.exc.IntegrityError), tx.begin_nested():
                tx.connection().exec_driver_sql(statement)


def blank_devices(folder: Path, names: str) -> Blank:
    """Makes devices from files that have the system tables already, as to make these takes longest."""
    for name in names:
        Device(folder, name, ())
    close_devices()

    def make(into: Path, name: str, tables: list[sa.Table], clock: ManualClock) -> Device:
        shutil.copy(folder / f"{name}.db", into)
        return Device(into, name, tables, clock=clock)

    return make
