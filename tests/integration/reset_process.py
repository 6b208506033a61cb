"""Processes that are killed in the middle of a reset or an undoing: ``reset_process.py WHAT FOLDER STEP``.

WHAT is ``recover``, ``discard``, ``seed`` or ``undo``. A story is made once; then, for every STEP-th statement, a child of this
process does it on a copy and is killed at that statement. It says on standard output what each left: one JSON object a line.
"""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced
from localstore.store.resetting import ResetPlan, reset
from localstore.store.undoing import undo_refused
from localstore.testing.clock import ManualClock, environment

METADATA = sa.MetaData()
NOTE = sa.Table("note", METADATA, sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String, unique=True))
PART = sa.Table(
    "part", METADATA, sa.Column("id", sa.String, primary_key=True), sa.Column("note", sa.String, sa.ForeignKey("note.id"))
)
STORY = (
    "INSERT INTO note VALUES ('a', 'first')",
    "INSERT INTO note VALUES ('b', 'second')",
    "INSERT INTO part VALUES ('p', 'b')",
)
UNSENT = ("UPDATE note SET title = 'third' WHERE id = 'a'", "INSERT INTO note VALUES ('c', 'fourth')", "DELETE FROM part")


def say(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def opened(folder: Path, name: str) -> Store:
    world = environment(ManualClock(), int.from_bytes(name.encode(), "big"))
    return open_synced(folder / f"{name}.db", [NOTE, PART], app="notes", options=StoreOptions(), environment=world)


def write(store: Store, sql: str) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql(sql)


def tell(folder: Path, what: str) -> None:
    """Two devices, of which one has changes of its own, and a fresh store."""
    with closing(opened(folder, "x")) as x, closing(opened(folder, "y")) as y, closing(opened(folder, "fresh")) as fresh:
        for sql in STORY:
            write(x, sql)
        history = x.batch(max_bytes=1 << 30, max_count=100)
        x.acknowledge(len(history))
        y.apply(history, after=None, cursor=b"1")
        write(y, "UPDATE note SET title = 'theirs' WHERE id = 'b'")
        history += y.batch(max_bytes=1 << 30, max_count=100)
        x.apply(history if what == "undo" else history[:2], after=None, cursor=b"1")
        for sql in UNSENT:
            write(x, sql)
        if what == "undo":
            x.refuse(len(STORY) + 1, "no")
            x.refuse(len(STORY) + 2, "no")
        x.fold()  # which is a transaction of its own
        fresh.apply([] if what == "seed" else history, after=None, cursor=b"1")


def do(folder: Path, what: str) -> None:
    with closing(opened(folder, "x")) as x, closing(opened(folder, "fresh")) as fresh:
        if what == "undo":
            assert undo_refused(x, fresh, cursor=b"1")
        else:
            reset(x, fresh, ResetPlan(recover=what != "discard", seed=what == "seed"), ManualClock().now_ms())


def contents(path: Path) -> str:
    """All that is in a file, but for what opening it may change."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchone() is None
        found = hashlib.sha256()
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall():
            found.update(repr((name, sql)).encode())
            if sql and sql.startswith("CREATE TABLE") and not name.startswith("sqlite_"):
                rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
                found.update(repr(sorted(map(repr, rows))).encode())
        return found.hexdigest()[:12]


def killed(folder: Path, what: str, number: int) -> bool:
    """Let a child do it and die at a statement; returns whether it lived to the end."""
    child = os.fork()
    if not child:
        count = 0

        def look(_: str) -> None:
            nonlocal count
            count += 1
            if count >= number:
                os.kill(os.getpid(), signal.SIGKILL)

        @sa.event.listens_for(sa.Engine, "connect")
        def trace(driver: sqlite3.Connection, _: object) -> None:
            driver.set_trace_callback(look)

        do(folder, what)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(what: str, folder: Path, step: int) -> None:
    story = folder / "story"
    story.mkdir()
    tell(story, what)
    done = folder / "done"
    shutil.copytree(story, done)
    do(done, what)
    say(before=contents(story / "x.db"), after=contents(done / "x.db"))
    number, lived = 1, False
    while not lived:
        copy = folder / f"{number}"
        shutil.copytree(story, copy)
        lived = killed(copy, what, number)
        with closing(opened(copy, "x")):  # recovers what SQLite has to
            pass
        found = contents(copy / "x.db")
        if found == contents(story / "x.db"):
            do(copy, what)
        say(number=number, found=found, in_the_end=contents(copy / "x.db"))
        shutil.rmtree(copy)
        number += step


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
