"""The tables of a log in an SQL database, as they are now. How they came to be is told by ``_sql_revisions``.

Positions of a partition are dense: the n-th changeset that was stored has position n. A mark is chance, one for each batch:
after going back to a backup the same position has another one. ``total`` counts bytes from the beginning of the partition.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["CHANGESET", "CHUNK", "DEVICE", "LOG_TABLES", "PARTITION", "REMOTE", "SNAPSHOT"]

_TABLES = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

REMOTE = sa.Table(
    "localstore_log_remote",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True),  # 1
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("remote_id", sa.Text, nullable=False),
    sa.Column("made_ms", sa.BigInteger, nullable=False),
)
PARTITION = sa.Table(
    "localstore_log_partition",
    _TABLES,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("head", sa.BigInteger, nullable=False),  # the last position; whoever appends holds this row's lock
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("trimmed", sa.BigInteger, nullable=False),  # up to here changesets were let go of; mark and total of that one
    sa.Column("trimmed_mark", sa.LargeBinary, nullable=False),
    sa.Column("trimmed_total", sa.BigInteger, nullable=False),
)
DEVICE = sa.Table(
    "localstore_log_device",
    _TABLES,
    sa.Column("partition", sa.BigInteger, primary_key=True),
    sa.Column("device", sa.LargeBinary, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),  # the highest that was stored, let go of or not
)
CHANGESET = sa.Table(
    "localstore_log_changeset",
    _TABLES,
    sa.Column("partition", sa.BigInteger, primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),  # with this one
    sa.Column("mark", sa.LargeBinary, nullable=False),
    sa.Column("device", sa.LargeBinary, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("stored_ms", sa.BigInteger, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
SNAPSHOT = sa.Table(
    "localstore_log_snapshot",
    _TABLES,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("partition", sa.BigInteger, nullable=False),
    sa.Column("serial", sa.BigInteger),  # the order in which they became whole; NULL while it is being written
    sa.Column("position", sa.BigInteger),
    sa.Column("mark", sa.LargeBinary),
    sa.Column("byte_count", sa.BigInteger),
    sa.Column("chunks", sa.BigInteger),
    sa.Column("begun_ms", sa.BigInteger, nullable=False),
)
CHUNK = sa.Table(
    "localstore_log_chunk",
    _TABLES,
    sa.Column("snapshot", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
LOG_TABLES = (REMOTE, PARTITION, DEVICE, CHANGESET, SNAPSHOT, CHUNK)
