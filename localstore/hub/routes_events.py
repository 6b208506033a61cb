"""The endpoints that tell of news: a stream of server-sent events, and a poll that takes long for who cannot hold one.

A stream tells that there is something, and brings along what is little, for devices that ask for it; the rest is pulled. With
each heartbeat its user is looked at again, so that whom access was taken from is gone by then. One stream costs a coroutine and
little else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localstore.http_messages import VERSION, VERSION_HEADER, PollReply, PollRequest, Problem, is_name
from localstore.hub.access import Access, Person
from localstore.hub.asking import Asked, answer, check_version
from localstore.hub.declining import Declined
from localstore.hub.events import Brought, Listener

__all__ = ["events", "place_of", "poll"]

_POLL_SECONDS_MAX = 55.0  # proxies like to end what says nothing for a minute
_DEVICE = re.compile(r"[0-9a-f]{32}")
_NEWS, _BEAT = "head", "heartbeat"


async def events(asked: Asked) -> Response:
    check_version(asked)
    person = await asked.person()
    partition, device = place_of(asked)
    await asked.access(person, partition)
    await asked.own(person, partition, device)
    asked.check_waiting(person)
    return EventStream(asked, person, partition, device, follows=asked.request.query_params.get("news") == "yes")


async def poll(asked: Asked) -> Response:
    check_version(asked)
    person = await asked.person()
    async with asked.body(PollRequest) as said:
        pass
    await asked.access(person, said.partition)
    await asked.own(person, said.partition, said.device)
    asked.check_waiting(person)
    with asked.waiting(person), asked.parts.events.listening(said.partition, said.device, said.seen) as listener:
        has_news = listener.take_news()
        if not has_news and not listener.ended:
            with contextlib.suppress(TimeoutError):
                async with asked.parts.environment.timeout(min(said.wait, _POLL_SECONDS_MAX)):
                    while not has_news and not listener.ended:
                        await listener.wait()
                        has_news = listener.take_news()
        seen = listener.now
    return answer(asked, PollReply(news=has_news, seen=seen))


class EventStream(Response):
    """An open stream, until the device goes away, loses its access, or the hub ends.

    Args:
        asked, person: whose.
        partition, device: of what and for whom.
        follows: whether it takes what is brought along.
    """

    def __init__(self, asked: Asked, person: Person, partition: str, device: bytes, *, follows: bool) -> None:
        super().__init__(
            status_code=200,
            media_type="text/event-stream",
            headers={VERSION_HEADER: str(VERSION), "cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._asked = asked
        self._parts = asked.parts
        self._person = person
        self._partition = partition
        self._device = device
        self._follows = follows
        self._noticed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = self._asked.request.headers.get("last-event-id")
        listening = self._parts.events.listening(self._partition, self._device, told, follows=self._follows)
        with self._asked.waiting(self._person), listening as listener:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            leaving = asyncio.ensure_future(_left(receive, listener))
            try:
                await self._tell(listener, send)
            finally:
                leaving.cancel()
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b""})

    async def _tell(self, listener: Listener, send: Send) -> None:
        has_news = listener.take_news()
        await _say(send, _NEWS if has_news else _BEAT, listener.now)  # at once, so that one that is held up is noticed
        due = self._next_beat()
        while not listener.ended:
            if (left := due - self._parts.environment.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with self._parts.environment.timeout(left):
                        await listener.wait()
            if due <= self._parts.environment.monotonic():  # also when there is always something to tell
                if not await self._beat(listener, send):
                    return
                due = self._next_beat()
            if (listener.take_news() or listener.brought) and not listener.ended:
                await _say(send, _NEWS, listener.now, self._count(listener.brought))

    def _count(self, brought: Brought | None) -> bytes:
        """The data of an event that is about to be sent."""
        metrics = self._parts.metrics
        metrics.events.inc()
        if brought is None:
            return b""
        metrics.pulled.inc(brought.count)
        metrics.pulled_bytes.inc(brought.byte_count)
        return brought.data

    def _next_beat(self) -> float:
        """When the next heartbeat is due: at the end of the token, if that is earlier and was not looked at yet."""
        left = self._person.expires_at - self._parts.environment.now_ms() / 1000
        heartbeat = self._parts.settings.heartbeat
        return self._parts.environment.monotonic() + (min(heartbeat, left) if left > 0 else heartbeat)

    async def _beat(self, listener: Listener, send: Send) -> bool:
        """A sign of life, if the stream may go on."""
        try:
            self._person = await self._asked.of_accounts(self._parts.accounts.authenticate(self._asked.token))
            await self._asked.access(self._person, self._partition, least=Access.READ)
        except Declined as problem:
            if problem.status not in (401, 403):
                return True  # accounts are busy: they are asked again with the next one
            await _say(send, "revoked", listener.now)
            return False
        left = self._person.expires_at - self._parts.environment.now_ms() / 1000
        if left <= self._parts.settings.token_notice and not self._noticed:
            self._noticed = True
            await _say(send, "token_expiring", listener.now)
        await _say(send, _BEAT, listener.now)
        return True


def place_of(asked: Asked) -> tuple[str, bytes]:
    """The partition and the device in a query.

    Raises:
        Declined: there are none.
    """
    query = asked.request.query_params
    partition, device = query.get("partition", ""), query.get("device", "")
    if not is_name(partition) or not _DEVICE.fullmatch(device):
        raise Declined(Problem(kind="protocol", message="The query names a partition, and a device in 32 hexadecimal digits."))
    return partition, bytes.fromhex(device)


async def _left(receive: Receive, listener: Listener) -> None:
    """Until the device has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end()


async def _say(send: Send, event: str, told: str, data: bytes = b"") -> None:
    body = b"event: %b\nid: %b\ndata:%b\n\n" % (event.encode(), told.encode(), data)
    await send({"type": "http.response.body", "body": body, "more_body": True})
