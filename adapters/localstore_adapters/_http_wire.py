"""One HTTP client, as calls that give messages or raise the contract's errors. Nothing else here knows httpx2.

An answer counts as a hub's when it says the protocol's version; whatever else answers, such as a login page of a hotel's
network or a proxy whose hub is away, means that the hub is out of reach. No error quotes a token, a URL's query or a body.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import TypeVar

import httpx2
import msgspec

from localstore import version
from localstore.errors import Busy, Offline, ProtocolError, SyncError, Unauthorized
from localstore.http_messages import (
    MESSAGE_PACK,
    VERSION,
    VERSION_HEADER,
    Problem,
    TooLong,
    compressed,
    decode_message,
    decompressed,
    encode_message,
    error_of,
    is_worth_compressing,
)
from localstore_adapters._http_options import HttpOptions

__all__ = ["TooLarge", "Wire"]

T = TypeVar("T")
_KEEP_SECONDS = 100.0  # less than a hub keeps an idle connection, so that none is closed under a request
_CONNECTIONS_MAX = 8
_PROBLEM_BYTES = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")
_GATEWAY = (502, 503, 504)


class TooLarge(SyncError):  # noqa: N818 - as all that is named by what to do
    """The request is larger than the hub takes, or something on the way to it."""

    def __init__(self, message: str, *, by_hub: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.by_hub = by_hub


class Wire:
    """The connections to one hub. Made in the event loop that uses it.

    Args:
        options: where it is, and how to get there.
        context: for TLS; None when there is none.
    """

    def __init__(self, options: HttpOptions, context: ssl.SSLContext | None) -> None:
        self._base = options.base
        self.held_up_seconds = options.held_up_seconds
        try:
            self._client = httpx2.AsyncClient(
                verify=context or False,
                proxy=options.proxy or None,
                trust_env=options.proxy is None,
                timeout=httpx2.Timeout(options.timeout, pool=None),
                limits=httpx2.Limits(
                    max_connections=_CONNECTIONS_MAX, max_keepalive_connections=2, keepalive_expiry=_KEEP_SECONDS
                ),
                follow_redirects=False,
                headers={
                    "user-agent": f"localstore/{version.VERSION}",
                    VERSION_HEADER: str(VERSION),
                    "accept": MESSAGE_PACK,
                },
            )
        except (httpx2.InvalidURL, ValueError, ImportError) as error:
            raise ProtocolError(f"The proxy of the hub {self._base} cannot be used: {type(error).__name__}.") from None

    async def close(self) -> None:
        await self._client.aclose()

    async def post(
        self,
        name: str,
        message: msgspec.Struct | None,
        reply: type[T],
        limit: int,
        *,
        token: str | None = None,
        changesets: int = 0,
    ) -> T:
        """Ask for something, and have the answer.

        Args:
            name: what is asked.
            message: what is said; None for nothing.
            reply: what kind of answer is expected.
            limit: how many bytes it may have.
            token: the access token.
            changesets: how many there are in the message.

        Raises:
            SyncError: as the hub or the network says.
        """
        body = b"" if message is None else encode_message(message)
        headers = {"content-type": MESSAGE_PACK, "accept-encoding": "zstd"}
        if is_worth_compressing(len(body), changesets):
            body, headers["content-encoding"] = compressed(body), "zstd"
        async with self._answered("POST", name, headers, token, content=body) as response:
            return decode_message(reply, await _body(response, limit))

    async def get(self, name: str, query: Mapping[str, str], reply: type[T], limit: int, *, token: str | None) -> T | None:
        """The same with GET; None when the hub says that there is nothing."""
        async with self._answered("GET", name, {"accept-encoding": "zstd"}, token, params=query) as response:
            return None if response.status_code == 204 else decode_message(reply, await _body(response, limit))

    async def send(
        self, name: str, query: Mapping[str, str], chunks: AsyncIterator[bytes] | None, *, token: str | None
    ) -> None:
        """Post bytes as they come."""
        content = chunks if chunks is not None else b""
        async with self._answered("POST", name, {}, token, params=query, content=content) as response:
            await _body(response, _PROBLEM_BYTES)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        name: str,
        query: Mapping[str, str],
        *,
        token: str | None,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> AsyncGenerator[httpx2.Response]:
        """An answer whose bytes come as they are read.

        Args:
            silence: how many seconds may pass without a byte.
        """
        given = {"accept-encoding": "identity", "accept": "*/*", **(headers or {})}
        timeout = httpx2.Timeout(None, read=silence, pool=None)
        async with self._answered("GET", name, given, token, params=query, timeout=timeout) as response:
            yield response

    @contextlib.asynccontextmanager
    async def _answered(
        self,
        method: str,
        name: str,
        headers: Mapping[str, str],
        token: str | None,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        timeout: httpx2.Timeout | None = None,
    ) -> AsyncGenerator[httpx2.Response]:
        if token is not None and not _TOKEN.fullmatch(token):
            raise Unauthorized("The access token is none that could be sent.")
        shown = {**headers, "authorization": f"Bearer {token}"} if token is not None else headers
        request = self._client.build_request(
            method,
            f"{self._base}/v1/{name}",
            params=params or None,
            headers=shown,
            content=content,
            timeout=self._client.timeout if timeout is None else timeout,
        )
        with self._named():
            response = await self._client.send(request, stream=True)
            try:
                await self._check(response)
                yield response
            finally:
                await response.aclose()

    @contextlib.contextmanager
    def _named(self) -> Generator[None]:
        """The network's errors by what the session must do."""
        try:
            yield
        except (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:
            told = f"The hub {self._base} cannot be reached ({type(error).__name__}). Local data is untouched."
            raise Offline(told) from None  # the library's error knows the request, and with it the token

    async def _check(self, response: httpx2.Response) -> None:
        """See that a hub answered, and that it did what was asked.

        Raises:
            SyncError: it did not.
        """
        status = response.status_code
        if VERSION_HEADER not in response.headers:
            raise self._not_a_hub(status, response.headers.get("retry-after"))
        if 200 <= status < 300:
            return
        problem = decode_message(Problem, await _body(response, _PROBLEM_BYTES))
        if status == 413:
            raise TooLarge(problem.message, by_hub=True)
        if status == 426:
            raise _version_error(problem)
        if problem.kind == "not_found":
            raise Offline(f"The hub at {self._base} does not know what was asked. It may be older, or serve another path.")
        if status >= 500 and problem.kind not in ("busy", "offline"):
            raise Busy(problem.message, retry_after=problem.retry_after)
        raise error_of(problem)

    def _not_a_hub(self, status: int, retry_after: str | None) -> SyncError:
        if status == 413:
            return TooLarge(
                f"Something on the way to the hub {self._base} does not let so large a request through.",
                by_hub=False,
                hint="Raise the limit of the proxy in front of the hub, as client_max_body_size of nginx.",
            )
        if status in _GATEWAY or status == 429:
            seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
            return Busy(f"The hub behind {self._base} does not answer now (status {status}).", retry_after=seconds)
        return Offline(
            f"What answers at {self._base} is no hub (status {status}). Local data is untouched.",
            hint="Look at the URL, and whether this network wants you to log in first.",
        )


def _version_error(problem: Problem) -> ProtocolError:
    if problem.kind == "too_old":
        return ProtocolError(problem.message, hint="Update localstore in this app: the hub is newer.")
    return ProtocolError(problem.message, hint="Update the hub: this app has a newer localstore.")


async def _body(response: httpx2.Response, limit: int) -> bytes | bytearray:
    """An answer's body, never more of it than the limit.

    Raises:
        ProtocolError: it is longer.
    """
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > limit:
            raise TooLong(f"The hub's answer is longer than {limit} bytes.")
    coding = response.headers.get("content-encoding", "identity")
    if coding == "zstd":
        return decompressed(data, limit)
    if coding != "identity":
        raise ProtocolError("The hub's answer has an encoding that was not asked for.")
    return data
