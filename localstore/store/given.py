"""Statements about many rows at once, which cost SQLite a third to a half of what a statement for each row does."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from localstore.changes import Value

__all__ = ["GIVEN", "execute_given"]

GIVEN = "localstore_given"
_PARAMETERS = 500  # in one statement: more gain nothing, and SQLite's limit has been as low as 999


def execute_given(
    connection: sqlite3.Connection, sql: str, columns: Sequence[Sequence[Value]], parameters: Sequence[Value] = ()
) -> list[tuple[Any, ...]]:
    """Run a statement for some hundred rows at a time, until it ran for all.

    Args:
        sql: reads the rows from ``GIVEN``, whose columns are called ``c0``, ``c1`` and so on.
        columns: the rows' values, column by column.
        parameters: of the statement itself.

    Returns:
        All that it found.
    """
    count = max(1, _PARAMETERS // len(columns))
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(columns[0]), count):
        part = [column[start : start + count] for column in columns]
        values = [*chain.from_iterable(zip(*part, strict=True)), *parameters]
        found += connection.execute(_statement(sql, len(columns), len(part[0])), values).fetchall()
    return found


@lru_cache(maxsize=256)
def _statement(sql: str, columns: int, rows: int) -> str:
    names = ", ".join(f"c{number}" for number in range(columns))
    row = f"({', '.join('?' * columns)})"
    return f"WITH {GIVEN} ({names}) AS (VALUES {', '.join([row] * rows)}) {sql}"
