"""Mistakes planted into copies of the library, to see that they are found, and after how many examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

__all__ = ["PLANTED", "check_planted"]

ROOT = Path(__file__).resolve().parents[2]


class Planted(NamedTuple):
    """A mistake: in which file of ``localstore/store``, and what stands there instead."""

    name: str
    file: str
    right: str
    wrong: str


PLANTED = (
    Planted(
        "an update survives a later delete of its row",
        "merge.py",
        "ended = [life for life in state.lives if life < version]",
        "ended = [life for life in state.lives if life < version and all(m.version < version for m in state.marks.values())]",
    ),
    Planted(
        "ties of stamps keep the local value",
        "merge.py",
        "if offered.mark.rank <= mark.rank:",
        "if offered.mark.rank[0][0] <= mark.rank[0][0]:",
    ),
    Planted(
        "an insert of a deleted key comes back with the old row's later update",
        "merge.py",
        "lives = [life_of(life) for life in state.lives if not life[0] or (version[0] and (life == PURGED or saw(life)))]",
        "lives = [life_of(life) for life in state.lives]",
    ),
    Planted(
        "what a changeset depends on is not waited for",
        "apply.py",
        "if dependency.number > self._number(dependency.device):",
        "if dependency.number > self._number(dependency.device) and dependency.device == self._own:",
    ),
    Planted(
        "a gap in a device's changesets is not waited for",
        "apply.py",
        "number = self._number(device) + 1\n            found = self._page.get(device, {}).get(number)",
        "number = min(self._page.get(device, {}), default=self._number(device) + 1)\n"
        "            found = self._page.get(device, {}).get(number)",
    ),
    Planted(
        "what a writer had seen is told for one device only",
        "seal.py",
        "WHERE number > declared AND device <> ? ORDER BY id",
        "WHERE number > declared AND device <> ? ORDER BY id LIMIT 1",
    ),
    Planted(
        "own inserts count as older than everything",
        "rows.py",
        "is_there = change.op not in _INSERTS if own else self._is_there(table, change)",
        "is_there = self._is_there(table, change)",
    ),
    Planted(
        "SET DEFAULT sets null",
        "references.py",
        'if on_delete == "SET DEFAULT":',
        'if on_delete == "SET NOTHING":',
    ),
    Planted(
        "only the first link of a chain is followed",
        "repair.py",
        "while moves.changed or moves.went:\n            outcomes",
        "for _ in range(1):\n            outcomes",
    ),
    Planted(
        "rows that are set aside never come back",
        "repair.py",
        "returning = set(hidden) if may_return else set[_Row]()",
        "returning = set[_Row]()",
    ),
    Planted(
        "rows that refer to each other do not come back together",
        "repair.py",
        "if (target.name, key) in returning:\n            return True",
        "",
    ),
    Planted(
        "clocks of rows that are set aside are forgotten",
        "purge.py",
        "return holds(connection, table, key_of(table, key)) == bool(state.lives)",
        "return True",
    ),
    Planted(
        "a runner-up is not kept",
        "merge.py",
        "kept = tuple(c for c in candidates if not any(mark != c.mark and _dominates(mark, c.mark) for mark in marks))",
        "kept = ()",
    ),
    Planted(
        "what is written here does not let rows come back",
        "repair.py",
        'connection.execute("UPDATE localstore_state SET unsettled = max(unsettled, 1)")',
        "pass",
    ),
    Planted(
        "a lost value of a deleted row is not listed",
        "rows.py",
        "if is_unseen or (is_late",
        "if (is_unseen and row.state.lives) or (is_late",
    ),
)


def check_planted(examples: int, seed: int) -> int:
    """Look for each mistake in so many examples; 1 when one is not found."""
    missed = 0
    for planted in PLANTED:
        count = _examples_until_found(planted, examples, seed)
        missed += count is None
        found = f"not found in {examples}" if count is None else f"found in example {count}"
        print(f"{found:>24}: {planted.name}", flush=True)
    return int(missed > 0)


def _examples_until_found(planted: Planted, examples: int, seed: int) -> int | None:
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "localstore", copy / "localstore", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / "merging", copy / "tests" / "merging", ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "localstore" / "store" / planted.file
        text = file.read_text(encoding="utf-8")
        if text.count(planted.right) != 1:
            raise ValueError(f"{planted.file} has not once {planted.right!r}")
        file.write_text(text.replace(planted.right, planted.wrong), encoding="utf-8")
        command = [sys.executable, "-m", "tests.merging", "--as-found", f"--examples={examples}", f"--seed={seed}"]
        environment = {**os.environ, "PYTHONPATH": folder}
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    counts = re.findall(r"^(\d+) examples", ran.stdout, re.MULTILINE)
    if not counts:
        raise RuntimeError(f"{planted.name}: {ran.stderr}")
    return int(counts[-1]) if ran.returncode else None
