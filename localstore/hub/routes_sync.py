"""The endpoints of a device's line: connect, push, pull, and a sign of life.

Changesets pass through as they are: their headers and digests are checked, and what is inside stays closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from starlette.responses import Response

from localstore.adapter import Cursor, Hello, Limit, Page, PushResult, Refusal
from localstore.errors import MalformedChangeset, NewerFormat, ProtocolError
from localstore.http_messages import (
    ConnectReply,
    ConnectRequest,
    PageReply,
    PingReply,
    PullRequest,
    PushReply,
    PushRequest,
    RefusalReply,
)
from localstore.hub.access import Access
from localstore.hub.asking import Asked, answer, check_version
from localstore.hub.declining import Declined
from localstore.hub.parts import HubParts
from localstore.wire import ENCRYPTED, SealedChangeset, decode, encode, unseal, verify

__all__ = ["CURSOR_BYTES", "connect", "largest_changeset", "ping", "pull", "push"]

CURSOR_BYTES = 2 * 1024 * 1024
"""Of a request with a cursor, in JSON too."""
_LONG_BYTES = 2 * 1024 * 1024  # to look through them takes some 5 ms, in which nobody else is answered
_EMPTY_BYTES = 64 * 1024  # an empty changeset has nothing but what it depends on
_READ_ONLY = "The user may read this partition, and not write to it."


async def connect(asked: Asked) -> Response:
    check_version(asked)
    person = await asked.person()
    async with asked.body(ConnectRequest, CURSOR_BYTES) as said:
        _check_app(asked.parts, said.app)
        access = await asked.access(person, said.partition)
        await asked.own(person, said.partition, said.device)
        hello = dataclasses.replace(
            asked.hello(said.partition, said.device, said.remote_id),
            cursor=None if said.cursor is None else Cursor(said.cursor),
        )
        welcome = await asked.parts.lines.connect(hello)
    asked.parts.snapshots.note(said.partition)
    settings, log = asked.parts.settings, asked.parts.capabilities
    return answer(
        asked,
        ConnectReply(
            remote_id=welcome.remote_id,
            last_number=welcome.last_number,
            time_ms=asked.parts.environment.now_ms(),
            horizon_days=welcome.horizon_days,
            access="write" if access >= Access.WRITE else "read",
            max_batch_bytes=min(settings.max_batch_bytes, log.max_batch_bytes),
            max_batch_count=min(settings.max_batch_count, log.max_batch_count),
            max_changeset_bytes=largest_changeset(asked.parts),
            poll_seconds=settings.poll_seconds,
            heartbeat_seconds=settings.heartbeat,
            devices_write_snapshots=settings.devices_write_snapshots and log.snapshots and access >= Access.WRITE,
        ),
    )


async def push(asked: Asked) -> Response:
    check_version(asked)
    person = await asked.person()
    async with asked.body(PushRequest, asked.parts.settings.max_body_bytes) as said:
        access = await asked.access(person, said.partition)
        batch, refusal = await _looked_through(asked.parts, said)
        await asked.own(person, said.partition, said.device)
        hello = asked.hello(said.partition, said.device, said.remote_id)
        if access < Access.WRITE:
            batch, refusal = await _without_writes(asked, hello, batch, refusal)
        result = await _push(asked, hello, batch) if batch else PushResult(acknowledged=_first(said, refusal) - 1)
    refusals = result.refusals or ((refusal,) if refusal else ())
    asked.parts.metrics.pushed.inc(len(batch))
    asked.parts.metrics.pushed_bytes.inc(sum(sealed.byte_count for sealed in batch))
    asked.parts.metrics.refused.inc(len(refusals))
    told = [RefusalReply(number=one.number, reason=one.reason) for one in refusals]
    return answer(asked, PushReply(acknowledged=result.acknowledged, refusals=told))


async def pull(asked: Asked) -> Response:
    check_version(asked)
    person = await asked.person()
    async with asked.body(PullRequest, CURSOR_BYTES) as said:
        await asked.access(person, said.partition)
        await asked.own(person, said.partition, said.device)
        settings = asked.parts.settings
        limit = Limit(max_bytes=min(said.max_bytes, settings.page_bytes), max_count=min(said.max_count, settings.page_count))
        async with asked.parts.lines.using(asked.hello(said.partition, said.device, said.remote_id)) as line:
            page = await line.pull(None if said.cursor is None else Cursor(said.cursor), limit)
            reply = _reply(page)
        if not page.more:
            asked.parts.events.pulled(said.partition, page.cursor)
    byte_count = sum(map(len, reply.changesets))
    asked.parts.metrics.pulled.inc(len(reply.changesets))
    asked.parts.metrics.pulled_bytes.inc(byte_count)
    return answer(asked, reply, changesets=len(reply.changesets))


async def ping(asked: Asked) -> Response:
    check_version(asked)
    await asked.person()
    return answer(asked, PingReply(time_ms=asked.parts.environment.now_ms()))


def largest_changeset(parts: HubParts) -> int:
    """What a changeset may have, by the hub and by its log."""
    log = parts.capabilities.max_changeset_bytes
    return parts.settings.max_changeset_bytes if log is None else min(log, parts.settings.max_changeset_bytes)


async def _push(asked: Asked, hello: Hello, batch: Sequence[SealedChangeset]) -> PushResult:
    async with asked.parts.lines.using(hello) as line:
        result = await line.push(batch)
    asked.parts.events.pushed(hello.partition, hello.device)
    asked.parts.snapshots.note(hello.partition, len(batch))
    return result


def _check_app(parts: HubParts, app: str) -> None:
    if app != parts.settings.app:
        raise Declined.of(
            ProtocolError(
                f"This hub serves another application, not {app!r}. Nothing was read or written.",
                hint="Give each application a hub of its own.",
            )
        )


async def _looked_through(parts: HubParts, said: PushRequest) -> tuple[list[SealedChangeset], Refusal | None]:
    """What ``_checked`` finds, beside the event loop where it takes long."""
    largest = largest_changeset(parts)
    if sum(map(len, said.batch)) < _LONG_BYTES:
        return _checked(said, largest)
    found: tuple[list[SealedChangeset], Refusal | None] = await parts.environment.run_blocking(_checked, said, largest)
    return found


def _checked(said: PushRequest, largest: int) -> tuple[list[SealedChangeset], Refusal | None]:
    """The changesets up to the first that the log must not get, and why it must not.

    Raises:
        Declined: they are no run of this device's, or of a later format.
    """
    batch: list[SealedChangeset] = []
    refusal: Refusal | None = None
    first: int | None = None
    for place, data in enumerate(said.batch):
        try:
            sealed = decode(data)
        except (MalformedChangeset, NewerFormat) as error:
            raise Declined.of(error) from error
        first = sealed.number if first is None else first
        if sealed.device != said.device or sealed.number != first + place:
            raise Declined.of(ProtocolError("A batch is a run of consecutive numbers of the device that sends it."))
        if refusal is None and (problem := _problem_with(sealed, largest)):
            refusal = Refusal(number=sealed.number, reason=problem)
        if refusal is None:
            batch.append(sealed)
    return batch, refusal


def _problem_with(sealed: SealedChangeset, largest: int) -> str | None:
    if sealed.byte_count > largest:
        return f"It has {sealed.byte_count} bytes; this hub takes up to {largest}."
    try:
        verify(sealed)
    except NewerFormat as error:
        raise Declined.of(error) from error
    except MalformedChangeset as error:
        return error.message
    return None


async def _without_writes(
    asked: Asked, hello: Hello, batch: list[SealedChangeset], refusal: Refusal | None
) -> tuple[list[SealedChangeset], Refusal | None]:
    """What is taken of somebody who may only read: what is there already, and empty changesets, so that no number is missed."""
    stored = (await asked.parts.lines.connect(hello)).last_number
    for place, sealed in enumerate(batch):
        if sealed.number > stored and not _is_empty(sealed):
            return batch[:place], Refusal(number=sealed.number, reason=_READ_ONLY)
    return batch, refusal


def _is_empty(sealed: SealedChangeset) -> bool:
    """Whether there is nothing in it, which is looked for inside: an encrypted one's header says nothing of its rows."""
    if sealed.rows or sealed.codec == ENCRYPTED or sealed.size > _EMPTY_BYTES:
        return False
    try:
        return not unseal(sealed).groups
    except MalformedChangeset:
        return False


def _first(said: PushRequest, refusal: Refusal | None) -> int:
    """The number that nothing was taken from."""
    return refusal.number if refusal else decode(said.batch[0]).number


def _reply(page: Page) -> PageReply:
    return PageReply(
        changesets=[encode(sealed) for sealed in page.changesets],
        cursor=page.cursor,
        more=page.more,
        remaining_bytes=page.remaining_bytes,
        warnings=list(page.warnings),
        passed_over=list(page.passed_over),
    )
