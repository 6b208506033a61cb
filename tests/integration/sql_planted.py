"""A log in SQL with a bug planted in it, for the test that the torture catches it."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import sqlalchemy as sa

from localstore.adapter import PushResult
from localstore.wire import SealedChangeset
from localstore_adapters import _sql_log as log
from localstore_adapters import _sql_statements as sql
from localstore_adapters._sql_tables import PARTITION
from localstore_adapters.sql import SqlAdapter

_LATE_SECONDS = 0.01


class Sequential(SqlAdapter):
    """Gives out positions as a sequence does, and stores what belongs there later, with no lock from the one to the other."""

    def _push(self, line: log.Line, batch: Sequence[SealedChangeset]) -> PushResult:
        with self._store.reading() as connection:
            stored, now_ms, _ = log.welcome_of(connection, line)
        fresh = [sealed for sealed in batch if sealed.number > stored]
        if fresh:
            self._store_late(line, fresh, now_ms)
        return PushResult(acknowledged=batch[-1].number)

    def _store_late(self, line: log.Line, fresh: Sequence[SealedChangeset], now_ms: int) -> None:
        byte_count = sum(sealed.byte_count for sealed in fresh)
        following = {"head": PARTITION.c.head + len(fresh), "total": PARTITION.c.total + byte_count}
        with self._store.writing() as connection:
            before = connection.execute(sql.LOCK, {"partition": line.partition}).one()
            connection.execute(sa.update(PARTITION).where(PARTITION.c.id == line.partition).values(following))
        threading.Event().wait(random.random() * _LATE_SECONDS)
        with self._store.writing() as connection:
            head = connection.scalar(sa.select(PARTITION.c.head).where(PARTITION.c.id == line.partition))
            total = connection.scalar(sa.select(PARTITION.c.total).where(PARTITION.c.id == line.partition))
            log._insert_all(connection, line, before, fresh, now_ms, b"planted!")
            values = {"partition": line.partition, "new_head": head, "new_total": total}
            connection.execute(sql.SET_HEAD, values)
