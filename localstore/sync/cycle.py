"""The sync cycle, from top to bottom: connect, pull and apply until the head, push the outbox, wait for work.

``Cycle.run`` is one life of an active session. It ends by cancellation or by a fatal error; every other error leads through
a wait back to the connect. What may run when is the session's business, not this module's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from localstore.adapter import (
    Cursor,
    Hello,
    Limit,
    Page,
    PushResult,
    Refusal,
    SealedChangeset,
    SupportsWatch,
    SyncAdapter,
)
from localstore.errors import (
    Busy,
    ClockDrift,
    ConflictsForgotten,
    DiskFailed,
    DiskFull,
    Offline,
    ProtocolError,
    Refused,
    RemoteDamage,
    ResetRequired,
    RowsSetAside,
    StoreBusy,
    SyncError,
)
from localstore.store.apply import Applied
from localstore.sync.offline_time import OfflineTime
from localstore.sync.parts import SessionParts
from localstore.sync.retry import Backoff
from localstore.sync.state import ConnectionEvent
from localstore.sync.waits import Waits
from localstore.urls import redacted_text

__all__ = ["Cycle", "Observer", "Signals", "answers"]

T = TypeVar("T")


class Signals:
    """How the session pokes a running cycle. To be used in the cycle's event loop."""

    def __init__(self) -> None:
        self.work = asyncio.Event()
        """There may be something to do."""
        self.reconnect = asyncio.Event()
        """Do not wait any longer before the next attempt."""

    def work_came(self) -> None:
        self.work.set()

    def reconnect_now(self) -> None:
        self.reconnect.set()
        self.work.set()


class Observer(Protocol):
    """What a cycle tells its session."""

    def connection(self, event: ConnectionEvent) -> None: ...
    def report(self, error: SyncError) -> None: ...
    def failed(self, error: SyncError) -> None: ...
    def uploaded(self) -> None: ...
    async def caught_up(self) -> None: ...


