"""The contract between a sync session and a remote: four calls, and a few optional powers.

An adapter is about transport alone: it does not merge, retry, start threads of its own accord, or log. Every call may be
cancelled at any await, and is called again later with the same arguments. Errors are named by what the session must do:

* ``Offline``, ``Busy``, ``RateLimited``: wait and try again
* ``Unauthorized``: get a new token, or stop and ask
* ``ResetRequired(reason)``: the histories parted; the reason begins with the words of a ``ResetReason``, or names its kind
* ``Refused(number)``: never send this one again, go on with the rest; ``PushResult.refusals`` says it better
* ``ProtocolError``: stop

Anything else that comes out of an adapter is a bug in it. The rules are tested by ``localstore.testing.conformance``.
This module knows no store, no session and no implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NewType, Protocol, runtime_checkable

from localstore.credentials import Credentials
from localstore.wire import SealedChangeset

__all__ = [
    "Capabilities",
    "Credentials",
    "Cursor",
    "Hello",
    "Hint",
    "Limit",
    "Page",
    "PushResult",
    "Refusal",
    "SealedChangeset",
    "SnapshotInfo",
    "SupportsPing",
    "SupportsSnapshots",
    "SupportsUsers",
    "SupportsWatch",
    "SyncAdapter",
    "Tokens",
    "Welcome",
]

Cursor = NewType("Cursor", bytes)
"""A position in a remote's history. Opaque: only the adapter that issued it can read it."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a remote can do, said once.

    Attributes:
        max_batch_bytes: most bytes of one ``push``, counted by ``SealedChangeset.byte_count``; a single
            changeset may exceed it.
        max_batch_count: most changesets of one ``push``.
        max_changeset_bytes: a larger changeset is refused; None when the remote sets no limit.
        ordered: pages come in causal order; an unordered remote leaves that to the receiver.
        poll_seconds: how often the session should look for news when no hint came.
        snapshots: the adapter also is a ``SupportsSnapshots``.
        watch: the adapter also is a ``SupportsWatch``.
        ping: the adapter also is a ``SupportsPing``.
        users: the remote knows users and wants tokens; the adapter also is a ``SupportsUsers``. Asked for before ``connect``,
            and always the same: it decides whose files are opened.
        subscriptions: the remote can serve a part of the rows.
        devices_write_snapshots: devices make its snapshots; else it does so itself, and they only read them.
    """

    max_batch_bytes: int = 4 * 1024 * 1024
    max_batch_count: int = 1000
    max_changeset_bytes: int | None = None
    ordered: bool = True
    poll_seconds: float = 60.0
    snapshots: bool = False
    watch: bool = False
    ping: bool = False
    users: bool = False
    subscriptions: bool = False
    devices_write_snapshots: bool = True


@dataclass(frozen=True, kw_only=True)
class Hello:
    """How a device introduces itself.

    Attributes:
        app: the application's id; a remote holds the data of one application.
        partition: which part of the application's data.
        device: the device's identity, 16 bytes.
        token: the user's access token, where the remote has users; never shown in ``repr``.
        remote_id: the remote this device knows, None at the very first connect. A remote with another identity
            answers ``ResetRequired``.
        cursor: where this device has read up to.
        horizon_days: how long it may stay away: a remote without a horizon of its own keeps history for that time.
        acknowledged: the highest number that the remote has acknowledged, as far as the device knows. A remote that may have
            less just for now can say so with ``Offline``; to others the session compares their answer.
    """

    app: str
    partition: str
    device: bytes
    token: str | None = field(default=None, repr=False)
    remote_id: str | None = None
    cursor: Cursor | None = None
    horizon_days: float | None = None
    acknowledged: int = 0


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """A remote's answer.

    Attributes:
        remote_id: the shared history's identity, made when it was created.
        last_number: the highest number that the remote has from this device, 0 when none. A device that never
            made it knows by this that its file was copied or restored.
        time_ms: the remote's clock, milliseconds since the Unix epoch, None when it has none.
        horizon_days: how long the remote keeps history, None when for ever.
    """

    remote_id: str
    last_number: int
    time_ms: int | None = None
    horizon_days: float | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How much one page may hold. At least one changeset is returned, whatever its size, when there is one."""

    max_bytes: int = 4 * 1024 * 1024
    max_count: int = 5000


