"""The first layout: state, tables, capture log, outbox, devices, clocks, and what was set aside."""

from alembic import op

revision = "layout_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = {
    # One row. capturing: 0 when triggers are to be silent, 1 when they log keys, 2 when rowids; last_number, last_stamp: those
    # of the last changeset that left the outbox, or a later stamp that came from elsewhere; folded: own changesets up to
    # this number are in localstore_clock; replay: whether the schema has changed since localstore_unknown was last gone
    # through; unsettled: whether something was written since localstore_repaired was last gone through, 2 when by another
    # program; purged: records of localstore_clock with nothing from this stamp on may be gone; contact_ms: when the remote
    # answered last, by this device's clock; horizon_s: how long it keeps history, as it said then; in_step_ms: when all that
    # the remote had was here and nothing was unsent, by its clock where it has one; unsent_cursor: the cursor before the
    # first page that came while something was unsent, empty for the beginning; NULL when nothing was at the last;
    # reads_again: whether to go back there after the next connect, as in a copy that took what was unsent along.
    "state": """
        id INTEGER PRIMARY KEY CHECK (id = 1),
        capturing INTEGER NOT NULL DEFAULT 1,
        device BLOB NOT NULL,
        app TEXT NOT NULL,
        partition TEXT NOT NULL,
        user TEXT NOT NULL DEFAULT 'local',
        last_number INTEGER NOT NULL DEFAULT 0,
        last_stamp INTEGER NOT NULL DEFAULT 0,
        folded INTEGER NOT NULL DEFAULT 0,
        replay INTEGER NOT NULL DEFAULT 0,
        unsettled INTEGER NOT NULL DEFAULT 0,
        purged INTEGER NOT NULL DEFAULT 0,
        contact_ms INTEGER NOT NULL DEFAULT 0,
        horizon_s REAL,
        in_step_ms INTEGER NOT NULL DEFAULT 0,
        remote_id TEXT,
        cursor BLOB,
        unsent_cursor BLOB,
        reads_again INTEGER NOT NULL DEFAULT 0""",
    # The client reset that is under way, or was not confirmed by the remote yet; one row at most. mode: what it does with
    # unsent changes; version: of the library; step: how far it got; backup: where the file as it was before lies.
    "reset": """
        id INTEGER PRIMARY KEY CHECK (id = 1),
        mode TEXT NOT NULL,
        reason TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        version TEXT NOT NULL,
        step TEXT NOT NULL,
        backup TEXT""",
    # Synced tables. key, columns: JSON lists; rowid: a name of the rowid, where rows can be logged by it; seeded: stamp of our
    # last changeset with rows from before sync; seeds: whether any device brought such rows; generation: how often columns
    # came later; added: JSON, these columns and the number each came with.
    "table": """
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        key TEXT NOT NULL,
        columns TEXT NOT NULL,
        rowid TEXT,
        seeded INTEGER NOT NULL DEFAULT 0,
        seeds INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0,
        added TEXT NOT NULL DEFAULT '{}'""",
    # Links between names that mean the same thing; itself a synced table. tbl: the table of two columns, "" for two tables.
    "renamed": """
        tbl TEXT NOT NULL,
        old TEXT NOT NULL,
        new TEXT NOT NULL,
        PRIMARY KEY (tbl, old, new)""",
    # What triggers wrote since the last seal, about tables with one key column. op: 1 insert, 2 update, 3 delete, 0 a row
    # from before sync; + 4 when k0 is a rowid; + 8 * n when bits speak of the columns from the n-th on (-1: of all). A
    # delete's bits are the row's rowid.
    "log": """
        seq INTEGER PRIMARY KEY,
        tbl INTEGER,
        op INTEGER,
        bits INTEGER,
        k0""",
    # The same about tables with more key columns.
    "log_wide": """
        seq INTEGER PRIMARY KEY,
        tbl INTEGER,
        op INTEGER,
        bits INTEGER,
        k0, k1, k2, k3, k4, k5, k6, k7""",
    # Changesets that the remote has not acknowledged. tables: JSON, rows by table.
    "outbox": """
        number INTEGER PRIMARY KEY,
        stamp INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        tables TEXT NOT NULL,
        sealed BLOB NOT NULL""",
    # Every device heard of, this one too. number, stamp: the last changeset applied; declared: the last number that
    # one of our own changesets named as a dependency.
    "device": """
        id INTEGER PRIMARY KEY,
        device BLOB NOT NULL UNIQUE,
        number INTEGER NOT NULL DEFAULT 0,
        stamp INTEGER NOT NULL DEFAULT 0,
        declared INTEGER NOT NULL DEFAULT 0""",
    # How far one device had seen another's changes at its last changeset applied here.
    "seen": """
        device INTEGER NOT NULL,
        other INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        PRIMARY KEY (device, other)""",
    # A row's clock. born, died: stamps of the latest insert and delete, with the device each; generation: the table's when
    # this was written; detail: MessagePack, columns newer than the birth.
    "clock": """
        tbl INTEGER NOT NULL,
        key NOT NULL,
        born INTEGER,
        born_by INTEGER,
        died INTEGER,
        died_by INTEGER,
        generation INTEGER NOT NULL DEFAULT 0,
        detail BLOB,
        PRIMARY KEY (tbl, key)""",
    # Rows that are not as merging left them, as they cannot be. hidden: 1 when the row is not in its table; merged:
    # MessagePack, the values that merging gave to columns that are not in the table; why: the foreign key whose row is not
    # there, or the constraint; winner: the key of the row in the way, where only one of them can be; told: whether the error
    # handler has heard that the row is hidden.
    "repaired": """
        tbl INTEGER NOT NULL,
        key NOT NULL,
        hidden INTEGER NOT NULL,
        merged BLOB NOT NULL,
        why TEXT NOT NULL,
        winner,
        told INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (tbl, key)""",
    # Changesets of other devices that came before their turn.
    "waiting": """
        device BLOB NOT NULL,
        number INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (device, number)""",
    # Changes of tables and columns that this device's schema does not have yet.
    "unknown": """
        id INTEGER PRIMARY KEY,
        device BLOB NOT NULL,
        number INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        tbl TEXT NOT NULL,
        changes BLOB NOT NULL""",
    # Whole changesets set aside: own ones that the remote refused, and others that could not be applied. undo: 1 as long as
    # the rows of a refused one are to be put back to what the remote has, then 2 until the error handler has heard of it.
    "aside": """
        device BLOB NOT NULL,
        number INTEGER NOT NULL,
        reason TEXT NOT NULL,
        sealed BLOB NOT NULL,
        undo INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (device, number)""",
    # Rows that another program wrote and no changeset can hold; told: whether the error handler heard of it.
    "unsealed": """
        id INTEGER PRIMARY KEY,
        tbl TEXT NOT NULL,
        key BLOB NOT NULL,
        reason TEXT NOT NULL,
        told INTEGER NOT NULL DEFAULT 0""",
    # Local values that lost against another device's.
    "conflict": """
        id INTEGER PRIMARY KEY,
        tbl TEXT NOT NULL,
        key BLOB NOT NULL,
        "column" TEXT NOT NULL,
        lost_value,
        lost_stamp INTEGER NOT NULL,
        lost_device BLOB NOT NULL,
        won_value,
        won_stamp INTEGER NOT NULL,
        won_device BLOB NOT NULL,
        rule TEXT NOT NULL""",
}
LAST = """
    CREATE TRIGGER localstore_last AFTER DELETE ON localstore_outbox BEGIN
        UPDATE localstore_state
            SET last_number = max(last_number, OLD.number), last_stamp = max(last_stamp, OLD.stamp);
    END"""
"""Whoever empties the outbox: no number may come twice. The state is not written at each commit, which costs a page."""
WITHOUT_ROWID = {"renamed", "seen", "clock", "repaired"}  # small rows, always found by their whole key


def upgrade() -> None:
    for name, columns in TABLES.items():
        suffix = " WITHOUT ROWID" if name in WITHOUT_ROWID else ""
        op.execute(f"CREATE TABLE localstore_{name} ({columns}\n){suffix}")
    op.execute(LAST)
    op.execute(
        "INSERT INTO localstore_table (id, name, key, columns)"
        """ VALUES (0, 'localstore_renamed', '["tbl", "old", "new"]', '[]')"""
    )


def downgrade() -> None:
    for name in reversed(TABLES):
        op.execute(f"DROP TABLE localstore_{name}")
