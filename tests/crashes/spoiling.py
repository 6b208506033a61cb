"""Files of a device that are damaged while nobody has them open: bits flipped, blocks zeroed, ends cut off. Then somebody
looks, or what a device does runs into it.

SQLite notices what makes no sense to it. It keeps no checksums of a database, so a bit of a value may be another one and nobody
can tell; an encrypted file has a checksum for each page. Of a write-ahead log it takes what comes before the first frame whose
checksum is wrong, as after a crash. So of a plain file is told how often which of these happened; with a key nothing may be
shown that is wrong. Either way: whatever is raised is ours and says what to do; a new file in its place is filled by the
remote, and gets what the old one had not sent but for what is told as lost; nothing damaged gets to others; what came to an
error leaves no half file, and all earlier copies as they were; and once the file is put back as it was, everything goes on.
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
from tests.crashes.checking import FILES, MADE, Trial
from tests.crashes.processes import Failure, Run
from tests.crashes.vandalism import SAVED, vandalised
from tests.crashes.world import PHASES, World

__all__ = ["Spoiling"]

STRIKES_OF_A_WORLD = 40
DAMAGES_OF_A_LINE = 10
BLOCK = 512
KEY = b"k" * 32
OF_THE_FOLDER = 0.2  # in which part of the cases it is no file of the device
NEW = 0.5  # in which part of those it is one that is just being made
LOOKED_AT = 0.4  # in which part of the cases nothing but that is done
WAL = "its WAL"
"""What is behind the damage goes without a word; but pages of it may be in the database, if a checkpoint was cut short."""
PARTS = {"the database": ("", 0.5), WAL: ("-wal", 0.3), "its shared memory": ("-shm", 0.2)}
RUN_INTO = ("writing", "migrating", "copying", "compacting", "resetting")
"""What runs into the damage, unless somebody looks. A snapshot of a plain file hands on what SQLite does not notice."""
RUN_INTO_ENCRYPTED = (*RUN_INTO, "making_snapshots")
LEFT_OPEN = ("looking", "writing", "migrating", "compacting", "copying")
"""Before these a writer was killed, so that there is a WAL."""
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
            for name in ("writing", "making_snapshots"):
                self.note_length(name, self.process(PHASES[name], name))
            chance = random.Random(f"{self.seed}-{number}")
            for _ in range(min(STRIKES_OF_A_WORLD, strikes - self.strikes.total())):
                before = self.strikes.total() // DAMAGES_OF_A_LINE
                if chance.random() < OF_THE_FOLDER:
                    self._spoil_folder(chance)
                else:
                    self._spoil(chance)
                if self.strikes.total() // DAMAGES_OF_A_LINE > before:
                    self.log(f"{self.strikes.total()} damages")
            shutil.rmtree(self.world)
            number += 1

    def remarks(self) -> list[str]:
        return [f"{count:>6} × {name}" for counts in (self.outcomes, self.salvaged) for name, count in sorted(counts.items())]

    def _spoil(self, chance: random.Random) -> None:
        """Leave a file, with a WAL if possible; damage it; look, or let something run into it; replace; and put all back."""
        name = "looking" if chance.random() < LOOKED_AT else chance.choice(RUN_INTO if self.key is None else RUN_INTO_ENCRYPTED)
        self.prepare(name)
        if name in LEFT_OPEN:
            length = statistics.median(self.lengths["writing"])
            self.process(World.writing, "writing", after=chance.random() * length)
        files = {suffix: self.world / f"victim.db{suffix}" for suffix, _ in PARTS.values()}
        whole = {path: path.read_bytes() for path in files.values() if path.exists()}
        part = chance.choices(list(PARTS), [weight for _, weight in PARTS.values()])[0]
        path, way = files[PARTS[part][0]], chance.choice(WAYS)
        if not whole.get(path):
            return
        what = f"{way.__name__} {part}" + ("" if name == "looking" else f", {name}")
        path.write_bytes(way(whole[path], chance))
        committed = set(self.committed["victim"])
        self.strikes[f"damage {part}"] += 1
        run = self._run_into(name, what)
        outcome = self._outcome(run, part)
        self.outcomes[f"{what}: {outcome}"] += 1
        if self.key is not None and outcome == WRONG and part != WAL:
            raise Failure(f"{what} of an encrypted file was not noticed: {run.lines}")
        for suffix, path in files.items():
            if path.exists():
                path.rename(self.world / f"damaged.db{suffix}")
        shows = self._check_replaced(what, part)
        self.committed["victim"] &= committed | shows  # what was written to the damaged file and went with it was told
        _remove(
            [*files.values(), *self.world.glob("damaged.db*"), *(self.world / (made + end) for made in MADE for end in FILES)]
        )
        for path, data in whole.items():
            path.write_bytes(data)
        self.recover()

    def _run_into(self, name: str, what: str) -> Run:
        """Do something with a damaged file; and look, if that did not notice."""
        copies = {path: path.read_bytes() for path in self.world.glob("*.backup-*")}
        if name != "looking":
            run = self.process(attempted(PHASES[name]), what)
            if strange := [each for each in self._left_over() if not each.startswith("copy-")]:
                raise Failure(f"{what} left over {strange}: {run.lines}")
            if run.said("error"):
                if changed := [path for path, data in copies.items() if not path.exists() or path.read_bytes() != data]:
                    raise Failure(f"{what} changed {changed}: {run.lines}")
                return run
        return self.process(attempted(World.looking), what)

    def _outcome(self, run: Run, part: str) -> str:
        for kind, _, hint in run.said("error"):
            if not hint:
                raise Failure(f"an error without a way out: {run.lines}")
            return f"noticed, {kind}"
        shows = set(json.loads(run.told("shows")[0]))
        lost = self.committed["victim"] - shows
        if json.loads(run.told("wrong")[0]) or json.loads(run.told("short")[0]):
            return WRONG
        if lost and part == WAL:
            return GONE
        return WRONG if lost else "no harm"

    def _check_replaced(self, what: str, part: str) -> set[str]:
        run = self.process(World.replacing, f"replacing after {what}")
        shows = set(json.loads(run.told("shows")[0]))
        if lost := (self.acknowledged | self.committed["other"]) - shows:
            raise Failure(f"the remote did not give back {sorted(lost)} after {what}")
        lost = self.committed["victim"] - shows
        for kind, message, hint in run.said("beyond-reading"):
            if kind not in ("StoreDamaged", "StoreUnusable") or not hint:
                raise Failure(f"{what} cannot be salvaged, and it is not said why: {kind}: {message}")
            self.salvaged[f"nothing can be read after {what}"] += 1
            return shows
        ((sent, _, told, *more),) = run.said("salvaged")
        if len(lost) > int(told) and not more and part != WAL:
            raise Failure(f"after {what} {told} changesets were told as lost, and {len(lost)} are: {sorted(lost)}")
        self.salvaged["unsent changesets were salvaged"] += int(sent)
        self.salvaged["unsent changesets were told as lost"] += int(told)
        return shows

    def _spoil_folder(self, chance: random.Random) -> None:
        """Damage a file of the folder while snapshots are made; then a new device begins with what there is."""
        self.prepare("making_snapshots")
        way, is_new = chance.choice(WAYS), chance.random() < NEW
        what = f"{way.__name__} a {'new snapshot' if is_new else 'file'} of the folder, making snapshots"
        after = None if is_new else chance.random() * statistics.median(self.lengths["making_snapshots"])
        making = vandalised(World.making_snapshots, lambda data: way(data, chance), after)
        run = self.process(attempted(making), what)
        if not run.said("damaged"):
            return
        self.strikes["damage the folder"] += 1
        self.outcomes[f"{what}: {self._folder_outcome(run, what)}"] += 1
        path, saved = Path(run.told("damaged")[0]), self.world / SAVED
        if path.suffix == ".changes" and path.exists():  # which is waited for; a snapshot is not
            saved.rename(path)
        self.process(World.beginning, f"beginning after {what}")
        self.recover()
        if not is_new and path.exists() and saved.exists():
            saved.rename(path)
        _remove([saved, *(self.world / ("newcomer" + end) for end in FILES)])
        if strange := self._left_over():
            raise Failure(f"{what} left over {strange}")

    def _folder_outcome(self, run: Run, what: str) -> str:
        for kind, message, hint in run.said("error"):
            if not hint:
                raise Failure(f"{what}: an error without a way out: {message}")
            return f"noticed, {kind}"
        return "no harm"


def attempted(action: Callable[[World], None]) -> Callable[[World], None]:
    """The same, with our errors told."""

    def act(world: World) -> None:
        try:
            action(world)
        except LocalStoreError as error:
            world.tell("error", type(error).__name__, error.message, error.hint)
        except (ValueError, sa.exc.SQLAlchemyError) as error:
            if action is World.migrating:
                world.tell("error", "as SQLAlchemy has it", str(error), "the engine is the application's own there")
                return
            if world.key is not None or not isinstance(error, ValueError | sa.exc.OperationalError):
                raise
            world.tell("error", "a value that its type does not take", str(error), "of a plain file, where SQLite sees no harm")

    return act


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
