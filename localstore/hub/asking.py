"""From a request to what an endpoint needs of it: who asks, what, and whether they may; and from its answer back to HTTP.

In this order, so that a stranger's request costs as little as can be: how often an address asks, the protocol's version, the
token, how often the user asks, and only then the body, which is never held beyond its limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from localstore.adapter import Hello
from localstore.errors import LocalStoreError, ProtocolError, ResetRequired
from localstore.http_messages import (
    JSON,
    MESSAGE_PACK,
    VERSION,
    VERSION_HEADER,
    Problem,
    compressed,
    decode_message,
    decompressed,
    encode_message,
    is_worth_compressing,
)
from localstore.hub.access import Access, Person
from localstore.hub.accounts.limits import network_of
from localstore.hub.declining import (
    Declined,
    declined_by_accounts,
    forbidden,
    not_understood,
    rate_limited,
    too_large,
    unexpected,
)
from localstore.hub.lines import new_id
from localstore.hub.open_accounts import EVERYBODY
from localstore.hub.parts import HubParts

__all__ = ["SMALL_BYTES", "Asked", "answer", "check_version", "declined", "endpoint"]

SMALL_BYTES = 64 * 1024
"""All that a request without a changeset needs, but for a cursor."""
_BEARER = "bearer "
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One request, with what the hub has to answer it.

    Attributes:
        parts: of the hub.
        request: as it came.
    """

    parts: HubParts
    request: Request

    @property
    def address(self) -> str:
        return self.request.client.host if self.request.client else "unknown"

    @property
    def token(self) -> str | None:
        """The access token, None when none is shown."""
        value = self.request.headers.get("authorization", "")
        return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else None

    async def person(self) -> Person:
        """Who asks.

        Raises:
            Declined: the token is not good, or they ask too often.
        """
        person = await self.of_accounts(self.parts.accounts.authenticate(self.token))
        if person.user_id != EVERYBODY and (wait := self.parts.users.take(person.user_id)):
            raise rate_limited(wait)
        return person

    async def access(self, person: Person, partition: str, *, least: Access = Access.READ) -> Access:
        """What they may do with a partition.

        Raises:
            Declined: not as much as is needed.
        """
        access = await self.of_accounts(self.parts.accounts.access(person, partition))
        if access < least:
            raise forbidden(partition, "use" if access is Access.NONE else "write to")
        return access

    async def own(self, person: Person, partition: str, device: bytes) -> None:
        """See that a device is theirs.

        Raises:
            Declined: it is another user's: its file was copied, or somebody pretends.
        """
        if not await self.of_accounts(self.parts.accounts.claim_device(person, partition, device)):
            raise Declined.of(ResetRequired("device forked", hint="Its file was another user's."))

    async def of_accounts(self, call: Awaitable[T]) -> T:
        """What accounts answer.

        Raises:
            Declined: as they do.
        """
        try:
            return await call
        except LocalStoreError as error:
            raise declined_by_accounts(error, self.new_id) from error

    def hello(self, partition: str, device: bytes, remote_id: str | None) -> Hello:
        return Hello(app=self.parts.settings.app, partition=partition, device=device, remote_id=remote_id)

    @contextlib.asynccontextmanager
    async def body(self, kind: type[T], limit: int = SMALL_BYTES) -> AsyncGenerator[T]:
        """What was sent; its bytes count as held until the block ends.

        Raises:
            Declined: it is too long, too slow, not understood, or the hub holds too many already.
        """
        reading, taken = self.parts.reading, 0
        data = bytearray()
        try:
            try:
                async with self.parts.environment.timeout(self.parts.settings.body_timeout):
                    async for chunk in self._chunks(limit):
                        data += chunk
                        taken += len(chunk)
                        reading.byte_count += len(chunk)
                        if reading.byte_count > self.parts.settings.max_bodies_bytes:
                            raise Declined(Problem(kind="busy", message="The hub is busy. Nothing is lost.", retry_after=1.0))
            except TimeoutError:
                raise Declined(Problem(kind="timeout", message="The request did not arrive in time.")) from None
            plain = self._plain(data, limit)
            if plain is not data:
                taken, reading.byte_count = taken + len(plain), reading.byte_count + len(plain)
            yield _decoded(kind, plain, media_of(self.request.headers.get("content-type")), limit)
        finally:
            reading.byte_count -= taken

    async def _chunks(self, limit: int) -> AsyncGenerator[bytes]:
        length = self.request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > limit:
            raise too_large(limit)
        count = 0
        async for chunk in self.request.stream():
            count += len(chunk)
            if count > limit:
                raise too_large(limit)
            yield chunk

    def _plain(self, data: bytearray, limit: int) -> bytes | bytearray:
        coding = self.request.headers.get("content-encoding", "identity").lower()
        if coding == "identity":
            return data
        if coding != "zstd":
            raise Declined(Problem(kind="protocol", message="The hub knows the encodings zstd and identity."))
        try:
            return decompressed(data, limit)
        except ProtocolError as error:
            raise not_understood(error, limit) from error

    def new_id(self) -> str:
        return new_id(self.parts.environment)


