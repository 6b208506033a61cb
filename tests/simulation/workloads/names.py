"""Names that nobody may have twice: two devices take the same one before they hear of each other, and one row is set aside."""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Table, Unique
from tests.simulation.workloads.work import Change, Work

__all__ = ["Named", "Names"]

_NAMES = [f"name {n}" for n in range(8)]


class _Base(SQLModel, registry=registry()):
    """Tables of this workload."""


class Named(_Base, table=True):
    """Who has a name."""

    id: str = Field(primary_key=True)
    name: str | None = Field(default=None, unique=True)


class Names(Work):
    """The workload."""

    models = (Named,)
    tables = (Table("named", ("id",), (Column("name", ()),), (), (Unique(("name",)),)),)

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        rows = session.execute(sa.text("SELECT id, name FROM named ORDER BY id"))
        there: dict[str, str | None] = dict(rows.all())
        free = [name for name in _NAMES if name not in there.values()]
        action = chance.choice(("insert", "insert", "update", "delete")) if there else "insert"
        key = f"{writer}-{number}" if action == "insert" else chance.choice(list(there))
        values = {"id": key, "name": chance.choice([*free, None])}
        if action == "insert":
            session.execute(sa.text("INSERT INTO named (id, name) VALUES (:id, :name)"), values)
        elif action == "update":
            session.execute(sa.text("UPDATE named SET name = :name WHERE id = :id"), values)
        else:
            session.execute(sa.text("DELETE FROM named WHERE id = :id"), {"id": key})
        return [Change(action, "named", (key,))]

    def wrongs(self, session: Session) -> list[str]:
        found = session.execute(sa.text("SELECT name FROM named WHERE name IS NOT NULL GROUP BY name HAVING count(*) > 1"))
        return [f"several have {name}" for (name,) in found]
