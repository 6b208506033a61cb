"""Every error that localstore raises on purpose, as a tree by what the caller must do.

    LocalStoreError
     ├ RealmClosed           open the realm again
     ├ NestedWrite           leave the outer write() first
     ├ ReadOnlyRealm         write inside realm.write()
     ├ SchemaError           change the model (refused at open)
     │  └ UnsafeMigration    change the migration, or how it is run
     ├ SchemaMismatch        migrate the file
     ├ StoreBusy             try again: another writer held the file too long, or it is open
     ├ StoreUnusable         the file is not a store we can open
     │  ├ StoreDamaged       let the remote fill a new one, or restore a backup
     │  ├ DiskFull           make room
     │  ├ DiskFailed         look after the disk
     │  └ NotWritable        get the right to write the file
     ├ TargetExists          choose another path
     ├ UnsentChanges         upload first, or say that it does not matter
     ├ ChangesetTooLarge     split the transaction
     ├ TextNotUnicode        store bytes as bytes
     ├ CommitInsideWrite     let the block commit
     ├ WriteEnded            use a session inside its block
     ├ CannotRestore         see what is in the way; the conflict stays in the list
     ├ RealmNotEmpty         take the history instead of a snapshot
     ├ InitialDataTimeout    open again later, or without waiting
     ├ ForkedProcess         start processes another way, or open realms in them only
     ├ NotLoggedIn           log the user in
     │  └ UserRemoved        log in again, which makes another user of this device
     └ SyncError             what can go wrong between a device and its remote
        ├ Offline  RateLimited  Busy        try again later (the session does)
        ├ Unauthorized                      log in again
        ├ Refused  CompensatingWrite        look at the changes that were set aside
        ├ RowsSetAside                      look at the rows that are not shown any more
        ├ ResetRequired                     histories parted (the session resets the file)
        │  └ ClientResetRequired            reset the file yourself
        ├ ClientResetFailed                 see why; the unsent changes are in the file or its backup
        ├ OfflineTooLong                    reach the remote soon
        ├ ProtocolError                     upgrade, or report a bug
        │  ├ MalformedChangeset             damaged or forged bytes
        │  ├ NewerFormat                    written by a newer localstore
        │  └ WrongKey                       give the key that the remote's other devices have
        ├ RemoteDamage                      see what lies in the remote
        ├ SnapshotUnusable                  take the history instead
        ├ StreamOverflow                    read the stream in a loop
        ├ OperationAborted                  a wait ended because its session did
        ├ ConflictsForgotten                look at conflicts earlier, or raise their bounds
        └ ClockDrift                        set the device's clock

A message says what happened and what was kept safe; ``hint`` says what to do next. Wrong arguments are
``ValueError`` or ``TypeError``, as everywhere in Python. This module knows nothing of the rest of the package but the reasons
for a reset.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from localstore.reasons import ResetReason

__all__ = [
    "Busy",
    "CannotRestore",
    "ChangesetTooLarge",
    "ClientResetFailed",
    "ClientResetRequired",
    "ClockDrift",
    "CommitInsideWrite",
    "CompensatingWrite",
    "ConflictsForgotten",
    "DiskFailed",
    "DiskFull",
    "ForkedProcess",
    "InitialDataTimeout",
    "LocalStoreError",
    "MalformedChangeset",
    "NestedWrite",
    "NewerFormat",
    "NotLoggedIn",
    "NotWritable",
    "Offline",
    "OfflineTooLong",
    "OperationAborted",
    "ProtocolError",
    "RateLimited",
    "ReadOnlyRealm",
    "RealmClosed",
    "RealmNotEmpty",
    "Refused",
    "RemoteDamage",
    "ResetRequired",
    "RowsSetAside",
    "SchemaError",
    "SchemaMismatch",
    "SnapshotUnusable",
    "StoreBusy",
    "StoreDamaged",
    "StoreUnusable",
    "StreamOverflow",
    "SyncError",
    "TargetExists",
    "TextNotUnicode",
    "Unauthorized",
    "UnsafeMigration",
    "UnsentChanges",
    "UserRemoved",
    "WriteEnded",
    "WrongKey",
]


class LocalStoreError(Exception):
    """Base of all localstore errors.

    Args:
        message: what happened, and what was kept safe.
        hint: what to do next; empty when the message says it all.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class RealmClosed(LocalStoreError):
    """The realm was closed; nothing can be read or written through it any more."""


