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

__all__ = ["HARMLESS", "PLANTED", "ROOT", "check_planted"]

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
        "a runner-up is not kept",
        "merge.py",
        "kept = tuple(c for c in candidates if not any(mark != c.mark and _dominates(mark, c.mark) for mark in marks))",
        "kept = ()",
    ),
    Planted(
        "a lost value is listed only if its row still lives",
        "rows.py",
        "if self._is_noted(changeset, table, saw, lost):",
        "if row.state.lives and self._is_noted(changeset, table, saw, lost):",
    ),
    Planted(
        "SET DEFAULT sets null",
        "references.py",
        'if on_delete == "SET DEFAULT":',
        'if on_delete == "SET NOTHING":',
    ),
    Planted(
        "a composite reference is lost whole or not at all",
        "references.py",
        "return {column: None for column in columns if column not in table.key and not info[column][3]}",
        "return {c: None for c in columns} if not any(c in table.key or info[c][3] for c in columns) else {}",
    ),
    Planted(
        "what refers to a row that is set aside is left alone in other tables",
        "settling.py",
        "        for reference in self._to[table.name]:\n            self._left",
        "        for reference in ():\n            self._left",
    ),
    Planted(
        "what refers to a row that is set aside is left alone in a circle",
        "settling.py",
        "for reference in self._inner.intersection(self._to[row[0]]):",
        "for reference in ():",
    ),
    Planted(
        "rows that are set aside come back only when they are written to",
        "repair.py",
        "settling.settle(taken, self._changed, None if to_all else self._touched)",
        "settling.settle(taken, self._changed, self._touched)",
    ),
    Planted(
        "what is written here lets no row come back",
        "repair.py",
        'connection.execute("UPDATE localstore_state SET unsettled = max(unsettled, 1)")',
        "pass",
    ),
    Planted(
        "rows that refer to each other do not come back together",
        "settling.py",
        "if not self._back.isdisjoint(self._offered.get((reference, key), ())):",
        "if False:",
    ),
    Planted(
        "the later row keeps the unique value",
        "settling.py",
        "is_altered=record is not None) < place:",
        "is_altered=record is not None) > place:",
    ),
    Planted(
        "the row that was there keeps the unique value",
        "settling.py",
        "is_altered=record is not None) < place:",
        "is_altered=record is not None) != place:",
    ),
    Planted(
        "setting a row aside does not free another",
        "settling.py",
        "        if not self._inner:\n            self._wake(row)",
        "",
    ),
    Planted(
        "a row without its reference keeps its place in the order",
        "constraints.py",
        "return (is_altered, version, table.name,",
        "return (False, version, table.name,",
    ),
    Planted(
        "the WHERE of an index is not looked at",
        "constraints.py",
        "names = {part.casefold() for part in parts if part is not None} | set(_names(sql or ''))".replace("''", '""'),
        "names = {part.casefold() for part in parts if part is not None}",
    ),
    Planted(
        "clocks are forgotten in tables whose rows are in each other's way",
        "purge.py",
        "busy = _tables_with_unknown_columns(connection) | _tables_in_dispute(connection, tables.values())",
        "busy = _tables_with_unknown_columns(connection)",
    ),
    Planted(
        "clocks of rows that are set aside are forgotten",
        "purge.py",
        "return holds(connection, table, key_of(table, key)) == bool(state.lives)",
        "return True",
    ),
)

HARMLESS = (Planted("every group of changes is taken at once, however small", "bulk.py", "MANY = 10", "MANY = 1"),)
"""Changes that must make no difference."""


def check_planted(examples: int, seed: int) -> int:
    """Look for each mistake in so many examples; 1 when one is not found."""
    wrong = 0
    for planted in (*HARMLESS, *PLANTED):
        count = _examples_until_found(planted, examples, seed)
        wrong += (count is None) != (planted in HARMLESS)
        found = f"not found in {examples}" if count is None else f"found in example {count}"
        print(f"{found:>24}: {planted.name}", flush=True)
        if wrong and planted in HARMLESS:
            break  # what is found by then says nothing
    return int(wrong > 0)


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
