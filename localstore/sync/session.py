"""The sync session of one file: what an application holds, and the thin shell around state table and cycle.

Any thread may call it. Events go through the table in ``state.py`` under one lock; what a transition asks for is carried out
here. The cycle runs as a task in the app's background loop; calls never wait for it, so that pausing is immediate whatever
an adapter does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from localstore.adapter import SyncAdapter
from localstore.client_reset import ClientResetReport
from localstore.errors import LocalStoreError, OperationAborted, ProtocolError, ResetRequired, SyncError
from localstore.store.contact import last_contact
from localstore.sync.cycle import Cycle, Signals
from localstore.sync.parts import SessionParts
from localstore.sync.redaction import redacted_error
from localstore.sync.reset import Resets
from localstore.sync.state import (
    CONNECTIONS,
    TRANSITIONS,
    ConnectionEvent,
    ConnectionState,
    ConnectionStateChange,
    Effect,
    Event,
    SessionState,
)
from localstore.sync.stream import Stream
from localstore.sync.waits import Waits
from localstore.urls import redacted_text

__all__ = ["ErrorHandler", "Life", "SyncSession"]

ErrorHandler = Callable[["SyncSession", SyncError], object]
"""Called in the background thread with errors that a user should know of; what it raises is logged and dropped."""

_log = logging.getLogger("localstore.sync")
_CLOSE_SECONDS = 10.0  # how long an adapter may take to let go


class SyncSession:
    """Syncs one file in the background. Got from ``realm.sync_session``, the same object every time."""

    def __init__(self, parts: SessionParts, *, error_handler: ErrorHandler | None, on_dead: Callable[[], None]) -> None:
        self._parts = parts
        self._error_handler = error_handler
        self._on_dead = on_dead
        self._lock = threading.RLock()
        self._state = SessionState.INACTIVE
        self._connection = ConnectionState.DISCONNECTED
        self._streams: list[Stream[ConnectionStateChange]] = []
        self._waits = Waits()
        self._life: Life | None = None
        self._last_error: SyncError | None = None
        self._ended = False
        self._resets = Resets(parts, session=self)
        parts.store.on_commit(self._poke)

    # -- what an application sees

    @property
    def state(self) -> SessionState:
        """Whether the session may sync; being offline does not change it."""
        return self._state

    @property
    def connection_state(self) -> ConnectionState:
        """Whether the remote is reached."""
        return self._connection

    @property
    def last_error(self) -> SyncError | None:
        """The error that the session met last, transient ones too; None when there was none since it connected."""
        return self._last_error

    @property
    def last_reset(self) -> ClientResetReport | None:
        """The last client reset of this file, and where the backup from before it lies; None when there was none since it was
        opened, nor one before that the remote has not confirmed."""
        return self._resets.last

    @property
    def offline_deadline_ms(self) -> int | None:
        """When the remote will have forgotten what this device has missed, if it cannot be reached until then: milliseconds
        since the Unix epoch. None when it keeps history for ever, or was never reached."""
        return last_contact(self._parts.store).deadline_ms

    def connection_state_changes(self) -> Stream[ConnectionStateChange]:
        """Changes from now on, for ``for`` or ``async for``; the stream ends when the realm is closed."""
        stream: Stream[ConnectionStateChange] = Stream(self._forget_stream)
        with self._lock:
            if self._ended:
                stream.end()
            else:
                self._streams.append(stream)
        return stream

    def pause(self) -> None:
        """Stop syncing, both ways and at once, until ``resume()``. Reading and writing go on as ever."""
        self.handle(Event.PAUSE)

    def resume(self) -> None:
        """Sync again, with a fresh attempt to connect; does nothing when the session is active."""
        self.handle(Event.RESUME)

    def upload_all_local_changes(self, timeout: float | None = None) -> bool:
        """Wait until the remote has acknowledged everything committed before this call.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            True when done, at once when nothing is pending; False when the time was up. The upload goes on then.

        Raises:
            OperationAborted: the session was paused or closed meanwhile.
            SyncError: a fatal error ended the session.
            LocalStoreError: this is the background thread, as in an error handler, which would wait for itself.
            ValueError: the timeout is not positive.
        """
        _check_timeout(timeout)
        self._check_may_wait()
        future = self._wait_for_upload()
        return future is None or _result(future, timeout)

    async def upload_all_local_changes_async(self, timeout: float | None = None) -> bool:
        """``upload_all_local_changes`` for any event loop."""
        _check_timeout(timeout)
        future = await asyncio.to_thread(self._wait_for_upload)
        return future is None or await _result_async(future, timeout)

    def download_all_server_changes(self, timeout: float | None = None) -> bool:
        """Wait until everything that the remote had at some time after this call is in the file.

        It needs a connection. Arguments, results and errors are those of ``upload_all_local_changes``.
        """
        _check_timeout(timeout)
        self._check_may_wait()
        return _result(self._wait_for_download(), timeout)

    async def download_all_server_changes_async(self, timeout: float | None = None) -> bool:
        """``download_all_server_changes`` for any event loop."""
        _check_timeout(timeout)
        return await _result_async(self._wait_for_download(), timeout)

    # -- what the app does with it

    def reconnect(self) -> None:
        """End a wait after errors, or look at the remote at once."""
        self._signal(Signals.reconnect_now)

    def handle(self, event: Event, error: SyncError | None = None, *, life: Life | None = None) -> None:
        """Feed an event to the state table and carry out what it asks for.

        Args:
            event: what happened.
            error: why.
            life: the run of the cycle that says so; ignored when it is not the present one.
        """
        with self._lock:
            if self._ended or (life is not None and life is not self._life):
                return
            before, transition = self._state, TRANSITIONS[self._state, event]
            self._state = transition.state
            if Effect.STOP in transition.effects:
                self._stop()
            if Effect.ABORT_WAITS in transition.effects:
                self._waits.abort(error or _aborted(event))
            if Effect.START in transition.effects:
                self._start()
        if event is Event.CLOSE_AFTER_UPLOAD:
            self._poke()  # the last change may have gone out just before, and the cycle rest already
        if Effect.REPORT in transition.effects and error is not None:
            self.report(error)
        if before is SessionState.DYING and transition.state in (SessionState.INACTIVE, SessionState.PAUSED):
            self._on_dead()

    def end(self) -> None:
        """The file or the app was closed: nothing more will happen, nor be told."""
        with self._lock:
            self.handle(Event.CLOSE)
            self._ended = True
            for stream in self._streams:
                stream.end()
            self._streams.clear()
        self._waits.abort(_aborted(Event.CLOSE))

    def report(self, error: SyncError) -> None:
        """Give an error to the error handler, or log it when there is none."""
        if self._error_handler is None:
            _log.warning("%s: %s", self._parts.store.path.name, error)
            return
        try:
            self._error_handler(self, error)
        except Exception:  # noqa: BLE001  a handler of the application's must not stop its sync
            _log.exception("The error handler of %s failed; sync goes on.", self._parts.store.path.name)

    # -- inside

    def _start(self) -> None:
        self._last_error = None
        life = self._life = Life(self, self._parts, self._waits)
        self._parts.loop.post(life.start)

    def _stop(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            self._parts.loop.post(life.stop)
        self._connect(ConnectionEvent.LOST)

    def _connect(self, event: ConnectionEvent) -> None:
        new = CONNECTIONS[self._connection, event]
        if new is not self._connection:
            change = ConnectionStateChange(self._connection, new)
            self._connection = new
            for stream in list(self._streams):
                stream.put(change)

    def _life_connection(self, life: Life, event: ConnectionEvent) -> None:
        with self._lock:
            if life is self._life:
                if event is ConnectionEvent.WELCOME:
                    self._last_error = None
                self._connect(event)

    def _life_uploaded(self, life: Life) -> None:
        with self._lock:  # a realm may have been opened, written and closed since the cycle found nothing to upload
            if life is self._life and self._state is SessionState.DYING and self._parts.store.last_pending() is not None:
                self._poke()
            else:
                self.handle(Event.UPLOADED, life=life)

    def _life_failed(self, life: Life, error: SyncError) -> None:
        with self._lock:
            if life is self._life:
                self._last_error = error

    def _poke(self) -> None:
        self._signal(Signals.work_came)

    def _signal(self, poke: Callable[[Signals], object]) -> None:
        life = self._life
        if life is not None:
            self._parts.loop.post(lambda: poke(life.signals))

    def _wait_for_upload(self) -> concurrent.futures.Future[bool] | None:
        store = self._parts.store
        store.seal()
        if store.last_pending() is None:
            return None
        state = store.state()
        future = self._waits.upload(state.last_number, state.device)
        if store.last_pending() is None:  # acknowledged before the wait was known
            self._waits.acknowledged(state.last_number)
        self._waiting_has_begun()
        return future

    def _wait_for_download(self) -> concurrent.futures.Future[bool]:
        self._parts.store.check_open()
        future = self._waits.download()
        self._waiting_has_begun()
        return future

    def _waiting_has_begun(self) -> None:
        self._poke()
        if self._ended:
            self._waits.abort(_aborted(Event.CLOSE))

    def _check_may_wait(self) -> None:
        if self._parts.loop.is_current() or self._resets.is_calling_back():
            raise LocalStoreError(
                "The background thread cannot wait for itself: all sync would stand still.",
                hint="Wait in another thread, not in an error handler or a callback of a client reset.",
            )

    def _forget_stream(self, stream: Stream[ConnectionStateChange]) -> None:
        with self._lock:
            if stream in self._streams:
                self._streams.remove(stream)


class Life:
    """One run of the cycle, from START to STOP; what comes from it later is ignored."""

    def __init__(self, session: SyncSession, parts: SessionParts, waits: Waits) -> None:
        self._session = session
        self._parts = parts
        self._waits = waits
        self._resets = session._resets
        self._task: asyncio.Task[None] | None = None
        self._failed = False
        self.signals = Signals()

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        if self._task is not None and not self._failed:
            self._task.cancel()

    async def _run(self) -> None:
        parts = self._parts
        adapter: SyncAdapter | None = None
        try:
            await self._resets.take_up()
            while True:
                adapter = parts.make_adapter()
                cycle = Cycle(parts, adapter=adapter, waits=self._waits, observer=self, signals=self.signals)
                try:
                    await cycle.run()
                except ResetRequired as error:
                    await _let_go(adapter)
                    adapter = None
                    await self._resets.carry_out(error, self)
        except SyncError as error:
            if self._fail(error):
                await self._resets.tell(error)
        except LocalStoreError as error:  # of the file, and nothing that passes by itself
            broken = ProtocolError(f"Sync stopped: {error.message} Local data is untouched.", hint=error.hint)
            broken.__cause__ = error
            self._fail(broken)
        except Exception as error:  # noqa: BLE001  a bug must be told, not lost with its task
            told = redacted_text(f"{type(error).__name__}: {error}")
            broken = ProtocolError(f"Sync stopped: {told}. Local data is untouched.", hint="Report this.")
            broken.__cause__ = error
            self._fail(broken)
        finally:
            if adapter is not None:
                await _let_go(adapter)

    def _fail(self, error: SyncError) -> bool:
        """End the session; returns whether the application is to hear of it."""
        self._failed = True  # what is left to do is closing the adapter
        self.failed(error)
        is_heard = self._session._life is self and self._session.state is SessionState.ACTIVE
        self._session.handle(Event.FATAL_ERROR, error, life=self)
        return is_heard

    def connection(self, event: ConnectionEvent) -> None:
        self._session._life_connection(self, event)

    def report(self, error: SyncError) -> None:
        redacted_error(error)
        self._session.report(error)

    def failed(self, error: SyncError) -> None:
        redacted_error(error)  # before it is the session's last, and ends its waits
        self._session._life_failed(self, error)

    def uploaded(self) -> None:
        self._session._life_uploaded(self)

    async def caught_up(self) -> None:
        await self._resets.caught_up(self)


async def _let_go(adapter: SyncAdapter) -> None:
    """Close an adapter. That it fails or hangs concerns nobody: it is not used any more."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await adapter.close()
    except Exception as error:  # noqa: BLE001
        _log.warning("%s could not be closed.", type(adapter).__name__, exc_info=redacted_error(error))


