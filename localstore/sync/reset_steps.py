"""The steps of one client reset, in worker threads; each may be called again when it failed for a reason that passes.

What is to be done after the exchange is in the file's record, so that it is done once, whatever happens. In which order and
through which errors is the business of ``sync.reset``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localstore.client_reset import ClientReset, ClientResetReport, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.errors import (
    ClientResetFailed,
    DiskFailed,
    DiskFull,
    LocalStoreError,
    MalformedChangeset,
    RealmClosed,
    ResetRequired,
    StoreBusy,
    StoreDamaged,
    TargetExists,
)
from localstore.reasons import ResetReason
from localstore.store.engine import driver_connection
from localstore.store.reset_record import ResetRecord, is_blank, last_reset, note_reset, note_step
from localstore.store.resetting import ResetOutcome, ResetPlan, reset
from localstore.store.state import load_state
from localstore.sync.backups import free_path, save_backup
from localstore.sync.first_sync import Unseen
from localstore.sync.fresh import Fresh
from localstore.sync.parts import ResetParts, SessionParts
from localstore.sync.reset_rules import Attempt, End, Mode, decide
from localstore.version import VERSION

__all__ = ["Steps", "Turns", "failed", "speaks_against"]

_log = logging.getLogger("localstore.sync")
_LOOK_SECONDS = 0.1
_REFUSED = ", recovery refused"

# How far a reset got, as the file's record says.
BEGUN, CHANGED, DONE, FAILED, IN_VAIN = "begun", "changed", "done", "failed", "in vain"
_ENDS = {BEGUN: End.BROKEN_OFF, FAILED: End.FAILED, IN_VAIN: End.IN_VAIN}


class _GivenUpError(Exception):
    """Nobody waits for this any more; the file is whole."""


class Turns:
    """What all attempts on one file share.

    Attributes:
        last: what the last reset did.
    """

    def __init__(self) -> None:
        self._one = threading.Lock()  # held by who is at work, also when its life has ended meanwhile
        self._calling: int | None = None
        self.last: ClientResetReport | None = None

    def is_calling_back(self) -> bool:
        """Whether this thread is inside a callback of the application's, for which the session waits."""
        return self._calling == threading.get_ident()

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
                hint="Correct the callback. It is called again when the session starts the next time.",
            ) from error
        finally:
            self._calling = None


