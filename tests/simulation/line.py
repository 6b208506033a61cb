"""The network: every call of an adapter is a request that travels to the remote, and an answer that travels back.

Either may be late, by milliseconds or days, lost, or come twice; what was sent arrives also when the sender has given up or
died. What happens to which message is decided by the weather and a source of chance of the device's own. It knows the
contract of adapters and the remote's calls, and nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from localstore.adapter import (
    Capabilities,
    Credentials,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SupportsUsers,
    SupportsWatch,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.errors import Busy, Offline, SnapshotUnusable, SyncError
from localstore.wire import SealedChangeset
from tests.simulation.loop import RUNNING, VirtualLoop
from tests.simulation.remote import Remote
from tests.simulation.trace import Trace
from tests.simulation.weather import CALM, Weather

__all__ = ["Adapter", "Network"]

T = TypeVar("T")
_CHUNK_BYTES = 20_000
_AGAIN_MAX = 5  # changesets of one page that were given before


class Network:
    """Between all devices and the one remote.

    Args:
        remote: the remote.
        loop: where messages are while they are under way.
        trace: takes notes.
        seed: of all chance here.
        capabilities: what the adapters say of themselves other than the remote's own.

    Attributes:
        accepted: everything that the remote ever took, in its order.
        context: of what is nobody's doing.
        asked: how many requests each device has made; signs of life are none.
        on_taken: is told what the remote took, up to which number, and from whom.
    """

    def __init__(self, remote: Remote, loop: VirtualLoop, trace: Trace, seed: str, capabilities: dict[str, Any]) -> None:
        self.remote = remote
        self.loop = loop
        self.trace = trace
        self.capabilities = capabilities
        self.accepted: dict[tuple[bytes, int, bytes], SealedChangeset] = {}
        self.generation = 0
        self.asked: dict[str, int] = {}
        self.on_taken: Callable[[Sequence[SealedChangeset], int, str], object] | None = None
        self._seed = seed
        self._weather: dict[str, Weather] = {}
        self._random: dict[str, random.Random] = {}
        self._watches: dict[_Watch, None] = {}
        self.context = contextvars.copy_context()
        self.context.run(RUNNING.set, None)

    def weather(self, name: str) -> Weather:
        return self._weather.get(name, CALM)

    def change_weather(self, name: str, weather: Weather) -> None:
        self._weather[name] = weather

    def random(self, name: str) -> random.Random:
        """The chance of a device's messages."""
        if name not in self._random:
            self._random[name] = random.Random(f"{self._seed}/{name}")
        return self._random[name]

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Let something happen that does not depend on anybody's life."""
        self.loop.call_later(seconds, function, context=self.context)

    def restart(self) -> None:
        """The remote starts anew with what it has: all lines to it break."""
        self.generation += 1
        self.ring()

    def took(self, batch: Sequence[SealedChangeset], result: PushResult, but: str) -> None:
        """The remote has taken changesets: others are to be told."""
        for sealed in batch:
            if sealed.number <= result.acknowledged:
                self.accepted.setdefault((sealed.device, sealed.number, sealed.digest), sealed)
        if self.on_taken is not None:
            self.on_taken(batch, result.acknowledged, but)
        self.ring(but=but)

    def watching(self, watch: _Watch) -> None:
        self._watches[watch] = None

    def unwatched(self, watch: _Watch) -> None:
        self._watches.pop(watch, None)

    def is_watched(self, name: str) -> bool:
        """Whether a device is told of news, and need not look itself."""
        return any(watch.name == name and watch.is_on for watch in self._watches)

    def ring(self, but: str | None = None) -> None:
        """Tell those who watch, but for who has done it: that one hears at most how far the remote is by that."""
        for watch in list(self._watches):
            weather, chance = self.weather(watch.name), self.random(watch.name)
            draws = [chance.random() for _ in range(6)]
            if not weather.is_up or (watch.name == but and (draws[5] < 0.5 or not self.remote.brings_news)):
                continue
            hint = self._hint(watch, without_own=draws[5] < 0.75)
            if draws[0] >= weather.lose_hint:
                late = draws[1] * weather.late_s
                self.later(late if draws[3] < weather.late else draws[2] * weather.delay, functools.partial(watch.put, hint))
                if draws[4] < weather.twice:
                    self.later(late, functools.partial(watch.put, hint))

    def _hint(self, watch: _Watch, *, without_own: bool) -> Hint:
        """What the remote tells, as far as it knows what was told before. What it brings may wait long for being delivered."""
        after = watch.told
        if not self.remote.brings_news or after is None:
            return Hint()
        try:
            self.remote.check(watch.token)
            page = self.remote.pull(watch.line, after, Limit())
        except SyncError:
            return Hint()
        watch.told = page.cursor
        if without_own:
            others = tuple(sealed for sealed in page.changesets if sealed.device != watch.line.device)
            page = dataclasses.replace(page, changesets=others)
        return Hint(after=after, page=page)