def endpoint(
    parts: HubParts, name: str, handle: Callable[[Asked], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """A Starlette endpoint that counts, and turns what goes wrong into an answer."""

    async def respond(request: Request) -> Response:
        begun = parts.environment.monotonic()
        asked = Asked(parts, request)
        try:
            if wait := parts.addresses.take(network_of(asked.address)):
                raise rate_limited(wait)
            response = await handle(asked)
        except Declined as problem:
            response = declined(asked, problem)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  the log has it, and nobody else is told
            response = declined(asked, unexpected(error, asked.new_id))
        parts.metrics.seconds.labels(name, response.status_code).observe(parts.environment.monotonic() - begun)
        return response

    return respond


def check_version(asked: Asked) -> None:
    """See that the device speaks this protocol.

    Raises:
        Declined: one side has to be updated.
    """
    said = asked.request.headers.get(VERSION_HEADER, "")
    version = int(said) if said.isdecimal() and len(said) < 10 else 0
    if version < VERSION:
        raise Declined(
            Problem(kind="too_old", message=f"This hub speaks version {VERSION} of its protocol, and none before it.")
        )
    if version > VERSION:
        raise Declined(
            Problem(kind="too_new", message=f"This hub speaks version {VERSION} of its protocol, and none after it.")
        )


def answer(asked: Asked, message: msgspec.Struct, *, changesets: int = 0, status: int = 200) -> Response:
    """A message as an answer, in the form that was asked for."""
    headers = asked.request.headers
    accepted = headers.get("accept", "")
    sent = JSON in accepted or ("*/*" in accepted and media_of(headers.get("content-type")) == JSON)
    media = JSON if sent and MESSAGE_PACK not in accepted else MESSAGE_PACK
    body = encode_message(message, media)
    response_headers = {VERSION_HEADER: str(VERSION), "cache-control": "no-store"}
    if "zstd" in headers.get("accept-encoding", "") and is_worth_compressing(len(body), changesets):
        body = compressed(body)
        response_headers["content-encoding"] = "zstd"
    return Response(body, status_code=status, media_type=media, headers=response_headers)


def declined(asked: Asked, problem: Declined) -> Response:
    """Why something was not done, as an answer."""
    response = answer(asked, problem.problem, status=problem.status)
    if problem.problem.retry_after is not None:
        response.headers["retry-after"] = str(max(1, -int(-problem.problem.retry_after // 1)))
    if problem.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if problem.status == 408:
        response.headers["connection"] = "close"  # nobody waits for the rest
    return response


def media_of(content_type: str | None) -> str:
    """The form of a body. What is not said, or is not known, is taken for MessagePack, which then says that it is none."""
    return JSON if (content_type or "").partition(";")[0].strip().lower() == JSON else MESSAGE_PACK


def _decoded(kind: type[T], data: bytes | bytearray, media: str, limit: int) -> T:
    try:
        return decode_message(kind, data, media)
    except ProtocolError as error:
        raise not_understood(error, limit) from error
