"""How the values that devices give to one column become one: the registry of rules, and which rule a column declares.

A column names its rule in its declaration; without one, the last write wins::

    tags: str = Field(sa_column_kwargs={"info": {"localstore_merge": "union"}})

A rule is asked about two values of the same life of a row (see ``store.merge``). All replicas must come to the same value
in whatever order changes come, so it has to be commutative, associative and idempotent, as the greater of two numbers is,
or decide by what is later, as the one does that is there from the beginning. Every device has to know the same rules.
This module knows neither clocks nor files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import sqlalchemy as sa

from localstore.changes import Value
from localstore.errors import SchemaError
from localstore.schema import class_of

__all__ = ["LAST_WRITE_WINS", "MERGE", "ColumnRule", "ColumnRules", "column_rules", "register"]

MERGE = "localstore_merge"
"""Under which a column's ``info`` names its rule."""
LAST_WRITE_WINS = "last write wins"


class ColumnRule(Protocol):
    """What a column holds when a value arrives that is not the one that stands there."""

    def __call__(self, standing: Value, offered: Value, *, is_later: bool) -> Value: ...


ColumnRules = Mapping[str, Mapping[str, ColumnRule]]
"""By table and column, the rules of those columns in which it is not the last write that wins."""


def _last_write_wins(standing: Value, offered: Value, *, is_later: bool) -> Value:
    return offered if is_later else standing


_rules: dict[str, ColumnRule] = {LAST_WRITE_WINS: _last_write_wins}


def register(name: str, rule: ColumnRule) -> None:
    """Make a rule known, under the name by which columns declare it.

    Raises:
        ValueError: the name is taken.
    """
    if _rules.setdefault(name, rule) is not rule:
        raise ValueError(f"There is a rule {name!r} already.")


def column_rules(tables: Iterable[sa.Table]) -> ColumnRules:
    """The rules that tables declare.

    Raises:
        SchemaError: a column names a rule that nobody registered, or is part of a key, which does not merge.
    """
    found: dict[str, dict[str, ColumnRule]] = {}
    for table in tables:
        for column in table.columns:
            name = column.info.get(MERGE, LAST_WRITE_WINS)
            if name == LAST_WRITE_WINS:
                continue
            if not isinstance(name, str) or name not in _rules:
                raise _refused(column, f"merges by {name!r}, which is no rule", f"Rules are: {', '.join(sorted(_rules))}.")
            if column.primary_key:
                raise _refused(column, f"merges by {name!r}, but keys do not merge", "Take the rule away.")
            found.setdefault(table.name, {})[column.name] = _rules[name]
    return found


def _refused(column: sa.Column[Any], problem: str, fix: str) -> SchemaError:
    model = class_of(column.table.name)
    owner = f"The table {column.table.name}" if model is None else model.__name__
    return SchemaError(f"{owner} has the column {column.name}, which {problem}. Nothing was changed.", hint=fix)
