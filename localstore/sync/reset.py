"""Client resets: what a session does when its device and the remote cannot go on with each other.

From top to bottom: decide; fill a second file from the remote; save the file as it is; call the application; exchange what the
file holds in one transaction; call the application again. Until the exchange everything may be broken off and begins anew; what
is to be done after it is in the file's record, so that it is done once, whatever happens. ``reset_rules`` decides.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localstore.client_reset import ClientReset, ClientResetReport, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.errors import (
    Busy,
    ClientResetFailed,
    ClientResetRequired,
    DiskFailed,
    DiskFull,
    LocalStoreError,
    RealmClosed,
    ResetRequired,
    StoreBusy,
    SyncError,
    Unauthorized,
)
from localstore.reasons import ResetReason
from localstore.store.contact import last_contact
from localstore.store.engine import driver_connection
from localstore.store.reset_record import ResetRecord, forget_reset, is_blank, last_reset, note_reset, note_step
from localstore.store.resetting import ResetOutcome, ResetPlan, reset
from localstore.sync.backups import free_path, save_backup
from localstore.sync.blocking import in_thread
from localstore.sync.fresh import Beside, Fresh, Wanted, fresh_file
from localstore.sync.manual import manual_reset
from localstore.sync.news import Failed, MayStayAway, Resetting
from localstore.sync.parts import ResetParts, SessionParts
from localstore.sync.reset_rules import Attempt, Mode, decide
from localstore.sync.retry import Backoff
from localstore.sync.undo import undo
from localstore.version import VERSION

if TYPE_CHECKING:
    from localstore.sync.life import Life
    from localstore.sync.session import SyncSession

__all__ = ["Resets"]

_log = logging.getLogger("localstore.sync")
_TRIES = 5  # remotes that part again while the second file is filled
_LOOK_SECONDS = 0.1
_REFUSED = ", recovery refused"

# How far a reset got, as the file's record says.
BEGUN, CHANGED, DONE, FAILED = "begun", "changed", "done", "failed"


class _GivenUpError(Exception):
    """Nobody waits for this any more; the file is whole."""


class Resets:
    """The client resets of one file.

    Args:
        parts: of the session.
        session: for the application's callbacks.

    Attributes:
        last: what the last one did.
    """

    def __init__(self, parts: SessionParts, *, session: SyncSession) -> None:
        self._parts = parts
        self._store = parts.store
        self._session = session
        self._one = threading.Lock()  # held by who exchanges, also when its life has ended meanwhile
        self._turn = asyncio.Lock()
        self._calling: int | None = None
        self._why: ResetRequired | None = None
        self._confirmed = False
        self.last: ClientResetReport | None = None

    def is_calling_back(self) -> bool:
        """Whether this thread is inside a callback of the application's, for which the session waits."""
        return self._calling == threading.get_ident()

    async def take_up(self, life: Life) -> None:
        """Before a life's first connect: do what was left to be done of a reset that was carried out.

        Raises:
            ClientResetFailed: a callback raised.
        """
        self._confirmed = False
        with suppress(Busy):
            contact = await in_thread(self._parts.environment, last_contact, self._store)
            life.tell(MayStayAway(contact.deadline_ms))
        if self._parts.reset is not None:
            await self._persist(_Attempt(self).finish)

    async def carry_out(self, error: ResetRequired, life: Life) -> None:
        """Reset the file.

        Raises:
            ClientResetRequired: that is left to the application.
            ClientResetFailed: it cannot be done; the file is as it was.
        """
        self._confirmed = False
        self._why = error
        reset_parts = self._parts.reset
        if reset_parts is None:
            raise error
        if isinstance(reset_parts.strategy, Manual):
            raise await in_thread(self._parts.environment, manual_reset, self._parts, error) from error
        attempt = _Attempt(self)
        life.tell(Resetting(under_way=True))
        try:
            await self._persist(attempt.begin, error)
            await self._fill_and_exchange(attempt, life)
            await self._persist(attempt.finish)
        except ClientResetFailed as failure:
            failure.__cause__ = failure.__cause__ or error
            await in_thread(self._parts.environment, attempt.note_failure)
            raise
        finally:
            life.tell(Resetting(under_way=False))

    async def caught_up(self, life: Life, pull: Callable[[], Awaitable[None]]) -> None:
        """The head was reached and the outbox is empty: the remote has confirmed the last reset, if there was one; and what it
        refused is undone."""
        if not self._confirmed:
            await in_thread(self._parts.environment, forget_reset, self._store)
            self._confirmed = True
        await undo(self._parts, life, pull, self._turn)

    async def tell_application(self, error: SyncError) -> None:
        """Tell the application, in a worker thread, that a reset is up to it."""
        strategy = None if self._parts.reset is None else self._parts.reset.strategy
        if strategy is None:
            return
        required, callback = error, None
        if isinstance(strategy, Manual):
            callback = strategy.on_client_reset
        elif isinstance(error, ClientResetFailed) and strategy.on_manual_fallback is not None and self._why is not None:
            callback = strategy.on_manual_fallback
            required = await in_thread(self._parts.environment, manual_reset, self._parts, self._why)
            required.__cause__ = error
        if callback is None or not isinstance(required, ClientResetRequired):
            return
        try:
            await self._parts.environment.run_blocking(callback, self._session, required)
        except Exception:  # noqa: BLE001  a callback of the application's must not make it worse
            _log.exception("The callback of a client reset of %s failed.", self._store.path.name)

    async def _fill_and_exchange(self, attempt: _Attempt, life: Life) -> None:
        why: SyncError | None = None
        backoff = Backoff(self._parts.backoff, self._parts.environment.random)
        tries = 0
        while tries < _TRIES:
            try:
                beside = Beside(life, instead=True)
                async with fresh_file(
                    self._parts, attempt.wanted, turn=self._turn, observer=beside, signals=life.signals
                ) as fresh:

                    async def exchange(fresh: Fresh = fresh) -> None:
                        await self._worker(attempt, attempt.exchange, fresh)

                    await fresh.cycle.fill(exchange)
                return
            except ResetRequired as error:  # again, while the second file was being filled
                why = error
                tries += 1
            except Busy as error:
                seconds = backoff.failed(error)
                life.tell(Failed(error, seconds))
                await self._parts.environment.sleep(seconds)
            except (Unauthorized, ClientResetFailed):
                raise
            except RealmClosed:
                raise
            except LocalStoreError as error:
                raise _failed(f"what the remote has could not be fetched ({error.message})", attempt.backup) from error
        raise _failed("the remote changed again and again meanwhile", attempt.backup) from why

    async def _persist(self, work: Callable[..., None], *args: Any) -> None:
        """Work on the file through what passes by itself."""
        backoff = Backoff(self._parts.backoff, self._parts.environment.random)
        attempt: _Attempt = work.__self__  # type: ignore[attr-defined]
        while True:
            try:
                return await self._worker(attempt, work, *args)
            except Busy as error:
                await self._parts.environment.sleep(backoff.failed(error))

    async def _worker(self, attempt: _Attempt, work: Callable[..., None], *args: Any) -> None:
        """A part of an attempt in a worker thread, which gives up soon after its life has ended."""
        try:
            await in_thread(self._parts.environment, work, *args)
        except asyncio.CancelledError:
            attempt.given_up.set()
            raise

    @contextmanager
    def alone(self, given_up: threading.Event) -> Iterator[None]:
        """One attempt at a time, also beside one whose life has ended while it called the application."""
        while not self._one.acquire(timeout=_LOOK_SECONDS):
            if given_up.is_set():
                raise _GivenUpError
        try:
            yield
        finally:
            self._one.release()

    def call(self, name: str, callback: Callable[..., object], *args: object, backup: Path) -> None:
        """Call the application.

        Raises:
            ClientResetFailed: it raised.
        """
        self._calling = threading.get_ident()
        try:
            callback(*args)
        except Exception as error:
            raise ClientResetFailed(
                f"The client reset failed: {name} raised {type(error).__name__}: {error}. Nothing that it wrote was kept.",
                backup=backup,
                hint="Correct the callback.",
            ) from error
        finally:
            self._calling = None


