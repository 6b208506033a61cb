"""A hub on loopback, as the tests start it: uvicorn in a thread, in front of a log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, TypeVar

import httpx2
import msgspec

from localstore.environment import Environment
from localstore.errors import Unauthorized
from localstore.http_messages import MESSAGE_PACK, VERSION, VERSION_HEADER
from localstore.hub.access import Access, Accounts, Person
from localstore.hub.application import create_hub
from localstore.hub.open_accounts import OpenAccounts
from localstore.hub.serving import HubServer, listen
from localstore.hub.settings import HubSettings
from localstore.registry import AdapterFactory
from localstore.testing.conformance.suite import make_changeset, new_device
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.wire import SealedChangeset, encode

__all__ = [
    "APP",
    "PATIENCE",
    "Device",
    "PlayedAccounts",
    "RunningHub",
    "ShiftedClock",
    "everybody_writes",
    "hub_in_process",
    "run",
    "running_hub",
    "told",
]

APP = "conformance"
PATIENCE = 20.0
_SETTINGS: dict[str, Any] = {"app": APP, "devices_write_snapshots": True, "user_rate": 0, "address_rate": 0}
T = TypeVar("T")


class RunningHub:
    """A hub that can be stopped and started again at the same address. What it keeps is in the log and the accounts."""

    def __init__(
        self,
        make_log: AdapterFactory,
        *,
        accounts: Callable[[], Accounts] = OpenAccounts,
        environment: Environment | None = None,
        **settings: Any,
    ) -> None:
        self.settings = HubSettings(
            **{"app": APP, "devices_write_snapshots": True, "user_rate": 0, "address_rate": 0, **settings}
        )
        self._accounts = accounts
        self._make_log = make_log
        self._environment = environment or Environment()
        self._port = 0
        self._server: HubServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}{self.settings.path}"

    def start(self) -> None:
        listener = listen("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        ready = threading.Event()

        async def started() -> None:
            ready.set()

        async def serve() -> None:
            hub = create_hub(self.settings, make_log=self._make_log, accounts=self._accounts(), environment=self._environment)
            self._server = server = HubServer(hub, self.settings)
            server.config.callback_notify = started
            await server.serve(sockets=[listener])

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="hub", daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE), "the hub did not start"

    @property
    def connection_count(self) -> int:
        return 0 if self._server is None else len(self._server.server_state.connections)

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the hub did not end"
        self._server = self._thread = None


class ShiftedClock:
    """The real time, and some seconds that a test adds at once."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def environment(self) -> Environment:
        real = Environment()
        return Environment(
            now_ms=lambda: real.now_ms() + round(self.seconds * 1000), monotonic=lambda: real.monotonic() + self.seconds
        )


class PlayedAccounts(OpenAccounts):
    """Users that a test makes up. Whoever has a token is logged in; the token of a user is the name."""

    def __init__(self, *names: str) -> None:
        self.people = {name: Person(user_id=name, email=None, expires_at=2.0**40) for name in names}
        self.grants: dict[tuple[str, str], Access] = {}
        self.owners: dict[tuple[str, bytes], str] = {}
        self.authenticated = 0

    async def authenticate(self, access_token: str | None) -> Person:
        self.authenticated += 1
        if access_token not in self.people:
            raise Unauthorized("The access token is not good.")
        return self.people[access_token]

    async def access(self, person: Person, partition: str) -> Access:
        return self.grants.get((person.user_id, partition), Access.NONE)

    async def claim_device(self, person: Person, partition: str, device: bytes) -> bool:
        return self.owners.setdefault((partition, device), person.user_id) == person.user_id


class Device:
    """A device that speaks the protocol by hand, to a hub in this process."""

    def __init__(self, client: httpx2.AsyncClient, name: str, partition: str = "default", device: bytes | None = None) -> None:
        self.client = client
        self.device = device or new_device()
        self.partition = partition
        self.remote_id = "unknown"
        self.headers = {"authorization": f"Bearer {name}", VERSION_HEADER: str(VERSION), "content-type": MESSAGE_PACK}

    @property
    def query(self) -> dict[str, str]:
        return {"partition": self.partition, "device": self.device.hex()}

    async def post(self, name: str, message: Any, **headers: str) -> httpx2.Response:
        body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        return await self.client.post(f"/v1/{name}", content=body, headers={**self.headers, **headers})

    async def get(self, name: str, **headers: str) -> httpx2.Response:
        return await self.client.get(f"/v1/{name}", params=self.query, headers={**self.headers, **headers})

    async def connect(self, **changed: Any) -> httpx2.Response:
        said = {"app": APP, "partition": self.partition, "device": self.device, **changed}
        response = await self.post("connect", said)
        if response.status_code == 200:
            self.remote_id = msgspec.msgpack.decode(response.content)["remote_id"]
        return response

    async def push(self, *batch: SealedChangeset | bytes, **changed: Any) -> httpx2.Response:
        sealed = [one if isinstance(one, bytes) else encode(one) for one in batch]
        return await self.post("push", {**self._said(), "batch": sealed, **changed})

    async def pull(self, **changed: Any) -> httpx2.Response:
        return await self.post("pull", {**self._said(), **changed})

    def make(self, number: int, text: str = "") -> SealedChangeset:
        return make_changeset(self.device, number, text)

    def _said(self) -> dict[str, Any]:
        return {"partition": self.partition, "device": self.device, "remote_id": self.remote_id}


@contextlib.asynccontextmanager
async def hub_in_process(
    make_log: AdapterFactory, accounts: Accounts | None = None, environment: Environment | None = None, **settings: Any
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a hub that runs in the same event loop, without a network."""
    hub = create_hub(
        HubSettings(**{**_SETTINGS, **settings}),
        make_log=make_log,
        accounts=accounts or OpenAccounts(),
        environment=environment or Environment(),
    )
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(hub), base_url="http://hub") as client:
            yield client
    finally:
        await hub.aclose()


def told(response: httpx2.Response) -> dict[str, Any]:
    """A message, or a problem."""
    decoded: dict[str, Any] = msgspec.msgpack.decode(response.content)
    return decoded


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def in_time() -> T:
        return await asyncio.wait_for(coroutine, PATIENCE)

    return asyncio.run(in_time())


def everybody_writes(user: Person, partition: str) -> Access:
    """The rule of a hub whose users share everything."""
    return Access.WRITE


@contextlib.contextmanager
def running_hub(make_log: AdapterFactory | None = None, **arguments: Any) -> Generator[RunningHub]:
    """A hub for one test; in front of a log in memory unless another is given."""
    hub = RunningHub(make_log or MemoryRemoteWithSnapshots().adapter, **arguments)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
