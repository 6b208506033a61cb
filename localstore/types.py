"""Column types for values that SQLModel's own mapping would change, or could not store, in SQLite.

``ExactDecimal`` is for decimals. Paths and IP addresses need nothing said: their columns are recognised when a realm is
opened, and stay text in the file. This module knows columns and values; it never sees a database.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import operators
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

__all__ = ["ExactDecimal", "LossyTypeWarning", "TextOf", "recognise_text", "stored_type", "warn_of_lossy"]

_WRITTEN_AS_TEXT = (Path, IPv4Address, IPv4Network, IPv6Address, IPv6Network)
_EQUALITY = {
    operators.eq, operators.ne, operators.in_op, operators.not_in_op, operators.is_, operators.is_not,
    operators.is_distinct_from, operators.is_not_distinct_from,
}  # fmt: skip


class LossyTypeWarning(UserWarning):
    """A column has a type whose values SQLite does not keep as they are written."""


class ExactDecimal(sa.TypeDecorator[Decimal]):
    """``Decimal`` to the last digit: ``price: Decimal = Field(sa_type=ExactDecimal)``.

    SQLAlchemy's own ``Numeric`` turns decimals into floating-point numbers in SQLite. This type stores them as text, as
    ``str`` writes them, so that sign, digits and exponent come back as they were: ``1.10`` stays ``1.10``.

    SQL therefore sees text. A comparison that could silently give another answer than Python would is a ``TypeError`` when
    the statement is built: ``<`` and ``>``, arithmetic, ``asc()`` and ``desc()``, and ``==`` with a value, as 1.1 and 1.10
    are the same number in two spellings. With ``places`` every number has one spelling, and ``==``, ``!=`` and ``in_`` can
    be used. What cannot be refused is a bare ``order_by(Item.price)``, ``func.min`` and ``func.max``: they go by the text.
    ``func.sum`` computes in floating point, which is refused when its result arrives. Compute, sort and sum in Python, or
    store a whole number of the smallest unit, ``price_cents: int``.

    Args:
        places: keep exactly so many digits after the point, as in ``Field(sa_type=ExactDecimal(places=2))``: 5 is stored as
            ``5.00``, and a value with more digits is a ``ValueError``. None keeps every value as it is given.
    """

    impl = sa.String
    cache_ok = True

    class Comparator(sa.TypeDecorator.Comparator[Decimal]):
        """Only what gives the same answer for text as for numbers."""

        def operate(self, op: operators.OperatorType, *other: Any, **kwargs: Any) -> sa.ColumnElement[Any]:
            """Refuse an operator that would compare or compute with the text."""
            if op not in _EQUALITY:
                name = other[0] if other and isinstance(self.expr, sa.BindParameter) else self.expr
                raise TypeError(
                    f"{name} is an ExactDecimal, which SQLite keeps as text: it cannot be ordered or computed with in SQL."
                    " Do it in Python, or store a whole number of the smallest unit, such as cents."
                )
            if _of_type(self.expr).places is None and any(_is_number(value) for value in other):
                raise TypeError(
                    f"{self.expr} is an ExactDecimal, which keeps 1.1 and 1.10 apart: whether it equals a number cannot be"
                    " told in SQL. Compare in Python, or give all values one form with ExactDecimal(places=...)."
                )
            return super().operate(op, *other, **kwargs)

        def reverse_operate(self, op: operators.OperatorType, other: Any, **kwargs: Any) -> sa.ColumnElement[Any]:
            """``1 + Item.price`` is arithmetic as well."""
            return self.operate(op, other, **kwargs)

    comparator_factory = Comparator  # pyright: ignore[reportAssignmentType]

    def __init__(self, places: int | None = None) -> None:
        if places is not None and (not isinstance(places, int) or isinstance(places, bool) or places < 0):
            raise ValueError(f"places is a number of digits after the point, or None, not {places!r}.")
        super().__init__()
        self.places = places

    def __repr__(self) -> str:
        return "ExactDecimal()" if self.places is None else f"ExactDecimal(places={self.places})"

    @property
    def python_type(self) -> type[Any]:
        """What comes back."""
        return Decimal

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """The text that is stored for a value."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, Decimal | int):
            raise TypeError(
                f"ExactDecimal takes Decimal or int, not {type(value).__name__}: {value!r} may not be the number that was"
                " meant. Write Decimal('1.10')."
            )
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError(f"ExactDecimal stores numbers; {number} is none. Use None for an unknown one.")
        return str(number) if self.places is None else f"{_with_places(number, self.places):f}"

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Decimal | None:
        """The value of a stored text."""
        if value is None:
            return None
        if not isinstance(value, str):
            raise TypeError(
                f"SQLite computed {value!r} from an ExactDecimal, in floating point, which is not exact."
                " Select the values and compute in Python."
            )
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite():
            raise ValueError(f"An ExactDecimal column holds {value!r}, which is no number. Another program wrote it.")
        return number