class NestedWrite(LocalStoreError):
    """``write()`` was called inside a ``write()`` of the same thread or task, which could only wait for itself."""


class ReadOnlyRealm(LocalStoreError):
    """A write was tried through a read."""


class SchemaError(LocalStoreError):
    """A class or table cannot be opened as declared. Names the class and the fix."""


class UnsafeMigration(SchemaError):
    """A migration would lose rows, triggers or indexes, and was stopped before it did. The file is as it was before."""


class SchemaMismatch(LocalStoreError):
    """The file's tables differ from the declared classes in a way that ``open`` does not mend by itself."""


class StoreBusy(LocalStoreError):
    """Another thread or process held the write lock for longer than the busy timeout, or has a file open that was to be
    deleted. Nothing was written."""


class StoreUnusable(LocalStoreError):
    """The file cannot be used: not a database, newer than this library, damaged, or of the other kind."""


class StoreDamaged(StoreUnusable):
    """The file holds something else than SQLite wrote there, or its disk cannot be read. The transaction was rolled back."""


class DiskFull(StoreUnusable):
    """There is no room left for the file. The transaction was rolled back; everything before it is safe."""


class DiskFailed(StoreUnusable):
    """The disk could not be read or written. The transaction was rolled back."""


class NotWritable(StoreUnusable):
    """The file or its folder may only be read by this user, or lies on a disk that may. Nothing was changed."""


class TargetExists(LocalStoreError):
    """The file that a copy should be written to exists already. It was left as it is."""


class UnsentChanges(LocalStoreError):
    """The remote has not acknowledged all local changes. They are where they were."""


class ChangesetTooLarge(LocalStoreError):
    """One transaction changed more than a changeset may carry. It was rolled back."""


class TextNotUnicode(LocalStoreError):
    """A text that is not valid UTF-8 was written by SQL. The transaction was rolled back."""


class CommitInsideWrite(LocalStoreError):
    """The transaction of a ``write()``, which commits once, at the end of its block, was to end before, or has ended."""


class WriteEnded(LocalStoreError):
    """The session of a ``write()`` was used after its block."""


class CannotRestore(LocalStoreError):
    """A value that lost cannot be written back as things are. Nothing was written, and its conflict stays in the list."""


class RealmNotEmpty(LocalStoreError):
    """A snapshot was to be loaded into a realm that has applied or written something. It was left as it is."""


class InitialDataTimeout(LocalStoreError):
    """A realm was to be opened with what the remote has, which did not arrive in time. No new file was kept."""


class ForkedProcess(LocalStoreError):
    """Realms were open when this process was forked. SQLite cannot be used across a fork, so the files are the parent's alone,
    and were not touched."""


class NotLoggedIn(LocalStoreError):
    """Something was asked for a user who is logged out. The user's realms are untouched."""


class UserRemoved(NotLoggedIn):
    """Something was asked for a user who was removed from this device."""


class SyncError(LocalStoreError):
    """Base of what goes wrong in sync.

    Attributes:
        is_fatal: whether the session stops and does not come back by itself.
    """

    is_fatal = False


class Offline(SyncError):
    """The remote cannot be reached. The session backs off and tries again; local work goes on."""


class Busy(SyncError):
    """The remote cannot serve us now.

    Attributes:
        retry_after: seconds the remote asked us to wait, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class RateLimited(Busy):
    """The remote asked us to slow down; ``retry_after`` is in seconds."""


class Unauthorized(SyncError):
    """The user's token was refused and could not be renewed."""

    is_fatal = True


