"""How the lines of a process hear that something may be new in a database: hints, never the truth.

What a line of this process stores, it tells the others itself. Of other processes PostgreSQL tells by NOTIFY, which is sent
after the commit and not in it, as notifying commits would wait for each other; of an SQLite file, its ``data_version`` is
looked at. One thread listens while anybody watches. When it loses the server all are woken to see for themselves, and again
when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import sqlalchemy as sa

from localstore_adapters._sql_engine import inode_of, open_file
from localstore_adapters._sql_url import Address

__all__ = ["Bell", "Hints"]

_CHANNEL = "localstore_log"
_LOOK_SECONDS = 0.05  # 5 µs a look; half a percent of a processor
_RETRY_SECONDS = (0.2, 5.0)


class Bell:
    """Wakes one watcher in its own event loop, whatever thread rings."""

    def __init__(self, partition: int, device: bytes) -> None:
        self.partition = partition
        self.device = device
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop was closed: nobody is waiting
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung.clear()


class _Database(Protocol):
    """What hints need of a store."""

    address: Address

    def submit(self, work: Callable[[], None]) -> object: ...
    def reading(self) -> contextlib.AbstractContextManager[sa.Connection]: ...
    def connect_apart(self) -> Any: ...


class _Source(Protocol):
    """What hears of other processes."""

    def run(self) -> None:
        """Listen until ``stop``."""

    def stop(self) -> None: ...


class Hints:
    """The bells of one database in this process.

    Args:
        store: the database.
        origin: what tells this process's notifications from others'.
    """

    def __init__(self, store: _Database, origin: str) -> None:
        self._store = store
        self._is_file = store.address.path is not None
        self._lock = threading.Lock()
        self._bells: dict[Bell, None] = {}
        self._heads: dict[int, int] = {}  # of SQLite's partitions, as far as was told
        self._source: _Source | None = None
        self._origin = origin
        self._untold: dict[int, None] = {}
        self._is_telling = False

    @contextlib.contextmanager
    def listening(self, bell: Bell) -> Iterator[None]:
        with self._lock:
            self._bells[bell] = None
            if self._source is None:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                self._bells.pop(bell, None)
                if not self._bells and self._source is not None:
                    self._source.stop()
                    self._source = None

    def stored(self, partition: int, head: int, count: int, device: bytes) -> None:
        """A line of this process has stored so many changesets, up to a position."""
        if not self._is_file:
            self._ring(partition, but=device)
            self._tell(partition)
            return
        with self._lock:
            told = self._heads.get(partition, head - count)
            self._heads[partition] = max(head, told)
        self._ring(partition, but=device if told == head - count else None)

    def _start(self) -> None:
        self._heads.clear()
        if self._is_file:
            self._source = _Looking(self._store.address, self._watched, self._heads_are, self.ring_all)
        else:
            self._source = _Notified(self._store, self._heard, self.ring_all)
        threading.Thread(target=self._source.run, name="localstore-sql-hints", daemon=True).start()

    def _watched(self) -> list[int]:
        with self._lock:
            return list({bell.partition for bell in self._bells})

    def _ring(self, partition: int, but: bytes | None = None) -> None:
        with self._lock:
            bells = [bell for bell in self._bells if bell.partition == partition and (but is None or bell.device != but)]
        for bell in bells:
            bell.ring()

    def ring_all(self) -> None:
        with self._lock:
            bells = list(self._bells)
        for bell in bells:
            bell.ring()

    def _heads_are(self, heads: dict[int, int]) -> None:
        with self._lock:
            moved = [partition for partition, head in heads.items() if self._heads.get(partition) != head]
            self._heads.update(heads)
        for partition in moved:
            self._ring(partition)

    def _heard(self, payload: str) -> None:
        origin, _, partition = payload.partition(":")
        if origin != self._origin and partition.isdigit():
            self._ring(int(partition))

    def _tell(self, partition: int) -> None:
        """Let other processes know, soon: what comes meanwhile goes with it."""
        with self._lock:
            self._untold[partition] = None
            if self._is_telling:
                return
            self._is_telling = True
        self._store.submit(self._notify)

    def _notify(self) -> None:
        while True:
            with self._lock:
                partitions, self._untold = list(self._untold), {}
                if not partitions:
                    self._is_telling = False
                    return
            payloads = [f"{self._origin}:{partition}" for partition in partitions]
            query = sa.select(*(sa.func.pg_notify(_CHANNEL, payload) for payload in payloads))
            with contextlib.suppress(Exception), self._store.reading() as connection:  # only a hint: others look by themselves
                connection.execute(query)


class _Notified:
    """Hears NOTIFY of PostgreSQL, over a connection of its own."""

    def __init__(self, store: _Database, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._store = store
        self._heard = heard
        self._lost = lost
        self._stopped = threading.Event()
        self._wake, self._waker = socket.socketpair()

    def run(self) -> None:
        delay = _RETRY_SECONDS[0]
        with self._wake:
            while not self._stopped.is_set():
                with contextlib.suppress(Exception), contextlib.closing(self._store.connect_apart()) as connection:
                    connection.autocommit = True
                    connection.execute(f"LISTEN {_CHANNEL}")
                    delay = _RETRY_SECONDS[0]
                    self._lost()  # what came before was not heard
                    self._listen(connection)
                if not self._stopped.is_set():
                    self._lost()
                    select.select([self._wake], [], [], delay)
                    delay = min(2 * delay, _RETRY_SECONDS[1])

    def stop(self) -> None:
        self._stopped.set()
        self._waker.close()  # which wakes whoever selects the other end

    def _listen(self, connection: Any) -> None:
        while not self._stopped.is_set():
            select.select([connection.fileno(), self._wake], [], [])
            for notice in connection.notifies(timeout=0):
                self._heard(notice.payload)


class _Looking:
    """Looks whether an SQLite file was written to, or exchanged."""

    def __init__(
        self,
        address: Address,
        watched: Callable[[], list[int]],
        heads_are: Callable[[dict[int, int]], None],
        lost: Callable[[], None],
    ) -> None:
        self._address = address
        self._watched = watched
        self._heads_are = heads_are
        self._lost = lost
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(sqlite3.Error):
                self._look_until_gone()
            self._stopped.wait(_LOOK_SECONDS)

    def stop(self) -> None:
        self._stopped.set()

    def _look_until_gone(self) -> None:
        path, known = self._address.path, None
        assert path is not None
        with contextlib.closing(open_file(path)) as connection:
            try:
                self._lost()  # what came before was not seen
                while inode_of(path) == connection.inode:
                    version = connection.execute("PRAGMA data_version").fetchone()[0]
                    if version != known:
                        known = version
                        self._heads_are(_heads_of(connection, self._watched()))
                    if self._stopped.wait(_LOOK_SECONDS):
                        return
            finally:
                self._lost()


def _heads_of(connection: sqlite3.Connection, partitions: list[int]) -> dict[int, int]:
    query = "SELECT id, head FROM localstore_log_partition WHERE id IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(query, (str(partitions),)))
