"""A few rows that everybody creates, changes, deletes and creates again, some of them wide.

What is to be seen in the end is what the oracle of ``tests.merging`` makes of all changesets.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Churn", "Thing"]

_KEYS = 6
_COLUMNS = ("a", "b", "c")


class _Base(SQLModel, registry=registry()):
    """Tables of this workload."""


class Thing(_Base, table=True):
    """A row that comes and goes."""

    id: str = Field(primary_key=True)
    a: str | None = None
    b: int | None = None
    c: bytes | None = None


class Churn(Work):
    """The workload."""

    models = (Thing,)
    tables = (Table("thing", ("id",), tuple(Column(name, ()) for name in _COLUMNS), ()),)

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        there = set(session.execute(sa.text("SELECT id FROM thing")).scalars())
        found = []
        for key in chance.sample([f"thing {n}" for n in range(_KEYS)], chance.randrange(1, 3)):
            values = {
                "a": f"{writer}-{number}" + "x" * chance.choice((0, 0, 0, 2000)),
                "b": chance.randrange(1000),
                "c": chance.randbytes(3),
            }
            if key not in there:
                session.execute(sa.text("INSERT INTO thing (id, a, b, c) VALUES (:id, :a, :b, :c)"), {"id": key, **values})
                found.append(Change("insert", "thing", (key,)))
                continue
            action = chance.choice(("update", "update", "update", "delete", "replace"))
            if action == "update":
                columns = chance.sample(_COLUMNS, chance.randrange(1, 4))
                changes = ", ".join(f"{name} = :{name}" for name in sorted(columns))
                session.execute(sa.text(f"UPDATE thing SET {changes} WHERE id = :id"), {"id": key, **values})
            else:
                session.execute(sa.text("DELETE FROM thing WHERE id = :id"), {"id": key})
                if action == "replace":
                    session.execute(sa.text("INSERT INTO thing (id, a) VALUES (:id, :a)"), {"id": key, "a": values["a"]})
            found.append(Change(action, "thing", (key,)))
        return found

    def wrongs(self, session: Session) -> list[str]:
        return []
