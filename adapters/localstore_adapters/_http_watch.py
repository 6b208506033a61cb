"""Hearing of news from a hub: a stream of events, or where something on the way holds that up, long polls.

Pure but for the connection it is given: what an event means for who waits is decided here. Small news come with their event,
and are kept until the next pull.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from localstore.adapter import Cursor, Hint, Limit
from localstore.errors import Offline, ProtocolError, Unauthorized
from localstore.http_messages import NEWS_BYTES, News, PollReply, PollRequest, decode_news
from localstore_adapters._http_wire import Wire

__all__ = ["Brought", "Place", "Silent", "events", "polls"]

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
        brought: is given what comes with an event.
    """

    partition: str
    device: bytes
    heartbeat: float
    token: Callable[[], str | None]
    brought: Callable[[News], object] = lambda _: None


class Brought:
    """What the last event brought, for the next pull."""

    def __init__(self) -> None:
        self._news: News | None = None
        self._has_to_ask = False

    def put(self, news: News) -> None:
        self._news = news

    def forget(self) -> None:
        self._news, self._has_to_ask = None, False

    def news_after(self, cursor: Cursor | None, limit: Limit, remote_id: str) -> News | None:
        """The news, if they are what comes next there. Whether there is more only the hub can say: after news that were taken
        it has to be asked, whatever else was brought meanwhile."""
        news, has_to_ask = self._news, self._has_to_ask
        self.forget()
        if news is None or has_to_ask or (news.remote_id, news.after) != (remote_id, cursor):
            return None
        if len(news.changesets) > limit.max_count or sum(map(len, news.changesets)) > limit.max_bytes:
            return None
        self._has_to_ask = True
        return news


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
                    if event.data:
                        place.brought(_news(event.data))
                    yield Hint()
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


def _news(data: str) -> News:
    try:
        return decode_news(data)
    except ProtocolError as error:  # altered on its way; the line is made anew
        raise Offline("The hub's stream of events is damaged.") from error


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The lines of a stream; what grows without an end is none."""
    held = b""
    async for chunk in chunks:
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
        if len(held) > _LINE_BYTES_MAX:
            raise Offline("The hub's stream of events is none.")
