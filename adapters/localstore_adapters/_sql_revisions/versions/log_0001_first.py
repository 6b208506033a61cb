"""The first layout: a partition's changesets in order, what is known of its devices, and its snapshots."""

from alembic.operations import Operations

revision = "log_0001"
down_revision = None
branch_labels = None
depends_on = None

# {id} and {blob} differ; keys without rowid keep SQLite's changesets in order. What is in blobs is compressed already.
TABLES = {
    "remote": "id INTEGER PRIMARY KEY CHECK (id = 1), app TEXT NOT NULL, remote_id TEXT NOT NULL, made_ms BIGINT NOT NULL",
    "partition": """
        id {id},
        name TEXT NOT NULL UNIQUE,
        head BIGINT NOT NULL DEFAULT 0,
        total BIGINT NOT NULL DEFAULT 0,
        trimmed BIGINT NOT NULL DEFAULT 0,
        trimmed_mark {blob} NOT NULL,
        trimmed_total BIGINT NOT NULL DEFAULT 0""",
    "device": """
        partition BIGINT NOT NULL,
        device {blob} NOT NULL,
        number BIGINT NOT NULL,
        PRIMARY KEY (partition, device)""",
    "changeset": """
        partition BIGINT NOT NULL,
        position BIGINT NOT NULL,
        total BIGINT NOT NULL,
        mark {blob} NOT NULL,
        device {blob} NOT NULL,
        number BIGINT NOT NULL,
        digest {blob} NOT NULL,
        stored_ms BIGINT NOT NULL,
        sealed {blob} NOT NULL,
        PRIMARY KEY (partition, position),
        UNIQUE (partition, device, number)""",
    "snapshot": """
        name TEXT NOT NULL PRIMARY KEY,
        partition BIGINT NOT NULL,
        serial BIGINT,
        position BIGINT,
        mark {blob},
        byte_count BIGINT,
        chunks BIGINT,
        begun_ms BIGINT NOT NULL,
        UNIQUE (partition, serial)""",
    "chunk": """
        snapshot TEXT NOT NULL,
        number BIGINT NOT NULL,
        content {blob} NOT NULL,
        PRIMARY KEY (snapshot, number)""",
}
WITHOUT_ROWID = {"device", "changeset"}
WORDS = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "blob": "BLOB"},
    "postgresql": {"id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "blob": "BYTEA"},
}


def upgrade(op: Operations) -> None:
    dialect = op.get_bind().dialect.name
    for name, columns in TABLES.items():
        ending = " WITHOUT ROWID" if dialect == "sqlite" and name in WITHOUT_ROWID else ""
        op.execute(f"CREATE TABLE localstore_log_{name} ({columns.format(**WORDS[dialect])}){ending}")
    if dialect == "postgresql":
        op.execute("ALTER TABLE localstore_log_changeset ALTER COLUMN sealed SET STORAGE EXTERNAL")
        op.execute("ALTER TABLE localstore_log_chunk ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade(op: Operations) -> None:
    raise NotImplementedError("A log is not taken back to nothing. Drop its tables by hand if that is meant.")
