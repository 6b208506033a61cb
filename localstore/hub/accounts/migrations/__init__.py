"""Packaged Alembic revisions of the accounts' tables, with a version table of their own."""
