"""One device under churn, as a process: ``python -m tests.soak.device FILE REMOTE KEEP_SECONDS EVERY SEED PAUSE_SECONDS LEAK``.

It adds, changes and deletes rows of a fixed set of keys at random, waits a little, looks at what there is, and now and then
pauses its session, closes its realm and opens it again, waits for everything to be sent and received, or reads what lost. What
grows without end would therefore be a leak. With a line of standard input it sends and receives what is left, says ``settled``,
and with the next, when all have, receives once more and says in JSON how often it did what, and which errors it heard of.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, select

from localstore import App, Credentials, Realm, RecoverOrDiscard, Settings, SyncConfiguration
from localstore.errors import LocalStoreError
from localstore.registry import AdapterFactory
from localstore_adapters.folder import FolderAdapter, folder_path
from localstore_adapters.sql import SqlAdapter, SqlStore

__all__ = ["KEYS", "NO_LEAK", "Parcel", "Place"]

KEYS = 300
PLACES = 20
WAIT_SECONDS = 120
DAY_SECONDS = timedelta(days=1).total_seconds()
CONFLICTS_MAX_COUNT = 200
NO_LEAK = "none"
LEAKED_BYTES = 256 * 1024


class Base(SQLModel, registry=registry()):
    """Tables of these processes, apart from those that other tests declare."""


class Place(Base, table=True):
    """Where parcels lie."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str


class Parcel(Base, table=True):
    """Comes, is changed by everybody, goes, and comes again."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    place: int | None = Field(default=None, foreign_key="place.id", ondelete="SET NULL")
    weight: float = 0.0
    text: str = ""


class Leak:
    """Something that is never let go of again, to see that it is told: ``memory``, ``descriptors`` or ``threads``."""

    def __init__(self, kind: str, ended: threading.Event) -> None:
        self._make: Callable[[], object] = {
            NO_LEAK: lambda: None,
            "memory": lambda: b"x" * LEAKED_BYTES,
            "descriptors": lambda: os.open(__file__, os.O_RDONLY),
            "threads": lambda: threading.Thread(target=ended.wait, daemon=True).start(),
        }[kind]
        self._leaked: list[object] = []

    def grow(self) -> None:
        self._leaked.append(self._make())


class Device:
    """What one device does, and how often it did it.

    Args:
        file: of the realm.
        app: of the process.
        chance: decides.
        ended: is set when it is to end.
        pause_seconds: between two transactions, on average.
        leak: grows with each of them.
    """

    def __init__(
        self, file: Path, app: App, chance: random.Random, ended: threading.Event, *, pause_seconds: float, leak: Leak
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._configuration = SyncConfiguration(
            app.login(Credentials.anonymous()),
            schema={Place, Parcel},
            path=file,
            client_reset=RecoverOrDiscard(),
            error_handler=lambda _, error: self._heard(error),
        )
        self._chance = chance
        self._ended = ended
        self._pause_seconds = pause_seconds
        self._leak = leak
        self._realm = Realm.open(self._configuration)

    def _heard(self, error: LocalStoreError) -> None:
        self.counts[type(error).__name__] += 1

    def churn(self) -> None:
        """Go on until the end is told."""
        while not self._ended.wait(self._chance.expovariate(1 / self._pause_seconds)):
            self._act(self._action())
            self._leak.grow()

    def settle(self) -> None:
        """Send and receive all."""
        assert self._realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        assert self._realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)

    def close(self) -> None:
        self._realm.close()

    def _action(self) -> Callable[[], None]:
        weights = {
            self._write: 70,
            self._read: 15,
            self._look_back: 5,
            self._pause: 4,
            self.settle: 4,
            self._reopen: 2,
        }
        return self._chance.choices(list(weights), list(weights.values()))[0]

    def _act(self, action: Callable[[], None]) -> None:
        self.counts[action.__name__.strip("_").replace("_", " ")] += 1
        action()

    def _write(self) -> None:
        with self._realm.write() as tx:
            if self._chance.random() < 0.1:
                self._take_or_add_place(tx)
            for _ in range(self._chance.randint(1, 6)):
                key = self._chance.randrange(KEYS)
                parcel = tx.get(Parcel, key)
                if parcel is None:
                    tx.add(Parcel(id=key, text="x" * self._chance.randint(0, 400)))
                elif self._chance.random() < 0.2:
                    tx.delete(parcel)
                else:
                    parcel.weight = self._chance.random()
                    parcel.place = self._chance.choice([None, *tx.exec(select(Place.id)).all()])

    def _take_or_add_place(self, tx: Session) -> None:
        key = self._chance.randrange(PLACES)
        place = tx.get(Place, key)
        if place is None:
            tx.add(Place(id=key, name=f"place {self._chance.randrange(1000)}"))
        else:
            tx.delete(place)

    def _read(self) -> None:
        assert len(self._realm.exec(select(Parcel)).all()) <= KEYS

    def _look_back(self) -> None:
        self._realm.conflicts()
        self._realm.pending()

    def _pause(self) -> None:
        self._realm.sync_session.pause()
        self._ended.wait(self._chance.uniform(0, 5))
        self._realm.sync_session.resume()

    def _reopen(self) -> None:
        self._realm.close()
        self._realm = Realm.open(self._configuration)


def lines_to(url: str, keep_days: float) -> str | AdapterFactory:
    """The remote of a URL, which lets go of history early; a hub is told how long by itself."""
    if url.startswith("folder:"):
        return functools.partial(FolderAdapter, folder_path(url), keep_days=keep_days)
    if url.startswith("sqlite:"):
        store = SqlStore(url, keep_days=keep_days)
        return lambda: SqlAdapter(store)
    return url


def main() -> None:
    file, url, keep_seconds, every, seed, pause_seconds, leak = sys.argv[1:]
    settings = Settings(snapshot_every=int(every), conflicts_max_count=CONFLICTS_MAX_COUNT)
    ended = threading.Event()
    told = threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True)
    told.start()
    with App.create("soak", remote=lines_to(url, float(keep_seconds) / DAY_SECONDS), settings=settings) as app:
        device = Device(
            Path(file),
            app,
            random.Random(int(seed)),
            ended,
            pause_seconds=float(pause_seconds),
            leak=Leak(leak, ended),
        )
        device.churn()
        device.settle()
        sys.stdout.write("settled\n")
        sys.stdout.flush()
        told.join()
        sys.stdin.readline()
        device.settle()
        device.close()
    json.dump(device.counts, sys.stdout)


if __name__ == "__main__":
    main()
