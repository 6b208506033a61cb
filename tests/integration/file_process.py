"""A process that has files open, for tests of what others may do then: ``file_process.py WHAT PATH``.

It says on standard output what it has done, and goes on with each line that comes in, if only an empty one. What it can do:

    hold        open the file as a realm, say ``open``, and close it at the next line
    idle        the same through plain ``sqlite3``, after one query
    first       say ``ready``; with each line say ``waiting``, wait for the file of this number and ``.go``, open the file of
                this number with first data, and say ``opened ROWS RUNS``
    fail        the same with first data that fails, and say ``failed``, or ``late`` when another was first
    memory      open a realm in memory, say ``open DIRECTORY``, and end at the next line without closing it
    compact     say ``ready``; at the next line compact the file, and say ``compacted``
    write       write row after row, and say ``written COUNT`` after each, until it is killed
"""

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

from sqlmodel import Field, Session, SQLModel, func, select

from localstore import LocalConfiguration, Realm, uuid7


class Row(SQLModel, table=True):
    """Something."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str = ""


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def hold(path: str) -> None:
    with Realm.open(LocalConfiguration(path=path, schema={Row})):
        say("open")
        sys.stdin.readline()
    say("closed")


def idle(path: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM row").fetchall()
        say("open")
        sys.stdin.readline()
    say("closed")


def files_told(path: str) -> Iterator[Path]:
    """The files to open, each at the very moment when all others do."""
    for line in sys.stdin:
        file, go = Path(path + line.strip()), Path(f"{path}{line.strip()}.go")
        say("waiting")
        while not go.exists():
            time.sleep(0)
        yield file


def first(path: str) -> None:
    runs: list[int] = []

    def fill(session: Session) -> None:
        runs.append(1)
        session.add_all([Row(text="first") for _ in range(100)])

    say("ready")
    for file in files_told(path):
        runs.clear()
        with Realm.open(LocalConfiguration(path=file, schema={Row}, initial_data=fill)) as realm:
            say("opened", realm.exec(select(func.count()).select_from(Row)).one(), len(runs))


def fail(path: str) -> None:
    def refuse(session: Session) -> None:
        session.add_all([Row(text="never") for _ in range(100)])
        session.flush()
        raise ZeroDivisionError

    say("ready")
    for file in files_told(path):
        try:
            Realm.open(LocalConfiguration(path=file, schema={Row}, initial_data=refuse)).close()
        except ZeroDivisionError:
            say("failed")
        else:
            say("late")


def memory(path: str) -> None:
    realm = Realm.open(LocalConfiguration(path=path, schema={Row}, in_memory=True))
    with realm.write() as tx:
        tx.add(Row())
    say("open", realm.path.parent)
    sys.stdin.readline()


def compact(path: str) -> None:
    say("ready")
    sys.stdin.readline()
    Realm.compact(LocalConfiguration(path=path, schema={Row}))
    say("compacted")


def write(path: str) -> None:
    with Realm.open(LocalConfiguration(path=path, schema={Row})) as realm:
        for number in range(1, 1_000_000):
            with realm.write() as tx:
                tx.add(Row())
            say("written", number)


if __name__ == "__main__":
    actions = {function.__name__: function for function in (hold, idle, first, fail, memory, compact, write)}
    actions[sys.argv[1]](sys.argv[2])
