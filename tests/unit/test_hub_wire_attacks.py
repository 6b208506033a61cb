"""Attacks on a hub by bytes that no client library would send, over a real connection to a hub that serves others meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")
pytest.importorskip("httptools", reason="h11 has bounds of its own")

from localstore.hub.bounded import AROUND_BYTES
from tests.unit.hub_kit import PATIENCE, RunningHub, running_hub

KIB, MIB = 1024, 1024 * 1024
POST = b"POST /v1/login HTTP/1.1\r\nhost: x\r\nlocalstore-version: 1\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    with running_hub() as hub:
        yield hub


@contextlib.contextmanager
def connection(hub: RunningHub) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", hub.port)) as connected:
        connected.settimeout(PATIENCE)
        yield connected


def answer(connected: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connected.recv(64 * KIB):
            received += chunk
    return received


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (POST + b"x-long: ", b"a"),
        (POST, b"x-many: y\r\n"),
        (b"GET /", b"a"),
        (CHUNKED + b"0\r\nx-trailer: ", b"a"),
        (CHUNKED + b"0\r\n", b"x-trailer: y\r\n"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED, b"1;extension=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n"),
    ],
    ids=["header", "headers", "address", "trailer", "trailers", "extension", "extensions"],
)
def test_what_comes_around_a_body_without_an_end_is_cut_off(hub: RunningHub, begin: bytes, more: bytes) -> None:
    part = more * (64 * KIB // len(more))
    with connection(hub) as connected:
        connected.sendall(begin)
        with pytest.raises(ConnectionError):
            connected.sendall(part * (32 * MIB // len(part)))
    with connection(hub) as connected:
        connected.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connected.recv(KIB).startswith(b"HTTP/1.1 200"), "others are served"


def test_a_long_address_and_a_body_in_small_chunks_are_taken(hub: RunningHub) -> None:
    chunks = (b"400\r\n" + b"x" * KIB + b"\r\n") * (MIB // KIB)
    with connection(hub) as connected:
        connected.sendall(b"GET /health?" + b"a" * (AROUND_BYTES // 4) + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = connected.recv(KIB)
        assert answer.startswith(b"HTTP/1.1 200")
        while not answer.endswith(b"ok\n"):  # its head may come alone
            answer += connected.recv(KIB)
        connected.sendall(CHUNKED.replace(b"login", b"push") + chunks + b"0\r\n\r\n")
        assert connected.recv(KIB).startswith(b"HTTP/1.1 400"), "no message, but read to its end"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: +5\r\n",
        b"content-length: 5 5\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b" folded: x\r\n",
        b"x: a\rb\r\n",
    ],
    ids=lambda head: repr(head)[2:-1],
)
def test_a_request_that_two_servers_could_read_differently_is_refused(hub: RunningHub, head: bytes) -> None:
    """Else a request could be hidden in another's body from a proxy that looks at both."""
    hidden = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with connection(hub) as connected:
        connected.sendall(POST + head + b"\r\n0\r\n\r\n" + hidden)
        received = answer(connected)
    assert b" 200 " not in received
    assert received.count(b"HTTP/1.1") <= 1
