"""Rules of columns: declared by name, known to one registry, and asked by merging instead of which write is later."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore.changes import Change, Op, Value
from localstore.clock import Version
from localstore.errors import SchemaError
from localstore.schema import tables_of
from localstore.store.column_rules import LAST_WRITE_WINS, MERGE, column_rules, register
from localstore.store.merge import RowState, merge
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, check_equal, close_devices, exchange, open_store, query

GREATEST = "the greatest, as a test has it"
KEY = ("k",)


def greatest(standing: Value, offered: Value, *, is_later: bool) -> Value:
    """A rule as simple as can be, which has nothing to do with what is later."""
    assert isinstance(standing, int)
    assert isinstance(offered, int)
    return max(standing, offered)


register(GREATEST, greatest)


class Own(SQLModel, registry=registry()):
    """Keeps the classes here out of the metadata that other tests share."""


class Score(Own, table=True):
    __tablename__ = "note"
    id: str = Field(primary_key=True)
    title: str | None = None
    best: int = Field(default=0, sa_column_kwargs={"info": {MERGE: GREATEST}, "server_default": "0"})


class Misspelt(Own, table=True):
    id: str = Field(primary_key=True)
    best: int = Field(sa_column_kwargs={"info": {MERGE: "the gratest"}})


class Keyed(Own, table=True):
    id: str = Field(primary_key=True, sa_column_kwargs={"info": {MERGE: GREATEST}})


SCORE = tables_of({Score})
PLAIN = [sa.Table("note", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String))]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def row_after(*changes: tuple[int, Op, int]) -> tuple[Value, RowState]:
    """A column and the row's clock after changes with these stamps, each by a device that had seen the insert alone."""
    state, value = RowState(), None
    for stamp, op, best in changes:
        change = Change(op, KEY, {} if op is Op.DELETE else {"best": best})
        standing = value
        merged = merge(
            state,
            change,
            (stamp, b"d"),
            lambda version: version[0] < 10,
            lambda _, standing=standing: standing,
            {"best": 0},
            {"best": greatest},
        )
        assert not merged.lost or op is not Op.UPDATE
        value = merged.writes.get("best", value)
    return value, state


def test_a_rule_makes_one_value_of_two_in_any_order() -> None:
    updates = [(11, Op.UPDATE, 7), (12, Op.UPDATE, 3), (13, Op.UPDATE, 5)]
    results = [row_after((1, Op.INSERT, 1), *order) for order in itertools.permutations(updates)]
    assert {value for value, _ in results} == {7}
    assert all(state == results[0][1] for _, state in results)
    assert results[0][1].mark("best").version == (13, b"d")


def test_a_rule_is_told_what_stands_there_and_whether_what_comes_is_later() -> None:
    told: list[tuple[Value, Value, bool]] = []

    def rule(standing: Value, offered: Value, *, is_later: bool) -> Value:
        told.append((standing, offered, is_later))
        return standing

    state = RowState(lives=((1, b"d"),))
    for stamp, value in ((5, "first"), (4, "earlier"), (5, "again"), (6, "later")):
        change = Change(Op.UPDATE, KEY, {"best": value})
        merge(state, change, (stamp, b"d"), lambda _: True, lambda column: f"{column} now", {"best": 0}, {"best": rule})
    now = "best now"
    assert told == [(now, "first", True), (now, "earlier", False), (now, "again", False), (now, "later", True)]
    assert state.mark("best").version == (6, b"d")


def test_a_rule_makes_one_value_of_those_of_an_older_life_too() -> None:
    """The newer life, which their writer had not seen, has its own value, which comes forward when the older life ends."""
    older, newer = (1, b"x"), (5, b"y")
    state, values = RowState(), {"best": None}

    def take(op: Op, version: Version, best: int | None = None) -> None:
        change = Change(op, KEY, {} if best is None else {"best": best})
        merged = merge(state, change, version, {older}.__contains__, values.__getitem__, {"best": 0}, {"best": greatest})
        values.update(merged.writes)

    take(Op.INSERT, older, 1)
    take(Op.INSERT, newer, 2)
    take(Op.UPDATE, (7, b"x"), 9)
    take(Op.UPDATE, (8, b"x"), 3)
    assert values == {"best": 9}
    take(Op.DELETE, (3, b"z"))
    assert values == {"best": 2}