class Refused(SyncError):
    """The remote will never take one changeset. It was set aside on this device; later ones go on.

    Attributes:
        number: the changeset's number, or None when the refusal was of the whole request.
    """

    def __init__(self, message: str, *, number: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.number = number


class CompensatingWrite(SyncError):
    """The remote undid local writes.

    Attributes:
        writes: one ``(table, key, reason)`` for each row that was put back.
    """

    def __init__(self, message: str, *, writes: tuple[tuple[str, tuple[object, ...], str], ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.writes = writes


class ResetRequired(SyncError):
    """The device's and the remote's histories parted. The session answers with a client reset.

    Args:
        reason: in words, such as ``"remote replaced"``, ``"device forked"``, ``"history trimmed"``.
        kind: the same for programs; by the words when it is not given.
        may_recover: whether the remote lets the device bring its unsent changes along.

    Attributes:
        reason, kind, may_recover: the arguments.
    """

    is_fatal = True

    def __init__(self, reason: str, *, kind: ResetReason | None = None, may_recover: bool = True, hint: str = "") -> None:
        super().__init__(f"This device cannot go on with the remote: {reason}.", hint=hint)
        self.reason = reason
        self.kind = kind or ResetReason.of(reason)
        self.may_recover = may_recover


class ClientResetRequired(ResetRequired):
    """A client reset that is left to the application: by its strategy ``Manual``, or as the automatic one failed.

    Attributes:
        original_path: the file, with all that was written up to now. Its session has ended.
        recovery_path: where ``execute`` copies it to.
    """

    def __init__(self, cause: ResetRequired, *, original_path: Path, recovery_path: Path, execute: Callable[[], bool]) -> None:
        super().__init__(cause.reason, kind=cause.kind, may_recover=cause.may_recover, hint=cause.hint)
        self.original_path = original_path
        self.recovery_path = recovery_path
        self._execute = execute

    def execute(self) -> bool:
        """Copy the file to ``recovery_path``, as one that ``LocalConfiguration`` opens, and delete it, so that the next opening
        makes it anew from the remote. The file as it is, with all that sync knows, is kept as a backup besides.

        Returns:
            False when there is nothing to do any more: the file is gone, or was reset already.

        Raises:
            StoreBusy: a realm is open on the file. Nothing was done.
        """
        return self._execute()


class ClientResetFailed(SyncError):
    """A client reset could not be carried out. Its ``__cause__`` says why.

    Attributes:
        backup: the file as it was before; None when the reset did not get so far.
    """

    is_fatal = True

    def __init__(self, message: str, *, backup: Path | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.backup = backup


class OfflineTooLong(SyncError):
    """The remote was not reached for so long that it will soon have forgotten what this device has missed.

    Attributes:
        deadline_ms: when the device will need a client reset, milliseconds since the Unix epoch.
    """

    def __init__(self, message: str, *, deadline_ms: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.deadline_ms = deadline_ms


class ProtocolError(SyncError):
    """The other side broke the contract, or speaks another one. Sync stops; local data is untouched."""

    is_fatal = True


class MalformedChangeset(ProtocolError):
    """Bytes that should hold a changeset do not: damaged, forged, or not ours. Nothing of them was applied."""


class NewerFormat(ProtocolError):
    """A changeset or a remote uses a format that this version does not know. Nothing was applied."""


class WrongKey(ProtocolError):
    """What a remote holds was not encrypted with the key that this device has: with another one, with none, or the device has
    none. Nothing was applied."""


class RowsSetAside(SyncError):
    """Rows are not in their tables any more: another device deleted what they refer to, or has a value that only one row can
    have, or their columns as merged break a check. They come back when that changes.

    Attributes:
        rows: one ``(table, key, reason)`` for each row.
    """

    def __init__(self, message: str, *, rows: tuple[tuple[str, tuple[object, ...], str], ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rows = rows


class RemoteDamage(SyncError):
    """Something at the remote is damaged or not ours, and was skipped; the rest goes on."""


class SnapshotUnusable(SyncError):
    """A snapshot is damaged, of something else, or cannot be brought in line with this device's schema. Nothing was changed."""


class StreamOverflow(SyncError):
    """A reader was so slow that values had to be dropped; its stream ended."""


class OperationAborted(SyncError):
    """A wait ended because its session was paused, closed or stopped. The changes themselves are safe in the file."""


class ConflictsForgotten(SyncError):
    """The list of conflicts was beyond its bounds, and the oldest left it. What is in the tables did not change.

    Attributes:
        count: how many left.
    """

    def __init__(self, message: str, *, count: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.count = count


class ClockDrift(SyncError):
    """A changeset comes from a clock too far ahead of ours. It is kept and applied when its time has come."""
