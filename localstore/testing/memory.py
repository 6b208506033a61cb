"""A remote in memory: the smallest adapter that keeps the whole contract, for tests, demos and ``memory://name`` URLs.

``MemoryRemote`` is the shared history and can be used from several threads and event loops at once; a ``MemoryAdapter``
is one device's line to it. Read it when you write an adapter. This module knows no pytest and no session.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from localstore.adapter import Capabilities, Cursor, Hello, Hint, Limit, Page, PushResult, Refusal, SyncAdapter, Welcome
from localstore.environment import Environment
from localstore.errors import Offline, ProtocolError, ResetRequired
from localstore.urls import redacted, split_url
from localstore.wire import SealedChangeset

__all__ = ["MemoryAdapter", "MemoryRemote"]

_WORLD = Environment()
_DAY_MS = 86_400_000
_POLL_SECONDS = 60.0  # wake-ups in one process do not get lost; the poll is for form's sake

_named: dict[str, MemoryRemote] = {}
_named_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Line:
    """What an adapter remembers of its connect: as whom it speaks, and to which history."""

    remote_id: str
    partition: str
    device: bytes


@dataclass(slots=True)
class _History:
    """One partition: all changesets in order of arrival, and the same ones by device, where index + 1 is the number."""

    log: list[SealedChangeset] = field(default_factory=list)
    by_device: dict[bytes, list[SealedChangeset]] = field(default_factory=dict)
    trimmed: int = 0  # who has read less than this, but something, cannot go on from there

    def copy(self) -> _History:
        return _History(list(self.log), {device: list(stored) for device, stored in self.by_device.items()}, self.trimmed)


class MemoryRemote:
    """One shared history that lives as long as this object.

    Args:
        environment: where its clock and its identity come from.
        max_changeset_bytes: larger changesets are refused; may be set at any time. None sets no limit.
        horizon_days: devices that were away for longer have to be reset; may be set at any time. None sets no limit.
        brings_news: whether hints bring what is new.
    """

    def __init__(
        self,
        *,
        environment: Environment = _WORLD,
        max_changeset_bytes: int | None = None,
        horizon_days: float | None = None,
        brings_news: bool = False,
    ) -> None:
        self.brings_news = brings_news
        self.max_changeset_bytes = max_changeset_bytes
        self.horizon_days = horizon_days
        self._environment = environment
        self._lock = threading.Lock()
        self._bells: dict[_Bell, None] = {}  # a set that keeps its order, so that a simulation can be repeated
        self._online = True
        self._app: str | None = None
        self._start_anew()

    @classmethod
    def named(cls, name: str) -> MemoryRemote:
        """The remote of that name in this process, made when it is first asked for."""
        with _named_lock:
            return _named.setdefault(name, cls())

    @property
    def remote_id(self) -> str:
        return self._remote_id

    def adapter(self) -> MemoryAdapter:
        """A new line to this remote. Usable as the ``remote`` of an application: ``App.create(..., remote=remote.adapter)``."""
        return MemoryAdapter(self)

    def go_offline(self) -> None:
        """Every call raises ``Offline`` until ``go_online``."""
        self._online = False
        self._ring()

    def go_online(self) -> None:
        self._online = True

    def wipe(self) -> None:
        """Put an empty remote with another identity in its place."""
        with self._lock:
            self._start_anew()
        self._ring()

    def changesets(self, partition: str | None = None) -> list[SealedChangeset]:
        """Everything that is stored, in order of arrival; of one partition, or of all."""
        with self._lock:
            names = list(self._histories) if partition is None else [partition]
            return [sealed for name in names for sealed in self._history(name).log]

    # The calls of the contract, as the adapter's lines make them.

    def connect(self, hello: Hello) -> tuple[_Line, Welcome]:
        self.check_online()
        with self._lock:
            if hello.remote_id not in (None, self._remote_id):
                raise ResetRequired("remote replaced")
            if self._app not in (None, hello.app):
                raise ProtocolError(
                    f"This remote holds the data of {self._app!r}, not of {hello.app!r}. Nothing was read or written.",
                    hint="Give each application a remote of its own.",
                )
            history = self._history(hello.partition)
            self._check_known(hello)
            self._position(hello.cursor, history)
            self._app = hello.app
            line = _Line(self._remote_id, hello.partition, hello.device)
            last_number = len(history.by_device.get(hello.device, ()))
        return line, Welcome(
            remote_id=line.remote_id,
            last_number=last_number,
            time_ms=self._environment.now_ms(),
            horizon_days=self.horizon_days,
        )

    def push(self, line: _Line, batch: Sequence[SealedChangeset]) -> PushResult:
        _check_run(line.device, batch)
        with self._lock:
            history = self._history_of(line)
            stored = history.by_device.setdefault(line.device, [])
            if batch[0].number > len(stored) + 1:
                raise ResetRequired("remote restored", hint=f"The remote has its changesets up to {len(stored)} only.")
            refusals: tuple[Refusal, ...] = ()
            for sealed in batch:
                if sealed.number <= len(stored):
                    if stored[sealed.number - 1].digest != sealed.digest:
                        raise ResetRequired("device forked", hint=f"Number {sealed.number} is stored with other content.")
                elif problem := self._problem_with(sealed):
                    refusals = (Refusal(number=sealed.number, reason=problem),)
                    break
                else:
                    stored.append(sealed)
                    history.log.append(sealed)
            acknowledged = min(len(stored), batch[-1].number)
        self._ring(but=line.device)
        return PushResult(acknowledged=acknowledged, refusals=refusals)

    def pull(self, line: _Line, cursor: Cursor | None, limit: Limit) -> Page:
        with self._lock:
            history = self._history_of(line)
            start = end = self._position(cursor, history)
            byte_count = 0
            while end < len(history.log) and end - start < limit.max_count:
                byte_count += history.log[end].byte_count
                if byte_count > limit.max_bytes and end > start:
                    break
                end += 1
            return Page(
                changesets=tuple(history.log[start:end]),
                cursor=self._cursor(history, end),
                more=end < len(history.log),
                remaining_bytes=sum(sealed.byte_count for sealed in history.log[end:]),
            )

    def has_news(self, line: _Line, cursor: Cursor | None) -> bool:
        """Whether another device's changesets come after the cursor."""
        with self._lock:
            history = self._history_of(line)
            return any(sealed.device != line.device for sealed in history.log[self._position(cursor, history) :])

    @contextlib.contextmanager
    def listening(self, bell: _Bell) -> Iterator[None]:
        with self._lock:
            self._bells[bell] = None
        try:
            yield
        finally:
            with self._lock:
                self._bells.pop(bell, None)

    def _start_anew(self) -> None:
        self._remote_id = self._environment.random_bytes(16).hex()
        self._app = None
        self._histories: dict[str, _History] = {}
        self._seen: dict[bytes, int] = {}
        self._refused: dict[bytes, tuple[str, bool]] = {}

    def _history(self, partition: str) -> _History:
        return self._histories.setdefault(partition, _History())

    def _history_of(self, line: _Line) -> _History:
        self.check_online()
        if line.remote_id != self._remote_id:
            raise ResetRequired("remote replaced")
        self._check_not_refused(line.device)
        self._seen[line.device] = self._environment.now_ms()
        return self._history(line.partition)

    def check_online(self) -> None:
        """Raise ``Offline`` while it is out of reach."""
        if not self._online:
            raise Offline("The memory remote was taken offline. Local data is untouched.")

    def _position(self, cursor: Cursor | None, history: _History) -> int:
        if cursor is None:
            return 0
        remote_id, digits, mark, trimmed = (*bytes(cursor).split(b":"), b"", b"", b"")[:4]
        if remote_id != self._remote_id.encode() or not digits.isdigit() or not trimmed.isdigit():
            raise ResetRequired("unknown cursor")
        if int(digits) > len(history.log):
            raise ResetRequired("remote restored", hint="The device has read more than there is.")
        if int(digits) < history.trimmed != int(trimmed):
            raise ResetRequired("history trimmed")
        if mark != _mark(history, int(digits)):
            raise ResetRequired("remote restored", hint="What the device has read last is not what is there now.")
        return int(digits)

    def _cursor(self, history: _History, end: int) -> Cursor:
        """A position, with what came before it: after going back to a backup another history may have grown as long; and with
        how much was trimmed by then: who began after that may read on."""
        return Cursor(f"{self._remote_id}:{end}:".encode() + _mark(history, end) + f":{history.trimmed}".encode())

    def _problem_with(self, sealed: SealedChangeset) -> str | None:
        limit = self.max_changeset_bytes
        if limit is None or sealed.byte_count <= limit:
            return None
        return f"It has {sealed.byte_count} bytes; this remote takes up to {limit}."

    def _ring(self, but: bytes | None = None) -> None:
        with self._lock:
            bells = [bell for bell in self._bells if bell.device != but]
        for bell in bells:
            bell.ring()

    # Ways to part with its devices, for tests of client resets.

    def trim_history(self) -> None:
        """Forget what came when: devices that have not read everything cannot go on. A new one still gets all there is."""
        with self._lock:
            for history in self._histories.values():
                history.trimmed = len(history.log)

    def backup(self) -> object:
        """What is stored now, for ``restore``."""
        with self._lock:
            return self._remote_id, self._app, {name: history.copy() for name, history in self._histories.items()}

    def restore(self, backup: object) -> None:
        """Go back to what was stored when a backup was made, as the same remote."""
        assert isinstance(backup, tuple)
        with self._lock:
            self._start_anew()
            self._remote_id, self._app, histories = backup
            self._histories = {name: history.copy() for name, history in histories.items()}
        self._ring()

    def ask_for_reset(self, reason: str, *, may_recover: bool = True) -> None:
        """Ask every device that was seen up to now for a client reset, whatever it does; a new one is welcome."""
        with self._lock:
            self._refused.update(dict.fromkeys(self._seen, (reason, may_recover)))
        self._ring()

    def _check_known(self, hello: Hello) -> None:
        self._check_not_refused(hello.device)
        now_ms = self._environment.now_ms()
        away_ms = now_ms - self._seen.get(hello.device, now_ms)
        if self.horizon_days is not None and hello.cursor is not None and away_ms > self.horizon_days * _DAY_MS:
            raise ResetRequired("history trimmed", hint=f"The device was away for {away_ms / _DAY_MS:.1f} days.")
        self._seen[hello.device] = now_ms

    def _check_not_refused(self, device: bytes) -> None:
        if device in self._refused:
            reason, may_recover = self._refused[device]
            raise ResetRequired(reason, may_recover=may_recover)