class _Watch:
    """One watch of a line: what was told to it and not delivered yet.

    Args:
        name: of the device.
        line: of the remote's.
        token: the user's.
        told: up to where the remote has told of its history; None when it does not know that.
        generation: of the remote, by whose end the watch breaks.

    Attributes:
        is_on: whether the remote has agreed to it.
    """

    def __init__(self, name: str, line: Any, token: str | None, told: Cursor | None, generation: int) -> None:
        self.name = name
        self.line = line
        self.token = token
        self.told = told
        self.generation = generation
        self.is_on = False
        self.hints = deque[Hint]()
        self._rung = asyncio.Event()

    def put(self, hint: Hint) -> None:
        self.hints.append(hint)
        self.wake()

    def wake(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung.clear()


class Adapter:
    """One line of a device's.

    Args:
        network: where it leads.
        name: of the device.
        is_alive: whether its process lives.
    """

    def __init__(self, network: Network, name: str, is_alive: Callable[[], bool]) -> None:
        self.name = name
        self._network = network
        self._is_alive = is_alive
        self._generation = network.generation
        self._line: Any = None
        self._watches: dict[_Watch, None] = {}
        self._token: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(self._network.remote.capabilities, **self._network.capabilities)

    async def connect(self, hello: Hello) -> Welcome:
        self._generation, self._token = self._network.generation, hello.token
        self._line, welcome = await self._ask("connect", lambda: self._network.remote.connect(hello), with_token=True)
        found: Welcome = welcome
        return found

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        network, line, sent = self._network, self._connected(), tuple(batch)

        def push() -> PushResult:
            result = network.remote.push(line, sent)
            network.took(sent, result, self.name)
            return result

        what = ", ".join(f"{sealed.number}#{sealed.digest.hex()[:4]}" for sealed in sent)
        return await self._ask(f"push {what} of {sent[0].device.hex()[:6]}", push, with_token=True)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        network, line = self._network, self._connected()
        weather, draws = network.weather(self.name), [network.random(self.name).random() for _ in range(3)]
        if draws[0] < weather.small:
            limit = dataclasses.replace(limit, max_count=1)
        again = 1 + int(draws[2] * _AGAIN_MAX) if draws[1] < weather.again else 0
        page = await self._ask("pull", lambda: network.remote.pull(line, cursor, limit, again), with_token=True)
        if page.changesets:
            network.trace.note(self.name, f"got {len(page.changesets)} changesets{', and more is there' * page.more}")
        return page

    async def ping(self) -> None:
        line = self._connected()
        await self._ask("ping", lambda: self._network.remote.has_news(line, None), with_token=True)

    async def log_in(self, credentials: Credentials) -> Tokens:
        return await self._ask("log_in", lambda: self._network.remote.log_in(credentials))

    async def refresh(self, refresh_token: str) -> Tokens:
        return await self._ask("refresh", lambda: self._network.remote.refresh(refresh_token))

    async def log_out(self, refresh_token: str) -> None:
        await self._ask("log_out", lambda: self._network.remote.log_out(refresh_token))

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        line, network = self._connected(), self._network
        watch = _Watch(self.name, line, self._token, cursor, network.generation)
        network.watching(watch)
        self._watches[watch] = None
        try:
            has_news = await self._ask("watch", lambda: network.remote.has_news(line, cursor))
            watch.is_on = True
            if has_news:
                yield Hint()
            while True:
                await watch.wait()
                while watch.hints:
                    yield self._delivered(watch.hints.popleft(), watch)
                if self._line is None or watch.generation != network.generation:
                    raise Offline("The remote does not tell any more.")
        finally:
            network.unwatched(watch)
            self._watches.pop(watch, None)

    def _delivered(self, hint: Hint, watch: _Watch) -> Hint:
        """Without what it brings, if that is of another history than this line leads to."""
        if hint.page is None or (self._line is not None and watch.line.remote_id == self._line.remote_id):
            return hint
        return Hint()

    async def latest_snapshot(self) -> SnapshotInfo | None:
        line = self._connected()
        found = await self._ask("latest_snapshot", lambda: self._network.remote.snapshot(line))
        return found[0] if found else None

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        line = self._connected()

        def content() -> bytes:
            found = self._network.remote.snapshot(line)
            if found is None or found[0].name != info.name:
                raise SnapshotUnusable(f"The remote does not have {info.name} any more.")
            return found[1]

        for start in range(0, info.byte_count, _CHUNK_BYTES):
            yield (await self._ask("read_snapshot", content))[start : start + _CHUNK_BYTES]

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        line = self._connected()
        content = b"".join([chunk async for chunk in chunks])
        await self._ask("write_snapshot", lambda: self._network.remote.keep_snapshot(line, cursor, content))

    async def trim(self, before: Cursor) -> None:
        line = self._connected()
        await self._ask("trim", lambda: self._network.remote.trim(line, before))

    async def close(self) -> None:
        self._line = None
        for watch in self._watches:
            watch.wake()

    def _connected(self) -> Any:
        if self._line is None:
            raise Offline("This line is not connected.")
        self._check()
        return self._line

    def _check(self) -> None:
        if self._generation != self._network.generation:
            raise Offline("The remote was restarted.")

    async def _ask(self, what: str, serve_it: Callable[[], T], *, with_token: bool = False) -> T:
        """Send a request, with the user's token if it needs one, and wait for the answer."""
        network, token = self._network, self._token
        if what != "ping":
            network.asked[self.name] = network.asked.get(self.name, 0) + 1

        def serve() -> T:
            if with_token:
                network.remote.check(token)
            return serve_it()

        chance, weather = network.random(self.name), network.weather(self.name)
        draws = [chance.random() for _ in range(8)]  # as many whatever happens, so that one fault does not change the others
        if not weather.is_up or not self._is_alive():
            await asyncio.sleep(draws[0] * weather.delay)
            raise Offline("There is no network.")
        if draws[1] < weather.busy:
            await asyncio.sleep(draws[0] * weather.delay)
            raise Busy("The remote is busy.")
        answer: asyncio.Future[T] = network.loop.create_future()
        out, back = draws[0] * weather.delay, draws[2] * weather.delay
        late = draws[3] * weather.late_s
        if draws[4] < weather.twice:
            network.later(late if draws[3] < weather.late else out + draws[3], lambda: self._serve_again(what, serve))
        if draws[5] < weather.late:  # this very request, as a router kept it
            out = late
        if draws[6] < weather.lose_request:
            self._lose(answer, out, is_told=draws[7] < weather.tell)
            network.trace.note(self.name, f"{what}: lost")
        else:
            loses_answer = draws[6] < weather.lose_request + weather.lose_answer
            network.later(out, lambda: self._serve(what, serve, answer, back, loses_answer, draws[7] < weather.tell))
        return await answer

    def _serve(
        self, what: str, serve: Callable[[], T], answer: asyncio.Future[T], back: float, loses_answer: bool, is_told: bool
    ) -> None:
        network = self._network
        result: T | None = None
        error: SyncError | None = None
        try:
            result = serve()
        except SyncError as problem:
            error = problem
        if loses_answer:
            network.trace.note(self.name, f"{what}: the answer is lost")
            self._lose(answer, back, is_told=is_told)
        else:
            network.trace.note(self.name, f"{what}: {'done' if error is None else repr(error.message)}")
            network.later(back, lambda: _settle(answer, result, error))

    def _serve_again(self, what: str, serve: Callable[[], object]) -> None:
        try:
            serve()
            self._network.trace.note(self.name, f"{what}: arrived again")
        except SyncError as error:
            self._network.trace.note(self.name, f"{what}: arrived again, and {error.message!r}")

    def _lose(self, answer: asyncio.Future[T], seconds: float, *, is_told: bool) -> None:
        if is_told:
            self._network.later(seconds, lambda: _settle(answer, None, Offline("The connection broke.")))


def _settle(answer: asyncio.Future[Any], result: object, error: SyncError | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


_: tuple[type[SyncAdapter], type[SupportsWatch], type[SupportsPing], type[SupportsSnapshots], type[SupportsUsers]]
_ = (Adapter, Adapter, Adapter, Adapter, Adapter)
