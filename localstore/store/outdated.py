"""A realm whose file is migrated while it is open: statements that the file cannot carry out any more say why.

What does fit goes on, as triggers and sealing always go by the tables as they are. This module changes nothing in a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import SchemaMismatch

__all__ = ["check_not_migrated"]

_MISSING = re.compile(r"no such (?:table|column)|has no column named")


def check_not_migrated(context: sa.ExceptionContext, declared: Collection[sa.Table], path: Path) -> None:
    """Look whether a statement failed because a table or column of the realm's schema is gone.

    Args:
        context: of the error.
        declared: the tables that the file had when it was opened.
        path: the file, for the message.

    Raises:
        SchemaMismatch: it did.
    """
    if context.connection is None or not _MISSING.search(str(context.original_exception)):
        return
    driver = context.connection.connection.driver_connection
    assert driver is not None
    for table in declared:
        there = {name.casefold() for (name,) in driver.execute("SELECT name FROM pragma_table_xinfo(?)", (table.name,))}
        gone = [column.name for column in table.columns if column.name.casefold() not in there]
        if gone:
            what = f"has no column {', '.join(gone)} in {table.name}" if there else f"has no table {table.name}"
            raise SchemaMismatch(
                f"{path} was migrated while this realm had it open: it {what} any more. Nothing was written.",
                hint="Close the realm and open it with the classes that fit the file now.",
            ) from context.original_exception