class Steps:
    """One attempt to reset the file, in worker threads. Its parts may be called again when they failed for a passing reason."""

    def __init__(self, parts: SessionParts, reset_parts: ResetParts, turns: Turns) -> None:
        self._reset = reset_parts
        self._turns = turns
        self._store = parts.store
        self._now_ms = parts.environment.now_ms
        self._error = ResetRequired("")
        self._mode = Mode.RECOVER
        self._blank = False
        self._saved_at: int | None = None
        self._saved_number = 0
        self._has_called_before = False
        self.given_up = threading.Event()
        self.wanted = Unseen(b"", 0)
        self.backup: Path | None = None

    def begin(self, error: ResetRequired, *, was_reset: bool) -> None:
        """Decide what to do, and write it down.

        Args:
            error: why.
            was_reset: whether the file was reset since the session started. What was asked for later, after a close or a
                pause, may have any new reason, and says nothing against that reset.

        Raises:
            ClientResetFailed: there is nothing that could be done.
        """
        with self._turns.alone(self.given_up):
            self._error = error
            self.wanted = Unseen(self._store.state().device, self._store.acknowledged())
            self._blank = is_blank(self._store)
            if was_reset and not self._store.acknowledged():  # else the remote took what was brought along: it did help
                self._note(IN_VAIN, only_from=DONE)
            last = _attempt_of(last_reset(self._store))
            decided = decide(self._reset.strategy, error.kind, may_recover=error.may_recover, version=VERSION, last=last)
            if isinstance(decided, str):
                raise failed(decided, None)
            self._mode = decided
            mode = decided.value + ("" if error.may_recover else _REFUSED)
            note_reset(self._store, ResetRecord(mode, error.reason, self._now_ms(), VERSION, BEGUN))

    def exchange(self, fresh: Fresh) -> None:
        """Save the file, call the application, and exchange what it holds.

        Raises:
            ClientResetFailed: it cannot be done; the file is as it was.
        """
        with suppress(_GivenUpError), self._turns.alone(self.given_up):
            if self._store.state().device != self.wanted.device:
                return  # another process was quicker
            if not self._blank:
                self._prepare()
            self._check_wanted()
            try:
                with fresh.in_use:
                    outcome = reset(self._store, fresh.store, self._plan(fresh), self._now_ms())
            except (StoreBusy, DiskFull, DiskFailed, RealmClosed):
                raise
            except (LocalStoreError, ValueError) as error:
                if speaks_against(error):
                    with suppress(LocalStoreError):
                        self._note(FAILED, only_from=BEGUN)
                raise failed(f"what the remote has cannot be taken over ({error})", self.backup) from error
            self._tell(outcome)

    def finish(self) -> None:
        """Call the application after a reset, be it one of an earlier process that was killed before it did.

        Raises:
            ClientResetFailed: it raised. The file is reset, without what the callback wrote.
        """
        with suppress(_GivenUpError), self._turns.alone(self.given_up):
            record = last_reset(self._store)
            if record is None or record.step not in (CHANGED, DONE):
                return
            self._mode = _mode_of(record)
            self.backup = None if record.backup is None else Path(record.backup)
            if self._turns.last is None:
                self._turns.last = ClientResetReport(
                    kind=ResetReason.of(record.reason),
                    reason=record.reason,
                    mode=self._mode.value,
                    time_ms=record.started_ms,
                    backup=self.backup,
                )
            if record.step == CHANGED:
                self._call_after()

    def _prepare(self) -> None:
        """Save the file as it is and call the application; and save it again when something was written meanwhile."""
        if self.backup is None:
            self._save()
        callback = self._reset.strategy.on_before if not isinstance(self._reset.strategy, Manual) else None
        if callback is not None and not self._has_called_before and self.backup is not None:
            self._has_called_before = True
            with self._reset.view(self.backup) as before:
                self._turns.call("on_before", callback, before, backup=self.backup)
        if self._saved_at != self._store.version():
            self._save()

    def _save(self) -> None:
        self._check_wanted()
        target = free_path(self._store.path, "backup", self._now_ms())
        try:
            with self._store.transaction() as connection:
                if load_state(connection).device != self.wanted.device:
                    raise StoreBusy(f"{self._store.path} was reset by another process meanwhile.")
                connection.execute("UPDATE localstore_reset SET backup = ?", (str(target),))
            self._store.seal()
            self._saved_at = self._store.version()
            self._saved_number = self._store.state().last_number
            save_backup(self._store, target, instead_of=self.backup)
        except (StoreBusy, DiskFull, DiskFailed, RealmClosed):
            raise
        except TargetExists as error:  # another process saves it at the same moment
            raise StoreBusy(error.message) from error
        except LocalStoreError as error:
            raise failed(f"the file could not be saved ({error})", None) from error
        self.backup = target

    def _plan(self, fresh: Fresh) -> ResetPlan:
        """To discard is to bring along only what is younger than the backup, should anybody write just now."""
        has_callback = _after(self._reset.strategy, self._mode)[1] is not None
        return ResetPlan(
            recover=True,
            seed=self._mode is Mode.SEED,
            device=self.wanted.device,
            stored=dict(fresh.stored),
            stored_up_to=self._saved_number if self._mode is Mode.DISCARD else 0,
            step=CHANGED if has_callback and not self._blank else DONE,
        )

    def _tell(self, outcome: ResetOutcome) -> None:
        report = self._turns.last = ClientResetReport(
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
        if callback is None:  # any more: the reset was another configuration's
            self._note(DONE, only_from=CHANGED)
            return
        if self.backup is None or not self.backup.exists():
            _log.warning("%s was not called: the backup of %s is gone.", name, self._store.path.name)
            self._note(DONE, only_from=CHANGED)
            return
        with self._reset.view(self.backup) as before, self._store.write() as after:
            if note_step(driver_connection(after.connection()), DONE, only_from=CHANGED):
                self._turns.call(name, callback, before, after, backup=self.backup)

    def _note(self, step: str, *, only_from: str) -> None:
        with self._store.transaction() as connection:
            note_step(connection, step, only_from=only_from)

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
    """What is known against a reset; nothing of one that was carried out, unless another one was asked for at once."""
    if record is None or record.step not in _ENDS:
        return None
    return Attempt(_mode_of(record), not record.mode.endswith(_REFUSED), record.version, _ENDS[record.step])


def _mode_of(record: ResetRecord) -> Mode:
    return Mode(record.mode.removesuffix(_REFUSED))


def speaks_against(error: Exception) -> bool:
    """Whether an error says that this cannot be done with the unsent changes, now or later. A read that failed does not, which
    SQLite calls damage: it may succeed the next time, and is no reason to discard them then."""
    return not isinstance(error, StoreDamaged) or isinstance(error.__cause__, MalformedChangeset)


def failed(why: str, backup: Path | None) -> ClientResetFailed:
    return ClientResetFailed(
        f"The client reset failed: {why}. The file is as it was, with all unsent changes.",
        backup=backup,
        hint="See client_reset in the documentation: another strategy, or a manual reset, may do.",
    )
