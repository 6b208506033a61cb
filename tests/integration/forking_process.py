"""A process that forks while realms are open, for tests of what child and parent can do: ``forking_process.py FOLDER SCENE``.

It says what came about, a line each, child and parent on the same standard output, and ends with ``children CODE...``.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlmodel import Field, SQLModel, func, select

from localstore import App, Credentials, Direction, LocalConfiguration, ProgressMode, Realm, SyncConfiguration, uuid7
from localstore.environment import Environment
from localstore.errors import ForkedProcess
from localstore.testing.memory import MemoryRemote

WAIT_SECONDS = 60
CHILD_SECONDS = 30
FORKS = 40


class Note(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def add(realm: Realm, text: str) -> None:
    with realm.write() as tx:
        tx.add(Note(text=text))


def count(realm: Realm) -> int:
    return realm.exec(select(func.count()).select_from(Note)).one()


def fork(child: Callable[[], object], *, at_once: bool = False) -> int:
    """Run a function in a forked child, which ends as a program does, with all that the interpreter does then."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(CHILD_SECONDS)  # one that hangs is killed, which its parent sees
    child()
    if at_once:
        os._exit(0)
    sys.exit(0)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rest: threading.Event | None = None
        self.remote = MemoryRemote()
        self.app = App.create("forks", remote=self.remote.adapter)
        self.configuration = SyncConfiguration(self.app.login(Credentials.anonymous()), {Note}, folder / "notes.db")

    async def sleep(self, seconds: float) -> None:
        """For a session that has nothing else to do."""
        assert self.rest is not None
        self.rest.set()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.rest.clear()

    # -- scenes

    def refusing(self) -> None:
        """What is the parent's refuses its service in the child, by a name of its own."""
        with Realm.open(self.configuration) as realm:
            add(realm, "parent")
            session = realm.sync_session
            stream = session.connection_state_changes()

            def child() -> None:
                calls: dict[str, Callable[[], object]] = {
                    "write": lambda: add(realm, "child"),
                    "exec": lambda: count(realm),
                    "get": lambda: realm.get(Note, uuid7()),
                    "read": lambda: realm.read().__enter__(),
                    "version": lambda: realm.version,
                    "session": lambda: realm.sync_session,
                    "pending": realm.pending,
                    "conflicts": realm.conflicts,
                    "device": lambda: realm.device_id,
                    "copy": lambda: realm.write_copy_to(LocalConfiguration(path=self.folder / "copy.db")),
                    "state": lambda: session.state,
                    "pause": lambda: session.pause(),
                    "upload": lambda: session.upload_all_local_changes(1),
                    "progress": lambda: session.progress(Direction.UPLOAD, ProgressMode.CURRENT_CHANGES),
                    "next": lambda: next(stream),
                    "open again": lambda: Realm.open(self.configuration),
                    "open another": lambda: Realm.open(LocalConfiguration(path=self.folder / "other.db", schema={Note})),
                    "delete": lambda: Realm.delete_files(self.configuration),
                    "compact": lambda: Realm.compact(self.configuration),
                    "async": lambda: asyncio.run(Realm.open_async(self.configuration)),
                }
                for name, call in calls.items():
                    try:
                        call()
                    except ForkedProcess:
                        say("refused", name)
                    except BaseException as error:  # noqa: BLE001
                        say("failed", name, repr(error))
                    else:
                        say("done", name)
                stream.close()
                realm.close()
                say("closed", realm.is_closed)
                self.app.close()

            codes = [code(fork(child))]
            add(realm, "parent again")
            assert realm.sync_session.upload_all_local_changes(WAIT_SECONDS)
            say("parent", count(realm), len(self.remote.changesets()))
        say("children", *codes)

    def leaving(self) -> None:
        """A child that leaves the block in which it was forked, with its ``with`` statements and the interpreter's end."""
        codes = []
        with Realm.open(self.configuration) as realm:
            for number in range(5):
                add(realm, f"before {number}")
                if self.rest is not None:
                    assert realm.sync_session.upload_all_local_changes(WAIT_SECONDS)
                    assert realm.sync_session.download_all_server_changes(WAIT_SECONDS)
                    assert self.rest.wait(WAIT_SECONDS)
                codes.append(code(fork(gc.collect, at_once=bool(number % 2))))
                assert (self.folder / "notes.db-wal").exists()
                add(realm, f"after {number}")
            say("parent", count(realm))
        say("children", *codes)

    def leaving_encrypted(self) -> None:
        """The same with SQLCipher's connections. A lock that SQLCipher holds at a fork is held in the child for ever, so the
        session has to be at rest."""
        self.rest = threading.Event()
        self.app = App.create("encrypted", remote=self.remote.adapter, environment=Environment(sleep=self.sleep))
        user = self.app.login(Credentials.anonymous())
        self.configuration = SyncConfiguration(user, {Note}, self.folder / "notes.db", encryption_key=bytes(range(32)))
        self.leaving()

    def writing(self) -> None:
        """Forks inside a write: what the child does must not end the parent's transaction."""
        codes = []
        with Realm.open(self.configuration) as realm:
            for way in ("raise", "write", "exit"):
                with realm.write() as tx:
                    tx.add_all(Note(text="x" * 5000) for _ in range(1000))
                    tx.flush()
                    pid = os.fork()
                    if not pid:
                        signal.alarm(CHILD_SECONDS)
                        if way == "raise":
                            raise SystemExit(3)
                        if way == "exit":
                            sys.exit(4)
                        tx.add(Note(text="child"))
                        try:
                            tx.flush()
                        except ForkedProcess:
                            sys.exit(5)
                    codes.append(code(pid))
                    tx.add(Note(text="last"))
            say("parent", count(realm))
            assert realm.sync_session.upload_all_local_changes(WAIT_SECONDS)
        say("children", *codes)

    def busy(self) -> None:
        """Many forks while threads write and read and sync goes on, so that all kinds of locks are held at that moment."""
        over = threading.Event()
        written = [0, 0]
        with Realm.open(self.configuration) as realm:

            def write(which: int) -> None:
                while not over.is_set():
                    add(realm, f"{which}")
                    written[which] += 1

            def read() -> None:
                while not over.is_set():
                    count(realm)
                    _ = realm.version, realm.sync_session.status

            threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)] + [threading.Thread(target=read)]
            for thread in threads:
                thread.start()

            def child() -> None:
                for call in (lambda: count(realm), lambda: Realm.open(self.configuration), lambda: realm.sync_session.pause()):
                    try:
                        call()
                    except ForkedProcess:
                        continue
                    say("cannot be")
                realm.close()
                self.app.close()

            codes = [code(fork(child, at_once=bool(number % 2))) for number in range(FORKS)]
            over.set()
            for thread in threads:
                thread.join()
            assert realm.sync_session.upload_all_local_changes(WAIT_SECONDS)
            say("parent", count(realm) == sum(written), len(self.remote.changesets()) == sum(written))
        say("children", *codes)

    def later(self) -> None:
        """A child that outlives the parent's closing, opening and writing, and harms nothing when it ends."""
        ready, go = os.pipe()
        with Realm.open(self.configuration) as realm:
            add(realm, "one")
            pid = fork(lambda: os.read(ready, 1))
        assert self.app.sync.wait_for_sessions_to_terminate(WAIT_SECONDS)
        with Realm.open(self.configuration) as realm:
            add(realm, "two")
            os.write(go, b"!")
            codes = [code(pid)]
            add(realm, "three")
            say("parent", count(realm))
        say("children", *codes)

    def before(self) -> None:
        """A fork before any realm is open: both go their way, with the same app."""

        def child() -> None:
            configuration = SyncConfiguration(self.app.login(Credentials.anonymous()), {Note}, self.folder / "child.db")
            with Realm.open(configuration) as realm:
                add(realm, "child")
                say("child", realm.sync_session.upload_all_local_changes(WAIT_SECONDS))
            self.app.close()

        codes = [code(fork(child))]
        with Realm.open(self.configuration) as realm:
            add(realm, "parent")
            say("parent", realm.sync_session.upload_all_local_changes(WAIT_SECONDS))
        say("children", *codes)

    def closed(self) -> None:
        """A fork after all realms were closed, with a background thread that still runs."""
        with Realm.open(self.configuration) as realm:
            add(realm, "one")
        assert self.app.sync.wait_for_sessions_to_terminate(WAIT_SECONDS)
        self.before()

    def pooled(self) -> None:
        """``multiprocessing`` by forks, with a realm that a worker was given by its parent."""
        context = multiprocessing.get_context("fork")
        with Realm.open(self.configuration) as realm:

            def work() -> None:
                try:
                    add(realm, "child")
                except ForkedProcess:
                    say("refused")

            process = context.Process(target=work)
            process.start()
            process.join(CHILD_SECONDS)
            add(realm, "parent")
            say("parent", count(realm))
        say("children", process.exitcode)

    def handler(self) -> None:
        """A fork in the background thread itself, as by an error handler that calls a program."""
        with Realm.open(self.configuration) as realm:
            done = threading.Event()
            codes = []

            def in_background() -> None:
                pid = os.fork()
                if not pid:
                    signal.alarm(CHILD_SECONDS)
                    return  # into the loop, which must not go on in the child
                codes.append(code(pid))
                done.set()

            self.app.sync._loop.post(in_background)
            assert done.wait(WAIT_SECONDS)
            add(realm, "parent")
            assert realm.sync_session.upload_all_local_changes(WAIT_SECONDS)
            say("parent", count(realm))
        say("children", *codes)


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks with threads: that is what this is about
    folder, name = sys.argv[1:]
    scene = Scene(Path(folder))
    getattr(scene, name)()
    scene.app.close()


if __name__ == "__main__":
    main()
