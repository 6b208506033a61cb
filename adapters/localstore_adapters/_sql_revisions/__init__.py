"""Alembic revisions of the log's tables, run by ``_sql_layout``."""
