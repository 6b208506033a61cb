"""The accounts' tables as SQLAlchemy Core knows them. They are made by the packaged revisions alone, see ``layout``.

Times are milliseconds since the Unix epoch. Of a token, key or password only a digest is kept.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["EVERYONE", "change", "device", "grant", "identity", "insert_unless_there", "key", "log_in", "token", "user"]

EVERYONE = "*"
"""In place of a user's id in a grant."""

_metadata = sa.MetaData()
_TEXT, _TIME = sa.Text(), sa.BigInteger()


def _table(name: str, *columns: sa.Column[str] | sa.Column[int] | sa.Column[bytes]) -> sa.Table:
    return sa.Table(f"localstore_accounts_{name}", _metadata, *columns)


user = _table(
    "user",
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("email", _TEXT),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("provider", _TEXT, nullable=False),
    sa.Column("disabled", sa.Integer, nullable=False),
    sa.Column("created_ms", _TIME, nullable=False),
)
identity = _table(
    "identity",
    sa.Column("provider", _TEXT, primary_key=True),
    sa.Column("issuer", _TEXT, primary_key=True),
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("user_id", _TEXT, nullable=False),
    sa.Column("secret", _TEXT),
)
key = _table(
    "key",
    sa.Column("prefix", _TEXT, primary_key=True),
    sa.Column("digest", _TEXT, nullable=False),
    sa.Column("user_id", _TEXT, nullable=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("created_ms", _TIME, nullable=False),
    sa.Column("revoked_ms", _TIME),
)
log_in = _table(
    "log_in",
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("user_id", _TEXT, nullable=False),
    sa.Column("key_prefix", _TEXT),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("refresh", _TEXT, nullable=False),
    sa.Column("next_refresh", _TEXT),
    sa.Column("next_access", _TEXT),
    sa.Column("seen_ms", _TIME, nullable=False),
)
token = _table(
    "token",
    sa.Column("digest", _TEXT, primary_key=True),
    sa.Column("log_in", _TEXT, nullable=False),
    sa.Column("expires_ms", _TIME, nullable=False),
)
grant = _table(
    "grant",
    sa.Column("partition", _TEXT, primary_key=True),
    sa.Column("user_id", _TEXT, primary_key=True),
    sa.Column("access", sa.Integer, nullable=False),
)
device = _table(
    "device",
    sa.Column("partition", _TEXT, primary_key=True),
    sa.Column("device", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", _TEXT, nullable=False),
)
change = _table("change", sa.Column("id", sa.Integer, primary_key=True), sa.Column("number", _TIME, nullable=False))


def insert_unless_there(connection: sa.Connection, table: sa.Table, **values: object) -> bool:
    """Insert a row; False when its primary key is taken, also by somebody who inserts it at the same time."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    done = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(done).first() is not None
