"""A process that looks after the snapshots of a log as a hub does, again and again, until it is killed."""

import asyncio
import sys
from pathlib import Path

from localstore.environment import Environment
from localstore.hub.lines import Lines
from localstore.hub.merged_files import MergedFiles
from localstore.hub.metrics import Metrics
from localstore.hub.snapshot_maker import SnapshotMaker
from localstore.registry import adapter_factory
from localstore.schema import tables_of
from tests.unit.session_kit import Note

EVERY = 5


def maker(url: str, directory: Path, environment: Environment, every: int = EVERY) -> SnapshotMaker:
    """What looks after the partitions of an SQL log of notes."""
    tables = tables_of({Note})
    return SnapshotMaker(
        Lines(adapter_factory(url), "kit", max_lines=1, max_calls=1, environment=environment),
        every=every,
        horizon_days=30,
        keeps_snapshots=True,
        files=MergedFiles(directory, tables, app="kit", offline_days=30, environment=environment),
        environment=environment,
        metrics=Metrics(),
    )


async def look(url: str, directory: Path) -> None:
    of = maker(url, directory, Environment())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        of.note("default")
        of.look_at_all()
        await of.step()
        await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(look(sys.argv[1], Path(sys.argv[2])))
