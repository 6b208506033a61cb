"""Folders in folders, documents in them and remarks on these: what a device deletes, another one puts something into.

So in every state of every device no row refers to one that is not there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Reference, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Document", "Folder", "Remark", "Trees"]


class _Base(SQLModel, registry=registry()):
    """Tables of this workload."""


class Folder(_Base, table=True):
    """A folder, which goes with the one that it is in."""

    id: str = Field(primary_key=True)
    parent: str | None = Field(default=None, foreign_key="folder.id", ondelete="CASCADE")


class Document(_Base, table=True):
    """A document, which stays when its folder goes."""

    id: str = Field(primary_key=True)
    folder: str | None = Field(default=None, foreign_key="folder.id", ondelete="SET NULL")
    title: str


class Remark(_Base, table=True):
    """A remark on a document, which goes with it, and may answer another one, without which it does not go."""

    id: str = Field(primary_key=True)
    document: str = Field(foreign_key="document.id", ondelete="CASCADE")
    answers: str | None = Field(default=None, foreign_key="remark.id", ondelete="SET NULL")


class Trees(Work):
    """The workload."""

    models = (Folder, Document, Remark)
    tables = (
        Table("folder", ("id",), (Column("parent", ()),), (Reference(("parent",), "folder", ("id",), "CASCADE"),)),
        Table(
            "document",
            ("id",),
            (Column("folder", ()), Column("title", (), nullable=False)),
            (Reference(("folder",), "folder", ("id",), "SET NULL"),),
        ),
        Table(
            "remark",
            ("id",),
            (Column("document", (), nullable=False), Column("answers", ())),
            (
                Reference(("document",), "document", ("id",), "CASCADE"),
                Reference(("answers",), "remark", ("id",), "SET NULL"),
            ),
        ),
    )

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        folders = list(session.execute(sa.text("SELECT id FROM folder ORDER BY id")).scalars())
        documents = list(session.execute(sa.text("SELECT id FROM document ORDER BY id")).scalars())
        new = {"id": f"{writer}-{number}", "into": chance.choice([*folders, None]), "title": f"by {writer}"}
        action = chance.choice(("folder", "folder", "document", "document", "move", "nest", "remark", "remove", "delete"))
        if action == "folder" or not folders:
            session.execute(sa.text("INSERT INTO folder (id, parent) VALUES (:id, :into)"), new)
            return [Change("insert", "folder", (new["id"],))]
        if action == "document" or not documents:
            session.execute(sa.text("INSERT INTO document (id, folder, title) VALUES (:id, :into, :title)"), new)
            return [Change("insert", "document", (new["id"],))]
        if action == "remark":
            remarks = list(session.execute(sa.text("SELECT id FROM remark ORDER BY id")).scalars())
            made = {"id": new["id"], "on": chance.choice(documents), "to": chance.choice([*remarks, None])}
            session.execute(sa.text("INSERT INTO remark (id, document, answers) VALUES (:id, :on, :to)"), made)
            return [Change("insert", "remark", (made["id"],))]
        if action == "nest":  # two devices can make a circle of this
            nested = {**new, "id": chance.choice(folders)}
            session.execute(sa.text("UPDATE folder SET parent = :into WHERE id = :id"), nested)
            return [Change("update", "folder", (nested["id"],))]
        if action == "move":
            moved = {**new, "id": chance.choice(documents)}
            session.execute(sa.text("UPDATE document SET folder = :into WHERE id = :id"), moved)
            return [Change("update", "document", (moved["id"],))]
        table, known = ("folder", folders) if action == "remove" else ("document", documents)
        key = chance.choice(known)
        session.execute(sa.text(f"DELETE FROM {table} WHERE id = :id"), {"id": key})
        return [Change("delete", table, (key,))]

    def wrongs(self, session: Session) -> list[str]:
        return [f"refers to nothing: {tuple(row)}" for row in session.execute(sa.text("PRAGMA foreign_key_check"))]
