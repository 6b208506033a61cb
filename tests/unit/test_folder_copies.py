"""A shared folder of which each device has a copy of its own, carried from one to another file by file, in any order.

A sync tool brings files and deletions late, early, half, and undone; clocks are wrong; devices make snapshots and trim
meanwhile. What each device knows is kept beside, so that a snapshot is exactly what its writer knew.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from localstore.adapter import Cursor, Hello, Limit
from localstore.errors import Offline, ResetRequired, SnapshotUnusable
from localstore.reasons import ResetReason
from localstore.testing.clock import ManualClock, environment
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import make
from tests.unit.folder_snapshot_kit import chunks, content

DAY = 86_400.0
Known = dict[bytes, int]


@dataclass
class World:
    """All copies of the folder, and what a sync tool knows: which files there ever were, and which were deleted."""

    directory: Path
    random: random.Random
    clock: ManualClock = field(default_factory=ManualClock)
    files: dict[Path, bytes] = field(default_factory=dict)
    deleted: set[Path] = field(default_factory=set)
    stored: dict[bytes, Known] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)

    def copies(self) -> list[Path]:
        return [device.folder for device in self.devices]

    def look(self) -> None:
        """See what devices wrote and removed since; what a tool brought itself is no news."""
        for device in self.devices:
            here = {path.relative_to(device.folder) for path in files_in(device.folder)}
            for path in here - self.files.keys():
                self.files[path] = (device.folder / path).read_bytes()
            self.deleted |= device.had - here
            device.had = here

    def carry(self, device: Device, path: Path, *, half: bool = False) -> None:
        """Bring one file, or its deletion, to one copy."""
        target = device.folder / path
        if path in self.deleted:
            target.unlink(missing_ok=True)
            device.had.discard(path)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = self.files[path]
        target.write_bytes(whole[: len(whole) // 2] if half else whole)
        device.had.add(path)

    def pending(self, device: Device) -> list[Path]:
        """What is not yet as it should be in a copy."""

        def is_due(path: Path) -> bool:
            target = device.folder / path
            if path in self.deleted:
                return target.exists()
            return not target.exists() or target.stat().st_size != len(self.files[path])

        return [path for path in sorted(self.files) if is_due(path)]

    def carry_all(self) -> None:
        for device in self.devices:
            for path in self.pending(device):
                self.carry(device, path)


@dataclass
class Device:
    """One device with its copy of the folder. After a reset it is another one, on the same copy."""

    world: World
    folder: Path
    device: bytes
    ahead_ms: int = 0
    cursor: Cursor | None = None
    remote_id: str | None = None
    known: Known = field(default_factory=dict)
    had: set[Path] = field(default_factory=set)
    resets: list[ResetReason] = field(default_factory=list)

    def line(self) -> FolderAdapter:
        clock = ManualClock(self.world.clock.now_ms() + self.ahead_ms)
        world = dataclasses.replace(environment(clock, self.world.random.getrandbits(60)), run_blocking=at_once)
        adapter = FolderAdapter(self.folder, environment=world)
        hello = Hello(app="todo", partition="default", device=self.device, remote_id=self.remote_id, cursor=self.cursor)
        welcome = asyncio.run(adapter.connect(hello))
        sent = self.known.get(self.device, 0)
        self.remote_id = welcome.remote_id
        if welcome.last_number < sent:
            raise ResetRequired("remote restored")
        assert welcome.last_number == sent
        return adapter

    def push(self) -> None:
        number = self.known.get(self.device, 0) + 1
        asyncio.run(self.line().push(make(self.device, number, number)))
        self.known[self.device] = number

    def snapshot(self) -> None:
        """As a session does: at the head, and then what is in it may go."""
        line = self.read()
        if line is None or self.cursor is None or not self.known:
            return
        data = self.world.random.randbytes(64)
        self.world.stored[data] = dict(self.known)
        asyncio.run(line.write_snapshot(self.cursor, chunks(data)))
        self.world.look()
        asyncio.run(line.trim(self.cursor))

    def read(self) -> FolderAdapter | None:
        """Pull to the head, by way of a reset and a snapshot where it is asked for; None where that has to wait."""
        for _ in range(4):
            try:
                line = self.line()
                if self.cursor is None and not self.known:
                    self.begin(line)
                self.pull(line)
                return line
            except Offline:
                return None
            except ResetRequired as error:
                self.resets.append(error.kind)
                self.device, self.cursor, self.known = self.world.random.randbytes(16), None, {}
        return None

    def begin(self, line: FolderAdapter) -> None:
        """Take the newest snapshot that is whole."""
        for _ in range(3):
            info = asyncio.run(line.latest_snapshot())
            if info is None:
                return
            try:
                known = self.world.stored[content(line, info)]
            except SnapshotUnusable:
                continue
            self.known, self.cursor = dict(known), info.cursor
            return

    def pull(self, line: FolderAdapter) -> None:
        more = True
        while more:
            page = asyncio.run(line.pull(self.cursor, Limit(max_count=3)))
            for sealed in page.changesets:
                assert sealed.number <= self.known.get(sealed.device, 0) + 1, "a gap"
                self.known[sealed.device] = max(sealed.number, self.known.get(sealed.device, 0))
            self.cursor, more = page.cursor, page.more


async def at_once(work: Callable[..., Any], /, *arguments: Any) -> Any:
    """In no other thread: there are thousands of calls."""
    return work(*arguments)


def files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def begin(directory: Path, seed: int, count: int = 3) -> World:
    world = World(directory, random.Random(seed))
    for number in range(count):
        world.devices.append(Device(world, world.directory / str(number), bytes([65 + number]) * 16))
    first = world.devices[0]
    first.push()
    world.look()
    world.carry_all()
    return world


def step(world: World, moves: list[str]) -> None:
    choose = world.random.choice
    device, move = choose(world.devices), choose(moves)
    if move in ("carry", "half", "undo"):
        pending = world.pending(device) if move != "undo" else sorted(world.deleted)
        if pending:
            path = choose(pending)
            if move == "undo":
                world.deleted.discard(path)
            world.carry(device, path, half=move == "half" and path not in world.deleted)
    elif move == "days":
        world.clock.advance(DAY * choose([0.5, 2, 8, 31]))
    elif move == "clock":
        device.ahead_ms = int(DAY * 1000 * choose([0, -40, 40, 4000]))
    else:
        try:
            {"push": device.push, "read": device.read, "snapshot": device.snapshot}[move]()
        except (Offline, ResetRequired):
            device.read()
    world.look()


def check_nobody_missed_anything(world: World) -> None:
    """When all is carried everywhere, each knows what any knows, or says that it waits."""
    for _ in range(3):
        world.carry_all()
        readers = [device.read() for device in world.devices]
        world.look()
    sent: Known = {}
    for device in world.devices:
        for other, number in device.known.items():
            sent[other] = max(number, sent.get(other, 0))
    for device, reader in zip(world.devices, readers, strict=True):
        assert reader is None or device.known == sent


WILD = ["push", "push", "read", "read", "snapshot", "snapshot", "days", "carry", "carry", "carry", "half", "undo", "clock"]


SEEDS = settings(max_examples=10, deadline=None, phases=[Phase.generate])  # a seed cannot be made simpler


@pytest.mark.slow
@SEEDS
@given(st.integers(0, 2**32))
def test_whatever_is_carried_in_whatever_order_nobody_misses_anything(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    world = begin(tmp_path_factory.mktemp("copies"), seed)
    for _ in range(world.random.randint(10, 60)):
        step(world, WILD)
    check_nobody_missed_anything(world)


@pytest.mark.slow
@SEEDS
@given(st.integers(0, 2**32))
def test_who_is_a_week_behind_is_never_reset(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Files and deletions come in any order, and all within a week; devices read all that comes."""
    world = begin(tmp_path_factory.mktemp("copies"), seed)
    for _ in range(world.random.randint(7, 15)):
        for _ in range(3):
            for _ in range(world.random.randint(0, 3)):
                step(world, ["push", "read", "snapshot", "snapshot", "carry"])
            world.clock.advance(DAY * 2)
        for device in world.random.sample(world.devices, 3):
            pending = world.pending(device)
            for path in world.random.sample(pending, len(pending)):
                world.carry(device, path)
                if world.random.random() < 0.3:
                    device.read()
            device.read()
        world.look()
    assert [device.resets for device in world.devices] == [[], [], []]
    check_nobody_missed_anything(world)
