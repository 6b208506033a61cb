"""The HTTP adapter and what answers it that is no hub, or a bad one; and what its URL says."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import traceback
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import msgspec

from localstore import Credentials
from localstore.adapter import Cursor, Hello, Hint, Limit, Page, SnapshotInfo
from localstore.errors import Busy, LocalStoreError, Offline, ProtocolError, SnapshotUnusable, Unauthorized
from localstore.http_messages import (
    ConnectReply,
    News,
    PollReply,
    Problem,
    PushReply,
    encode_message,
    encode_news,
)
from localstore.testing.conformance.suite import make_changeset, new_device
from localstore.wire import SealedChangeset, encode
from localstore_adapters._http_options import HttpOptions, read_url
from localstore_adapters.http import HttpAdapter
from tests.unit.hub_kit import APP, run, running_hub

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SECRET = "s3cr3t-t0k3n"
HELLO = Hello(app=APP, partition="default", device=new_device(), token=SECRET)
WELCOME = ConnectReply(
    remote_id="r",
    last_number=0,
    time_ms=None,
    horizon_days=None,
    access="write",
    max_batch_bytes=1 << 22,
    max_batch_count=100,
    max_changeset_bytes=None,
    poll_seconds=60.0,
    heartbeat_seconds=20.0,
    devices_write_snapshots=False,
)


class Request:
    """What the adapter asked."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode().split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        self.body = body

    @property
    def name(self) -> str:
        return self.target.partition("?")[0].rpartition("/v1/")[2]


Answer = bytes | Callable[[Request], bytes]


def answer(message: msgspec.Struct | bytes, status: int = 200, **headers: str) -> bytes:
    """A hub's answer."""
    body = message if isinstance(message, bytes) else encode_message(message)
    return plain(body, status, **{"localstore-version": "1", **headers})


def plain(body: bytes, status: int = 200, **headers: str) -> bytes:
    """Somebody else's."""
    given = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body


@contextlib.asynccontextmanager
async def serving(**answers: Answer) -> AsyncGenerator[tuple[str, list[Request]]]:
    """A server that answers each call as it is told, and ends a connection after an answer that is cut short."""
    asked: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head.strip(), b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                asked.append(request)
                found = answers.get(request.name.partition("/")[0], answers.get("default", b""))
                sent = found(request) if callable(found) else found
                writer.write(sent)
                await writer.drain()
                if b"x-cut: yes" in sent:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@contextlib.asynccontextmanager
async def line(url: str, **options: Any) -> AsyncGenerator[HttpAdapter]:
    adapter = HttpAdapter(dataclasses.replace(read_url(url), **options))
    try:
        yield adapter
    finally:
        await adapter.close()


def connecting_fails(found: Answer, error: type[LocalStoreError], match: str) -> LocalStoreError:
    """Connect to what answers so; the error tells no token, anywhere."""

    async def steps() -> LocalStoreError:
        async with serving(connect=found) as (url, asked), line(url) as adapter:
            with pytest.raises(error, match=match) as caught:
                await adapter.connect(HELLO)
            assert asked[0].headers["authorization"] == f"Bearer {SECRET}"
            with pytest.raises(Offline, match="not connected"):
                await adapter.push([make_changeset(HELLO.device, 1)])
            assert SECRET not in "".join(traceback.format_exception(caught.value))
            return caught.value

    return run(steps())


@pytest.mark.parametrize("status", [200, 204, 301, 302, 401, 403, 404, 407, 500])
def test_what_is_no_hub_counts_as_out_of_reach(status: int) -> None:
    connecting_fails(plain(b"" if status == 204 else b"<html>Log in to the hotel", status), Offline, "is no hub")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_proxy_whose_hub_is_away_says_when_to_come_again(status: int) -> None:
    error = connecting_fails(plain(b"Bad gateway", status, retry_after="7"), Busy, "does not answer now")
    assert isinstance(error, Busy)
    assert error.retry_after == 7.0
    connecting_fails(plain(b"", status, retry_after="Fri, 1 Jan 2027 00:00:00 GMT"), Busy, "does not answer now")


