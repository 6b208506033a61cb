"""What the tests of snapshots share: making one, joining with one, and histories in which somebody joins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.store import snapshot_writing
from localstore.store.driver import connect
from localstore.store.snapshots import load_snapshot, write_snapshot
from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.unit.store_kit import LINK, NOTE, Device, exactly, query, write
from tests.unit.test_apply import Network, Step, statements

BOTH = [NOTE, LINK]
INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"


def device_with_history(directory: Path) -> Device:
    """A device with rows, a tombstone and a column that was set later."""
    device = Device(directory, "x", BOTH)
    device.write(INSERT_A, INSERT_B, "INSERT INTO note VALUES ('gone', 'g', 1)", "INSERT INTO link VALUES ('a', 1, 'l')")
    device.write("UPDATE note SET title = 'changed' WHERE id = 'a'", "DELETE FROM note WHERE id = 'gone'")
    return device


def long_histories(kinds: list[str], size: int) -> st.SearchStrategy[list[Step]]:
    """Of so many steps, as in short ones there is little that a snapshot could get wrong."""
    step = st.builds(
        Step,
        device=st.integers(0, 2),
        kind=st.sampled_from(kinds),
        other=st.integers(1, 2),
        count=st.integers(1, 4),
        statements=st.lists(statements(), min_size=1, max_size=2).map(tuple),
    )
    return st.lists(step, min_size=size, max_size=size)


def family(*, with_key: bool = True, with_text: bool = True) -> list[sa.Table]:
    """Children that go with their parents."""
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.String, primary_key=True))
    text = [sa.Column("text", sa.String)] if with_text else []
    keys = [sa.ForeignKey("parent.id", ondelete="CASCADE")] if with_key else []
    sa.Table("child", metadata, sa.Column("id", sa.String, primary_key=True), sa.Column("up", sa.String, *keys), *text)
    return [parent, metadata.tables["child"]]


def send_everything(device: Device) -> None:
    """The remote has it all."""
    device.store.seal()
    device.store.acknowledge(device.store.state().last_number)
    if device.store.state().cursor is None:
        device.receive()


def snapshot_of(device: Device, path: Path) -> Path:
    """A snapshot of a device that has sent everything."""
    send_everything(device)
    cursor = device.store.state().cursor
    assert cursor is not None
    assert write_snapshot(device.store, path, cursor=cursor)
    return path


def snapshot_without_what_is_older(device: Device, path: Path, stamp: int) -> Path:
    """The same, with this horizon, whatever the clocks say."""
    send_everything(device)
    cursor = device.store.state().cursor
    assert cursor is not None
    with closing(connect(device.path, None)) as connection:
        assert snapshot_writing.write(connection, path, cursor=cursor, horizon=lambda _: stamp)
    return path


def joined(
    folder: Path, name: str, snapshot: Path, tables: Sequence[sa.Table] = (NOTE,), *, clock: ManualClock | None = None
) -> Device:
    """A new device that begins with a snapshot."""
    device = Device(folder, name, tables, clock=clock)
    load_snapshot(device.store, snapshot)
    return device


def repaired_in(device: Device) -> Any:
    """What is not shown as merged, by the names of tables."""
    found = "SELECT t.name, r.key, r.hidden, r.merged, r.why FROM localstore_repaired AS r"
    rows = query(device.path, f"{found} JOIN localstore_table AS t ON t.id = r.tbl")
    return {(name, key): (hidden, exactly(msgspec.msgpack.decode(merged)), why) for name, key, hidden, merged, why in rows}


class GrowingNetwork(Network):
    """A network that new devices join: by a snapshot of one that is there, or by applying all of history."""

    def __init__(self, folder: Path, *schemas: list[sa.Table]) -> None:
        super().__init__(folder, *schemas)
        self.folder = folder

    def begin(self, *statements: str) -> None:
        """Each device writes something, and all know of it."""
        for device, statement in zip(self.devices, statements, strict=True):
            write(device.store, statement)
        self.seal()
        for device in self.devices:
            device.receive(*self._everything())

    def join(self, writer: int, tables: list[sa.Table], *, is_up_to_date: bool) -> Device:
        """Somebody joins with a snapshot of a device, which knows all that there is by now if it has to."""
        self.seal()
        device = self.devices[writer]
        if is_up_to_date:
            device.receive(*self._everything())
        return self.add(joined(self.folder, "j", snapshot_of(device, self.folder / "snapshot"), tables))

    def add(self, device: Device) -> Device:
        self.devices.append(device)
        self.history.append([])
        for received in self.received:
            received.append(0)
        self.received.append([0] * len(self.devices))
        return device

    def _everything(self) -> list[SealedChangeset]:
        return [sealed for made in self.history for sealed in made]
