"""The endpoints of snapshots: which is the latest, its bytes from any place on, and where devices make them, a new one.

A snapshot is mere bytes here. Its name is compared with the latest one's, and never used as a path.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol, runtime_checkable

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from localstore.adapter import Cursor, Hello, SnapshotInfo, SupportsSnapshots, SyncAdapter
from localstore.errors import SnapshotUnusable
from localstore.http_messages import VERSION, VERSION_HEADER, DoneReply, Problem, SnapshotReply
from localstore.hub.access import Access
from localstore.hub.asking import Asked, answer, check_version
from localstore.hub.declining import Declined, forbidden, too_large
from localstore.hub.routes_events import place_of

__all__ = ["latest", "read", "trim", "write"]

_RANGE = re.compile(r"bytes=(\d{1,18})-")
_CURSOR_MAX = 64 * 1024  # hexadecimal digits in a query


@runtime_checkable
class SupportsRanges(Protocol):
    """What an adapter may be besides, that need not read all of a snapshot for its end."""

    def read_snapshot_from(self, info: SnapshotInfo, start: int) -> AsyncIterator[bytes]:
        """Its bytes from a place on."""
        ...


async def latest(asked: Asked) -> Response:
    hello = await _introduced(asked, Access.READ)
    async with asked.parts.lines.using(hello) as line:
        info = await line.latest_snapshot() if isinstance(line, SupportsSnapshots) else None
    if info is None:
        return Response(status_code=204, headers={VERSION_HEADER: str(VERSION)})
    return answer(asked, SnapshotReply(name=info.name, cursor=info.cursor, byte_count=info.byte_count, later=info.later))


async def read(asked: Asked) -> Response:
    """Its bytes are on a line of their own, so that the device goes on beside it."""
    hello = await _introduced(asked, Access.READ)
    start = _start(asked.request.headers.get("range"))
    stack = contextlib.AsyncExitStack()
    try:
        line = await stack.enter_async_context(asked.parts.lines.apart(hello))
        info = await _found(line, asked.request.path_params["name"])
        if start >= max(info.byte_count, 1):
            raise Declined(Problem(kind="range", message=f"The snapshot has {info.byte_count} bytes."))
    except BaseException as error:
        await stack.__aexit__(type(error), error, error.__traceback__)
        raise
    headers = {VERSION_HEADER: str(VERSION), "content-length": str(info.byte_count - start), "accept-ranges": "bytes"}
    if start:
        headers["content-range"] = f"bytes {start}-{info.byte_count - 1}/{info.byte_count}"
    chunks = _chunks(stack, line, info, start)
    return StreamingResponse(chunks, 206 if start else 200, headers, "application/octet-stream")


async def write(asked: Asked) -> Response:
    hello = await _introduced(asked, Access.WRITE)
    cursor = _cursor(asked)
    _check_writable(asked, hello)
    async with asked.parts.lines.apart(hello) as line:
        if not isinstance(line, SupportsSnapshots):
            raise forbidden(hello.partition, "write snapshots of")
        await line.write_snapshot(cursor, _sent(asked))
    return answer(asked, DoneReply())


async def trim(asked: Asked) -> Response:
    hello = await _introduced(asked, Access.WRITE)
    cursor = _cursor(asked)
    _check_writable(asked, hello)
    async with asked.parts.lines.using(hello) as line:
        if isinstance(line, SupportsSnapshots):
            await line.trim(cursor)
    return answer(asked, DoneReply())


async def _sent(asked: Asked) -> AsyncGenerator[bytes]:
    """What a device sends, as it comes. What is in it is seen by those who load it."""
    limit, count = asked.parts.settings.max_snapshot_bytes, 0
    chunks = asked.request.stream()
    try:
        while True:
            async with asked.parts.environment.timeout(asked.parts.settings.body_timeout):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            count += len(chunk)
            if count > limit:
                raise too_large(limit)
            yield chunk
    except ClientDisconnect:
        raise Declined(Problem(kind="protocol", message="The snapshot broke off.")) from None
    except TimeoutError:
        raise Declined(Problem(kind="timeout", message="The snapshot did not arrive in time.")) from None


async def _introduced(asked: Asked, least: Access) -> Hello:
    """Who asks, for the log."""
    check_version(asked)
    person = await asked.person()
    partition, device = place_of(asked)
    await asked.access(person, partition, least=least)
    await asked.own(person, partition, device)
    return asked.hello(partition, device, asked.request.query_params.get("remote_id") or None)


def _check_writable(asked: Asked, hello: Hello) -> None:
    if not asked.parts.settings.devices_write_snapshots:
        raise forbidden(hello.partition, "write snapshots of")


def _cursor(asked: Asked) -> Cursor:
    digits = asked.request.query_params.get("cursor", "")
    try:
        return Cursor(bytes.fromhex(digits[:_CURSOR_MAX]))
    except ValueError:
        raise Declined(Problem(kind="protocol", message="The cursor is written in hexadecimal digits.")) from None


async def _found(line: SyncAdapter, name: str) -> SnapshotInfo:
    info = await line.latest_snapshot() if isinstance(line, SupportsSnapshots) else None
    if info is None or info.name != name:
        raise SnapshotUnusable("It is not the latest any more.")
    return info


def _start(value: str | None) -> int:
    """Where a range begins; other ranges than those to the end are not served, which is allowed."""
    found = _RANGE.fullmatch(value or "")
    return int(found[1]) if found else 0


async def _chunks(stack: contextlib.AsyncExitStack, line: SyncAdapter, info: SnapshotInfo, start: int) -> AsyncGenerator[bytes]:
    """A snapshot's bytes from a place on. When it breaks off the answer does, and the device sees that it is too short."""
    async with stack:
        assert isinstance(line, SupportsSnapshots)
        chunks: AsyncIterator[bytes]
        if isinstance(line, SupportsRanges):
            chunks, start = line.read_snapshot_from(info, start), 0
        else:
            chunks = line.read_snapshot(info)
        try:
            async for chunk in chunks:
                if start < len(chunk):
                    yield chunk[start:]
                start = max(0, start - len(chunk))
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