class MemoryAdapter:
    """One device's line to a ``MemoryRemote``. The device's own changesets come back with the others'."""

    def __init__(self, remote: MemoryRemote) -> None:
        self._remote = remote
        self._line: _Line | None = None
        self._bells: dict[_Bell, None] = {}

    @classmethod
    def from_url(cls, url: str) -> MemoryAdapter:
        """A line to the remote of that name in this process.

        Args:
            url: ``memory://name``.
        """
        parts = split_url(url)
        name = parts.netloc + parts.path
        if not name:
            raise ValueError(f"{redacted(url)!r} names no remote. Write it as in 'memory://todo'.")
        return cls(MemoryRemote.named(name))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            ordered=True,
            watch=True,
            ping=True,
            poll_seconds=_POLL_SECONDS,
            max_changeset_bytes=self._remote.max_changeset_bytes,
        )

    async def connect(self, hello: Hello) -> Welcome:
        await _pause()
        self._line, welcome = self._remote.connect(hello)
        await _pause()
        return welcome

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        await _pause()
        result = self._remote.push(self._connected(), batch)
        await _pause()
        return result

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        await _pause()
        page = self._remote.pull(self._connected(), cursor, limit)
        await _pause()
        return page

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        line = self._connected()
        bell = _Bell(line.device)
        self._bells[bell] = None
        try:
            with self._remote.listening(bell):  # before looking, so that nothing falls in between
                if not self._remote.has_news(line, cursor):
                    await bell.wait()
                while self._line is line:
                    self._remote.has_news(line, None)  # raises when the remote is offline or replaced
                    hint = self._hint(line, cursor)
                    cursor = hint.page.cursor if hint.page else cursor
                    yield hint
                    await bell.wait()
        finally:
            self._bells.pop(bell, None)

    def _hint(self, line: _Line, after: Cursor | None) -> Hint:
        if not self._remote.brings_news or after is None:
            return Hint()
        page = self._remote.pull(line, after, Limit())
        return Hint() if page.more else Hint(after=after, page=page)

    async def ping(self) -> None:
        await _pause()
        self._remote.has_news(self._connected(), None)  # raises when the remote is offline or replaced
        await _pause()

    async def close(self) -> None:
        self._line = None
        for bell in self._bells:
            bell.ring()

    def _connected(self) -> _Line:
        if self._line is None:
            raise Offline("This line to the memory remote is not connected. Nothing was sent.", hint="Connect first.")
        return self._line


class _Bell:
    """Wakes one watcher in its own event loop, whatever thread rings."""

    def __init__(self, device: bytes) -> None:
        self.device = device
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop was closed: nobody is waiting
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung.clear()


def _check_run(device: bytes, batch: Sequence[SealedChangeset]) -> None:
    if not batch:
        raise ValueError("An empty batch cannot be pushed.")
    for number, sealed in enumerate(batch, batch[0].number):
        if sealed.number != number or sealed.device != device:
            raise ValueError("A batch is a run of consecutive numbers of the connected device.")


def _mark(history: _History, position: int) -> bytes:
    return history.log[position - 1].digest.hex()[:16].encode() if position else b""


async def _pause() -> None:
    """Let others run, as a network would: before the effect and after it, so that a cancellation can strike at both."""
    await asyncio.sleep(0)


_: type[SyncAdapter] = MemoryAdapter