def test_a_url_that_is_wrong_about_users_says_what_to_change() -> None:
    async def steps() -> None:
        with running_hub() as hub, pytest.raises(Unauthorized) as caught:
            async with line(hub.address) as adapter:
                await adapter.log_in(Credentials.anonymous())
        assert "users=no" in caught.value.hint
        refused = answer(Problem(kind="unauthorized", message="No."), 401)
        async with serving(connect=refused) as (url, _), line(f"{url}?users=no") as adapter:
            with pytest.raises(Unauthorized, match="has users"):
                await adapter.connect(dataclasses.replace(HELLO, token=None))

    run(steps())


def test_either_side_that_is_too_old_is_named() -> None:
    old = answer(Problem(kind="too_old", message="No."), 426)
    assert "in this app" in connecting_fails(old, ProtocolError, "No").hint
    new = answer(Problem(kind="too_new", message="No."), 426)
    assert "Update the hub" in connecting_fails(new, ProtocolError, "No").hint


def test_an_answer_that_is_none_stops_the_session() -> None:
    connecting_fails(answer(b"\xc1"), ProtocolError, "is no ConnectReply")
    connecting_fails(answer(b"\x80"), ProtocolError, "is no ConnectReply")
    connecting_fails(answer(WELCOME, content_encoding="gzip"), ProtocolError, "not asked for")


def test_an_endless_answer_and_a_bomb_are_cut_short() -> None:
    connecting_fails(answer(bytes(1 << 20)), ProtocolError, "longer than")
    bomb = zstd.compress(bytes(1 << 28))
    assert len(bomb) < 1 << 16
    connecting_fails(answer(bomb, content_encoding="zstd"), ProtocolError, "longer than")


def test_an_answer_that_breaks_off_counts_as_out_of_reach() -> None:
    connecting_fails(answer(WELCOME, content_length="9999", x_cut="yes"), Offline, "cannot be reached")
    connecting_fails(b"HTTP/1.1 200\r\nx-cut: yes\r\n", Offline, "cannot be reached")
    connecting_fails(b"220 mail.example.com ESMTP x-cut: yes\r\n\r\n", Offline, "cannot be reached")


def test_nobody_there_is_offline_and_tells_no_token() -> None:
    async def steps() -> None:
        async with serving() as (url, _):
            pass
        async with line(url) as adapter:
            with pytest.raises(Offline, match="cannot be reached") as caught:
                await adapter.connect(HELLO)
            assert SECRET not in "".join(traceback.format_exception(caught.value))

    run(steps())


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_a_token_that_cannot_be_sent_is_no_good_one(token: str) -> None:
    async def steps() -> None:
        async with serving() as (url, asked), line(url) as adapter:
            with pytest.raises(Unauthorized):
                await adapter.connect(dataclasses.replace(HELLO, token=token))
            assert asked == []

    run(steps())


def _numbers(request: Request) -> list[int]:
    body = zstd.decompress(request.body) if "content-encoding" in request.headers else request.body
    return [msgspec.msgpack.decode(sealed)[2] for sealed in msgspec.msgpack.decode(body)["batch"]]


def test_a_proxy_that_lets_little_through_gets_less_at_a_time() -> None:
    def push(request: Request) -> bytes:
        numbers = _numbers(request)
        return plain(b"", 413) if len(numbers) > 2 else answer(PushReply(acknowledged=numbers[-1]))

    async def steps() -> None:
        async with serving(connect=answer(WELCOME), push=push) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            batch = [make_changeset(HELLO.device, number) for number in range(1, 9)]
            assert (await adapter.push(batch)).acknowledged == 2

    run(steps())


def test_a_changeset_that_a_proxy_never_lets_through_is_kept_and_the_proxy_named() -> None:
    async def steps() -> None:
        async with serving(connect=answer(WELCOME), push=plain(b"", 413)) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            with pytest.raises(Offline, match="on the way") as caught:
                await adapter.push([make_changeset(HELLO.device, 1), make_changeset(HELLO.device, 2)])
            assert "client_max_body_size" in caught.value.hint

    run(steps())


