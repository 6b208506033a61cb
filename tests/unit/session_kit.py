"""What the tests of the session layer share: devices on one remote and one clock, and a line whose faults a test commands.

The clock stands still until a test moves it, so a session that waits does so for ever: what happens then happened because of
a hint, a command or a commit, not because time passed. Nothing sleeps here; background threads are watched by ``eventually``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import sqlite3
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, uuid7
from localstore.adapter import (
    Capabilities,
    Cursor,
    Hello,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SnapshotInfo,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.errors import LocalStoreError, Offline, SyncError
from localstore.sync.session import SyncSession
from localstore.testing.clock import ManualClock, environment
from localstore.testing.faulty import Call, Fault, FaultyAdapter
from localstore.testing.memory import MemoryRemote

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which something that should have happened is given up; only a test that fails waits so long."""


class Table(SQLModel, registry=registry()):
    """Tables of these tests, apart from those that other tests declare."""


class Note(Table, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


class Seat(Table, table=True):
    """A composite key."""

    room: str = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    guest: str | None = None


def eventually(happened: Callable[[], object], what: str = "what the test waits for") -> None:
    """Look again and again until it has happened."""
    if not _soon(happened, PATIENCE):
        raise AssertionError(f"Waited {PATIENCE:g} s in vain for {what}.")


def as_time_passes(
    clock: ManualClock, seconds: float, happened: Callable[[], object], what: str = "what the test waits for"
) -> None:
    """Let so much of a clock's time pass again and again until it has happened, each time after a longer real moment: on a slow
    machine as well a call comes to its end before its time is up."""
    moment, left = 0.002, PATIENCE
    while left > 0:
        if _soon(happened, moment):
            return
        clock.advance(seconds)
        left, moment = left - moment, 1.2 * moment
    raise AssertionError(f"Waited {PATIENCE:g} s in vain for {what}.")


def _soon(happened: Callable[[], object], seconds: float) -> bool:
    pause = threading.Event()
    for _ in range(max(1, int(seconds / 0.002))):
        if happened():
            return True
        pause.wait(0.002)
    return bool(happened())


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Start a function in a thread of its own."""
    thread = threading.Thread(target=function, name="test", daemon=True)
    thread.start()
    return thread


def in_background(function: Callable[[], T]) -> Future[T]:
    """The result of a function that runs in a thread of its own, for calls that wait."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  raised by whoever asks for the result
            future.set_exception(error)

    in_thread(run)
    return future


def in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run in a new event loop that is closed behind it."""

    async def run() -> T:
        return await asyncio.wait_for(coroutine, PATIENCE)

    return asyncio.run(run())


@contextmanager
def handling(number: int, handler: Callable[..., None]) -> Iterator[None]:
    """Let a signal come to a handler: what a shell starts in the background is told to ignore Ctrl-C."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def joined(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive(), "a thread hangs"


def background_threads() -> list[str]:
    """Names of the threads that are not the tests' own."""
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread() and thread.name != "test"]


def no_threads_are_left() -> None:
    """All background threads have ended, or are about to."""
    eventually(lambda: not background_threads(), "the background threads to end")


def add(realm: Realm, *texts: str) -> list[UUID]:
    """Write notes in one transaction."""
    notes = [Note(text=text) for text in texts]
    with realm.write() as tx:
        tx.add_all(notes)
    return [note.id for note in notes]


def texts(realm: Realm) -> list[str]:
    return sorted(realm.exec(select(Note.text)).all())


def numbers(realm: Realm) -> list[int]:
    """Numbers of the changesets that were not acknowledged."""
    return [changeset.number for changeset in realm.pending()]


def waiting(session: SyncSession) -> int:
    """How many callers wait for an upload or download."""
    return len(session._waits)


