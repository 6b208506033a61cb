"""Wide rows: sheets of many columns, of which a write changes a few, or all.

What is to be seen in the end is what the oracle of ``tests.merging`` makes of all changesets.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Session, SQLModel

from tests.merging.schemas import Column, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Sheets"]

_WIDTH = 70  # more than one 64-bit set of columns
_COLUMNS = tuple(f"c{place}" for place in range(_WIDTH))
_KEYS = 3


class _Tables(SQLModel, registry=registry()):
    """Tables of this workload."""


class Sheet(_Tables, table=True):
    """A wide row."""

    __table__ = sa.Table(
        "sheet",
        _Tables.metadata,
        sa.Column("id", sa.String, primary_key=True),
        *(sa.Column(name, sa.Integer) for name in _COLUMNS),
    )


class Sheets(Work):
    """The workload."""

    models = (Sheet,)
    tables = (Table("sheet", ("id",), tuple(Column(name, ()) for name in _COLUMNS), ()),)

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        there = set(session.execute(sa.text("SELECT id FROM sheet")).scalars())
        key = f"sheet {chance.randrange(_KEYS)}"
        count = chance.choice((1, 2, 5, _WIDTH))
        values = {name: chance.randrange(1000) for name in sorted(chance.sample(_COLUMNS, count))}
        if key not in there:
            names, marks = ", ".join(["id", *values]), ", ".join(f":{name}" for name in ["id", *values])
            session.execute(sa.text(f"INSERT INTO sheet ({names}) VALUES ({marks})"), {"id": key, **values})
            return [Change("insert", "sheet", (key,))]
        if chance.random() < 0.1:
            session.execute(sa.text("DELETE FROM sheet WHERE id = :id"), {"id": key})
            return [Change("delete", "sheet", (key,))]
        changes = ", ".join(f"{name} = :{name}" for name in values)
        session.execute(sa.text(f"UPDATE sheet SET {changes} WHERE id = :id"), {"id": key, **values})
        return [Change("update", "sheet", (key,))]

    def wrongs(self, session: Session) -> list[str]:
        return []
