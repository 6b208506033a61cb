"""A process that writes or loads a snapshot under hard conditions: ``snapshot_process.py CONDITION FOLDER [WORD]``.

CONDITION is ``killed``, to be killed when it loads and comes to the statement that begins with WORD; ``room``, for a limit on
the size of files; or ``memory``, to be asked how much it took. It says on standard output what came of it: one JSON object a
line.
"""

import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import LocalStoreError
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced
from localstore.store.snapshots import load_snapshot, write_snapshot
from localstore.testing.clock import ManualClock, environment

NOTE = sa.Table(
    "note",
    sa.MetaData(),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("title", sa.String),
    sa.Column("stars", sa.Integer),
)
DAMAGED_AT = 200_000


def opened(folder: Path, name: str) -> Store:
    world = environment(ManualClock(), int.from_bytes(name.encode(), "big"))
    return open_synced(folder / f"{name}.db", [NOTE], app="notes", options=StoreOptions(), environment=world)


def say(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def fill(folder: Path, rows: int) -> None:
    """A store that has applied so many rows of another device, by the shortest way."""
    opened(folder, "writer").close()
    with closing(sqlite3.connect(folder / "writer.db")) as connection:
        stamp = ManualClock().now_ms() << 16
        connection.execute("UPDATE localstore_state SET capturing = 0, cursor = x'31', last_stamp = ?", (stamp,))
        connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            " INSERT INTO note SELECT printf('%032d', n), 'title ' || n, n FROM numbers",
            (rows - 1,),
        )
        connection.execute("INSERT INTO localstore_device (id, device, number, stamp) VALUES (1, ?, 1, ?)", (b"o" * 16, stamp))
        (tbl,) = connection.execute("SELECT id FROM localstore_table WHERE name = 'note'").fetchone()
        connection.execute(
            "INSERT INTO localstore_clock (tbl, key, born, born_by, died_by) SELECT ?, id, ?, 1, 0 FROM note", (tbl, stamp)
        )
        connection.execute("UPDATE localstore_state SET capturing = 1")
        connection.commit()


def count(store: Store) -> int:
    with store.read() as session:
        return int(session.connection().exec_driver_sql("SELECT count(*) FROM note").scalar_one())


def killed(folder: Path, word: str) -> None:
    """Die at a statement of the loading."""
    is_loading: list[bool] = []

    def look(statement: str) -> None:
        if is_loading and statement.startswith(word):
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(sa.Engine, "connect")
    def trace(driver: sqlite3.Connection, _: object) -> None:
        driver.set_trace_callback(look)

    with closing(opened(folder, "loader")) as store:
        is_loading.append(True)
        load_snapshot(store, folder / "snapshot")
    say(survived=True)


def attempt(what: str, action: Callable[[], object]) -> None:
    try:
        say(did=what, error=None, result=action())
    except LocalStoreError as error:
        say(did=what, error=type(error).__name__, message=error.message)


def limit_size(size: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else most, most))


def with_little_room(folder: Path, _: str) -> None:
    fill(folder, 20_000)
    with closing(opened(folder, "writer")) as writer, closing(opened(folder, "loader")) as loader:
        limit_size(DAMAGED_AT)
        attempt("write", lambda: write_snapshot(writer, folder / "snapshot", cursor=b"1"))
        attempt("look for it", lambda: sorted(path.name for path in folder.glob("snapshot*")))
        limit_size(-1)
        attempt("write with room again", lambda: write_snapshot(writer, folder / "snapshot", cursor=b"1"))
        limit_size(DAMAGED_AT)
        attempt("load", lambda: load_snapshot(loader, folder / "snapshot"))
        attempt("count", lambda: count(loader))
        limit_size(-1)
        attempt("load with room again", lambda: load_snapshot(loader, folder / "snapshot"))
        attempt("count again", lambda: count(loader))


def with_little_memory(folder: Path, rows: str) -> None:
    with closing(opened(folder, "writer")) as writer, closing(opened(folder, "loader")) as loader:
        assert count(loader) == 0
        before = peak()
        assert write_snapshot(writer, folder / "snapshot", cursor=b"1")
        written = peak()
        load_snapshot(loader, folder / "snapshot")
        say(writing=written - before, loading=peak() - before, size=(folder / "snapshot").stat().st_size)
        assert count(loader) == int(rows)


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    condition, name, *rest = sys.argv[1:]
    {"killed": killed, "room": with_little_room, "memory": with_little_memory}[condition](Path(name), *(rest or [""]))
