"""What came out of a survey: whether the devices agree, what conflicted, and where everything lies."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from uuid import UUID

from sqlmodel import SQLModel

from examples.field_survey.models import SCHEMA
from examples.field_survey.reports import LostValue, Result

__all__ = ["agreement", "conflicts", "differences", "do_agree", "stations"]

DIFFERENCES_SHOWN = 10


def do_agree(results: Mapping[str, Result]) -> bool:
    """Whether all devices hold the same data."""
    return len({result.digest for result in results.values()}) == 1


def agreement(results: Mapping[str, Result]) -> Iterator[str]:
    """A line a device: how much it holds, and the digest of it."""
    for island, result in results.items():
        counts = ", ".join(f"{count} {name.lower()}s" for name, count in result.rows.items())
        yield f"{island:<10} {result.digest[:16]}  {counts}"


def conflicts(results: Mapping[str, Result]) -> Iterator[str]:
    """A line for each value that lost, with what won over it."""
    islands = {result.device_id: island for island, result in results.items()}
    for result in results.values():
        for lost in result.lost:
            row = _row_name(lost, result.path)
            winner = islands.get(lost.won_device, lost.won_device)
            won = f"{winner} deleted the row" if row is None else f"{winner}'s {lost.won_value!r} won"
            where = f"{row or f'{lost.table} {UUID(lost.key[0])}'}, {lost.column}"
            yield f"{where}: {islands.get(lost.lost_device, lost.lost_device)} wrote {lost.lost_value!r}; {won} ({lost.rule})"


def stations(results: Mapping[str, Result]) -> Iterator[str]:
    """The stations as they are now; edits of different columns of one row are all there."""
    with closing(sqlite3.connect(next(iter(results.values())).path)) as connection:
        rows = connection.execute("SELECT island, leader, weather, nests_counted FROM station ORDER BY island").fetchall()
    for island, leader, weather, nests in rows:
        yield f"{island:<10} leader {leader or '-'}, weather {weather or '-'}, nests counted {nests}"


def differences(results: Mapping[str, Result]) -> Iterator[str]:
    """The first rows that are not the same in all files, read from the files themselves."""
    shown = 0
    for model in SCHEMA:
        rows = {island: _rows(Path(result.path), model) for island, result in results.items()}
        for key in sorted(set().union(*rows.values())):
            held = {island: rows[island].get(key) for island in rows}
            if len(set(held.values())) > 1:
                yield f"{model.__name__} {key}: " + "; ".join(f"{island} has {row}" for island, row in held.items())
                shown += 1
                if shown == DIFFERENCES_SHOWN:
                    return


def _rows(path: Path, model: type[SQLModel]) -> dict[str, tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0]: row for row in connection.execute(f"SELECT * FROM {model.__tablename__}")}


def _row_name(lost: LostValue, path: str) -> str | None:
    """A row as people know it, such as ``station Dream``; None when it is gone."""
    identity = {"penguin": "individual", "station": "island", "note": "title"}[lost.table]
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(f"SELECT {identity} FROM {lost.table} WHERE id = ?", lost.key).fetchone()
    return None if row is None else f"{lost.table} {row[0]}"
