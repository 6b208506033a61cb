"""Sessions that make snapshots all the time, with devices that come, go, write and are broken off at random: whoever began with
a snapshot, whenever that was, holds what all the others hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlmodel import Session, select

from localstore import Realm
from localstore.errors import Offline
from localstore.testing.clock import ManualClock, environment
from localstore.testing.faulty import Hang, LoseAnswer, Raise
from localstore.testing.memory import MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import Device, Line, Note, World, eventually, sql

pytestmark = pytest.mark.slow

CALLS = ["pull", "push", "connect", "latest_snapshot", "read_snapshot", "write_snapshot", "trim"]
FAULTS = [Raise(Offline("away")), LoseAnswer(Offline("away")), Hang()]
STEPS = 60


class Crowd:
    """Devices that act at random.

    Attributes:
        kept: texts of rows that somebody wrote and nobody may delete.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._lines: list[Line] = []
        self._devices: list[Device] = []
        self.realms: list[Realm] = []
        self.kept: set[str] = set()
        for _ in range(2):
            self.join()

    def join(self) -> None:
        line = self._world.line()
        device = self._world.device(
            f"device-{len(self._devices)}", remote=line, snapshot_every=5, poll=60, page_count=3, backoff_max=10
        )
        self._lines.append(line)
        self._devices.append(device)
        self.realms.append(device.open())

    def act(self) -> None:
        index = self._chance.randrange(len(self.realms))
        realm, line = self.realms[index], self._lines[index]
        match self._chance.choices(
            ["insert", "change", "delete", "pause", "resume", "reopen", "join", "fault", "wait"], [8, 5, 2, 1, 2, 1, 1, 3, 4]
        )[0]:
            case "insert":
                text = f"kept {len(self.kept)}"
                self.kept.add(text)
                self.write(realm, lambda tx: tx.add_all([Note(text=text), Note(text="any")]))
            case "change":
                self.write(realm, self.change)
            case "delete":
                self.write(realm, self.delete)
            case "pause":
                realm.sync_session.pause()
            case "resume":
                realm.sync_session.resume()
            case "reopen":
                realm.close()
                self.realms[index] = self._devices[index].open()
            case "join" if len(self.realms) < 5:
                self.join()
            case "fault":
                line.break_next(self._chance.choice(CALLS), self._chance.choice(FAULTS))
            case _:
                self._world.clock.advance(self._chance.choice([1, 30, 150]))
                realm.sync_session.download_all_server_changes(0.05)

    def write(self, realm: Realm, change: object) -> None:
        with realm.write() as tx:
            change(tx)  # type: ignore[operator]

    def change(self, tx: Session) -> None:
        for note in tx.exec(select(Note).where(Note.text.like("any%"))).all()[:2]:  # type: ignore[attr-defined]
            note.text = f"any {self._chance.random()}"

    def delete(self, tx: Session) -> None:
        note = tx.exec(select(Note).where(Note.text.like("any%"))).first()  # type: ignore[attr-defined]
        if note is not None:
            tx.delete(note)

    def come_to_rest(self) -> None:
        for line in self._lines:
            for call in CALLS:
                line.break_next(call)
        for realm in self.realms:
            realm.sync_session.resume()
        self.join()

        def is_done() -> bool:
            self._world.clock.advance(70)
            self.contents = [sql(realm.path, "SELECT * FROM note ORDER BY 1") for realm in self.realms]
            return not any(realm.pending() for realm in self.realms) and all(one == self.contents[0] for one in self.contents)

        eventually(is_done, "all to hold the same")


class FolderRemote(MemoryRemote):
    """A shared folder that lets go of history as soon as it may."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        super().__init__()
        self._folder, self._clock = folder, clock

    def adapter(self) -> FolderAdapter:  # type: ignore[override]
        return FolderAdapter(self._folder, environment=environment(self._clock, seed=7), listens=False, keep_days=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_all_hold_the_same_whenever_they_began(tmp_path: Path, kind: str, seed: int) -> None:
    with World(tmp_path) as world:
        if kind == "folder":
            world.remote = FolderRemote(tmp_path / "shared", world.clock)
        else:
            world.remote = MemoryRemoteWithSnapshots(environment=environment(world.clock, seed=1000))
        crowd = Crowd(world, random.Random(seed))
        for _ in range(STEPS):
            crowd.act()
        crowd.come_to_rest()
        texts = {row[1] for row in crowd.contents[0]}
        assert crowd.kept <= texts, sorted(crowd.kept - texts)
        for realm in crowd.realms:
            realm.close()
        eventually(lambda: not list(tmp_path.glob("*.snapshot-*")), "what lies beside the files to go")
