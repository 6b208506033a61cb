"""A world in which something goes wrong again and again, and what has to hold each time: what all the ways to do so share."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.crashes.processes import Failure, Run, forked
from tests.crashes.world import PHASES, PREPARATIONS, ROWS, World

__all__ = ["Trial"]

STRIKES_OF_A_WORLD = 40  # then a new one, lest checking takes longer and longer
LENGTHS_KEPT = 5
FILES = (".db", ".db-wal", ".db-shm")
MADE = ("local", "copy-local", "copy-synced", "newcomer", "opened", "damaged")
"""What phases and their preparations make, and what is removed after each."""


class Trial:
    """Strikes, checks, and counts.

    Args:
        folder: for the worlds.
        seed: of all that is drawn.
        log: called with a line now and then.

    Attributes:
        strikes: how often something went wrong, by phase.
        lengths: how long each phase takes when nothing does, as of late.
    """

    key: bytes | None = None

    def __init__(self, folder: Path, seed: int, log: Callable[[str], object]) -> None:
        self.folder = folder
        self.seed = seed
        self.log = log
        self.strikes: Counter[str] = Counter()
        self.lengths: dict[str, list[float]] = defaultdict(list)
        self.world = folder
        self.committed: dict[str, set[str]] = {}
        self.acknowledged: set[str] = set()
        self._rolled_back: set[str] = set()
        self._users: dict[str, str] = {}
        self._runs = 0

    def run(self, strikes: int) -> None:
        """Strike so many times at least.

        Raises:
            Failure: something was lost, damaged or in the way. The world is left as it is.
        """
        number = 0
        while self.strikes.total() < strikes:
            self.new_world(number)
            if len(self.lengths) < len(PHASES):
                self._all_phases()
            chance = random.Random(f"{self.seed}-{number}")
            until = min(strikes, self.strikes.total() + STRIKES_OF_A_WORLD)
            while self.strikes.total() < until:
                name = chance.choice(list(PHASES))
                self.prepare(name)
                self.check(self.strike(name, chance), chance)
            self._all_phases()
            if strange := self._left_over():
                raise Failure(f"left over: {strange}")
            shutil.rmtree(self.world)
            self.log(", ".join(f"{count} × {name}" for name, count in sorted(self.strikes.items())))
            number += 1

    def strike(self, name: str, chance: random.Random) -> str:
        """Let something go wrong in a phase; returns what, in words."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """What else is worth saying in the end."""
        return []

    def disturb_recovery(self, what: str, chance: random.Random) -> None:
        """Let something go wrong in what comes then, if it should."""

    def new_world(self, number: int) -> None:
        self.world = self.folder / f"world-{number}"
        self.world.mkdir()
        self.committed, self.acknowledged, self._rolled_back = (
            {name: set() for name in ("victim", "other", "damaged")},
            set(),
            set(),
        )
        self._users = {}
        self.process(World.begin, "begin")
        self.recover()

    def _all_phases(self) -> None:
        """Each to its end, which also makes good what was broken off."""
        for name, action in PHASES.items():
            self.prepare(name)
            run = self.process(action, name)
            self.note_length(name, run)
            if name == "resetting" and not run.said("reset"):
                raise Failure("there was no client reset")
            self.check(name, None)

    def prepare(self, name: str) -> None:
        if name in PREPARATIONS:
            self.process(PREPARATIONS[name], f"prepare {name}")

    def process(self, action: Callable[[World], None], what: str, *, after: float | None = None) -> Run:
        """Run something in a process, and take account of what it says."""
        self._runs += 1
        chance = random.Random(f"{self.seed}-{self._runs}")
        run = forked(self.world, action, what, chance, after=after, key=self.key)
        for who, batch in run.said("committed"):
            self.committed[who].add(batch)
        self.acknowledged.update(run.told("acknowledged"))
        self._rolled_back.update(run.told("rolled-back"))
        self._users.update((name, "LOGGED_IN") for name in run.told("logged-in"))
        self._users.update((name, "LOGGED_OUT") for name in run.told("logged-out"))
        return run

    def note_length(self, name: str, run: Run) -> None:
        self.lengths[name] = [*self.lengths[name], run.seconds][-LENGTHS_KEPT:]

    # -- what has to hold

    def check(self, what: str, chance: random.Random | None) -> None:
        """At once, and after the device came back."""
        self.check_files(what)
        for name in ("local", "copy-local", "copy-synced"):
            self._check_whole_or_none(name, what)
        if chance is not None:
            self.disturb_recovery(what, chance)
        self.recover()
        for name in MADE:
            for suffix in FILES:
                self.world.joinpath(name + suffix).unlink(missing_ok=True)

    def recover(self) -> None:
        run = self.process(World.recovering, "recovering")
        self.note_length("recovering", run)
        self._check_users(dict(run.said("user")))
        (remote,) = run.told("remote-has")
        if lost := self.acknowledged - set(json.loads(remote)):
            raise Failure(f"acknowledged by the remote, and not there: {sorted(lost)}")
        victim, other = (set(json.loads(each)) for each in run.told("both-show"))
        if victim != other:
            raise Failure(f"the devices differ in {sorted(victim ^ other)}")
        if lost := set().union(*self.committed.values()) - victim:
            raise Failure(f"committed, and not there: {sorted(lost)}")
        for name, shows in run.said("shows"):
            if lost := set().union(*self.committed.values()) - set(json.loads(shows)):
                raise Failure(f"committed, and not at {name}: {sorted(lost)}")
        if undead := self._rolled_back & victim:
            raise Failure(f"rolled back, and there: {sorted(undead)}")

    def _check_users(self, found: dict[str, str]) -> None:
        """Who logged in is there; who logged out is not logged in. What was not told may have happened as well."""
        wrong = {name for name, state in self._users.items() if found.get(name) not in (state, "LOGGED_OUT")}
        if wrong:
            raise Failure(f"users {sorted(wrong)} are not as they were: {found}")

    def check_files(self, what: str) -> None:
        """Every database is sound. Looked at in a copy, so that it is the library that recovers the file itself."""
        aside = self.world / "aside"
        for path in [*self.world.glob("*.db"), *self.world.rglob("*.sqlite")]:
            aside.mkdir()
            for suffix in ("", "-wal", "-journal"):
                if (source := path.with_name(path.name + suffix)).exists():
                    shutil.copyfile(source, aside / source.name)
            with closing(sqlite3.connect(aside / path.name)) as connection:
                found = connection.execute("PRAGMA integrity_check").fetchall()
                if found != [("ok",)]:
                    raise Failure(f"{path} after {what}: {found}")
                if path.stem == "victim":
                    self._check_victim(connection, what)
            shutil.rmtree(aside)

    def _check_victim(self, connection: sqlite3.Connection, what: str) -> None:
        """No transaction is there by half, and none that was committed is missing."""
        counts = dict(connection.execute("SELECT batch, count(*) FROM entry GROUP BY batch").fetchall())
        if halves := [batch for batch, count in counts.items() if count != ROWS]:
            raise Failure(f"after {what} only a part is there of {halves}")
        if lost := self.committed["victim"] - set(counts):
            raise Failure(f"after {what}, committed and not in the file: {sorted(lost)}")

    def _check_whole_or_none(self, name: str, what: str) -> None:
        path = self.world / f"{name}.db"
        if not path.exists():
            return
        with closing(sqlite3.connect(path)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            count = connection.execute("SELECT count(*) FROM entry").fetchone()[0] if "entry" in tables else 0
        with closing(sqlite3.connect(self.world / "victim.db")) as connection:
            expected = ROWS if name == "local" else connection.execute("SELECT count(*) FROM entry").fetchone()[0]
        if tables and count != expected:
            raise Failure(f"{path} after {what}: {count} rows of {expected}")

    def _left_over(self) -> list[str]:
        ours = {"remote", "users", *(name + suffix for name in ("victim", "other") for suffix in FILES)}
        found = [path.name for path in self.world.iterdir() if path.name not in ours and ".backup-" not in path.name]
        return sorted(found + [path.name for path in self.world.rglob("*.tmp")])