def test_a_row_that_is_inserted_again_has_nothing_of_the_old_one() -> None:
    value, _ = row_after((1, Op.INSERT, 9), (2, Op.DELETE, 0), (3, Op.INSERT, 1), (11, Op.UPDATE, 2))
    assert value == 2


@pytest.mark.parametrize("count", [1, 40])
def test_devices_merge_a_column_by_its_rule(tmp_path: Path, count: int) -> None:
    devices = [Device(tmp_path, name, SCORE, clock=ManualClock()) for name in "xy"]
    x, y = devices
    x.write(*(f"INSERT INTO note VALUES ('{number}', 't', 1)" for number in range(count)))
    exchange(x, y)
    y.clock.advance(10)
    x.write("UPDATE note SET best = 7")
    y.write("UPDATE note SET best = 5, title = 'later'")
    exchange(x, y)
    check_equal(x, y)
    assert query(x.path, "SELECT DISTINCT title, best FROM note") == [("later", 7)]
    assert query(x.path, "SELECT * FROM localstore_conflict") == query(y.path, "SELECT * FROM localstore_conflict") == []


def test_a_column_that_comes_later_is_filled_in_by_its_rule(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, SCORE, clock=ManualClock()) for name in "xy")
    narrow = Device(tmp_path, "n", PLAIN)
    x.write("INSERT INTO note VALUES ('a', 't', 1)")
    exchange(x, y)
    y.clock.advance(10)
    x.write("UPDATE note SET best = 7")
    y.write("UPDATE note SET best = 5")
    narrow.receive(*x.sealed(), *y.sealed())
    narrow.reopen(SCORE)
    assert narrow.row("a") == {"title": "t", "best": 7}


def test_without_a_rule_the_last_write_wins() -> None:
    assert column_rules(PLAIN) == {}
    column = sa.Column("best", sa.Integer, info={MERGE: LAST_WRITE_WINS})
    assert column_rules([sa.Table("t", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), column)]) == {}
    assert column_rules(SCORE) == {"note": {"best": greatest}}


def test_a_rule_that_nobody_knows_is_refused_at_open(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"Misspelt has the column best, which merges by 'the gratest'") as caught:
        open_store(tmp_path / "store.db", tables_of({Misspelt}))
    assert caught.value.hint is not None
    assert LAST_WRITE_WINS in caught.value.hint
    assert f", {GREATEST}" in caught.value.hint
    assert not (tmp_path / "store.db").exists()


def test_a_key_cannot_have_a_rule(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"Keyed has the column id, which .* keys do not merge") as caught:
        open_store(tmp_path / "store.db", tables_of({Keyed}))
    assert caught.value.hint == "Take the rule away."


def test_a_rule_that_nobody_knows_is_refused_in_a_table_without_a_class() -> None:
    table = sa.Table("plain", sa.MetaData(), sa.Column("best", sa.Integer, info={MERGE: "unheard of"}))
    with pytest.raises(SchemaError, match="The table plain has the column best, which merges by 'unheard of'"):
        column_rules([table])


def test_a_rule_is_known_by_its_name_from_then_on(tmp_path: Path) -> None:
    name = f"a rule of {tmp_path}"  # nobody made it known before, in this process neither
    table = sa.Table("plain", sa.MetaData(), sa.Column("best", sa.Integer, info={MERGE: name}))
    register(name, greatest)
    assert column_rules([table]) == {"plain": {"best": greatest}}


def test_a_rule_has_its_name_for_itself() -> None:
    register(GREATEST, greatest)
    with pytest.raises(ValueError, match="There is a rule"):
        register(GREATEST, lambda standing, offered, *, is_later: offered)
