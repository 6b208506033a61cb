"""Rows' clocks in the file: reading and writing ``merge.RowState``, one record a row at most.

A record's columns hold the latest life and delete; ``detail`` holds, as MessagePack, columns that are newer than the life,
and what concurrent lives need. A row that is there without a record is older than everything.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from localstore.changes import Key, Value
from localstore.clock import Version
from localstore.store.capture import CapturedTable
from localstore.store.given import GIVEN, execute_given
from localstore.store.merge import LONG_AGO, Candidate, Mark, RowState, life_of
from localstore.store.state import device_ids, device_number

__all__ = ["ClockTable", "Knowledge", "Record", "key_of", "key_value", "saw_up_to"]

_AFTER_BIRTH = "died, died_by, detail, generation"
_RECORD = f"born, born_by, {_AFTER_BIRTH}"

Record = tuple[int | None, int, int | None, int, bytes | None, int]
"""A record but for its table and key: the columns of ``_RECORD``."""


class _Detail(msgspec.Struct, array_like=True, omit_defaults=True):
    """``marks``: column -> stamp, device, and the life's stamp and device when it is not the latest life."""

    marks: dict[str, list[int]]
    lives: list[list[int]] = []
    runners_up: dict[str, list[list[Any]]] = {}


@dataclass(frozen=True, slots=True)
class _Generation:
    """How often a table got new columns since it is synced, and which number each of these columns came with.

    A record carries the number at which it was written.
    """

    current: int
    added: Mapping[str, int]

    def newer_than(self, number: int) -> Iterator[str]:
        return (column for column, came in self.added.items() if came > number)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Detail).decode


def key_value(key: Key) -> Value:
    """A key as one SQLite value: itself when it is one column, else MessagePack."""
    return key[0] if len(key) == 1 else _encode(key)


def key_of(table: CapturedTable, value: Value) -> Key:
    """The opposite of ``key_value``."""
    return (value,) if len(table.key) == 1 else tuple(msgspec.msgpack.decode(cast("bytes", value)))


