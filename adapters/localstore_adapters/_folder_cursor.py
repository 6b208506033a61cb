"""Cursors of a folder: in which history, and the last number of each device that was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from localstore.adapter import Cursor
from localstore.changes import Device, Number
from localstore.errors import ResetRequired

__all__ = ["cursor_of", "numbers_of"]


class _Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor holds. Its own device's number tells what a snapshot at the cursor holds of that one."""

    remote_id: str
    numbers: dict[Device, Number]


def cursor_of(remote_id: str, numbers: Mapping[Device, Number]) -> Cursor:
    """The cursor of a place; the same bytes for the same place."""
    return Cursor(msgspec.msgpack.encode(_Position(remote_id, dict(sorted(numbers.items())))))


def numbers_of(cursor: Cursor | None, remote_id: str) -> dict[Device, Number]:
    """The place that a cursor stands for.

    Raises:
        ResetRequired: it is another history's, or no cursor of ours.
    """
    if cursor is None:
        return {}
    try:
        position = msgspec.msgpack.decode(cursor, type=_Position)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResetRequired("unknown cursor") from error
    if position.remote_id != remote_id:
        raise ResetRequired("unknown cursor", hint="It belongs to another history.")
    return position.numbers
