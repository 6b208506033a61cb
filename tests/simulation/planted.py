"""Mistakes planted into copies of the library, to see that the simulation finds them, and after how many seeds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

__all__ = ["PLANTED", "Found", "Planted", "check_planted", "look_for"]

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("localstore", "adapters", "tests/merging", "tests/simulation")


class Planted(NamedTuple):
    """A mistake: in which file of ``localstore``, and what stands there instead; to be found within so many seeds."""

    name: str
    within: int
    file: str
    right: str
    wrong: str


class Found(NamedTuple):
    """In which seed's run a mistake showed, counted from 1, and how."""

    seeds: int
    why: str


PLANTED = (
    Planted(
        "the cursor is saved before the rows",
        20,
        "store/file.py",
        "        with self.transaction(unconstrained=True) as connection:\n"
        "            self._seal_leftovers(connection)\n"
        "            while applying.fold(connection, _FOLD_CHUNK):\n"
        "                pass\n"
        "            state = load_state(connection)\n"
        "            if state.cursor != after:\n",
        "        with self.transaction() as connection:\n"
        "            moved = connection.execute('UPDATE localstore_state SET cursor = ? WHERE cursor IS ?', (cursor, after))\n"
        "        with self.transaction(unconstrained=True) as connection:\n"
        "            self._seal_leftovers(connection)\n"
        "            while applying.fold(connection, _FOLD_CHUNK):\n"
        "                pass\n"
        "            state = load_state(connection)\n"
        "            if not moved.rowcount:\n",
    ),
    Planted(
        "the outbox is deleted before the acknowledgement",
        20,
        "sync/sending.py",
        "            await self._settle(batch, await self._push(batch))\n",
        "            await self._in_thread(self._store.acknowledge, batch[-1].number, self.device)\n"
        "            await self._settle(batch, await self._push(batch))\n",
    ),
    Planted(
        "a tie of stamps is kept local",
        60,
        "store/merge.py",
        "if offered.mark.rank <= mark.rank:",
        "if offered.mark.version[0] <= mark.version[0]:",
    ),
    Planted(
        "a tombstone is purged early",
        60,
        "store/purge.py",
        "return stamp_at(max(0, min([confirmed_ms, *map(stamp_ms, since)]) - 2 * offline_ms))",
        "return stamp_at(max(0, min([confirmed_ms, *map(stamp_ms, since)])))",
    ),
    Planted(
        "the stamp of what was written is not persisted",
        20,
        "store/migrations/versions/layout_0001_first.py",
        "SET last_number = max(last_number, OLD.number), last_stamp = max(last_stamp, OLD.stamp);",
        "SET last_number = max(last_number, OLD.number);",
    ),
    Planted(
        "the stamp of what was applied is not persisted",
        20,
        "store/apply.py",
        "        (cursor, turn.highest_stamp),",
        "        (cursor, 0),",
    ),
    Planted(
        "half of a changeset is applied, and the whole in another transaction",
        20,
        "store/apply.py",
        "    for changeset in turn:\n        rows.take(changeset)\n",
        "    from msgspec.structs import replace\n"
        "    for changeset in turn:\n"
        "        half = [replace(g, values=[c[:1] for c in g.values]) for g in changeset.groups[:1] if g.values]\n"
        "        rows.take(replace(changeset, groups=tuple(half)))\n"
        "        rows.flush()\n"
        "        rows._connection.execute('COMMIT')\n"
        "        rows._connection.execute('BEGIN IMMEDIATE')\n"
        "        rows.take(changeset)\n",
    ),
    Planted(
        "a duplicate is counted twice, as a push comes again",
        20,
        "testing/memory.py",
        "                if sealed.number <= len(stored):\n",
        "                if sealed.number < len(stored):\n",
    ),
    Planted(
        "a duplicate waits for its turn, as it comes again in a page",
        20,
        "store/apply.py",
        "            if sealed.number > self._number(sealed.device):\n",
        "            if sealed.number > self._number(sealed.device) or sealed.device != state.device:\n",
    ),
    Planted(
        "what waited is not looked at when its turn has come",
        20,
        "store/apply.py",
        "        for device in sorted(self._page.keys() | self._waiting, key=self._stamp_of_next):\n",
        "        for device in sorted(self._page.keys(), key=self._stamp_of_next):\n",
    ),
    Planted(
        "who logs in resumes what was paused",
        60,
        "sync/state.py",
        "        _P,\n        RESUME=Transition(_A, Effect.START),\n",
        "        _P,\n"
        "        LOG_IN=Transition(_A, Effect.START),\n"
        "        LOG_IN_STALE=Transition(_W, Effect.RENEW_TOKEN),\n"
        "        RESUME=Transition(_A, Effect.START),\n",
    ),
    Planted(
        "those who waited for a download are kept",
        20,
        "sync/waits.py",
        "            self._downloads = [wait for wait in self._downloads if wait[0] > mark]\n",
        "            self._downloads = list(self._downloads)\n",
    ),
    Planted(
        "the backoff is never reset",
        20,
        "sync/retry.py",
        "        self._attempts.attempt_number += 1\n",
        "        self._failures = getattr(self, '_failures', 0) + 1\n        self._attempts.attempt_number = self._failures\n",
    ),
    Planted(
        "the wake-up of a commit is lost while the session is busy",
        40,
        "sync/cycle.py",
        "        until = min(monotonic() + self._token.at_most(poll), self._looked_at + poll)\n",
        "        until = min(monotonic() + self._token.at_most(poll), self._looked_at + poll)\n"
        "        self._signals.work.clear()\n",
    ),
    Planted(
        "the wake-up of a commit is lost while the session waits",
        20,
        "sync/session.py",
        "        self._poke()\n        self._transfers.changed()\n",
        "        self._transfers.changed()\n",
    ),
    Planted(
        "the session of a closed realm does not end when all is uploaded",
        40,
        "sync/session.py",
        "            self.enter(Event.UPLOADED, life=life)\n",
        "            pass\n",
    ),
    Planted(
        "the wake-up of a hint is lost",
        20,
        "sync/cycle.py",
        "            self._observer.tell(Heard())\n        self._signals.work.set()\n",
        "            self._observer.tell(Heard())\n",
    ),
)
"""The seeds are about twice as many as were needed, and more, as another draw of chance may find a mistake later."""


