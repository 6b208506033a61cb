"""What a transaction left in the capture logs, and what sealing has to know besides, in one question to SQLite.

Each question costs about as much as writing a page, and most transactions are small. What the entries amount to is worked
out in ``store.touched``.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from localstore.store.capture import LOGS, TABLE_COLUMNS, CapturedTable, LoggedOp, captured_table
from localstore.store.state import LAST

__all__ = ["Logged", "Part", "Span", "read_logged"]


class Part(NamedTuple):
    """A table's entries in a span. ``op`` and ``bits`` are what all of them have, ``op`` None when they differ."""

    table: CapturedTable
    entries: int
    op: int | None
    bits: int | None


class Span(NamedTuple):
    """Entries of one log: ``seq`` from ``first`` to ``last``.

    Attributes:
        likely: all of the span as one part, should its first and last entry be of a kind. Whether those between are, shows
            when they are counted.
    """

    log: str
    first: int
    last: int
    likely: Part | None = None


class Logged(NamedTuple):
    """What the logs hold and who seals it.

    Attributes:
        device: the file's identity.
        last_number, last_stamp: see ``State``.
        held: whether there are rows in ``localstore_unsealed``.
        repaired: whether there are rows in ``localstore_repaired``.
        news: whether something of other devices was applied that no changeset of ours has named as a dependency yet.
        spans: what is in each log; logs without entries have none.
    """

    device: bytes
    last_number: int
    last_stamp: int
    held: bool
    repaired: bool
    news: bool
    spans: list[Span]


_STATE = f"""s.device, {LAST}, EXISTS (SELECT 1 FROM localstore_unsealed),
    EXISTS (SELECT 1 FROM localstore_repaired),
    EXISTS (SELECT 1 FROM localstore_device WHERE number > declared AND device <> s.device)"""
_STATE_WIDTH, _SPAN_WIDTH = 6, 10


def _columns(n: int) -> str:
    """Of the ``n``-th log: its first and last entry, whether they are of a kind, which one, and the first one's table."""
    bits, last_bits = (f"CASE {end}.op WHEN {LoggedOp.DELETE} THEN NULL ELSE {end}.bits END" for end in (f"a{n}", f"z{n}"))
    alike = f"a{n}.op = z{n}.op AND a{n}.tbl = z{n}.tbl AND {bits} IS {last_bits}"  # bits of deletes are rowids
    return f"a{n}.seq, z{n}.seq, {alike}, a{n}.op, {bits}, {TABLE_COLUMNS.replace('t.', f't{n}.')}"


def _joins(n: int, log: str) -> str:
    ends = ((f"a{n}", "min"), (f"z{n}", "max"))
    found = "".join(f" LEFT JOIN {log} AS {end} ON {end}.seq = (SELECT {which}(seq) FROM {log})" for end, which in ends)
    return f"{found} LEFT JOIN localstore_table AS t{n} ON t{n}.id = a{n}.tbl"


_QUESTION = (
    f"SELECT {', '.join([_STATE, *(_columns(n) for n in range(len(LOGS)))])}"
    f" FROM localstore_state AS s{''.join(_joins(n, log) for n, log in enumerate(LOGS))}"
)


def read_logged(connection: sqlite3.Connection, limit: int | None = None) -> Logged:
    """What is in the logs, with a limit no more than so many entries of each, the oldest."""
    found = connection.execute(_QUESTION).fetchone()
    spans = []
    for n, log in enumerate(LOGS):
        first, last, alike, op, bits, *table = found[_STATE_WIDTH + n * _SPAN_WIDTH : _STATE_WIDTH + (n + 1) * _SPAN_WIDTH]
        if first is None:
            continue
        if limit is not None:
            last = min(last, first + limit - 1)
        spans.append(Span(log, first, last, Part(captured_table(*table), last - first + 1, op, bits) if alike else None))
    device, last_number, last_stamp, held, repaired, news = found[:_STATE_WIDTH]
    return Logged(device, last_number, last_stamp, bool(held), bool(repaired), bool(news), spans)