def _aborted(event: Event) -> OperationAborted:
    reason = {Event.PAUSE: "paused", Event.CLOSE: "closed", Event.LOG_OUT: "ended by logging out"}.get(event, "ended")
    return OperationAborted(
        f"The wait was broken off because the session was {reason}. All changes are safe in the file.",
        hint="Wait again when the session is active.",
    )


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise ValueError(
            f"A timeout must be a positive number of seconds, or None to wait as long as it takes; got {timeout!r}."
        )


def _result(future: concurrent.futures.Future[bool], timeout: float | None) -> bool:
    try:
        return future.result(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
    except concurrent.futures.TimeoutError:
        return not future.cancel() and future.result()


async def _result_async(future: concurrent.futures.Future[bool], timeout: float | None) -> bool:
    loop = asyncio.get_running_loop()
    resolved = asyncio.Event()

    def tell(_: concurrent.futures.Future[bool]) -> None:
        with suppress(RuntimeError):  # the caller's event loop is gone, and so is the caller
            loop.call_soon_threadsafe(resolved.set)

    future.add_done_callback(tell)
    try:
        async with asyncio.timeout(timeout):
            await resolved.wait()
    except TimeoutError:
        pass
    finally:
        gave_up = future.cancel()
    return not gave_up and future.result()
