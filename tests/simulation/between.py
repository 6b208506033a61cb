"""What a file showed in the midst of one call of the store, which may be more than one transaction.

Nothing else runs meanwhile in a simulation; another program would read what each commit made of the file. SQLite's log has them
all: cut off after an earlier one, the file is as it was then. It knows nothing of what has to be in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session

from tests.simulation.disk import Disk, Log, lose_commits

__all__ = ["opened", "states_between"]


def states_between(folder: Path, name: str, before: Log | None) -> Iterator[Disk]:
    """The disk after each commit since then but the last, oldest first, as far as the log still has them.

    Args:
        folder: where the database is.
        name: of the database.
        before: its log before the call; None when nobody had it open.
    """
    after = Log.of(folder, name)
    if before is None or after is None or after.changes - before.changes < 2:
        return
    disk = Disk.of(folder)
    for left_out in range(after.changes - before.changes - 1, 0, -1):
        earlier, lost = lose_commits(disk, name, left_out, after.checkpointed)
        if lost == left_out:
            yield earlier


@contextmanager
def opened(disk: Disk, name: str, place: Path) -> Iterator[Session]:
    """Read the database of a disk, for which there is a place that nobody uses."""
    place.mkdir(exist_ok=True)
    disk.write_to(place)
    engine = sa.create_engine(f"sqlite:///{place / name}")
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()