@dataclass(frozen=True, kw_only=True)
class Page:
    """The next part of a remote's history.

    Attributes:
        changesets: whole changesets; each device's in the order of their numbers, without gap or repeat.
        cursor: where the next page begins.
        more: whether there was more at the time of reading; False means the head was reached.
        remaining_bytes: about how much is still to come, None when unknown.
        warnings: damage that was skipped, in words for a person; such as a file that is not whole yet. Each is told to the
            error handler once, so the same damage has the same words in every page. The page that reaches the head has all
            there are.
        passed_over: likewise what was skipped and asks nothing of anybody, such as what is still being written.
    """

    changesets: Sequence[SealedChangeset]
    cursor: Cursor
    more: bool
    remaining_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A changeset that the remote will never take. It is sent again empty, so that its number is not missed."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What became of a batch.

    Attributes:
        acknowledged: every changeset up to this number is stored for good, so that a crash of the remote cannot lose it.
        refusals: changesets that it will never take; nothing after the first of them was stored.
    """

    acknowledged: int
    refusals: tuple[Refusal, ...] = ()


class SyncAdapter(Protocol):
    """One device's line to one remote. Used by one session at a time, from one event loop.

    Before ``connect`` and after ``close`` the other calls raise ``Offline``; ``connect`` is always allowed.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def connect(self, hello: Hello) -> Welcome:
        """Introduce the device; must come first, and again after every error. It may also come on a line that is connected,
        as with a newer token: the line goes on with what was said last.

        Raises:
            ResetRequired: the remote is not the one this device knows, or has trimmed what it needs.
            ProtocolError: the remote holds the data of another application.
            Offline: it cannot be reached.
            Unauthorized: the token is not good.
        """
        ...

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        """Store changesets of the connected device: a non-empty run of consecutive numbers. A device counts from 1.

        Idempotent by device and number: what is stored already is acknowledged again. The changesets are seen by other
        devices in full or not at all.

        Raises:
            ResetRequired: a number is stored with other content ("device forked"), or would leave a gap: the device sends only
                what follows on what was acknowledged, so the remote has lost some ("remote restored").
            Offline: or what is missing may come back.
        """
        ...

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        """What comes after ``cursor``, from the beginning when it is None. The device's own changesets may be left out.

        The cursor may be another device's, from whose file this one's was copied: what that one sent is given from there on.

        Raises:
            ResetRequired: the cursor is unknown, or what comes after it was trimmed.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Something may be new at the remote. Never the truth: the session looks for itself.

    An adapter may bring along what is new where it has that at hand, so that who has read up to ``after`` need not pull it.

    Attributes:
        reason: for people.
        after, page: what a pull from that cursor gave, up to the head; None when nothing is brought.
    """

    reason: str = "change"
    after: Cursor | None = None
    page: Page | None = None


@runtime_checkable
class SupportsWatch(Protocol):
    """Wake-ups. May come too often, and may fail to come: the session also polls."""

    def watch(self, cursor: Cursor | None) -> AsyncIterator[Hint]:
        """Hints until cancelled or closed. Ends, or raises ``Offline``, when watching is not possible any more."""
        ...


@runtime_checkable
class SupportsPing(Protocol):
    """A sign of life, for remotes whose line can be dead without anybody noticing, as a TCP connection."""

    async def ping(self) -> None:
        """Come back when the remote has answered. May be called while another call is under way.

        Raises:
            Offline: the line is dead.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """A stored snapshot: the merged state at a cursor.

    Attributes:
        name: what the remote calls it.
        cursor: where history goes on after it.
        byte_count: its size.
        later: about how many changesets came after it, None when unknown: then nobody makes a newer one by itself.
    """

    name: str
    cursor: Cursor
    byte_count: int
    later: int | None = field(default=None, compare=False)


@runtime_checkable
class SupportsSnapshots(Protocol):
    """Fast first sync, and a log that need not be kept for ever. A snapshot is a partition's, and mere bytes to the adapter."""

    async def latest_snapshot(self) -> SnapshotInfo | None:
        """The one that was written last, None when there is none. Others go on pushing and pulling while one is written."""
        ...

    def read_snapshot(self, info: SnapshotInfo) -> AsyncIterator[bytes]:
        """All of its bytes, in chunks of any size.

        Raises:
            SnapshotUnusable: it is not there any more, as when a newer one has taken its place.
        """
        ...

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        """Store the state at a cursor. It becomes the latest in full, or not at all when it breaks off; an error of ``chunks``
        is raised as it is.
        """
        ...

    async def trim(self, before: Cursor) -> None:
        """Let go of history before a cursor at which there is a snapshot, as far as the latest one makes up for it: that may be
        of a device that was further behind.

        Once it is gone, who has read less, or nothing, gets ``ResetRequired`` ("history trimmed"), never a gap. It stays known
        which numbers of each device were stored.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a user who logged in shows to the remote. Neither token is ever shown in ``repr``.

    Attributes:
        user_id: the user's id at the remote, the same at every log-in.
        access_token: for ``Hello.token``.
        expires_in: how many seconds the access token lives from now on. Not a time of day: clocks differ.
        refresh_token: for ``SupportsUsers.refresh``.
    """

    user_id: str
    access_token: str = field(repr=False)
    expires_in: float
    refresh_token: str = field(repr=False)


@runtime_checkable
class SupportsUsers(Protocol):
    """Users who log in. These calls need no ``connect`` and leave the line as it is.

    With them, ``connect``, ``push`` and ``pull`` raise ``Unauthorized`` when the access token is not good any more; the session
    renews it and connects again. No error may quote a secret.
    """

    async def log_in(self, credentials: Credentials) -> Tokens:
        """Tokens for a user.

        Raises:
            Unauthorized: the remote does not take these credentials.
            Offline, Busy, RateLimited: it could not be asked.
        """
        ...

    async def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for old ones. Both are new; the old refresh token is good no longer than until one of the new is used.

        Until then it may be shown again, as when the answer got lost, and what it was answered with before is void.

        Raises:
            Unauthorized: the user was logged out or shut out, or a successor of the token was used already. Ends the log-in.
            Offline, Busy, RateLimited: it could not be asked.
        """
        ...

    async def log_out(self, refresh_token: str) -> None:
        """End the log-in that a refresh token belongs to: none of its tokens is good any more. Twice is fine.

        Raises:
            Offline, Busy, RateLimited: it could not be asked.
        """
        ...
