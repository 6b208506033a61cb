"""Client resets: what a session does when its device and the remote cannot go on with each other.

From top to bottom: decide; fill a second file from the remote; save the file as it is; call the application; exchange what the
file holds in one transaction; call the application again. Until the exchange everything may be broken off and begins anew; what
is to be done after it is in the file's record, so that it is done once, whatever happens. ``reset_rules`` decides.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from localstore.client_reset import ClientResetReport, Manual
from localstore.errors import (
    Busy,
    ClientResetFailed,
    ClientResetRequired,
    LocalStoreError,
    RealmClosed,
    ResetRequired,
    SyncError,
    Unauthorized,
    WrongKey,
)
from localstore.reasons import ResetReason
from localstore.store.contact import last_contact
from localstore.store.reset_record import forget_reset
from localstore.sync.blocking import in_thread
from localstore.sync.fresh import Beside, Fresh, fresh_file, tidy
from localstore.sync.manual import manual_reset
from localstore.sync.news import Failed, MayStayAway, Resetting
from localstore.sync.parts import SessionParts
from localstore.sync.reset_steps import Steps, Turns, failed
from localstore.sync.retry import Backoff
from localstore.sync.undo import Told, undo

if TYPE_CHECKING:
    from localstore.sync.life import Life
    from localstore.sync.session import SyncSession

__all__ = ["Resets"]

_log = logging.getLogger("localstore.sync")
_TRIES = 5  # remotes that part again while the second file is filled
_BY_TIME = frozenset({ResetReason.HISTORY_TRIMMED, ResetReason.UNSENT_TOO_LONG})
"""Reasons that time alone brings about: they say nothing against what the last reset brought along, which is to be kept."""


class Resets:
    """The client resets of one file.

    Args:
        parts: of the session.
        session: for the application's callbacks.
    """

    def __init__(self, parts: SessionParts, *, session: SyncSession) -> None:
        self._parts = parts
        self._store = parts.store
        self._session = session
        self._turns = Turns()
        self._why: ResetRequired | None = None
        self._was_reset = False  # since the session started
        self._by_time = 0  # resets that time brought about, since the head was reached
        self._confirmed = False
        self._can_undo = True
        self._told: Told = set()

    @property
    def last(self) -> ClientResetReport | None:
        """What the last one did."""
        return self._turns.last

    def is_calling_back(self) -> bool:
        """Whether this thread is inside a callback of the application's, for which the session waits."""
        return self._turns.is_calling_back()

    async def take_up(self, life: Life) -> None:
        """Before a life's first connect: remove what was left beside the file, and do what was left to be done of a reset that
        was carried out.

        Raises:
            ClientResetFailed: a callback raised.
        """
        self._confirmed, self._can_undo, self._was_reset = False, True, False
        with suppress(Busy):
            await in_thread(self._parts.environment, tidy, self._store)
            contact = await in_thread(self._parts.environment, last_contact, self._store)
            life.tell(MayStayAway(contact.deadline_ms))
        if self._parts.reset is not None:
            steps = Steps(self._parts, self._parts.reset, self._turns)
            await self._persist(steps, steps.finish)

    async def carry_out(self, error: ResetRequired, life: Life) -> None:
        """Reset the file.

        Raises:
            ClientResetRequired: that is left to the application.
            ClientResetFailed: it cannot be done, and the file is as it was; or the callback after it raised.
        """
        self._confirmed, self._can_undo = False, True
        self._why = error
        reset_parts = self._parts.reset
        if reset_parts is None:
            raise error
        if isinstance(reset_parts.strategy, Manual):
            raise await in_thread(self._parts.environment, manual_reset, self._parts, error) from error
        steps = Steps(self._parts, reset_parts, self._turns)
        life.tell(Resetting(under_way=True))
        try:
            is_by_time = error.kind in _BY_TIME
            self._by_time += is_by_time
            is_again = self._was_reset and not (is_by_time and self._by_time <= _TRIES)
            await self._persist(steps, functools.partial(steps.begin, error, was_reset=is_again))
            await self._fill_and_exchange(steps, life)
            self._was_reset = True
            await self._persist(steps, steps.finish)
        except ClientResetFailed as failure:
            failure.__cause__ = failure.__cause__ or error
            raise
        finally:
            life.tell(Resetting(under_way=False))

    def reached_head(self) -> None:
        """The device and the remote got on with each other: what time brings about counts against no reset, unless it is said
        again and again with nothing in between."""
        self._by_time = 0

    async def caught_up(self, life: Life, pull: Callable[[], Awaitable[None]]) -> None:
        """The head was reached and the outbox is empty: the remote has confirmed the last reset, if there was one; and what it
        refused is undone."""
        if not self._confirmed:
            await in_thread(self._parts.environment, forget_reset, self._store)
            self._confirmed = True
        if self._can_undo:
            self._can_undo = await undo(self._parts, life, pull, self._told)

    async def tell_application(self, error: SyncError) -> None:
        """Tell the application, in a worker thread, that a reset is up to it."""
        strategy = None if self._parts.reset is None else self._parts.reset.strategy
        if strategy is None:
            return
        callback = strategy.on_client_reset if isinstance(strategy, Manual) else strategy.on_manual_fallback
        if callback is None or not isinstance(error, ClientResetRequired | ClientResetFailed):
            return
        try:
            if isinstance(error, ClientResetFailed):
                why = self._why or ResetRequired(self.last.reason if self.last else "other")
                required = await in_thread(self._parts.environment, manual_reset, self._parts, why)
                required.__cause__ = error
            else:
                required = error
            await self._parts.environment.run_blocking(callback, self._session, required)
        except Exception:  # noqa: BLE001  a callback of the application's must not make it worse
            _log.exception("The callback of a client reset of %s failed.", self._store.path.name)

    async def _fill_and_exchange(self, steps: Steps, life: Life) -> None:
        why: SyncError | None = None
        backoff = Backoff(self._parts.backoff, self._parts.environment.random)
        tries = 0
        while tries < _TRIES:
            try:
                beside = Beside(life, instead=True)
                blindly = isinstance(why, ResetRequired) and why.kind is ResetReason.HISTORY_TRIMMED
                async with fresh_file(
                    self._parts, steps.wanted, observer=beside, signals=life.signals, blindly=blindly, reports=life.reports
                ) as fresh:

                    async def exchange(fresh: Fresh = fresh) -> None:
                        await self._worker(steps, steps.exchange, fresh)

                    await fresh.cycle.fill(exchange)
                return
            except ResetRequired as error:  # again, while the second file was being filled
                why = error
                tries += 1
            except Busy as error:
                seconds = backoff.failed(error)
                life.tell(Failed(error, seconds))
                await self._parts.environment.sleep(seconds)
            except (Unauthorized, WrongKey, ClientResetFailed, RealmClosed):  # which say best what is to be done
                raise
            except LocalStoreError as error:
                raise failed(f"what the remote has could not be fetched ({error.message})", steps.backup) from error
        raise failed("the remote changed again and again meanwhile", steps.backup) from why

    async def _persist(self, steps: Steps, work: Callable[..., None], *args: Any) -> None:
        """Work on the file through what passes by itself."""
        backoff = Backoff(self._parts.backoff, self._parts.environment.random)
        while True:
            try:
                return await self._worker(steps, work, *args)
            except Busy as error:
                await self._parts.environment.sleep(backoff.failed(error))

    async def _worker(self, steps: Steps, work: Callable[..., None], *args: Any) -> None:
        """A part of an attempt in a worker thread, which gives up soon after its life has ended."""
        try:
            await in_thread(self._parts.environment, work, *args)
        except asyncio.CancelledError:
            steps.given_up.set()
            raise
