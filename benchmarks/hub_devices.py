"""What many devices of a hub do at once, in a process of their own: run by ``benchmarks.device``.

Those that are counted by the thousand speak HTTP by hand, as whole clients would cost this process more than they
cost the hub.
"""

import asyncio
import resource
import time
from typing import TypeVar

import msgspec
from sqlalchemy import text

from benchmarks.device import memory, say
from benchmarks.kit import percentile
from localstore.adapter import Cursor, Hello, Limit
from localstore.http_messages import (
    MESSAGE_PACK,
    VERSION,
    VERSION_HEADER,
    ConnectReply,
    ConnectRequest,
    PageReply,
    PullRequest,
    PushReply,
    PushRequest,
)
from localstore.testing.conformance import make_changeset
from localstore.urls import split_url
from localstore.wire import encode
from localstore_adapters.http import HttpAdapter
from localstore_adapters.sql import SqlAdapter, SqlStore

__all__ = ["APP", "BATCH_COUNT", "WRITER", "device_name", "fill", "hello"]

APP, PARTITION = "benchmarks", "default"
WRITER, READER = b"W" * 16, b"R" * 16
BATCH_COUNT = 1_000
_COPY_COUNT = 500_000  # in one transaction
_COPY = (
    text("""
        WITH RECURSIVE places(position) AS (
            SELECT CAST(:start AS BIGINT) + 1 UNION ALL SELECT position + 1 FROM places WHERE position < :end
        )
        INSERT INTO localstore_log_changeset (partition, position, total, mark, device, number, digest, stored_ms, sealed)
        SELECT log.partition, places.position, log.total + (places.position - log.position) * (log.total - earlier.total),
            log.mark, log.device, places.position, log.digest, log.stored_ms, log.sealed
        FROM places, localstore_log_partition whose, localstore_log_changeset log, localstore_log_changeset earlier
        WHERE log.partition = whose.id AND log.position = :template
            AND earlier.partition = whose.id AND earlier.position = :template - 1
    """),
    text("""
        UPDATE localstore_log_partition SET head = :end,
            total = (SELECT log.total FROM localstore_log_changeset log WHERE log.partition = id AND log.position = :end)
    """),
    text("UPDATE localstore_log_device SET number = :end"),
)
"""Of a log with one partition and one device that wrote, in the layout that the adapter makes."""
T = TypeVar("T")


def device_name(number: int) -> bytes:
    return f"device {number:09}".encode()


def hello(device: bytes, partition: str = PARTITION) -> Hello:
    return Hello(app=APP, partition=partition, device=device)


async def fill(store: str, count: int) -> Cursor | None:
    """Bring so many one-row changesets into a log, without a hub; the cursor of who has read them all.

    The adapter pushes the first and the last ones. Those in between nobody reads: they are copies of one of the first.
    """
    writer, reader = SqlAdapter.from_url(store), SqlAdapter.from_url(store)
    await writer.connect(hello(WRITER))
    await reader.connect(hello(READER))
    first = min(count, BATCH_COUNT)
    cursor = await _push_and_pull(writer, reader, None, range(1, first + 1))
    last = max(first, count - BATCH_COUNT)
    if last > first:
        _copy(SqlStore.shared(store), first, last)
        remote_id, _, mark = bytes(cursor).split(b":")
        cursor = Cursor(b":".join((remote_id, str(last).encode(), mark)))
    if count > last:
        cursor = await _push_and_pull(writer, reader, cursor, range(last + 1, count + 1))
    await writer.close()
    await reader.close()
    return cursor


async def _push_and_pull(writer: SqlAdapter, reader: SqlAdapter, cursor: Cursor | None, numbers: range) -> Cursor:
    await writer.push([make_changeset(WRITER, number) for number in numbers])
    page = await reader.pull(cursor, Limit())
    assert not page.more
    assert [sealed.number for sealed in page.changesets] == list(numbers)
    return page.cursor


def _copy(store: SqlStore, first: int, last: int) -> None:
    """Go on from the log's last changeset with copies of it, up to a position."""
    for start in range(first, last, _COPY_COUNT):
        end = min(start + _COPY_COUNT, last)
        with store.writing() as connection:
            for statement in _COPY:
                connection.execute(statement, {"template": first, "start": start, "end": end})