class Cycle:
    """One life of an active session.

    Args:
        parts: what the session is made of.
        adapter: the line to the remote; closed by the caller.
        waits: callers to release.
        observer: the session.
        signals: pokes.
    """

    def __init__(
        self, parts: SessionParts, *, adapter: SyncAdapter, waits: Waits, observer: Observer, signals: Signals
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._limits = parts.limits
        self._adapter = adapter
        self._waits = waits
        self._observer = observer
        self._signals = signals
        self._backoff = Backoff(parts.backoff, parts.environment.random)
        self._cursor: Cursor | None = None
        self._watching: asyncio.Task[None] | None = None
        self._remote_ahead_ms: float | None = None
        self._drift_reported: set[bytes] = set()
        self._warned: set[str] = set()
        self._offline_time = OfflineTime(parts.store, parts.environment)
        self._device = b""

    async def run(self) -> None:
        """Sync until cancelled.

        Raises:
            SyncError: a fatal one.
        """
        await self._through_errors(self._go_on)

    async def fill(self, then: Callable[[], Awaitable[None]]) -> None:
        """Connect, pull to the head and do something, once, through errors that pass by themselves.

        Raises:
            SyncError: a fatal one.
        """

        async def work() -> None:
            await self._pull_to_head()
            await then()

        await self._through_errors(work)

    async def fill_once(self) -> None:
        """Connect and pull to the head.

        Raises:
            SyncError: it did not succeed.
        """
        await self._connect()
        await self._pull_to_head()

    async def _through_errors(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                try:
                    await self._connect()
                    return await work()
                except SyncError as error:
                    self._observer.connection(ConnectionEvent.LOST)
                    self._observer.failed(error)
                    if error.is_fatal:
                        raise
                    await self._warn_of_offline_time()
                    await self._back_off(self._backoff.failed(error))
        finally:
            self._stop_watching()

    async def _go_on(self) -> None:
        while True:
            await self._pull_to_head()
            await self._push_outbox()
            await self._observer.caught_up()
            await self._in_thread(self._store.purge, self._remote_ms())
            await self._wait_for_work()

    async def _connect(self) -> None:
        self._signals.reconnect.clear()
        self._observer.connection(ConnectionEvent.ATTEMPT)
        state = await self._in_thread(self._store.state)
        self._cursor = None if state.cursor is None else Cursor(state.cursor)
        self._device = state.device
        hello = Hello(
            app=self._parts.app,
            partition=self._parts.partition,
            device=state.device,
            remote_id=state.remote_id,
            cursor=self._cursor,
        )
        # Another process of this device may push meanwhile. Both numbers only grow, so what was acknowledged before the
        # remote answered, and what was made after it, are safe to compare with its answer.
        acknowledged = await self._in_thread(self._store.acknowledged)
        welcome = await self._request(self._adapter.connect(hello), self._limits.connect_timeout)
        elapsed_ms = self._parts.environment.monotonic() * 1000
        self._remote_ahead_ms = None if welcome.time_ms is None else welcome.time_ms - elapsed_ms
        made = (await self._in_thread(self._store.state)).last_number
        if state.remote_id is None:
            await self._in_thread(self._store.meet, welcome.remote_id)
        elif welcome.remote_id != state.remote_id:
            raise ResetRequired(
                "remote replaced", hint="Nothing was sent to it; this device's data and unsent changes are untouched."
            )
        if welcome.last_number < acknowledged:
            raise ResetRequired(
                f"remote restored (it had acknowledged changeset {acknowledged} of this device, and has {welcome.last_number})",
                hint="It lost history, as by going back to an old backup. This device's data is untouched.",
            )
        if welcome.last_number > made:
            raise ResetRequired(
                f"device forked (the remote has changeset {welcome.last_number} of this device, the file {made})",
                hint="The file was copied, or restored from a backup. Its data and unsent changes are untouched.",
            )
        await self._in_thread(self._offline_time.reached, welcome.horizon_days)
        self._waits.count_by(state.device, await self._in_thread(self._store.last_pending))
        self._observer.connection(ConnectionEvent.WELCOME)

    async def _pull_to_head(self) -> None:
        mark = self._waits.download_requests
        limit = Limit(max_bytes=self._limits.page_bytes, max_count=self._limits.page_count)
        more = True
        while more:
            page: Page = await self._request(self._adapter.pull(self._cursor, limit))
            if page.more and page.cursor == self._cursor:
                raise ProtocolError("The adapter says that there is more, and does not move on.", hint="Tell its authors.")
            applied: Applied | None = await self._in_thread(
                self._store.apply, page.changesets, after=self._cursor, cursor=page.cursor
            )
            if applied is None:  # another process of this device was quicker
                state = await self._in_thread(self._store.state)
                self._cursor = None if state.cursor is None else Cursor(state.cursor)
                continue
            self._cursor, more = page.cursor, page.more
            self._tell(page, applied)
            if page.changesets:
                self._backoff.reset()
        self._waits.reached_head(mark)
        if self._offline_time.is_due():
            await self._in_thread(self._offline_time.again)

    async def _push_outbox(self) -> None:
        capabilities = self._adapter.capabilities
        await self._in_thread(self._store.seal)
        await self._in_thread(self._store.catch_up)
        await self._tell_set_aside()
        for table, reason in await self._in_thread(self._store.take_unsealed):
            self._observer.report(
                Refused(
                    f"A row of {table} that another program wrote cannot be synced: {reason}. It stays on this device.",
                    hint="Correct it with that program, or through localstore.",
                )
            )
        while True:
            batch = await self._in_thread(
                self._store.batch, max_bytes=capabilities.max_batch_bytes, max_count=capabilities.max_batch_count
            )
            if not batch:  # another process may have emptied it: nobody told those who wait here
                self._waits.acknowledged(await self._in_thread(self._store.acknowledged))
                break
            await self._settle(batch, await self._push(batch))
            self._backoff.reset()
        self._backoff.reset()
        self._observer.uploaded()

    async def _push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        """Push a batch; an answer that makes no sense must not make us forget what was never stored."""
        if batch[0].device != self._device:
            raise Offline("Another process reset this file, which is another device now. The session connects again.")
        try:
            result: PushResult = await self._request(self._adapter.push(batch))
        except Refused as error:
            result = PushResult(acknowledged=0, refusals=(Refusal(number=error.number or 0, reason=error.message),))
        first, last = batch[0].number, batch[-1].number
        made = last if result.acknowledged <= last else (await self._in_thread(self._store.state)).last_number
        if not answers(result, first, last, made):
            raise ProtocolError(
                f"The adapter's answer does not fit: changesets {first} to {last} were pushed, {result.acknowledged} was"
                f" acknowledged, {len(result.refusals)} were refused. Nothing was let go.",
                hint="Report this to its authors.",
            )
        return result

    async def _settle(self, batch: Sequence[SealedChangeset], result: PushResult) -> None:
        """Let go of what the remote took, and set aside what it never will."""
        await self._in_thread(self._store.acknowledge, result.acknowledged)
        self._waits.acknowledged(result.acknowledged)
        for refusal in result.refusals:
            if any(sealed.number == refusal.number and not sealed.rows for sealed in batch):  # it stands for a refused one
                raise ProtocolError(
                    f"The remote refuses even an empty changeset: {refusal.reason}. Sync stopped; local data is untouched.",
                    hint="Ask whoever runs the remote.",
                )
            await self._in_thread(self._store.refuse, refusal.number, redacted_text(refusal.reason))
            self._observer.report(
                Refused(
                    f"The remote refused changeset {refusal.number}: {refusal.reason}. It was set aside on this device.",
                    number=refusal.number,
                    hint="Later changes go on.",
                )
            )

    def _remote_ms(self) -> int | None:
        """The remote's clock by now, which went on since it was told at the connect."""
        if self._remote_ahead_ms is None:
            return None
        return int(self._remote_ahead_ms + self._parts.environment.monotonic() * 1000)

    async def _wait_for_work(self) -> None:
        self._watch()
        poll = self._limits.poll or self._adapter.capabilities.poll_seconds
        await self._sleep_until(self._signals.work, poll)
        self._signals.work.clear()
        self._signals.reconnect.clear()  # connected: the pull that follows shows whether the line still holds

    async def _warn_of_offline_time(self) -> None:
        with suppress(Busy):  # which is for the next attempt to find
            warning = await self._in_thread(self._offline_time.warning)
            if warning is not None:
                self._observer.report(warning)

    async def _back_off(self, seconds: float) -> None:
        self._stop_watching()
        await self._sleep_until(self._signals.reconnect, seconds)
        if self._signals.reconnect.is_set():
            self._backoff.reset()

    async def _sleep_until(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for an event, at most so many seconds."""
        tasks = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._parts.environment.sleep(seconds))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _watch(self) -> None:
        """Keep a task that turns the remote's hints into work. It may fail: the timer looks for news as well."""
        if not self._adapter.capabilities.watch or (self._watching is not None and not self._watching.done()):
            return
        adapter = self._adapter
        if isinstance(adapter, SupportsWatch):
            self._watching = asyncio.ensure_future(self._follow_hints(adapter))

    async def _follow_hints(self, adapter: SupportsWatch) -> None:
        try:
            async for _ in adapter.watch(self._cursor):
                self._signals.work.set()
        except SyncError:
            return  # the next pull sees for itself; waking it at once would go round and round with a broken watch
        except Exception as error:  # noqa: BLE001  a broken watch must not stop the sync it only speeds up
            self._warn(f"Watching the remote failed ({redacted_text(str(error))}); the timer goes on looking for news.")

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _tell_set_aside(self) -> None:
        """Report rows that went out of their tables, whoever changed what they depend on."""
        aside = await self._in_thread(self._store.take_set_aside)
        if aside:
            count = "A row" if len(aside) == 1 else f"{len(aside)} rows"
            self._observer.report(
                RowsSetAside(
                    f"{count} cannot be shown together with what other devices wrote, the first in {aside[0].table},"
                    f" because of {aside[0].why}. What is set aside is kept on all devices, and comes back when it can be.",
                    rows=tuple((row.table, row.key, row.why) for row in aside),
                    hint="See realm.conflicts(). Change what is in their way or insert what they refer to, or leave them.",
                )
            )

    def _tell(self, page: Page, applied: Applied) -> None:
        """Report what the user should know of a page."""
        for device in applied.drifting.keys() - self._drift_reported:
            self._drift_reported.add(device)
            self._observer.report(
                ClockDrift(
                    f"Device {device.hex()[:8]} has a clock ahead of this one. Its changes are kept until their time comes.",
                    hint="Set the clocks of both devices.",
                )
            )
        for device, number, reason in applied.aside:
            self._observer.report(
                Refused(
                    f"Changeset {number} of device {device.hex()[:8]} cannot be applied here: {reason}. It was set aside.",
                    number=number,
                    hint="Bring this device's schema up to date.",
                )
            )
        if applied.forgotten:
            self._observer.report(
                ConflictsForgotten(
                    f"{applied.forgotten} of the oldest conflicts left the list, to make room for newer ones or as they were"
                    " too old. The tables hold what they held.",
                    count=applied.forgotten,
                    hint="Look at realm.conflicts() more often, or raise conflicts_max_age or conflicts_max_count.",
                )
            )
        for warning in page.warnings:
            self._warn(warning)

    def _warn(self, warning: str) -> None:
        """Report damage once, not at every pull."""
        if warning not in self._warned:
            self._warned.add(warning)
            self._observer.report(RemoteDamage(warning))

    async def _request(self, call: Awaitable[T], timeout: float | None = None) -> T:
        """A call of the adapter, within its time limit; what it may not raise becomes an error that names the adapter."""
        seconds = timeout or self._limits.request_timeout
        try:
            async with asyncio.timeout(seconds):
                answer = await call
        except TimeoutError as error:
            raise Offline(f"The remote did not answer within {seconds:g} s. Local work goes on.") from error
        except SyncError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            failure = f"{type(self._adapter).__name__} failed with {type(error).__name__}: {redacted_text(str(error))}"
            raise ProtocolError(
                f"{failure}. Sync stopped; local data is untouched.",
                hint="This is a bug in the adapter: report it to its authors.",
            ) from error
        if _is_cancelled():  # the adapter swallowed it
            raise asyncio.CancelledError
        return answer

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Work on the file; what passes by itself, as another program's long write, is waited out like errors of the remote."""
        try:
            return await self._parts.environment.run_blocking(function, *args, **kwargs)
        except (StoreBusy, DiskFull, DiskFailed) as error:
            raise Busy(error.message, hint=error.hint) from error


def answers(result: PushResult, first: int, last: int, made: int) -> bool:
    """Whether a result can be the answer to a batch.

    Args:
        result: what the adapter said. It may acknowledge what was stored before, beyond the batch.
        first, last: the batch's numbers.
        made: the highest number that this device has given to a changeset.
    """
    refused = {refusal.number for refusal in result.refusals}
    return (
        result.acknowledged <= made
        and refused <= set(range(first, last + 1))
        and (result.acknowledged >= first or bool(refused))
    )


def _is_cancelled() -> bool:
    """Whether somebody wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
