"""Files of the folder that are damaged while a device makes snapshots in it: those that are there, and that being made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.crashes.world import World

__all__ = ["SAVED", "Spoil", "vandalised"]

Spoil = Callable[[bytes], bytes]
SAVED = "saved"
"""What the damaged file held, for a file at the top of the world."""
LOOK_SECONDS = 0.0005


def vandalised(phase: Callable[[World], None], spoil: Spoil, after: float | None) -> Callable[[World], None]:
    """A phase meanwhile one file is damaged; its path is told.

    Args:
        phase: what is done.
        spoil: what its content becomes.
        after: how many seconds later any of the files is damaged that were there before; None: a snapshot's as soon as there is
            a new one, finished or not.
    """

    def act(world: World) -> None:
        ended = threading.Event()
        vandal = threading.Thread(target=_damage_one, args=(world, spoil, after, ended))
        vandal.start()
        try:
            phase(world)
        finally:
            ended.set()
            vandal.join()

    return act


def _damage_one(world: World, spoil: Spoil, after: float | None, ended: threading.Event) -> None:
    there = sorted(path for kind in ("*.changes", "snapshots/*") for path in world.remote.rglob(kind))
    if after is not None:
        ended.wait(after)
        _damage(world, world.chance.choice(there), spoil)
        return
    while not ended.wait(LOOK_SECONDS):
        if new := sorted(set(world.remote.glob("*/snapshots/*")).difference(there)):
            _damage(world, world.chance.choice(new), spoil)
            return


def _damage(world: World, path: Path, spoil: Spoil) -> None:
    """In place, so that it stays when the file gets another name."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        if data := file.read():
            world.folder.joinpath(SAVED).write_bytes(data)
            file.seek(0)
            file.write(spoil(data))
            file.truncate()
            world.tell("damaged", str(path))
