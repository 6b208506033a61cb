"""Four devices write into one folder all the time, while files in it are damaged and put back, and one of them is killed.

Meanwhile they make snapshots, and let go of what is in them; these files are damaged as well.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.damaging import DAMAGES, PASSING, Damage, first_numbers, foreign, snapshot_files, whole_files
from tests.integration.device_kit import DeviceProcess, check_converged, device, identity
from tests.integration.real_tools import until

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

ROUNDS = 6
HAMMER = "hammer 10"
HAMMER_WHILE_GONE = "hammer 2"
WRITES_BEFORE_KILL = 40  # of some hundred on a machine that has time, less than all on one that has none
NAMES = ("one", "two", "three", "victim")
KEEP_SECONDS = 10.0
SNAPSHOT_EVERY = 250
ENDS: dict[int, str | None] = {1: "half a copy", 2: None, 4: "its place held free", 5: None}
"""Rounds in which also what the killed one wrote last is damaged, or gone."""


class Vandal:
    """Somebody who damages files at random, the newest mostly, and puts each back after a moment."""

    def __init__(self, remote: Path, chance: random.Random) -> None:
        self.count = 0
        self._remote = remote
        self._chance = chance
        self._ways = [None, *(spoil for spoil, _ in DAMAGES.values())]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        end = threading.Event()
        thread = threading.Thread(target=self._work, args=(end,))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _work(self, end: threading.Event) -> None:
        while not end.wait(self._chance.uniform(0, 0.3)):
            damages: list[Damage] = []
            try:
                damages.extend(self._damages())
                end.wait(self._chance.uniform(0.05, 0.6))
            finally:
                for damage in damages:
                    damage.undo()

    def _damages(self) -> Iterator[Damage]:
        newest = [*whole_files(self._remote)[-20:], *snapshot_files(self._remote)[-6:]]
        files = [self._remote / "remote.json", *newest]
        for path in self._chance.sample(files, min(3, len(files))):
            with suppress(FileNotFoundError):  # let go of just now
                yield Damage(path, self._chance.choice(self._ways))
                self.count += 1


def newest_of_others(remote: Path, own: str, known: set[Path]) -> list[Path]:
    """Of each directory that got files since, the newest, but for a device's own."""
    newest = {path.parent: path for path in whole_files(remote) if path not in known and path.parent.name != own}
    return [newest[directory] for directory in sorted(newest)]


@contextmanager
def damaged(files: list[Path], kinds: Iterator[str]) -> Iterator[list[str]]:
    """Damage each in another way, until they are put back; what a device has to say of them."""
    chosen = [(path, *DAMAGES[next(kinds)]) for path in files]
    damages = [Damage(path, spoil) for path, spoil, _ in chosen]
    try:
        yield [f"{path} {told}" for path, _, told in chosen]
    finally:
        for damage in damages:
            damage.undo()


def damage_end(remote: Path, own: str, way: str | None) -> list[Damage]:
    """Damage a device's last two files. It had heard that the one before the last was stored before it wrote the last."""
    ends = [path for path in whole_files(remote) if path.parent.name == own][-2:]
    return [Damage(path, None if way is None else DAMAGES[way][0]) for path in ends]


class Crowd:
    """Devices on one folder, each ended whatever happens; among them one that is killed and started again and again."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.remote = folder / "shared"
        self.files = {name: folder / f"{name}.db" for name in NAMES}
        self.everybody: list[DeviceProcess] = []
        self._running = running
        *self.others, self.victim = [self._start(name) for name in NAMES]

    def _start(self, name: str) -> DeviceProcess:
        process = self._running.enter_context(
            device(
                self.files[name],
                self.remote,
                may_err=True,
                keep_seconds=KEEP_SECONDS,
                page_count=500,
                snapshot_every=SNAPSHOT_EVERY,
            )
        )
        self.everybody.append(process)
        return process

    def all_do(self, command: str) -> None:
        for process in (*self.others, self.victim):
            process.do(command)

    def identities(self) -> list[str]:
        return [identity(file) for file in self.files.values()]

    def hammer(self, vandal: Vandal, kinds: Iterator[str], ends: Callable[[str], list[Damage]]) -> int:
        """Kill one in the middle of everything, and let it find damage that it has not seen before, which it has to tell.

        Args:
            vandal: at work meanwhile.
            kinds: of damage that it is to find.
            ends: damages what a device wrote last.

        Returns:
            How many files it found damaged.
        """
        for process in (*self.others, self.victim):
            process.tell(HAMMER)
        with vandal.at_work():
            self.victim.write(WRITES_BEFORE_KILL)
            self.victim.kill()
        own, known = identity(self.files["victim"]), set(whole_files(self.remote))
        until(lambda: len(newest_of_others(self.remote, own, known)) >= len(self.others), "files to damage")
        with damaged(newest_of_others(self.remote, own, known), kinds) as expected:
            damages = ends(own)
            self.victim = self._start("victim")
            if any(not damage.path.exists() for damage in damages):  # it waits for them
                self.victim.do(HAMMER_WHILE_GONE)
                for damage in damages:
                    damage.undo()
            for text in expected:
                self.victim.complain(text)
        for damage in damages:
            damage.undo()
        for process in self.others:
            process.finish(HAMMER)
        return len(expected) + len(damages)


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_in_a_folder_that_is_hammered_and_damaged(tmp_path: Path, seed: int) -> None:
    chance, kinds = random.Random(seed), itertools.cycle(DAMAGES)
    with ExitStack() as running:
        crowd = Crowd(tmp_path, running)
        vandal = Vandal(crowd.remote, chance)
        crowd.all_do("write 1")
        crowd.all_do("upload")
        identities = crowd.identities()
        for number in range(ROUNDS):
            found = crowd.hammer(
                vandal, kinds, lambda own, n=number: damage_end(crowd.remote, own, ENDS[n]) if n in ENDS else []
            )
            vandal.count += found
        strange = foreign(whole_files(crowd.remote)[-1])
        crowd.all_do("upload")
        crowd.all_do("download")
        assert min(first_numbers(crowd.remote)) > 1  # only in snapshots is what they wrote first
        newcomer = running.enter_context(device(tmp_path / "newcomer.db", crowd.remote, may_err=True))
        newcomer.do("download")
    written = [key for process in crowd.everybody for key in process.written]
    _log.info("%d changesets, %d damages", len(written), vandal.count)
    check_converged([*crowd.files.values(), tmp_path / "newcomer.db"], written)
    assert crowd.identities() == identities  # none was reset: all that it had stored came back
    assert not list(tmp_path.glob("*.backup-*"))
    told = "".join(crowd.victim.errors)
    assert not [path for path in strange if f"{path} is not localstore's" not in told]
    assert not [name for name in PASSING for process in crowd.everybody for error in process.errors if f"/{name} " in error]