class ClockTable:
    """The clocks of one file, within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids = {**device_ids(connection), b"": 0}
        self._devices = {id_: device for device, id_ in self._ids.items()}
        tables = connection.execute("SELECT id, generation, added FROM localstore_table")
        self._generations = {id_: _Generation(current, json.loads(added)) for id_, current, added in tables}

    def load(self, table: int, keys: Iterable[Value]) -> Iterator[tuple[Value, RowState]]:
        """The states of those of the keys that have a record."""
        sql = f"SELECT c.key, {_RECORD} FROM {GIVEN} AS g CROSS JOIN localstore_clock AS c ON c.tbl = ? AND c.key = g.c0"
        for key, *record in execute_given(self._connection, sql, [list(keys)], (table,)):
            yield key, self.read(table, cast("Record", record))

    def sort(self, table: int, keys: Sequence[Value]) -> dict[Record, list[int]]:
        """Which of the keys have the same record, by their positions, for those that have one. SQLite does most of it, as
        making tuples of what is the same in many rows would take as long as finding it."""
        if self._has_none_among(table, keys):
            return {}
        sql = (
            f"SELECT group_concat(g.c1), {_RECORD} FROM {GIVEN} AS g CROSS JOIN localstore_clock AS c"
            f" ON c.tbl = ? AND c.key = g.c0 GROUP BY {_RECORD}"
        )
        found: dict[Record, list[int]] = {}
        for positions, *record in execute_given(self._connection, sql, [keys, range(len(keys))], (table,)):
            found.setdefault(cast("Record", tuple(record)), []).extend(map(int, positions.split(",")))
        return found

    def _has_none_among(self, table: int, keys: Sequence[Value]) -> bool:
        """Whether no key between the least and the greatest has a record, as those of new rows that are made in the order of
        time: one question instead of one for each. False as well where Python and SQLite may order them differently."""
        types = set(map(type, keys))
        if len(types) != 1 or not types < {int, str, bytes} or (types == {str} and not "".join(cast("Any", keys)).isascii()):
            return False
        bounds = min(cast("Any", keys)), max(cast("Any", keys))
        sql = "SELECT EXISTS (SELECT 1 FROM localstore_clock WHERE tbl = ? AND key BETWEEN ? AND ?)"
        (has_some,) = self._connection.execute(sql, (table, *bounds)).fetchone()
        return not has_some

    def read(self, table: int, record: Record) -> RowState:
        """What a record says."""
        born, born_by, died, died_by, detail, number = record
        state = RowState(
            lives=() if born is None else (self._version(born, born_by),),
            died=None if died is None else self._version(died, died_by),
        )
        if detail is not None:
            self._read_detail(state, _decode(detail))
        generation = self._generations[table]
        if state.lives and number < generation.current:
            for column in generation.newer_than(number):
                state.marks.setdefault(column, Mark(LONG_AGO, life_of(state.lives[-1])))
        return state

    def record(self, table: int, state: RowState) -> Record:
        """The opposite of ``read``."""
        born = state.lives[-1] if state.lives else (None, b"")
        died = state.died or (None, b"")
        detail = self._write_detail(state)
        return born[0], self.id_of(born[1]), died[0], self.id_of(died[1]), detail, self._generations[table].current

    def save(self, table: int, states: Iterable[tuple[Value, RowState]]) -> None:
        """Write records, over those that are there."""
        self._connection.executemany(
            f"INSERT OR REPLACE INTO localstore_clock (tbl, key, {_RECORD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((table, key, *self.record(table, state)) for key, state in states),
        )

    def add(self, table: int, keys: Sequence[Value], record: Record) -> None:
        """Write the same record for keys that have none."""
        sql = f"INSERT INTO localstore_clock (tbl, key, {_RECORD}) SELECT ?, c0, ?, ?, ?, ?, ?, ? FROM {GIVEN}"
        execute_given(self._connection, sql, [keys], (table, *record))

    def replace(self, table: int, keys: Sequence[Value], record: Record, *, born: bool) -> None:
        """Write the same record over those of all keys; ``born``: also when the rows were born, else only what came then."""
        names, values = (_RECORD, record) if born else (_AFTER_BIRTH, record[2:])
        sql = f"UPDATE localstore_clock SET ({names}) = ({', '.join('?' * len(values))}) WHERE tbl = ? AND key IN {GIVEN}"
        execute_given(self._connection, sql, [keys], (*values, table))

    def id_of(self, device: bytes) -> int:
        """The small number by which records name a device."""
        found = self._ids.get(device)
        if found is None:
            found = self._ids[device] = device_number(self._connection, device)
            self._devices[found] = device
        return found

    def device_of(self, id_: int) -> bytes:
        """The opposite of ``id_of``."""
        return self._devices[id_]

    def add_columns(self, table: int, columns: Iterable[str]) -> None:
        """Note that no insert so far brought these columns, as they are new on this device. No record is written for it:
        those of an older generation than a column are read as if they said so."""
        generation = self._generations[table].current + 1
        added = {**self._generations[table].added, **dict.fromkeys(columns, generation)}
        self._set_generation(table, _Generation(generation, added))

    def rename_columns(self, table: int, names: Mapping[str, str]) -> None:
        """Let all records of a table name its columns anew; what ``names`` does not mention is forgotten."""
        records = self._connection.execute(
            "SELECT key, detail FROM localstore_clock WHERE tbl = ? AND detail IS NOT NULL", (table,)
        ).fetchall()
        changed = []
        for key, data in records:
            detail = _decode(data)
            detail.marks = {names[column]: mark for column, mark in detail.marks.items() if column in names}
            detail.runners_up = {names[column]: kept for column, kept in detail.runners_up.items() if column in names}
            changed.append((_encode(detail) if detail.marks or detail.lives else None, table, key))
        self._connection.executemany("UPDATE localstore_clock SET detail = ? WHERE tbl = ? AND key = ?", changed)
        generation = self._generations[table]
        added = {names[column]: number for column, number in generation.added.items() if column in names}
        self._set_generation(table, _Generation(generation.current, added))

    def hand_over(self, device: bytes, heir: bytes, since: int) -> None:
        """Let all records name ``heir`` as the author of what ``device`` changed from a stamp on."""
        old, new = self.id_of(device), self.id_of(heir)
        for stamp, by in (("born", "born_by"), ("died", "died_by")):
            self._connection.execute(f"UPDATE localstore_clock SET {by} = ? WHERE {by} = ? AND {stamp} >= ?", (new, old, since))
        found = self._connection.execute("SELECT tbl, key, detail FROM localstore_clock WHERE detail IS NOT NULL")
        self._rewrite(found.fetchall(), lambda stamp, by: new if by == old and stamp >= since else by)

    def hand_over_seeds(self, table: int, keys: Sequence[Value], device: bytes, heir: bytes) -> None:
        """The same for rows from before sync."""
        old, new = self.id_of(device), self.id_of(heir)
        sql = f"UPDATE localstore_clock SET born_by = ? WHERE tbl = ? AND born = 0 AND born_by = ? AND key IN {GIVEN}"
        execute_given(self._connection, sql, [keys], (new, table, old))
        sql = f"SELECT tbl, key, detail FROM localstore_clock WHERE tbl = ? AND detail IS NOT NULL AND key IN {GIVEN}"
        found = execute_given(self._connection, sql, [keys], (table,))
        self._rewrite(found, lambda stamp, by: new if by == old and not stamp else by)

    def _rewrite(self, found: Iterable[tuple[int, Value, bytes]], author: Callable[[int, int], int]) -> None:
        """Let details name other authors, by stamp and the author so far."""

        def renamed(numbers: list[Any]) -> list[Any]:
            versions = [part for at in (0, 2) for part in (*numbers[at : at + 1], *_author(numbers, at, author))]
            return versions + numbers[4:]

        changed = []
        for table, key, data in found:
            detail = _decode(data)
            detail.marks = {column: renamed(mark) for column, mark in detail.marks.items()}
            detail.lives = [renamed(life) for life in detail.lives]
            detail.runners_up = {column: [renamed(one) for one in kept] for column, kept in detail.runners_up.items()}
            if (encoded := _encode(detail)) != data:
                changed.append((encoded, table, key))
        self._connection.executemany("UPDATE localstore_clock SET detail = ? WHERE tbl = ? AND key = ?", changed)

    def _set_generation(self, table: int, generation: _Generation) -> None:
        self._generations[table] = generation
        self._connection.execute(
            "UPDATE localstore_table SET generation = ?, added = ? WHERE id = ?",
            (generation.current, json.dumps(generation.added), table),
        )

    def _version(self, stamp: int, by: int) -> Version:
        return (stamp, self._devices[by])

    def _write_detail(self, state: RowState) -> bytes | None:
        if not state.marks and len(state.lives) < 2:
            return None
        latest = life_of(state.lives[-1])

        def pair(version: Version) -> list[int]:
            return [version[0], self.id_of(version[1])]

        def numbers(mark: Mark) -> list[int]:
            return pair(mark.version) if mark.life == latest else pair(mark.version) + pair(mark.life)

        return _encode(
            _Detail(
                {column: numbers(mark) for column, mark in state.marks.items()},
                [pair(life) for life in state.lives[:-1]],
                {
                    column: [[*pair(c.mark.version), *pair(c.mark.life), c.value] for c in candidates]
                    for column, candidates in state.runners_up.items()
                },
            )
        )

    def _read_detail(self, state: RowState, detail: _Detail) -> None:
        latest = life_of(state.lives[-1])
        state.lives = (*(self._version(*life) for life in detail.lives), state.lives[-1])
        for column, numbers in detail.marks.items():
            life = self._version(numbers[2], numbers[3]) if len(numbers) == 4 else latest
            state.marks[column] = Mark(self._version(numbers[0], numbers[1]), life)
        for column, candidates in detail.runners_up.items():
            state.runners_up[column] = tuple(
                Candidate(Mark(self._version(stamp, by), self._version(life, life_by)), value)
                for stamp, by, life, life_by, value in candidates
            )


def _author(numbers: list[Any], at: int, author: Callable[[int, int], int]) -> list[int]:
    """The new author of the version that begins at a place of a detail's numbers, if one does."""
    return [author(numbers[at], numbers[at + 1])] if len(numbers) > at + 1 else []


