"""Years of a shared folder in minutes: how many files and bytes lie in it over time, with and without compaction.

``python -m benchmarks.years``: three devices write all the time, each a push a day, under a clock that is moved by hand. What
their own files have grown to is told as well, each by itself as the devices may differ.
"""

import argparse
import tempfile
from pathlib import Path
from uuid import UUID

from sqlmodel import Field, Session, SQLModel, select

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, uuid7
from localstore.testing.clock import ManualClock, environment
from localstore_adapters.folder import FolderAdapter

_DEVICES, _PUSHES, _MINUTE, _DAY = 3, 1, 60, 86_400
_ROWS_KEPT = 500  # what a device writes beyond that, it changes
_PATIENCE = 1.0  # seconds, after which a session is taken to wait for the clock, as after a call that time cut off


class Reading(SQLModel, table=True):
    """What the devices write."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    device: int
    text: str


def main() -> None:
    """Parse the command line, simulate, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.years", description=__doc__)
    parser.add_argument("--changesets", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=3 * 365)
    parser.add_argument("--every", type=int, default=5000, help="snapshot_every; 0 for no compaction")
    arguments = parser.parse_args()
    print(f"{'day':>6}{'changesets':>12}{'files':>8}{'MB':>8}  MB of the devices' own files")
    with tempfile.TemporaryDirectory(prefix="localstore-years-") as directory:
        simulate(Path(directory), arguments.changesets, arguments.days, arguments.every)


def simulate(directory: Path, changesets: int, days: int, every: int) -> None:
    """Write so many changesets in so many days, and print what lies in the folder every now and then."""
    folder, clock = directory / "shared", ManualClock()
    realms = [opened(directory / f"{number}.db", folder, clock, number, every) for number in range(_DEVICES)]
    a_push = max(1, round(changesets / (days * _DEVICES * _PUSHES)))
    written = 0
    for day in range(1, days + 1):
        for _ in range(_PUSHES):
            for number, realm in enumerate(realms):
                write(realm, number, a_push, clock)
                written += a_push
            clock.advance(_DAY / _PUSHES)
        if day % max(1, days // 36) == 0:
            settle(realms, clock)
            files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            own = " ".join(f"{realm.path.stat().st_size / 1e6:.1f}" for realm in realms)
            print(f"{day:>6}{written:>12,}{len(files):>8,}{sum(files) / 1e6:>8.1f}  {own}", flush=True)
    settle(realms, clock)
    for realm in realms:
        realm.close()


def opened(path: Path, folder: Path, clock: ManualClock, number: int, every: int) -> Realm:
    """A device's realm."""
    world = environment(clock, number)

    def adapter() -> FolderAdapter:
        return FolderAdapter(folder, environment=world, listens=False)

    app = App.create("years", remote=adapter, settings=Settings(snapshot_every=every, poll=_DAY), environment=world)
    return Realm.open(SyncConfiguration(app.login(Credentials.anonymous()), schema={Reading}, path=path))


def write(realm: Realm, number: int, count: int, clock: ManualClock) -> None:
    """So many changesets in one push: new rows, and changes of old ones when there are enough."""
    realm.sync_session.pause()
    known = list(realm.exec(select(Reading.id).where(Reading.device == number).limit(_ROWS_KEPT)).all())
    for turn in range(count):
        with realm.write() as tx:
            change(tx, number, known[turn] if len(known) == _ROWS_KEPT else None)
    realm.sync_session.resume()
    while not realm.sync_session.upload_all_local_changes(_PATIENCE):
        clock.advance(_MINUTE)


def change(tx: Session, number: int, key: UUID | None) -> None:
    """Add a row, or change that one."""
    if key is None:
        tx.add(Reading(device=number, text="as it was first measured"))
    else:
        tx.get_one(Reading, key).text = f"measured again, as {uuid7()}"


def settle(realms: list[Realm], clock: ManualClock) -> None:
    """Let all have all."""
    for realm in realms:
        while not realm.sync_session.download_all_server_changes(_PATIENCE):
            clock.advance(_MINUTE)


if __name__ == "__main__":
    main()