def test_a_changeset_that_is_too_large_for_the_hub_is_refused() -> None:
    async def steps() -> None:
        with running_hub(max_body_bytes=64 * 1024) as hub:
            async with line(f"{hub.address}?users=no") as adapter:
                await adapter.connect(dataclasses.replace(HELLO, token=None))
                small, large = make_changeset(HELLO.device, 1), make_changeset(HELLO.device, 2, blob_bytes=100_000)
                assert (await adapter.push([small, large])).acknowledged == 1
                refused = await adapter.push([large, make_changeset(HELLO.device, 3)])
                assert refused.acknowledged == 1
                assert [refusal.number for refusal in refused.refusals] == [2]

    run(steps())


def _head(kind: str, cut: bool) -> bytes:
    cuts = "x-cut: yes\r\n" if cut else ""
    return f"HTTP/1.1 200 X\r\nlocalstore-version: 1\r\ncontent-type: text/event-stream\r\n{cuts}\r\n{kind}".encode()


def test_a_stream_that_is_held_up_on_its_way_gives_way_to_polls() -> None:
    polls = iter([PollReply(news=True, seen="a-1"), PollReply(news=False, seen="a-1"), PollReply(news=True, seen="a-2")])

    async def steps() -> None:
        answers = {"connect": answer(WELCOME), "events": _head("", False), "poll": lambda _: answer(next(polls))}
        async with serving(**answers) as (url, asked), line(url, held_up_seconds=0.05) as adapter:
            await adapter.connect(HELLO)
            for _ in range(2):
                async with contextlib.aclosing(adapter.watch(None)) as hints:
                    assert await anext(hints) == Hint()
            assert [request.name for request in asked].count("events") == 1, "it is not tried again"
            seen = [msgspec.msgpack.decode(request.body)["seen"] for request in asked if request.name == "poll"]
            assert seen == [None, None, "a-1"]

    run(steps())


def test_a_stream_goes_on_where_it_was_when_it_ends() -> None:
    first = _head("event: head\nid: a-1\ndata:\n\nevent: heartbeat\nid: a-2\ndata:\n\n", True)
    second = _head("event: heartbeat\nid: a-2\ndata:\n\nevent: head\nid: a-3\ndata:\n\n", True)
    streams = iter([first, second])

    async def steps() -> None:
        answers: dict[str, Answer] = {"connect": answer(WELCOME), "events": lambda _: next(streams, plain(b"", 502))}
        async with serving(**answers) as (url, asked), line(url) as adapter:
            await adapter.connect(HELLO)
            hints = [hint async for hint in adapter.watch(None)]
            assert hints == [Hint(), Hint(), Hint(reason="lost")]
            assert [request.headers.get("last-event-id") for request in asked if request.name == "events"] == [
                None,
                "a-2",
                "a-3",
            ]

    run(steps())


def test_an_endless_line_of_a_stream_is_none() -> None:
    async def steps() -> None:
        async with serving(connect=answer(WELCOME), events=_head("x" * 200_000, False)) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            hints = adapter.watch(None)
            assert await anext(hints) == Hint(reason="lost")
            with pytest.raises(Offline, match="is none"):
                await anext(hints)

    run(steps())


def head(*changesets: SealedChangeset, after: bytes, cursor: bytes, remote_id: str = "r") -> bytes:
    """An event that brings something."""
    news = News(remote_id=remote_id, after=after, changesets=list(map(encode, changesets)), cursor=cursor)
    return b"event: head\nid: a-1\ndata:" + encode_news(news) + b"\n\n"


NEW = make_changeset(new_device(), 1)


@pytest.mark.parametrize(
    ("event", "hint"),
    [
        (
            head(NEW, after=b"3", cursor=b"4"),
            Hint(after=Cursor(b"3"), page=Page(changesets=(NEW,), cursor=Cursor(b"4"), more=False)),
        ),
        (head(NEW, after=b"3", cursor=b"4", remote_id="another"), Hint()),
    ],
)
def test_a_hint_brings_what_came_with_the_event_if_it_is_of_the_same_history(event: bytes, hint: Hint) -> None:
    async def steps() -> None:
        async with serving(connect=answer(WELCOME), events=_head("", False) + event) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            async with contextlib.aclosing(adapter.watch(None)) as hints:
                assert await anext(hints) == hint

    run(steps())


