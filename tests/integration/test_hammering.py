"""Four devices write into one folder all the time, while files in it are damaged and put back, and one of them is killed."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.damaging import DAMAGES, PASSING, Damage, foreign, whole_files
from tests.integration.device_kit import DeviceProcess, check_converged, device, identity
from tests.integration.real_tools import until

pytestmark = pytest.mark.slow

ROUNDS = 6
HAMMER = "hammer 10"
ENDS_DAMAGED = {1, 4}  # rounds in which also what the killed one wrote last is damaged
WRITES_BEFORE_KILL = 100
NAMES = ("one", "two", "three", "victim")


@contextmanager
def vandalism(remote: Path, chance: random.Random) -> Iterator[None]:
    """Somebody damages files at random, the newest mostly, and puts each back after a moment."""
    end = threading.Event()
    ways = [None, *(spoil for spoil, _ in DAMAGES.values())]

    def work() -> None:
        while not end.wait(chance.uniform(0, 0.3)):
            files = [remote / "remote.json", *whole_files(remote)[-20:]]
            chosen = chance.sample(files, min(3, len(files)))
            damages = [Damage(path, chance.choice(ways)) for path in chosen]
            end.wait(chance.uniform(0.05, 0.6))
            for damage in damages:
                damage.undo()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


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


def damage_end(remote: Path, own: str) -> list[Damage]:
    """Damage a device's last two files. It had heard that the one before the last was stored before it wrote the last."""
    ends = [path for path in whole_files(remote) if path.parent.name == own][-2:]
    return [Damage(path, DAMAGES["half a copy"][0]) for path in ends]


class Crowd:
    """Devices on one folder, each ended whatever happens; among them one that is killed and started again and again."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.remote = folder / "shared"
        self.files = {name: folder / f"{name}.db" for name in NAMES}
        self.everybody: list[DeviceProcess] = []
        self._running = running
        *self.others, self.victim = [self._start(name) for name in NAMES]

    def _start(self, name: str) -> DeviceProcess:
        process = self._running.enter_context(device(self.files[name], self.remote, may_err=True, page_count=500))
        self.everybody.append(process)
        return process

    def all_do(self, command: str) -> None:
        for process in (*self.others, self.victim):
            process.do(command)

    def identity_of_victim(self) -> str:
        return identity(self.files["victim"])

    def hammer(self, chance: random.Random, kinds: Iterator[str], *, damages_end: bool) -> None:
        """Kill one in the middle of everything, and let it find damage that it has not seen before, which it has to tell."""
        for process in (*self.others, self.victim):
            process.tell(HAMMER)
        with vandalism(self.remote, chance):
            self.victim.write(WRITES_BEFORE_KILL)
            self.victim.kill()
        own, known = self.identity_of_victim(), set(whole_files(self.remote))
        until(lambda: len(newest_of_others(self.remote, own, known)) >= len(self.others), "files to damage")
        with damaged(newest_of_others(self.remote, own, known), kinds) as expected:
            ends = damage_end(self.remote, own) if damages_end else []
            self.victim = self._start("victim")
            for text in expected:
                self.victim.complain(text)
        for damage in ends:
            damage.undo()
        for process in self.others:
            process.finish(HAMMER)


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_in_a_folder_that_is_hammered_and_damaged(tmp_path: Path, seed: int) -> None:
    chance, kinds = random.Random(seed), itertools.cycle(DAMAGES)
    identities = set()
    with ExitStack() as running:
        crowd = Crowd(tmp_path, running)
        crowd.all_do("write 1")
        crowd.all_do("upload")
        for number in range(ROUNDS):
            identities.add(crowd.identity_of_victim())
            crowd.hammer(chance, kinds, damages_end=number in ENDS_DAMAGED)
        strange = foreign(whole_files(crowd.remote)[-1])
        crowd.all_do("upload")
        crowd.all_do("download")
        identities.add(crowd.identity_of_victim())
    check_converged(crowd.files.values(), [key for process in crowd.everybody for key in process.written])
    assert len(identities) > len(ENDS_DAMAGED)  # a client reset for each, as less was stored than had been acknowledged
    told = "".join(crowd.victim.errors)
    assert not [path for path in strange if f"{path} is not localstore's" not in told]
    assert not [name for name in PASSING for process in crowd.everybody for error in process.errors if f"/{name} " in error]
