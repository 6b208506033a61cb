"""The statements that a log in SQL is read and written with at every call, made once: making one costs more than running it.

Parameters are named as the columns are. This module says what is asked, not what it means.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from localstore_adapters._sql_tables import CHANGESET, DEVICE, PARTITION, REMOTE, SNAPSHOT

__all__ = [
    "APPEND_AT_ONCE",
    "CLOCK_FUNCTION",
    "DEVICE_STATE",
    "INSERT_CHANGESETS",
    "LOCK",
    "LOOK",
    "NOW",
    "OTHERS",
    "PAGE",
    "SET_DEVICE",
    "SET_HEAD",
    "STORED",
    "insert",
]

CLOCK_FUNCTION = "localstore_now_ms"
"""The function that every SQLite connection has."""


class _Now(FunctionElement[int]):
    """The clock of the log, in milliseconds: the server's where there is one, as devices' clocks differ."""

    inherit_cache = True
    type = sa.BigInteger()


_POSTGRES_NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(_Now, "postgresql")
def _now_of_postgres(*_: Any, **__: Any) -> str:
    return _POSTGRES_NOW


@compiles(_Now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return f"{CLOCK_FUNCTION}()"


NOW = _Now()

_PARTITION = sa.bindparam("partition", type_=sa.BigInteger)
_DEVICE = sa.bindparam("device", type_=sa.LargeBinary)
_POSITION = sa.bindparam("position", type_=sa.BigInteger)
_AT, _LOG = CHANGESET.alias("at"), CHANGESET.alias("log")

# The history's one row, its partition's, and that of the place where a reader stands.
_STATE = (
    REMOTE.c.remote_id,
    PARTITION.c.head,
    PARTITION.c.total,
    PARTITION.c.trimmed,
    PARTITION.c.trimmed_mark,
    PARTITION.c.trimmed_total,
    _AT.c.mark.label("at_mark"),
    _AT.c.total.label("at_total"),
)
_STANDING = REMOTE.outerjoin(PARTITION, PARTITION.c.id == _PARTITION).outerjoin(
    _AT, sa.and_(_AT.c.partition == PARTITION.c.id, _AT.c.position == _POSITION)
)
LOOK = sa.select(*_STATE).select_from(_STANDING)

_BEFORE = sa.func.coalesce(_AT.c.total, PARTITION.c.trimmed_total)
_IN_PAGE = sa.and_(
    _LOG.c.partition == PARTITION.c.id,
    _LOG.c.position > _POSITION,
    _LOG.c.position <= _POSITION + sa.bindparam("max_count", type_=sa.BigInteger),
    sa.or_(
        _LOG.c.total
        <= sa.func.coalesce(_AT.c.total, PARTITION.c.trimmed_total) + sa.bindparam("max_bytes", type_=sa.BigInteger),
        _LOG.c.position == _POSITION + 1,
    ),
)
_OWN = sa.and_(_LOG.c.device == _DEVICE, _LOG.c.number <= sa.bindparam("known", type_=sa.BigInteger))
_SEALED = sa.case((_OWN, sa.null()), else_=_LOG.c.sealed).label("sealed")  # what is left out is not read from the disk either
PAGE = (
    sa.select(*_STATE, _LOG.c.position, _LOG.c.mark, _LOG.c.total.label("log_total"), _SEALED)
    .select_from(_STANDING.outerjoin(_LOG, _IN_PAGE))
    .order_by(_LOG.c.position)
)
OTHERS = sa.select(
    sa.exists().where(CHANGESET.c.partition == _PARTITION, CHANGESET.c.position > _POSITION, CHANGESET.c.device != _DEVICE)
)

LOCK = sa.select(REMOTE.c.remote_id, *PARTITION.c).where(PARTITION.c.id == _PARTITION).with_for_update(of=PARTITION)
_NUMBER = sa.select(DEVICE.c.number).where(DEVICE.c.partition == _PARTITION, DEVICE.c.device == _DEVICE).scalar_subquery()
_SNAPSHOTS = sa.exists().where(SNAPSHOT.c.partition == _PARTITION, SNAPSHOT.c.serial.is_not(None))
DEVICE_STATE = sa.select(_NUMBER.label("number"), NOW.label("now_ms"), _SNAPSHOTS.label("snapshots"))
STORED = sa.select(CHANGESET.c.number, CHANGESET.c.digest).where(
    CHANGESET.c.partition == _PARTITION,
    CHANGESET.c.device == _DEVICE,
    CHANGESET.c.number.between(sa.bindparam("first", type_=sa.BigInteger), sa.bindparam("last", type_=sa.BigInteger)),
)
INSERT_CHANGESETS = sa.insert(CHANGESET)
SET_HEAD = (
    sa.update(PARTITION)
    .where(PARTITION.c.id == _PARTITION)
    .values(head=sa.bindparam("new_head", type_=sa.BigInteger), total=sa.bindparam("new_total", type_=sa.BigInteger))
)


def insert(dialect: str, table: sa.Table) -> Any:
    """An insert that can say what to do on a conflict; both dialects say it alike."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def _set_device(dialect: str) -> Any:
    values = insert(dialect, DEVICE).values(partition=_PARTITION, device=_DEVICE, number=sa.bindparam("number"))
    return values.on_conflict_do_update(
        index_elements=[DEVICE.c.partition, DEVICE.c.device], set_={"number": values.excluded.number}
    )


SET_DEVICE = {dialect: _set_device(dialect) for dialect in ("sqlite", "postgresql")}

APPEND_AT_ONCE = sa.text(f"""
    WITH place AS MATERIALIZED (
        SELECT p.id FROM localstore_log_partition p, localstore_log_remote r
        WHERE p.id = :partition AND r.remote_id = :remote_id AND (
            :first = 1 OR EXISTS (SELECT 1 FROM localstore_log_device d WHERE d.partition = :partition AND d.device = :device)
        )
        FOR UPDATE OF p
    ), sender AS (
        INSERT INTO localstore_log_device AS known (partition, device, number)
        SELECT place.id, :device, :last FROM place
        ON CONFLICT (partition, device) DO UPDATE SET number = excluded.number WHERE known.number = :first - 1
        RETURNING number
    ), line AS (
        UPDATE localstore_log_partition p SET head = p.head + :count, total = p.total + :byte_count
        FROM sender WHERE p.id = :partition
        RETURNING p.head - :count AS head, p.total - :byte_count AS total
    ), stored AS (
        INSERT INTO localstore_log_changeset (partition, position, total, mark, device, number, digest, stored_ms, sealed)
        SELECT :partition, line.head + new.nth, line.total + new.so_far, :mark, :device, :first - 1 + new.nth, new.digest,
            {_POSTGRES_NOW}, new.sealed
        FROM line, unnest(CAST(:so_far AS bigint[]), CAST(:digests AS bytea[]), CAST(:sealed AS bytea[]))
            WITH ORDINALITY AS new (so_far, digest, sealed, nth)
    )
    SELECT head + :count AS head FROM line
""").bindparams(
    sa.bindparam("partition", type_=sa.BigInteger),
    sa.bindparam("device", type_=sa.LargeBinary),
    sa.bindparam("mark", type_=sa.LargeBinary),
    *(sa.bindparam(name, type_=sa.BigInteger) for name in ("first", "last", "count", "byte_count")),
)
"""PostgreSQL: a batch of which nothing is stored yet, in one statement. Each step needs a row of the one before, so that all is
done or nothing: nothing when the numbers do not follow, or the history is another. The partition's row is locked before the
device's, as everywhere, or two pushes of one device could wait for each other."""
