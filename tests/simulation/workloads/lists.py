"""Lists to which everybody appends: every line is new, and tells which lines of others its writer had before its eyes.

So in every state of every device a writer's lines are there without a gap up to the last one that is there, and with each
line all those that its writer had seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Line", "Lists"]


class _Base(SQLModel, registry=registry()):
    """Tables of this workload."""


class Line(_Base, table=True):
    """One line of a writer's."""

    writer: str = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    seen: str
    """JSON: the last line of each other writer."""


class Lists(Work):
    """The workload."""

    needs_all = True
    models = (Line,)
    tables = (Table("line", ("writer", "number"), (Column("seen", ()),), ()),)

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        last = _last(session)
        first, found = last.pop(writer, 0) + 1, []
        for following in range(first, first + chance.choice((1, 1, 1, 2, 5))):
            session.add(Line(writer=writer, number=following, seen=json.dumps(last, sort_keys=True)))
            found.append(Change("insert", "line", (writer, following)))
        return found

    def wrongs(self, session: Session) -> list[str]:
        last = _last(session)
        counted = session.execute(sa.text("SELECT writer, count(*) FROM line GROUP BY writer ORDER BY writer"))
        counts: dict[str, int] = dict(counted.all())
        found = [
            f"of {last[writer]} lines of {writer} there are {count}"
            for writer, count in counts.items()
            if count != last[writer]
        ]
        seen = session.execute(
            sa.text(
                "SELECT writer, number, seen FROM line"
                " WHERE (writer, number) IN (SELECT writer, max(number) FROM line GROUP BY writer)"
            )
        )
        for writer, number, text in seen:
            for other, needed in json.loads(text).items():
                if last.get(other, 0) < needed:
                    found.append(f"line {number} of {writer} is there without line {needed} of {other}, which it had seen")
        return found


def _last(session: Session) -> dict[str, int]:
    """The last line of each writer."""
    rows = session.execute(sa.text("SELECT writer, max(number) FROM line GROUP BY writer ORDER BY writer"))
    return dict(rows.all())