def sql(path: Path, statement: str, *parameters: object) -> list[Any]:
    """Run one statement as any other program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


class Line:
    """A device's line to a remote, which goes wrong as a test says, and notes every call.

    Args:
        remote: where it leads.
        capabilities: what its adapters say of themselves other than the remote's own; they give no signs of life unless
            ``ping`` is among them, so that a session at rest waits for one thing only.

    Attributes:
        calls: names of all calls made, over all adapters.
        made: how many adapters were made.
    """

    def __init__(self, remote: MemoryRemote, **capabilities: Any) -> None:
        self.calls: list[str] = []
        self.made = 0
        self.capabilities = {"ping": False, **capabilities}
        self._remote = remote
        self._always: dict[str, Fault] = {}
        self._next: dict[str, list[Fault | None]] = {}
        self._gates: dict[str, _Gate] = {}

    def __call__(self) -> SyncAdapter:
        self.made += 1
        return _LineAdapter(self, self._remote.adapter())

    def break_down(self, **faults: Fault) -> None:
        """From now on these calls meet these faults."""
        self._always.update(faults)

    def recover(self) -> None:
        """From now on everything goes well."""
        self._always.clear()

    def break_next(self, name: str, *faults: Fault | None) -> None:
        """The next calls of this name meet these faults, one each; None goes well."""
        self._next[name] = list(faults)

    def count(self, name: str) -> int:
        """How many calls of this name were made."""
        return self.calls.count(name)

    def hold(self, name: str, *, stubborn: bool = False) -> None:
        """From now on calls of this name stop before anything happens, until they are let go; a stubborn one also when it is
        cancelled."""
        self._gates[name] = _Gate(stubborn=stubborn)

    def held(self, name: str) -> int:
        """How many calls of this name are stopped at this moment."""
        return self._gates[name].stopped

    def let_one_go(self, name: str) -> None:
        """Let one call go on, as soon as there is one."""
        eventually(lambda: self.held(name), f"a {name} to be held")
        self._gates[name].release()

    def let_go(self, name: str) -> None:
        """Hold calls of this name no longer."""
        self.hold_no_others(name)()

    def hold_no_others(self, name: str) -> Callable[[], None]:
        """Let calls of this name pass from now on; returns what lets those go that are stopped."""
        gate = self._gates.pop(name)

        def let_go() -> None:
            while gate.stopped:
                gate.release()

        return let_go

    def plan(self, call: Call) -> Fault | None:
        waiting = self._next.get(call.name)
        fault = waiting.pop(0) if waiting else self._always.get(call.name)
        self.calls.append(call.name)
        return fault

    async def pass_gate(self, name: str) -> None:
        if name in self._gates:
            await self._gates[name].wait()


class _Gate:
    """Stops calls in their event loop, and is opened from any thread."""

    def __init__(self, *, stubborn: bool) -> None:
        self._stubborn = stubborn
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def stopped(self) -> int:
        return len(self._waiting)

    def release(self) -> None:
        loop, opened = self._waiting.pop(0)
        loop.call_soon_threadsafe(opened.set)

    async def wait(self) -> None:
        place = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.append(place)
        try:
            while not place[1].is_set():
                with suppress(*[asyncio.CancelledError] if self._stubborn else []):
                    await place[1].wait()
        finally:
            if place in self._waiting:
                self._waiting.remove(place)


class _LineAdapter(FaultyAdapter):
    def __init__(self, line: Line, inner: SyncAdapter) -> None:
        super().__init__(inner, line.plan)
        self._line = line

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, **self._line.capabilities)

    async def connect(self, hello: Hello) -> Welcome:
        await self._line.pass_gate("connect")
        return await super().connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        await self._line.pass_gate("push")
        return await super().push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        await self._line.pass_gate("pull")
        return await super().pull(cursor, limit)

    async def log_in(self, credentials: Credentials) -> Tokens:
        await self._line.pass_gate("log_in")
        return await super().log_in(credentials)

    async def refresh(self, refresh_token: str) -> Tokens:
        await self._line.pass_gate("refresh")
        return await super().refresh(refresh_token)

    async def log_out(self, refresh_token: str) -> None:
        await self._line.pass_gate("log_out")
        await super().log_out(refresh_token)

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        await self._line.pass_gate("read_snapshot")
        async with aclosing(super().read_snapshot(info)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        await self._line.pass_gate("close")
        await super().close()

    async def ping(self) -> None:
        await self._line.pass_gate("ping")
        await super().ping()


class Device:
    """An application on a device of its own, with what its error handler was told.

    Attributes:
        told: errors given to the error handler, in order.
    """

    def __init__(
        self,
        world: World,
        path: Path,
        *,
        remote: Callable[[], SyncAdapter],
        clock: ManualClock,
        seed: int,
        run_blocking: Callable[..., Awaitable[Any]] | None = None,
        **settings: Any,
    ) -> None:
        self.world = world
        self.path = path
        self.told: list[SyncError] = []
        self.told_by: list[SyncSession] = []
        self._realms: list[Realm] = []
        surroundings = environment(clock, seed)
        if run_blocking is not None:
            surroundings = dataclasses.replace(surroundings, run_blocking=run_blocking)
        self.app = App.create("kit", remote=remote, settings=Settings(**settings), environment=surroundings)
        self.user = self.app.login(Credentials.anonymous())

    def configuration(self, **changes: Any) -> SyncConfiguration:
        return SyncConfiguration(self.user, **{"schema": {Note}, "path": self.path, "error_handler": self.hear, **changes})

    def open(self, **changes: Any) -> Realm:
        realm = Realm.open(self.configuration(**changes))
        self._realms.append(realm)
        return realm

    def close(self) -> None:
        """Close what a test left open, so that no file is left to the garbage collector."""
        self.app.close()
        for realm in self._realms:
            with suppress(LocalStoreError):
                realm.close()

    def hear(self, session: SyncSession, error: SyncError) -> None:
        self.told_by.append(session)
        self.told.append(error)

    def let_it_run(self) -> None:
        """Give the background loop so many turns that what was about to happen has happened."""
        for _ in range(100):
            turned = threading.Event()
            self.app.sync._loop.post(turned.set)
            assert turned.wait(PATIENCE)

    @property
    def kinds(self) -> list[str]:
        """The names of the errors that the error handler was told."""
        return [type(error).__name__ for error in self.told]


def is_open(path: Path) -> bool:
    """Whether somebody has the file open: SQLite takes its write-ahead log away with the last connection."""
    return path.with_name(path.name + "-wal").exists()


def is_let_go(path: Path) -> bool:
    """Whether nobody has the file open any more; a read that was under way when it was closed may come to its end."""
    eventually(lambda: not is_open(path) or gc.collect() < 0, f"{path.name} to be let go")
    return True


class World:
    """Devices around one remote, under one clock. Leaving it closes them all, and fails if a task or future was lost."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.remote = MemoryRemote(environment=environment(self.clock, seed=1000))
        self.lost = _Lost()
        self._devices: list[Device] = []

    def device(
        self,
        name: str = "one",
        *,
        remote: Callable[[], SyncAdapter] | None = None,
        path: Path | None = None,
        clock: ManualClock | None = None,
        **settings: Any,
    ) -> Device:
        """A new application; its file is named after it."""
        device = Device(
            self,
            path or self.directory / f"{name}.db",
            remote=remote or self.remote.adapter,
            clock=clock or self.clock,
            seed=len(self._devices),
            **{"backoff_jitter": 0, **settings},
        )
        self._devices.append(device)
        return device

    def open(self, name: str = "one", **changes: Any) -> Realm:
        """A realm on a new device."""
        return self.device(name, **changes).open()

    def line(self, **capabilities: Any) -> Line:
        return Line(self.remote, **capabilities)

    def at_rest(self, sessions: int = 1) -> None:
        """Wait until so many cycles have nothing to do but wait for time, hints and commands."""
        assert self.clock.wait_for_sleepers(sessions, PATIENCE), "a session does not come to rest"

    def await_reset(self, realm: Realm) -> None:
        """Let the time pass for which a folder that lacks a device's own files may be still being copied."""
        eventually(lambda: isinstance(realm.sync_session.last_error, Offline))
        while realm.sync_session.last_reset is None:
            self.at_rest()
            self.clock.advance(30)

    def remote_texts(self) -> list[str]:
        """What a device that is new to the remote sees."""
        device = self.device(f"reader-{len(self._devices)}")
        with device.open() as realm:
            assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
            found = texts(realm)
        device.app.close()
        return found

    def __enter__(self) -> Self:
        self.lost.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for device in self._devices:
            device.close()
        self.lost.__exit__(kind, error, trace)


class _Lost(logging.Handler):
    """Hears what asyncio and futures complain about: exceptions that nobody retrieved, callbacks that failed."""

    _loggers = ("asyncio", "concurrent.futures")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))

    def __enter__(self) -> Self:
        for name in self._loggers:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in self._loggers:
            logging.getLogger(name).removeHandler(self)
        if error is None:
            assert not self.said, "\n".join(self.said)


def meddling_after(name: str, meddle: Callable[[Any], object]) -> Callable[..., Awaitable[Any]]:
    """A device's ``run_blocking``: when work of that name is done, and before anybody hears of it, something else happens, with
    all that follows from it in the background loop. It is given what came of the work."""

    async def run(work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        result = await asyncio.to_thread(work, *args, **kwargs)
        if getattr(work, "__name__", "") == name:
            await asyncio.to_thread(meddle, result)
            for _ in range(100):
                await asyncio.sleep(0)
        return result

    return run


def nothing_was_lost(lost: Iterable[str]) -> None:
    """No exception went unheard up to now, also of what only the garbage collector finds."""
    gc.collect()
    said = list(lost)
    assert not said, "\n".join(said)