class _Attempt:
    """One attempt to reset the file, in worker threads. Its parts may be called again when they failed for a passing reason."""

    def __init__(self, resets: Resets) -> None:
        assert resets._parts.reset is not None
        self._resets = resets
        self._parts = resets._parts
        self._reset: ResetParts = resets._parts.reset
        self._store = resets._store
        self._now_ms = resets._parts.environment.now_ms
        self._error = ResetRequired("")
        self._mode = Mode.RECOVER
        self._blank = False
        self._saved_at: int | None = None
        self._saved_number = 0
        self._has_called_before = False
        self.given_up = threading.Event()
        self.wanted = Wanted(b"", 0)
        self.backup: Path | None = None

    def begin(self, error: ResetRequired) -> None:
        """Decide what to do, and write it down.

        Raises:
            ClientResetFailed: there is nothing that could be done.
        """
        with self._resets.alone(self.given_up):
            self._error = error
            self.wanted = Wanted(self._store.state().device, self._store.acknowledged())
            self._blank = is_blank(self._store)
            record = last_reset(self._store)
            decided = decide(
                self._reset.strategy, error.kind, may_recover=error.may_recover, version=VERSION, last=_attempt_of(record)
            )
            if isinstance(decided, str):
                raise _failed(decided, None)
            if record is not None and record.step == BEGUN and isinstance(self._reset.strategy, RecoverOrDiscard):
                interrupted = _mode_of(record)  # which had its reasons; being interrupted is none to begin with others
                decided = interrupted if interrupted is Mode.DISCARD and record.version == VERSION else decided
            self._mode = decided
            mode = decided.value + ("" if error.may_recover else _REFUSED)
            note_reset(self._store, ResetRecord(mode, error.reason, self._now_ms(), VERSION, BEGUN))

    def exchange(self, fresh: Fresh) -> None:
        """Save the file, call the application, and exchange what it holds.

        Raises:
            ClientResetFailed: it cannot be done; the file is as it was.
        """
        with suppress(_GivenUpError), self._resets.alone(self.given_up):
            if self._store.state().device != self.wanted.device:
                return  # another process was quicker
            if not self._blank:
                self._prepare()
            self._check_wanted()
            try:
                outcome = reset(self._store, fresh.store, self._plan(fresh), self._now_ms())
            except (StoreBusy, DiskFull, DiskFailed, RealmClosed):
                raise
            except (LocalStoreError, ValueError) as error:
                raise _failed(f"what the remote has cannot be taken over ({error})", self.backup) from error
            self._tell(outcome)

    def finish(self) -> None:
        """Call the application after a reset, be it one of an earlier process that was killed before it did.

        Raises:
            ClientResetFailed: it raised. The file is reset, without what the callback wrote.
        """
        with suppress(_GivenUpError), self._resets.alone(self.given_up):
            record = last_reset(self._store)
            if record is None or record.step not in (CHANGED, DONE):
                return
            self._mode = _mode_of(record)
            self.backup = None if record.backup is None else Path(record.backup)
            if self._resets.last is None:
                self._resets.last = ClientResetReport(
                    kind=ResetReason.of(record.reason),
                    reason=record.reason,
                    mode=self._mode.value,
                    time_ms=record.started_ms,
                    backup=self.backup,
                )
            if record.step == CHANGED:
                self._call_after()

    def note_failure(self) -> None:
        """Write down that it failed, for the next attempt to know."""
        with suppress(LocalStoreError), self._store.transaction() as connection:
            for step in (BEGUN, CHANGED):
                note_step(connection, FAILED, only_from=step)

    def _prepare(self) -> None:
        """Save the file as it is and call the application; and save it again when something was written meanwhile."""
        if self.backup is None:
            self._save()
        callback = self._reset.strategy.on_before if not isinstance(self._reset.strategy, Manual) else None
        if callback is not None and not self._has_called_before and self.backup is not None:
            self._has_called_before = True
            with self._reset.view(self.backup) as before:
                self._resets.call("on_before", callback, before, backup=self.backup)
        if self._saved_at != self._store.version():
            self._save()

    def _save(self) -> None:
        self._check_wanted()
        target = free_path(self._store.path, "backup", self._now_ms())
        try:
            with self._store.transaction() as connection:
                connection.execute("UPDATE localstore_reset SET backup = ?", (str(target),))
            self._store.seal()
            self._saved_at = self._store.version()
            self._saved_number = self._store.state().last_number
            save_backup(self._store, target, instead_of=self.backup)
        except (StoreBusy, DiskFull, DiskFailed, RealmClosed):
            raise
        except LocalStoreError as error:
            raise _failed(f"the file could not be saved ({error})", None) from error
        self.backup = target

    def _plan(self, fresh: Fresh) -> ResetPlan:
        """To discard is to bring along only what is younger than the backup, should anybody write just now."""
        has_callback = _after(self._reset.strategy, self._mode)[1] is not None
        return ResetPlan(
            recover=True,
            seed=self._mode is Mode.SEED,
            stored=dict(fresh.stored),
            stored_up_to=self._saved_number if self._mode is Mode.DISCARD else 0,
            step=CHANGED if has_callback and not self._blank else DONE,
        )

    def _tell(self, outcome: ResetOutcome) -> None:
        report = self._resets.last = ClientResetReport(
            kind=self._error.kind,
            reason=self._error.reason,
            mode=self._mode.value,
            time_ms=self._now_ms(),
            backup=self.backup,
            recovered=outcome.recovered,
            skipped=0 if self._mode is Mode.DISCARD else outcome.skipped,
            discarded=outcome.skipped if self._mode is Mode.DISCARD else 0,
            dropped=outcome.dropped_count,
        )
        if not self._blank:
            _log.warning(
                "%s was reset (%s, %s): %d changesets were brought along, %d discarded, changes of %d rows had no place."
                " The file as it was before: %s",
                *(self._store.path.name, report.reason, report.mode, report.recovered, report.discarded, report.dropped),
                report.backup,
            )

    def _call_after(self) -> None:
        """Call the application with a transaction that also notes that this was done, so that it is done once."""
        name, callback = _after(self._reset.strategy, self._mode)
        if callback is None or self._blank:
            return
        if self.backup is None or not self.backup.exists():
            _log.warning("%s was not called: the backup of %s is gone.", name, self._store.path.name)
            with self._store.transaction() as connection:
                note_step(connection, DONE, only_from=CHANGED)
            return
        with self._reset.view(self.backup) as before, self._store.write() as after:
            if note_step(driver_connection(after.connection()), DONE, only_from=CHANGED):
                self._resets.call(name, callback, before, after, backup=self.backup)

    def _check_wanted(self) -> None:
        if self.given_up.is_set():
            raise _GivenUpError


def _after(strategy: ClientReset, mode: Mode) -> tuple[str, Callable[..., object] | None]:
    """The callback after a reset, with its name."""
    if isinstance(strategy, RecoverOrDiscard):
        if mode is Mode.DISCARD:
            return "on_after_discard", strategy.on_after_discard
        return "on_after_recovery", strategy.on_after_recovery
    if isinstance(strategy, Recover | Discard | SeedRemote):
        return "on_after", strategy.on_after
    return "", None


def _attempt_of(record: ResetRecord | None) -> Attempt | None:
    if record is None or record.step == BEGUN:
        return None
    return Attempt(_mode_of(record), not record.mode.endswith(_REFUSED), record.version)


def _mode_of(record: ResetRecord) -> Mode:
    return Mode(record.mode.removesuffix(_REFUSED))


def _failed(why: str, backup: Path | None) -> ClientResetFailed:
    return ClientResetFailed(
        f"The client reset failed: {why}. The file is as it was, with all unsent changes.",
        backup=backup,
        hint="See client_reset in the documentation: another strategy, or a manual reset, may do.",
    )
