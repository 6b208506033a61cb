"""The application's models, for a hub that makes snapshots: which they are is said by a setting, as ``package.module``.

Merging rows takes their tables: what has to be unique, what refers to what, which columns merge by a rule. This module knows
no log and no files.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel

from localstore.errors import SchemaError
from localstore.schema import check_synced, tables_of

__all__ = ["load_tables"]


def load_tables(name: str) -> list[sa.Table]:
    """The tables of all models that a module has, or of a collection of them in it.

    Args:
        name: ``package.module``, or ``package.module:NAME``.

    Raises:
        ValueError: there are none, or they cannot be synced.
    """
    module_name, _, member = name.partition(":")
    try:
        module = importlib.import_module(module_name)
        found: Any = getattr(module, member) if member else _models_in(vars(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The models {name!r} cannot be loaded: {error}.") from error
    if not isinstance(found, Collection) or isinstance(found, str) or not found:
        raise ValueError(f"{name!r} names no models. Write it as 'package.module', or 'package.module:NAME' for a set of them.")
    try:
        tables = tables_of(found)
        check_synced(tables)
    except (SchemaError, TypeError) as error:
        raise ValueError(f"The models {name!r} cannot be used: {error}") from error
    return tables


def _models_in(members: dict[str, Any]) -> set[type[SQLModel]]:
    classes = [one for one in members.values() if isinstance(one, type) and issubclass(one, SQLModel)]
    return {one for one in classes if hasattr(one, "__table__")}
