"""A process that the system does not let write: ``limited_process.py LIMIT FOLDER``.

LIMIT is ``size``, for a limit on the size of files, or ``rights``, for a user who may only read. It tries one thing after
the other and says on standard output what became of each: one JSON object a line.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from sqlmodel import Field, SQLModel, func, select

from localstore import LocalConfiguration, Realm
from localstore.errors import LocalStoreError

NOBODY = 65534


class Note(SQLModel, table=True):
    id: int = Field(primary_key=True)
    text: str


def attempt(what: str, action: Callable[[], object]) -> None:
    """Do something and say what became of it."""
    said: dict[str, object] = {"did": what, "error": None}
    try:
        said["result"] = action()
    except LocalStoreError as error:
        said |= {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(said, default=str) + "\n")
    sys.stdout.flush()


def write(realm: Realm, first: int, count: int, size: int) -> None:
    with realm.write() as tx:
        tx.add_all([Note(id=first + number, text="x" * size) for number in range(count)])


def rows(realm: Realm) -> int:
    return realm.exec(select(func.count()).select_from(Note)).one()


def rows_of(configuration: LocalConfiguration) -> int:
    with Realm.open(configuration) as realm:
        return rows(realm)


def opened(path: Path) -> None:
    Realm.open(LocalConfiguration(path=path, schema={Note})).close()


def limit_size(size: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else most, most))


def with_little_room(folder: Path) -> None:
    realm = Realm.open(LocalConfiguration(path=folder / "notes.db", schema={Note}))
    write(realm, 0, 1, 10)
    limit_size(200_000)
    attempt("write at the end of the block", lambda: write(realm, 1000, 1000, 1000))
    attempt("write in the middle of the block", lambda: write(realm, 10_000, 5000, 1000))
    attempt("read", lambda: rows(realm))
    limit_size(-1)
    attempt("write with room again", lambda: write(realm, 1, 1, 10))
    attempt("read again", lambda: rows(realm))
    realm.close()
    limit_size(1000)
    attempt("open a new file", lambda: opened(folder / "new.db"))
    attempt("open the file", lambda: opened(folder / "notes.db"))
    limit_size(0)
    attempt("open a new file with no room at all", lambda: opened(folder / "none.db"))
    attempt("look for new files", lambda: sorted(path.name for path in folder.glob("n*.db*") if path.stem != "notes"))
    limit_size(-1)
    attempt("open a new file with room again", lambda: opened(folder / "new.db"))
    attempt("open the file with room again", lambda: opened(folder / "notes.db"))


def without_rights(folder: Path) -> None:
    opened(folder / "locked" / "notes.db")
    opened(folder / "open" / "notes.db")
    (folder / "open").chmod(0o777)
    (folder / "open" / "notes.db").chmod(0o444)
    (folder / "locked").chmod(0o555)
    if os.geteuid() == 0:  # whom no rights bind
        os.setuid(NOBODY)
    attempt("open in a folder that may not be written", lambda: opened(folder / "locked" / "notes.db"))
    attempt("make a file there", lambda: opened(folder / "locked" / "new.db"))
    with Realm.open(LocalConfiguration(path=folder / "open" / "notes.db", schema={Note})) as realm:
        attempt("read a file that may not be written", lambda: rows(realm))
        attempt("write it", lambda: write(realm, 1, 1, 10))
        attempt("read it again", lambda: rows(realm))
    configuration = LocalConfiguration(path=folder / "open" / "notes.db", schema={Note})
    attempt("compact it", lambda: Realm.compact(configuration))
    attempt("delete it", lambda: Realm.delete_files(configuration))
    attempt("see whether it is there", lambda: rows_of(configuration))


if __name__ == "__main__":
    {"size": with_little_room, "rights": without_rights}[sys.argv[1]](Path(sys.argv[2]))
