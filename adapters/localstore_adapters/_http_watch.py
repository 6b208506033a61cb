"""Hearing of news from a hub: a stream of events, or where something on the way holds that up, long polls.

Pure but for the connection it is given: what an event means for who waits is decided here. What is little comes with its event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from localstore.adapter import Cursor, Hint, Page
from localstore.errors import Offline, ProtocolError, Unauthorized
from localstore.http_messages import NEWS_BYTES, PollReply, PollRequest, decode_news
from localstore.wire import decode
from localstore_adapters._http_wire import Wire

__all__ = ["Place", "Silent", "events", "polls"]

_LINE_BYTES_MAX = 8192 + 2 * NEWS_BYTES
_POLL_SECONDS = 25.0
_REPLY_BYTES = 64 * 1024
_BEATS = 2.5  # so many heartbeats may fail to come


class Silent(Offline):
    """A stream was opened, and nothing came: something on the way waits for its end before it lets anything through."""


@dataclass(frozen=True)
class Place:
    """What is listened to, and by whom.

    Attributes:
        partition, device: which.
        heartbeat: seconds between signs of life of the hub.
        token: the access token as it is now.
        remote_id: of the history that is listened to.
    """

    partition: str
    device: bytes
    heartbeat: float
    token: Callable[[], str | None]
    remote_id: str


async def events(wire: Wire, place: Place) -> AsyncGenerator[Hint]:
    """Hints from streams, one after the other, as each ends when the hub does, or its token.

    Raises:
        Silent: not a word comes through.
        Offline: the hub is out of reach.
        Unauthorized: the token is not good any more.
    """
    seen: str | None = None
    while True:
        query = {"partition": place.partition, "device": place.device.hex(), "news": "yes"}
        headers = {} if seen is None else {"last-event-id": seen}
        silence = _BEATS * place.heartbeat
        token = place.token()
        async with wire.stream("events", query, token=token, headers=headers, silence=silence) as response:
            lines = _lines(response.aiter_raw())
            event = await _first(lines, wire.held_up_seconds)
            while event is not None:
                seen = event.seen or seen
                if event.kind == "head":
                    yield _hint(event.data, place.remote_id)
                elif event.kind == "revoked" and place.token() == token:
                    raise Unauthorized("The hub does not let this user listen any more.")
                event = await _next(lines)
        if seen is None:
            raise Offline("The hub ended its stream of events before it said anything.")


async def polls(wire: Wire, place: Place) -> AsyncGenerator[Hint]:
    """Hints from polls, each of which takes as long as there is nothing to tell.

    Raises:
        Offline: the hub is out of reach.
        Unauthorized: the token is not good any more.
    """
    seen: str | None = None
    while True:
        request = PollRequest(partition=place.partition, device=place.device, seen=seen, wait=_POLL_SECONDS)
        reply = await wire.post("poll", request, PollReply, _REPLY_BYTES, token=place.token())
        seen = reply.seen
        if reply.news:
            yield Hint()


@dataclass(frozen=True)
class _Event:
    kind: str
    seen: str
    data: str


async def _first(lines: AsyncGenerator[str], seconds: float) -> _Event | None:
    try:
        async with asyncio.timeout(seconds):
            return await _next(lines)
    except TimeoutError:
        raise Silent("The hub's stream of events does not come through.") from None


async def _next(lines: AsyncGenerator[str]) -> _Event | None:
    """The next event, None at the end."""
    kind, seen, data = "message", "", ""
    async for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            seen = value
        elif name == "data":
            data = value
        elif not line:
            return _Event(kind, seen, data)
    return None


def _hint(data: str, remote_id: str) -> Hint:
    """What an event tells; without what it brings when that is of another history."""
    if not data:
        return Hint()
    try:
        news = decode_news(data)
        page = Page(changesets=tuple(map(decode, news.changesets)), cursor=Cursor(news.cursor), more=False)
    except ProtocolError as error:  # altered on its way; the line is made anew
        raise Offline("The hub's stream of events is damaged.") from error
    return Hint(after=Cursor(news.after), page=page) if news.remote_id == remote_id else Hint()


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The lines of a stream; what grows without an end is none."""
    held = b""
    async for chunk in chunks:
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
        if len(held) > _LINE_BYTES_MAX:
            raise Offline("The hub's stream of events is none.")