def saw_up_to(device: bytes, stamp_then: int, seen: Mapping[bytes, int]) -> Callable[[Version], bool]:
    """Whether a change was seen by ``device`` at a time: the others' up to these stamps, and its own until then."""

    def saw(version: Version) -> bool:
        stamp, other = version
        if other == device:
            return stamp <= stamp_then
        return version == LONG_AGO or seen.get(other, 0) >= max(stamp, 1)  # 0: a seed of that device

    return saw


class Knowledge:
    """What each device had seen of the others at its last changeset applied here."""

    def __init__(self, connection: sqlite3.Connection, clocks: ClockTable) -> None:
        self._connection = connection
        self._clocks = clocks
        self._stamps: dict[bytes, dict[bytes, int]] = {}

    def learn(self, device: bytes, other: bytes, stamp: int) -> None:
        """``device`` has seen ``other``'s changes up to ``stamp``."""
        self._of(device)[other] = stamp
        ids = self._clocks.id_of(device), self._clocks.id_of(other)
        self._connection.execute("INSERT OR REPLACE INTO localstore_seen VALUES (?, ?, ?)", (*ids, stamp))

    def of(self, device: bytes) -> Mapping[bytes, int]:
        """The stamps up to which ``device`` has seen others' changes; they rise as more is learnt."""
        return self._of(device)

    def _of(self, device: bytes) -> dict[bytes, int]:
        known = self._stamps.get(device)
        if known is None:
            id_ = self._clocks.id_of(device)
            rows = self._connection.execute("SELECT other, stamp FROM localstore_seen WHERE device = ?", (id_,))
            known = self._stamps[device] = {self._clocks.device_of(other): seen for other, seen in rows}
        return known