class TextOf(sa.TypeDecorator[Any]):
    """Values of a class that can be made from its own ``str``, such as ``Path`` and ``IPv4Address``, stored as that text.

    Fields of these classes get it by themselves; it has a name for the sake of ``Table`` schemas.

    Args:
        kind: the class.
        length: for ``VARCHAR(length)``, which SQLite ignores.
    """

    impl = AutoString
    cache_ok = True

    def __init__(self, kind: type[Any], length: int | None = None) -> None:
        super().__init__(length)
        self.kind = kind
        self.length = length

    def __repr__(self) -> str:
        return f"TextOf({self.kind.__name__}{'' if self.length is None else f', {self.length}'})"

    @property
    def python_type(self) -> type[Any]:
        """What comes back."""
        return self.kind

    def coerce_compared_value(self, op: operators.OperatorType | None, value: Any) -> Any:
        """A text that it is compared with may be a pattern."""
        return sa.String() if isinstance(value, str) else self

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """The text that is stored; a text is checked by making a value of it."""
        if value is None:
            return None
        if isinstance(value, str):
            value = self.kind(value)
        if not isinstance(value, self.kind):
            raise TypeError(f"This column takes {self.kind.__name__} or str, not {value!r}.")
        return str(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """The value of a stored text."""
        return None if value is None else self.kind(value)


def recognise_text(models: Iterable[object]) -> None:
    """Let the columns of fields that are paths or IP addresses take and return such objects.

    SQLModel gives them the type of text, which cannot store the objects that the class promises. Nothing changes in the
    file. Models that were seen before are left as they are.
    """
    for model in models:
        mapper: Mapper[Any] | None = getattr(model, "__mapper__", None)
        for mapped in () if mapper is None else mapper.self_and_descendants:
            fields = mapped.class_.model_fields if issubclass(mapped.class_, SQLModel) else {}
            for name, column in mapped.columns.items():
                kind = _kind_of(fields[name].annotation) if name in fields else None
                if kind is not None and type(column.type) is AutoString:
                    column.type = TextOf(kind, column.type.length)
                if isinstance(column.type, TextOf):
                    _retype(getattr(mapped.class_, name), column)


def warn_of_lossy(tables: Iterable[sa.Table], *, stacklevel: int) -> None:
    """Warn of columns of which SQLite keeps an approximation only.

    Args:
        stacklevel: as in ``warnings.warn``, counted from the caller.
    """
    names = [f"{table.name}.{column.name}" for table in tables for column in table.columns if _is_lossy(column.type)]
    if names:
        warnings.warn(
            f"SQLite stores {', '.join(names)} as floating-point numbers, which changes decimals of more than 15 digits and"
            " their trailing zeros. Keep them exactly: Field(sa_type=localstore.types.ExactDecimal).",
            LossyTypeWarning,
            stacklevel=stacklevel + 1,
        )


def stored_type(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    """The type by which the values of a decorated type are stored."""
    while isinstance(kind, sa.TypeDecorator):
        kind = kind.impl_instance
    return kind


def _is_lossy(kind: sa.types.TypeEngine[Any]) -> bool:
    return bool(getattr(stored_type(kind), "asdecimal", False))


def _is_number(value: Any) -> bool:
    """Whether a statement compares with values of Python; null, and what stands for a value or column, are none."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(_is_number(item) for item in value)
    return isinstance(value, Decimal | int | float)


def _of_type(expression: Any) -> ExactDecimal:
    kind = expression.type
    assert isinstance(kind, ExactDecimal)
    return kind


def _with_places(number: Decimal, places: int) -> Decimal:
    """A number in the one form that it has with so many digits after the point."""
    digits = len(number.as_tuple().digits) + abs(number.adjusted()) + places + 1
    exact = Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation])
    try:
        formed = number.quantize(Decimal(1).scaleb(-places), context=exact)
    except (Inexact, InvalidOperation):
        raise ValueError(f"{number} has more than {places} digits after the point; round it first.") from None
    return formed if formed else abs(formed)


def _kind_of(annotation: Any) -> type[Any] | None:
    """The class of a field, optional or not, if it is one that is written as text."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
        origin = get_origin(annotation)
    if origin is Annotated:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, _WRITTEN_AS_TEXT) else None


def _retype(attribute: Any, column: sa.Column[Any]) -> None:
    """Let the forms of a column that statements are made from have its type; they remember the one that it had before."""
    for form in (column, attribute.expression, attribute.comparator.__clause_element__()):
        comparator = form.__dict__.get("comparator")
        if form.type is not column.type or (comparator is not None and comparator.type is not column.type):
            form.type = column.type
            form.__dict__.pop("comparator", None)