def check_planted(name: str, seed: int) -> int:
    """Look for the mistakes whose name has this in it, and say where they showed; 1 when one did not in time."""
    missed = 0
    for planted in PLANTED:
        if name not in planted.name:
            continue
        found = look_for(planted, seed)
        missed += found is None
        said = f"not found in {planted.within}" if found is None else f"found at seed {found.seeds} of {planted.within}"
        print(f"{said:>24}: {planted.name}" + (f"\n{'':>26}{found.why:.160}" if found else ""), flush=True)
    return int(missed > 0)


def look_for(planted: Planted, seed: int) -> Found | None:
    """Run seeds with a copy of the library that has a mistake in it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for copied in _COPIED:
            shutil.copytree(ROOT / copied, folder / copied, ignore=shutil.ignore_patterns("__pycache__"))
        file = folder / "localstore" / planted.file
        text = file.read_text(encoding="utf-8")
        if text.count(planted.right) != 1:
            raise ValueError(f"{planted.file} has not once {planted.right!r}")
        file.write_text(text.replace(planted.right, planted.wrong), encoding="utf-8")
        command = [sys.executable, "-m", "tests.simulation", f"--seed={seed}", f"--runs={planted.within}", "--as-found"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([name, str(folder / "adapters")])}
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = re.search(r"^seed (\d+) failed after \d+ steps: (.*)$", ran.stdout, re.MULTILINE)
    if failed is None and " runs, " not in ran.stderr:
        raise RuntimeError(f"{planted.name}: {ran.stderr}")
    return None if failed is None else Found(int(failed[1]) - seed + 1, failed[2])
