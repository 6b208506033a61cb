"""A process that copies a realm, for tests that kill it on the way: ``copy_process.py KIND SOURCE TARGET``.

It opens the source, says ``ready``, writes the copy at the next line, says ``copied``, and ends at the one after. The kind of
the copy is that of its configuration: ``local``, ``synced``, or ``other``, which is synced in another partition.
"""

import sys
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration, uuid7

__all__ = ["Row", "application", "configured"]


class Base(SQLModel, registry=registry()):
    """Tables of these processes, apart from those that other tests declare."""


class Row(Base, table=True):
    """Something."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str = ""


def application(folder: Path) -> App:
    return App.create("copies", remote=f"folder://{folder / 'remote'}")


def configured(app: App, kind: str, path: Path) -> SyncConfiguration | LocalConfiguration:
    if kind == "local":
        return LocalConfiguration(path=path, schema={Row})
    user = app.login(Credentials.anonymous())
    return SyncConfiguration(user, schema={Row}, path=path, partition="other" if kind == "other" else "default")


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(kind: str, source: Path, target: Path) -> None:
    with application(source.parent) as app, Realm.open(configured(app, "synced", source)) as realm:
        say("ready")
        sys.stdin.readline()
        realm.write_copy_to(configured(app, kind, target))
        say("copied")
        sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
