"""Notes whose class is another one after an upgrade of the application: a new column, and a new table.

Devices are upgraded at different times, so what one writes another may not know yet.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Notes"]

_KEYS = 5


class _Before(SQLModel, registry=registry()):
    """Tables of this workload before the upgrade."""


class _After(SQLModel, registry=registry()):
    """Tables of this workload after the upgrade."""


class Note(_Before, table=True):
    """A note."""

    id: str = Field(primary_key=True)
    text: str | None = None


class ColouredNote(_After, table=True):
    """A note that may have a colour."""

    __tablename__ = "note"  # pyright: ignore[reportAssignmentType]

    id: str = Field(primary_key=True)
    text: str | None = None
    colour: str | None = None


class Label(_After, table=True):
    """A word for notes."""

    id: str = Field(primary_key=True)
    word: str | None = None


class Notes(Work):
    """The workload."""

    models = (Note,)
    later_models = (ColouredNote, Label)
    tables = (
        Table("note", ("id",), (Column("text", ()), Column("colour", ())), ()),
        Table("label", ("id",), (Column("word", ()),), ()),
    )

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        columns = set(session.execute(sa.text("SELECT name FROM pragma_table_info('note')")).scalars())
        is_new = "colour" in columns
        table = chance.choice(("note", "label")) if is_new else "note"
        names = {"label": ["word"], "note": ["text", "colour"] if is_new else ["text"]}[table]
        there = set(session.execute(sa.text(f"SELECT id FROM {table}")).scalars())
        key = f"{table} {chance.randrange(_KEYS)}"
        names = sorted(chance.sample(names, chance.randrange(1, len(names) + 1)))
        values = {name: f"{name} by {writer}-{number}" for name in names}
        if key not in there:
            sql = f"INSERT INTO {table} (id, {', '.join(names)}) VALUES (:id, {', '.join(f':{name}' for name in names)})"
            session.execute(sa.text(sql), {"id": key, **values})
            return [Change("insert", table, (key,))]
        if chance.random() < 0.2:
            session.execute(sa.text(f"DELETE FROM {table} WHERE id = :id"), {"id": key})
            return [Change("delete", table, (key,))]
        changes = ", ".join(f"{name} = :{name}" for name in names)
        session.execute(sa.text(f"UPDATE {table} SET {changes} WHERE id = :id"), {"id": key, **values})
        return [Change("update", table, (key,))]

    def wrongs(self, session: Session) -> list[str]:
        return []
