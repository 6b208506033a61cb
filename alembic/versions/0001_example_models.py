"""The example models: the to-do list and the field survey.

Revision 0001, the first.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("assignee", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("progress_minutes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "penguin",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("species", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("island", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("individual", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("date_egg", sa.Date(), nullable=False),
        sa.Column("clutch_complete", sa.Boolean(), nullable=False),
        sa.Column("bill_length_mm", sa.Float(), nullable=True),
        sa.Column("bill_depth_mm", sa.Float(), nullable=True),
        sa.Column("flipper_length_mm", sa.Integer(), nullable=True),
        sa.Column("body_mass_g", sa.Integer(), nullable=True),
        sa.Column("sex", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("delta_15_n", sa.Float(), nullable=True),
        sa.Column("delta_13_c", sa.Float(), nullable=True),
        sa.Column("comments", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "station",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("island", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("leader", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("weather", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("nests_counted", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "note",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("text", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    for table in ("note", "station", "penguin", "task"):
        op.drop_table(table)
