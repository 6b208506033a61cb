"""The first layout: users, what they log in with, their log-ins and tokens, grants, and whose a device is."""

from alembic.operations import Operations

revision = "accounts_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = {
    # provider: by what the user came to be; email: one that was verified, for people and rules, and no key to anything.
    "user": """
        id TEXT PRIMARY KEY,
        email TEXT,
        name TEXT NOT NULL,
        provider TEXT NOT NULL,
        disabled INTEGER NOT NULL,
        created_ms BIGINT NOT NULL""",
    # What a user may log in with. issuer: of a JWT, else empty; subject: an email, or the issuer's name for the user; secret:
    # a password's argon2 hash.
    "identity": """
        provider TEXT NOT NULL,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        user_id TEXT NOT NULL,
        secret TEXT,
        PRIMARY KEY (provider, issuer, subject)""",
    # prefix: the part of the key by which it is found; digest: SHA-256 of the whole key.
    "key": """
        prefix TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        user_id TEXT NOT NULL,
        name TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        revoked_ms BIGINT""",
    # turn, refresh: number and digest of the refresh token that is good; next_refresh, next_access: digests of what it was
    # answered with, as long as nobody has shown any of it; seen_ms: when tokens were given out last.
    "log_in": """
        id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL,
        key_prefix TEXT,
        turn INTEGER NOT NULL,
        refresh TEXT NOT NULL,
        next_refresh TEXT,
        next_access TEXT,
        seen_ms BIGINT NOT NULL""",
    # Access tokens.
    "token": """
        digest TEXT PRIMARY KEY,
        log_in TEXT NOT NULL,
        expires_ms BIGINT NOT NULL""",
    # What a user may do with a partition: 0 none, 1 read, 2 write; user_id is * for everyone without a grant of their own.
    "grant": """
        partition TEXT NOT NULL,
        user_id TEXT NOT NULL,
        access INTEGER NOT NULL,
        PRIMARY KEY (partition, user_id)""",
    # Whose a device is. It stays when the user is removed, so that nobody takes over what the device has written.
    "device": """
        partition TEXT NOT NULL,
        device BLOB NOT NULL,
        user_id TEXT NOT NULL,
        PRIMARY KEY (partition, device)""",
    # One row. number: how often something has changed that others may have looked up.
    "change": """
        id INTEGER PRIMARY KEY CHECK (id = 1),
        number BIGINT NOT NULL""",
}
INDEXES = {"identity": "user_id", "key": "user_id", "log_in": "user_id", "token": "log_in", "grant": "user_id"}


def upgrade(op: Operations) -> None:
    blob = "BYTEA" if op.get_bind().dialect.name == "postgresql" else "BLOB"
    for name, columns in TABLES.items():
        op.execute(f"CREATE TABLE localstore_accounts_{name} ({columns.replace('BLOB', blob)}\n)")
    op.execute("INSERT INTO localstore_accounts_change (id, number) VALUES (1, 0)")
    for name, column in INDEXES.items():
        op.execute(f"CREATE INDEX localstore_accounts_{name}_by_{column} ON localstore_accounts_{name} ({column})")
    op.execute("CREATE INDEX localstore_accounts_token_by_end ON localstore_accounts_token (expires_ms)")
    op.execute("CREATE INDEX localstore_accounts_log_in_by_time ON localstore_accounts_log_in (seen_ms)")


def downgrade(op: Operations) -> None:
    for name in reversed(TABLES):
        op.execute(f"DROP TABLE localstore_accounts_{name}")
