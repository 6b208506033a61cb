"""Lines to the log: one for each device that was there lately, made when it is needed and thrown away after any error.

Nothing here is the truth: another process of the hub has lines of its own, and a line that is gone is made anew from what the
device's request says. This module knows no HTTP and no users.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from localstore.adapter import Hello, SyncAdapter, Welcome
from localstore.environment import Environment
from localstore.errors import ResetRequired
from localstore.hub.declining import Declined, declined_by_log
from localstore.registry import AdapterFactory

__all__ = ["Lines", "new_id"]

_Key = tuple[str, bytes]


@dataclass(slots=True)
class _Line:
    """One device's, while it is kept. Calls come one after the other, as the contract wants it."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    adapter: SyncAdapter | None = None
    remote_id: str | None = None
    users: int = 0


class Lines:
    """The lines of one process.

    Args:
        make: a new line to the log.
        app: whose data it holds.
        max_lines: how many are kept; the longest unused is closed.
        max_calls: how many calls are made at one time; of one partition half as many.
        environment: randomness.
    """

    def __init__(self, make: AdapterFactory, app: str, *, max_lines: int, max_calls: int, environment: Environment) -> None:
        self.make = make
        self.app = app
        self._max_lines = max_lines
        self._slots = asyncio.Semaphore(max_calls)
        self._partition_calls = max(1, max_calls // 2)  # one that is stuck leaves the others theirs
        self._partitions: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._environment = environment
        self._lines: OrderedDict[_Key, _Line] = OrderedDict()
        self._remote_id: str | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def remote_id(self) -> str | None:
        """Of the history that the log had at the last connect; None before the first one."""
        return self._remote_id

    def own(self, partition: str, device: bytes) -> Hello:
        """How the hub itself introduces itself to the log, which begins no history where there was one: a log that is empty all
        at once may be being restored, and devices that saw another history would drop theirs for it.
        """
        return Hello(app=self.app, partition=partition, device=device, remote_id=self._remote_id)

    def met(self, remote_id: str | None) -> None:
        """The log is this one; with None, it has another history than the one known here."""
        self._remote_id = remote_id

    async def connect(self, hello: Hello) -> Welcome:
        """Introduce a device to the log, whatever was said of it before.

        Raises:
            Declined: as the log answers.
        """
        async with self._in_turn(hello) as line:
            return await self._introduce(line, hello)

    @contextlib.asynccontextmanager
    async def using(self, hello: Hello) -> AsyncGenerator[SyncAdapter]:
        """A connected line for one call.

        Args:
            hello: who the device is, and which remote it knows.

        Raises:
            Declined: as the log answers.
        """
        async with self._in_turn(hello) as line:
            if line.adapter is None or line.remote_id != hello.remote_id:
                await self._introduce(line, hello)
            assert line.adapter is not None
            yield line.adapter

    @contextlib.asynccontextmanager
    async def apart(self, hello: Hello) -> AsyncGenerator[SyncAdapter]:
        """A line of its own, for what takes long beside the device's other calls.

        Raises:
            Declined: as the log answers.
        """
        adapter: SyncAdapter | None = None
        try:
            adapter = self.make()
            self.met((await adapter.connect(hello)).remote_id)
            yield adapter
        except Declined:
            raise
        except ResetRequired as error:
            self.met(None)  # no history is begun by that: there is one
            raise declined_by_log(error, self._new_id) from error
        except Exception as error:
            raise declined_by_log(error, self._new_id) from error
        finally:
            if adapter is not None:
                await _let_go(adapter)

    async def close(self) -> None:
        """Let go of all lines."""
        lines, self._lines = list(self._lines.values()), OrderedDict()
        for line in lines:
            await self._drop(line)

    @contextlib.asynccontextmanager
    async def _in_turn(self, hello: Hello) -> AsyncGenerator[_Line]:
        key = (hello.partition, hello.device)
        line = self._lines.setdefault(key, _Line())
        self._lines.move_to_end(key)
        line.users += 1
        try:
            partition = self._partitions.setdefault(hello.partition, asyncio.Semaphore(self._partition_calls))
            async with line.turn, partition, self._slots:
                try:
                    yield line
                except BaseException as error:
                    await self._drop(line)
                    if isinstance(error, Declined) or not isinstance(error, Exception):
                        raise
                    raise declined_by_log(error, self._new_id) from error
        finally:
            line.users -= 1
            await self._keep_few()

    async def _introduce(self, line: _Line, hello: Hello) -> Welcome:
        if line.adapter is None:
            line.adapter = self.make()
        line.remote_id = None
        welcome = await line.adapter.connect(hello)
        line.remote_id = welcome.remote_id
        self.met(welcome.remote_id)
        return welcome

    async def _keep_few(self) -> None:
        excess = len(self._lines) - self._max_lines
        if excess <= 0:
            return
        idle = [key for key, line in self._lines.items() if not line.users][:excess]
        for line in [self._lines.pop(key) for key in idle]:
            await self._drop(line)

    async def _drop(self, line: _Line) -> None:
        adapter, line.adapter, line.remote_id = line.adapter, None, None
        if adapter is not None:
            await _let_go(adapter)

    def _new_id(self) -> str:
        return new_id(self._environment)


def new_id(environment: Environment) -> str:
    """What a message and the log call one occurrence."""
    return environment.random_bytes(8).hex()


async def _let_go(adapter: SyncAdapter) -> None:
    """Close a line, whatever it says to that: it is not used any more."""
    with contextlib.suppress(Exception):
        await asyncio.shield(asyncio.ensure_future(adapter.close()))
