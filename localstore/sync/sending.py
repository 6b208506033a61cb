"""Sending: from the outbox to the remote, batch by batch, and what becomes of what it took or never will.

When to send is the cycle's business. What is pushed twice does no harm; what an answer does not make sense of is not let go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from localstore.adapter import PushResult, Refusal, SealedChangeset
from localstore.errors import Offline, ProtocolError, Refused
from localstore.store.repaired import SetAside
from localstore.sync.answers import answers
from localstore.sync.blocking import in_thread, in_thread_then
from localstore.sync.line import Line
from localstore.sync.news import Emptied, News, Sent
from localstore.sync.parts import SessionParts
from localstore.sync.waits import Waits
from localstore.urls import redacted_text

__all__ = ["OfFile", "Sending"]

P = ParamSpec("P")
T = TypeVar("T")
OfFile = tuple[list[SetAside], list[tuple[str, str]]]
"""What is to be told of a file: rows that were set aside, and rows that no changeset can hold."""


class Sending:
    """Sends one file's changesets.

    Args:
        parts: of the session.
        line: to the remote, connected by the time it is used.
        waits: callers to release.
        tell: is told what happens.
        report_file: is told of what was found in the file.
        progressed: called when something arrived.

    Attributes:
        device: as which the line is connected.
    """

    def __init__(
        self,
        parts: SessionParts,
        line: Line,
        waits: Waits,
        *,
        tell: Callable[[News], object],
        report_file: Callable[[OfFile], object],
        progressed: Callable[[], object],
    ) -> None:
        self.device = b""
        self._parts = parts
        self._store = parts.store
        self._line = line
        self._waits = waits
        self._tell = tell
        self._report_file = report_file
        self._progressed = progressed

    async def send(self, batches: int | None = None) -> None:
        """Send what is unsent, at most so many batches.

        Raises:
            SyncError: it did not succeed.
        """
        capabilities = self._line.adapter.capabilities
        await in_thread_then(self._parts.environment, self._report_file, self._ready_to_push)
        while batches is None or batches > 0:
            batch = await self._in_thread(
                self._store.batch, max_bytes=capabilities.max_batch_bytes, max_count=capabilities.max_batch_count
            )
            if not batch:  # another process may have emptied it: nobody told those who wait here
                self._waits.acknowledged(await self._in_thread(self._store.acknowledged))
                self._tell(Emptied())
                return
            await self._settle(batch, await self._push(batch))
            self._progressed()
            batches = None if batches is None else batches - 1

    def _ready_to_push(self) -> OfFile:
        """Bring the outbox up to date, and take what is to be told of the file."""
        self._store.seal()
        self._store.catch_up()
        return self._store.take_set_aside(), self._store.take_unsealed()

    async def _push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        """Push a batch; an answer that makes no sense must not make us forget what was never stored."""
        if batch[0].device != self.device:
            raise Offline("Another process reset this file, which is another device now. The session connects again.")
        try:
            result = await self._line.push(batch)
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
        await self._in_thread(self._store.acknowledge, result.acknowledged, self.device)
        self._waits.acknowledged(result.acknowledged)
        sent = sum(sealed.byte_count for sealed in batch if sealed.number <= result.acknowledged)
        if sent:
            self._tell(Sent(result.acknowledged, sent))
        for refusal in result.refusals:
            if any(sealed.number == refusal.number and not sealed.rows for sealed in batch):  # it stands for a refused one
                raise ProtocolError(
                    f"The remote refuses even an empty changeset: {refusal.reason}. Sync stopped; local data is untouched.",
                    hint="Ask whoever runs the remote.",
                )
            await self._in_thread(self._store.refuse, refusal.number, redacted_text(refusal.reason), self.device)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(self._parts.environment, function, *args, **kwargs)
