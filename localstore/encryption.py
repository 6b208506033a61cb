"""Any remote, end-to-end encrypted: what is sent is encrypted before its adapter sees it, and decrypted behind it.

It knows adapters and their contract; how changesets and snapshots are encrypted is the business of ``changeset_cipher`` and
``snapshot_cipher``. Needs the extra ``encryption``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress

from localstore.adapter import (
    Capabilities,
    Credentials,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SupportsUsers,
    SupportsWatch,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.changeset_cipher import OVERHEAD_BYTES, ChangesetCipher, Place
from localstore.environment import Environment
from localstore.errors import NewerFormat, Offline, ResetRequired, SnapshotUnusable
from localstore.registry import AdapterFactory, Lines, adapter_factory
from localstore.remote_secret import RemoteSecret, check_installed
from localstore.snapshot_cipher import SALT_BYTES, Encryption, SnapshotCipher, plain_bytes
from localstore.urls import redacted

__all__ = ["EncryptedAdapter", "EncryptedRemote", "encrypted"]

_WORLD = Environment()


def encrypted(remote: str | AdapterFactory, *, key: bytes | None = None, passphrase: str | None = None) -> EncryptedRemote:
    """A remote that only devices with the same key or passphrase can read, for ``App.create(..., remote=...)``.

    Args:
        remote: URL of the remote, or a callable that makes adapters.
        key: 32 random bytes.
        passphrase: a text instead. Whoever sees what lies at the remote can try to guess it: let it be long.

    Raises:
        TypeError, ValueError: neither or both are given, they are of another kind or length, or the URL makes no sense.
        ImportError: the extra ``encryption``, or that of the remote, is not installed.
    """
    check_installed()
    return EncryptedRemote(remote, RemoteSecret(key=key, passphrase=passphrase))


class EncryptedRemote:
    """Makes lines to a remote that is encrypted; the result of ``encrypted``.

    Attributes:
        url: the remote's URL, None when there is none.
    """

    def __init__(self, remote: str | AdapterFactory, secret: RemoteSecret) -> None:
        self.url = remote if isinstance(remote, str) else None
        self._secret = secret
        self._make: AdapterFactory
        if isinstance(remote, str):
            self._make = lines = Lines(adapter_factory(remote))
            _ = lines.capabilities  # a URL that makes no sense is refused here, and not by a session in the background
        elif callable(remote):
            self._make = remote
        else:
            raise TypeError(f"remote is a URL or a callable that makes adapters, not of type {type(remote).__name__}.")

    def __call__(self) -> EncryptedAdapter:
        return EncryptedAdapter(self._make(), self._secret)

    def __repr__(self) -> str:
        return f"encrypted({'...' if self.url is None else redacted(self.url)!r}, ***)"


@dataclasses.dataclass
class _Line:
    """What the adapter remembers of its connect.

    Attributes:
        cipher: encrypts changesets.
        snapshots: encrypts snapshots.
        place: where both belong.
        was_compared: whether the key was compared with what lies at the remote, if anything does.
    """

    cipher: ChangesetCipher
    snapshots: SnapshotCipher
    place: Place
    was_compared: bool = False


def _line(secret: RemoteSecret, remote_id: str, place: Place) -> _Line:
    return _Line(secret.cipher(remote_id), secret.snapshot_cipher(remote_id), place)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EncryptedInfo(SnapshotInfo):
    """A snapshot as it is when decrypted.

    Attributes:
        stored: the same one as the inner adapter knows it.
    """

    stored: SnapshotInfo = dataclasses.field(compare=False, repr=False)


class EncryptedAdapter:
    """An adapter that does what ``inner`` does, with changesets and snapshots that ``inner`` cannot read.

    It offers no subscriptions, as the remote cannot tell rows apart.

    Args:
        inner: the adapter that does the work.
        secret: shared by all devices.
        environment: where encrypting and decrypting are done, and randomness for snapshots.
    """

    def __init__(self, inner: SyncAdapter, secret: RemoteSecret, *, environment: Environment = _WORLD) -> None:
        self._inner = inner
        self._secret = secret
        self._environment = environment
        self._line: _Line | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner adapter, less what encrypting adds to each changeset."""
        inner = self._inner.capabilities
        reserve = inner.max_batch_bytes // 4
        largest = inner.max_changeset_bytes
        return dataclasses.replace(
            inner,
            max_batch_bytes=max(1, inner.max_batch_bytes - reserve),
            max_batch_count=max(1, min(inner.max_batch_count, reserve // OVERHEAD_BYTES)),
            max_changeset_bytes=None if largest is None else max(1, largest - OVERHEAD_BYTES),
            subscriptions=False,
        )

    async def connect(self, hello: Hello) -> Welcome:
        self._line = None  # whatever interrupts this: nothing is encrypted for the remote that was there before
        welcome = await self._inner.connect(hello)
        place = Place(hello.app, hello.partition)
        self._line = await self._environment.run_blocking(_line, self._secret, welcome.remote_id, place)
        return welcome

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        line = await self._compared()
        hidden = await self._environment.run_blocking(line.cipher.encrypt, batch, line.place)
        return await self._inner.push(hidden)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        line = self._connected()
        return await self._shown(line, await self._inner.pull(cursor, limit))

    async def latest_snapshot(self) -> SnapshotInfo | None:
        self._connected()
        stored = await self._snapshots().latest_snapshot()
        if stored is None:
            return None
        byte_count = plain_bytes(stored.byte_count)
        return _EncryptedInfo(name=stored.name, cursor=stored.cursor, byte_count=byte_count, later=stored.later, stored=stored)

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        """Its bytes, as each part that the inner adapter gives is decrypted; some may be empty.

        One that was tampered with is read to its end nevertheless: so the inner adapter can notice that it is damaged, and
        offer an older one next time.
        """
        line = self._connected()
        damage: SnapshotUnusable | None = None
        decryption = line.snapshots.decryption(line.place, info.name)
        parts = aiter(self._snapshots().read_snapshot(info.stored if isinstance(info, _EncryptedInfo) else info))
        try:
            async for part in parts:
                plain = b""
                if damage is None:
                    try:
                        plain = await self._environment.run_blocking(decryption.update, part)
                    except SnapshotUnusable as error:
                        damage = error
                line.cipher.has_fitted |= bool(plain)
                yield plain
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        if damage is not None:
            raise damage
        yield await self._environment.run_blocking(decryption.finish)
        line.cipher.has_fitted = True

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        line = await self._compared()
        encryption = line.snapshots.encryption(line.place, self._environment.random_bytes(SALT_BYTES))
        await self._snapshots().write_snapshot(cursor, self._hidden(chunks, encryption))

    async def trim(self, before: Cursor) -> None:
        self._connected()
        await self._snapshots().trim(before)

    async def close(self) -> None:
        self._line = None
        await self._inner.close()

    async def ping(self) -> None:
        if not isinstance(self._inner, SupportsPing):
            raise Offline("The adapter inside cannot be pinged.")
        await self._inner.ping()

    def watch(self, cursor: Cursor | None) -> AsyncIterator[Hint]:
        if not isinstance(self._inner, SupportsWatch):
            raise Offline("The adapter inside cannot watch.")
        return self._shown_hints(aiter(self._inner.watch(cursor)))

    async def _shown_hints(self, hints: AsyncIterator[Hint]) -> AsyncGenerator[Hint]:
        line = self._connected()
        try:
            async for hint in hints:
                page = None if hint.page is None else await self._shown(line, hint.page)
                yield dataclasses.replace(hint, page=page)
        finally:
            if isinstance(hints, AsyncGenerator):
                await hints.aclose()

    async def log_in(self, credentials: Credentials) -> Tokens:
        return await self._users().log_in(credentials)

    async def refresh(self, refresh_token: str) -> Tokens:
        return await self._users().refresh(refresh_token)

    async def log_out(self, refresh_token: str) -> None:
        await self._users().log_out(refresh_token)

    async def _shown(self, line: _Line, page: Page) -> Page:
        changesets = await self._environment.run_blocking(line.cipher.decrypt, page.changesets, line.place)
        return dataclasses.replace(page, changesets=tuple(changesets))

    async def _hidden(self, chunks: AsyncIterator[bytes], encryption: Encryption) -> AsyncGenerator[bytes]:
        async for chunk in chunks:
            if hidden := await self._environment.run_blocking(encryption.update, chunk):
                yield hidden
        yield await self._environment.run_blocking(encryption.finish)

    async def _compared(self) -> _Line:
        """The line, when the key was seen to fit what the remote holds, before anything is added that nobody else could read.

        What is stored is there for ever: a mistyped passphrase must not come to light when it is too late.
        """
        line = self._connected()
        if not (line.cipher.has_fitted or line.was_compared):
            with suppress(ResetRequired):  # the beginning was trimmed; if there is more to it, the push says so
                await self.pull(None, Limit(max_bytes=1, max_count=1))
            if not line.cipher.has_fitted and self.capabilities.snapshots:
                await self._compare_with_snapshot()
            line.was_compared = True
        return line

    async def _compare_with_snapshot(self) -> None:
        with suppress(SnapshotUnusable, NewerFormat):  # which say nothing about the key
            info = await self.latest_snapshot()
            if info is not None:
                async with aclosing(self.read_snapshot(info)) as chunks:
                    async for chunk in chunks:
                        if chunk:
                            return

    def _users(self) -> SupportsUsers:
        if not isinstance(self._inner, SupportsUsers):
            raise Offline("The adapter inside knows no users.")
        return self._inner

    def _snapshots(self) -> SupportsSnapshots:
        if not isinstance(self._inner, SupportsSnapshots):
            raise Offline("The adapter inside keeps no snapshots.")
        return self._inner

    def _connected(self) -> _Line:
        if self._line is None:
            raise Offline("This line to the remote is not connected. Nothing was sent.", hint="Connect first.")
        return self._line


_: tuple[type[SyncAdapter], type[SupportsSnapshots]] = (EncryptedAdapter, EncryptedAdapter)
