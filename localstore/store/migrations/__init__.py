"""Packaged Alembic revisions of the system tables, with a version table of their own."""
