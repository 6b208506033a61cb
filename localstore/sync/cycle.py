"""The sync cycle, from top to bottom: connect, pull and apply until the head, push the outbox, wait for work.

``Cycle.run`` is one life of an active session. It ends by cancellation or by a fatal error; every other error leads through
a wait back to the connect. What may run when is the session's business, not this module's.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import ParamSpec, Protocol, TypeVar

from localstore.adapter import Cursor, Hello, Hint, Limit, Page
from localstore.errors import Busy, ProtocolError, ResetRequired, SyncError
from localstore.store.apply import Applied
from localstore.store.state import State
from localstore.sync.answers import check_welcome
from localstore.sync.blocking import in_thread, in_thread_then
from localstore.sync.compaction import Compaction
from localstore.sync.first_sync import FirstSync, Unseen
from localstore.sync.heartbeat import Heartbeat
from localstore.sync.hints import Hints
from localstore.sync.line import Line
from localstore.sync.news import Connection, Failed, Heard, MayStayAway, News, ReachedHead, Received
from localstore.sync.offline_time import OfflineTime
from localstore.sync.parts import SessionParts
from localstore.sync.reports import Reports
from localstore.sync.retry import Backoff
from localstore.sync.sending import OfFile, Sending
from localstore.sync.signs import SignsOfLife
from localstore.sync.state import ConnectionEvent
from localstore.sync.token_use import TokenUse
from localstore.sync.waits import Waits
from localstore.urls import redacted_text

__all__ = ["Cycle", "Observer", "Signals"]

P = ParamSpec("P")
T = TypeVar("T")
_DAY_S = 86_400.0
_SOON = 0.001  # seconds; what is due sooner is due now


class Signals:
    """How the session pokes a running cycle. To be used in the cycle's event loop."""

    def __init__(self) -> None:
        self.work = asyncio.Event()
        """There may be something to do."""
        self.committed = False
        """Something was written here since the cycle looked last."""
        self.reconnect = asyncio.Event()
        """Do not wait any longer before the next attempt, and see whether the line holds."""
        self.doubted: Callable[[], None] | None = None
        """Called when somebody doubts that the line holds."""

    def work_came(self) -> None:
        self.committed = True
        self.work.set()

    def reconnect_now(self) -> None:
        self.reconnect.set()
        self.work.set()
        if self.doubted is not None:
            self.doubted()


class Observer(Protocol):
    """Whom a cycle tells what happens."""

    def tell(self, news: News) -> None: ...
    def report(self, error: SyncError) -> None: ...
    async def caught_up(self, pull: Callable[[], Awaitable[None]]) -> None: ...


