"""A device, and one run of the application on it: a process, which may be killed between any two of its steps.

What it does is the library's own: app, realm, session, store, on the simulation's event loop and a folder of its own. A
crash leaves of it what is on the disk, perhaps without the last commits; nothing that it does afterwards counts.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, User
from localstore.adapter import SyncAdapter
from localstore.environment import Environment
from localstore.errors import Busy, LocalStoreError, Offline, OperationAborted, SyncError
from localstore.schema import Model
from localstore.sync.session import SyncSession
from localstore.user import UserState
from tests.simulation.between import states_between
from tests.simulation.clocks import WallClock
from tests.simulation.disk import Disk, Log, lose_commits
from tests.simulation.loop import RUNNING, VirtualLoop
from tests.simulation.trace import Trace

__all__ = ["DATABASE", "Device", "Observer", "Process"]

T = TypeVar("T")
DATABASE = "data.db"
_LOGIN_SECONDS = 20.0  # from one attempt to log in to the next
_ROUNDS = 2000  # of letting a dead process's tasks end

_in_loop: ContextVar[object] = ContextVar("in_loop", default=None)


class Observer(Protocol):
    """Who looks at what a process does."""

    def opened(self, process: Process) -> None: ...
    def passed(self, process: Process, disk: Disk) -> None: ...
    def worked(self, process: Process, name: str) -> None: ...
    def moved(self, process: Process) -> None: ...
    def heard(self, process: Process, error: SyncError) -> None: ...
    def died(self, process: Process) -> None: ...


class Device:
    """What outlives a process: the folder, the clock, and the source of all that is random.

    Attributes:
        process: the present one; None while the application does not run.
        is_upgraded: whether it has the application's later classes.
        lives: how often what is on the disk was taken back, so that names are not used twice.
        has_lost_commits: since somebody asked last.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        loop: VirtualLoop,
        trace: Trace,
        clock: WallClock,
        seed: str,
        *,
        settings: dict[str, Any],
        schemas: tuple[Collection[Model], Collection[Model]],
        make_adapter: Callable[[Process], SyncAdapter],
        credentials: Credentials | None,
        observer: Observer,
    ) -> None:
        self.name = name
        self.folder = folder
        self.loop = loop
        self.trace = trace
        self.clock = clock
        self.random = random.Random(seed)
        self.settings = settings
        self.schemas = schemas
        self.is_upgraded = False
        self.make_adapter = make_adapter
        self.credentials = credentials
        self.observer = observer
        self.process: Process | None = None
        self.lives = 0
        self.has_lost_commits = False
        self._synced: tuple[bytes, int] = (b"", 0)
        folder.mkdir()

    @property
    def schema(self) -> Collection[Model]:
        """The classes of its application, as old as that is."""
        return self.schemas[self.is_upgraded]

    @property
    def writer(self) -> str:
        """A name that no two states of this device share which do not follow from each other."""
        return f"{self.name}.{self.lives}"

    async def start(self) -> None:
        """Run the application, when its user has logged in."""
        assert self.process is None
        process = Process(self)
        process.run(process.begin_app)
        await process.begin(process.log_in())
        process.run(process.open)
        self.process = process
        self.trace.note(self.name, f"opens, is {process.device_id[:6]}")
        self.observer.opened(process)

    async def close(self) -> None:
        """End the application in good order."""
        process, self.process = self.process, None
        if process is not None:
            process.run(process.close)
            await process.end()
            process.notice()

    def kill(self, commits: int = 0, *, instead: Disk | None = None) -> Coroutine[Any, Any, None]:
        """Kill the application, now.

        Args:
            commits: how many of the last ones were not on the disk when the power failed, as far as that may be.
            instead: what is put on the disk in place of what is there.

        Returns:
            What removes it, to be awaited before it is started again.
        """
        process, self.process = self.process, None
        assert process is not None
        process.is_dead = True
        disk, lost = lose_commits(Disk.of(self.folder), DATABASE, commits, self._synced_bytes())
        what = f", without its last {lost} commits" if lost else ""
        if instead is not None:
            disk, what = instead, ", and gets other files"
        self.lives += bool(what)
        self.has_lost_commits |= lost > 0
        self.trace.note(self.name, f"dies{what}")
        return self._bury(process, disk)

    async def _bury(self, process: Process, disk: Disk) -> None:
        await process.end()
        process.run(process.close)
        await process.end()
        disk.write_to(self.folder)
        self.observer.died(process)

    def note_synced(self, before: Log | None) -> None:
        """What is uploaded now has to survive a power failure: it does, when there was a commit for it that the disk has."""
        log = Log.of(self.folder, DATABASE)
        if log is not None and before is not None and log.changes != before.changes:
            self._synced = log.generation, log.end

    def log(self) -> Log | None:
        return Log.of(self.folder, DATABASE)

    def _synced_bytes(self) -> int:
        log = self.log()
        if log is None:
            return 0
        if self.settings["synchronous"] == "FULL":
            return log.end
        return max(log.checkpointed, self._synced[1] if self._synced[0] == log.generation else 0)


