"""Something between devices and hubs that behaves as badly as a network and its proxies may: seeded, and calm when told so.

It reads whole HTTP requests, so that it can send one twice: as a proxy does that got no answer and tries again, or long after
it was answered. It never changes a byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import threading
from collections import Counter
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

__all__ = ["ChaosProxy", "Fault", "proxy"]

_LIMIT = 128 * 1024 * 1024
_DELAY_SECONDS = 0.5
_STREAM_SECONDS = (0.2, 5.0)
_PATIENCE = 60.0
_LOG_IN_CALLS = (b" /v1/login ", b" /v1/refresh ")


class Fault(enum.Enum):
    """What happens to a request."""

    LOST = "the request does not arrive"
    UNANSWERED = "the answer does not arrive"
    TRUNCATED = "the answer breaks off"
    DELAYED = "the request takes its time"
    RETRIED = "the request is sent again, and the second answer told"
    ECHOED = "the request arrives once more, much later"
    CUT = "a stream of events breaks off"


@dataclass(frozen=True)
class _Request:
    data: bytes

    @property
    def is_stream(self) -> bool:
        return self.data.startswith(b"GET /v1/events")

    @property
    def is_log_in(self) -> bool:
        return any(call in self.data[:40] for call in _LOG_IN_CALLS)


class ChaosProxy:
    """One listening port in front of some hubs, whose connections are shared out among them.

    Args:
        seed: of what goes wrong.
        ports: of the hubs.
        rate: the part of requests that something happens to.

    Attributes:
        port: where it listens.
        counts: how often each fault happened.
    """

    def __init__(self, seed: int, ports: Sequence[int], rate: float) -> None:
        self._chance = random.Random(seed)
        self._ports = list(ports)
        self._rate = rate
        self._turn = 0
        self._echoes: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._problems: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._started: Future[int] = Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self.counts: Counter[Fault] = Counter()
        self._thread.start()
        self.port = self._started.result(_PATIENCE)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        asyncio.run_coroutine_threadsafe(self._calm(), self._loop).result(_PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_PATIENCE)
        self._loop.close()
        if self._problems:  # of this proxy, and nobody else
            raise self._problems[0]

    async def _run(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_LIMIT)
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._end.wait()
        server.close()
        for task in (*self._echoes, *self._connections):
            task.cancel()
        await asyncio.gather(*self._echoes, *self._connections, return_exceptions=True)

    async def _calm(self) -> None:
        self._rate = 0.0
        await asyncio.gather(*self._echoes, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._connections, self._connection(reader, writer))

    def _keep(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (problem := task.exception()) is not None:
                self._problems.append(problem)

        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(done)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                while await self._pass_on(await _read_message(reader), reader, writer):
                    pass
        finally:
            if self._chance.random() < 0.5:
                writer.transport.abort()
            writer.close()

    async def _pass_on(self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do something with a request; whether the connection goes on."""
        request = _Request(data)
        fault = self._fault(request)
        if fault is not None:
            self.counts[fault] += 1
        if request.is_stream:
            await self._stream(request, reader, writer, is_cut=fault is Fault.CUT)
            return False
        if fault is Fault.LOST:
            return False
        if fault is Fault.DELAYED:
            await asyncio.sleep(self._chance.uniform(0, _DELAY_SECONDS))
        answer = await self._ask(request)
        if fault is Fault.UNANSWERED:
            return False
        if fault is Fault.RETRIED:
            answer = await self._ask(request)
        elif fault is Fault.ECHOED:
            self._echo(request)
        elif fault is Fault.TRUNCATED:
            writer.write(answer[: self._chance.randrange(len(answer))])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _fault(self, request: _Request) -> Fault | None:
        if request.is_stream:  # there are few
            return Fault.CUT if self._chance.random() < 4 * self._rate else None
        if self._chance.random() >= self._rate:
            return None
        faults = [Fault.LOST, Fault.UNANSWERED, Fault.TRUNCATED, Fault.DELAYED, Fault.RETRIED]
        if not request.is_log_in:  # a refresh token that comes again after its successor was used ends the log-in, as it should
            faults.append(Fault.ECHOED)
        return self._chance.choice(faults)

    def _echo(self, request: _Request) -> None:
        async def later() -> None:
            await asyncio.sleep(self._chance.uniform(0, 4 * _DELAY_SECONDS))
            with contextlib.suppress(OSError, EOFError):
                await self._ask(request)

        self._keep(self._echoes, later())

    async def _ask(self, request: _Request) -> bytes:
        """A hub's whole answer."""
        reader, writer = await self._hub()
        try:
            writer.write(request.data)
            await writer.drain()
            return await _read_message(reader)
        finally:
            writer.close()

    async def _stream(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_cut: bool
    ) -> None:
        seconds = self._chance.uniform(*_STREAM_SECONDS) if is_cut else None
        from_hub, to_hub = await self._hub()
        try:
            to_hub.write(request.data)
            ends = [asyncio.ensure_future(_pump(from_hub, writer)), asyncio.ensure_future(_pump(reader, to_hub))]
            try:
                await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        finally:
            to_hub.close()

    async def _hub(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the next hub that is there."""
        for last in (*[False] * (len(self._ports) - 1), True):
            self._turn += 1
            try:
                return await asyncio.open_connection("127.0.0.1", self._ports[self._turn % len(self._ports)], limit=_LIMIT)
            except OSError:
                if last:
                    raise
        raise AssertionError


@contextlib.contextmanager
def proxy(seed: int, *ports: int, rate: float = 0.15) -> Generator[ChaosProxy]:
    running = ChaosProxy(seed, ports, rate)
    try:
        yield running
    finally:
        running.close()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """A request or an answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        assert name.lower() != b"transfer-encoding", "only streams have no length"
    return head + await reader.readexactly(length)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
