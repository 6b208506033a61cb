"""A process that ends while there is something to do, in many ways: ``ending_process.py DATABASE ADAPTER END``.

ADAPTER says how its remote misbehaves, END how the process ends. It says ``committed NUMBER`` after each commit, and
``SECONDS CALL`` for calls that must not wait for the remote.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel import Field, SQLModel

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, uuid7
from localstore.adapter import Capabilities, Cursor, Hello, Limit, Page, PushResult, SealedChangeset, Welcome
from localstore.errors import Offline
from localstore.testing.memory import MemoryRemote

NOTES = 20
PATIENCE = 30


class Note(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


class Adapter:
    """A remote in memory that does something else in one of the calls: ``CALL-WAY``, such as ``push-hangs``."""

    def __init__(self, remote: MemoryRemote, fault: str, reached: threading.Event) -> None:
        self._inner = remote.adapter()
        self._call, _, self._way = fault.partition("-")
        self._reached = reached

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def connect(self, hello: Hello) -> Welcome:
        await self._misbehave("connect")
        return await self._inner.connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        await self._misbehave("push")
        return await self._inner.push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        await self._misbehave("pull")
        return await self._inner.pull(cursor, limit)

    async def close(self) -> None:
        await self._misbehave("close")
        await self._inner.close()

    async def _misbehave(self, call: str) -> None:
        if call != self._call:
            return
        self._reached.set()
        match self._way:
            case "offline":
                raise Offline("no network")
            case "hangs":
                await asyncio.Event().wait()
            case "stays":  # whoever cancels it
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        continue
            case "threads":  # as a disk that does not answer
                await asyncio.to_thread(threading.Event().wait)
            case "blocks":  # the event loop itself, which an adapter must not
                threading.Event().wait()


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def timed(name: str, call: Callable[[], object]) -> None:
    before = time.monotonic()
    call()
    say(f"{time.monotonic() - before:.3f}", name)


def write(realm: Realm, count: int = NOTES) -> None:
    for number in range(count):
        with realm.write() as tx:
            tx.add(Note(text=f"{number} " * 100))
        say("committed", number)


class Ends:
    """The ways to end."""

    def __init__(self, database: Path, fault: str) -> None:
        self.reached = threading.Event()
        remote = MemoryRemote()
        settings = Settings(backoff_initial=600, backoff_max=600)
        self.app = App.create("ends", remote=lambda: Adapter(remote, fault, self.reached), settings=settings)
        self.configuration = SyncConfiguration(self.app.login(Credentials.anonymous()), {Note}, database)
        self.fault = fault

    def opened(self, **changes: Any) -> Realm:
        """An open realm with notes, whose session has met what its remote does to it."""
        realm = Realm.open(self.configuration)
        write(realm)
        if self.fault not in ("", "close-hangs", "close-stays", "close-threads"):
            assert self.reached.wait(PATIENCE)
        return realm

    def falls_off(self) -> None:
        """The end of the program, with everything open."""
        self.realm = self.opened()

    def exits(self) -> None:
        self.realm = self.opened()
        sys.exit(0)

    def raises(self) -> None:
        """An exception that nobody catches, inside the realm's block and a write."""
        with self.opened() as realm, realm.write() as tx:
            tx.add(Note(text="lost"))
            sys.exit(0)

    def closes_realm(self) -> None:
        """With a session that still uploads for a closed realm."""
        realm = self.opened()
        timed("close", realm.close)

    def closes_app(self) -> None:
        realm = self.opened()
        timed("close", realm.close)
        timed("app.close", self.app.close)

    def closes_app_first(self) -> None:
        realm = self.opened()
        timed("app.close", self.app.close)
        write(realm, 1)
        timed("close", realm.close)

    def pauses(self) -> None:
        session = self.opened().sync_session
        timed("pause", session.pause)
        timed("resume", session.resume)
        timed("reconnect", self.app.sync.reconnect)
        timed("pause", session.pause)

    def closes_and_deletes(self) -> None:
        self.opened().close()
        timed("app.close", self.app.close)
        assert self.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        Realm.delete_files(self.configuration, discard_unsent=True)

    def uploads_and_deletes(self) -> None:
        self.opened().close()
        assert asyncio.run(self.app.sync.wait_for_sessions_to_terminate_async(PATIENCE))
        assert Realm.delete_files(self.configuration)

    def exits_in_threads(self) -> None:
        """``sys.exit`` in a thread ends the thread alone, and rolls back its write."""
        realm = self.opened()

        def work() -> None:
            with realm.write() as tx:
                tx.add(Note(text="lost"))
                sys.exit(1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        write(realm, 1)

    def kills(self) -> None:
        self.realm = self.opened()
        os.kill(os.getpid(), signal.SIGKILL)

    def exits_hard(self) -> None:
        self.realm = self.opened()
        os._exit(0)

    def is_in_memory(self) -> None:
        import dataclasses

        self.configuration = dataclasses.replace(self.configuration, in_memory=True)
        self.realm = self.opened()
        say("place", self.realm.path)

    def daemon_writes(self) -> None:
        """A daemon thread that goes on writing while the interpreter ends."""
        self.realm = self.opened()
        threading.Thread(target=lambda: write(self.realm, 10**6), daemon=True).start()
        threading.Event().wait(0.2)

    def is_interrupted(self) -> None:
        """It opens, writes and closes until Ctrl-C comes, wherever that is."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
        Realm.open(
            self.configuration
        ).close()  # what is imported on the way stays half imported when Ctrl-C comes in the middle of it
        self.app.sync.wait_for_sessions_to_terminate(10)
        say("ready")
        try:
            self.goes_on_and_on()
        except BaseException as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the next ones come from a tester who knows no better
            if not led_to(error, KeyboardInterrupt):
                raise
        # Not before the traceback is gone: in it stands, and holds its lock, a block whose end was broken off in the standard
        # library's ``contextmanager``, before it came to us.
        gc.collect()
        with Realm.open(self.configuration) as realm:  # what was broken off is in nobody's way
            write(realm, 1)
        timed("app.close", self.app.close)
        assert not self.app.sync.has_sync_sessions

    def goes_on_and_on(self) -> None:
        while True:
            with Realm.open(self.configuration) as realm:
                write(realm, 3)
                realm.sync_session.pause()
                realm.sync_session.resume()
                realm.sync_session.upload_all_local_changes(0.01)
            self.app.sync.wait_for_sessions_to_terminate(0.01)


def led_to(error: BaseException | None, cause: type[BaseException]) -> bool:
    """Whether an error is another one, or came of it."""
    return error is not None and (isinstance(error, cause) or led_to(error.__cause__ or error.__context__, cause))


def main() -> None:
    database, fault, end = sys.argv[1:]
    ends = Ends(Path(database), fault)
    getattr(ends, end)()


if __name__ == "__main__":
    main()
