"""Files of a device that are damaged while nobody has them open: bits flipped, blocks zeroed, ends cut off.

SQLite notices what makes no sense to it. It keeps no checksums of a database, so a bit of a value may be another one and nobody
can tell; an encrypted file has a checksum for each page. Of a write-ahead log it takes what comes before the first frame whose
checksum is wrong, as after a crash. So of a plain file is told how often which of these happened; with a key nothing may be
shown that is wrong. Either way: whatever is raised is ours and says what to do; a new file in its place is filled by the
remote, and gets what the old one had not sent but for what is told as lost; nothing damaged gets to others; and once the file
is put back as it was, everything goes on.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import LocalStoreError
from tests.crashes.checking import Trial
from tests.crashes.processes import Failure, Run
from tests.crashes.world import World

__all__ = ["Spoiling"]

STRIKES_OF_A_WORLD = 40
DAMAGES_OF_A_LINE = 10
BLOCK = 512
KEY = b"k" * 32
PARTS = {"the database": ("", 0.5), "its WAL": ("-wal", 0.3), "its shared memory": ("-shm", 0.2)}
WRONG = "WRONG, and not noticed"
GONE = "the last transactions are gone"


def flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def blank(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data)) // BLOCK * BLOCK
    return data[:at] + bytes(min(BLOCK, len(data) - at)) + data[at + BLOCK :]


def scramble(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data)) // BLOCK * BLOCK
    return data[:at] + chance.randbytes(min(BLOCK, len(data) - at)) + data[at + BLOCK :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


WAYS = [flip, flip, blank, scramble, cut]


class Spoiling(Trial):
    """A trial whose strikes damage files."""

    def __init__(self, folder: Path, seed: int, log: Callable[[str], object], *, encrypted: bool) -> None:
        super().__init__(folder, seed, log)
        self.key = KEY if encrypted else None
        self.outcomes: Counter[str] = Counter()
        self.salvaged: Counter[str] = Counter()

    def run(self, strikes: int) -> None:
        number = 0
        while self.strikes.total() < strikes:
            self.new_world(number)
            self.note_length("writing", self.process(World.writing, "writing"))
            chance = random.Random(f"{self.seed}-{number}")
            for _ in range(min(STRIKES_OF_A_WORLD, strikes - self.strikes.total())):
                before = self.strikes.total() // DAMAGES_OF_A_LINE
                self._spoil(chance)
                if self.strikes.total() // DAMAGES_OF_A_LINE > before:
                    self.log(f"{self.strikes.total()} damages")
            shutil.rmtree(self.world)
            number += 1

    def remarks(self) -> list[str]:
        return [f"{count:>6} × {name}" for counts in (self.outcomes, self.salvaged) for name, count in sorted(counts.items())]

    def _spoil(self, chance: random.Random) -> None:
        """Kill a writer, so that there is a WAL; damage one of its files; look; replace; and put all back."""
        length = statistics.median(self.lengths["writing"])
        self.process(World.writing, "writing", after=chance.random() * length)
        files = {suffix: self.world / f"victim.db{suffix}" for suffix, _ in PARTS.values()}
        whole = {path: path.read_bytes() for path in files.values() if path.exists()}
        part = chance.choices(list(PARTS), [weight for _, weight in PARTS.values()])[0]
        path, way = files[PARTS[part][0]], chance.choice(WAYS)
        if not whole.get(path):
            return
        what = f"{way.__name__} {part}"
        path.write_bytes(way(whole[path], chance))
        self.strikes[f"damage {part}"] += 1
        run = self.process(attempted(World.looking), what)
        outcome = self._outcome(run, part)
        self.outcomes[f"{what}: {outcome}"] += 1
        if self.key is not None and outcome == WRONG:
            raise Failure(f"{what} of an encrypted file was not noticed: {run.lines}")
        for suffix, path in files.items():
            if path.exists():
                path.rename(self.world / f"damaged.db{suffix}")
        self._check_replaced(what, outcome)
        _remove([*files.values(), *self.world.glob("damaged.db*")])
        for path, data in whole.items():
            path.write_bytes(data)
        self.recover()

    def _outcome(self, run: Run, part: str) -> str:
        for kind, _, hint in run.said("error"):
            if not hint:
                raise Failure(f"an error without a way out: {run.lines}")
            return f"noticed, {kind}"
        shows = set(json.loads(run.told("shows")[0]))
        lost = self.committed["victim"] - shows
        if json.loads(run.told("wrong")[0]) or json.loads(run.told("short")[0]):
            return WRONG
        if lost and part == "its WAL":
            return GONE
        return WRONG if lost else "no harm"

    def _check_replaced(self, what: str, outcome: str) -> None:
        run = self.process(World.replacing, f"replacing after {what}")
        shows = set(json.loads(run.told("shows")[0]))
        if lost := (self.acknowledged | self.committed["other"]) - shows:
            raise Failure(f"the remote did not give back {sorted(lost)} after {what}")
        lost = self.committed["victim"] - shows
        for kind, message, hint in run.said("beyond-reading"):
            if kind not in ("StoreDamaged", "StoreUnusable") or not hint:
                raise Failure(f"{what} cannot be salvaged, and it is not said why: {kind}: {message}")
            self.salvaged[f"nothing can be read after {what}"] += 1
            return
        ((sent, _, told, *more),) = run.said("salvaged")
        if len(lost) > int(told) and not more and outcome != GONE:
            raise Failure(f"after {what} {told} changesets were told as lost, and {len(lost)} are: {sorted(lost)}")
        self.salvaged["unsent changesets were salvaged"] += int(sent)
        self.salvaged["unsent changesets were told as lost"] += int(told)


def attempted(action: Callable[[World], None]) -> Callable[[World], None]:
    """The same, with our errors told."""

    def act(world: World) -> None:
        try:
            action(world)
        except LocalStoreError as error:
            world.tell("error", type(error).__name__, error.message, error.hint)
        except (ValueError, sa.exc.OperationalError) as error:
            if world.key is not None:
                raise
            world.tell("error", "a value that its type does not take", str(error), "of a plain file, where SQLite sees no harm")

    return act


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
