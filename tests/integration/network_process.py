"""A device whose remote is reached by TCP, for tests that take its network away: ``network_process.py DATABASE HOST PORT``.

Its remote is one in memory behind a check that a server answers. The waits after errors are hours long, so that what happens
sooner is because the network came back. It says ``connect TIME ok`` or ``connect TIME failed`` for each attempt, ``opened``,
and ``uploaded`` for each line that comes in, which it writes as a note.
"""

import asyncio
import contextlib
import sys
import time
from uuid import UUID

from sqlmodel import Field, SQLModel

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, uuid7
from localstore.adapter import Capabilities, Cursor, Hello, Limit, Page, PushResult, SealedChangeset, Welcome
from localstore.errors import Offline
from localstore.testing.memory import MemoryRemote

ANSWER_SECONDS = 2.0
WAIT_SECONDS = 60


class Note(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


class TcpAdapter:
    """A remote in memory that is there as long as a server answers."""

    def __init__(self, remote: MemoryRemote, host: str, port: int) -> None:
        self._inner = remote.adapter()
        self._place = (host, port)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def connect(self, hello: Hello) -> Welcome:
        at = time.monotonic()
        try:
            await self._ping()
        except Offline:
            say("connect", at, "failed")
            raise
        say("connect", at, "ok")
        return await self._inner.connect(hello)

    async def push(self, batch: list[SealedChangeset]) -> PushResult:
        await self._ping()
        return await self._inner.push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        await self._ping()
        return await self._inner.pull(cursor, limit)

    async def close(self) -> None:
        await self._inner.close()

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(*self._place)
                with contextlib.closing(writer):
                    answer = await reader.readline()
        except (OSError, TimeoutError) as error:
            raise Offline(f"no answer: {error}") from error
        if answer != b"here\n":
            raise Offline("no answer")


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def main() -> None:
    database, host, port = sys.argv[1:]
    remote = MemoryRemote()
    settings = Settings(backoff_initial=3600, backoff_max=3600, poll=3600)
    with App.create("network", remote=lambda: TcpAdapter(remote, host, int(port)), settings=settings) as app:
        config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=database)
        with Realm.open(config) as realm:
            say("opened")
            for line in sys.stdin:
                with realm.write() as tx:
                    tx.add(Note(text=line.strip()))
                assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
                say("uploaded", line.strip())


if __name__ == "__main__":
    main()
