"""A log in SQL with a bug planted in it, for the test that the torture catches it."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import sqlalchemy as sa

from localstore.adapter import PushResult
from localstore.wire import SealedChangeset, encode
from localstore_adapters import _sql_log as log
from localstore_adapters import _sql_statements as sql
from localstore_adapters._sql_tables import PARTITION
from localstore_adapters.sql import SqlAdapter

_LATE_SECONDS = 0.01


class Sequential(SqlAdapter):
    """Gives out positions as a sequence does, and stores what belongs there later, with no lock from the one to the other."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await self._in_turn(self._push_late, self._connected(), batch, writes=True)

    def _push_late(self, line: log.Line, batch: Sequence[SealedChangeset]) -> PushResult:
        with self._store.reading() as connection:
            stored, now_ms, _ = log.welcome_of(connection, line)
        fresh = [sealed for sealed in batch if sealed.number > stored]
        if fresh:
            self._append_late(line, fresh, now_ms)
        return PushResult(acknowledged=batch[-1].number)

    def _append_late(self, line: log.Line, fresh: Sequence[SealedChangeset], now_ms: int) -> None:
        byte_count = sum(sealed.byte_count for sealed in fresh)
        following = {"head": PARTITION.c.head + len(fresh), "total": PARTITION.c.total + byte_count}
        with self._store.writing() as connection:
            before = connection.execute(sql.LOCK, {"partition": line.partition}).one()
            connection.execute(sa.update(PARTITION).where(PARTITION.c.id == line.partition).values(following))
        threading.Event().wait(random.random() * _LATE_SECONDS)
        of = {"partition": line.partition, "device": line.device}
        total, rows = before.total, []
        for position, sealed in enumerate(fresh, before.head + 1):
            total += sealed.byte_count
            stored = {"number": sealed.number, "digest": sealed.digest, "stored_ms": now_ms, "sealed": encode(sealed)}
            rows.append({**of, "position": position, "total": total, "mark": b"planted!", **stored})
        with self._store.writing() as connection:
            connection.execute(sql.INSERT_CHANGESETS, rows)
            connection.execute(sql.SET_DEVICE[connection.dialect.name], {**of, "number": fresh[-1].number})