class _Connection:
    """One kept connection of one device."""

    def __init__(self, url: str, device: bytes, partition: str = PARTITION) -> None:
        self._address = split_url(url).netloc
        self._device = device
        self._partition = partition
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._remote_id = ""

    async def connect(self) -> None:
        host, _, port = self._address.partition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        request = ConnectRequest(app=APP, partition=self._partition, device=self._device)
        self._remote_id = (await self._post("connect", request, ConnectReply)).remote_id

    async def push(self, number: int) -> None:
        sealed = encode(make_changeset(self._device, number))
        request = PushRequest(partition=self._partition, device=self._device, remote_id=self._remote_id, batch=[sealed])
        assert (await self._post("push", request, PushReply)).acknowledged == number

    async def pull(self) -> None:
        request = PullRequest(partition=self._partition, device=self._device, remote_id=self._remote_id)
        await self._post("pull", request, PageReply)

    async def listen(self) -> None:
        """Open a stream of events, and wait for its first."""
        self._send(f"GET /v1/events?partition={self._partition}&device={self._device.hex()}")
        await self._reader.readuntil(b"\n\n")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def _post(self, name: str, message: msgspec.Struct, reply: type[T]) -> T:
        self._send(f"POST /v1/{name}", msgspec.msgpack.encode(message))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await self._reader.readexactly(length)
        assert " 200 " in head.partition("\r\n")[0], body
        return msgspec.msgpack.decode(body, type=reply)

    def _send(self, what: str, body: bytes = b"") -> None:
        lines = (f"{what} HTTP/1.1", "host: hub", f"{VERSION_HEADER}: {VERSION}", f"content-type: {MESSAGE_PACK}")
        head = "\r\n".join((*lines, f"content-length: {len(body)}", "", ""))
        self._writer.write(head.encode() + body)


async def push_one_by_one(urls: str, devices: int, each: int, partitions: int) -> None:
    """So many devices, each of which pushes a changeset as soon as the one before is acknowledged.

    They take turns at the hubs, whose URLs stand one after the other with a space between, and at so many partitions.
    """
    hubs = urls.split()
    connections = [
        _Connection(hubs[number % len(hubs)], device_name(number), f"{PARTITION}-{number % partitions}")
        for number in range(devices)
    ]
    await asyncio.gather(*(connection.connect() for connection in connections))
    found: list[float] = []

    async def pushes(connection: _Connection) -> None:
        for number in range(1, each + 1):
            begun = time.perf_counter()
            await connection.push(number)
            found.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*map(pushes, connections))
    say({"seconds": time.perf_counter() - begun, "p50": percentile(found, 50), "p99": percentile(found, 99)})


async def listen(url: str, devices: int, looked_ms: int) -> None:
    """So many devices that have read everything and wait for news, for so long and a second more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connections = []
    for number in range(devices):
        calls = _Connection(url, device_name(number))
        await calls.connect()
        await calls.pull()
        await calls.listen()  # over the same: a client's other connection is closed when it was idle for a while
        connections.append(calls)
    say("ready")
    await asyncio.sleep(looked_ms / 1000 + 1 if looked_ms else 0)


async def pull_all(url: str, devices: int) -> None:
    """So many devices that all pull all there is, at once; what they get is counted and thrown away."""

    async def pull(number: int) -> int:
        adapter, cursor, more, rows = HttpAdapter.from_url(url), None, True, 0
        await adapter.connect(hello(device_name(number)))
        while more:
            page = await adapter.pull(cursor, Limit())
            cursor, more, rows = page.cursor, page.more, rows + sum(sealed.rows for sealed in page.changesets)
        await adapter.close()
        return rows

    say(min(await asyncio.gather(*map(pull, range(devices)))))


class _Held(asyncio.Protocol):
    """One end of a connection, of which nothing is expected until the end."""

    def __init__(self, done: asyncio.Event) -> None:
        self._done = done

    def data_received(self, data: bytes) -> None:
        self._done.set()


async def hold() -> None:
    """A server that takes connections and does nothing with them, until something is said over one."""
    done = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: _Held(done), "127.0.0.1", 0, backlog=2048)
    say(server.sockets[0].getsockname()[1])
    say(memory("VmRSS"))
    await done.wait()
    say(memory("VmRSS"))
