"""Random schemas: what the oracle has to know of them, how SQLite is told, and how they are made of chance.

All texts are from one small range, so that keys, references and unique values meet all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from localstore.changes import Value
from tests.merging.digits import Digits

__all__ = ["KEYS", "Check", "Column", "Reference", "Row", "Table", "Unique", "ddl", "schema"]

Row = dict[str, Value]
KEYS = ("p", "q", "r")
WORDS = ("p", "P", "q")
NUMBERS = (0, 1, 2)
ACTIONS = (None, "RESTRICT", "NO ACTION", "SET NULL", "SET DEFAULT", "CASCADE")


@dataclass(frozen=True)
class Column:
    """A column outside the key. ``values`` is its range, without null."""

    name: str
    values: tuple[Value, ...]
    nullable: bool = True
    default: Value = None


@dataclass(frozen=True)
class Reference:
    """A foreign key: ``columns`` refer to ``referred`` of the target, its key or other columns that are unique there. Where a
    row gets another key, those that refer to it ``follow``, or else it may not."""

    columns: tuple[str, ...]
    target: str
    referred: tuple[str, ...]
    on_delete: str | None
    follow: bool = False


@dataclass(frozen=True)
class Unique:
    """Columns of which no two rows may have the same values, in any case with ``caseless``, of rows with n > 0 only with
    ``partial``; as part of the table where it ``is_inline``."""

    columns: tuple[str, ...]
    caseless: bool = False
    partial: bool = False
    is_inline: bool = False

    @property
    def looked_at(self) -> tuple[str, ...]:
        return (*self.columns, "n") if self.partial else self.columns

    def value(self, row: Row) -> tuple[Value, ...] | None:
        """What no other row may have; None when this row is not looked at."""
        number = row.get("n")
        if self.partial and not (isinstance(number, int) and number > 0):
            return None
        values = tuple(row[column] for column in self.columns)
        if None in values:
            return None
        return tuple(value.lower() if isinstance(value, str) else value for value in values) if self.caseless else values

    @property
    def sql(self) -> str:
        terms = [f"lower({column})" if self.caseless else column for column in self.columns]
        return f"({', '.join(terms)})" + (" WHERE n > 0" if self.partial else "")


@dataclass(frozen=True)
class Check:
    """A condition on a row, in SQL and in Python. As everywhere in SQL, null fails nothing."""

    sql: str
    holds: Callable[[Row], bool]


CHECKS = (
    Check("n <= m", lambda row: row["n"] is None or row["m"] is None or row["n"] <= row["m"]),  # type: ignore[operator]
    Check("n <> 2 OR word <> 'p'", lambda row: row["n"] in (None, 0, 1) or row["word"] != "p"),
)


@dataclass(frozen=True)
class Table:
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    references: tuple[Reference, ...]
    uniques: tuple[Unique, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def default(self, column: str) -> Value:
        """What a column holds in rows that somebody made who did not know it."""
        return next(known.default for known in self.columns if known.name == column)


def ddl(tables: Iterable[Table]) -> list[str]:
    """The statements that make the tables."""
    statements = []
    for table in tables:
        parts = [f"{name} TEXT NOT NULL" for name in table.key]
        for column in table.columns:
            kind = "INTEGER" if column.values is NUMBERS else "TEXT"
            default = "" if column.default is None else f" DEFAULT {column.default!r}"
            parts.append(f"{column.name} {kind}{'' if column.nullable else ' NOT NULL'}{default}")
        parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
        for reference in table.references:
            action = f" ON DELETE {reference.on_delete}" if reference.on_delete else ""
            action += " ON UPDATE CASCADE" if reference.follow else ""
            referred = f"{reference.target} ({', '.join(reference.referred)})"
            parts.append(f"FOREIGN KEY ({', '.join(reference.columns)}) REFERENCES {referred}{action}")
        parts += [f"UNIQUE {unique.sql}" for unique in table.uniques if unique.is_inline]
        parts += [f"CHECK ({check.sql})" for check in table.checks]
        statements.append(f"CREATE TABLE {table.name} ({', '.join(parts)})")
        for number, unique in enumerate(table.uniques):
            if not unique.is_inline:
                statements.append(f"CREATE UNIQUE INDEX {table.name}_{number} ON {table.name} {unique.sql}")
    return statements


def schema(digits: Digits) -> list[Table]:
    """From one to five tables. A link table's key is made of its references."""
    kinds = [digits.choose(("plain", "plain", "pair", "link")) for _ in range(digits.choose((2, 1, 2, 3, 3, 4, 5)))]
    shapes = {"plain": ("id",), "pair": ("k", "l"), "link": ("left", "right")}
    keys = {name: shapes[kind] for name, kind in zip("abcde", kinds, strict=False)}
    return _with_references_to_words([_table(name, keys, digits) for name in keys], digits)


def _with_references_to_words(tables: list[Table], digits: Digits) -> list[Table]:
    """Some refer to what is unique and not the key."""
    targets = [table.name for table in tables if Unique(("word",), is_inline=True) in table.uniques]
    found = []
    for table in tables:
        if targets and digits.below(2):
            column = _column("by", WORDS, digits)
            reference = Reference(("by",), digits.choose(targets), ("word",), digits.choose(ACTIONS), digits.below(3) == 1)
            table = replace(table, columns=(*table.columns, column), references=(*table.references, reference))
        found.append(table)
    return found


def _table(name: str, keys: dict[str, tuple[str, ...]], digits: Digits) -> Table:
    columns, references, names = list[Column](), list[Reference](), sorted(keys)
    plain = [other for other in names if keys[other] == ("id",)]
    if plain and keys[name] == ("left", "right"):
        for column in keys[name]:
            references.append(Reference((column,), digits.choose(plain), ("id",), digits.choose(ACTIONS), digits.below(3) == 1))
    for number in range(digits.choose((1, 0, 1, 2))):
        target = digits.choose(names)
        made = [_column(f"r{number}{part}", KEYS, digits) for part in keys[target]]
        columns += made
        names_made = tuple(column.name for column in made)
        references.append(Reference(names_made, target, keys[target], digits.choose(ACTIONS), digits.below(3) == 1))
    columns += [_column(*of, digits) for of in (("word", WORDS), ("n", NUMBERS), ("m", NUMBERS))]
    uniques = tuple(_unique([*keys[name], *(c.name for c in columns)], digits) for _ in range(digits.choose((1, 0, 1, 2))))
    checks = tuple(digits.some(CHECKS, 1) if digits.below(3) else ())
    return Table(name, keys[name], tuple(columns), tuple(references), uniques, checks)


def _column(name: str, values: tuple[Value, ...], digits: Digits) -> Column:
    return Column(name, values, digits.choose((True, True, False)), digits.choose((None, values[0])))


def _unique(names: Sequence[str], digits: Digits) -> Unique:
    kinds = ((False, False, True), (False, False, False), (True, False, False), (False, True, False))
    columns = dict.fromkeys([digits.choose(("word", *names[1:])), *digits.some(names, 1)])
    return Unique(tuple(columns), *digits.choose(kinds))
