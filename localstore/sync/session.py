"""The sync session of one file: what an application holds, and the thin shell around state table and cycle.

Any thread may call it. Events go through the table in ``state.py`` under one lock; what a transition asks for is carried out
here. The cycle runs as a task in the app's background loop; calls never wait for it, so that pausing is immediate whatever
an adapter does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from localstore.client_reset import ClientResetReport
from localstore.errors import LocalStoreError, SyncError, Unauthorized
from localstore.store.forking import of_this_process
from localstore.sync.cycle import Signals
from localstore.sync.life import Life
from localstore.sync.news import Connection, Emptied, Failed, News
from localstore.sync.parts import SessionParts
from localstore.sync.progress import Direction, Progress, ProgressMode
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
from localstore.sync.status import Facts, SyncStatus, describe, note
from localstore.sync.stream import Broadcast, Stream
from localstore.sync.telling import Coalesced
from localstore.sync.tokens import adjusted
from localstore.sync.transfers import Transfers
from localstore.sync.waiting import aborted, begin_upload
from localstore.sync.waits import Waits, result, result_async
from localstore.timeouts import at_most

if TYPE_CHECKING:
    from localstore.sync.salvaging import SalvageReport

__all__ = ["ErrorHandler", "SyncSession"]

ErrorHandler = Callable[["SyncSession", SyncError], object]
"""Called in the background thread with errors that a user should know of; what it raises is logged and dropped."""

_CLOSED = (Event.CLOSE, Event.UPLOADED)
_LOGGED_IN = (Event.LOG_IN, Event.LOG_IN_STALE)
_STATUS_SECONDS = 0.2  # between two values of ``status_changes()``

_log = logging.getLogger("localstore.sync")


class SyncSession:
    """Syncs one file in the background. Got from ``realm.sync_session``, the same object every time."""

    def __init__(
        self,
        parts: SessionParts,
        *,
        error_handler: ErrorHandler | None,
        on_dead: Callable[[], None],
        is_held: Callable[[], bool] = lambda: True,
    ) -> None:
        self._parts = parts
        self._is_held = is_held
        self._error_handler = error_handler
        self._on_dead = on_dead
        self._lock = threading.RLock()
        self._state = SessionState.INACTIVE
        self._connection = ConnectionState.DISCONNECTED
        self._facts = Facts()
        self._connections = Broadcast[ConnectionStateChange](self._check_may_wait)
        self._statuses = Broadcast[SyncStatus](self._check_may_wait)
        self._status_teller = Coalesced(
            parts.loop, parts.environment, self._look_at_status, self._tell_status, quiet_s=_STATUS_SECONDS
        )
        self._transfers = Transfers(parts, self._check_may_wait)
        self._waits = Waits()
        self._life: Life | None = None
        self._logged_in_since = False  # the life began
        self._ended = False
        self._to_settle = deque[Callable[[], object]]()
        from localstore.sync.reset import Resets  # for which much is imported that only sessions need

        self._resets = Resets(parts, session=self)
        parts.store.on_commit(self._committed)
        of_this_process(self)

    # -- what an application sees

    @property
    def has_ended(self) -> bool:
        """Whether the file or the app was closed: nothing more will happen."""
        return self._ended

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
        return self._facts.error

    @property
    def status(self) -> SyncStatus:
        """Everything about the session at this moment, as one value.

        Raises:
            RealmClosed: the file was closed.
        """
        return self._look_at_status()

    @property
    def is_synced(self) -> bool:
        """Whether nothing is pending, and everything that the remote is known to have is in the file."""
        return self.status.is_synced

    @property
    def last_reset(self) -> ClientResetReport | None:
        """The last client reset of this file, and where the backup from before it lies; None when there was none since it was
        opened, nor one before that the remote has not confirmed."""
        return self._resets.last

    def connection_state_changes(self) -> Stream[ConnectionStateChange]:
        """Changes from now on, for ``for`` or ``async for``; the stream ends when the realm is closed."""
        return self._connections.stream()

    def on_connection_state_change(self, callback: Callable[[ConnectionStateChange], object]) -> Callable[[], None]:
        """Call back with each change from now on, in the thread that causes it: mostly the background thread, which the
        callback must not hold up.

        Returns:
            What ends that; may be called inside the callback.
        """
        return self._connections.listen(callback)

    def status_changes(self) -> Stream[SyncStatus]:
        """The status now and each time it has changed, for ``for`` or ``async for``; ends when the realm is closed.

        At most every 200 ms. A slow reader misses values that were overtaken, and never the last one.
        """
        stream = self._statuses.stream(latest_only=True)
        if not self._ended:
            stream.begin_with(self.status)
        return stream

    def on_status_change(self, callback: Callable[[SyncStatus], object]) -> Callable[[], None]:
        """Call back in the background thread each time that the status has changed, at most every 200 ms.

        Returns:
            What ends that; may be called inside the callback.
        """
        return self._statuses.listen(callback, distinct=True)

    def progress(self, direction: Direction, mode: ProgressMode) -> Stream[Progress]:
        """How far a transfer is, by bytes, for ``for`` or ``async for``; ends when the realm is closed.

        The first value comes at once, or as soon as the remote has said how much there is. ``CURRENT_CHANGES`` ends with 1.0;
        at 1.0 everything is acknowledged, or in the file. A slow reader misses values that were overtaken.
        """
        return self._transfers.progress(direction, mode)

    def pause(self) -> None:
        """Stop syncing, both ways and at once, until ``resume()``. Reading and writing go on as ever."""
        self.handle(Event.PAUSE)

    def resume(self) -> None:
        """Sync again, with a fresh attempt to connect; does nothing when the session is active."""
        if self._state is SessionState.DYING and not self._is_held():
            self.reconnect()  # its realm is closed: it goes on uploading, and would never end if it were active
        else:
            self.handle(Event.RESUME)

    def upload_all_local_changes(self, timeout: float | None = None) -> bool:
        """Wait until the remote has acknowledged everything committed before this call.

        Args:
            timeout: seconds to wait at most; None, or infinity, waits as long as it takes.

        Returns:
            True when done, at once when nothing is pending; False when the time was up. The upload goes on then.

        Raises:
            OperationAborted: the session was paused or closed meanwhile.
            SyncError: a fatal error ended the session.
            LocalStoreError: this is the background thread, as in an error handler, which would wait for itself.
            StoreBusy: what another program wrote is to be sealed first, and somebody writes for longer than ``busy_timeout``.
            ValueError: the timeout is not positive.
        """
        seconds = at_most(timeout)
        self._check_may_wait()
        left = self._parts.environment.countdown(seconds)
        return self._result(self._wait_for_upload(seconds), left())

    async def upload_all_local_changes_async(self, timeout: float | None = None) -> bool:
        """``upload_all_local_changes`` for any event loop."""
        seconds = at_most(timeout)
        left = self._parts.environment.countdown(seconds)
        return await result_async(await asyncio.to_thread(self._wait_for_upload, seconds), left())

    def download_all_server_changes(self, timeout: float | None = None) -> bool:
        """Wait until everything that the remote had at some time after this call is in the file.

        It needs a connection. Arguments, results and errors are those of ``upload_all_local_changes``.
        """
        seconds = at_most(timeout)
        self._check_may_wait()
        return self._result(self._wait_for_download(), seconds)

    def download_or_fail(self, timeout: float | None) -> bool:
        """``download_all_server_changes`` that does not wait for a session that has stopped to be resumed."""
        self._check_may_wait()
        return self._result(self._wait_for_download(or_fail=True), timeout)

    async def download_or_fail_async(self, timeout: float | None) -> bool:
        """``download_or_fail`` for any event loop."""
        return await result_async(self._wait_for_download(or_fail=True), timeout)

    async def download_all_server_changes_async(self, timeout: float | None = None) -> bool:
        """``download_all_server_changes`` for any event loop."""
        seconds = at_most(timeout)
        return await result_async(self._wait_for_download(), seconds)

    def salvage(self, damaged: Path) -> SalvageReport:
        """Send what a damaged file of the same user and partition has not sent, as far as it can be read. The file was moved
        away with what lies beside it, and nobody has it open; this session is of the new one in its place, which downloads what
        was sent like that of any device. To do it twice does no harm.

        Raises:
            FileNotFoundError: there is no such file.
            StoreDamaged: nothing of it can be read.
            StoreUnusable: it is another user's, partition's or application's, or this session's own.
            SyncError: the remote cannot be reached, and this may be tried again; or it takes nothing more of the damaged file's
                device (``ResetRequired``), as after too long a time.
            LocalStoreError: this is the background thread, which would wait for itself.
        """
        self._check_may_wait()
        salvaged: SalvageReport = self._parts.environment.undisturbed(self._salvaging(damaged).result)
        return salvaged

    async def salvage_async(self, damaged: Path) -> SalvageReport:
        """``salvage`` for any event loop."""
        return await asyncio.wrap_future(await asyncio.to_thread(self._salvaging, damaged))

    # -- what the app does with it

    def reconnect(self) -> None:
        """End a wait after errors, or see at once whether the remote still answers."""
        self._signal(Signals.reconnect_now)

    def handle(self, event: Event, error: SyncError | None = None, *, life: Life | None = None) -> bool:
        """Feed an event to the state table, carry out what it asks for, and let those hear of it who want to.

        Args:
            event: what happened.
            error: why.
            life: the run of the cycle that says so; ignored when it is not the present one.

        Returns:
            Whether the error was reported.
        """
        is_reported = self.enter(event, error, life=life)
        self.settle()
        return is_reported

    def enter(self, event: Event, error: SyncError | None = None, *, life: Life | None = None) -> bool:
        """``handle`` for a caller that holds a lock, and calls ``settle`` when it has let go of it: who hears of
        it may need that lock."""
        with self._lock:
            event = adjusted(self._parts.tokens, event)  # under the lock: whoever logs in tells so after it is done
            if self._ended or (life is not None and life is not self._life):
                return False
            if event in _LOGGED_IN:
                self._logged_in_since = True
            elif life is not None and isinstance(error, Unauthorized) and self._logged_in_since:
                self._start()  # the error may be about what was shown to the remote before that
                return False
            before, transition = self._state, TRANSITIONS[self._state, event]
            self._state = transition.state
            try:
                self._carry_out(transition.effects, event, error)
            except (
                KeyboardInterrupt,
                SystemExit,
            ):  # of a signal: the state is new already, and what goes with it is done; twice is fine
                self._carry_out(transition.effects, event, error)
                raise
            finally:
                if Effect.REPORT in transition.effects and error is not None:
                    self._to_settle.append(functools.partial(self.report, error))
                if before is SessionState.DYING:
                    self._left_dying(transition.state)
        if event is Event.CLOSE_AFTER_UPLOAD:
            self._poke()  # the last change may have gone out just before, and the cycle rest already
        return Effect.REPORT in transition.effects

    def _carry_out(self, effects: Effect, event: Event, error: SyncError | None) -> None:
        if Effect.REPORT in effects and error is not None:
            note(self._facts, Failed(error, None), self._parts.environment.now_ms())
        if Effect.STOP in effects:
            self._stop(lingers=event in _CLOSED)
        if Effect.ABORT_WAITS in effects:
            self._waits.abort(error or aborted(event))
        if Effect.START in effects:
            self._start()
        if Effect.RENEW_TOKEN in effects and self._parts.tokens is not None:
            self._parts.tokens.renew(self.handle)

    def settle(self) -> None:
        """Let those hear of what happened who want to."""
        self._connections.deliver()
        self._statuses.deliver()
        self._status_changed()
        while self._to_settle:
            with suppress(IndexError):  # another thread was quicker
                self._to_settle.popleft()()

    def end(self) -> None:
        """The file or the app was closed: nothing more will happen. ``settle`` lets those hear of it who listen."""
        with self._lock:
            self.enter(Event.CLOSE)
            was_ended, self._ended = self._ended, True
        if was_ended:
            return
        self._waits.abort(aborted(Event.CLOSE))
        self._transfers.end()
        self._connections.end()
        self.look_once_more()
        self._statuses.put(describe(self._state, self._connection, self._facts, self._transfers.pending))
        self._statuses.end()

    def look_once_more(self) -> None:
        """See what is pending while the file is open, for those who are told the status at the end; else it is what was seen
        last."""
        if self._statuses.has_readers:
            with suppress(Exception):  # whatever is wrong with the file: it must not keep anything from ending
                self._transfers.look()

    def report(self, error: SyncError) -> None:
        """Give an error to the error handler, or log it when there is none."""
        if self._error_handler is None:
            _log.warning("%s: %s", self._parts.store.path.name, error)
            return
        try:
            self._error_handler(self, error)
        except (Exception, SystemExit):  # noqa: BLE001  a handler of the application's must not stop its sync
            _log.exception("The error handler of %s failed; sync goes on.", self._parts.store.path.name)

    def hear(self, life: Life, news: News) -> None:
        """Take in what a life of the cycle tells; ignored when it is not the present one."""
        with self._lock:
            if life is not self._life:
                return
            note(self._facts, news, self._parts.environment.now_ms())
            if isinstance(news, Connection):
                self._connect(news.event)
            if isinstance(news, Emptied):
                self._emptied(life)
        self._transfers.hear(news)
        self.settle()

    # -- inside

    def _start(self) -> None:
        self._facts.error = None
        self._logged_in_since = False
        self._stop_life(lingers=False)  # there is one only when Ctrl-C came between this and the next
        life = self._life = Life(self, self._parts, self._waits, self._resets)
        self._parts.loop.post(life.start)

    def _stop(self, *, lingers: bool) -> None:
        self._stop_life(lingers=lingers)
        lost = Connection(ConnectionEvent.LOST)
        note(self._facts, lost, self._parts.environment.now_ms())
        self._facts.retry_ms, self._facts.resetting = None, False
        self._transfers.hear(lost)
        self._connect(lost.event)

    def _stop_life(self, *, lingers: bool) -> None:
        if self._life is not None:
            self._parts.loop.post(functools.partial(self._life.stop, lingers=lingers))
            self._life = None

    def _connect(self, event: ConnectionEvent) -> None:
        new = CONNECTIONS[self._connection, event]
        if new is not self._connection:
            self._connections.put(ConnectionStateChange(self._connection, new))
            self._connection = new

    def _emptied(self, life: Life) -> None:
        """The outbox is empty; but a realm may have been opened, written and closed since the cycle found it so."""
        if self._state is SessionState.DYING and self._parts.store.last_pending() is not None:
            self._poke()
        else:
            self.enter(Event.UPLOADED, life=life)

    def _left_dying(self, state: SessionState) -> None:
        if state is SessionState.ACTIVE:
            self._signal(Signals.reconnect_now)  # as for any session that becomes active
        elif state in (SessionState.INACTIVE, SessionState.PAUSED):
            self._to_settle.append(self._on_dead)

    def _committed(self) -> None:
        self._poke()
        self._transfers.changed()
        self._status_changed()

    def _poke(self) -> None:
        self._signal(Signals.work_came)

    def _signal(self, poke: Callable[[Signals], object]) -> None:
        life = self._life
        if life is not None:
            self._parts.loop.post(lambda: poke(life.signals))

    def _look_at_status(self) -> SyncStatus:
        pending = self._transfers.look()
        with self._lock:
            return describe(self._state, self._connection, self._facts, pending)

    def _status_changed(self) -> None:
        if self._statuses.has_readers and not self._ended:
            self._status_teller.poke()

    def _tell_status(self, status: SyncStatus) -> None:
        if not self._ended:
            self._statuses.put(status)
            self._statuses.deliver()

    def _result(self, future: concurrent.futures.Future[bool], seconds: float | None) -> bool:
        """Not in the main thread: a signal could leave it with the lock of the future, for which the loop would wait."""
        return bool(self._parts.environment.undisturbed(functools.partial(result, future, seconds)))

    def _wait_for_upload(self, seconds: float | None) -> concurrent.futures.Future[bool]:
        future = begin_upload(self._parts.store, self._waits, seconds)
        self._waiting_has_begun()
        return future

    def _wait_for_download(self, *, or_fail: bool = False) -> concurrent.futures.Future[bool]:
        self._parts.store.check_open()
        future = self._waits.download()
        if or_fail and self._state in (SessionState.INACTIVE, SessionState.PAUSED):
            stopped = Event.PAUSE if self._state is SessionState.PAUSED else Event.CLOSE
            with suppress(concurrent.futures.InvalidStateError):  # that it stopped broke it off already
                future.set_exception(self.last_error or aborted(stopped))
        self._waiting_has_begun()
        return future

    def _salvaging(self, damaged: Path) -> concurrent.futures.Future[SalvageReport]:
        from localstore.sync.salvaging import salvage  # which hardly anybody ever needs

        return salvage(self._parts, damaged)

    def _waiting_has_begun(self) -> None:
        self._poke()
        if self._ended:
            self._waits.abort(aborted(Event.CLOSE))

    def _check_may_wait(self) -> None:
        if self._parts.loop.is_current() or self._resets.is_calling_back():
            raise LocalStoreError(
                "The background thread cannot wait for itself: all sync would stand still.",
                hint="Wait in another thread, not in an error handler or a callback of a client reset.",
            )
