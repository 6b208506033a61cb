"""Sending what a damaged file has not sent, in its own device's name and as it was written.

The remote knows each changeset by device and number, so what it has already does no harm, however often this is done. In the
place of one that is lost goes an empty one, lest all devices wait for its number for ever. A new file in the place of the
damaged one gets all of it from the remote like any other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from localstore import wire
from localstore.adapter import Hello, PushResult, Refusal, SealedChangeset
from localstore.changes import Changeset
from localstore.errors import ProtocolError, Refused, StoreUnusable, SyncError
from localstore.store.salvaging import Salvaged, read_damaged
from localstore.sync.answers import answers, check_welcome
from localstore.sync.calls import Calls
from localstore.sync.letting_go import let_go
from localstore.sync.line import Line
from localstore.sync.parts import SessionParts
from localstore.sync.redaction import redacted_error
from localstore.urls import redacted_text

__all__ = ["SalvageReport", "salvage"]


@dataclass(frozen=True, kw_only=True)
class SalvageReport:
    """What became of the unsent changesets of a damaged file.

    Attributes:
        device: whose they are: the damaged file's ``device_id``.
        sent: how many the remote has now and had not before.
        known: how many it had already.
        lost: numbers of those that it will not have, and why.
        is_whole: whether these are all: else the end of what was unsent cannot be read, and the last of ``lost`` stands for
            all from there on.
    """

    device: str
    sent: int = 0
    known: int = 0
    lost: Mapping[int, str]
    is_whole: bool = True


def salvage(parts: SessionParts, damaged: Path) -> Future[SalvageReport]:
    """Begin to send what a damaged file has not sent. What can be read of it is read before this returns.

    Args:
        parts: of a session of the same user and partition.
        damaged: a file that nobody has open.

    Raises:
        FileNotFoundError, StoreDamaged: it cannot be read.
        StoreUnusable: it is another user's, partition's or application's, or the session's own.
    """
    salvaged, own = read_damaged(damaged, parts.store.options.encryption_key), parts.store.state()
    there = salvaged.state
    if (there.app, there.partition, there.user) != (own.app, own.partition, own.user):
        raise StoreUnusable(
            f"{damaged} holds data of the application {there.app!r}, partition {there.partition!r}, user {there.user!r}."
            " Nothing was sent.",
            hint="Salvage it from a realm of the same.",
        )
    if there.device == own.device:
        raise StoreUnusable(
            f"{damaged} is the same device as {parts.store.path}, which sends by itself. Nothing was sent.",
            hint="Open a new file in the place of the damaged one, and salvage that from there.",
        )
    return Calls(parts.loop).start(lambda: _Delivery(parts, salvaged).run())


class _Delivery:
    """One attempt; what it got done is found done by the next one."""

    def __init__(self, parts: SessionParts, salvaged: Salvaged) -> None:
        self._parts = parts
        self._salvaged = salvaged
        self._device = salvaged.state.device
        self._refused: dict[int, str] = {}

    async def run(self) -> SalvageReport:
        if not self._salvaged.unsent:
            return self._report(0)
        adapter = self._parts.make_adapter()
        try:
            return await self._deliver(Line(adapter, self._parts.limits, self._parts.environment))
        except SyncError as error:
            redacted_error(error, self._parts.secrets)
            raise
        finally:
            await let_go(adapter, self._parts.loop, self._parts.secrets)

    async def _deliver(self, line: Line) -> SalvageReport:
        """Send what is unsent.

        Raises:
            SyncError: it did not succeed, or not wholly; ``ResetRequired`` where the remote takes nothing of this device.
        """
        found = self._salvaged
        state, tokens = found.state, self._parts.tokens
        hello = Hello(
            app=state.app,
            partition=state.partition,
            device=state.device,
            token=None if tokens is None else tokens.access_token,
            remote_id=state.remote_id,
            acknowledged=found.acknowledged,
        )
        welcome = await line.connect(hello)
        has = welcome.last_number
        check_welcome(welcome, state, acknowledged=found.acknowledged, made=max(has, found.unsent[-1].number))
        for run in _runs([sealed for sealed in found.unsent if sealed.number <= has]):  # whether they are what it has
            await self._push(line, run, has)
        missing = [sealed for sealed in found.unsent if sealed.number > has]
        await self._push(line, _without_gaps(missing, has), has)
        return self._report(has, sent=len(missing) - len(self._refused), known=len(found.unsent) - len(missing))

    def _report(self, has: int, *, sent: int = 0, known: int = 0) -> SalvageReport:
        found = self._salvaged
        lost = {number: why for number, why in found.lost.items() if number > has} | self._refused
        if found.rest is not None:
            number, why = found.rest
            lost[max(number, has + 1)] = why
        return SalvageReport(
            device=self._device.hex(),
            sent=sent,
            known=known,
            lost=dict(sorted(lost.items())),
            is_whole=found.rest is None,
        )

    async def _push(self, line: Line, run: Sequence[SealedChangeset], has: int) -> None:
        """Push changesets of consecutive numbers, batch by batch."""
        left, limits = list(run), line.adapter.capabilities
        while left:
            batch = _batch(left, limits.max_batch_bytes, limits.max_batch_count)
            try:
                result = await line.push(batch)
            except Refused as error:
                result = PushResult(acknowledged=0, refusals=(Refusal(number=error.number or 0, reason=error.message),))
            first, last = batch[0].number, batch[-1].number
            empty = {sealed.number for sealed in batch if not sealed.rows}
            refused = {refusal.number: redacted_text(refusal.reason) for refusal in result.refusals}
            if not answers(result, first, last, max(has, last)) or refused.keys() & empty:
                raise ProtocolError(
                    f"The remote's answer to changesets {first} to {last} of a damaged file does not fit.",
                    hint="Report this to the adapter's authors. It may be tried again.",
                )
            self._refused |= refused
            left = [_emptied(sealed) if sealed.number in refused else sealed for sealed in left]
            left = [sealed for sealed in left if sealed.number > result.acknowledged]


def _runs(changesets: Sequence[SealedChangeset]) -> list[list[SealedChangeset]]:
    """Runs of consecutive numbers."""
    runs: list[list[SealedChangeset]] = []
    for sealed in changesets:
        if not runs or runs[-1][-1].number + 1 != sealed.number:
            runs.append([])
        runs[-1].append(sealed)
    return runs


def _without_gaps(changesets: Sequence[SealedChangeset], after: int) -> list[SealedChangeset]:
    """The same, with empty ones for what is missing. They are stamped just before the next: later than what went before, as
    those that are missing were stamped between as well."""
    whole: list[SealedChangeset] = []
    for sealed in changesets:
        for number in range(after + 1, sealed.number):
            whole.append(wire.seal(Changeset(sealed.device, number, sealed.stamp - (sealed.number - number), (), ())))
        whole.append(sealed)
        after = sealed.number
    return whole


def _emptied(sealed: SealedChangeset) -> SealedChangeset:
    return wire.seal(Changeset(sealed.device, sealed.number, sealed.stamp, wire.unseal(sealed).depends, ()))


def _batch(changesets: Sequence[SealedChangeset], max_bytes: int, max_count: int) -> list[SealedChangeset]:
    """The first of them, as many as the limits allow; at least one."""
    batch: list[SealedChangeset] = []
    total = 0
    for sealed in changesets[:max_count]:
        total += sealed.byte_count
        if batch and total > max_bytes:
            break
        batch.append(sealed)
    return batch
