"""Transfers between accounts: two entries of opposite amounts, always written together.

So in every state that anybody ever sees, each transfer has both of its entries or none, and all entries together come to
nothing: else somebody saw half a transaction.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from tests.merging.schemas import Column, Table
from tests.simulation.workloads.work import Change, Work

__all__ = ["Entry", "Transfers"]

_ACCOUNTS = 6


class _Base(SQLModel, registry=registry()):
    """Tables of this workload."""


class Entry(_Base, table=True):
    """Half of a transfer."""

    transfer: str = Field(primary_key=True)
    side: str = Field(primary_key=True)
    account: str
    amount: int


class Transfers(Work):
    """The workload."""

    models = (Entry,)
    tables = (Table("entry", ("transfer", "side"), (Column("account", ()), Column("amount", ())), ()),)

    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        known = sorted(session.execute(sa.text("SELECT DISTINCT transfer FROM entry")).scalars())
        action = chance.choice(("insert", "insert", "insert", "update", "delete")) if known else "insert"
        amount = chance.randrange(1, 1000)
        if action == "insert":
            name = f"{writer}-{number}"
            accounts = [f"account {chance.randrange(_ACCOUNTS)}" for _ in "+-"]
            session.add(Entry(transfer=name, side="+", account=accounts[0], amount=amount))
            session.add(Entry(transfer=name, side="-", account=accounts[1], amount=-amount))
        elif action == "update":
            name = chance.choice(known)
            session.execute(
                sa.text("UPDATE entry SET amount = CASE side WHEN '+' THEN :amount ELSE -:amount END WHERE transfer = :name"),
                {"amount": amount, "name": name},
            )
        else:
            name = chance.choice(known)
            session.execute(sa.text("DELETE FROM entry WHERE transfer = :name"), {"name": name})
        return [Change(action, "entry", (name, side)) for side in "+-"]

    def wrongs(self, session: Session) -> list[str]:
        halves = session.execute(
            sa.text("SELECT transfer, count(*), sum(amount) FROM entry GROUP BY 1 HAVING count(*) <> 2 OR sum(amount) <> 0")
        ).all()
        return [f"half a transfer is to be seen: {tuple(half)}" for half in halves]