@pytest.mark.parametrize("data", ["!", "AAAA", "kA=="])
def test_an_event_that_brings_garbage_ends_the_stream(data: str) -> None:
    async def steps() -> None:
        event = _head(f"event: head\nid: a-1\ndata:{data}\n\n", False)
        async with serving(connect=answer(WELCOME), events=event) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            hints = adapter.watch(None)
            assert await anext(hints) == Hint(reason="lost")
            with pytest.raises(Offline, match="damaged"):
                await anext(hints)

    run(steps())


SNAPSHOT = SnapshotInfo(name="a/b ü", cursor=Cursor(b"c"), byte_count=10)


def test_a_snapshot_that_breaks_off_goes_on_where_it_was() -> None:
    def snapshot(request: Request) -> bytes:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        body = b"0123456789"[start:]
        return answer(body[:4], 206, content_length=str(len(body)), x_cut="yes")

    async def steps() -> None:
        async with serving(connect=answer(WELCOME), snapshot=snapshot) as (url, asked), line(url) as adapter:
            await adapter.connect(HELLO)
            content = b"".join([chunk async for chunk in adapter.read_snapshot(SNAPSHOT)])
            assert content == b"0123456789"
            assert [request.headers.get("range") for request in asked[1:]] == [None, "bytes=4-", "bytes=8-"]
            assert "/v1/snapshot/a%2Fb%20%C3%BC?" in asked[1].target

    run(steps())


def test_a_snapshot_of_another_size_is_not_taken() -> None:
    async def steps() -> None:
        async with serving(connect=answer(WELCOME), snapshot=answer(b"short")) as (url, _), line(url) as adapter:
            await adapter.connect(HELLO)
            with pytest.raises(SnapshotUnusable):
                _ = [chunk async for chunk in adapter.read_snapshot(SNAPSHOT)]

    run(steps())


def test_a_proxy_is_asked_in_the_hubs_place() -> None:
    async def steps() -> None:
        async with serving(connect=plain(b"", 502)) as (proxy, asked):
            async with line(f"http://hub.invalid/app?proxy={proxy}") as adapter:
                with pytest.raises(Busy):
                    await adapter.connect(HELLO)
            assert asked[0].target == "http://hub.invalid/app/v1/connect"

    run(steps())


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that no system trusts, and its key."""
    pytest.importorskip("cryptography", reason="makes a certificate")
    from tests.unit.certificates import write_certificate

    return write_certificate(tmp_path)


def test_a_certificate_is_trusted_by_the_url_alone(certificate: tuple[str, str]) -> None:
    async def steps() -> None:
        with running_hub(certificate=certificate[0], private_key=certificate[1]) as hub:
            url = f"https://127.0.0.1:{hub.port}?users=no"
            hello = dataclasses.replace(HELLO, token=None)
            async with line(f"{url}&ca={certificate[0]}") as trusting:
                assert (await trusting.connect(hello)).remote_id
                await trusting.pull(None, Limit())
            async with line(url) as wary:
                with pytest.raises(Offline, match="cannot be reached"):
                    await wary.connect(hello)

    run(steps())


def test_a_file_that_holds_no_certificates_is_named(tmp_path: Path) -> None:
    async def steps() -> None:
        async with line(f"https://127.0.0.1:1?ca={tmp_path / 'none.pem'}") as adapter:
            with pytest.raises(ProtocolError, match=r"none\.pem"):
                await adapter.connect(HELLO)

    run(steps())


def test_a_url_says_where_the_hub_is_and_how_to_get_there() -> None:
    assert read_url("https://host/app/") == HttpOptions(base="https://host/app")
    assert read_url("http://[::1]:8765?users=no&watch=poll&ca=/a%20b.pem&proxy=&timeout=2.5") == HttpOptions(
        base="http://[::1]:8765", users=False, watch="poll", ca="/a b.pem", proxy="", timeout=2.5
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///path",
        "ftp://host",
        "https://emma:pa55@host/app",
        "https://host:none/app",
        "https://host/app#part",
        "https://host/app?users=perhaps",
        "https://host/app?watch=",
        "https://host/app?timeout=-1",
        "https://host/app?timeout=nan",
        "https://host/app?passwort=pa55",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"https|ftp") as caught:
        read_url(url)
    assert "pa55" not in str(caught.value)