class Process:
    """One run of the application.

    Attributes:
        is_dead: it was killed.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.is_dead = False
        self.steps = 0
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._strike: tuple[int, Callable[[], object]] | None = None
        self._context = contextvars.copy_context()
        self._context.run(RUNNING.set, self)
        self._session_loop: _SessionLoop | None = None
        self._realm: Realm | None = None
        self._session: SyncSession | None = None
        self._seen: tuple[object, object] = None, None
        self._app: App | None = None

    # -- what the simulation does with it

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def realm(self) -> Realm:
        assert self._realm is not None
        return self._realm

    @property
    def session(self) -> SyncSession:
        assert self._session is not None
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether the application has its realm open."""
        return not (self.is_dead or self.realm.is_closed)

    @property
    def app(self) -> App:
        assert self._app is not None
        return self._app

    @property
    def user(self) -> User:
        return self.app.all_users()[0] if self.device.credentials else self.app.login(Credentials.anonymous())

    @property
    def user_state(self) -> UserState:
        """Whether the user of its realm is logged in."""
        assert isinstance(self.realm.configuration, SyncConfiguration)
        return self.realm.configuration.user.state

    @property
    def device_id(self) -> str:
        return self.realm.device_id

    def begin_app(self) -> None:
        """Set the application up."""
        device = self.device
        environment = Environment(
            now_ms=device.clock.now_ms,
            monotonic=device.loop.time,
            asleep=lambda: 0.0,
            random=device.random.random,
            random_bytes=device.random.randbytes,
            run_blocking=self._run_blocking,
            start_thread=self._start_thread,
            undisturbed=lambda function: function(),
            make_loop=self._make_loop,
            watch_network=self._watch_network,
        )
        settings = Settings(**device.settings, directory=str(device.folder / "users"))
        self._app = App.create("simulated", remote=self._make_adapter, settings=settings, environment=environment)

    async def log_in(self) -> None:
        """Log the user in who is not, as soon as that can be done."""
        credentials = self.device.credentials or Credentials.anonymous()
        while self.app.current_user is None and not self.is_dead:
            try:
                await self.app.login_async(credentials)
            except (Offline, Busy, OperationAborted):
                await asyncio.sleep(_LOGIN_SECONDS)

    def log_out(self) -> None:
        """The user logs out, and the realm stays open."""
        self.user.log_out()

    def open(self) -> bool:
        """Open the realm, and say whether it has another session than it had before."""
        device = self.device
        configuration = SyncConfiguration(self.user, device.schema, device.folder / DATABASE, error_handler=self._hear)
        self._realm = Realm.open(configuration)
        before, self._session = self._session, self._realm.sync_session
        return before is not self._session

    def close_realm(self) -> None:
        """Close the realm alone; its session first uploads what is unsent, unless it is opened again before."""
        self.realm.close()

    def close(self) -> None:
        """Close the realm and the app; what is left of them runs on for some steps."""
        if self._app is not None:
            self._app.close()
        if self._realm is not None:
            with suppress(LocalStoreError):
                self._realm.close()

    async def end(self) -> None:
        """Let its tasks end; those of a dead one are cancelled."""
        for _ in range(_ROUNDS):
            if not self.tasks:
                return
            if self.is_dead:
                for task in list(self.tasks):
                    task.cancel()
            await asyncio.sleep(0 if self.is_dead else 0.1)
        raise AssertionError(f"tasks of {self.name} do not end: {list(self.tasks)}")

    def run(self, function: Callable[[], T]) -> T:
        """Call a function as the application would."""
        return self._context.copy().run(function)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the application's."""
        return self.device.loop.create_task(work, context=self._context.copy())

    def strike_after(self, steps: int, strike: Callable[[], object]) -> None:
        """Call ``strike`` when it has made so many steps more."""
        self._strike = self.steps + steps, strike

    def spare(self) -> None:
        """Do not strike it any more."""
        self._strike = None

    # -- what the loop tells

    def step(self) -> None:
        self.steps += 1
        self.notice()
        if self._strike is not None and self.steps >= self._strike[0]:
            strike, self._strike = self._strike[1], None
            strike()

    def notice(self) -> None:
        """See whether the session is in another state than before."""
        session = self._session
        if session is not None and self._seen != (seen := (session.state, session.connection_state)):
            self._seen = seen
            self.device.observer.moved(self)

    def has_begun(self, task: asyncio.Task[Any]) -> None:
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))

    def failed(self, context: dict[str, Any]) -> bool:
        return self.is_dead

    # -- the world as the library sees it

    async def _run_blocking(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Work of a thread: at once, but others may come before it and between its end and whoever waits for it."""
        await asyncio.sleep(0)
        if self.is_dead:
            raise asyncio.CancelledError
        context = contextvars.copy_context()
        context.run(_in_loop.set, None)
        name = getattr(function, "__name__", "work")
        before = self.device.log()
        result = context.run(function, *args, **kwargs)
        if name == "batch":
            self.device.note_synced(before)
        if self._realm is not None:
            for disk in states_between(self.device.folder, DATABASE, before):
                self.device.observer.passed(self, disk)
            self.device.observer.worked(self, name)
        await asyncio.sleep(0)
        return result

    def _start_thread(self, function: Callable[[], object], name: str) -> None:
        async def work() -> None:
            if not self.is_dead:
                function()

        self.begin(work())

    def _make_loop(self, name: str) -> _SessionLoop:
        self._session_loop = _SessionLoop(self, self._context.copy())
        return self._session_loop

    def _watch_network(self, hint: Callable[[], object]) -> Callable[[], object]:
        return lambda: None

    def _make_adapter(self) -> SyncAdapter:
        return self.device.make_adapter(self)

    def _hear(self, session: SyncSession, error: SyncError) -> None:
        if not self.is_dead:
            self.device.observer.heard(self, error)


class _SessionLoop:
    """Where a process's sessions run: the simulation's loop, apart from what the application itself does in it."""

    def __init__(self, process: Process, context: Context) -> None:
        self._loop = process.device.loop
        self._context = context
        self._context.run(_in_loop.set, self)
        self._stopped = False
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._leaving: set[asyncio.Task[Any]] = set()
        self._process = process

    def post(self, function: Callable[[], object]) -> None:
        if not self._stopped:
            self._loop.call_soon(function, context=self._context)

    def is_current(self) -> bool:
        return _in_loop.get() is self

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(work)  # which the process keeps

    @contextmanager
    def letting_go(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._leaving.add(task)
        try:
            yield
        finally:
            self._leaving.discard(task)

    def stop(self, timeout: float) -> None:
        if not self._stopped:
            self._loop.call_soon(self._end, context=self._context)
        self._stopped = True

    def _end(self) -> None:
        for task in list(self._process.tasks):
            if not task.cancelling() and task not in self._leaving:
                task.cancel()
