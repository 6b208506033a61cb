"""One run of the cycle, from START to STOP, as a task in the background loop.

It makes the line, turns whatever ends the cycle into an error that a user can read, and closes the line. What it tells
is ignored when it is not its session's present life any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from localstore.adapter import SyncAdapter
from localstore.errors import LocalStoreError, ProtocolError, ResetRequired, SyncError
from localstore.sync.cycle import Cycle, Signals
from localstore.sync.letting_go import let_go
from localstore.sync.line import Line
from localstore.sync.news import Failed, News, ReachedHead
from localstore.sync.parts import SessionParts
from localstore.sync.redaction import redacted_error
from localstore.sync.reports import Reports
from localstore.sync.state import Event
from localstore.sync.waits import Waits
from localstore.urls import redacted_text

if TYPE_CHECKING:
    from localstore.sync.reset import Resets

__all__ = ["Life", "Owner"]


class Owner(Protocol):
    """The session, as its lives see it."""

    def hear(self, life: Life, news: News) -> None: ...
    def report(self, error: SyncError) -> None: ...
    def handle(self, event: Event, error: SyncError | None = None, *, life: Life | None = None) -> bool: ...


class Life:
    """One run of a session's cycle."""

    def __init__(self, owner: Owner, parts: SessionParts, waits: Waits, resets: Resets) -> None:
        self._owner = owner
        self._resets = resets
        self._parts = parts
        self._waits = waits
        self._task: asyncio.Task[None] | None = None
        self._adapter: SyncAdapter | None = None
        self._failed = self._lingers = self._stopped = False
        self.signals = Signals()
        self.reports = Reports()

    def start(self) -> None:
        """Begin; in the background loop."""
        self._task = asyncio.ensure_future(self._run())

    def stop(self, *, lingers: bool) -> None:
        """End; in the background loop.

        Args:
            lingers: whether the line may be kept for the file's next session.
        """
        self._lingers = lingers
        if self._task is not None and not self._failed and not self._stopped:
            self._task.cancel()
        self._stopped = True

    async def _run(self) -> None:
        try:
            await self._resets.take_up(self)
            while True:
                await self._sync_until_reset()
        except SyncError as error:
            if self._fail(error):
                await self._resets.tell_application(error)
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
            await self._hang_up()

    async def _sync_until_reset(self) -> None:
        """Run the cycle; return when the file was reset, as the remote asked for."""
        try:
            parts = self._parts
            self._adapter = parts.lingering.take(parts.store.path) or parts.make_adapter()
            line = Line(self._adapter, parts.limits, parts.environment)
            cycle = Cycle(parts, line=line, waits=self._waits, observer=self, signals=self.signals, reports=self.reports)
            await cycle.run()
        except ResetRequired as error:
            await self._hang_up(hurried=True)
            await self._resets.carry_out(error, self)

    async def _hang_up(self, *, hurried: bool = False) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is None:
            return
        if self._lingers and not self._failed and self._parts.is_logged_in:
            await self._parts.lingering.leave(self._parts.store.path, adapter, self._parts.secrets)
        else:
            await let_go(adapter, self._parts.loop, self._parts.secrets, hurried=hurried)

    def _fail(self, error: SyncError) -> bool:
        """End the session; returns whether the application heard of it: not when the session was closed or paused before."""
        self._failed = True  # what is left to do is closing the adapter
        self.tell(Failed(error, None))
        return self._owner.handle(Event.FATAL_ERROR, error, life=self)

    async def caught_up(self, pull: Callable[[], Awaitable[None]]) -> None:
        """The head was reached and the outbox is empty; ``pull`` looks for more."""
        await self._resets.caught_up(self, pull)

    def tell(self, news: News) -> None:
        """Pass on what the cycle tells."""
        if isinstance(news, ReachedHead):
            self._resets.reached_head()
        if isinstance(news, Failed):
            redacted_error(news.error, self._parts.secrets)  # before it is the session's last, and ends its waits
        self._owner.hear(self, news)

    def report(self, error: SyncError) -> None:
        """Pass on what a user should know of."""
        redacted_error(error, self._parts.secrets)
        self._owner.report(error)
