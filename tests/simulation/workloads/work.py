"""What a workload is: tables, writes, and what has to hold in every state that anybody sees."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from sqlmodel import Session, SQLModel

from localstore.changes import Key
from tests.merging.schemas import Table

__all__ = ["Change", "Work"]


class Change(NamedTuple):
    """What a write did to one row: ``insert``, ``update`` or ``delete``."""

    action: str
    table: str
    key: Key


class Work(ABC):
    """A workload.

    Attributes:
        models: its classes.
        later_models: the same after an upgrade of the application; None when they stay as they are.
        tables: the latest of them, as the oracle knows them.
        needs_all: whether what must hold does so only as long as no remote loses what it had.
    """

    models: ClassVar[tuple[type[SQLModel], ...]]
    later_models: ClassVar[tuple[type[SQLModel], ...] | None] = None
    tables: ClassVar[tuple[Table, ...]]
    needs_all: ClassVar[bool] = False

    @abstractmethod
    def write(self, session: Session, chance: random.Random, writer: str, number: int) -> Iterable[Change]:
        """Write something in one transaction.

        Args:
            session: the transaction.
            chance: what decides.
            writer: a name that no other history has.
            number: of this write, among those of the writer.
        """

    @abstractmethod
    def wrongs(self, session: Session) -> list[str]:
        """What must not be so in a state that somebody sees."""