class Cycle:
    """One life of an active session.

    Args:
        parts: what the session is made of.
        line: to the remote; closed by the caller.
        waits: callers to release.
        observer: the session.
        signals: pokes.
        unseen: changesets that may not come with a snapshot.
        reports: of the life; what it has told is not told again.
    """

    def __init__(
        self,
        parts: SessionParts,
        *,
        line: Line,
        waits: Waits,
        observer: Observer,
        signals: Signals,
        unseen: Unseen | None = None,
        reports: Reports | None = None,
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._limits = parts.limits
        self._line = line
        self._waits = waits
        self._observer = observer
        self._signals = signals
        self._backoff = Backoff(parts.backoff, parts.environment.random)
        self._token = TokenUse(parts.tokens, signals.work.set)
        self._reports = reports or Reports()
        self._cursor: Cursor | None = None  # in the file
        self._moved: Cursor | None = None  # where the log is by now, when only this device has added to it since
        self._looked, self._looked_at = 0, 0.0  # mark and time of the last pull that reached the head
        self._asked_ms = 0  # when it was asked for, as told to ``OfflineTime``
        self._hints = Hints(line.adapter, parts.environment.monotonic, self._heard, self._warn)
        self._remote_ahead_ms: float | None = None
        self._turns: int | None = None  # gone through since the connect; None without a connection
        self._lost_at: float | None = None  # when a connection was lost that had served its purpose
        self._sending = Sending(
            parts, line, waits, tell=observer.tell, report_file=self._report_file, progressed=self._backoff.reset
        )
        self._offline_time = OfflineTime(parts.store, parts.environment)
        self._first_sync = FirstSync(parts, line, unseen, observer.report)
        self._compaction = Compaction(parts, line)
        signals.doubted = line.check

    async def run(self) -> None:
        """Sync until cancelled.

        Raises:
            SyncError: a fatal one.
        """
        await self._through_errors(self._stay_in_step)

    async def fill(self, then: Callable[[], Awaitable[None]]) -> None:
        """Connect, pull to the head and do something, once, through errors that pass by themselves.

        Raises:
            SyncError: a fatal one.
        """

        async def pull_and_then() -> None:
            await self._fill()
            await then()

        await self._through_errors(pull_and_then)

    async def fill_once(self) -> None:
        """Connect and pull to the head.

        Raises:
            SyncError: it did not succeed.
        """
        await self._connect()
        await self._fill()

    async def _fill(self) -> None:
        await self._pull_to_head()
        await self._note_in_step()

    async def _through_errors(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                try:
                    await self._connect()
                    return await work()
                except SyncError as error:
                    await self._recover(error)
        finally:
            self._hints.stop()

    async def _recover(self, error: SyncError) -> None:
        """Come to terms with an error, so that the next thing to do is to connect again; raises a fatal one."""
        if self._turns is not None:
            self._lost_at, self._turns = self._parts.environment.monotonic() if self._turns else None, None
        if self._token.can_answer(error):  # which may take a while, and may leave no error
            self._observer.tell(Connection(ConnectionEvent.LOST))
        problem = await self._token.answer_to(error)
        if problem is None:
            return
        seconds = None if problem.is_fatal else self._backoff.failed(problem)
        self._observer.tell(Failed(problem, seconds))
        self._observer.tell(Connection(ConnectionEvent.LOST))  # after it: who hears of the loss may want to know why
        if seconds is None:
            raise problem
        await self._warn_of_offline_time()
        await self._back_off(seconds)

    async def _stay_in_step(self) -> None:
        """Send and receive whatever comes, until an error.

        What was written here goes first when the device was away for a moment only, so that others see it at once; after a
        longer absence what others did comes first, as what is sent then fits it better, and after a connection on which nothing
        could be sent, lest it be kept away.
        """
        random, monotonic = self._parts.environment.random, self._parts.environment.monotonic
        push_first = self._lost_at is not None and monotonic() - self._lost_at < self._limits.fast_reconnect_limit
        heartbeat = Heartbeat(self._limits.ping_period, random, monotonic())
        with closing(SignsOfLife(self._line, heartbeat, monotonic, self._parts.loop)) as signs:
            await self._take_turns(signs, push_first=push_first)

    async def _take_turns(self, signs: SignsOfLife, *, push_first: bool) -> None:
        must_look = True
        while True:
            if self._token.is_outdated():
                await self._connect(quietly=True)
            if push_first and not self._offline_time.may_be_over(self._time_ms()):
                await self._sending.send(batches=1)  # the rest goes after the pull: a long outbox must not keep news away
            looks = must_look or not await self._apply_brought()
            if looks:
                await self._pull_to_head()
            if self._offline_time.may_be_over(self._time_ms()):
                await self._in_thread(self._offline_time.check_unsent, self._time_ms())
            await self._sending.send()
            await self._note_in_step()
            self._turns = (self._turns or 0) + 1
            self._backoff.reset()
            self._token.worked()
            await self._observer.caught_up(self._pull_to_head)
            await self._in_thread(self._store.purge, self._remote_ms())
            must_look = await self._compaction.step(self._remote_ms(), at_head=looks) or await self._wait_for_work(signs)
            push_first, self._signals.committed = self._signals.committed, False

    async def _connect(self, *, quietly: bool = False) -> None:
        """Introduce this device; quietly on a line that goes on as it is with a new token."""
        self._signals.reconnect.clear()
        if not quietly:
            self._observer.tell(Connection(ConnectionEvent.ATTEMPT))
        state = await self._look_at_cursor()
        self._sending.device = state.device
        # Another process of this device may push meanwhile. Both numbers only grow, so what was acknowledged before the
        # remote answered, and what was made after it, are safe to compare with its answer.
        acknowledged = await self._in_thread(self._store.acknowledged)
        hello = Hello(
            app=self._parts.app,
            partition=self._parts.partition,
            device=state.device,
            token=self._token.take(),
            remote_id=state.remote_id,
            cursor=self._cursor,
            horizon_days=self._store.options.client_maximum_offline_time / _DAY_S,
            acknowledged=acknowledged,
        )
        welcome = await self._line.connect(hello)
        elapsed_ms = self._parts.environment.monotonic() * 1000
        self._remote_ahead_ms = None if welcome.time_ms is None else welcome.time_ms - elapsed_ms
        made = (await self._in_thread(self._store.state)).last_number
        if state.remote_id is None:
            await self._in_thread(self._store.meet, welcome.remote_id)
        check_welcome(welcome, state, acknowledged=acknowledged, made=made)
        if state.reads_again:
            await self._in_thread(self._store.read_again)
            await self._look_at_cursor()
        self._waits.count_by(state.device, await self._in_thread(self._store.last_pending))
        self._observer.tell(MayStayAway(await self._in_thread(self._offline_time.reached, welcome.horizon_days)))
        self._turns = self._turns or 0
        self._observer.tell(Connection(ConnectionEvent.WELCOME))

    async def _look_at_cursor(self) -> State:
        state = await self._in_thread(self._store.state)
        self._cursor, self._moved = None if state.cursor is None else Cursor(state.cursor), None
        return state

    async def _pull_to_head(self) -> None:
        mark = self._waits.download_requests
        if self._cursor is None:
            await self._begin_with_snapshot()
        limit = Limit(max_bytes=self._limits.page_bytes, max_count=self._limits.page_count)
        while True:
            self._hints.forget()
            self._asked_ms = self._time_ms()
            page = await self._pull(limit)
            if page.more and page.cursor == self._cursor:
                raise ProtocolError("The adapter says that there is more, and does not move on.", hint="Tell its authors.")
            if await self._apply(page) and not page.more:
                break
        self._looked, self._looked_at = mark, self._parts.environment.monotonic()
        self._observer.tell(ReachedHead(_shown(page.warnings), _shown(page.passed_over)))
        self._waits.reached_head(mark)  # after it, as who waited may look at the status
        if self._hints.any:  # while the last page was on its way
            self._observer.tell(Heard())
        if self._offline_time.is_due():
            self._observer.tell(MayStayAway(await self._in_thread(self._offline_time.again)))

    async def _apply_brought(self) -> bool:
        """Apply what hints brought, if it is what comes next here: each begins where the one before it ended, so that none was
        missed. Nobody who waits for the head is released by that: it was read before they asked, perhaps.

        Returns:
            Whether there is no need to look for more.
        """
        page: Page | None = None
        while self._hints.brought:
            hint = self._hints.brought.popleft()
            page = hint.page
            if page is None or page.more or hint.after != (self._moved or self._cursor):
                return False
            if not page.changesets:
                self._moved = page.cursor  # the file is written to with what comes next
            elif not await self._apply(page):
                return False
        if page is None or self._hints.heard:
            return page is None and not self._hints.heard
        self._observer.tell(ReachedHead(_shown(page.warnings), _shown(page.passed_over)))
        return True

    async def _apply(self, page: Page) -> bool:
        """Apply what comes next, and go on from its end; False when another process of this device was quicker."""
        applied = await in_thread_then(
            self._parts.environment,
            functools.partial(self._report_page, page),
            self._store.apply,
            page.changesets,
            after=self._cursor,
            cursor=page.cursor,
        )
        if applied is None:
            await self._look_at_cursor()
            return False
        self._cursor, self._moved = page.cursor, None
        if page.changesets:
            self._backoff.reset()
            self._observer.tell(Received(_byte_count(page), page.remaining_bytes))
        return True

    async def _pull(self, limit: Limit) -> Page:
        try:
            return await self._line.pull(self._cursor, limit)
        except ResetRequired as error:
            if self._cursor is None:
                raise self._first_sync.explained(error) from error
            raise

    async def _begin_with_snapshot(self) -> None:
        """Take what the remote holds at once where it can be had so, and leave what came after it to be pulled."""
        byte_count = await self._first_sync.take()
        await self._look_at_cursor()  # another process may have been quicker
        if byte_count is not None:
            self._backoff.reset()
            self._observer.tell(Received(byte_count, None))

    def _remote_ms(self) -> int | None:
        """The remote's clock by now, which went on since it was told at the connect."""
        if self._remote_ahead_ms is None:
            return None
        return int(self._remote_ahead_ms + self._parts.environment.monotonic() * 1000)

    def _time_ms(self) -> int:
        """The remote's clock, or this device's where that has none."""
        return self._remote_ms() or self._parts.environment.now_ms()

    async def _wait_for_work(self, signs: SignsOfLife) -> bool:
        """Until a commit, a hint, a command or the timer; asks for signs of life meanwhile, and at once when told to doubt.

        Returns:
            Whether the remote has to be looked at. While it is watched, a commit is no reason, nor is what a hint brought.
        """
        monotonic = self._parts.environment.monotonic
        poll = self._limits.poll or self._line.adapter.capabilities.poll_seconds
        until = min(monotonic() + self._token.at_most(poll), self._looked_at + poll)
        if self._hints.is_following and not self._has_cause():
            self._signals.work.clear()  # by a hint that came in time for this round
        while not self._signals.work.is_set() and (left := until - monotonic()) > _SOON:
            self._line.check_alive()
            seconds = min(left, signs.keep(), self._hints.keep(self._cursor))
            await self._sleep_until(self._signals.work, seconds, or_end_of=signs.outstanding)
            if self._signals.reconnect.is_set():
                await signs.ask_urgently()
        is_told = self._hints.is_following and (self._signals.committed or self._hints.any)
        is_due = self._signals.reconnect.is_set() or until - monotonic() <= _SOON
        self._signals.work.clear()
        self._signals.reconnect.clear()  # the line holds, or the pull that follows will show
        return is_due or not is_told or self._hints.heard or self._waits.download_requests > self._looked

    def _has_cause(self) -> bool:
        """Whether there is something left of what the cycle may have been poked for."""
        is_poked = self._signals.committed or self._signals.reconnect.is_set() or self._hints.any
        return is_poked or self._waits.download_requests > self._looked or self._token.is_outdated()

    async def _note_in_step(self) -> None:
        if self._offline_time.is_news(self._asked_ms):
            await self._in_thread(self._offline_time.in_step, self._asked_ms)

    async def _warn_of_offline_time(self) -> None:
        with suppress(Busy):  # which is for the next attempt to find
            warning = await self._in_thread(self._offline_time.warning)
            if warning is not None:
                self._observer.report(warning)

    async def _back_off(self, seconds: float) -> None:
        self._hints.stop()
        await self._sleep_until(self._signals.reconnect, seconds)
        if self._signals.reconnect.is_set():
            self._backoff.reset()

    async def _sleep_until(self, event: asyncio.Event, seconds: float, *, or_end_of: asyncio.Task[None] | None = None) -> None:
        """Wait for an event, at most so many seconds."""
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._parts.environment.sleep(seconds))]
        try:
            await asyncio.wait([*tasks, *([or_end_of] if or_end_of else [])], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _heard(self, hint: Hint) -> None:
        if hint.page is None or hint.page.changesets:  # else it tells only how far the remote is by what was sent here
            self._observer.tell(Heard())
        self._signals.work.set()

    def _warn(self, warning: str) -> None:
        self._report(self._reports.of_warning(warning))

    def _report_page(self, page: Page, applied: Applied | None) -> None:
        if applied is not None:
            self._report(self._reports.of_page(page, applied))

    def _report_file(self, found: OfFile) -> None:
        self._report(self._reports.of_file(*found))

    def _report(self, errors: Iterable[SyncError]) -> None:
        for error in errors:
            self._observer.report(error)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(self._parts.environment, function, *args, **kwargs)


def _shown(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(redacted_text, texts))


def _byte_count(page: Page) -> int:
    return sum(sealed.byte_count for sealed in page.changesets)
